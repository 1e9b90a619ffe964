"""Maestro: training that orders the components of every weight, so that any prefix can be kept.

Every weight starts as two factors of full rank, W = left right, from a balanced SVD. A step draws a
layer i and a prefix b of its rank (`ordered_dropout`) and minimises

    ℓ(f(x; …, left^i_{:b} right^i_{:b}, …), y) + λ Σ_i Σ_j ‖left^i_{j:}‖ + ‖right^i_{j:}‖

Components whose suffix importance ‖left_{j:}‖ ‖right_{j:}‖ falls below a threshold ε are removed
for good every few steps, with their optimiser state; it never grows with j, so a prefix remains. On
a linear map the minimiser for all b at once is the SVD of W √C, with C = E[x xᵀ]: the truncated SVD
for white inputs, principal components for W = I.

After training any prefix is a model. Two factors of full rank are larger than the weight: what
`convert_uneconomic` makes dense again at export. Batch-norm statistics were gathered under sampled
prefixes, so they must be estimated anew before evaluation.

Source: Horváth et al. 2023, "Maestro: Uncovering Low-Rank Structures via Trainable Decomposition",
arXiv:2308.14929.
Differs from it: the group lasso may act as an exact proximal step after the optimiser's (the
default), which gives true zeros; components are removed and not masked; shrinking counts steps, not
epochs; lasso and sampling may end at a budget, because a prefix of few components, in a network of
few layers, disturbs what all of them learn; the optional second pass at full rank with
self-distillation, which its main results do not use, is left out; grouped convolutions are taken,
their groups sharing a rank.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..maths.decompose import weighted_svd
from ..maths.group_lasso import (
    component_squares,
    flat_group_lasso,
    hierarchical_group_lasso,
    prox_scales,
)
from ..maths.ordered_dropout import SAMPLERS
from ..method import Method
from ..watched_weights import WatchedWeights
from ..weights.factors import Factors
from ..weights.structure import assign, stored_in
from ..weights.unfolding import Scheme

__all__ = ["Maestro", "shrink"]

LASSOS = {"prox": None, "loss": hierarchical_group_lasso, "flat": flat_group_lasso}


class Maestro(Method):
    """Full-rank factors, trained at sampled prefixes under a group lasso, and shrunk on the way.

    Args:
        group_lasso: Weight λ of the group lasso, at least 0; 0 only orders. Start large and halve
            it until accuracy and size are as wanted.
        lasso: `prox`, a proximal step with threshold learning rate · λ after the optimiser's;
            `loss`, the hierarchical lasso as a term of the loss, as published; `flat`, the sum of
            the norms of single components in the loss. With momentum μ a term of the loss acts
            1 / (1 - μ) times stronger than the proximal step of the same λ.
        sampler: `pairs`, as released, `uniform` or `independent`; see `ordered_dropout`.
        sample: Whether prefixes are sampled; without, every step runs at the whole ranks.
        threshold: ε, at least 0: a suffix of a smaller importance is removed. Where nothing orders
            the components, with the `flat` lasso and without sampling, every single component of a
            smaller one is, wherever it stands. A lasso in the loss leaves dead components near
            (learning rate · λ)² under SGD, `loss` up to R² times that, and no zeros: ε must lie
            above it.
        shrink_every: Steps from one removal to the next; 0 never removes. The paper does it after
            every epoch.
        warmup: Steps that run at full rank, without prefixes, lasso or removal, before all of it
            begins.
        budget: Share of the targets' dense parameters, in (0, 1), at which lasso and sampling end:
            the rest of the run trains the ranks that were found. A weight counts as whichever is
            smaller, its factors or the dense matrix. None never ends them, as published, and
            leaves every prefix a model.
        min_rank: Components that every weight keeps. 0 lets a weight vanish: its layer then gives
            its bias, which only a layer beside a skip connection can afford.
        scheme: Unfolding of kernels; `channel` in the paper.

    Raises:
        ValueError: a setting out of its range, or a budget without any removal.
    """

    skips_uneconomic = False  # full rank is where it starts

    def __init__(
        self,
        *,
        group_lasso: float = 1e-3,
        lasso: Literal["prox", "loss", "flat"] = "prox",
        sampler: Literal["pairs", "uniform", "independent"] = "pairs",
        sample: bool = True,
        threshold: float = 1e-7,
        shrink_every: int = 500,
        warmup: int = 0,
        budget: float | None = None,
        min_rank: int = 1,
        scheme: Scheme = "channel",
    ) -> None:
        """Keep the settings."""
        for name, value in {
            "group_lasso": group_lasso,
            "threshold": threshold,
            "shrink_every": shrink_every,
            "warmup": warmup,
            "min_rank": min_rank,
        }.items():
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if lasso not in LASSOS:
            raise ValueError(f"lasso must be one of {', '.join(LASSOS)}, got {lasso!r}")
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
        self.group_lasso, self.lasso = group_lasso, lasso
        self.sampler, self.sample = sampler, sample
        self.threshold, self.shrink_every, self.min_rank = threshold, shrink_every, min_rank
        if budget is not None and not 0.0 < budget < 1.0:
            raise ValueError(f"budget must be a share in (0, 1) or None, got {budget}")
        if budget is not None and not shrink_every:
            raise ValueError("a budget is met by removing components; set shrink_every above 0")
        self.warmup, self.budget = warmup, budget
        self.scheme = scheme

    @property
    def resizes(self) -> bool:
        """Whether components are ever removed."""
        return self.shrink_every > 0

    @property
    def orders(self) -> bool:
        """Whether the components end up in order, so that a prefix of them is what is best kept."""
        return self.sample or (self.lasso != "flat" and self.group_lasso > 0)

    def rank_for(self, name: str, shape: tuple[int, ...]) -> int:
        """Return the full rank."""
        return min(shape[-2:])

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Return balanced factors of full rank."""
        rank = self.rank_for(name, tuple(weight.shape))
        left, right = weighted_svd(weight, rank, split="balanced", generator=generator)[:2]
        return Factors(left, right)

    def check(self, controller: WatchedWeights) -> None:
        """Check that sizes can change.

        Raises:
            ValueError: parameters that are sharded, which cannot shrink.
        """
        sharded = any(hasattr(f.left, "full_tensor") for f in controller.factors().values())
        if sharded and self.resizes:
            raise ValueError(
                "sharded parameters cannot shrink in training; set shrink_every=0, or use "
                "trainer.parallel=ddp"
            )

    def start(self, controller: WatchedWeights) -> None:
        """Draw for the first step."""
        controller.state.update(sampler={}, drawn={})
        self._draw(controller)

    def resumed(self, controller: WatchedWeights) -> None:
        """Run the coming step at what was drawn for it before the checkpoint was written."""
        _set_prefixes(controller)

    def share(self, controller: WatchedWeights) -> float:
        """Return the share, where a weight counts as whichever is smaller, factors or matrix."""
        every = controller.factors().values()
        dense = [torch.Size(factors.shape).numel() for factors in every]
        held = [factors.left.numel() + factors.right.numel() for factors in every]
        return sum(map(min, held, dense)) / sum(dense)

    def out_of_reach(self, steps: int) -> str:
        """Say so where no removal comes after the warm-up and within the run."""
        if self.budget is None or steps // self.shrink_every * self.shrink_every > self.warmup:
            return ""
        after = f" after warmup={self.warmup}" if self.warmup else ""
        return (
            f"budget={self.budget} needs a removal, which shrink_every={self.shrink_every}{after} "
            f"brings to no step of {steps}; lower shrink_every{' or warmup' * bool(after)}"
        )

    def penalty(self, controller: WatchedWeights) -> Tensor | None:
        """Return λ times the group lasso of the active components, or None for a proximal step."""
        lasso = LASSOS[self.lasso]
        if lasso is None or not self.group_lasso or not self._searches(controller, controller.step):
            return None
        found = controller.factors(frozen=False).values()
        if not found:
            return None
        terms = [lasso(*_active(factors)) for factors in found]
        return self.group_lasso * torch.stack(terms).sum()

    def after_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Take the proximal step, remove components when it is time, and draw the next prefix."""
        if self._searches(controller, controller.step - 1):
            if self.lasso == "prox" and self.group_lasso:
                self._proximal_step(controller, optimizer)
            if self.shrink_every and controller.step % self.shrink_every == 0:
                shrink(controller, self.threshold, min_rank=self.min_rank, ordered=self.orders)
        self._draw(controller)

    def _searches(self, controller: WatchedWeights, step: int) -> bool:
        """Whether a step looks for ranks; sizes decide too, not state, so a resumed run agrees."""
        if step < self.warmup:
            return False
        return self.budget is None or self.share(controller) > self.budget

    @torch.no_grad()
    def _proximal_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        rates = {
            id(p): float(group["lr"]) * controller.learning_rate_ratio
            for group in optimizer.param_groups
            if controller.holds_targets(group)
            for p in group["params"]
        }
        parts = [
            (part, dim, self.group_lasso * rates[id(whole)])
            for factors in controller.factors(frozen=False).values()
            for whole, part, dim in zip(
                (factors.left, factors.right), _active(factors), (-1, -2), strict=True
            )
            if id(whole) in rates
        ]
        if not parts:
            return
        squares = [component_squares(part, dim) for part, dim, _ in parts]
        values = torch.cat(squares).tolist()  # one transfer from a GPU for all layers
        scales: list[float] = []
        for own, (_, _, threshold) in zip(squares, parts, strict=True):
            begin = len(scales)
            scales += prox_scales(values[begin : begin + len(own)], threshold)
        every = squares[0].new_tensor(scales).split([len(own) for own in squares])
        for (part, dim, _), scale in zip(parts, every, strict=True):
            _multiply(part, scale.to(part.dtype) if dim == -1 else scale.to(part.dtype)[:, None])

    def _draw(self, controller: WatchedWeights) -> None:
        if not self._searches(controller, controller.step):
            controller.state.update(drawn={})
        elif self.sample:
            found = controller.factors(frozen=False).items()
            ranks = {name: factors.rank for name, factors in found}
            sampler = dict(controller.state["sampler"])  # a state that was saved must not change
            drawn = SAMPLERS[self.sampler](ranks, sampler, controller.generator)
            controller.state.update(sampler=sampler, drawn=drawn)
        _set_prefixes(controller)


def shrink(
    controller: WatchedWeights, threshold: float, *, min_rank: int = 1, ordered: bool = True
) -> dict[str, int]:
    """Remove the components whose suffix importance is below a threshold, but of frozen targets.

    Args:
        controller: Of a run, or fresh from `reparametrize`.
        threshold: ε, at least 0.
        min_rank: Components that every target keeps.
        ordered: Whether a prefix is kept. If not, every component counts by its own importance,
            and those that stay keep their order.

    Returns:
        The new ranks of the targets that changed.

    Raises:
        ValueError: factors that hold NaN or infinite values.
    """
    changed = {}
    for name, factors in controller.factors(frozen=False).items():
        importance = factors.importance("suffix" if ordered else "component")
        if not torch.isfinite(importance).all():
            raise ValueError(
                f"the factors of {name} hold NaN or infinite values, so no rank can be read off "
                f"them; lower the learning rate"
            )
        rank = min(max(int((importance >= threshold).sum()), min_rank), factors.rank)
        if rank < factors.rank:
            # The suffix importance never grows, so its largest values are those of a prefix.
            largest = importance.argsort(descending=True, stable=True)[:rank]
            controller.select(name, largest.sort().values)
            changed[name] = rank
    return changed


def _set_prefixes(controller: WatchedWeights) -> None:
    drawn = controller.state["drawn"]
    for name, factors in controller.factors().items():
        factors.sampled = drawn.get(name)


def _active(factors: Factors) -> tuple[Tensor, Tensor]:
    rank = factors.rank
    if rank == factors.allocated:
        return factors.left, factors.right
    return factors.left[..., :rank], factors.right[..., :rank, :]


def _multiply(part: Tensor, scale: Tensor) -> None:
    if hasattr(part, "full_tensor"):
        assign(part, stored_in(part) * scale)
    else:
        part.mul_(scale)
