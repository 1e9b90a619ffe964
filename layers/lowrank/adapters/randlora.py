"""RandLoRA: a change of full rank, made of fixed random matrices that few numbers scale.

    ΔW = (α / r) Σ_n B_n diag(λ_n) A diag(γ_n),    N = ⌈short / r⌉ terms,    rows ≥ columns

B_n (long, r) and A (r, short) follow from a seed and are not stored; λ (N, r) = 0 and γ (N, short)
= 1 / long are trained. For rows < columns all is transposed, so γ lies along the shorter side.

Source: Albert et al. 2025, "RandLoRA: Full-rank parameter-efficient fine-tuning of large models",
arXiv:2502.00987.
Differs from it: weights of one shape share their matrices, whatever other targets there are, where
the published code cuts all from matrices of the largest shape and so depends on the other targets;
the matrices have the precision of the weight.
"""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...decay import exclude_from_decay
from ..maths.random_vectors import uniform
from ..weights.structure import FrozenDense, WeightStructure
from .adapter import ScaledAdapter

__all__ = ["RandLoRA", "RandomBases", "random_bases"]


def random_bases(
    shape: tuple[int, ...], rank: int, seed: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Return B (long, N r) and A (r, short), each of unit deviation, for a weight of a shape."""
    long, short = max(shape[-2:]), min(shape[-2:])
    terms = -(-short // rank)
    text = f"randlora/{seed}/{long}/{short}/{rank}".encode()
    digest = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
    generator = torch.Generator().manual_seed(digest)
    bound = 3**0.5  # of a uniform distribution of unit deviation
    left = uniform((long, terms * rank), bound, like, generator)
    return left, uniform((rank, short), bound, like, generator)


class RandomBases(WeightStructure):
    """A frozen weight and a sum of scaled random matrices.

    Args:
        weight: W (..., rows, columns).
        left: B (long, N r), shared.
        right: A (r, short), shared.
        scale: s.

    Attributes:
        weights: λ (..., N, r).
        gains: γ (..., N, short), free of weight decay, since they do not start at 0.
        made_of: A checksum of the random matrices, for which a state dict is refused that was
            trained with others.
    """

    left: Tensor
    right: Tensor
    made_of: Tensor

    def __init__(self, weight: Tensor, left: Tensor, right: Tensor, *, scale: float) -> None:
        """Keep the matrices outside the state dict."""
        super().__init__()
        self.shape, self.scale = tuple(weight.shape), scale
        self.extra = FrozenDense(weight)
        rank, short = right.shape
        *batch, _, _ = weight.shape
        terms = left.shape[-1] // rank
        self.weights = nn.Parameter(weight.new_zeros(*batch, terms, rank))
        gains = weight.new_full((*batch, terms, short), 1 / left.shape[0])
        self.gains = nn.Parameter(gains)
        exclude_from_decay(self, "gains")
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("right", right, persistent=False)
        self.register_buffer("made_of", _checksum(left, right))

    def dense(self) -> Tensor:
        """Return W + ΔW."""
        change = self.scale * (self.left @ self._scaled())
        rows, columns = self.shape[-2:]
        return self.extra.dense() + (change if rows >= columns else change.mT)

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply by one factor after the other."""
        rows, columns = self.shape
        first, second = self._scaled(), self.left
        if rows < columns:
            first, second = self.left.mT, first.mT
        y = F.linear(self.scale * F.linear(x, first), second, bias)
        return y + self.extra.linear(x, None)

    def _scaled(self) -> Tensor:
        """Return diag(λ_n) A diag(γ_n) below each other (..., N r, short)."""
        scaled = self.weights[..., None] * self.right * self.gains[..., None, :]
        return scaled.flatten(-3, -2)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Refuse numbers that scale other matrices."""
        saved = state_dict.get(f"{prefix}made_of")
        if saved is not None and not self.made_of.is_meta and int(saved) != int(self.made_of):
            errors: list[str] = args[-1]
            errors.append(
                f"{prefix}made_of: the adapter was trained with other random matrices; make it "
                f"with the rank and the basis_seed it was made with"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """Show the sizes."""
        terms, rank = self.weights.shape[-2:]
        return f"{'x'.join(map(str, self.shape))}, terms={terms}, rank={rank}"


class RandLoRA(ScaledAdapter):
    """A change of full rank from fixed random matrices.

    Args:
        rank: r of each term, or a share of the full rank.
        alpha: α > 0; s = α / r.
        basis_seed: Of the random matrices.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(self, *, rank: int | float = 8, alpha: float = 160.0, basis_seed: int = 0) -> None:
        """Check and keep the settings."""
        super().__init__(rank=rank, alpha=alpha)
        self.basis_seed = basis_seed
        self._bases: dict[Any, tuple[Tensor, Tensor]] = {}

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return N (r + short)."""
        *batch, rows, columns = shape
        rank, short = self.rank_for("a weight", shape), min(rows, columns)
        return torch.Size(batch).numel() * -(-short // rank) * (rank + short)

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> RandomBases:
        """Put the scaled matrices beside the weight."""
        rank = self.rank_for(name, tuple(weight.shape))
        sides = max(weight.shape[-2:]), min(weight.shape[-2:])
        key = (*sides, rank, weight.dtype, weight.device)
        if key not in self._bases:
            self._bases[key] = random_bases(tuple(weight.shape), rank, self.basis_seed, weight)
        return RandomBases(weight, *self._bases[key], scale=self.scale_of(rank))


def _checksum(*tensors: Tensor) -> Tensor:
    """Return 62 bits that follow from float32 values, on the device of the tensors."""
    if tensors[0].is_meta:
        return torch.zeros((), dtype=torch.int64, device="meta")
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    value = int.from_bytes(digest.digest(), "big") >> 2
    return torch.tensor(value, dtype=torch.int64, device=tensors[0].device)
