"""ReMix: a router draws k of n adapters for every input, and is trained by reinforcement.

    q = softmax(P x),    I drawn from q without replacement,    y = W x + ω Σ_{i∈I} B_i A_i x

ω = 2 / (k r), or 2 / √(k r), is one constant, so that all active adapters count alike. They are
trained by the ordinary gradient. The router is trained by that of REINFORCE, each of M draws of a
step compared with the mean of the others:

    Σ_m (L_m - mean L) / (M - 1) · ∇ Σ log [q_{i_j} / (1 - Σ_{j'<j} q_{i_{j'}})]

M is the number of micro-batches, `trainer.accumulate`, at least 2. Evaluation takes the k adapters
of the largest q.

Source: Qiu et al. 2026, "ReMix: Reinforcement Routing for Mixtures of LoRAs in LLM Finetuning",
arXiv:2603.10160.
Differs from it: draws are made on different micro-batches, where the paper runs one M times; the
estimate stays unbiased.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from ...target import Target
from ...watched_weights import WatchedWeights
from ...weights.factors import Factors
from ...weights.structure import FrozenDense
from ..adapter import RankedAdapter, fresh_right

__all__ = ["DrawnGate", "ReMix", "leave_one_out", "sequence_log_probability"]


def sequence_log_probability(logits: Tensor, order: Tensor) -> Tensor:
    """Return log Π_j q_{i_j} / (1 - Σ_{j'<j} q_{i_{j'}}) of draws without replacement.

    Args:
        logits: Of q (..., n).
        order: Places (..., k) in the order in which they were drawn.

    Returns:
        (...).
    """
    chosen = logits.gather(-1, order)
    places = order.shape[-1]
    total = torch.zeros_like(chosen[..., 0])
    left = torch.zeros_like(logits, dtype=torch.bool)
    for j in range(places):
        rest = logits.masked_fill(left, -torch.inf).logsumexp(-1)
        total = total + chosen[..., j] - rest
        left = left.scatter(-1, order[..., j : j + 1], True)
    return total


def leave_one_out(losses: Tensor) -> Tensor:
    """Return (L_m - mean L) / (M - 1): what weights the score of each of M draws."""
    return (losses - losses.mean()) / (len(losses) - 1)


class DrawnGate(nn.Module):
    """Gates of 0 and 1, alike for all components of an adapter, k adapters of which are drawn.

    Args:
        columns: Length of an input.
        adapters: n.
        rank: r.
        active: k.
        like: Gives dtype and device.

    Attributes:
        router: P (n, columns), zero at the start.
        scores: Log-probabilities of the draws since `take_scores`.

    Shape:
        (..., columns) -> (..., n r).
    """

    def __init__(self, columns: int, adapters: int, rank: int, active: int, like: Tensor) -> None:
        """Begin undecided."""
        super().__init__()
        self.rank, self.active = rank, active
        self.router = nn.Parameter(like.new_zeros(adapters, columns))
        self.scores: list[Tensor] = []

    def __getstate__(self) -> dict[str, Any]:
        """Leave the graphs of draws out of copies."""
        return {**self.__dict__, "scores": []}

    def forward(self, x: Tensor) -> Tensor:
        """Draw, or in evaluation choose the likeliest."""
        logits = F.linear(x.detach(), self.router)
        keys = logits.detach()
        if self.training:
            # The largest of logits with Gumbel noise are a draw without replacement.
            noise = torch.rand_like(keys).clamp_min(torch.finfo(keys.dtype).tiny)
            keys = keys - (-noise.log()).log()
        order = keys.topk(self.active, dim=-1).indices
        if self.training and torch.is_grad_enabled():
            self.scores.append(sequence_log_probability(logits, order).sum())
        gates = torch.zeros_like(keys).scatter(-1, order, 1.0)
        # DDP waits for a gradient of every parameter, which the loss has none of here.
        return (gates + 0.0 * logits).repeat_interleave(self.rank, -1)

    def take_score(self) -> Tensor | None:
        """Return the log-probability of all draws since the last call, with its graph."""
        scores, self.scores = self.scores, []
        return torch.stack(scores).sum() if scores else None


class ReMix(RankedAdapter):
    """A router that draws the adapters of every input, trained by reinforcement.

    Args:
        rank: r of each adapter, or a share of the full rank.
        adapters: n, at least 1.
        active: k, at least 1 and at most n.
        stabilised: Whether ω is 2 / √(k r) instead of 2 / (k r).

    Raises:
        ValueError: a setting out of its range.
    """

    is_matrix = False

    def __init__(
        self,
        *,
        rank: int | float = 8,
        adapters: int = 8,
        active: int = 2,
        stabilised: bool = False,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(rank=rank)
        if adapters < 1 or not 1 <= active <= adapters:
            raise ValueError(f"active must lie in [1, adapters={adapters}], got {active}")
        self.adapters, self.active, self.stabilised = adapters, active, stabilised
        self._draws: list[tuple[float, dict[str, Tensor]]] = []

    def prepare(self, targets: Any, skipped: Any) -> dict[str, str]:
        """Leave out convolutions."""
        return {
            name: "a gate reads the input of a linear layer, and this is a convolution"
            for name, target in targets.items()
            if isinstance(target, Target) and target.unfolding is not None
        }

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return n (r (rows + columns) + columns)."""
        return self.adapters * (super().numbers(shape) + shape[-1])

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Put the adapters and the router beside the weight."""
        rows, columns = weight.shape
        rank = self.rank_for(name, tuple(weight.shape))
        size = self.active * rank
        return Factors(
            weight.new_zeros(rows, self.adapters * rank),
            fresh_right(weight, self.adapters * rank, generator),
            scale=2.0 / (size**0.5 if self.stabilised else size),
            extra=FrozenDense(weight),
            gate=DrawnGate(columns, self.adapters, rank, self.active, weight),
        )

    def note_loss(self, controller: WatchedWeights, loss: Tensor) -> None:
        """Keep the loss of a micro-batch, and the gradient of the score of its draws.

        Before the backward pass, which frees what the score shares with the loss.
        """
        found = {}
        for name, gate in _gates(controller).items():
            score = gate.take_score()
            if score is not None:
                found[name] = torch.autograd.grad(score, gate.router, retain_graph=True)[0]
        self._draws.append((float(loss.detach()), found))

    def before_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Give the routers their gradients.

        Raises:
            ValueError: fewer than two draws, which cannot be compared.
        """
        draws, self._draws = self._draws, []
        if len(draws) < 2:
            raise ValueError(
                f"ReMix compares the draws of a step, and there were {len(draws)}; set "
                f"trainer.accumulate to 2 or more, or call controller.note_loss(loss) for each "
                f"micro-batch before optimizer.step()"
            )
        weights = leave_one_out(torch.tensor([loss for loss, _ in draws], dtype=torch.float64))
        for name, gate in _gates(controller).items():
            parts = [found.get(name) for _, found in draws]
            terms = [float(w) * p for w, p in zip(weights, parts, strict=True) if p is not None]
            gradient = torch.stack(terms).sum(0)
            if distributed.is_available() and distributed.is_initialized():
                distributed.all_reduce(gradient)
                gradient /= distributed.get_world_size()
            gradient = controller.as_gradient(gradient)
            own = gate.router.grad
            gate.router.grad = gradient if own is None else own + gradient


def _gates(controller: WatchedWeights) -> dict[str, DrawnGate]:
    found = controller.factors(frozen=False).items()
    return {name: f.gate for name, f in found if isinstance(f.gate, DrawnGate)}
