"""Bidirectional encoder of sequences over any residual, in any geometry.

The blocks of the GPT, each token of which sees all others: pre-RMSNorm, rotary positions, per-head
RMSNorm on queries and keys, SwiGLU, no biases. It names what masked tokens were, by a head tied to
the embedding, or classifies the mean of its tokens, with no token for the purpose.

Sources: Devlin et al. 2019, "BERT", arXiv:1810.04805; what it is trained on here, k-mers of
sequences, is that of arXiv:2411.08073. The blocks are those of `gpt.py`.
Differs from them: no segments, no next-sentence loss and no class token; norms before the branches.
"""

# Shape letters: B batch, T tokens.

from typing import Any

import torch
from torch import Tensor, nn

from ...layers.sizes import check_rates, check_sizes
from ..axes.geometry import Geometry, GeometryName, HeadName
from ..axes.residuals import ResidualSpec
from ..models import register_model
from ..token_network import TokenNetwork
from .bidirectional_attention import BidirectionalAttention
from .feed_forward import GatedFeedForward
from .self_attention import rotation

__all__ = ["PADDING", "Encoder", "encoder_nano", "encoder_small", "encoder_tiny"]

PADDING = 0
"""The token that fills a batch up, to which nothing attends."""


class Encoder(TokenNetwork):
    """A transformer whose tokens see one another, with a head for tokens or for sequences.

    Args:
        vocab_size: Number of token ids, at least 2; 0 is the padding.
        context_length: Longest training sequence; longer ones are taken, too.
        width: Token width; a multiple of 2 · num_heads.
        depth: Blocks, each an attention and an MLP branch.
        num_heads: Attention heads.
        num_classes: None is a head over the tokens, tied to the embedding; a number is a classifier
            of the whole sequence, 0 none.
        rotary: Whether tokens know their positions; without, a permutation of tokens permutes what
            the network makes of them.
        residual: The residual mechanism: a name, a mapping or a builder.
        geometry: The space of the tokens: `euclidean`, `poincare` or `lorentz`.
        curvature: c > 0, minus the sectional curvature; None is 0.1 in a curved space.
        learned_curvature: Whether c is learned, one for all layers.
        head: `linear`, `mlr` (distances to hyperplanes) or `distance` (to points). None is `linear`
            in flat space; in a curved one it is `distance` where the head is tied, else `mlr`.
        drop_rate: Dropout of the embedding and before a classifier, in [0, 1).
        drop_path_rate: Stochastic depth of the last branch, in [0, 1).
        norm_eps: As in `GPT`.

    Shape:
        token ids (B, T) -> logits (B, num_classes); (B, T, vocab_size) where num_classes is None.

    Raises:
        ValueError: a size or rate out of range, a norm_eps below 0, a width that the heads do not
            divide into even parts, a residual or a head of another space, or a curvature that
            nothing has.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 259,
        context_length: int = 512,
        width: int = 192,
        depth: int = 4,
        num_heads: int = 3,
        num_classes: int | None = None,
        rotary: bool = True,
        residual: ResidualSpec = "add",
        geometry: GeometryName = "euclidean",
        curvature: float | None = None,
        learned_curvature: bool = False,
        head: HeadName | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_eps: float = 1e-5,
    ) -> None:
        """Build the embedding, the trunk and the head."""
        check_sizes(2, vocab_size=vocab_size)
        check_rates(drop_rate=drop_rate)

        def block(space: Geometry, place: int) -> list[tuple[str, nn.Module]]:
            return [
                ("attention", BidirectionalAttention(width, num_heads, space=space)),
                ("mlp", GatedFeedForward(width, 8 * width // 3, space=space)),
            ]

        super().__init__(
            block,
            vocab_size=vocab_size,
            context_length=context_length,
            width=width,
            depth=depth,
            num_heads=num_heads,
            num_classes=num_classes,
            residual=residual,
            geometry=geometry,
            curvature=curvature,
            learned_curvature=learned_curvature,
            head=head,
            drop_path_rate=drop_path_rate,
            norm_eps=norm_eps,
        )
        self.rotary, self.names_tokens = rotary, num_classes is None
        self.drop = nn.Dropout(drop_rate)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the normed tokens (B, T, width); those of padding are zeros."""
        mask = real_tokens(x)
        angles = None
        if self.rotary:
            angles = rotation(torch.arange(x.shape[1], device=x.device), self.head_dim)
        extras = [(angles, mask) if site.attends else () for site in self.trunk.residual.sites]
        features = self.norm(self.trunk(self.drop(self.embedding(x)), extras))
        return features.masked_fill(~mask[:, :, None], 0.0)

    def pool(self, x: Tensor) -> Tensor:
        """Return all tokens, or for a classifier the mean of the space over the real ones.

        Raises:
            ValueError: there is no token to take a mean of.
        """
        if self.names_tokens:
            return x
        if x.shape[1] == 0:
            raise ValueError(
                f"a sequence to classify has at least one token, got shape {tuple(x.shape[:2])}; "
                f"leave empty ones out"
            )
        weights = (x != 0).any(-1, keepdim=True).to(x.dtype)
        return self.drop(self.space.mean(x, over=1, dim=-1, weights=weights))

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head, also that of tokens, by a fresh one of sequences; 0 classes removes it.

        Raises:
            ValueError: num_classes < 0, or a global_pool, of which there is one.
        """
        super().reset_classifier(num_classes, global_pool)
        self.names_tokens = False


def real_tokens(x: Tensor) -> Tensor:
    """Whether a token is none of padding, (B, T); in a row of nothing else, all of them are."""
    real = x != PADDING
    return real | ~real.any(1, keepdim=True)


@register_model(source="arXiv:1810.04805", kind="sequence", extends=Encoder)
def encoder_nano(
    context_length: int = 64, width: int = 64, depth: int = 2, num_heads: int = 2, **options: Any
) -> Encoder:
    """The smallest encoder of sequences, for tests."""
    sizes = {"context_length": context_length, "width": width, "depth": depth}
    return Encoder(num_heads=num_heads, **sizes, **options)


@register_model(source="arXiv:1810.04805", kind="sequence", extends=Encoder)
def encoder_tiny(width: int = 192, depth: int = 4, num_heads: int = 3, **options: Any) -> Encoder:
    """An encoder of 1.8 M parameters, which learns on a laptop."""
    return Encoder(width=width, depth=depth, num_heads=num_heads, **options)


@register_model(source="arXiv:1810.04805", kind="sequence", extends=Encoder)
def encoder_small(width: int = 384, depth: int = 8, num_heads: int = 6, **options: Any) -> Encoder:
    """An encoder of 14 M parameters."""
    return Encoder(width=width, depth=depth, num_heads=num_heads, **options)
