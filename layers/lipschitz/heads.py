"""Heads, margins and losses of certified classification.

With a network body of constant L and logits f = W g + b, the prediction y cannot change within

    r = min_{j ≠ y} (f_y − f_j) / (L ‖W_y − W_j‖),

which is at least the radius min_j (f_y − f_j) / (√2 L_f) of a logit vector that is L_f-Lipschitz as
a whole. A head with rows of norm 1 (last-layer normalisation, LLN) is Lipschitz in every logit, but
its logit vector is not: √2 is wrong there, the pairwise radius right.

The usual loss is the cross-entropy of (f − √2 ε onehot(y)) / T: the true logit is taken down by
what an attack of length ε on a 1-Lipschitz network could take from the margin.

Sources: Tsuzuku et al. 2018, arXiv:1802.04034 (margin); Singla et al. 2022, arXiv:2108.04062 (LLN);
Prach and Lampert 2022, arXiv:2208.03160 (offset and temperature).
Differs from them: nothing.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from .bounded_linear import BoundedLinear

__all__ = ["NormalizedLinear", "margin_logits", "margin_radius", "pairwise_radius"]


def margin_radius(logits: Tensor, lipschitz: float) -> Tensor:
    """Return how far an input must move (L2) before the prediction changes.

    Args:
        logits: (…, K), of a network whose logit vector is `lipschitz`-Lipschitz.
        lipschitz: L_f > 0.

    Returns:
        (…), zero where two logits lead together.
    """
    lead = logits.topk(2, dim=-1).values
    return (lead[..., 0] - lead[..., 1]) / (math.sqrt(2) * lipschitz)


def pairwise_radius(logits: Tensor, weight: Tensor, lipschitz: float) -> Tensor:
    """Return the same from the head's rows, never smaller than `margin_radius` of the whole.

    Args:
        logits: (…, K), W g + b.
        weight: W (K, D).
        lipschitz: L of the body g.

    Returns:
        (…); infinite where no other class can win because all rows are equal.
    """
    rows = weight.to(logits.dtype)
    distances = (rows[:, None] - rows[None]).norm(dim=-1)
    top = logits.argmax(-1, keepdim=True)
    lead = logits.gather(-1, top) - logits
    own = F.one_hot(top.squeeze(-1), logits.shape[-1]).bool()
    radii = lead / (lipschitz * distances[top.squeeze(-1)])
    # Equal rows and equal biases: 0/0, a tie that no radius holds.
    return radii.nan_to_num(nan=0.0, posinf=math.inf).masked_fill(own, math.inf).amin(-1)


def margin_logits(logits: Tensor, targets: Tensor, offset: float, temperature: float) -> Tensor:
    """Return (f − √2 ε onehot(y)) / T, whose cross-entropy asks for a margin of √2 ε.

    Args:
        logits: (B, K).
        targets: Class indices (B,), or shares of classes (B, K).
        offset: ε ≥ 0, in the units of the input.
        temperature: T > 0.
    """
    shares = targets
    if targets.dim() < logits.dim():
        shares = F.one_hot(targets, logits.shape[-1])
    return (logits - math.sqrt(2) * offset * shares.to(logits.dtype)) / temperature


class NormalizedLinear(BoundedLinear):
    """A head whose rows have norm 1: each logit is 1-Lipschitz, the vector of K only √K.

    Args:
        in_features: Inputs, at least 1.
        out_features: Classes K, at least 1.
        bias: Whether b is learned.

    Shape:
        (…, in_features) -> (…, out_features).

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        """Make the rows and b."""
        super().__init__(in_features, out_features, bias=bias)
        self.lipschitz = math.sqrt(out_features)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the rows, and zero b."""
        nn.init.normal_(self.weight, std=self.in_features**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def compute(self, parameters: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Divide each row by its norm."""
        return (F.normalize(parameters["weight"], dim=1),)
