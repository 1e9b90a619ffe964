"""Self-attention: plain for images, and causal with rotary positions, QK-norm and a cache.

Sources: RoPE, Su et al. 2021, arXiv:2104.09864, §3.2; QK-norm, Henry et al. 2020, arXiv:2010.04245.
Differs from them: the rotated pairs are the two halves of a head, not neighbours (a permutation of
its channels); RMS norm with a gain instead of L2 norm with a temperature, before the rotation.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers.residual import Heads, Read
from ...layers.units import Bond, Units, UnitTrace
from ..axes.geometries.contract import Geometry
from ..axes.geometries.euclidean_space import Euclidean
from ..branch import output_weight_of

__all__ = [
    "FLAT",
    "CausalAttention",
    "KeyValueCache",
    "Mix",
    "SelfAttention",
    "heads",
    "join_heads",
    "normed_and_turned",
    "rotate",
    "rotation",
]

VIEWS = ("query", "key", "value")
FLAT = Euclidean()


class Mix(Protocol):
    """What a residual makes of keys and values; a class, since torch.fx writes its name down."""

    def __call__(self, key: Tensor, value: Tensor, /) -> Heads:
        """Return the keys and values to attend to."""
        ...


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

    Residuals that look along the tokens keep their short windows here too.

    Only the newest `limit` positions are kept: beyond the context length, generation sees a
    sliding window. None keeps all.
    """

    def __init__(self, limit: int | None) -> None:
        """Start empty."""
        self.limit = limit
        self.position: int | Tensor = 0
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}
        self._windows: dict[str, Tensor] = {}
        self._fixed: dict[int, Any] = {}

    def fixed(self, branch: int, make: Callable[[], Any]) -> Any:
        """Return what a branch made of its first tokens, so that later ones change nothing."""
        if branch not in self._fixed:
            self._fixed[branch] = make()
        return self._fixed[branch]

    def tensors(self) -> dict[str, Tensor]:
        """All that is kept, by name: `key_0`, `value_0`, … (B, heads, T, head_dim), `window_0` …"""
        named = {}
        for branch, (key, value) in self._pairs.items():
            named |= {f"key_{branch}": key, f"value_{branch}": value}
        return named | {f"window_{i}": x for i, x in enumerate(self._windows.values())}

    def replaced(self, position: int | Tensor, tensors: Sequence[Tensor]) -> "KeyValueCache":
        """Return a cache of as many tokens as `position`, with other tensors in the order of these.

        Args:
            position: Of the next token.
            tensors: As `tensors` names them.
        """
        cache, values = KeyValueCache(self.limit), iter(tensors)
        cache.position = position
        cache._pairs = {branch: (next(values), next(values)) for branch in self._pairs}
        cache._windows = {name: next(values) for name in self._windows}
        return cache

    def extend(self, branch: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, heads, T, head_dim) of a branch and return all of them."""
        if branch in self._pairs:
            old_key, old_value = self._pairs[branch]
            key, value = torch.cat([old_key, key], -2), torch.cat([old_value, value], -2)
        if self.limit is not None:
            key, value = key[..., -self.limit :, :], value[..., -self.limit :, :]
        self._pairs[branch] = (key, value)
        return key, value

    def window(self, name: str, x: Tensor, length: int) -> Tensor:
        """Return x (B, T, …) after the `length` tokens last seen under a name, zeros at first."""
        if name not in self._windows:
            self._windows[name] = x.new_zeros(x.shape[0], length, *x.shape[2:])
        x = torch.cat([self._windows[name], x], dim=1)
        self._windows[name] = x[:, x.shape[1] - length :]
        return x


def heads(qkv: nn.Module, x: Read, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Project one tensor (B, T, D), or a view for each, to queries, keys and values.

    Returns:
        Three tensors (B, num_heads, T, D / num_heads).
    """
    if isinstance(x, Mapping):
        projected = torch.cat(_projected(qkv, [x[view] for view in VIEWS]), dim=-1)
    else:
        projected = qkv(x)
    query, key, value = split_heads(projected, num_heads).unbind()
    return query, key, value


# Not by einops, whose reading of a pattern a small model notices when it generates token by token.
def split_heads(projected: Tensor, num_heads: int) -> Tensor:
    """Rearrange b t (three h d) -> three b h t d: queries, keys and values of each head."""
    return projected.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)


def join_heads(y: Tensor) -> Tensor:
    """Rearrange b h t d -> b t (h d): the heads of a token side by side."""
    return y.transpose(1, 2).flatten(2)


def _projected(qkv: nn.Module, views: Sequence[Tensor]) -> list[Tensor]:
    """Give each view its own third of the outputs of a projection."""
    count = len(views)
    if not getattr(qkv, "is_matrix", isinstance(qkv, nn.Linear)):
        # No rows to part, such as with an activation between two factors: each view goes through
        # all of it.
        return [qkv(x).chunk(count, -1)[i] for i, x in enumerate(views)]
    weight, bias = cast(Tensor, qkv.weight), cast(Tensor | None, qkv.bias)
    biases = [None] * count if bias is None else bias.chunk(count)
    parts = zip(views, weight.chunk(count), biases, strict=True)
    return [F.linear(x, w, b) for x, w, b in parts]


class Attention(nn.Module):
    """What an attention declares of itself as a branch, under the parameter names of timm's.

    A gain of the branch leaves queries and keys their scale: only values pass to the output.
    """

    qkv: nn.Module
    attend: Any
    proj: Any
    views = VIEWS
    mixes_heads = True

    @property
    def output_weight(self) -> Tensor | None:
        """That of the projection behind the heads."""
        return output_weight_of(self.proj)

    @property
    def value_projections(self) -> tuple[Tensor, ...]:
        """The last third of the rows of the joint projection."""
        weight = cast(Tensor, self.qkv.weight)
        return (weight[2 * len(weight) // 3 :],)

    def follow_heads(self, trace: UnitTrace, x: Units, num_heads: int, *, free: bool) -> Units:
        """Follow units through the heads, which move as a whole; values also inside their head.

        Args:
            trace: Of the model.
            x: The units of the stream.
            num_heads: Heads.
            free: Whether queries and keys may change places inside their head, alike.
        """
        width = cast(Tensor, self.qkv.weight).shape[0] // 3
        query, value = trace.new(width, self), trace.new(width, self.proj)
        gains = trace.new(num_heads, self.attend)
        Bond(num_heads, {query: free, value: True, gains: False})
        trace.through(self.qkv, x, out=(query, query, value))
        trace.parameters(self.attend, heads=gains)
        return trace.through(self.proj, value)


class SelfAttention(Attention):
    """Multi-head self-attention over all tokens.

    Args:
        width: Token width; a multiple of num_heads.
        num_heads: Heads.
        qk_norm: Whether queries and keys are layer-normed in each head; None is as `space` says.
        drop_rate: Dropout of the attention weights, in [0, 1).
        space: The geometry of the tokens.

    Shape:
        (B, T, width), or a mapping of three such views, -> (B, T, width).

    Raises:
        ValueError: drop_rate > 0 in a curved space.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        qk_norm: bool | None = None,
        drop_rate: float = 0.0,
        space: Geometry = FLAT,
    ) -> None:
        """Build the projections."""
        super().__init__()
        self.num_heads = num_heads
        self.merge = space.merge
        qk_norm = space.norms_queries if qk_norm is None else qk_norm
        self.qkv = space.qkv(width)
        self.q_norm = nn.LayerNorm(width // num_heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(width // num_heads) if qk_norm else nn.Identity()
        self.attend = space.attention(num_heads, drop_rate)
        self.proj = space.linear(width, width)

    def follow_units(self, trace: UnitTrace, x: Units) -> Units:
        """Follow the heads; a norm of queries and keys has one gain for each place of a head."""
        free = isinstance(self.q_norm, nn.Identity) and isinstance(self.k_norm, nn.Identity)
        inside = trace.fixed(name="the inside of a head")
        trace.chain(inside, self.q_norm)
        trace.chain(inside, self.k_norm)
        return self.follow_heads(trace, x, self.num_heads, free=free)

    def forward(self, x: Read, *, mix: Mix | None = None) -> Tensor:
        """Attend to every token, by keys and values that `mix` may exchange."""
        query, key, value = heads(self.qkv, x, self.num_heads)
        if mix is not None:
            key, value = mix(key, value)
        y = self.attend(self.q_norm(query), self.k_norm(key), value)
        return self.proj(self.merge(join_heads(y)))


class CausalAttention(Attention):
    """Multi-head causal self-attention with QK-norm and rotary positions, no biases.

    Args:
        width: Token width; a multiple of 2 · num_heads.
        num_heads: Heads.
        branch: Index of this branch in a cache.
        window: How many tokens one attends to, itself and those just before it, at least 1; None
            is all.
        space: The geometry of the tokens.

    Shape:
        (B, T, width), or a mapping of three such views, -> (B, T, width).

    Raises:
        ValueError: window < 1.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        branch: int,
        *,
        window: int | None = None,
        space: Geometry = FLAT,
    ) -> None:
        """Build the projections."""
        super().__init__()
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1 or None, got {window}")
        self.num_heads = num_heads
        self.branch = branch
        self.window = window
        self.merge = space.merge
        self.qkv = space.qkv(width, bias=False)
        self.query_norm = nn.RMSNorm(width // num_heads, eps=1e-5)
        self.key_norm = nn.RMSNorm(width // num_heads, eps=1e-5)
        self.attend = space.attention(num_heads)
        self.proj = space.linear(width, width, bias=False)

    def follow_units(self, trace: UnitTrace, x: Units) -> Units:
        """Follow the heads; angles tell the places of queries and keys in a head apart."""
        inside = trace.fixed(name="the inside of a head")
        trace.chain(inside, self.query_norm)
        trace.chain(inside, self.key_norm)
        return self.follow_heads(trace, x, self.num_heads, free=False)

    def forward(
        self,
        x: Read,
        angles: tuple[Tensor, Tensor],
        cache: KeyValueCache | None = None,
        *,
        mix: Mix | None = None,
    ) -> Tensor:
        """Attend to the tokens before and to those in the cache; `mix` may exchange its own."""
        query, key, value = heads(self.qkv, x, self.num_heads)
        if mix is not None:
            key, value = mix(key, value)
        length = query.shape[-2]
        query, key = normed_and_turned(self, query, key, angles)
        centre = None
        if cache is not None:
            key, value = cache.extend(self.branch, *self.attend.kept(key, value))
            centre = cache.fixed(self.branch, lambda: self.attend.centre_of_prompt(key, value))
        past = key.shape[-2] - length
        mask, causal = None, False
        limited = cache is not None or self.window is not None
        if limited and torch.compiler.is_exporting():
            # Lengths are symbols, and one graph serves them all.
            mask = self._reach(length, past, key)
        else:
            if self.window is not None and past >= self.window:  # out of the first query's reach
                key, value = (x[..., past - self.window + 1 :, :] for x in (key, value))
                past = self.window - 1
            narrow = self.window is not None and self.window < past + length
            if length > 1 and (past > 0 or narrow):
                mask = self._reach(length, past, key)
            causal = length > 1 and mask is None
        y = self.attend(query, key, value, mask=mask, causal=causal, centre=centre)
        return self.proj(self.merge(join_heads(y)))

    def _reach(self, length: int, past: int, like: Tensor) -> Tensor:
        """Which of all keys each of the newest queries sees, (length, past + length)."""
        keys = torch.arange(past + length, device=like.device)
        queries = keys[past:, None]
        seen = keys <= queries
        return seen if self.window is None else seen & (keys > queries - self.window)


def normed_and_turned(
    attention: CausalAttention, query: Tensor, key: Tensor, angles: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Norm queries and keys (B, heads, T, head_dim) and turn them by their angles, if any."""
    # Norms and angles in at least float32, also under autocast, and one cast for the attention.
    dtype = query.dtype
    wide = torch.promote_types(dtype, torch.float32)
    query = _norm_in(wide, attention.query_norm, query)
    key = _norm_in(wide, attention.key_norm, key)
    if angles is not None:
        query, key = rotate(query, *angles), rotate(key, *angles)
    return query.to(dtype), key.to(dtype)


def _norm_in(dtype: torch.dtype, norm: nn.RMSNorm, x: Tensor) -> Tensor:
    """Apply a norm in a wider dtype than its gain may have."""
    weight = None if norm.weight is None else norm.weight.to(dtype)
    return F.rms_norm(x.to(dtype), norm.normalized_shape, weight, norm.eps)
