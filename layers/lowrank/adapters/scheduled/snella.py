"""SNELLA: a sparse change of full rank, of distances between points of rows and of columns.

    K(P, Q) = Σ_h c_h ‖p_h,i - q_h,j‖ + softmax over i of the same,    c = ±0.1

    W_eff = W + the largest entries of K(P, Q) - K(P₀, Q₀),    P = P₀, Q = Q₀ at the start

r numbers a point give a change of a rank far above r. A weight keeps as many entries as its share
of a budget, which falls from all to `kept` of all targets' entries along a cubic curve and is
shared out in proportion to how much the loss feels P and Q.

Source: Shen et al. 2024, "Expanding Sparse Tuning for Low Memory Usage" (SNELL), arXiv:2411.01800;
its adaptive budgets and softmax as in SNELLA, arXiv:2510.24037.
Differs from it: the kernel of the start is subtracted, so that the start is the weight itself; what
is kept of the change is the change, where the published code multiplies it by its magnitude, whose
gradient vanishes at such a start.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...event_schedule import check_steps, known, steps_of
from ...maths.random_vectors import normal
from ...watched_weights import WatchedWeights
from ...weights.structure import FrozenDense, WeightStructure
from ..adapter import RankedAdapter

__all__ = ["SNELLA", "SparseKernel", "distance_kernel", "largest_entries", "shared_out"]

SIGNS = 0.1, -0.1
"""c of the heads."""
MEMORY = 0.85


def distance_kernel(rows: Tensor, columns: Tensor) -> Tensor:
    """Return K (..., m, n), computed at least in float32.

    Args:
        rows: Points (..., 2, m, r), one set a head.
        columns: Points (..., 2, n, r).
    """
    wide = torch.promote_types(rows.dtype, torch.float32)
    # Not through products of matrices: the gradient at equal points has to be 0 and not infinite.
    exact = "donot_use_mm_for_euclid_dist"
    each = torch.cdist(rows.to(wide), columns.to(wide), compute_mode=exact)
    total = SIGNS[0] * each[..., 0, :, :] + SIGNS[1] * each[..., 1, :, :]
    return (total + total.softmax(-2)).to(rows.dtype)


def largest_entries(change: Tensor, count: int) -> Tensor:
    """Return a change with zeros for all but its largest entries; of equal ones all stay."""
    size = change.numel()
    if count >= size:
        return change
    if count == 0:
        return torch.zeros_like(change)
    magnitudes = change.detach().abs()
    # `torch.quantile` refuses more than 16 million entries.
    least = magnitudes.flatten().kthvalue(size - count + 1).values
    return torch.where(magnitudes >= least, change, 0.0)


def shared_out(total: int, scores: list[float], caps: list[int]) -> list[int]:
    """Return whole shares of a total in proportion to scores, none above its cap.

    What a cap cuts off goes to the others. Where all scores are zero, caps are the proportions.

    Raises:
        ValueError: a total above the sum of caps.
    """
    room = sum(caps)
    if total > room:
        raise ValueError(f"total={total} is above the sum of caps, {room}")
    if not any(scores):
        scores = [float(cap) for cap in caps]
    ratios = [
        cap / score if score > 0 else math.inf for cap, score in zip(caps, scores, strict=True)
    ]
    found, left, weight = [0] * len(caps), total, sum(scores)
    # Those that reach their cap come first.
    for place in sorted(range(len(caps)), key=ratios.__getitem__):
        room -= caps[place]
        part = left * scores[place] / weight if weight > 0 else left
        found[place] = min(caps[place], max(round(part), left - room))
        left, weight = left - found[place], weight - scores[place]
    return found


class SparseKernel(WeightStructure):
    """A frozen weight and the largest entries of how far a kernel has moved.

    Args:
        weight: W (..., m, n).
        rank: r, the coordinates of a point.
        generator: Draws the points.

    Attributes:
        rows: P (..., 2, m, r).
        columns: Q (..., 2, n, r).
        kept: How many entries of the change are not zero ().
    """

    fixed = ("start_rows", "start_columns")
    kept: Tensor

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        """Start at the weight itself."""
        super().__init__()
        self.shape, self.rank = tuple(weight.shape), rank
        self.extra = FrozenDense(weight)
        *batch, m, n = weight.shape
        points = [normal((*batch, 2, k, rank), rank**-0.5, weight, generator) for k in (m, n)]
        self.rows, self.columns = (nn.Parameter(each) for each in points)
        # Kept and not drawn again, so that no other machine starts elsewhere.
        starts = (nn.Parameter(each.clone(), requires_grad=False) for each in points)
        self.start_rows, self.start_columns = starts
        self.register_buffer("kept", torch.tensor(weight.numel(), device=weight.device))

    def change(self) -> Tensor:
        """Return what is added to W."""
        moved = distance_kernel(self.rows, self.columns)
        start = distance_kernel(self.start_rows, self.start_columns)
        return largest_entries(moved - start, int(self.kept))

    def dense(self) -> Tensor:
        """Return W and the change."""
        return self.extra.dense() + self.change()

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{'x'.join(map(str, self.shape))}, points of {self.rank}"


class SNELLA(RankedAdapter):
    """A sparse change of full rank, of distances between points.

    Args:
        rank: r, the coordinates of a point, or a share of the full rank.
        kept: Share of all targets' entries that may differ from the weights in the end, in (0, 1].
        warmup: Steps, or a share of the run, before the budget begins to fall.
        settle: Steps, or a share of the run, that are left when it has fallen.
        every: Steps from one sharing out to the next, or a share of the run.
        total_steps: Steps of the run.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        *,
        rank: int | float = 8,
        kept: float = 0.1,
        warmup: int | float = 0.05,
        settle: int | float = 0.25,
        every: int | float = 20,
        total_steps: int | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(rank=rank)
        if not 0.0 < kept <= 1.0:
            raise ValueError(f"kept must be a share in (0, 1], got {kept}")
        for name, value in (("warmup", warmup), ("settle", settle), ("every", every)):
            check_steps(value, name)
        self.kept, self.warmup, self.settle = kept, warmup, settle
        self.every, self.total_steps = every, total_steps

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return 2 r (rows + columns)."""
        return 2 * super().numbers(shape)

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> SparseKernel:
        """Put the points beside the weight."""
        return SparseKernel(weight, self.rank_for(name, tuple(weight.shape)), generator)

    def share_at(self, step: int) -> float:
        """Return the share of all entries that may differ after a step."""
        total = known(self.total_steps, "the budget of SNELLA")
        first = steps_of(self.warmup, total, "warmup")
        last = total - steps_of(self.settle, total, "settle")
        done = min(1.0, max(0.0, (step - first) / (last - first)))
        return self.kept + (1.0 - self.kept) * (1.0 - done) ** 3

    def check(self, controller: WatchedWeights) -> None:
        """Check that the budget has the time to fall.

        Raises:
            ValueError: a run that is too short, of unknown length, or of sharded parameters.
        """
        total = known(self.total_steps, "the budget of SNELLA")
        given = {"warmup": self.warmup, "settle": self.settle}
        ends = [steps_of(value, total, name) for name, value in given.items()]
        if sum(ends) >= total:
            raise ValueError(
                f"warmup={self.warmup} and settle={self.settle} leave nothing of the {total} steps "
                f"of the run; lower them"
            )
        if any(hasattr(s.rows, "full_tensor") for s in _kernels(controller).values()):
            raise ValueError("SNELLA compares whole matrices of entries; use trainer.parallel=ddp")

    def start(self, controller: WatchedWeights) -> None:
        """Begin the scores."""
        controller.state["scores"] = dict.fromkeys(_kernels(controller), 0.0)

    @torch.no_grad()
    def before_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Update how much the loss feels the points of each weight."""
        unit = float(controller.as_gradient(torch.ones(())))
        scores = dict(controller.state["scores"])
        for name, kernel in _kernels(controller, frozen=False).items():
            pairs = [(p, p.grad) for p in (kernel.rows, kernel.columns)]
            felt = sum(float((p * grad).abs().sum()) for p, grad in pairs if grad is not None)
            scores[name] = MEMORY * scores[name] + (1 - MEMORY) * felt / unit
        controller.state["scores"] = scores

    def after_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Share the budget out where it is time."""
        total = known(self.total_steps, "the budget of SNELLA")
        every, last = (steps_of(self.every, total, "every"),
                       total - steps_of(self.settle, total, "settle"))  # fmt: skip
        if controller.step > last or (controller.step % every and controller.step != last):
            return
        found = _kernels(controller)
        caps = [torch.Size(kernel.shape).numel() for kernel in found.values()]
        scores = [controller.state["scores"][name] for name in found]
        counts = shared_out(round(self.share_at(controller.step) * sum(caps)), scores, caps)
        for (name, kernel), count in zip(found.items(), counts, strict=True):
            kernel.kept.fill_(count)
            for twin in controller.twins_of(name):
                assert isinstance(twin, SparseKernel)
                twin.kept.fill_(count)


def _kernels(controller: WatchedWeights, *, frozen: bool = True) -> dict[str, SparseKernel]:
    found = controller.structures(frozen=frozen)
    return {name: s for name, s in found if isinstance(s, SparseKernel)}
