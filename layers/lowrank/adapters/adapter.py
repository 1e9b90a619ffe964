"""What all adapters have in common: a weight that stays bit by bit, and few numbers beside it.

    W_eff = W + ΔW,    ΔW = 0 at the start,    W frozen

W is kept whole in the structure, so taking an adapter off gives the bits of W back. What decides
the start, such as an SVD of W, is part of ΔW and not of W. Everything that is no target is frozen
too, biases of targets included, unless `train_also` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..choose_targets import EXCLUDED, Targets
from ..controller import Controller
from ..maths.random_vectors import uniform
from ..method import Method, check_rank, rank_of
from ..reparametrize import reparametrize
from ..target import Target

__all__ = ["Adapter", "RankedAdapter", "ScaledAdapter", "Statistics", "adapt", "fresh_right"]

Statistics = Callable[[nn.Module, Mapping[str, Target]], Mapping[str, Tensor]]
"""(model, targets) -> a matrix for each target by name, such as the mean gradient of its weight."""


class Adapter(Method):
    """Settings of an adapter; a subclass makes the structure and counts what is trained.

    Attributes:
        moves_weight: Whether the map after the start is not that of W.
        kept_whole: Whether the structure holds W itself, so that an adapter can be saved alone.
        reads: What `observe` has to be given before a structure is made, in words, or nothing.
    """

    skips_uneconomic = False
    takes_frozen = True
    adapts = True
    trains_also: Sequence[str] | None = ()
    moves_weight: bool = False
    kept_whole: bool = True
    reads: str = ""
    _statistics: Callable[[Mapping[str, Target]], Mapping[str, Tensor]] | None = None

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return how many numbers are trained for a weight (..., rows, columns)."""
        raise NotImplementedError

    def observe(self, statistics: Mapping[str, Tensor]) -> None:
        """Take what was read off data, a matrix for each target by name.

        Raises:
            ValueError: it reads nothing.
        """
        raise ValueError(f"{type(self).__name__} reads no statistics; leave statistics= out")

    def prepare(self, targets: Mapping[str, Target], skipped: Mapping[str, str]) -> dict[str, str]:
        """Read the statistics of `adapt`."""
        if self._statistics is not None:
            self.observe(self._statistics(targets))
        return {}

    def settings(self) -> dict[str, Any]:
        """Return the settings; what stays trained is the controller's to compare."""
        hidden = ("trains_also",)
        return {k: v for k, v in vars(self).items() if k not in hidden and not k.startswith("_")}


class RankedAdapter(Adapter):
    """An adapter of r components.

    Args:
        rank: r, or a share of the full rank.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(self, *, rank: int | float = 8) -> None:
        """Check and keep the settings."""
        check_rank(rank)
        self.rank = rank

    def rank_for(self, name: str, shape: tuple[int, ...]) -> int:
        """Return r."""
        return rank_of(self.rank, name, shape)

    def refuses(self, target: Target) -> str:
        """Leave out weights of a smaller rank, unless they are named."""
        try:
            self.rank_for(target.name, target.shape)
        except ValueError as error:
            return str(error)
        return ""

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return r (rows + columns), for each matrix of a batch."""
        *batch, rows, columns = shape
        return torch.Size(batch).numel() * self.rank_for("a weight", shape) * (rows + columns)


class ScaledAdapter(RankedAdapter):
    """An adapter of r components whose product is scaled by α / r.

    Args:
        rank: r, or a share of the full rank.
        alpha: α > 0.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(self, *, rank: int | float = 8, alpha: float = 16.0) -> None:
        """Check and keep the settings."""
        super().__init__(rank=rank)
        if not alpha > 0:
            raise ValueError(f"alpha must be above 0, got {alpha}")
        self.alpha = alpha

    def scale_of(self, rank: int, alpha: float | None = None) -> float:
        """Return s = α / r, for another α where one is given."""
        return (self.alpha if alpha is None else alpha) / rank


def adapt(
    model: nn.Module,
    preset: Adapter,
    targets: Targets = None,
    train_also: Sequence[str] = (),
    *,
    statistics: Statistics | None = None,
    excluded: Sequence[str] = EXCLUDED,
    seed: int = 0,
    learning_rate_ratio: float = 1.0,
) -> Controller:
    """Freeze a model and put an adapter beside some of its weights, in place.

    Args:
        model: Any, with the weights to adapt; before it is compiled, sharded or wrapped.
        preset: What is trained beside them.
        targets: As in `reparametrize`; None takes every weight that can have the adapter.
        train_also: Patterns on names of parameters, or of modules around them, that stay trained,
            such as `head`.
        statistics: Called once before the first structure is made, with the model and all targets.
        excluded: Patterns that None leaves out.
        seed: Of all random choices.
        learning_rate_ratio: Multiplies the learning rate of the adapter.

    Returns:
        The controller; call its `attach` with the optimiser.

    Raises:
        ValueError: as `reparametrize`; a pattern that matches nothing; statistics that are missing.
            The model is then as it was.
    """
    if isinstance(train_also, str):
        raise ValueError(f"train_also must be a list of patterns, got {train_also!r}")
    preset.trains_also = list(train_also)
    if statistics is not None:
        preset._statistics = partial(statistics, model)
    return reparametrize(
        model,
        preset,
        targets,
        excluded=excluded,
        seed=seed,
        learning_rate_ratio=learning_rate_ratio,
    )


def fresh_right(weight: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """Draw A (..., r, columns) as torch draws the weight of a linear layer with as many inputs."""
    *batch, _, columns = weight.shape
    return uniform((*batch, rank, columns), columns**-0.5, weight, generator)
