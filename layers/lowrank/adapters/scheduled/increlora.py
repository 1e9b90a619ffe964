"""IncreLoRA: ranks grow in training, where they promise most, until a total is met.

    W_eff = W + s B diag(λ) A,    λ = 0 at the start; the last component is a reserve, λ = 10⁻⁵

The reserve trains its two vectors while its λ stays. Every `grow_every` steps after `warmup` the
weights of the highest score activate their reserve and get a new one, so W_eff does not move:

    S = Σ_j |λ_j ∂L/∂λ_j| / √(rows columns),    score = mean(S) · mean(|S - mean(S)|)

means over steps with β = .85. Σ_j λ_j ∂L/∂λ_j is the sum of ΔW ⊙ ∂L/∂ΔW, so no hook is needed.

Source: Zhang et al. 2023, "IncreLoRA: Incremental Parameter Allocation Method for
Parameter-Efficient Fine-tuning", arXiv:2308.12043.
Differs from it: absolute values are taken component by component and not entry by entry; s does not
depend on the rank, where the published α / rank shrinks what is learned by a third from 2 to 3; the
total is met exactly, where the published code counts weights and adds several ranks to each; the
reserve's column of B starts at 0, so the start is W; no penalty on angles, whose published form is
applied to one vector at a time and orders none of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...event_schedule import check_steps, known, steps_of
from ...maths.random_vectors import normal
from ...watched_weights import WatchedWeights
from ...weights.factors import Factors
from ...weights.structure import FrozenDense
from ..adapter import RankedAdapter

__all__ = ["RESERVE", "IncreLoRA", "ReservedFactors"]

RESERVE = 1e-5
"""λ of a component that waits."""
DEVIATION = 0.02
BETA = 0.85


class ReservedFactors(Factors):
    """Factors over a frozen weight whose last component waits, with a λ that is not trained.

    Args:
        left: B (..., rows, r + 1).
        right: A (..., r + 1, columns).
        core: λ (..., r + 1).
        weight: W (..., rows, columns).
        scale: s.
    """

    def __init__(
        self, left: Tensor, right: Tensor, core: Tensor, weight: Tensor, *, scale: float
    ) -> None:
        """Keep copies; as many components may come as the weight has."""
        super().__init__(left, right, core=core, scale=scale, extra=FrozenDense(weight))
        self.capacity = max(self.capacity, min(self.shape[-2:]) + 1)

    def parts(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the factors; the reserve's λ has no gradient."""
        left, right, core = super().parts()
        assert core is not None
        return left, right, torch.cat([core[..., :-1], core[..., -1:].detach()], -1)


class IncreLoRA(RankedAdapter):
    """Ranks that grow in training until their total is met.

    Args:
        rank: Components that are active at the start.
        target_rank: Mean rank over all weights in the end, at least `rank`.
        warmup: Steps before the first growth, or a share of the run.
        grow_every: Steps from one growth to the next, or a share of the run.
        at_once: Weights that grow at a time.
        scale: s > 0.
        total_steps: Steps of the run; required where steps are shares.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        *,
        rank: int = 1,
        target_rank: int = 8,
        warmup: int | float = 0.05,
        grow_every: int | float = 0.01,
        at_once: int = 4,
        scale: float = 1.0,
        total_steps: int | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(rank=rank)
        if target_rank < rank:
            raise ValueError(f"target_rank must be at least rank={rank}, got {target_rank}")
        check_steps(warmup, "warmup")
        check_steps(grow_every, "grow_every")
        if at_once < 1:
            raise ValueError(f"at_once must be at least 1, got {at_once}")
        if not scale > 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        self.target_rank, self.warmup, self.grow_every = target_rank, warmup, grow_every
        self.at_once, self.scale, self.total_steps = at_once, scale, total_steps

    @property
    def resizes(self) -> bool:
        """Whether components come, which sharded parameters cannot take."""
        return True

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return (r + 1) (rows + columns + 1) at the start, the reserve's λ included."""
        *batch, rows, columns = shape
        count = torch.Size(batch).numel() * (self.rank_for("a weight", shape) + 1)
        return count * (rows + columns + 1)

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> ReservedFactors:
        """Put the components and the reserve beside the weight."""
        *batch, rows, columns = weight.shape
        rank = self.rank_for(name, tuple(weight.shape)) + 1
        left = normal((*batch, rows, rank), DEVIATION, weight, generator)
        right = normal((*batch, rank, columns), DEVIATION, weight, generator)
        core = weight.new_zeros(*batch, rank)
        left[..., -1], core[..., -1] = 0.0, RESERVE
        return ReservedFactors(left, right, core, weight, scale=self.scale)

    def check(self, controller: WatchedWeights) -> None:
        """Check that sizes can change and the schedule is known.

        Raises:
            ValueError: sharded parameters, or steps that are shares of an unknown run.
        """
        for value, name in ((self.warmup, "warmup"), (self.grow_every, "grow_every")):
            if isinstance(value, float):
                known(self.total_steps, f"{name}={value}")
        if any(hasattr(f.left, "full_tensor") for f in controller.factors().values()):
            raise ValueError("sharded parameters cannot grow; use trainer.parallel=ddp")

    def start(self, controller: WatchedWeights) -> None:
        """Begin the means."""
        controller.state["means"] = {name: [0.0, 0.0] for name in controller.factors()}

    @torch.no_grad()
    def before_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Update the means of sensitivity and of its changes."""
        unit = float(controller.as_gradient(torch.ones(())))
        means = dict(controller.state["means"])
        for name, factors in controller.factors(frozen=False).items():
            core = factors.core
            if core is None or core.grad is None:
                continue
            size = torch.Size(factors.shape).numel() ** 0.5
            now = float((core * core.grad).abs().sum()) / unit / size
            mean, spread = means[name]
            mean = BETA * mean + (1 - BETA) * now
            means[name] = [mean, BETA * spread + (1 - BETA) * abs(now - mean)]
        controller.state["means"] = means

    @torch.no_grad()
    def after_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Let the weights of the highest score grow where it is time."""
        for factors in controller.factors(frozen=False).values():
            assert factors.core is not None
            factors.core[..., -1] = RESERVE  # an optimiser may decay what has no gradient
        warmup = steps_of(self.warmup, self.total_steps, "warmup")
        every = steps_of(self.grow_every, self.total_steps, "grow_every")
        if controller.step < warmup or (controller.step - warmup) % every:
            return
        found = controller.factors(frozen=False)
        free = {n: f for n, f in found.items() if f.rank <= min(f.shape[-2:])}
        missing = self.target_rank * len(found) - sum(f.rank - 1 for f in found.values())
        means = controller.state["means"]
        order = sorted(free, key=lambda name: means[name][0] * means[name][1], reverse=True)
        for name in order[: max(0, min(self.at_once, missing))]:
            factors = found[name]
            right = factors.right[..., :1, :].detach()
            fresh = normal(
                tuple(right.shape), DEVIATION, right, controller.generator(f"{name}/grow")
            )
            left = torch.zeros_like(factors.left[..., :1]).detach()
            assert factors.core is not None
            core = torch.full_like(factors.core[..., :1], RESERVE).detach()
            controller.grow(name, left, fresh, core)
