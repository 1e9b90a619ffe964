"""Log how far out features lie, stage by stage, and the curvature of the space they lie in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...layers.hyperbolic import BallCurvature, space_points
from ...layers.modes import evaluating
from ...zoo.inspect.depth_mixing import shadowing
from ...zoo.trunk import Trunk
from ..errors import RunError
from .hooks import Callback, TrainingRun, callbacks

__all__ = ["Geometry", "curvatures", "stream_norms"]


@torch.no_grad()
def curvatures(model: nn.Module) -> dict[str, float]:
    """Return every distinct curvature c of a model, by the first place where it is used.

    A learned curvature is itself wherever it is shared; fixed ones are the same where their values
    are. Empty for a Euclidean model.
    """
    found: dict[Any, tuple[str, float]] = {}
    for name, module in model.named_modules():
        if isinstance(module, BallCurvature):
            key = module.initial if module.log_ratio is None else id(module)
            found.setdefault(key, (name, float(module())))
    return dict(found.values())


@torch.no_grad()
def stream_norms(model: nn.Module, x: Tensor) -> dict[str, tuple[float, float]]:
    """Return mean and largest distance from the origin of what closes each trunk.

    A vector is what lies along the channels at one token or pixel. Where the trunk holds a ball it
    is a tangent t at the origin, 2‖t‖ away from it for any curvature; elsewhere it is ‖f‖ away. One
    that a model of the hyperboloid holds is a space part s, asinh(√c‖s‖)/√c away.

    Args:
        model: Runs at least one `Trunk`; measured in eval mode, and left as it was.
        x: Inputs of the model.

    Returns:
        (mean, largest) by the trunk's name, in the order of the network.

    Raises:
        ValueError: no trunk.
    """
    trunks = {name: m for name, m in model.named_modules() if isinstance(m, Trunk)}
    if not trunks:
        raise ValueError(f"{type(model).__name__} runs no trunk whose stream could be measured")
    closed: dict[str, Tensor] = {}

    def noting(name: str, original: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
        def close(state: Any) -> Tensor:
            closed[name] = original(state)  # a hand-off inside a trunk closes, too; the last stays
            return closed[name]

        return close

    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluating(model))
        # Hooks need the Python code: a compiled graph would not see them.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for name, trunk in trunks.items():
            close = noting(name, trunk.residual.close)
            stack.enter_context(shadowing(trunk.residual, "close", close))
        model(x)
    norms = {}
    for name, stream in closed.items():
        residual = trunks[name].residual
        vectors = stream.movedim(residual.channel_dim, -1).double()
        shared = getattr(model, "shared", {})
        if shared.get("coordinates") == "space":
            vectors = space_points.to_tangent(vectors, shared["curvature"]())
        length = vectors.norm(dim=-1)
        if any(isinstance(module, BallCurvature) for module in trunks[name].modules()):
            length = 2 * length
        norms[name] = float(length.mean()), float(length.max())
    return norms


@callbacks.register(name="geometry")
class Geometry(Callback):
    """At each evaluation log `curvature`, `norm_mean` and `norm_max` of the evaluated model.

    They are logged as a split of their own, `geometry`. Norms are distances from the origin of the
    stream after each stage, over a batch of validation samples that stays the same; `curvature` is
    absent for Euclidean models, and followed by a place where there are several.

    Args:
        samples: Validation samples to measure, at least 1, evenly spread over the fold.

    Raises:
        ValueError: samples < 1.
    """

    def __init__(self, samples: int = 64) -> None:
        """Keep the setting."""
        if samples < 1:
            raise ValueError(f"callbacks.geometry.samples must be at least 1, got {samples}")
        self.samples = samples
        self.batch: Tensor | None = None

    def start(self, run: TrainingRun) -> None:
        """Fetch the batch and refuse a model without a trunk, before it is trained."""
        if not any(isinstance(module, Trunk) for module in run.model.modules()):
            name = type(run.model).__name__
            raise RunError(
                f"callbacks.geometry measures the stream of a trunk, and {name} has none; "
                f"leave it out"
            )
        fold = run.splits.validation
        count = min(self.samples, len(fold))
        keys = [(0, i * len(fold) // count) for i in range(count)]
        self.batch = fold.__getitems__(keys)[0].to(run.world.device)

    def evaluate(self, run: TrainingRun, metrics: dict[str, float]) -> None:
        """Measure on every process, since a sharded model needs them all, and log on one."""
        assert self.batch is not None
        with run.autocast():
            norms = stream_norms(run.evaluated, self.batch)
        values = _named("curvature", curvatures(run.evaluated))
        values |= _named("norm_mean", {name: mean for name, (mean, _) in norms.items()})
        values |= _named("norm_max", {name: largest for name, (_, largest) in norms.items()})
        run.log("geometry", values)


def _named(what: str, values: dict[str, float]) -> dict[str, float]:
    """Name several values by their places, and a single one by itself."""
    if len(values) == 1:
        return dict(zip([what], values.values(), strict=True))
    return {f"{what}/{place}": value for place, value in values.items()}
