"""SwitchLoRA: trained factors over a frozen matrix, whose vectors are exchanged a few at a time.

    W = W_f + s B A,    s = α / r,    B (rows, r) = left,    A (r, columns) = right

Every factor has a pool of k = min(rows, columns) vectors, and its r live ones are members of it.
Exchanging b_i for a candidate c_j leaves W as it is, and changes the gradient of a_i alone:

    W_f <- W_f + s (b_i - c_j) a_i;    b_i goes back to the pool;    b_i <- c_j

so what the optimiser knows of a_i is dropped, its count of updates included, and a_i rests for N
updates while b_i learns. Exchanges a side, before update t of T: r / interval · 0.3^((t + 1) / ρT).

W_f, both pools and the factors are stored, rows · columns + (k + r)(rows + columns) numbers, more
than a dense weight: what is saved are gradients, optimiser states and communication.

Source: Zhou et al. 2024, "SwitchLoRA: Switched Low-Rank Adaptation Can Learn Full-Rank
Information", arXiv:2406.06564. The pace 0.3 is that of its code; its text says a third.
Differs from it: pools stay on the device beside the factors, where DDP, FSDP and checkpoints find
them; candidates are drawn at random, not block by block; the groups of a convolution exchange the
same places; resting vectors are kept from weight decay too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..event_schedule import known
from ..maths.decompose import refuse_diverged
from ..method import Method, check_rank, rank_of
from ..optim.step_adamw import StepAdamW
from ..watched_weights import WatchedWeights
from ..weights.resize_parameter import reset_state
from ..weights.structure import stored_in
from ..weights.switched_factors import COUNTERPART, DIMENSION, Side, SwitchedFactors, write_entries

__all__ = ["SwitchLoRA", "switch_rate"]


def switch_rate(step: int, rank: int, interval: float, decay_share: float, total: int) -> float:
    """Return the expected exchanges a side before an update.

    Args:
        step: t, from 0.
        rank: r.
        interval: Updates from one exchange of a vector to its next, at the start.
        decay_share: ρ, the share of the run in which the rate falls to 0.3 of its start.
        total: T, updates of the run.
    """
    return rank / interval * 0.3 ** ((step + 1) / (decay_share * total))


class SwitchLoRA(Method):
    """Factors over a frozen matrix, with vectors exchanged between updates.

    Args:
        rank: Components, or a share of the full rank; at full rank there is nothing to exchange.
        alpha: α of the scale α / r.
        interval: Updates from one exchange of a vector to its next, at the start of the run.
        decay_share: ρ, the share of the run in which the rate falls to 0.3 of its start. A short
            run needs a smaller interval and a larger share to pass over its pools.
        freeze: Updates N for which the counterpart rests.
        total_steps: Updates of the run; required, and filled in by the trainer.

    Raises:
        ValueError: a setting out of its range, or an interval below 2 `freeze`.
    """

    def __init__(
        self,
        *,
        rank: int | float = 0.25,
        alpha: float = 1.0,
        interval: float = 40.0,
        decay_share: float = 0.1,
        freeze: int = 5,
        total_steps: int | None = None,
    ) -> None:
        """Check and keep the settings."""
        check_rank(rank)
        if not alpha > 0:
            raise ValueError(f"alpha must be above 0, got {alpha}")
        if not decay_share > 0:
            raise ValueError(f"decay_share must be above 0, got {decay_share}")
        if freeze < 0:
            raise ValueError(f"freeze must be at least 0 updates, got {freeze}")
        if not interval >= max(1, 2 * freeze):
            raise ValueError(
                f"interval must be at least 1 and 2 freeze = {2 * freeze}, or most vectors would "
                f"rest at any time, got {interval}"
            )
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps}")
        self.rank, self.alpha, self.interval = rank, alpha, interval
        self.decay_share, self.freeze, self.total_steps = decay_share, freeze, total_steps

    def rank_for(self, name: str, shape: tuple[int, ...]) -> int:
        """Return r."""
        return rank_of(self.rank, name, shape)

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> SwitchedFactors:
        """Draw factors and pools; W stays the same."""
        rank = self.rank_for(name, tuple(weight.shape))
        return SwitchedFactors(weight, rank, alpha=self.alpha, generator=generator)

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse all but `StepAdamW`, whose vectors can start anew one by one.

        Raises:
            ValueError: naming it.
        """
        if not isinstance(optimizer, StepAdamW):
            raise ValueError(
                f"SwitchLoRA resets what an optimiser knows of single vectors, and "
                f"{type(optimizer).__name__} counts updates of whole parameters; use "
                f"optim=step_adamw (archzoo.layers.lowrank.StepAdamW)"
            )

    def check(self, controller: WatchedWeights) -> None:
        """Check that the length of the run is known.

        Raises:
            ValueError: it is not.
        """
        known(self.total_steps, "SwitchLoRA's rate of exchanges")

    def start(self, controller: WatchedWeights) -> None:
        """Let no vector rest."""
        controller.state["resting"] = {
            name: {side: torch.zeros(structure.rank, dtype=torch.int64) for side in DIMENSION}
            for name, structure in controller.factors().items()
        }

    def resumed(self, controller: WatchedWeights) -> None:
        """Count rests on the CPU, wherever the checkpoint was loaded to."""
        controller.state["resting"] = {
            name: {side: counts.cpu() for side, counts in sides.items()}
            for name, sides in controller.state["resting"].items()
        }

    @torch.no_grad()
    def before_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Exchange vectors, reset their counterparts, and mask the gradients of what rests."""
        held = controller.scratch
        state = controller.state["resting"] = dict(controller.state["resting"])
        for name, structure in controller.factors(frozen=False).items():
            assert isinstance(structure, SwitchedFactors)
            # Copied, never changed in place: a checkpoint may still hold the old ones.
            resting = state[name] = dict(state[name])
            generator = controller.generator(f"{name}/switch")
            for side in DIMENSION:
                self._switch_some(controller, name, side, resting, generator, optimizer)
            for side, dim in DIMENSION.items():
                index = resting[side].nonzero().squeeze(-1).to(structure.left.device)
                vectors = structure.vectors(side)
                if len(index):
                    held[name, side] = index, stored_in(vectors).index_select(dim, index)
                    if vectors.grad is not None:
                        zero = torch.zeros_like(held[name, side][1])
                        write_entries(vectors.grad, dim, index, zero)

    @torch.no_grad()
    def after_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Undo what weight decay did to resting vectors, and count their rest down."""
        factors = controller.factors()
        for (name, side), (index, values) in controller.scratch.items():
            structure = factors[name]
            assert isinstance(structure, SwitchedFactors)
            write_entries(structure.vectors(side), DIMENSION[side], index, values)
        controller.state["resting"] = {
            name: {side: (counts - 1).clamp(min=0) for side, counts in sides.items()}
            for name, sides in controller.state["resting"].items()
        }

    def _switch_some(
        self,
        controller: WatchedWeights,
        name: str,
        side: Side,
        resting: dict[Side, Tensor],
        generator: torch.Generator,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        structure = controller.factors()[name]
        assert isinstance(structure, SwitchedFactors) and self.total_steps is not None
        rate = switch_rate(
            controller.step, structure.rank, self.interval, self.decay_share, self.total_steps
        )
        # Rounded up as often as its fraction says, so that the expectation is the rate.
        count = int(rate + torch.rand(1, generator=generator).item())
        free, spare = (resting[side] == 0).nonzero().squeeze(-1), structure.spare(side)
        count = min(count, len(free), len(spare))
        if count == 0:
            return
        live = free[torch.randperm(len(free), generator=generator)[:count]]
        candidates = spare[torch.randperm(len(spare), generator=generator)[:count]]
        for twin in (structure, *controller.twins_of(name)):
            assert isinstance(twin, SwitchedFactors)
            parts = stored_in(twin.left), stored_in(twin.right)
            refuse_diverged(name, controller.step, *parts)
            twin.switch(side, live, candidates)
        other = COUNTERPART[side]
        reset_state(optimizer, structure.vectors(other), DIMENSION[other], live)
        resting[other] = resting[other].index_fill(0, live, self.freeze)
