"""How far our adapters are from those of peft with the same numbers, in float64.

A file that one library wrote is read by the other, beside the same weights. The figure of a case is
that of `parity.py`: the largest difference of any entry over the largest entry of the same tensor,
over the outputs, and at worst over the gradients of the input and of what both train. The bar is
1e-12, some thousand roundings; of a round trip no bit may differ.

Of LoftQ both sides do five alternations with their own quantiser and decomposition; peft's tables
of levels are in float32, so its bar is 1e-6. Before version 0.20 peft has a quantiser of its own.

peft comes with `pip install -e ".[peers]"`; what cannot be imported is a row that says "not
installed" and no bar.
"""

import copy
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from archzoo.layers.lowrank.adapters.lora_xs import mean_gradients
from archzoo.layers.lowrank.adapters.lq_lora import quantised_plus_low_rank
from archzoo.layers.lowrank.weights.quantised import BlockFormat, Quantised
from archzoo.zoo import adapt, load_peft, save_peft
from archzoo.zoo.axes.adapters import adapter_info
from harness import Bar, Measurement, main
from torch import Tensor, nn

LINEAR, BOTH = ("3", "5"), ("0", "3")
KINDS = {
    "LoRA": ("lora", {}),
    "rsLoRA": ("rslora", {}),
    "DoRA": ("dora", {}),
    "MiSS": ("miss", {}),
    "LoRA, ranks and scales by weight": ("lora", {"ranks": {"5": 2}, "alphas": {"5": 3.0}}),
    "DoRA, ranks and scales by weight": ("dora", {"ranks": {"5": 2}, "alphas": {"5": 3.0}}),
}
"""What both libraries have: outputs and gradients are compared."""

PRODUCTS = ("ffa_lora", "svfit", "lora_xs", "lora_sb", "slora", "codyra", "dylora", "increlora",
            "flexora")  # fmt: skip
"""What peft knows as the LoRA that it amounts to: outputs are compared."""


def network(seed: int) -> nn.Sequential:
    """A convolution and two linear layers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 12), nn.Tanh(), nn.Linear(12, 9)
    ).double()  # fmt: skip


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    """Draw from N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def with_noise(model: nn.Module, seed: int) -> None:
    """Move all that is trained away from its start."""
    with torch.no_grad():
        for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter += 0.1 * normal(tuple(parameter.shape), 1000 * seed + number)


def apart(one: Tensor, two: Tensor) -> float:
    """Return the largest difference over the largest entry."""
    return ((one - two).abs().max() / two.abs().max()).item()


def adapted(name: str, targets: tuple[str, ...], settings: Mapping[str, Any], seed: int) -> Any:
    """Return our model, with noise, and its controller."""
    model = network(seed)
    options = adapter_info(name).options
    given = {k: v for k, v in {"rank": 4, "alpha": 6.0}.items() if k in options}
    batches = [normal((5, 2, 4, 4), seed + 50)]
    reads = "gradients" in options
    statistics = mean_gradients(batches, lambda net, x: net(x).square().sum()) if reads else None
    controller = adapt(model, name, list(targets), statistics=statistics, **given, **settings)
    with_noise(model, seed)
    return model, controller


def compared(
    peft: Any, name: str, targets: tuple[str, ...], settings: Mapping[str, Any], seed: int
) -> tuple[float, float]:
    """Return how far outputs and gradients are apart, of our file in both libraries."""
    model, controller = adapted(name, targets, settings, seed)
    with tempfile.TemporaryDirectory() as folder:
        save_peft(controller, folder)
        theirs = peft.PeftModel.from_pretrained(network(seed), folder, is_trainable=True).double()
    x = normal((7, 2, 4, 4), seed + 100)
    along = normal((7, 9), seed + 200)
    found = []
    for net, part in ((model.eval(), ours_of(controller)), (theirs.eval(), theirs_of(theirs))):
        inputs = x.clone().requires_grad_()
        y = net(inputs)
        gradients = torch.autograd.grad(y, [inputs, *part.values()], along, allow_unused=True)
        found.append((y.detach(), dict(zip(["x", *part], gradients, strict=True))))
    (y, one), (other, two) = found
    shared = [key for key in one if key == "x" or name in ("lora", "rslora", "dora", "miss")]
    gradients = [
        apart(one[key].mT if "miss" in key else one[key].reshape(two[key].shape), two[key])
        for key in shared
    ]
    return apart(y, other), max(gradients)


def ours_of(controller: Any) -> dict[str, Tensor]:
    """Our trained parameters under the names that peft's have."""
    found = {}
    for name, structure in controller.structures():
        if hasattr(structure, "right"):
            pairs = {"lora_A": structure.right, "lora_B": structure.left}
            if hasattr(structure, "magnitude"):
                pairs["lora_magnitude_vector"] = structure.magnitude
            found |= {f"{name}.{part}": p for part, p in pairs.items() if p.requires_grad}
        else:
            found[f"{name}.miss"] = structure.left
    return found


def theirs_of(model: nn.Module) -> dict[str, Tensor]:
    """What peft trains."""
    found = {}
    for name, parameter in model.named_parameters():
        if "lora_" in name and parameter.requires_grad:
            layer, _, part = name.removeprefix("base_model.model.").partition(".lora_")
            found[f"{layer}.lora_{part.partition('.')[0]}"] = parameter
        elif "miss_" in name and parameter.requires_grad:
            layer, _, _ = name.removeprefix("base_model.model.").partition(".miss_")
            found[f"{layer}.miss"] = parameter
    return found


def changed_bits(peft: Any, config: Any, seed: int) -> float:
    """Return how many tensors differ after peft's file was read and written by ours."""
    from safetensors.torch import load_file

    theirs = peft.get_peft_model(network(seed), config).double()
    with_noise(theirs, seed)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = network(seed)
        save_peft(load_peft(ours, folder), Path(folder) / "ours")
        one, two = (
            load_file(str(Path(folder) / where / "adapter_model.safetensors"))
            for where in (".", "ours")
        )
    x = normal((7, 2, 4, 4), seed + 100)
    assert apart(ours(x), theirs.eval()(x)) < 1e-12
    return float(len(one.keys() ^ two.keys())) + sum(
        not torch.equal(tensor, two[key]) for key, tensor in one.items()
    )


def randlora(peft: Any, seed: int) -> tuple[float, float]:
    """Compare RandLoRA with peft's random matrices in the place of ours.

    Component (n, k) of ours is component k N + n of peft's, which reads its pairs across.
    """
    plain = network(seed)
    config = peft.RandLoraConfig(r=4, randlora_alpha=6, target_modules=["3"])
    theirs = peft.get_peft_model(copy.deepcopy(plain), config).double()
    layer = theirs.base_model.model[3]
    scales, gains = layer.randlora_lambda["default"], layer.randlora_gamma["default"]
    with torch.no_grad():
        for number, parameter in enumerate((scales, gains)):
            parameter.copy_(normal(tuple(parameter.shape), seed + number))
    controller = adapt(plain, "randlora", ["3"], rank=4, alpha=6.0)
    ((_, structure),) = controller.structures()
    terms = len(gains)
    across = [k * terms + n for n in range(terms) for k in range(4)]
    with torch.no_grad():
        structure.left = layer.randlora_B["default"].flatten(1)[:, across].double()
        structure.right = layer.randlora_A["default"][:, 0].double()
        structure.weights.copy_(scales.mT)
        structure.gains.copy_(gains)
    x, along = normal((7, 32), seed + 100), normal((7, 12), seed + 200)
    found = []
    for net, parts in ((plain[3], (structure.weights, structure.gains)), (layer, (scales, gains))):
        inputs = x.clone().requires_grad_()
        y = net(inputs)
        found.append([y.detach(), *torch.autograd.grad(y, [inputs, *parts], along)])
    (y, dx, dw, dg), (y2, dx2, dw2, dg2) = found
    return apart(y, y2), max(apart(dx, dx2), apart(dw, dw2.mT), apart(dg, dg2))


def loftq(seed: int) -> tuple[float, float]:
    """Compare five alternations, and the error of our own start with theirs.

    Returns:
        How far the starts are apart, and our error over theirs.
    """
    from peft.utils.loftq_utils import NFQuantizer, _low_rank_decomposition

    weight, rank, how = normal((96, 64), seed), 8, BlockFormat(4, 2, "fp32", 64, 1)
    quantizer = NFQuantizer(num_bits=4, device="cpu", method="normal", block_size=64)
    quantizer.norm_lookup_table = quantizer.norm_lookup_table.double()

    def theirs(rest: Tensor) -> Tensor:
        return quantizer.dequantize_block(*quantizer.quantize_block(rest))

    def product(rest: Tensor) -> Tensor:
        found = _low_rank_decomposition(rest, reduced_rank=rank)
        return found["L"] @ found["R"]

    def best(rest: Tensor) -> Tensor:
        left, values, right = torch.linalg.svd(rest, full_matrices=False)
        return (left[:, :rank] * values[:rank]) @ right[:rank]

    sides: list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
        (lambda rest: Quantised(rest, how).dense(), best),
        (theirs, product),
    ]
    starts = []
    for quantise, decompose in sides:
        change = torch.zeros_like(weight)
        for _ in range(5):
            base = quantise(weight - change)
            change = decompose(weight - base)
        starts.append(base + change)
    ours = quantised_plus_low_rank(weight, rank, how)
    return apart(*starts), ours.error / float((weight - starts[1]).norm())


def measure(quick: bool) -> Measurement:
    """Compare every case on one seed or on five."""
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []

    def add(what: str, run: Callable[[int], tuple[float, float]], limit: float = 1e-12) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what peft uses that is deprecated
                found = [run(seed) for seed in range(1 if quick else 5)]
        except ImportError as error:
            print(f"{what}: {error}")
            rows.append({"case": what, "outputs": "not installed", "gradients": "not installed"})
            return
        outputs, gradients = (max(column) for column in zip(*found, strict=True))
        rows.append({"case": what, "outputs": outputs, "gradients": gradients})
        bars.append(Bar(what, max(outputs, gradients), limit))

    def library() -> Any:
        import peft

        return peft

    for what, (name, settings) in KINDS.items():
        places = [LINEAR] if name == "miss" or settings else [LINEAR, BOTH]
        for targets in places:
            layers = "linear" if targets == LINEAR else "convolution"
            add(
                f"{what}, {layers}",
                lambda seed, n=name, t=targets, s=settings: compared(library(), n, t, s, seed),
            )
    for name in PRODUCTS:
        add(
            f"{name} as a LoRA",
            lambda seed, n=name: (compared(library(), n, LINEAR, {}, seed)[0], 0.0),
        )
    add("RandLoRA, the same random matrices", lambda seed: randlora(library(), seed))
    for what, given in {
        "LoRA": {},
        "DoRA": {"use_dora": True},
        "LoRA, patterns": {"rank_pattern": {"5": 2}, "alpha_pattern": {"[35]": 5}},
        "DoRA, patterns": {"use_dora": True, "rank_pattern": {"5": 2}, "alpha_pattern": {"3": 5}},
        "MiSS": None,
    }.items():

        def trip(seed: int, given: Any = given) -> tuple[float, float]:
            peft = library()
            modules = {"r": 4, "target_modules": list(LINEAR)}
            config = (
                peft.MissConfig(**modules)
                if given is None
                else peft.LoraConfig(**modules, lora_alpha=6, **given)
            )
            return changed_bits(peft, config, seed), 0.0

        add(f"{what}: tensors of peft that come back otherwise", trip, 0.0)
    add("LoftQ, five alternations", lambda seed: (loftq(seed)[0], 0.0), 1e-6)
    add("LoftQ: error of our start over that of peft's", lambda seed: (loftq(seed)[1], 0.0), 1.0)
    return rows, bars


if __name__ == "__main__":
    main("adapter_parity", measure)
