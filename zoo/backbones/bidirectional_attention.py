"""Self-attention in both directions over the real tokens of padded sequences."""

# Shape letters: B batch, T tokens.

import torch
from torch import Tensor

from ...layers.residual import Read
from ..axes.geometries.contract import Geometry
from .self_attention import FLAT, CausalAttention, Mix, heads, join_heads, normed_and_turned

__all__ = ["BidirectionalAttention"]


class BidirectionalAttention(CausalAttention):
    """Multi-head self-attention to all real tokens, with the projections of the causal one.

    Args:
        width: Token width; a multiple of 2 · num_heads.
        num_heads: Heads.
        space: The geometry of the tokens.

    Shape:
        (B, T, width), or a mapping of three such views, -> (B, T, width).

    Source: Devlin et al. 2019, "BERT", arXiv:1810.04805.
    Differs from it: positions, norms and projections are those of `CausalAttention`.
    """

    def __init__(self, width: int, num_heads: int, *, space: Geometry = FLAT) -> None:
        """Build the projections; there is no cache, and so no place in one."""
        super().__init__(width, num_heads, 0, space=space)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # padding, and no cache
        self,
        x: Read,
        angles: tuple[Tensor, Tensor] | None,
        padding_mask: Tensor | None = None,
        *,
        mix: Mix | None = None,
    ) -> Tensor:
        """Attend to every token that is none of padding, by keys and values `mix` may exchange.

        Args:
            x: The tokens.
            angles: Of the rotation; None leaves positions out.
            padding_mask: Whether a token is real, bool (B, T); each row needs one. None is all of
                them.
            mix: As in `CausalAttention`.

        Raises:
            ValueError: a mask of numbers, which an attention would add to its scores.
        """
        if padding_mask is not None and padding_mask.dtype != torch.bool:
            raise ValueError(
                f"padding_mask must be of torch.bool, true where a token is real, got "
                f"{padding_mask.dtype}; give tokens != 0"
            )
        query, key, value = heads(self.qkv, x, self.num_heads)
        if mix is not None:
            key, value = mix(key, value)
        query, key = normed_and_turned(self, query, key, angles)
        seen = None if padding_mask is None else padding_mask[:, None, None, :]
        return self.proj(self.merge(join_heads(self.attend(query, key, value, mask=seen))))
