"""What models cost on this machine: sizes of each, and times measured in turns.

    parameters  numbers that the model stores
    macs        multiply-accumulates of one sample's forward pass: products and convolutions
    kept_bytes  what a forward pass of the batch keeps for its backward pass, each storage once
    peak_bytes  parameters and buffers, and the most that a training step of the batch adds to them
    forward_ms  of the batch, in eval mode and inference mode
    step_ms     forward pass in training mode, cross-entropy and backward pass of the batch; the
                optimiser's part goes with the parameters and is left out
    decode_ms   of one token of one text, by `generate` with its cache, for models that have it

Times are medians with quartiles.
"""

import contextlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...layers.modes import evaluating
from ...layers.saved_bytes import saved_bytes
from ...zoo.network import Network
from ...zoo.transform.costs import count_macs
from ...zoo.transform.interleaved_times import interleaved_times
from ..engine.metrics import cross_entropy
from .peak_memory import peak_bytes

__all__ = ["Candidate", "Spread", "measure_sizes", "measure_times"]

PROMPT = 4  # tokens


@dataclass(frozen=True)
class Candidate:
    """A model in training mode and the batch that it is measured on, on one device."""

    model: Network
    inputs: Tensor
    targets: Tensor

    def step(self) -> None:
        """One forward and backward pass; gradients are made anew."""
        self.model.zero_grad(set_to_none=True)
        cross_entropy(self.model(self.inputs), self.targets).backward()


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least two values."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, len(values))


def measure_sizes(candidate: Candidate) -> dict[str, int]:
    """Count parameters and MACs, and measure the two figures of memory.

    Raises:
        ValueError: the model cannot be run on the batch; what torch said.
    """
    model, inputs = candidate.model, candidate.inputs
    try:
        macs = count_macs(model, inputs[:1])
        stored = [*model.parameters(), *model.buffers()]
        kept = saved_bytes(lambda: model(inputs), exclude=(*stored, inputs))
        candidate.step()  # what is made once, such as a cache, is there before
        model.zero_grad(set_to_none=True)
        added = peak_bytes(candidate.step, inputs.device)
    except (RuntimeError, IndexError) as error:  # shapes, or indices of a table
        raise ValueError(str(error).splitlines()[0]) from error
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in stored}
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "macs": macs,
        "kept_bytes": kept,
        "peak_bytes": sum(held.values()) + added,
    }


def measure_times(
    candidates: Sequence[Candidate], *, seconds: float, tokens: int
) -> list[dict[str, Spread]]:
    """Time all candidates in turns, for each kind of time.

    Args:
        candidates: On one device.
        seconds: About how long each is measured, for each kind.
        tokens: How many are decoded at once.
    """
    found: list[dict[str, Spread]] = [{} for _ in candidates]
    kinds: Sequence[tuple[str, float, Callable[[Candidate], Callable[[], object] | None]]] = (
        ("forward_ms", 1.0, _forward),
        ("step_ms", 1.0, lambda candidate: candidate.step),
        ("decode_ms", 1.0 / tokens, lambda candidate: _decoding(candidate, tokens)),
    )
    cuda = any(candidate.inputs.is_cuda for candidate in candidates)
    wait = torch.cuda.synchronize if cuda else (lambda: None)
    for name, share, make in kinds:
        works = {i: work for i, one in enumerate(candidates) if (work := make(one)) is not None}
        with contextlib.ExitStack() as modes:
            if name != "step_ms":  # once for all repetitions: small models are faster than this
                for candidate in candidates:
                    modes.enter_context(evaluating(candidate.model))
            clocks = interleaved_times(list(works.values()), seconds=seconds, wait=wait)
        for i, clock in zip(works, clocks, strict=True):
            found[i][name] = Spread.of([1e3 * share * one for one in clock])
        for candidate in candidates:
            candidate.model.zero_grad(set_to_none=True)
    return found


def _forward(candidate: Candidate) -> Callable[[], object]:
    def work() -> None:
        with torch.inference_mode():
            candidate.model(candidate.inputs)

    return work


def _decoding(candidate: Candidate, tokens: int) -> Callable[[], object] | None:
    generate = getattr(candidate.model, "generate", None)
    if generate is None:
        return None
    prompt = candidate.inputs[:1, :PROMPT]
    return lambda: generate(prompt, tokens, temperature=0.0)
