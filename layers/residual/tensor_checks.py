"""What every residual asks of the tensors it is given, whoever wrote its verbs.

One rule for all mechanisms: a branch output has the shape of the stream, and nothing broadcasts.
Dtypes may differ, as they do under autocast; the mechanism's own arithmetic then decides.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["VERBS", "checked"]

Function = TypeVar("Function", bound=Callable[..., Any])
VERBS = ("open", "read", "write", "close")


def checked(verb: str, function: Function) -> Function:
    """Let what a mechanism does for one of `VERBS` check what it is given before it runs.

    Raises:
        ValueError: from the verb, naming the argument, its shape or dtype, and what was expected.
    """
    return functools.wraps(function)(_CHECKED[verb](function))  # type: ignore[return-value]


def _open(function: Callable[..., Any]) -> Callable[..., Any]:
    def open_(self: Any, x: Tensor, past: Any = None) -> Any:
        if _has_sizes(x):
            least = 1 if self.channel_dim == -1 else 2
            if x.dim() < least:
                raise ValueError(f"x needs at least {least} axes, got shape {tuple(x.shape)}")
            _check_dtype("x", x)
        return function(self, x, past)

    return open_


def _read(function: Callable[..., Any]) -> Callable[..., Any]:
    def read(self: Any, state: Any, site: int) -> Any:
        _expected_shape(self, state)
        return function(self, state, site)

    return read


def _close(function: Callable[..., Any]) -> Callable[..., Any]:
    def close(self: Any, state: Any) -> Any:
        # Where norms stand on the stream, the first one norms what the stage before has left.
        if not self.keeps_only_the_stream and self.norm_position == "pre":
            _expected_shape(self, state)
        return function(self, state)

    return close


def _write(function: Callable[..., Any]) -> Callable[..., Any]:
    def write(self: Any, state: Any, site: int, y: Tensor, context: Any) -> Any:
        shape = _expected_shape(self, state)
        if shape is not None and _has_sizes(y):
            _check_shape("y", y, shape)
            _check_dtype("y", y)
            _check_keep(context.keep, shape, self.channel_dim)
            if self.uses_context:
                _check_shape("context.read", context.read, shape)
                _check_shape("context.normed", context.normed, shape)
        return function(self, state, site, y, context)

    return write


_CHECKED = {"open": _open, "read": _read, "write": _write, "close": _close}


def _has_sizes(x: Any) -> bool:
    """Whether sizes are numbers: a tracer's are not, and comparing them would be recorded."""
    return isinstance(x, Tensor) and not torch.jit.is_tracing()


def _expected_shape(residual: Any, state: Any) -> torch.Size | None:
    """Return the stream's shape, or None while it is traced.

    Raises:
        ValueError: the state holds a stream of another width.
    """
    first = state
    while isinstance(first, tuple) and first:
        first = first[0]
    if not _has_sizes(first):
        return None
    shape = residual.stream_shape(first)
    if shape[residual.channel_dim] != residual.width:
        raise ValueError(
            f"the stream x has shape {tuple(shape)}, expected width {residual.width} on axis "
            f"{residual.channel_dim}"
        )
    return shape


def _check_shape(name: str, x: Any, shape: torch.Size) -> None:
    if isinstance(x, Tensor) and x.shape != shape:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, expected that of the stream, {tuple(shape)}"
        )


def _check_dtype(name: str, x: Tensor) -> None:
    if not x.is_floating_point():
        raise ValueError(f"{name} must hold real floating-point numbers, got {x.dtype}")


def _check_keep(keep: Tensor | None, shape: torch.Size, channel_dim: int) -> None:
    """A mask may not reach along the axis of D, nor make the branch output larger."""
    if keep is None:
        return
    pairs = zip(keep.shape, shape, strict=False)
    if (
        len(keep.shape) != len(shape)
        or keep.shape[channel_dim] != 1
        or any(k not in (1, size) for k, size in pairs)
    ):
        expected = (shape[0], *[1] * (len(shape) - 1))
        raise ValueError(f"context.keep has shape {tuple(keep.shape)}, expected {expected}")
