"""An optimiser that updates matrices in a subspace, and everything else as AdamW does.

A kernel (o, i, h, w) is the matrix o × (i h w), and every matrix is looked at with its longer side
as rows: transposed where it has fewer rows than columns. AdamW updates vectors, groups with
`projected` off, and matrices that the rank leaves whole:

    m <- β₁ m + (1 - β₁) g,   v <- β₂ v + (1 - β₂) g²
    w <- (1 - η λ) w - η (m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + ε)
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..method import check_rank, rank_of

__all__ = ["MatrixOptimizer", "adam_direction", "correction", "tall_shape"]


class MatrixOptimizer(torch.optim.Optimizer):
    """Base of optimisers that project matrices.

    Args:
        params: Parameters or groups; a group with `projected=False` is left to AdamW.
        defaults: Settings of a group; `lr`, `betas`, `eps`, `weight_decay` and `rank` among them.

    Raises:
        ValueError: a setting out of its range, or parameters that are complex or sharded.
    """

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        """Check and keep the settings."""
        self._prepare()
        super().__init__(params, {"projected": True, **defaults})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a copy; PyTorch copies groups and what is kept of parameters only."""
        super().__setstate__(state)
        self._prepare()

    @abstractmethod
    def _prepare(self) -> None:
        """Make what is no state: it follows from sizes."""

    @abstractmethod
    def _check_group(self, group: Mapping[str, Any]) -> None:
        """Refuse settings of a group that are out of range."""

    @abstractmethod
    def _update_matrix(
        self, p: Tensor, grad: Tensor, group: Mapping[str, Any], rank: int, number: int
    ) -> None:
        """Update a matrix, the gradient given as (long side, short side)."""

    @abstractmethod
    def _state_shapes(self, p: Tensor, group: Mapping[str, Any], rank: int) -> dict[str, Any]:
        """Shapes of tensors, and numbers, that are kept of a matrix."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, whose settings are its own where it has some.

        Raises:
            ValueError: as the constructor does; the group is not added then.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            for name in ("lr", "eps", "weight_decay"):
                if not group[name] >= 0:
                    raise ValueError(f"{name} must be at least 0, got {group[name]}")
            betas = group["betas"]
            if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
                raise ValueError(f"betas must be two numbers in [0, 1), got {betas}")
            check_rank(group["rank"])
            self._check_group(group)
            for p in group["params"]:
                self._check_parameter(p)
        except ValueError:
            self.param_groups.pop()
            raise

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all parameters that have a gradient.

        Raises:
            ValueError: a sparse gradient; no parameter is changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = [(group, p) for group in self.param_groups for p in group["params"]]
        for _, p in work:
            if p.grad is not None:
                self._check_parameter(p.grad)
        for number, (group, p) in enumerate(work):
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
            state["step"] += 1
            if group["weight_decay"]:
                p.mul_(1 - group["lr"] * group["weight_decay"])
            rank = self._rank(p, group)
            if rank is None:
                self._update_plain(p, p.grad, group)
                continue
            matrix = p.grad.flatten(1)
            tall = matrix.mT if _is_wide(p) else matrix
            self._update_matrix(p, tall, group, rank, number)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back a state, in the dtypes that it was kept in.

        Raises:
            ValueError: a state of another optimiser, rank or basis, or of parameters of other
                sizes; nothing is changed then.
        """
        kept: list[tuple[Tensor, dict[str, Any]]] = []
        pairs = zip(self.param_groups, state_dict["param_groups"], strict=False)
        for group, saved in pairs:
            # PyTorch adds defaults of its own, which no group has.
            own = self.defaults.keys() & group.keys()
            if missing := sorted(own - saved.keys()):
                raise ValueError(
                    f"a group of the state has no {missing[0]!r}; it is of another optimiser than "
                    f"{type(self).__name__}"
                )
            for p, key in zip(group["params"], saved["params"], strict=False):
                if key in state_dict["state"]:
                    self._check_state(p, state_dict["state"][key], saved)
                    kept.append((p, state_dict["state"][key]))
        super().load_state_dict(state_dict)
        for p, state in kept:
            # PyTorch makes numbers of the parameter's dtype of indices and of exact counts too.
            for name, value in state.items():
                if isinstance(value, Tensor) and value.dtype != self.state[p][name].dtype:
                    self.state[p][name] = value.to(p.device)

    @staticmethod
    def _move(p: Tensor, move: Tensor, length: float) -> None:
        """Subtract an update (long side, short side), times a length, from a parameter."""
        p.sub_((move.mT if _is_wide(p) else move).reshape(p.shape), alpha=length)

    def _rank(self, p: Tensor, group: Mapping[str, Any]) -> int | None:
        """Rank of a parameter's subspace, or None where AdamW updates it."""
        if not group["projected"] or p.dim() < 2 or p.numel() == 0:
            return None
        shape, rank = tall_shape(p), group["rank"]
        found = rank if isinstance(rank, int) else rank_of(rank, "", shape)
        return found if found < shape[1] else None

    def _update_plain(self, p: Tensor, grad: Tensor, group: Mapping[str, Any]) -> None:
        state = self.state[p]
        if "exp_avg" not in state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        betas, moments = group["betas"], (state["exp_avg"], state["exp_avg_sq"])
        totals = [correction(beta, float(state["step"])) for beta in betas]
        direction = adam_direction(grad, *moments, betas, group["eps"], *totals)
        p.sub_(direction, alpha=group["lr"])

    def _check_parameter(self, value: Tensor) -> None:
        name = type(self).__name__
        if value.is_sparse:
            raise ValueError(f"{name} takes no sparse gradients; use torch.optim.SparseAdam")
        if value.is_complex():
            raise ValueError(f"{name} takes no complex parameters; use torch.optim.AdamW")
        if hasattr(value, "full_tensor"):
            raise ValueError(
                f"{name} needs whole matrices, and fully_shard cuts them into pieces; use "
                f"trainer.parallel=ddp, or optim=adamw"
            )

    def _check_state(self, p: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> None:
        rank = self._rank(p, group)
        if rank is None:
            wanted: dict[str, Any] = dict.fromkeys(("exp_avg", "exp_avg_sq"), tuple(p.shape))
        else:
            wanted = self._state_shapes(p, group, rank)
        found = {n: tuple(v.shape) if isinstance(v, Tensor) else v for n, v in state.items()}
        found.pop("step", None)
        if found != wanted:
            raise ValueError(
                f"a state with {found} does not fit a parameter of {tuple(p.shape)}, which needs "
                f"{wanted}; it is of another optimiser, rank, basis or size"
            )


def tall_shape(p: Tensor) -> tuple[int, int]:
    """Return (long side, short side) of a parameter as a matrix."""
    rows, columns = p.shape[0], p.numel() // p.shape[0]
    return max(rows, columns), min(rows, columns)


def _is_wide(p: Tensor) -> bool:
    return p.shape[0] < p.numel() // p.shape[0]


def correction(beta: float, count: float) -> float:
    """Return 1 - βᵗ, without cancellation."""
    return 1.0 if beta == 0.0 else -math.expm1(count * math.log(beta))


def adam_direction(
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    betas: tuple[float, float],
    eps: float,
    mean_total: Tensor | float,
    square_total: Tensor | float,
) -> Tensor:
    """Update Adam's moments in place and return (m / a) / (√(v / c) + ε).

    Args:
        gradient: Of any shape.
        mean: m, of the same shape.
        square: v, of the same shape.
        betas: (β₁, β₂).
        eps: ε.
        mean_total: a, the weight of all gradients in m, this one's included: 1 - β₁ᵗ, or numbers
            that broadcast to the shape.
        square_total: c, the same of v: 1 - β₂ᵗ.
    """
    mean.lerp_(gradient, 1 - betas[0])
    square.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
    return (mean / mean_total).div_((square / square_total).sqrt_().add_(eps))
