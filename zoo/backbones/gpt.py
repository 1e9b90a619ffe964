"""Decoder-only language model over any residual, in any geometry.

Pre-RMSNorm, rotary positions, per-head RMSNorm on queries and keys, SwiGLU, no biases, and an
output head tied to the embedding.

Sources: Radford et al. 2019 (GPT-2); RoPE, Su et al. 2021, arXiv:2104.09864; SwiGLU, Shazeer 2020,
arXiv:2002.05202; QK-norm, Henry et al. 2020, arXiv:2010.04245. The sizes `gpt_124m` and `gpt_353m`
are the baselines of Zhang et al. 2026, arXiv:2601.00417 (123,590,400 and 353,508,352 parameters).
Differs from the latter: queries and keys are normed before the rotation, not after it, so that a
learned gain keeps scores a function of relative position.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ...layers.modes import evaluating
from ...layers.sizes import check_sizes
from ..axes.geometry import Geometry, GeometryName, HeadName
from ..axes.residuals import ResidualSpec
from ..models import register_model
from ..token_network import TokenNetwork
from .feed_forward import GatedFeedForward
from .self_attention import CausalAttention, KeyValueCache, rotation

__all__ = ["GPT", "gpt_124m", "gpt_353m", "gpt_nano", "gpt_tiny"]


class GPT(TokenNetwork):
    """A causal transformer with a tied head.

    Args:
        vocab_size: Number of token ids.
        context_length: Longest training sequence, and the window of `generate`.
        width: Token width; a multiple of 2 · num_heads.
        depth: Blocks, each an attention and an MLP branch.
        num_heads: Attention heads.
        num_classes: None ties the head to the embedding (logits over the vocabulary); a number
            gives an untied head of that length, 0 none.
        residual: The residual mechanism: a name, a mapping or a builder.
        geometry: The space of the tokens: `euclidean`, `poincare` or `lorentz`.
        curvature: c > 0, minus the sectional curvature; None is 0.1 in a curved space.
        learned_curvature: Whether c is learned, one for all layers.
        head: `linear`, `mlr` (distances to hyperplanes) or `distance` (to points). None is `linear`
            in flat space; in a curved one it is `distance` where the head is tied, else `mlr`.
        drop_path_rate: Stochastic depth of the last branch, in [0, 1).
        norm_eps: Epsilon of the branches' and the final norm. A residual that reads means, such as
            `attnres`, shrinks a stream of embeddings of std 0.02 below 1e-5 at many branches.
        short_window: Give every block a third branch, before the two: causal attention over this
            many tokens, at least 1, that starts as zero (the ShortSWA of Zhang 2026,
            arXiv:2603.16039, which leaves its start open).

    Shape:
        token ids (B, T) -> logits (B, T, vocab_size or num_classes).

    Raises:
        ValueError: a size below 1, a norm_eps below 0, a width that the heads do not divide into
            even parts, a short_window over a residual that cannot train branches from zero, a
            residual or a head of another space, or a curvature that nothing has.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 256,
        context_length: int = 256,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 6,
        num_classes: int | None = None,
        residual: ResidualSpec = "add",
        geometry: GeometryName = "euclidean",
        curvature: float | None = None,
        learned_curvature: bool = False,
        head: HeadName | None = None,
        drop_path_rate: float = 0.0,
        norm_eps: float = 1e-5,
        short_window: int | None = None,
    ) -> None:
        """Build the embedding, the trunk and the head."""
        if short_window is not None:
            check_sizes(1, short_window=short_window)

        def block(space: Geometry, place: int) -> list[tuple[str, nn.Module]]:
            short: list[tuple[str, nn.Module]] = []
            if short_window is not None:
                attention = CausalAttention(
                    width, num_heads, place, window=short_window, space=space
                )
                short.append(("short_attention", attention))
            place += len(short)
            return [
                *short,
                ("attention", CausalAttention(width, num_heads, place, space=space)),
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

    def reset_branches(self) -> None:
        """Those of every transformer of tokens, but a short attention starts as zero."""
        super().reset_branches()
        for branch in self.trunk.branches:
            if isinstance(branch, CausalAttention) and branch.window is not None:
                nn.init.zeros_(branch.proj.weight)

    def forward_features(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Return the normed hidden states (B, T, width).

        Raises:
            ValueError: more tokens at once than the cache holds, or a cache in training mode.
        """
        if cache is not None and cache.limit is not None and x.shape[1] > cache.limit:
            raise ValueError(f"the cache holds {cache.limit} tokens, got {x.shape[1]} at once")
        if cache is not None and self.training:
            raise ValueError("a cache is for eval mode: recomputed activations would fill it twice")
        start = 0 if cache is None else cache.position
        positions = start + torch.arange(x.shape[1], device=x.device)
        attention = (rotation(positions, self.head_dim), cache)
        extras = [attention if site.attends else () for site in self.trunk.residual.sites]
        features = self.norm(self.trunk(self.embedding(x), extras, cache))
        if cache is not None:
            cache.position = start + x.shape[1]  # not in place: it may be an input of a graph
        return features

    @torch.no_grad()
    def generate(
        self,
        tokens: Tensor,
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue a prompt in eval mode, one token at a time, with a key-value cache.

        Args:
            tokens: Prompt ids (B, T), T ≥ 1; only the last `context_length` are read.
            max_new_tokens: How many to add, at least 0.
            temperature: Divides the logits; 0 takes the likeliest token.
            top_k: Sample among the k likeliest only.
            generator: Source of randomness.

        Returns:
            Prompt and continuation (B, T + max_new_tokens).

        Raises:
            ValueError: an empty prompt, max_new_tokens < 0, temperature < 0 or top_k < 1.
        """
        check_sizes(0, max_new_tokens=max_new_tokens)
        if tokens.dim() != 2 or tokens.shape[1] < 1:
            raise ValueError(f"tokens must be (B, T) with T >= 1, got {tuple(tokens.shape)}")
        if not temperature >= 0:
            raise ValueError(f"temperature must be at least 0, got {temperature}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        cache = KeyValueCache(self.context_length)
        feed = tokens[:, -self.context_length :]
        with evaluating(self):
            for _ in range(max_new_tokens):
                features = self.forward_features(feed, cache)
                logits = self.forward_head(features[:, -1]).float()
                if temperature == 0:
                    feed = logits.argmax(-1, keepdim=True)
                else:
                    # The largest is 0, so that no quotient by a tiny number is infinite or NaN but
                    # for -inf; float32 would take the tiniest for 0.
                    below = logits - logits.amax(-1, keepdim=True)
                    logits = (below.double() / temperature).float()
                    if top_k is not None:
                        kth = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
                        logits = logits.masked_fill(logits < kth, -torch.inf)
                    feed = torch.multinomial(logits.softmax(-1), 1, generator=generator)
                tokens = torch.cat([tokens, feed], dim=1)
        return tokens


@register_model(source="arXiv:2104.09864", kind="tokens", extends=GPT)
def gpt_nano(
    context_length: int = 64, width: int = 64, depth: int = 2, num_heads: int = 2, **options: Any
) -> GPT:
    """The smallest GPT over bytes, for tests."""
    sizes = {"context_length": context_length, "width": width, "depth": depth}
    return GPT(num_heads=num_heads, **sizes, **options)


@register_model(source="arXiv:2104.09864", kind="tokens", extends=GPT)
def gpt_tiny(width: int = 192, depth: int = 4, num_heads: int = 3, **options: Any) -> GPT:
    """A byte-level GPT of 1.8 M parameters, which learns on a laptop."""
    return GPT(width=width, depth=depth, num_heads=num_heads, **options)


@register_model(source="arXiv:2104.09864", kind="tokens", extends=GPT)
def gpt_small(width: int = 384, depth: int = 8, num_heads: int = 6, **options: Any) -> GPT:
    """A byte-level GPT of 14 M parameters."""
    return GPT(width=width, depth=depth, num_heads=num_heads, **options)


@register_model(source="arXiv:2104.09864", kind="tokens", extends=GPT)
def gpt_base(
    context_length: int = 1024,
    width: int = 512,
    depth: int = 12,
    num_heads: int = 8,
    **options: Any,
) -> GPT:
    """A byte-level GPT of 38 M parameters."""
    sizes = {"context_length": context_length, "width": width, "depth": depth}
    return GPT(num_heads=num_heads, **sizes, **options)


@register_model(source="arXiv:2601.00417", kind="tokens", extends=GPT)
def gpt_124m(
    vocab_size: int = 50304,
    context_length: int = 1024,
    width: int = 768,
    depth: int = 12,
    num_heads: int = 6,
    **options: Any,
) -> GPT:
    """GPT of 123,590,400 parameters over the padded GPT-2 vocabulary."""
    sizes = {"vocab_size": vocab_size, "context_length": context_length, "depth": depth}
    return GPT(width=width, num_heads=num_heads, **sizes, **options)


@register_model(source="arXiv:2601.00417", kind="tokens", extends=GPT)
def gpt_353m(
    vocab_size: int = 50304,
    context_length: int = 1024,
    width: int = 1024,
    depth: int = 24,
    num_heads: int = 8,
    **options: Any,
) -> GPT:
    """GPT of 353,508,352 parameters over the padded GPT-2 vocabulary."""
    sizes = {"vocab_size": vocab_size, "context_length": context_length, "depth": depth}
    return GPT(width=width, num_heads=num_heads, **sizes, **options)
