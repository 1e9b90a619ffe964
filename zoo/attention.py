"""Causal self-attention with rotary positions, QK-norm and a key-value cache.

Sources: RoPE, Su et al. 2021, arXiv:2104.09864, §3.2; QK-norm, Henry et al. 2020, arXiv:2010.04245.
Differs from them: the rotated pairs are the two halves of a head, not neighbours (a permutation of
its channels); RMS norm with a gain instead of L2 norm with a temperature, before the rotation.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CausalAttention", "KeyValueCache", "rotate", "rotation"]


def rotation(positions: Tensor, head_dim: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the rotary angles, each (T, head_dim / 2) in float32.

    Args:
        positions: Token positions (T,).
        head_dim: Width of a head, even.
        base: Longest wavelength over 2π, in tokens.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angles = positions.float()[:, None] * base ** (-exponents / head_dim)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x_i, x_{i + head_dim / 2}) of (…, T, head_dim) by their angles."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class KeyValueCache:
    """Keys and values of the tokens seen so far, one pair per attention branch.

    Only the newest `limit` positions are kept: beyond the context length, generation sees a
    sliding window.
    """

    def __init__(self, limit: int) -> None:
        """Start empty."""
        self.limit = limit
        self.position = 0
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(self, branch: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, heads, T, head_dim) of a branch and return all of them."""
        if branch in self._pairs:
            old_key, old_value = self._pairs[branch]
            key, value = torch.cat([old_key, key], -2), torch.cat([old_value, value], -2)
        key, value = key[..., -self.limit :, :], value[..., -self.limit :, :]
        self._pairs[branch] = (key, value)
        return key, value


class CausalAttention(nn.Module):
    """Multi-head causal self-attention with QK-norm and rotary positions, no biases.

    Args:
        width: Token width; a multiple of 2 · num_heads.
        num_heads: Heads.
        branch: Index of this branch in a cache.

    Shape:
        (B, T, width) -> (B, T, width).
    """

    def __init__(self, width: int, num_heads: int, branch: int) -> None:
        """Build the projections."""
        super().__init__()
        self.num_heads = num_heads
        self.branch = branch
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_norm = nn.RMSNorm(width // num_heads, eps=1e-5)
        self.key_norm = nn.RMSNorm(width // num_heads, eps=1e-5)
        self.proj = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor], cache: KeyValueCache | None = None
    ) -> Tensor:
        """Attend to the tokens before and to those in the cache."""
        batch, length, width = x.shape
        shape = (batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = self.qkv(x).view(shape).permute(2, 0, 3, 1, 4)
        # Norms and angles in at least float32, also under autocast, and one cast for the attention.
        wide = torch.promote_types(value.dtype, torch.float32)
        query = rotate(_norm_in(wide, self.query_norm, query), *angles).to(value.dtype)
        key = rotate(_norm_in(wide, self.key_norm, key), *angles).to(value.dtype)
        mask = None
        if cache is not None:
            key, value = cache.extend(self.branch, key, value)
            if 1 < length < key.shape[-2]:
                past = key.shape[-2] - length
                mask = torch.ones(length, key.shape[-2], dtype=torch.bool, device=x.device)
                mask = mask.tril(past)
        causal = length > 1 and mask is None
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        return self.proj(y.transpose(1, 2).reshape(batch, length, width))


def _norm_in(dtype: torch.dtype, norm: nn.RMSNorm, x: Tensor) -> Tensor:
    """Apply a norm in a wider dtype than its gain may have."""
    weight = None if norm.weight is None else norm.weight.to(dtype)
    return F.rms_norm(x.to(dtype), norm.normalized_shape, weight, norm.eps)
