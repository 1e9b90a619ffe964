"""Tokens hidden from a model that is to name them: 15 %, of which 80 : 10 : 10.

A span of k tokens is masked, replaced by tokens drawn at random, or left as it is; all of them are
targets. Neighbouring k-mers have k − 1 letters in common, so that a single hidden one could be read
off the two beside it. Of k hidden in a row the letter that they share is in no other token, and so
none of a masked span is left as it is by another that crosses it.

Sources: Devlin et al. 2019, arXiv:1810.04805, §3.1; the leak, Ji et al. 2021, "DNABERT".
Differs from them: the choice among the three is that of a span, and what is drawn is a function of
the sample's key alone. Every sequence has at least one span, where its least draw falls, so that of
short ones more than the share is hidden. What is unknown is neither hidden nor named, unless a
sequence has nothing else.
"""

# Shape letters: N samples, T tokens.

import torch
from torch import Tensor
from torch.nn import functional as F

from ....zoo.backbones.encoder import PADDING
from ..data_set import IGNORE
from .kmer_tokeniser import MASK, SPECIAL, UNKNOWN

__all__ = ["DRAWS", "hide_tokens"]

DRAWS = 3
"""Uniform numbers of each token: whether a span begins, what becomes of it, and by which token."""

MASKED, REPLACED = 0.8, 0.9


def hide_tokens(
    tokens: Tensor, draws: Tensor, vocab_size: int, *, share: float = 0.15, span: int = 1
) -> tuple[Tensor, Tensor]:
    """Hide spans of tokens.

    Args:
        tokens: Padded, int64 (N, T), each row with a real one.
        draws: Uniform in [0, 1), (N, T, 3).
        vocab_size: Tokens, the special ones among them.
        share: Of the tokens that are hidden on average, in (0, 1).
        span: k, at least 1.

    Returns:
        What the model sees, and the targets, -100 where nothing is hidden; both int64 (N, T).
    """
    real = tokens != PADDING
    known = real & (tokens != UNKNOWN)
    real = torch.where(known.any(1, keepdim=True), known, real)
    rate = 1.0 - (1.0 - share) ** (1.0 / span)  # a token is in none of k spans that might begin
    order = draws[..., 0].masked_fill(~real, 2.0)
    begins = (order < rate) | (order == order.amin(1, keepdim=True))
    kind = draws[..., 1]
    masked = _spans(begins & (kind < MASKED), span)
    replaced = _spans(begins & (kind >= MASKED) & (kind < REPLACED), span) & ~masked
    hidden = _spans(begins, span) & real
    drawn = SPECIAL + (draws[..., 2] * (vocab_size - SPECIAL)).long()
    seen = torch.where(replaced & real, drawn, tokens).masked_fill(masked & real, MASK)
    return seen, tokens.masked_fill(~hidden, IGNORE)


def _spans(begins: Tensor, span: int) -> Tensor:
    """Mark the k tokens from each place on, (N, T)."""
    marks = F.pad(begins.float(), (span - 1, 0))[:, None]
    return F.max_pool1d(marks, span, stride=1)[:, 0] > 0
