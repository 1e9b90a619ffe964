"""AdamW that counts the updates of every vector of a matrix, so that single vectors can start anew.

    t <- t + 1                                  one count for a whole parameter, or one a vector
    m <- β₁ m + (1 - β₁) g,   v <- β₂ v + (1 - β₂) g²
    w <- (1 - η λ) w - η (m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + ε)

Moments set to zero without their count make the next update (1 - β₁) / √(1 - β₂) times too long,
3.2 for the usual values, since t no longer says how many gradients the moments have seen. As long
as no vector is reset this is `torch.optim.AdamW`, to rounding.

Source: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", arXiv:1711.05101; a
count a vector is what Zhou et al. 2024, "SwitchLoRA", arXiv:2406.06564, needs.
Differs from it: the count.
"""

from collections.abc import Callable
from math import log
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

__all__ = ["StepAdamW", "step_shape"]


def step_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the counts: one an entry of the shorter of the last two dimensions.

    Components of a factor lie along its shorter side, so left (rows, r) gets (1, r) and right
    (r, columns) gets (r, 1). A vector or a number has one count, of as many dimensions.
    """
    counts = [1] * len(shape)
    if len(shape) > 1:
        shorter = -1 if shape[-1] <= shape[-2] else -2
        counts[shorter] = shape[shorter]
    return tuple(counts)


class StepAdamW(torch.optim.Optimizer):
    """AdamW with a count of updates for every vector along a matrix's shorter side.

    Args:
        params: Parameters or groups.
        lr: η, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0, decoupled.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        """Check and keep the settings."""
        for name, value in {"lr": lr, "eps": eps, "weight_decay": weight_decay}.items():
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {betas}")
        super().__init__(
            params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        )

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all parameters that have a gradient.

        Raises:
            ValueError: a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)
        return loss

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        if grad.is_sparse:
            raise ValueError("StepAdamW takes no sparse gradients; use optim=adamw")
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            state["step"] = _no_updates(p)
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        step, mean, square = state["step"], state["exp_avg"], state["exp_avg_sq"]
        step.add_(1)
        if group["weight_decay"]:
            p.mul_(1 - group["lr"] * group["weight_decay"])
        mean.lerp_(grad, 1 - beta1)
        square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        count = step.to(torch.promote_types(p.dtype, torch.float32))
        rate = group["lr"] / _correction(beta1, count)
        scale = _correction(beta2, count).sqrt()
        denominator = square.sqrt().div_(scale).add_(group["eps"])
        p.sub_(torch.div(mean, denominator, out=denominator).mul_(rate))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back a state; counts follow their parameter to its device.

        Raises:
            ValueError: a state of another optimiser, whose counts are not one a vector, or of
                parameters whose size is another one.
        """
        super().load_state_dict(state_dict)
        for p, state in self.state.items():
            step = state["step"]
            if not hasattr(step, "full_tensor"):
                step = torch.as_tensor(step, dtype=torch.float32, device=p.device)
            if step.dim() == 0:  # AdamW keeps one count; its run may go on with this optimiser
                step = _no_updates(p) + step.item()
            fits = step.dim() == p.dim() and all(
                count in (1, size) for count, size in zip(step.shape, p.shape, strict=True)
            )
            if not fits:
                raise ValueError(
                    f"counts of shape {tuple(step.shape)} do not fit a parameter of "
                    f"{tuple(p.shape)}; load the model first where its ranks have changed, else "
                    f"this state is not of StepAdamW"
                )
            state["step"] = step


def _no_updates(p: Tensor) -> Tensor:
    """Return counts at zero, cut as `fully_shard` cut the parameter.

    They are float32 whatever it is: bfloat16 cannot count beyond 256.
    """
    shape = step_shape(p.shape)
    if not hasattr(p, "full_tensor"):
        return torch.zeros(shape, device=p.device)
    from torch.distributed import tensor

    mesh, cuts = p.device_mesh, p.placements  # type: ignore[attr-defined]
    follows = [not cut.is_shard() or shape[cut.dim] == p.shape[cut.dim] for cut in cuts]
    placements = [c if f else tensor.Replicate() for c, f in zip(cuts, follows, strict=True)]
    return tensor.zeros(shape, device_mesh=mesh, placements=placements)


def _correction(beta: float, count: Tensor) -> Tensor:
    """Return 1 - βᵗ without cancellation, which at t = 1 would cost three digits of float32."""
    if beta == 0.0:
        return torch.ones_like(count)
    return -torch.expm1(count * log(beta))
