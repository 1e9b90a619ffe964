"""How far our rank thresholds and low-rank compensation are from the public code of their papers.

    ARCHZOO_PEERS=DIR python benchmarks/compress_parity.py --check        DIR holds both clones:

    git clone https://github.com/VITA-Group/welore
    git clone https://github.com/ModelCloud/GPTQModel

Of each the one file that holds the method is imported, and what cannot be is a row that says "not
installed" and no bar. WeLore: the ranks of `utils.adaptive_rank_pruning` at every threshold, and at
the one by which a budget of parameters is met. EoRA: the path of `gptqmodel/eora/eora.py`, once its
covariance is a mean. What the code adds up instead is C ← C · N / (N + b) + XᵀX / N, in which the
first batches count less than the last; how much that costs is told and is no bar. The public code
computes in float32, so the bar of its products is 1e-4.
"""

import importlib
import importlib.util
import logging
import types
from typing import Any

import torch
from archzoo.layers.lowrank import (
    RankCosts,
    allocate_ranks,
    break_even,
    compensate,
    normalised_spectrum,
)
from archzoo.layers.lowrank.maths.coarse_weights import two_of_four
from archzoo.layers.lowrank.maths.moments import InputMoments
from geometry_peers import clone, folders
from harness import Bar, Measurement, main
from torch import Tensor

SHAPES = ((24, 40), (64, 16), (33, 33))
ROWS, COLUMNS, BATCHES, LENGTH, RANK = 24, 32, 8, 40, 5


def draw(*shape: int, seed: int) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def published_ranks() -> Any:
    """`adaptive_rank_pruning` as a function of spectra and a threshold."""
    file = clone("welore") / "utils.py"
    spec = importlib.util.spec_from_file_location("welore_utils", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def ranks(spectra: dict[str, Tensor], cut: float) -> dict[str, int]:
        given = types.SimpleNamespace(rank_thresold=cut)
        pruned = module.adaptive_rank_pruning(given, None, [spectra], logging.getLogger("welore"))
        return {name: len(spectra[name]) - int(pruned[0][name]) for name in spectra}

    return ranks


def welore() -> tuple[list[dict[str, Any]], list[Bar]]:
    """Ranks at every threshold of three random matrices, and at that of a budget."""
    theirs = published_ranks()
    matrices = {str(i): draw(*shape, seed=i) for i, shape in enumerate(SHAPES)}
    spectra = {name: torch.linalg.svdvals(matrix) for name, matrix in matrices.items()}
    scaled = {name: normalised_spectrum(values) for name, values in spectra.items()}
    cuts = [i / 100 for i in range(1, 100)]
    different = 0
    for cut in cuts:
        mine = {name: int((values >= cut).sum()) for name, values in scaled.items()}
        different += mine != theirs(spectra, cut)
    costs = {
        name: RankCosts(spectra[name], m.numel() / break_even(tuple(m.shape)), m.numel())
        for name, m in matrices.items()
    }
    budget = 0.5 * sum(cost.dense_size for cost in costs.values())
    mine = allocate_ranks(costs, budget, "welore")
    # Between two neighbouring values of the spectra all thresholds give the same ranks.
    edges = sorted({float(v) for values in scaled.values() for v in values} | {1.0})
    middles = [(a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)]

    def spent(ranks: dict[str, int]) -> float:
        return sum(costs[name].size(costs[name].economic(rank)) for name, rank in ranks.items())

    published = (theirs(spectra, cut) for cut in middles)
    fitting = next(ranks for ranks in published if spent(ranks) <= budget)
    wrong = sum(mine[name] != costs[name].economic(rank) for name, rank in fitting.items())
    return [{"peer": "VITA-Group/welore", "what": f"{len(cuts)} thresholds, 3 matrices"}], [
        Bar("WeLore: thresholds with other ranks than the published code", different, 0),
        Bar("WeLore: ranks other than the published code's at half the parameters", wrong, 0),
    ]


def published_eora() -> Any:
    """The module of GPTQModel that computes a path."""
    logger: Any = types.ModuleType("gptqmodel.utils.logger")
    logger.setup_logger = lambda: logging.getLogger("eora")
    versions: Any = types.ModuleType("gptqmodel.utils.torch")
    versions.TORCH_GTE_210 = True
    top = clone("GPTQModel")
    given = {"gptqmodel__utils__logger": logger, "gptqmodel__utils__torch": versions}
    with folders(top, "gptqmodel", "gptqmodel.utils", "gptqmodel.eora", **given):
        importlib.import_module("gptqmodel.utils.rocm")
        return importlib.import_module("gptqmodel.eora.eora")


def eora() -> tuple[list[dict[str, Any]], list[Bar]]:
    """The path beside a matrix pruned 2:4, and what is left of the error of its outputs."""
    theirs = published_eora()
    weight = draw(ROWS, COLUMNS, seed=0)
    coarse = two_of_four(weight)
    mix = torch.eye(COLUMNS) + 0.5 * draw(COLUMNS, COLUMNS, seed=1) / COLUMNS**0.5
    # Batches grow, so that the order in which they are added up shows.
    batches = [(1 + i) * draw(LENGTH, COLUMNS, seed=2 + i) @ mix for i in range(BATCHES)]
    moments = InputMoments.empty((COLUMNS,), torch.device("cpu"))
    for batch in batches:
        moments.add(batch.mT)
    best = compensate(weight, coarse, moments, RANK, damping=0.0)
    mine = best.left @ best.right

    def path(covariance: Tensor) -> Tensor:
        delta = (weight - coarse).float()
        a, b = theirs.eora_compute_lora(
            delta, "layer", covariance, RANK, torch.float32, torch.device("cpu")
        )
        return (b @ a).double()

    def error(product: Tensor) -> float:
        left = weight - coarse - product
        return float((left @ moments.second_moment * left).sum())

    def summed(order: list[Tensor]) -> Tensor:
        total = torch.zeros(COLUMNS, COLUMNS)
        for batch in order:
            _, part, scale = theirs.eora_process_input(
                [batch.float()], "layer", BATCHES, torch.device("cpu")
            )
            total = total * scale + part
        return total

    parts = [
        theirs.eora_process_input([b.float()], "layer", BATCHES, torch.device("cpu"))[1]
        for b in batches
    ]
    mean = torch.stack(parts).sum(0)
    product = path(mean)
    gap = float((product - mine).abs().max() / mine.abs().max())
    orders = [path(summed(batches)), path(summed(batches[::-1]))]
    apart = float((orders[0] - orders[1]).abs().max() / mine.abs().max())
    told = {
        "largest entry apart, covariance a mean": gap,
        "as published: error over the least, batches growing": error(orders[0]) / error(mine),
        "as published: error over the least, batches falling": error(orders[1]) / error(mine),
        "as published: largest entry apart between both orders": apart,
    }
    rows = [{"peer": "ModelCloud/GPTQModel", "what": k, "figure": v} for k, v in told.items()]
    return rows, [
        Bar("EoRA: path unlike GPTQModel's of the mean covariance", gap, 1e-4),
        Bar("EoRA: error of outputs over GPTQModel's", error(mine) / error(product), 1 + 1e-6),
    ]


def measure(quick: bool) -> Measurement:
    """Both, as far as they can be imported; quick or not, it takes seconds."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for name, part in {"VITA-Group/welore": welore, "ModelCloud/GPTQModel": eora}.items():
        try:
            more, judged = part()
        except ImportError as error:
            rows.append({"peer": name, "what": f"not installed: {error}"})
            continue
        rows += more
        bars += judged
    return rows, bars


if __name__ == "__main__":
    main("compress_parity", measure)
