"""The sections of `gpu.py` that measure: step time, peak memory and tokens/s of every axis.

Models run in bfloat16 by autocast. A figure is the median over steps, with a ratio to the plain
model of the same backbone, which is measured first and, among the residuals, once more at the end.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from archzoo.zoo import create_model, list_models, model_info, residuals
from archzoo.zoo.axes.lowrank import methods
from archzoo.zoo.network import image_sides
from gpu_session import Session
from torch import Tensor
from torch.nn import functional as F

SIZES = {"vit": ("vit_small", "vit_nano"), "gpt": ("gpt_124m", "gpt_nano")}
"""Of each backbone, the model at full size and the smallest."""

Options = dict[str, Any]
REPETITIONS = (10, 2)
COMPILED: Sequence[str] = ("add", "block_attnres", "attnres", "delta", "hyper_connections", "mhc")


def backbone(session: Session, name: str) -> str:
    """The model that stands for a backbone."""
    return SIZES[name][session.quick]


def batch(session: Session, name: str) -> tuple[Tensor, Tensor]:
    """Inputs and targets: 64 images, or 8 texts of the whole context; two of each when quick."""
    entry, device = model_info(name), session.device
    default = {key: option.default for key, option in entry.options.items()}
    if entry.kind == "tokens":
        length = 16 if session.quick else default["context_length"]
        shape = (2 if session.quick else 8, length)
        tokens = torch.randint(default["vocab_size"], shape, device=device)
        return tokens, tokens.roll(-1, 1)
    count = 2 if session.quick else 64
    targets = torch.randint(default["num_classes"], (count,), device=device)
    if entry.kind == "features":
        return torch.randn(count, default["in_features"], device=device), targets
    shape = (count, default["in_chans"], *image_sides(default["img_size"]))
    return torch.randn(shape, device=device), targets


def measured(session: Session, name: str, options: Options, **how: bool) -> dict[str, float]:
    """Step time, peak memory and samples or tokens per second of a model.

    Args:
        session: Where.
        name: Of the model.
        options: Its keywords.
        how: `recomputed`, `compiled`.
    """
    device = session.device
    cuda = device.type == "cuda"
    with device:
        torch.manual_seed(0)
        model: Any = create_model(name, **options)
    model.to(device).train()
    inputs, targets = batch(session, name)
    if how.get("recomputed"):
        model.set_grad_checkpointing()
    if how.get("compiled"):
        torch._dynamo.reset()
        model.compile_blocks(backend="inductor" if cuda else "aot_eager")

    def step() -> float:
        model.zero_grad(set_to_none=True)
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(inputs)
        F.cross_entropy(logits.float().flatten(0, -2), targets.flatten()).backward()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    found: dict[str, float] = {"first step, s": step()}
    step()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(step() for _ in range(REPETITIONS[session.quick]))
    found |= {"step, ms": 1e3 * seconds, "parameters": sum(p.numel() for p in model.parameters())}
    if cuda:
        found["peak, MiB"] = torch.cuda.max_memory_allocated() / 2**20
    unit = "tokens/s" if model_info(name).kind == "tokens" else "samples/s"
    return found | {unit: targets.numel() / seconds}


Case = tuple[str, str, Options, dict[str, bool]]
"""What a row is called, the model, its keywords and how it runs."""


def compare(session: Session, cases: Iterable[Case]) -> None:
    """Measure cases; ratios are to the first of the same model group, until the time is over."""
    first: dict[str, float] | None = None
    for told, name, options, how in cases:

        def once(told: str = told, name: str = name, options: Options = options,
                 how: dict[str, bool] = how) -> str | None:  # fmt: skip
            nonlocal first
            try:
                found = measured(session, name, options, **how)
            except ValueError as error:  # a combination that the library refuses by name
                session.row(case=told, model=name, refused=str(error).splitlines()[0])
                return f"refused: {error}"
            first = first or found
            ratios = {"of the first": found["step, ms"] / first["step, ms"]}
            if "peak, MiB" in found:
                ratios["memory of the first"] = found["peak, MiB"] / first["peak, MiB"]
            session.row(case=told, model=name, **found, **ratios)
            return None

        session.check(f"{told}, {name}", once)


def residual_costs(which: str) -> Callable[[Session], None]:
    """Every residual over a backbone, eager."""

    def work(session: Session) -> None:
        name = backbone(session, which)
        others = [r for r in residuals.names() if r != "add"]
        compare(session, [(r, name, {"residual": r}, {}) for r in ["add", *others, "add"]])

    return work


def compiled_costs(session: Session) -> None:
    """Some residuals with compiled blocks."""
    for which in SIZES:
        name = backbone(session, which)
        cases = [(f"{r}, compiled blocks", name, {"residual": r}, {"compiled": True})
                 for r in COMPILED]  # fmt: skip
        compare(session, [("add", name, {}, {}), *cases])


def weight_costs(session: Session) -> None:
    """Every weight structure in the place of dense weights."""
    for which in SIZES:
        name = backbone(session, which)
        compare(
            session,
            [("dense", name, {}, {}), *((m, name, {"lowrank": m}, {}) for m in methods.names())],
        )


def geometry_costs(session: Session) -> None:
    """Networks of the ball and networks with a constant, beside plain ones of the same size."""
    size = "nano" if session.quick else "tiny"
    flat = "resnet_nano" if session.quick else "euclidean_resnet_tiny"
    families: list[list[Case]] = [
        [("plain", f"mlp_{size}", {}, {})]
        + [("its own", name, {}, {}) for name in list_models(f"*_mlp_{size}")],
        [("plain", flat, {}, {})]
        + [
            ("its own", name, {}, {})
            for name in list_models(f"*_resnet_{size}")
            if name != flat and not name.startswith("euclidean")
        ],
        [
            ("plain head", backbone(session, "vit"), {}, {}),
            ("hyperbolic head", backbone(session, "vit"), {"classifier": "hyperbolic"}, {}),
        ],
    ]
    for cases in families:
        compare(session, cases)


def recomputation_costs(session: Session) -> None:
    """Gradient checkpointing under a few residuals."""
    for which in SIZES:
        name = backbone(session, which)
        for r in ("add", "attnres", "block_attnres", "delta_cc", "hyper_connections"):
            options = {"residual": r}
            recomputed = (f"{r}, recomputed", name, options, {"recomputed": True})
            compare(session, [(r, name, options, {}), recomputed])


def decoding_costs(session: Session) -> None:
    """Tokens per second of one text with the cache, over the plain residual and over AttnRes."""
    for r in ("add", "block_attnres"):

        def once(r: str = r) -> None:
            name = backbone(session, "gpt")
            with session.device:
                model: Any = create_model(name, residual=r).eval()
            model = model.to(session.device, torch.bfloat16)
            prompt = batch(session, name)[0][:1, :8]
            count = 8 if session.quick else 128
            model.generate(prompt, 4, temperature=0.0)
            started = time.perf_counter()
            model.generate(prompt, count, temperature=0.0)
            if session.device.type == "cuda":
                torch.cuda.synchronize()
            speed = count / (time.perf_counter() - started)
            session.row(case=f"{r}, decoding", model=name, **{"tokens/s": speed})

        session.check(f"{r}, tokens/s", once)


def cost_sections() -> dict[str, tuple[float, Callable[[Session], None]]]:
    """Seconds and work of each section."""
    return {
        "residuals, vit": (45.0, residual_costs("vit")),
        "residuals, gpt": (60.0, residual_costs("gpt")),
        "weights": (50.0, weight_costs),
        "geometry": (25.0, geometry_costs),
        "recomputation": (30.0, recomputation_costs),
        "decoding speed": (15.0, decoding_costs),
        "compiled costs": (70.0, compiled_costs),
    }
