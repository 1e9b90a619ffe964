"""What the best model of a run looks like inside: depth mixing, gates, and where its points lie.

Of each group the first run that ended is looked into, on the first samples of its test fold.
"""

import contextlib
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...layers.hyperbolic import poincare
from ...layers.modes import evaluating
from ...layers.residual import Delta, Site
from ...zoo.inspect.depth_mixing import depth_mixing_matrix
from ...zoo.inspect.disk import project_to_disk
from ...zoo.network import Network
from ...zoo.transform.costs import count_macs
from ...zoo.trunk import Trunk
from ..callbacks.feature_radii import curvatures
from ..command_line.finished_run import FinishedRun, finished_run
from .run_record import RunRecord

__all__ = ["Disk", "Gate", "Mixing", "ModelView", "look_inside"]

MIXED, SHOWN = 32, 400  # samples of a depth mixture, and in a disk


@dataclass(frozen=True)
class Mixing:
    """A depth-mixing matrix of one stage, with the names of its rows."""

    title: str
    rows: list[str]
    matrix: list[list[float]]


@dataclass(frozen=True)
class Gate:
    """Means over tokens of one write: its gate β, and how far from the target before and after."""

    site: str
    beta: float
    before: float
    after: float


@dataclass(frozen=True)
class Disk:
    """Points of a ball in the unit disk, with the class of each where there are classes."""

    points: list[tuple[float, float]]
    labels: list[int] | None
    names: list[str]
    note: str


@dataclass(frozen=True)
class ModelView:
    """What was seen of one model.

    Attributes:
        parameters: How many it stores.
        macs: Multiply-accumulates of one sample.
        mixing: Of every stage.
        gates: Of every write of a delta residual.
        disk: Features or nodes, where the model has a ball.
    """

    parameters: int
    macs: int
    mixing: list[Mixing] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    disk: Disk | None = None


def look_inside(record: RunRecord) -> ModelView:
    """Rebuild the best model of a run and look into it.

    Raises:
        RunError: the run has not ended, or its data or files are missing or have changed.
    """
    run = finished_run(str(record.path))
    inputs, _ = _samples(run, MIXED)
    return ModelView(
        sum(p.numel() for p in run.model.parameters()),
        count_macs(run.model, inputs[:1]),
        _mixing(run.model, inputs),
        _gates(run.model, inputs),
        _disk(run),
    )


def _samples(run: FinishedRun, count: int) -> tuple[Tensor, Tensor]:
    fold = run.splits.test
    return fold.__getitems__([(0, i) for i in range(min(count, len(fold)))])


def _trunks(model: Network) -> list[Trunk]:
    return [module for module in model.modules() if isinstance(module, Trunk)]


def _names(sites: tuple[Site, ...]) -> list[str]:
    return [site.kind for site in sites]


def _mixing(model: Network, x: Tensor) -> list[Mixing]:
    trunks = _trunks(model)
    found = []
    for stage, trunk in enumerate(trunks):
        matrix = depth_mixing_matrix(model, x, stage=stage)
        title = f"stage {stage + 1}" if len(trunks) > 1 else ""
        found.append(Mixing(title, [*_names(trunk.residual.sites), "close"], matrix.tolist()))
    return found


def _gates(model: Network, x: Tensor) -> list[Gate]:
    found = []
    with contextlib.ExitStack() as stack, torch.no_grad():
        stack.enter_context(evaluating(model))
        audits = [
            (trunk.residual.sites, stack.enter_context(trunk.residual.audit()))
            for trunk in _trunks(model)
            if isinstance(trunk.residual, Delta)
        ]
        if audits:
            model(x)
    for sites, writes in audits:
        for name, write in zip(_names(sites), writes, strict=True):
            keys = ("beta", "discrepancy_before", "discrepancy_after")
            found.append(Gate(name, *(float(write[key]) for key in keys)))
    return found


def _disk(run: FinishedRun) -> Disk | None:
    """Nodes as they are, features as what the exponential map at the origin makes of them."""
    model, splits = run.model, run.splits
    if splits.kind == "nodes":
        curvature = _embedded(model)
        if curvature is None:
            return None
        points = getattr(model, "points").detach()  # noqa: B009
        if points.shape[1] < 2:
            return None
        flat = project_to_disk(points.double()[: 5 * SHOWN], curvature)
        return Disk(_pairs(flat), None, [], f"{len(flat):,} nodes.{_lost(points)}")
    balls = curvatures(model)
    if not balls:
        return None
    inputs, targets = _samples(run, SHOWN)
    with evaluating(model), torch.no_grad():
        features = model.forward_head(model.forward_features(inputs), pre_logits=True)
    if features.dim() != 2 or features.shape[1] < 2:
        return None
    curvature = list(balls.values())[-1]
    points = poincare.expmap0(features.double(), curvature)
    names = [str(name) for name in splits.about.get("classes") or range(splits.num_classes)]
    note = f"Features of {len(points):,} test samples before the head.{_lost(points)}"
    return Disk(_pairs(project_to_disk(points, curvature)), targets.tolist(), names, note)


def _embedded(model: Network) -> float | None:
    """The curvature of a table of points in a ball; None in flat space."""
    curvature = getattr(getattr(model, "embedding", None), "curvature", None)
    return None if curvature is None else float(curvature)


def _pairs(flat: Tensor) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in flat.tolist()]


def _lost(points: Tensor) -> str:
    if points.shape[1] == 2:
        return ""
    return f" Of {points.shape[1]} dimensions the distance from the origin is kept."
