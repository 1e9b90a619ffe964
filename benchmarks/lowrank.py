"""Factored weights: exact where they must be, what training recovers, memory and time of a step.

    python benchmarks/lowrank.py --quick
    python benchmarks/lowrank.py --check

Parts, on one thread:

    exactness    every unfolding against `nn.Conv2d`, every prefix against the layer cut to it, and
                 every method, after some steps, against the dense model that it merges into
    methods      what SLTrain saves and its gradients; W under SwitchLoRA's exchanges and under
                 SST's draws and SVDs
    recovery     Maestro's theorems and its notebook (`maestro_recovery.py`)
    memory       the published table of parameters and bytes, from the shapes of five LLaMAs
    steps        time of a training step over the dense one (`lowrank_speed.py`)
    processes    two processes under DDP for 50 steps; not with --quick

Errors are the largest of an entry. They are absolute where numbers have size 1, and "relative" is
to the largest entry of what is compared. Compression and pretraining, which are experiments, have
scripts of their own.
"""

import copy
import itertools
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from archzoo.layers.lowrank import (
    SCHEMES,
    SST,
    FactoredConv2d,
    FactoredLinear,
    Factors,
    LowRank,
    Maestro,
    Method,
    ReLoRA,
    Scheme,
    SLTrain,
    SparseFactors,
    Spectral,
    StepAdamW,
    SwitchLoRA,
    Unfolding,
    memory_report,
    merge,
    reparametrize,
    structures,
)
from archzoo.layers.lowrank.methods.sst import draw_order
from archzoo.layers.lowrank.weights.enhanced_gradient import in_order
from archzoo.layers.saved_bytes import saved_bytes
from archzoo.train.engine.process import disconnect
from archzoo.zoo.axes.lowrank import methods as registry
from harness import Bar, Measurement, main
from lowrank_speed import measure_maestro, measure_memory, measure_sltrain
from maestro_recovery import largest, normals, recovery
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

EXACT = 1e-12  # in float64, some thousand roundings of numbers of size 1
STEPS = 50

# Settings under which everything happens within some steps of a tiny network.
OFTEN: dict[str, dict[str, Any]] = {
    "low_rank": {"refactorize_every": 3},
    "maestro": {"group_lasso": 0.3, "sampler": "independent", "shrink_every": 5},
    "trp": {"period": 3, "energy": 0.1, "nuclear": 1e-3, "min_kernel": 1},
    "relora": {"merge_every": 3, "rewarm": 1},
    "sst": {"resample_every": 3, "iterations": 2, "rewarm": 1},
    "switchlora": {"interval": 4.0, "decay_share": 10.0, "freeze": 2, "total_steps": STEPS},
}


def exactness(quick: bool) -> Iterator[Bar]:
    """Yield errors of unfoldings, prefixes and merged models."""
    modes = ("zeros",) if quick else ("zeros", "reflect", "replicate", "circular")
    for scheme in SCHEMES:
        count, error, merged = 0, 0.0, 0.0
        for conv in convolutions(modes):
            layer, x = factored(conv, scheme), normals(2, conv.in_channels, 9, 8, seed=2)
            expected = conv(x)
            error = max(error, largest([layer(x) - expected]))
            merged = max(merged, largest([layer.to_dense()(x) - expected]))
            count += 1
        yield Bar(f"error of {scheme} at full rank, {count} convolutions", error, EXACT)
        yield Bar(f"the same, made dense again, {scheme}", merged, EXACT)
    for scheme in (*SCHEMES, "linear"):
        yield Bar(f"error of any prefix beside the layer cut to it, {scheme}", prefixes(scheme), 0)
    for name in registry.names():
        if name not in ("full", "fixed_ranks"):  # no methods, but comparators
            yield from merging(name)


def convolutions(modes: tuple[str, ...]) -> Iterator[nn.Conv2d]:
    """Yield kernels x strides x paddings x dilations x groups x modes that fit 9x8 pixels."""
    torch.manual_seed(0)
    sides = ((3, 3), (1, 1), (3, 2), (1, 4))
    strides, paddings, dilations = (1, 2, (1, 2), (3, 1)), (0, 1, (2, 1)), (1, 2, (1, 2))
    every = itertools.product(sides, strides, paddings, dilations, (1, 2), modes)
    for side, stride, padding, dilation, groups, mode in every:
        sizes = 3 * groups, 4, side, stride, padding, dilation, groups
        yield nn.Conv2d(*sizes, padding_mode=mode).double()  # type: ignore[arg-type]


def factored(conv: nn.Conv2d, scheme: Scheme) -> FactoredConv2d:
    """Return a convolution as factors of full rank."""
    unfolding = Unfolding(scheme, tuple(conv.weight.shape), conv.groups)  # type: ignore[arg-type]
    matrix = unfolding.to_matrix(conv.weight.detach())
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return FactoredConv2d.from_dense(conv, Factors(left * values[..., None, :], right), scheme)


def prefixes(scheme: Scheme | str) -> float:
    """Compare outputs and gradients at every active and every sampled prefix with a cut copy's."""
    torch.manual_seed(0)
    whole: FactoredConv2d | FactoredLinear
    if scheme == "linear":
        whole = FactoredLinear(Factors(normals(6, 5, seed=0), normals(5, 5, seed=1)))
        x = normals(4, 5, seed=2)
    else:
        conv = nn.Conv2d(6, 4, 3, 2, 1, groups=2, dtype=torch.float64)
        whole, x = factored(conv, scheme), normals(2, 6, 7, 6, seed=2)  # type: ignore[arg-type]
    full, error = structure_of(whole).rank, 0.0
    for rank in range(full + 1):
        cut, active, sampled = (copy.deepcopy(whole).train() for _ in range(3))
        structure_of(cut).truncate(rank)
        structure_of(active).rank = rank
        structure_of(sampled).sampled = rank
        results = []
        for layer in (cut, active, sampled):
            y, own = layer(x), structure_of(layer)
            y.square().sum().backward()
            assert own.left.grad is not None and own.right.grad is not None
            beyond = own.left.grad[..., rank:], own.right.grad[..., rank:, :]
            kept = own.left.grad[..., :rank], own.right.grad[..., :rank, :]
            results.append((y, *kept))
            error = max([error, *(largest([g]) for g in beyond if g.numel())])
        for other in results[1:]:
            pairs = zip(other, results[0], strict=True)
            error = max(error, max(largest([a - b]) for a, b in pairs if a.numel()))
    return error


def structure_of(layer: FactoredConv2d | FactoredLinear) -> Factors:
    """Return the factors of a layer."""
    assert isinstance(layer.structure, Factors)
    return layer.structure


def merging(name: str) -> Iterator[Bar]:
    """Yield the error of a trained model beside the dense one that it merges into."""
    settings = OFTEN.get(name, {}) | ({"activation": None} if name == "lost" else {})
    model = network()
    controller = reparametrize(model, registry[name].build(**settings), ["0", "3"])
    optimizer = StepAdamW(model.parameters(), lr=0.01)
    controller.attach(optimizer)
    for step in range(8):
        take_step(model, optimizer, images(step), controller.penalty)
    x = images(100)
    before = model.eval()(x)
    found = [structure for _, _, structure in structures(model)]
    if found and all(structure.is_matrix for structure in found):  # TRP's weights are dense
        merge(model)
        yield Bar(f"error of the merged model, {name}", largest([model(x) - before]), EXACT)


def network() -> nn.Sequential:
    """Return a convolution, a linear layer and a head, in float64."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 9, 12), nn.Tanh(),
        nn.Linear(12, 3),
    ).double()  # fmt: skip


def images(step: int) -> Tensor:
    """Return a batch that follows from the step."""
    return normals(8, 2, 3, 3, seed=step)


def take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    penalty: Callable[[], Tensor | None],
) -> None:
    """Take one step towards outputs that follow from the inputs."""
    optimizer.zero_grad()
    loss, added = (model(x) - x.flatten(1)[:, :3]).square().mean(), penalty()
    (loss if added is None else loss + added).backward()
    optimizer.step()


def methods(quick: bool) -> Iterator[Bar]:
    """Yield what SLTrain, SwitchLoRA and SST promise."""
    yield from sltrain()
    yield from switchlora()
    yield from sst()


def sltrain() -> Iterator[Bar]:
    """Yield errors of gradients beside plain autograd's, and what is saved beyond the formula.

    A layer of the second width takes so few rows without forming its matrix.
    """
    for rows, columns, rank, batch in ((64, 96, 8, 64), (512, 512, 128, 256)):
        shape = f"{rows}x{columns}"
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(columns, rows))  # indices have the 4 bytes of a float32
        reparametrize(model, SLTrain(rank=rank, scale=0.3), ["0"])
        x = torch.randn(batch, columns, requires_grad=True)
        expected_count = x.numel() + rank * (rows + columns) + 2 * int(0.03 * rows * columns)
        saved = saved_bytes(lambda m=model, x=x: m(x)) // 4
        what = f"SLTrain: saved elements less x + left + right + 2 nnz, {shape}"
        yield Bar(what, abs(saved - expected_count), 0)
        for name, error in gradient_errors(model.double(), batch).items():
            yield Bar(f"SLTrain: relative error of the gradient of {name}, {shape}", error, EXACT)


def gradient_errors(model: nn.Sequential, batch: int) -> dict[str, float]:
    """Return errors of all gradients of a layer of SLTrain, by what they are of."""
    layer = model[0]
    assert isinstance(layer, FactoredLinear)
    structure, (rows, columns) = layer.structure, layer.weight.shape
    assert isinstance(structure, SparseFactors)
    with torch.no_grad():
        structure.left.normal_()
    x = normals(batch, columns, seed=0).requires_grad_()
    index, values = structure.sparse.index, structure.sparse.values
    product = structure.scale * (structure.left @ structure.right)
    weight = product.flatten().index_add(0, index, values.squeeze(-1)).view(rows, columns)
    expected = F.linear(x, weight, layer.bias)
    y, cotangent = model(x), normals(batch, rows, seed=1)
    trained = {"x": x, "left": structure.left, "right": structure.right, "values": values,
               "bias": layer.bias}  # fmt: skip
    found = torch.autograd.grad(y, list(trained.values()), cotangent)
    true = torch.autograd.grad(expected, list(trained.values()), cotangent)
    return {
        name: largest([mine - theirs]) / largest([theirs])
        for name, mine, theirs in zip(trained, found, true, strict=True)
    }


def switchlora() -> Iterator[Bar]:
    """Exchange vectors at a learning rate of zero, in a matrix and in the groups of a kernel."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 32), nn.Conv2d(8, 16, 3, groups=2)).double()
    steps = 150
    method = SwitchLoRA(rank=4, interval=4.0, decay_share=10.0, freeze=2, total_steps=steps)
    controller = reparametrize(model, method, ["0", "1"])
    optimizer = StepAdamW(model.parameters(), lr=0.0)
    controller.attach(optimizer)
    kinds = controller.factors()
    before = {name: s.dense().detach() for name, s in kinds.items()}
    switches = dict.fromkeys(kinds, 0)
    for _ in range(steps):
        chosen = {name: selected(s) for name, s in kinds.items()}
        for p in model.parameters():
            p.grad = torch.ones_like(p) if p.requires_grad else None
        optimizer.step()
        for name, s in kinds.items():
            switches[name] += int((selected(s) != chosen[name]).sum())
    least = min(switches.values())
    yield Bar("SwitchLoRA: vectors exchanged in a weight, at least", least, 200, at_most=False)
    error = largest([s.dense() - before[name] for name, s in kinds.items()])
    yield Bar("SwitchLoRA: change of the weight by all of them", error, EXACT)


def selected(structure: Factors) -> Tensor:
    """Return the places in their pools of all live vectors of SwitchLoRA."""
    return torch.cat([structure.get_buffer(f"selected_{side}") for side in ("left", "right")])


def sst() -> Iterator[Bar]:
    """Yield what training does to pairs that wait, and what draws and SVDs do to W."""
    model = network()
    controller = reparametrize(model, SST(rank=3, resample_every=4, iterations=100), ["0", "3"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    controller.attach(optimizer)
    spectral = [s for _, s in controller.structures() if isinstance(s, Spectral)]
    differing, compared = 0, 0
    for step in range(24):
        before = [(vectors(s), s.order[s.rank :].clone()) for s in spectral]
        take_step(model, optimizer, images(step), controller.penalty)
        for structure, (old, waited) in zip(spectral, before, strict=True):
            for now, then, dim in zip(vectors(structure), old, (-1, -2), strict=True):
                same = now.index_select(dim, waited) == then.index_select(dim, waited)
                differing, compared = differing + int((~same).sum()), compared + same.numel()
    what = f"SST: numbers of undrawn pairs that differ after a step, of {compared}"
    yield Bar(what, differing, 0)
    weights = [s.dense().detach() for s in spectral]
    changed, generator = 0, torch.Generator().manual_seed(0)
    for structure, weight in zip(spectral, weights, strict=True):
        for _ in range(20):
            structure.choose(draw_order(structure.sigma, structure.rank, generator))
            changed += int((structure.dense() != weight).sum())
    yield Bar("SST: entries of W that 20 draws change", changed, 0)
    error = 0.0
    for structure, weight in zip(spectral, weights, strict=True):
        structure.rebase(*structure.decompose())
        error = max(error, largest([structure.dense() - weight]))
    yield Bar("SST: change of W by decomposing it again", error, EXACT)


def vectors(structure: Spectral) -> tuple[Tensor, Tensor]:
    """Return all singular vectors in the order of the values."""
    sides = (structure.left, structure.waiting_left), (structure.right, structure.waiting_right)
    left, right = (
        in_order(active.detach(), waiting, structure.order, dim)
        for (active, waiting), dim in zip(sides, (-1, -2), strict=True)
    )
    return left, right


# hidden, ffn, layers, rank, density, and as published, with the digits that are printed: millions
# of parameters and 1e9 bytes of full rank, of low rank and of SLTrain, and bytes of GaLore, where
# two tables differ for 350M. Source: Han et al. 2024, "SLTrain", arXiv:2406.02214, whose other
# columns follow Zhao et al. 2024, "GaLore", arXiv:2403.03507.
PUBLISHED = {
    "60M": ((512, 1376, 8), 128, 0.03, ("58.1", "0.35"), ("42.8", "0.26"), ("43.5", "0.27"),
            ("0.28", "0.28")),
    "130M": ((768, 2048, 12), 256, 0.03, ("134.1", "0.80"), ("94.0", "0.56"), ("96.5", "0.60"),
             ("0.61", "0.61")),
    "350M": ((1024, 2736, 24), 256, 0.03, ("368.0", "2.21"), ("185.2", "1.11"), ("194.3", "1.24"),
             ("1.39", "1.60")),
    "1B": ((2048, 5461, 24), 512, 0.03, ("1339", "8.03"), ("609", "3.66"), ("646", "4.16"),
           ("4.76", "4.76")),
    "7B": ((4096, 11008, 32), 1024, 0.05, ("6738", "40.4"), ("2821", "16.9"), ("3145", "21.5"),
           ("22.9", "22.9")),
}  # fmt: skip
LITERATURE: dict[str, Any] = {"weight_bytes": 2, "moment_bytes": 2, "index_bytes": 8}


def memory(quick: bool) -> Iterator[Bar]:
    """Yield how far `memory_report` is off the shapes and off what is printed."""
    counted, relative = 0, 0.0
    units: dict[str, float] = dict.fromkeys(("parameters", "bytes"), 0.0)
    for size, (shape, rank, density, full, low, sparse, galore) in PUBLISHED.items():
        if quick and size not in ("60M", "130M"):
            continue
        model, names = llama(*shape)
        hidden, ffn, layers = shape
        dense = {"full": memory_report(model, **LITERATURE)}
        projected = memory_report(
            model, projected_rank=rank, projected=[f"{n}.weight" for n in names], **LITERATURE
        )
        least, most = (float(each) for each in galore)
        bytes_ = projected.estimate / 1e9
        gap = max(least - bytes_, bytes_ - most, 0.0)
        units["bytes"] = max(units["bytes"], gap / last_digit(galore[0]))
        relative = max(relative, gap / least)
        kinds: dict[str, Method] = {
            "low": LowRank(rank=rank, init="zero"),
            "sltrain": SLTrain(rank=rank, density=density),
        }
        for kind, method in kinds.items():
            model, names = llama(*shape)
            reparametrize(model, method, names)
            dense[kind] = memory_report(model, **LITERATURE)
        sides = [(hidden, hidden)] * 4 + [(hidden, ffn)] * 3
        outside = 2 * 32_000 * hidden + (2 * layers + 1) * hidden
        factors = sum(rank * (m + n) for m, n in sides)
        within = {
            "full": sum(m * n for m, n in sides),
            "low": factors,
            "sltrain": factors + sum(int(density * m * n) for m, n in sides),
        }
        for (kind, report), printed in zip(dense.items(), (full, low, sparse), strict=True):
            counted += abs(report.parameters - (outside + layers * within[kind]))
            millions = abs(report.parameters / 1e6 - float(printed[0]))
            billions = abs(report.estimate / 1e9 - float(printed[1]))
            units["parameters"] = max(units["parameters"], millions / last_digit(printed[0]))
            units["bytes"] = max(units["bytes"], billions / last_digit(printed[1]))
            relative = max(relative, billions / float(printed[1]))
    yield Bar("parameters of all sizes and methods off their shapes", counted, 0)
    for what, off in units.items():
        # Half a unit is what rounding to the printed digits may take away.
        yield Bar(f"{what} off the published table, in units of its last digit", off, 0.5)
    yield Bar("the same bytes, relative (0.26 is printed to 1.9 %)", relative, 0.02)


def last_digit(printed: str) -> float:
    """Return one unit of the last printed digit."""
    return 10.0 ** -len(printed.partition(".")[2])


def llama(hidden: int, ffn: int, layers: int) -> tuple[nn.Module, list[str]]:
    """Return the parameters of a LLaMA without memory for them, and the names of its matrices."""
    shapes = {name: (hidden, hidden) for name in "qkvo"}
    shapes |= {"gate": (hidden, ffn), "up": (hidden, ffn), "down": (ffn, hidden)}
    with torch.device("meta"):
        model = nn.ModuleDict({
            "embedding": nn.Embedding(32_000, hidden), "norm": nn.RMSNorm(hidden),
            "lm_head": nn.Linear(hidden, 32_000, bias=False),
        })  # fmt: skip
        for block in range(layers):
            for name, shape in shapes.items():
                model[f"{block} {name}"] = nn.Linear(*shape, bias=False)
            model[f"{block} norms"] = nn.ModuleList([nn.RMSNorm(hidden) for _ in range(2)])
    return model, [f"{block} {name}" for block in range(layers) for name in shapes]


DDP: dict[str, Method] = {
    "Maestro": Maestro(**OFTEN["maestro"]),
    "SLTrain": SLTrain(rank=3, density=0.1),
    "ReLoRA": ReLoRA(rank=3, **OFTEN["relora"]),
    "SST": SST(rank=3, **OFTEN["sst"]),
    "SwitchLoRA": SwitchLoRA(rank=3, **OFTEN["switchlora"]),
}


def processes(quick: bool) -> Iterator[Bar]:
    """Yield what differs between two processes under DDP, and from one with the whole batch."""
    if quick:
        return
    with tempfile.TemporaryDirectory() as place:
        multiprocessing.spawn(work, (place,), nprocs=2)
        first, second = (torch.load(f"{place}/{rank}.pt", weights_only=True) for rank in range(2))
    draws = sum(first[name][1] != second[name][1] for name in DDP)
    yield Bar("DDP: methods whose draws differ between two processes", draws, 0)
    for name, method in DDP.items():
        mine, theirs = first[name][0], second[name][0]
        differing = sum(int((mine[key] != theirs[key]).sum()) for key in mine)
        what = f"DDP: numbers that differ between processes after {STEPS} steps, {name}"
        yield Bar(what, differing, 0)
        if name == "Maestro":
            alone = train(method)[0]
            error = largest([mine[key] - alone[key] for key in mine])
            yield Bar("DDP: weights less those of one process, Maestro", error, 1e-9)


def work(rank: int, place: str) -> None:
    """Train under every method beside another process."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{place}/store", rank=rank, world_size=2)
    torch.save({name: train(m, rank) for name, m in DDP.items()}, f"{place}/{rank}.pt")
    disconnect()


def train(method: Method, rank: int | None = None) -> tuple[dict[str, Tensor], list[str]]:
    """Take 50 steps, on one half of every batch where there are two processes.

    Returns:
        The model's state, and what was drawn or chosen in every step.
    """
    model = network()
    controller = reparametrize(model, method, ["0", "3"])
    wrapped = model if rank is None else DistributedDataParallel(model)
    optimizer = StepAdamW(model.parameters(), lr=0.01)
    controller.attach(optimizer)
    drawn, resized = [], controller.resized
    for step in range(STEPS):
        if controller.resized != resized and rank is not None:
            wrapped, resized = DistributedDataParallel(model), controller.resized
        x = images(step)
        take_step(wrapped, optimizer, x if rank is None else x[rank::2], controller.penalty)
        chosen = [b.tolist() for b in model.buffers() if not b.is_floating_point()]
        drawn.append(repr((controller.state.get("drawn"), chosen)))
    return {key: value.double() for key, value in model.state_dict().items()}, drawn


PARTS = (exactness, methods, recovery, memory, processes)


def measure(quick: bool) -> Measurement:
    """Run every part."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for part in PARTS:
        for bar in part(quick):
            bars.append(bar)
            limit = f"{'<=' if bar.at_most else '>='} {bar.limit:g}"
            rows.append(
                {"part": part.__name__, "case": bar.what, "figure": bar.figure, "bar": limit}
            )
    for speed in (measure_maestro, measure_sltrain, measure_memory):
        found, judged, *_ = speed(quick)
        rows, bars = rows + found, bars + judged
    return rows, bars


if __name__ == "__main__":
    main("lowrank", measure)
