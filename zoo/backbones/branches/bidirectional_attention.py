"""Self-attention in both directions over the real tokens of padded sequences."""

# Shape letters: B batch, T tokens.

from torch import Tensor

from ....layers.residual import Read
from .self_attention import RotaryAttention, join_heads

__all__ = ["BidirectionalAttention"]


class BidirectionalAttention(RotaryAttention):
    """Multi-head self-attention with QK-norm and rotary positions, no biases, to all real tokens.

    Args:
        width: Token width; a multiple of 2 · num_heads.
        num_heads: Heads.
        space: The geometry of the tokens.

    Shape:
        (B, T, width), or a mapping of three such views, -> (B, T, width).

    Source: Devlin et al. 2019, "BERT", arXiv:1810.04805.
    Differs from it: positions, norms and projections are those of `CausalAttention`.
    """

    def forward(
        self, x: Read, angles: tuple[Tensor, Tensor] | None, mask: Tensor | None = None
    ) -> Tensor:
        """Attend to every token that is none of padding.

        Args:
            x: The tokens.
            angles: Of the rotation; None leaves positions out.
            mask: Whether a token is real, (B, T); each row needs one. None is all of them.
        """
        query, key, value = self.rotated(x, angles)
        seen = None if mask is None else mask[:, None, None, :]
        return self.proj(self.merge(join_heads(self.attend(query, key, value, mask=seen))))
