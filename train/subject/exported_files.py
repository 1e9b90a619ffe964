"""A model from anywhere, written as files that run without this library."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...zoo.inspect.describe import INDICES, example_shape
from ...zoo.models import models
from ...zoo.network import Network
from ...zoo.share.create import create_model
from ...zoo.share.export import FORMATS, Format, export_model
from ..command_line.table import aligned
from ..errors import RunError
from .given_data import CLASSIFIED, kind_of, model_on_data
from .given_model import find_model
from .model_on_data import ModelOnData

__all__ = ["export_files", "random_inputs", "table_of_files", "trained_on_data", "whole_model"]

AXES = {kind: {0: "batch", 1: "tokens"} for kind in ("tokens", "sequence")}
"""Axes of any length, by what a model reads; of all others the batch."""


def whole_model(
    text: str,
    *,
    data: str | dict[str, Any] | None,
    samples: int,
    seed: int,
    other_data: bool,
    imports: Sequence[str] | None,
) -> tuple[Network, Tensor, dict[str, Any]]:
    """Load a model as it is, and inputs for it.

    Args:
        text: As in `find_model`.
        data: Name of a data set, or a mapping with `name`; None is the run's, or random numbers.
        samples: How many inputs.
        seed: Of random numbers, and of the weights of a registered name.
        other_data: As in `model_on_data`.
        imports: As in `find_model`.

    Returns:
        The model, its inputs, and where they are from.

    Raises:
        RunError: no such model, or data that are missing or do not fit.
    """
    place = find_model(text, imports)
    named = data.get("name") if isinstance(data, Mapping) else data
    if named is None and place.data is None:
        if place.trained:
            model = place.load()
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = create_model(place.address).eval()
        return model, random_inputs(model, samples, seed), {"samples": "random numbers"}
    subject = model_on_data(place, data, other_data=other_data, seed=seed)
    assert isinstance(subject.model, Network)
    inputs, _ = next(subject.batches("test", samples))
    return subject.model, inputs, {"samples": f"test fold of {subject.data}"}


def trained_on_data(
    text: str,
    *,
    data: str | dict[str, Any] | None,
    seed: int,
    other_data: bool,
    imports: Sequence[str] | None,
) -> tuple[ModelOnData, float | None]:
    """Load a trained model of images, features or tokens beside data, to make it smaller by them.

    Args:
        text: As in `find_model`.
        data: Name of a data set, or a mapping with `name`; None is that of the run.
        seed: Of nothing but what a data set draws.
        other_data: As in `model_on_data`.
        imports: As in `find_model`.

    Returns:
        The model on its data, and the accuracy that its run reported on the test fold, where these
        are its own.

    Raises:
        RunError: no such model, one without weights, or data that are missing, do not fit, or are
            of another kind.
    """
    place = find_model(text, imports)
    if not place.trained:
        raise RunError(f"model={text} is a registered name, which has no weights to make smaller")
    subject = model_on_data(place, data, kinds=CLASSIFIED, other_data=other_data, seed=seed)
    if not isinstance(subject.model, Network):
        raise RunError(
            f"model={text} is no model of the zoo; call compress(model, …) of archzoo.zoo on it"
        )
    return subject, subject.reported("test")


def random_inputs(model: nn.Module, count: int, seed: int = 0) -> Tensor:
    """Standard normals, or indices below the length of the table, of the shape a model reads."""
    recipe: Any = getattr(model, "recipe", None)
    if recipe is None:
        raise RunError("nothing says what the model reads; name data for it with data=NAME")
    entry = models[recipe.name]
    generator = torch.Generator().manual_seed(seed)
    shape = (count, *example_shape(entry, recipe.options))
    if entry.kind not in INDICES:
        return torch.randn(shape, generator=generator)
    key = "vocab_size" if entry.kind in ("tokens", "sequence") else "num_nodes"
    size = recipe.options.get(key, entry.options[key].default)
    return torch.randint(size, shape, generator=generator)


def export_files(
    model: nn.Module, inputs: Tensor, out: str, formats: Sequence[str], **how: Any
) -> dict[str, Any]:
    """Write a model by `export_model`, with axes of any length where the model has them.

    Raises:
        RunError: as `export_model`, or the disk refused.
    """
    wanted: list[Format] = [name for name in FORMATS if name in formats]
    dynamic = AXES.get(kind_of(model), {0: "batch"})
    try:
        return export_model(model, inputs, out, formats=wanted, dynamic=dynamic, **how)
    except (ValueError, OSError) as error:
        raise RunError(" ".join(str(error).split())) from error


def table_of_files(found: Mapping[str, Any], out: str) -> str:
    """Write differences and times for a reader."""
    rows = [("runtime", "batch", "largest difference", "of the largest output")]
    rows += [
        (row["runtime"], str(row["batch"]), f"{row['absolute']:.2g}", f"{row['relative']:.2g}")
        for row in found["parity"]
    ]
    times = [("milliseconds at batch", *(str(row["batch"]) for row in found["milliseconds"]))]
    runtimes = [key for key in found["milliseconds"][0] if key != "batch"]
    times += [(name, *(f"{row[name]:.3g}" for row in found["milliseconds"])) for name in runtimes]
    files = [
        str(path) for path in sorted(Path(out).glob("*.*")) if path.suffix in (".pt2", ".onnx")
    ]
    return "\n".join([*aligned(rows, 1), "", *aligned(times, 1), "", *files])
