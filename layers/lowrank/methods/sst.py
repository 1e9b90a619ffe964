"""Sparse Spectral Training: all singular values are trained, and a few singular pairs at a time.

    after every step          σ <- max(σ, 0);  active u_i <- u_i / ‖u_i‖,  v_i <- v_i / ‖v_i‖
    every `resample_every`    r pairs are drawn anew without replacement, with
                              p_i = ½ (1 / k + σ_i / Σ σ);  W stays bit by bit
    every `iterations` draws  U, σ, V <- SVD(W) before it;  W stays

What the optimiser knows of the active vectors is dropped with each draw, since they are others now,
and of σ too after an SVD; the learning rate climbs back over `rewarm` steps. The SVD is needed
because vectors that are trained one by one do not stay orthogonal.

Source: Zhao et al. 2024, "Sparse Spectral Training and Inference on Euclidean and Hyperbolic Neural
Networks", arXiv:2405.15481.
Differs from it: the warm-up scales the learning rate of these weights alone. Intervals, draws
between SVDs and the length of the warm-up are settings, whose defaults could not be compared with
the paper's.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
from torch import Tensor

from ..event_schedule import check_rewarm, check_steps, rewarm_steps, rewarmed, steps_of
from ..maths.decompose import refuse_diverged
from ..method import Method, check_rank, rank_of
from ..watched_weights import WatchedWeights
from ..weights.resize_parameter import reset_state
from ..weights.singular_pairs import Spectral
from ..weights.structure import agreed, stored_in

__all__ = ["SST", "draw_order", "pair_probabilities"]

USUAL_REWARM = 20  # steps


def pair_probabilities(sigma: Tensor) -> Tensor:
    """Return p (k,) of the next active pair: half uniform, half in proportion to σ.

    Args:
        sigma: (..., k), not negative; over a batch of matrices p is the mean.
    """
    values = sigma.detach().double().reshape(-1, sigma.shape[-1])
    total = values.sum(-1, keepdim=True)
    uniform = torch.full_like(values, 1 / values.shape[-1])
    shares = torch.where(total > 0, values / total, uniform)
    return ((uniform + shares) / 2).mean(0)


def draw_order(sigma: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """Draw the active pairs; return the places (k,) of them, then of the others, each ascending.

    Args:
        sigma: (..., k); on the meta device the first pairs are taken.
        rank: r.
        generator: On the CPU.
    """
    pairs = sigma.shape[-1]
    chosen = torch.arange(rank, device="cpu")  # whatever device new tensors are on
    if not sigma.is_meta:
        p = pair_probabilities(sigma).cpu()
        chosen = torch.multinomial(p, rank, generator=generator).sort().values
    waiting = torch.ones(pairs, dtype=torch.bool, device="cpu")
    waiting[chosen] = False
    return torch.cat([chosen, waiting.nonzero().squeeze(-1)])


class SST(Method):
    """All singular values and a few singular pairs at a time are trained.

    Args:
        rank: Active pairs r, or a share of the full rank.
        resample_every: Steps from one draw of pairs to the next, or a share of the run.
        iterations: Draws from one SVD to the next; None is k / r, rounded up.
        rewarm: Steps of the linear warm-up of the learning rate after a draw, below those from one
            draw to the next; 0 is none. None is 20, and at most a tenth of the steps between draws.
        enhanced: Whether the gradients of vectors leave σ out.
        total_steps: Steps of the run; required where `resample_every` is a share.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        *,
        rank: int | float = 0.25,
        resample_every: int | float = 200,
        iterations: int | None = None,
        rewarm: int | None = None,
        enhanced: bool = True,
        total_steps: int | None = None,
    ) -> None:
        """Check and keep the settings."""
        check_rank(rank)
        check_steps(resample_every, "resample_every")
        for name, value in {"iterations": iterations, "total_steps": total_steps}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        interval = resample_every if isinstance(resample_every, int) else None
        check_rewarm(rewarm, interval, "resample_every")
        self.rank, self.resample_every, self.iterations = rank, resample_every, iterations
        self.rewarm, self.enhanced, self.total_steps = rewarm, enhanced, total_steps

    def rank_for(self, name: str, shape: tuple[int, ...]) -> int:
        """Return r."""
        return rank_of(self.rank, name, shape)

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Spectral:
        """Decompose a weight and draw its first active pairs."""
        rank = self.rank_for(name, tuple(weight.shape))
        structure = Spectral(weight, rank, enhanced=self.enhanced)
        structure.choose(draw_order(structure.sigma, rank, generator))
        return structure

    def check(self, controller: WatchedWeights) -> None:
        """Check that the schedule is known and the warm-up fits into it.

        Raises:
            ValueError: `resample_every` is a share and `total_steps` unknown, or a share of fewer
                steps than the warm-up has.
        """
        check_rewarm(self.rewarm, self._interval(), "resample_every")

    def learning_rate_factor(self, controller: WatchedWeights) -> float:
        """Climb back after a draw; the start of the run is left to its own schedule."""
        interval = self._interval()
        if controller.step < interval:
            return 1.0
        steps = rewarm_steps(self.rewarm, interval, USUAL_REWARM)
        return rewarmed(controller.step % interval, steps)

    def after_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Keep vectors and values in their sets, and draw where it is time."""
        draws, early = divmod(controller.step, self._interval())
        for name, structure in controller.structures(frozen=False):
            assert isinstance(structure, Spectral)
            structure.constrain()
            if early:
                continue
            parts = structure.left, structure.right, structure.sigma
            refuse_diverged(name, controller.step, *map(stored_in, parts))
            twins = [twin for twin in controller.twins_of(name) if isinstance(twin, Spectral)]
            reset_state(optimizer, structure.left)
            reset_state(optimizer, structure.right)
            if draws % self._iterations(structure) == 0:
                reset_state(optimizer, structure.sigma)
                found = agreed(structure.decompose())
                for each in (structure, *twins):  # an average of other vectors means nothing now
                    each.rebase(*found)
            generator = controller.generator(f"{name}/draw")
            order = draw_order(stored_in(structure.sigma), structure.rank, generator)
            for each in (structure, *twins):
                each.choose(order)

    def settings(self) -> dict[str, Any]:
        """Return the settings, with the steps that the warm-up has."""
        found = super().settings()
        if self.total_steps is not None or isinstance(self.resample_every, int):
            found["rewarm"] = rewarm_steps(self.rewarm, self._interval(), USUAL_REWARM)
        return found

    def _interval(self) -> int:
        return steps_of(self.resample_every, self.total_steps, "resample_every")

    def _iterations(self, structure: Spectral) -> int:
        return self.iterations or ceil(min(structure.shape[-2:]) / structure.rank)
