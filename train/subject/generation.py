"""Text that a language model writes, and the share of it that another finds likely.

A sample x of T bytes is drawn from the writer q, at the temperature of the draw. A judge p scores
it per byte:

    bits     -log2 p(x) / T                          what the judge finds likely
    ratio    (log2 q(x) - log2 p(x)) / T             ... more than the writer does

and the samples of the lowest scores are kept. Rejection by the ratio turns samples of q into such
as p would write; by bits alone it also prefers what is dull.

Source: Wang et al. 2024, "Trans-LoRA: towards data-free Transferable Parameter Efficient
Finetuning", arXiv:2405.17258, whose generator is prompted with examples of the task, and whose
judge is a discriminator trained on real data.
Differs from it: there is no example; the judge is the adapted model itself.
"""

# Shape letters: N samples, T bytes of each.

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers.modes import evaluating
from ...zoo.backbones.gpt import GPT
from ..errors import RunError
from .given_model import find_model

__all__ = ["Generated", "bits_per_byte", "check_draw", "generated", "language_model"]

NEWLINE, BYTES = ord("\n"), 256
LEAST = 1e-6  # of the samples: to keep a smaller share is to draw without an end


class Generated(NamedTuple):
    """A text, its samples, how many were drawn, and for a judge its threshold and bits per byte."""

    text: bytes
    samples: int
    drawn: int
    threshold: float | None
    kept_bits: float | None
    drawn_bits: float | None


def language_model(text: str, imports: Sequence[str] | None = None) -> GPT:
    """Load a model that writes bytes, in evaluation.

    Raises:
        RunError: no such model, one without weights, or one that writes no bytes.
    """
    place = find_model(text, imports)
    if not place.trained:
        raise RunError(
            f"{text} is a registered name, which has no weights; name a run, the folder of a saved "
            f"model, hf-hub:OWNER/NAME or pretrained:NAME"
        )
    model = place.load()
    if not isinstance(model, GPT) or model.vocab_size != BYTES or model.num_classes != BYTES:
        raise RunError(
            f"{text} writes no bytes; name a gpt model over {BYTES} bytes, such as a run of "
            f"data=bytes"
        )
    return model


def check_draw(
    *,
    judged: bool,
    keep: float = 0.5,
    by: Literal["bits", "ratio"] = "ratio",
    temperature: float = 1.0,
    seed: int = 0,
) -> None:
    """Refuse settings of `generated` that cannot be.

    Args:
        judged: Whether there is a judge.
        keep: The share that it keeps.
        by: Its score.
        temperature: Of the draw.
        seed: Of the draw.

    Raises:
        RunError: naming the setting.
    """
    if not LEAST <= keep <= 1.0:
        raise RunError(f"keep must lie in [{LEAST:g}, 1], got {keep}")
    if not temperature >= 0.0:
        raise RunError(f"temperature must be at least 0, got {temperature}")
    if judged and by == "ratio" and temperature == 0.0:
        raise RunError(
            "by=ratio needs a temperature above 0: at 0 the writer has one text alone; set "
            "temperature, or by=bits"
        )
    if not 0 <= seed < 2**64:
        raise RunError(f"seed must lie in [0, 2**64), got {seed}")


@torch.no_grad()
def bits_per_byte(model: nn.Module, samples: Tensor, temperature: float = 1.0) -> Tensor:
    """Return -log2 p(x) / T of samples after a newline, float64 (N,).

    Args:
        model: Of bytes.
        samples: Newline and sample, int64 (N, 1 + T).
        temperature: Divides the logits; above 0.
    """
    with evaluating(model):
        logits = model(samples[:, :-1]).double()
    # At the tiniest temperature the quotients overflow, but for the largest.
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature
    nats = F.cross_entropy(logits.flatten(0, 1), samples[:, 1:].flatten(), reduction="none")
    return nats.view(len(samples), -1).mean(1) / math.log(2)


def generated(
    writer: GPT,
    size: int,
    judge: GPT | None = None,
    *,
    keep: float = 0.5,
    by: Literal["bits", "ratio"] = "ratio",
    temperature: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
) -> Generated:
    """Draw samples of one context from a writer, and keep the share that a judge prefers.

    Args:
        writer: A model of bytes.
        size: Bytes of the text, at least 1; whole samples make it up.
        judge: Another; None keeps all.
        keep: The share that it keeps, in [1e-6, 1].
        by: Its score.
        temperature: Divides the writer's logits, in the draw and in the ratio.
        batch_size: Samples at a time; with another, one seed draws another text.
        seed: Of the draw, in [0, 2**64).

    Raises:
        RunError: a setting out of range, or a judge that learned shorter contexts than the
            writer's.
    """
    check_draw(judged=judge is not None, keep=keep, by=by, temperature=temperature, seed=seed)
    length = writer.context_length
    if judge is not None and judge.context_length < length:
        raise RunError(
            f"the judge learned contexts of {judge.context_length} bytes, the writer {length}; "
            f"give a judge of at least as many"
        )
    wanted = -(-size // (length + 1))
    count = wanted if judge is None else math.ceil(wanted / keep)
    generator = torch.Generator().manual_seed(seed)
    drawn, bits, scores = [], [], []
    for first in range(0, count, batch_size):
        start = torch.full((min(batch_size, count - first), 1), NEWLINE)
        samples = writer.generate(start, length, temperature=temperature, generator=generator)
        drawn.append(samples)
        if judge is not None:
            bits.append(bits_per_byte(judge, samples))
            own = bits_per_byte(writer, samples, temperature) if by == "ratio" else 0.0
            scores.append(bits[-1] - own)
    chosen, found = torch.cat(drawn), ()
    if judge is not None:
        every, score = torch.cat(bits), torch.cat(scores)
        best = score.argsort(stable=True)[:wanted]
        found = (float(score[best[-1]]), float(every[best].mean()), float(every.mean()))
        chosen = chosen[
            best.sort().values
        ]  # in the order of the draw, so that no fold has the best
    # A newline after each, as there was one before it.
    text = bytes(torch.cat([chosen[:, 1:], chosen[:, :1]], 1).flatten().tolist())
    return Generated(text, len(chosen), count, *(found or (None, None, None)))
