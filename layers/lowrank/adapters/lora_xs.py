"""LoRA-XS and LoRA-SB: a small matrix between two fixed factors, r² numbers a weight.

    W_eff = W + s B R A,    R (r, r) trained

    LoRA-XS    B = U_r,  A = S_r V_r  of W = U S V,              R = 0 at the start
    LoRA-SB    B = U_r,  A = V_r      of T = -η sign(mean G),    s R = S_r at the start

G = ∂L/∂W over some data. The start of LoRA-SB is the best one of rank r to the first step of full
fine-tuning, so it moves the weight: ‖T - s B R A‖² = Σ_{j>r} σ_j(T)².

Source: Bałazy et al. 2024, "LoRA-XS: Low-Rank Adaptation with Extremely Small Number of
Parameters", arXiv:2405.17604; Ponkshe et al. 2024, "Initialization using Update Approximation is a
Silver Bullet for Extremely Efficient Low-Rank Fine-Tuning", arXiv:2411.19557.
Differs from them: R of LoRA-XS starts at exactly 0, where the code draws from N(0, 10⁻¹⁰); the SVD
is exact, where the code draws one without oversampling and sets the global seed.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...modes import evaluating
from ..target import Target
from ..weights.factors import Factors
from ..weights.structure import FrozenDense
from .adapter import ScaledAdapter, Statistics
from .svfit import singular_vectors

__all__ = ["LoRASB", "LoRAXS", "mean_gradients"]


class LoRAXS(ScaledAdapter):
    """A trained r by r matrix between the fixed singular vectors of a weight.

    Args:
        rank: r, or a share of the full rank.
        alpha: α > 0; s = α / r.

    Raises:
        ValueError: a setting out of its range.
    """

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return r²."""
        return torch.Size(shape[:-2]).numel() * self.rank_for("a weight", shape) ** 2

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Decompose the weight."""
        rank = self.rank_for(name, tuple(weight.shape))
        left, values, right = singular_vectors(weight, rank)
        core = weight.new_zeros(*weight.shape[:-2], rank, rank)
        return self._factors(weight, left, values[..., None] * right, core)

    def _factors(self, weight: Tensor, left: Tensor, right: Tensor, core: Tensor) -> Factors:
        return Factors(
            left,
            right,
            core=core,
            scale=self.scale_of(core.shape[-1]),
            extra=FrozenDense(weight),
            trained=("core",),
        )


class LoRASB(LoRAXS):
    """A trained r by r matrix that starts at the best approximation to a first full step.

    Args:
        rank: r, or a share of the full rank.
        alpha: α > 0; s = α / r.
        step: η > 0, the learning rate of the first step.
        gradients: Whether the start follows from gradients, which `adapt` then needs as
            `statistics=mean_gradients(…)`; false where a state dict brings the factors.

    Raises:
        ValueError: a setting out of its range.
    """

    moves_weight = True
    reads = "the mean gradient of each weight"

    def __init__(
        self,
        *,
        rank: int | float = 8,
        alpha: float = 8.0,
        step: float = 1e-4,
        gradients: bool = True,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(rank=rank, alpha=alpha)
        if not step > 0:
            raise ValueError(f"step must be above 0, got {step}")
        self.step, self.gradients = step, gradients
        self._found: dict[str, Tensor] = {}

    def observe(self, statistics: Mapping[str, Tensor]) -> None:
        """Keep the gradients."""
        self._found = dict(statistics)

    def decided(self) -> dict[str, Any]:
        """Say that factors come from a state dict the next time."""
        return {"gradients": False}

    def settings(self) -> dict[str, Any]:
        """Return the settings but for where the start came from."""
        return {k: v for k, v in super().settings().items() if k != "gradients"}

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Decompose the first step."""
        rank = self.rank_for(name, tuple(weight.shape))
        gradient = self._found.get(name)
        if gradient is None and self.gradients and not weight.is_meta:
            raise ValueError(
                f"LoRASB starts from {self.reads}, and {name} has none; give adapt "
                f"statistics=mean_gradients(batches, loss)"
            )
        step = weight if gradient is None else -self.step * gradient.to(weight).sign()
        left, values, right = singular_vectors(step, rank)
        if gradient is None:
            values = torch.zeros_like(values)
        return self._factors(weight, left, right, torch.diag_embed(values) / self.scale_of(rank))


def mean_gradients(batches: Iterable[Any], loss: Callable[[nn.Module, Any], Tensor]) -> Statistics:
    """Return statistics for `adapt`: the mean over batches of each target's gradient.

    Args:
        batches: Anything that `loss` takes.
        loss: (model, batch) -> a scalar, with the model in evaluation mode.
    """

    def read(model: nn.Module, targets: Mapping[str, Target]) -> dict[str, Tensor]:
        weights = {n: t.weight for n, t in targets.items() if t.weight is not None}
        before = {name: weight.requires_grad for name, weight in weights.items()}
        sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        count = 0
        try:
            for weight in weights.values():
                weight.requires_grad_(True)
            with evaluating(model), torch.enable_grad():
                for batch in batches:
                    count += 1
                    found = torch.autograd.grad(
                        loss(model, batch), list(weights.values()), allow_unused=True
                    )
                    for name, gradient in zip(weights, found, strict=True):
                        if gradient is None:
                            raise ValueError(f"{name} has no gradient, so nothing starts from it")
                        sums[name] += gradient
        finally:
            for name, weight in weights.items():
                weight.requires_grad_(before[name])
        if not count:
            raise ValueError("batches is empty: there are no gradients to start from")
        return {
            name: total / count if (how := targets[name].unfolding) is None
            else how.to_matrix(total / count)
            for name, total in sums.items()
        }  # fmt: skip

    return read
