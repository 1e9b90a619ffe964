"""Sizes and facts of a model, read off the model itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..models import build_model, model_info
from ..network import image_sides
from ..registry import Entry, type_name

__all__ = ["INDICES", "Size", "describe", "example_shape", "facts_of", "measure", "residual_of"]

INDICES = ("tokens", "sequence", "nodes", "graph")
"""Kinds of models that look their inputs up."""


@dataclass(frozen=True)
class Size:
    """Parameters, and multiply-accumulates of one sample's forward pass.

    MACs count matrix products and convolutions only, as half of torch's FLOP count; elementwise
    work, such as a norm or a depth mixture, counts zero there.
    """

    parameters: int
    macs: int


def example_shape(entry: Entry, changed: Mapping[str, Any] | None = None) -> tuple[int, ...]:
    """The shape of one sample: (C, H, W), (F,), (T,), (2,), or () of the number of a node.

    Args:
        entry: Of the model.
        changed: Keywords whose values are not the defaults.
    """
    default = {name: option.default for name, option in entry.options.items()} | dict(changed or {})
    if entry.kind == "image":
        return (default["in_chans"], *image_sides(default["img_size"]))
    if entry.kind == "nodes":
        return (2,)  # a node and one candidate
    if entry.kind == "graph":
        return ()  # the number of a node
    return (default["in_features"] if entry.kind == "features" else default["context_length"],)


def measure(name: str) -> Size:
    """Build a model on `meta` and count; no memory is taken for weights."""
    from torch.utils.flop_counter import FlopCounterMode

    entry = model_info(name)
    shape = (1, *example_shape(entry))
    with torch.device("meta"):
        model = build_model(name).eval()
        sample = torch.zeros(shape, dtype=torch.long) if entry.kind in INDICES else None
        sample = torch.empty(shape) if sample is None else sample
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(sample)
    parameters = sum(p.numel() for p in model.parameters())
    return Size(parameters, counter.get_total_flops() // 2)


def residual_of(entry: Entry) -> str:
    """The residual that a model has by default; `none` for one without branches."""
    return str(entry.options["residual"].default) if "residual" in entry.options else "none"


def facts_of(name: str) -> dict[str, Any]:
    """All that is known of a model but its options, as numbers and text.

    Raises:
        ValueError: no such model.
    """
    entry, size = model_info(name), measure(name)
    return {
        "model": name,
        "what it is": entry.summary,
        "source": entry.source,
        "reads": entry.kind,
        "shape": list(example_shape(entry)),
        "parameters": size.parameters,
        "MACs": size.macs,
        "residual": residual_of(entry),
        "geometry": entry.about["geometry"],
        "weights": entry.about["weights"],
    }


def describe(name: str) -> str:
    """Write all that is known of a model, for a reader.

    Raises:
        ValueError: no such model.
    """
    facts, entry = facts_of(name), model_info(name)
    shown = {
        "source": facts["source"],
        "reads": f"{facts['reads']} {'×'.join(map(str, facts['shape']))}".rstrip(),
        "parameters": f"{facts['parameters']:,}",
        "MACs": f"{facts['MACs']:,} for one sample (matrix products and convolutions)",
        **{key: facts[key] for key in ("residual", "geometry", "weights")},
    }
    lines = [f"{name}: {facts['what it is']}", ""]
    lines += [f"  {key:<12}{value}" for key, value in shown.items()]
    lines += ["", "  option              type                          default"]
    for option in entry.options.values():
        kind = "str, mapping or builder" if option.name == "residual" else type_name(option.type)
        lines.append(f"  {option.name:<20}{kind:<30}{option.default!r}")
    return "\n".join(lines)
