"""The points of a comparison: models, residuals, geometries and weight structures, multiplied."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...zoo.models import models
from ..check import check_run
from ..config import RunConfig, run_config
from ..errors import RunError
from ..override_errors import compose_config
from ..schemas import register_schemas

__all__ = ["AXES", "Axes", "ComparedPoint", "product", "training_config"]

AXES = ("model", "residual", "geometry", "lowrank")
Axes = Mapping[str, Sequence[Any]]
"""Values by axis; an axis that is not given is what each model has by default."""


@dataclass(frozen=True)
class ComparedPoint:
    """One value on every axis that was given.

    Attributes:
        label: The values of the axes that have several.
        values: By axis; `lowrank` is None for dense weights.
    """

    label: str
    values: Mapping[str, Any]

    @property
    def slug(self) -> str:
        """The label as a folder's name."""
        return re.sub(r"[^\w.=+-]+", "-", self.label).strip("-")

    def options(self) -> dict[str, Any]:
        """Keywords for `build_model`, beside the name.

        Raises:
            ValueError: there is no such model, or it has no such axis.
        """
        known = models[self.values["model"]].options
        given = {k: v for k, v in self.values.items() if k != "model" and v is not None}
        for axis in given:
            if axis != "lowrank" and axis not in known:
                raise ValueError(f"{self.values['model']} has no {axis} to choose")
        return given


def product(axes: Axes) -> list[ComparedPoint]:
    """Every combination of the values, the last axis running fastest.

    Raises:
        RunError: no model, or a value twice on one axis.
    """
    given = {axis: list(axes[axis]) for axis in AXES if axes.get(axis)}
    if "model" not in given:
        raise RunError("model names no model; write model=[vit_nano], or several")
    for axis, values in given.items():
        twice = [value for i, value in enumerate(values) if value in values[:i]]
        if twice:
            raise RunError(f"{axis} names {twice[0]} twice; write it once")
    several = [axis for axis, values in given.items() if len(values) > 1] or ["model"]
    return [
        ComparedPoint(
            " · ".join(_word(axis, values[axis]) for axis in several),
            {axis: None if _is_dense(axis, value) else value for axis, value in values.items()},
        )
        for chosen in itertools.product(*given.values())
        for values in [dict(zip(given, chosen, strict=True))]
    ]


def training_config(
    point: ComparedPoint, data: str, seed: int, steps: int, overrides: Sequence[str]
) -> RunConfig:
    """The run that trains a point: that of `archzoo train`, of so many steps.

    Args:
        point: What to train.
        data: A data set's name.
        seed: Of the run.
        steps: Optimiser steps.
        overrides: Further settings, as `archzoo train` takes them.

    Raises:
        RunError: in one line, why there is no such run.
    """
    try:
        options = point.options()
    except ValueError as error:
        raise RunError(str(error)) from error
    register_schemas()
    words = [f"model={point.values['model']}", f"data={data}", *overrides]
    words += ["trainer.epochs=null", f"trainer.steps={steps}", f"seed={seed}"]
    lowrank = point.values.get("lowrank")
    if lowrank is not None:
        words.append(f"lowrank={lowrank}")
    config = run_config(compose_config("train", words))
    config.model |= {axis: value for axis, value in options.items() if axis != "lowrank"}
    check_run(config)
    return config


def _is_dense(axis: str, value: Any) -> bool:
    return axis == "lowrank" and value in (None, "none", "dense")


def _word(axis: str, value: Any) -> str:
    if _is_dense(axis, value):
        return "dense"
    if isinstance(value, Mapping):
        options = ",".join(f"{k}={v}" for k, v in value.items() if k != "name")
        return f"{value.get('name')}({options})"
    return "default" if value is None else str(value)
