"""The curvature of a ball, fixed or learned, owned by one layer or shared by many.

A learned c = c₀ exp(s) is positive whatever s becomes, and s counts octaves rather than units: the
same step changes c = 0.1 and c = 10 by the same factor. Weights of hyperbolic layers are Euclidean
or tangents at the origin, so that none needs to be mapped anew when c moves.

A state dict carries c₀ beside s, as the extra state of its owner: what is loaded lies in the ball
it was saved from, whatever ball the network was built with.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..decay import exclude_from_decay
from .maths.ball import check_curvature

__all__ = [
    "BallCurvature",
    "ChangeBall",
    "ball_of",
    "check_one_ball",
    "curvature_from_state",
    "curvature_of",
    "curvature_state",
    "keep_one_ball",
]


class BallCurvature(nn.Module):
    """A curvature c > 0.

    Its state is c₀ in float64, which loading restores, fixed or learned. A state of an earlier
    version lacks it: it is a missing key, and `strict=False` keeps the c₀ that was built.

    Args:
        initial: c₀, a positive number; the sectional curvature is −c.
        learned: Whether log(c/c₀) is a parameter, free of weight decay.

    Raises:
        ValueError: an initial value that is not positive; at loading, a state that is no such
            number.
    """

    def __init__(self, initial: float = 1.0, *, learned: bool = False) -> None:
        """Keep c₀."""
        super().__init__()
        check_curvature(initial)
        self.initial = float(initial)
        self.log_ratio = nn.Parameter(torch.zeros(())) if learned else None
        if learned:
            exclude_from_decay(self, "log_ratio")

    def forward(self) -> float | Tensor:
        """Return c: a float where it is fixed, otherwise a scalar tensor."""
        return self.initial if self.log_ratio is None else self.initial * self.log_ratio.exp()

    def get_extra_state(self) -> Tensor:
        """Return c₀ as a number that no cast rounds and no device holds."""
        return curvature_state(self.initial)

    def set_extra_state(self, state: Any) -> None:
        """Restore c₀."""
        self.initial = curvature_from_state(state)

    def extra_repr(self) -> str:
        """Show c."""
        known = self.log_ratio is None or not self.log_ratio.is_meta
        with torch.no_grad():
            value = float(self()) if known else self.initial
        return f"{value:.4g}, learned={self.log_ratio is not None}"


def curvature_state(curvature: float) -> Tensor:
    """Return a curvature as the extra state of a module: a tensor, which every format can hold."""
    return torch.tensor(curvature, dtype=torch.float64, device="cpu")


def curvature_from_state(state: Any) -> float:
    """Return the curvature of an extra state.

    Raises:
        ValueError: it is no positive number.
    """
    found = float(state) if isinstance(state, Tensor) and state.numel() == 1 else math.nan
    if not 0 < found < math.inf:
        raise ValueError(f"the state of a curvature must be one positive number, got {state!r}")
    return found


def curvature_of(curvature: float | BallCurvature) -> BallCurvature:
    """Return a shared curvature as it is, and a number as a fixed one."""
    return curvature if isinstance(curvature, BallCurvature) else BallCurvature(curvature)


class ChangeBall(nn.Module):
    """Tangents at the origin of one ball to tangents at that of another.

    Args:
        source: The curvature c of what comes in, or a shared `BallCurvature`.
        target: The curvature c' of what goes out.
        keep: `distance` leaves the tangent as it is, and so the distance 2‖t‖ from the origin;
            `shape` scales it by √(c/c'), the similarity that sends geodesics to geodesics and
            midpoints to midpoints.

    Raises:
        ValueError: a curvature that is not positive, or an unknown `keep`.
    """

    def __init__(
        self,
        source: float | BallCurvature,
        target: float | BallCurvature,
        *,
        keep: Literal["distance", "shape"] = "distance",
    ) -> None:
        """Keep both balls."""
        super().__init__()
        if keep not in ("distance", "shape"):
            raise ValueError(f"keep must be 'distance' or 'shape', got {keep!r}")
        self.source, self.target = curvature_of(source), curvature_of(target)
        self.keep = keep

    def forward(self, t: Tensor) -> Tensor:
        """Move tangents."""
        return t if self.keep == "distance" else t * (self.source() / self.target()) ** 0.5

    def extra_repr(self) -> str:
        """Show what is kept."""
        return f"keep={self.keep!r}"


def ball_of(curvature: BallCurvature) -> float | int:
    """Return what two curvatures of one ball share: the number, or the object that learns it."""
    return id(curvature) if curvature.log_ratio is not None else curvature.initial


def check_one_ball(module: nn.Module) -> None:
    """Refuse a network whose layers lie in different balls that no `ChangeBall` connects.

    A tangent of one ball is a valid tangent of another, so nothing else would notice.

    Raises:
        ValueError: two curvatures that are not one object and not equal and fixed.
    """

    named = [
        (name, part) for name, part in module.named_modules() if isinstance(part, BallCurvature)
    ]
    joined = {ball_of(part): ball_of(part) for _, part in named}
    for part in module.modules():
        if isinstance(part, ChangeBall):
            old, new = joined[ball_of(part.source)], joined[ball_of(part.target)]
            joined = {key: new if group == old else group for key, group in joined.items()}
    found = {joined[ball_of(part)]: name for name, part in named}
    if len(found) > 1:
        names = " and ".join(repr(name) for name in list(found.values())[:2])
        raise ValueError(
            f"{type(module).__name__} mixes balls: the curvatures {names} differ; give all layers "
            f"one BallCurvature, or map between the balls on purpose with ChangeBall"
        )


def keep_one_ball(module: nn.Module) -> None:
    """Refuse a network of several balls, now and whenever a state is loaded into it.

    Raises:
        ValueError: as `check_one_ball`; loading raises torch's RuntimeError and names both balls.
    """
    check_one_ball(module)
    module.register_load_state_dict_pre_hook(_check_loaded)


def _check_loaded(
    module: nn.Module,
    state: dict[str, Any],
    prefix: str,
    _metadata: dict[str, Any],
    _strict: bool,
    _missing: list[str],
    _unexpected: list[str],
    errors: list[str],
) -> None:
    """Compare the curvatures that a state brings, and those of layers that it says nothing of."""
    found = {}
    for name, part in module.named_modules(remove_duplicate=False):
        if isinstance(part, BallCurvature):
            key = f"{prefix}{name}._extra_state"
            found[float(state[key]) if key in state else part.initial] = key
    if len(found) > 1:
        (one, first), (two, second) = list(found.items())[:2]
        errors.append(
            f"{type(module).__name__} lies in one ball, and its parts would lie in several: "
            f"{first} is {one:.4g}, {second} is {two:.4g} (a key that the state lacks keeps what "
            f"was built)"
        )
