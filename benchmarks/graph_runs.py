"""Runs by the configs of `archzoo train`, in this process, each kept when it ends.

A run is what its overrides say, and a seed. What stands in the file is not run again, so that an
interrupted comparison goes on where it was. Folders of this machine are no part of what is kept.
"""

import contextlib
import functools
import io
import math
import statistics
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from archzoo.layers.graphs import fastrp, very_sparse_projection
from archzoo.train.config import run_config
from archzoo.train.data import Splits
from archzoo.train.engine.graph_metrics import GraphMetrics
from archzoo.train.run import run_to_end
from archzoo.train.schemas import register_schemas
from harness import RESULTS, UNTRACKED
from hydra import compose, initialize_config_module
from records import Records
from torch import Generator, Tensor, device, int64
from torch.nn import functional as F

__all__ = ["SPACES", "Runs", "Told", "cosines_of_fastrp", "degree_products", "ranked", "text"]

SPACES = {
    "flat, distance": ("model.decoder=distance",),
    "flat, inner product": ("model.decoder=inner_product",),
    "Poincaré": ("model.geometry=poincare", "model.curvature=1.0"),
    "Lorentz": ("model.geometry=lorentz", "model.curvature=1.0"),
}
"""The flat twin has both of its decoders: either alone would flatter the curved spaces."""

Told = tuple[str, ...]


class Runs:
    """Results of runs.

    Args:
        name: Of the file, `results/NAME_runs.jsonl`.
        quick: Whether nothing is to be kept.
        places: Overrides that name folders of this machine.
        looked: What else is to be kept of a run, seen in its folder before that is removed.
    """

    def __init__(
        self,
        name: str,
        quick: bool,
        *places: str,
        looked: Callable[[Path], Mapping[str, Any]] | None = None,
    ) -> None:
        """Read what has ended."""
        path = RESULTS / f"{name}_runs.jsonl"
        if quick:
            path = UNTRACKED / f"{name}-quick_runs.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
        self.records, self.places, self.looked = Records(path), places, looked

    def result(self, told: Sequence[str], seed: int) -> dict[str, dict[str, float]]:
        """Metrics of the validation and the test; `{seed}` within the overrides is the seed."""
        key = {"told": list(told), "seed": seed}
        return self.records.get(key, lambda: self._train(key["told"], seed))

    def best(self, told: Told, choices: Sequence[Told], metric: str, seeds: Sequence[int]) -> Told:
        """The choice with the best validation metric, in the mean over some seeds."""

        def score(more: Told) -> float:
            runs = [self.result((*told, *more), seed)["validation"] for seed in seeds]
            return statistics.mean(run[metric] for run in runs)

        return max(choices, key=score)

    def tested(
        self,
        told: Told,
        choices: Sequence[Told],
        metric: str,
        seeds: Sequence[int],
        *,
        choose_by: int = 1,
    ) -> tuple[list[float], Told]:
        """The test metric of each seed at the best choice of the first seeds, and that choice."""
        chosen = self.best(told, choices, metric, seeds[:choose_by])
        return [self.result((*told, *chosen), seed)["test"][metric] for seed in seeds], chosen

    def _train(self, told: Sequence[str], seed: int) -> dict[str, Any]:
        register()
        with tempfile.TemporaryDirectory() as place:
            overrides = [one.replace("{seed}", str(seed)) for one in told]
            overrides += [*self.places, f"seed={seed}", f"run_dir={place}/run", "logger=[csv]"]
            with initialize_config_module("archzoo.conf", version_base="1.3"):
                config = run_config(compose("train", overrides=overrides))
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                result = run_to_end(config).result
            more = {} if self.looked is None else self.looked(Path(place) / "run")
        print(*told, seed, {k: round(v, 4) for k, v in result["test"].items()}, flush=True)
        return {**{fold: result[fold] for fold in ("validation", "test")}, **more}


@functools.cache
def register() -> None:
    """Tell Hydra about all parts once."""
    warnings.filterwarnings("ignore", module="hydra")
    register_schemas()


def text(figures: Sequence[float]) -> str:
    """A mean with its standard deviation."""
    spread = statistics.stdev(figures) if len(figures) > 1 else math.nan
    return f"{statistics.mean(figures):.3f} ± {spread:.3f}"


def auc(splits: Splits, score: Callable[[Tensor, Tensor], Tensor]) -> float:
    """The AUC on the test fold of a score of pairs that nothing was trained for."""
    fold: Any = splits.test
    x, _ = fold.__getitems__([(0, i) for i in range(len(fold))])
    if x.dim() == 3:  # pairs, or a node and its candidates
        return ranked(score(x[..., 0], x[..., 1]))
    return ranked(score(x[:, :1], x[:, 1:]))


def ranked(scores: Tensor) -> float:
    """The AUC of scores (B, K) of which the first of each row is that of a true pair."""
    metrics = GraphMetrics("nodes", device("cpu"))
    metrics.update(scores, scores.new_zeros(len(scores), dtype=int64))
    return metrics.compute()["auc"]


def degree_products(splits: Splits) -> float:
    """The AUC of the product of two degrees."""
    assert splits.graph is not None
    degrees = splits.graph.edges.flatten().bincount(minlength=splits.graph.num_nodes).double()
    return auc(splits, lambda u, v: degrees[u] * degrees[v])


def cosines_of_fastrp(splits: Splits, dim: int, seed: int) -> float:
    """The AUC of cosines of FastRP's rows, four powers with equal weights."""
    assert splits.graph is not None
    generator = Generator().manual_seed(seed)
    drawn = very_sparse_projection(splits.graph.num_nodes, dim, generator=generator)
    rows = F.normalize(fastrp(splits.graph.edges, drawn), dim=1)
    return auc(splits, lambda u, v: (rows[u] * rows[v]).sum(-1))
