"""The equations of the mechanisms that mix the history once for each block, written out."""

import math

import torch
from torch import Tensor

from ..stacks import rms_norm
from .sums import branch

__all__ = ["dca", "denseformer", "elc_bert", "embedding_skip", "kept", "mixtures", "muddformer"]
__all__ += ["sums"]


def cut(residual, weights: Tensor) -> list[Tensor]:
    """The branches' weights, block by block."""
    return [*weights.split(len(weights) // residual.num_blocks)]


def denseformer(
    residual, x: Tensor, weights: Tensor, *, dilation: int = 1, period: int = 1
) -> Tensor:
    """Y_i = Σ_j α_ij X_j over j ≤ i with j ≡ i (mod k), after every p blocks."""
    raw, average = [x], x
    for i, block in enumerate(cut(residual, weights), 1):
        for weight in block:
            average = average + branch(average, weight)
        raw.append(average)
        if i % period == 0:
            seen = [j for j in range(i + 1) if j % dilation == i % dilation]
            alpha = residual.alpha[str(i)]
            average = sum(a * raw[j] for a, j in zip(alpha, seen, strict=True))
    return average


def embedding_skip(residual, x: Tensor, weights: Tensor) -> Tensor:
    """x <- λ x + μ x_0 before each block, and the branches as ever."""
    embedding = x
    for i, block in enumerate(cut(residual, weights)):
        x = residual.carry[i] * x + residual.skip[i] * embedding
        for weight in block:
            x = x + branch(x, weight)
    return x


def elc_bert(residual, x: Tensor, weights: Tensor, *, flavour: str = "zero") -> Tensor:
    """in_n = Σ_{i<n} softmax(aⁿ)_i X_i, and the branches of block n as its flavour says."""
    blocks = cut(residual, weights)
    logits = rows(residual, len(blocks) + (flavour == "weighted_output"))
    outputs = [x]
    for n, (first, *later) in enumerate(blocks):
        entry = x if n == 0 else mixture(logits[n - 1], outputs)
        out = branch(entry, first)
        for weight in later:
            out = out + branch(out if flavour == "base" else entry + out, weight)
        if flavour == "normalized":
            out = out - out.mean(-1, keepdim=True)
            out = out / (out.square().mean(-1, keepdim=True) + 1e-7).sqrt()
        outputs.append(out)
    return mixture(logits[-1], outputs) if flavour == "weighted_output" else outputs[-1]


def rows(residual, count: int) -> list[Tensor]:
    """The logits of ELC-BERT, cut by the sizes 2, 3, … of the mixtures."""
    logits, found = residual.logits.detach(), []
    for size in range(2, count + 1):
        found.append(logits[:size])
        logits = logits[size:]
    assert len(logits) == 0
    return found


def mixture(row: Tensor, outputs: list[Tensor]) -> Tensor:
    """Σ softmax(a)_i X_i, one exponential at a time."""
    e = [math.exp(a) for a in row.tolist()]
    return sum(v / sum(e) * x for v, x in zip(e, outputs, strict=True))


def dca(residual, x: Tensor, weights: Tensor, *, keep: int | None = None) -> Tensor:
    """Query, key and value of a block are sums of the embedding and the blocks' outputs."""
    sources, base, seen = [x], x, rms_norm(x)
    for i, (first, *later) in enumerate(cut(residual, weights)):
        block = (seen @ first).tanh()
        for weight in later:
            block = block + branch(base + block, weight)
        sources.append(block)
        base, *others = sums(residual.mix[i], kept(sources, keep))
        seen = rms_norm(base)
        if others:
            key, value = others
            seen = 0.5 * seen + 0.3 * rms_norm(key) + 0.2 * rms_norm(value)
    return base


def sums(mix, sources: list[Tensor]) -> list[Tensor]:
    """GRN(G) = Σ_i (b_i + ReLU⟨w, g_i / rms(g_i)⟩) ⊙ g_i."""
    streams = []
    for b, w in zip(mix.static, mix.query, strict=True):
        total = torch.zeros_like(sources[0])
        for g, b_i in zip(sources, b, strict=True):
            r = (g.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            total = total + (b_i + (g / r @ w).relu()[..., None]) * g
        streams.append(total)
    return streams


def kept(sources: list[Tensor], keep: int | None) -> list[Tensor]:
    """The first and the last `keep`, where there are more than both."""
    whole = keep is None or len(sources) <= 2 * keep
    return sources if whole else [*sources[:keep], *sources[-keep:]]


def muddformer(residual, x: Tensor, weights: Tensor) -> Tensor:
    """Query, key, value and residual of a block are mixtures of the streams after all blocks."""
    history, base, seen = [x], x, rms_norm(x)
    for i, (first, *later) in enumerate(cut(residual, weights)):
        x = base + (seen @ first).tanh()
        for weight in later:
            x = x + branch(x, weight)
        history.append(x)
        *inputs, base = mixtures(residual.mix[i], history)
        if len(inputs) == 3:
            seen = sum(s * rms_norm(h) for s, h in zip((0.5, 0.3, 0.2), inputs, strict=True))
        elif inputs:
            seen = rms_norm(inputs[0])
    return base


def mixtures(mix, history: list[Tensor]) -> list[Tensor]:
    """X^c = Σ_j A_cj X_j with A = W_2 GELU(W_1 X / rms(X)) + a of the newest X, token by token."""
    newest, streams = history[-1], []
    r = (newest.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    hidden = newest / r @ mix.first.T
    dynamic = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))) @ mix.second.T
    count, n = mix.static.shape
    for c in range(count):
        total = torch.zeros_like(newest)
        for j in range(n):
            total = total + (dynamic[..., c * n + j, None] + mix.static[c, j]) * history[j]
        streams.append(total)
    return streams
