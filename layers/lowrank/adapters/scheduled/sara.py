"""SaRA: the entries of a weight that are nearest to zero are trained, the others stay.

    W_eff = W + S,    S[I] = v = 0 at the start,    I = {|W| ≤ τ},  τ a quantile of |W| per weight

    after `reselect`    what has grown beyond τ stays as it is and is trained no more
    penalty             λ ‖S restricted to what is trained, plus W there‖_*, one weight a step

Source: Hu et al. 2024, "SaRA: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse
Low-Rank Adaptation", arXiv:2409.06633.
Differs from it: τ is a share of the entries and not one number for all weights. One of its two
published optimisers writes |W| over the trained entries when it is made and at each selection,
which flips the sign of every negative one.
Weight decay acts on the change v, towards W.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...event_schedule import check_steps, known, steps_of
from ...methods.sltrain import SparseTerm
from ...optim.partial_update import PartialUpdate
from ...watched_weights import WatchedWeights
from ...weights.structure import FrozenDense, WeightStructure
from ..adapter import Adapter

__all__ = ["SaRA", "SmallEntries", "smallest_entries"]

LEAST_SIDE = 64
"""Rows and columns below which a weight is left out of the penalty, as in the published code."""


@torch.no_grad()
def smallest_entries(weight: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ascending places (count,) of the entries nearest to zero, and τ, the largest."""
    if weight.is_meta:
        places = torch.empty(count, dtype=torch.int64, device=weight.device)
        return places, weight.new_empty(())
    sizes = weight.flatten().abs()
    places = sizes.argsort(stable=True)[:count]
    return places.sort().values, sizes[places[-1]]


class SmallEntries(WeightStructure):
    """A frozen weight and a trained change of its smallest entries.

    Args:
        weight: W (..., rows, columns).
        count: Entries that are trained, at least 1.

    Attributes:
        term: The change.
        bound: τ.
        open: Whether an entry is trained still (count,).
    """

    bound: Tensor
    open: Tensor

    def __init__(self, weight: Tensor, count: int) -> None:
        """Choose the entries."""
        super().__init__()
        self.shape = tuple(weight.shape)
        self.extra = FrozenDense(weight)
        places, bound = smallest_entries(weight, count)
        self.term = SparseTerm(weight.new_zeros(count), places, self.shape)
        self.register_buffer("bound", bound.clone())
        self.register_buffer("open", torch.ones(count, dtype=torch.bool, device=weight.device))

    def dense(self) -> Tensor:
        """Return W + S."""
        return self.extra.dense() + self.term.dense()

    @torch.no_grad()
    def reselect(self) -> None:
        """Close the entries that have grown beyond τ."""
        self.open &= self.entries().abs() <= self.bound

    def entries(self) -> Tensor:
        """Return W + S at the chosen places (count,)."""
        weight = self.extra.dense().flatten().index_select(0, self.term.index)
        return weight + self.term.values.squeeze(-1)

    def restricted(self) -> Tensor:
        """Return W + S where it is trained, and zero elsewhere (..., rows, columns)."""
        kept = torch.where(self.open, self.entries(), 0.0)
        zeros = kept.new_zeros(torch.Size(self.shape).numel())
        return zeros.index_add(0, self.term.index, kept).view(self.shape)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{'x'.join(map(str, self.shape))}, entries={len(self.open)}"


class SaRA(Adapter):
    """The entries of a weight that are nearest to zero are trained.

    Args:
        share: Of a weight's entries, in (0, 1]; at least one is.
        reselect: Steps, or a share of the run, after which grown entries are closed; None never.
        nuclear: λ, at least 0; 0 leaves the penalty out.
        total_steps: Steps of the run; required where `reselect` is a share.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        *,
        share: float = 0.15,
        reselect: int | float | None = 0.5,
        nuclear: float = 5e-4,
        total_steps: int | None = None,
    ) -> None:
        """Check and keep the settings."""
        if not 0.0 < share <= 1.0:
            raise ValueError(f"share must lie in (0, 1], got {share}")
        check_steps(reselect, "reselect")
        if not nuclear >= 0:
            raise ValueError(f"nuclear must be at least 0, got {nuclear}")
        self.share_of_entries, self.reselect, self.nuclear = share, reselect, nuclear
        self.total_steps = total_steps

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return |I|."""
        return max(1, int(self.share_of_entries * torch.Size(shape).numel()))

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> SmallEntries:
        """Choose the entries."""
        return SmallEntries(weight, self.numbers(tuple(weight.shape)))

    def check(self, controller: WatchedWeights) -> None:
        """Check that the schedule is known.

        Raises:
            ValueError: `reselect` is a share of a run of unknown length, or sharded weights.
        """
        if isinstance(self.reselect, float):
            known(self.total_steps, f"reselect={self.reselect}")
        for _, structure in self._structures(controller):
            if hasattr(structure.term.values, "full_tensor"):
                raise ValueError(
                    "SaRA trains single entries, which sharded parameters cannot; use "
                    "trainer.parallel=ddp"
                )

    def penalty(self, controller: WatchedWeights) -> Tensor | None:
        """Return λ times the nuclear norm of one weight, drawn anew at each step."""
        wide = [s for _, s in self._structures(controller) if min(s.shape[-2:]) >= LEAST_SIDE]
        if not self.nuclear or not wide:
            return None
        place = torch.randint(len(wide), (), generator=controller.generator("nuclear"))
        values = torch.linalg.svdvals(wide[int(place)].restricted())
        return self.nuclear * values.sum()

    def before_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Remember the entries that are closed."""
        parts = [(s.term.values, 0) for _, s in self._structures(controller)]
        if any(not bool(s.open.all()) for _, s in self._structures(controller)):
            controller.scratch["update"] = PartialUpdate(optimizer, parts)

    def after_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Put those back, and close what has grown where it is time."""
        found = [structure for _, structure in self._structures(controller)]
        if "update" in controller.scratch:
            controller.scratch["update"].keep([s.open for s in found])
        if self.reselect is None:
            return
        if controller.step == steps_of(self.reselect, self.total_steps, "reselect"):
            for name, structure in self._structures(controller):
                structure.reselect()
                for twin in controller.twins_of(name):
                    assert isinstance(twin, SmallEntries)
                    twin.open.copy_(structure.open)

    def _structures(self, controller: WatchedWeights) -> list[tuple[str, SmallEntries]]:
        found = controller.structures(frozen=False)
        return [(name, s) for name, s in found if isinstance(s, SmallEntries)]
