"""Predictions for files: the most probable classes of each input, or the likelihood of a text."""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...layers.modes import evaluating
from ..data import Batches, loader
from ..data.sequences.sequence_folds import padded
from ..engine.half_precision import autocast
from ..engine.metrics import predictions
from ..measures.classification import all_outcomes
from .conventions import conventions_of
from .input_files import Sample, reads, samples, text_windows

__all__ = ["Prediction", "predict"]

Prediction = dict[str, Any]
"""`input`, and either `error` or `classes`: rows of class and probability, the likeliest first. A
text has beside them `bytes`, `log_likelihood` in nats and `bits_per_byte`; its classes are those of
the byte that follows it."""


def predict(
    model: nn.Module, files: list[str], *, top: int = 5, batch_size: int = 64
) -> Iterator[Prediction]:
    """Yield a prediction for every input of files, in order; one that cannot be read has an error.

    Args:
        model: Trained, on the CPU.
        files: Images, CSV files, sequences or texts, whichever the model reads.
        top: How many classes to name, at most.
        batch_size: Inputs that the model sees at a time.

    Raises:
        RunError: the model keeps no facts by which a file becomes an input.
    """
    if reads(model) == "text":
        for file in files:
            try:
                yield _text(model, file, top, batch_size)
            except ValueError as error:
                yield {"input": file, "error": str(error)}
        return
    names = conventions_of(model).get("label_names")
    for batch in _batched(samples(model, files), batch_size):
        good = [sample.value for sample in batch if isinstance(sample.value, Tensor)]
        # Sequences are of any length; all other inputs are of one shape.
        join = padded if reads(model) == "sequences" else torch.stack
        rows = iter(_probabilities(model, join(good)) if good else ())
        for sample in batch:
            if isinstance(sample.value, Tensor):
                yield {"input": sample.name, **_likeliest(next(rows), top, names)}
            else:
                yield {"input": sample.name, "error": str(sample.value)}


def _batched(given: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    rest = iter(given)
    while batch := list(itertools.islice(rest, size)):
        yield batch


@torch.no_grad()
def _probabilities(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return class probabilities (N, K) in float64."""
    if inputs.is_floating_point():
        inputs = inputs.to(next(model.parameters()).dtype)
    with evaluating(model):
        return model(inputs).double().softmax(-1)


def _likeliest(p: Tensor, top: int, names: list[str] | None) -> Prediction:
    """Return the rows of the most probable classes; a model that was told no names has numbers.

    Raises:
        ValueError: a probability that is no number.
    """
    if not bool(p.isfinite().all()):
        return {"error": "the model's probabilities are no numbers"}
    values, places = p.topk(min(top, len(p)))
    return {
        "classes": [
            {"class": names[k] if names else str(k), "probability": value}
            for value, k in zip(values.tolist(), places.tolist(), strict=True)
        ]
    }


def _text(model: nn.Module, file: str, top: int, batch_size: int) -> Prediction:
    """Return the likelihood of a text, and the likeliest bytes after it.

    Raises:
        ValueError: the file cannot be read, or holds nothing.
    """
    context: Any = model.context_length
    fold, last = text_windows(file, context)
    cpu = torch.device("cpu")
    batches = loader(fold, Batches(len(fold), batch_size))
    found = all_outcomes(predictions(model, batches, cpu, lambda: autocast("cpu", "off")))
    nats, count = float(found.surprise.sum()), len(found.surprise)
    names = [ascii(chr(k)) if k < 128 else f"0x{k:02x}" for k in range(256)]
    return {
        "input": file,
        "bytes": count,
        "log_likelihood": -nats,
        "bits_per_byte": nats / count / math.log(2),
        **_likeliest(_probabilities(model, last)[0, -1], top, names),
    }
