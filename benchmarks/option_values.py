"""Values of the options of models, residuals and low-rank methods, drawn and written down."""

import random
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from archzoo.zoo.registry import Option

__all__ = ["NUMBERS", "draw_some", "written"]

NUMBERS: dict[str, tuple[Any, ...]] = {
    # of models
    "mlp_ratio": (1.0, 2.5), "registers": (0, 2), "drop_rate": (0.0, 0.3),
    "drop_path_rate": (0.0, 0.3), "norm_eps": (1e-6,), "short_window": (None, 1, 4),
    "expansion": (0.5, 1.0, 2.0), "lipschitz": (0.5, 2.0), "hidden_depth": (1, 2, 3),
    "curvature": (0.1, 1.0), "dim": (1, 2, 5), "init_range": (1e-3, 1e-2),
    "activation": ("relu", "tanh", "softplus"),
    # of residuals
    "coefficient": (0.0, 0.5), "exponent": (0.0, 0.5), "initial": (None, 0.1),
    "window": (None, 1, 3), "heads": (1, 2), "hidden": (None, 3), "keep": (None, 1, 2),
    "alpha": (None, 1.5), "beta": (None, 0.7), "value_channels": (1, 2, 4),
    "gate_hidden": (None, 3), "initial_beta": (0.5, 1.5), "frozen_beta": (None, 0.0, 1.0),
    "dilation": (1, 2), "period": (1, 2), "bias": (-2.0, 0.0), "streams": (1, 2, 3),
    "sinkhorn_steps": (1, 5), "group": (None, 1, 2), "block_size": (2, 4), "num_blocks": (1, 2),
    "block_layers": (1, 2),
    # of low-rank methods
    "rank": (0.25, 1), "gamma": (0.0, 0.7), "density": (0.02, 0.05),
    "residual_rank": (None, 4), "refactorize_every": (0, 1, 2), "frobenius": (0.0, 1e-3),
    "group_lasso": (0.0, 1e-3), "shrink_every": (0, 1, 2), "warmup": (0, 1), "merge_every": (1, 2),
    "scale": (0.5, 1.0), "resample_every": (1, 2), "interval": (10.0, 40.0), "energy": (0.0, 0.1),
    "nuclear": (0.0, 1e-3), "min_kernel": (1,), "learning_rate_ratio": (0.5, 1.0),
}  # fmt: skip
"""What an option that is no choice and no switch may be."""


def written(value: Any) -> str:
    """Write a value as the command line takes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(written, value)) + "]"
    return str(value)


def _value(draw: random.Random, option: Option) -> Any:
    """A value of an option, or its default where nothing is known of its range."""
    kinds = typing.get_args(option.type) or (option.type,)
    if typing.get_origin(option.type) is typing.Literal:
        return draw.choice(kinds)
    literals = [k for k in kinds if typing.get_origin(k) is typing.Literal]
    if literals:
        return draw.choice(
            [*typing.get_args(literals[0]), *([None] if type(None) in kinds else [])]
        )
    if option.type is bool:
        return draw.random() < 0.5
    return draw.choice(NUMBERS.get(option.name, (option.default,)))


def draw_some(draw: random.Random, options: Iterable[Option], share: float) -> dict[str, Any]:
    """Values of some of the options by name, each drawn with a probability."""
    return {o.name: _value(draw, o) for o in options if draw.random() < share}
