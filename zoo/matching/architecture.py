"""Whether two networks differ in nothing but their numbers."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..recipe import first_difference

__all__ = ["check_one_architecture", "tensors_of"]


def check_one_architecture(a: nn.Module, b: nn.Module) -> None:
    """Refuse networks that are built differently: modules, options or shapes, not rates of dropout.

    Two of the same tensors may be two functions, such as two curvatures, and b's numbers in a's
    modules are not b.

    Raises:
        ValueError: naming the first difference.
    """
    ours, theirs = ([(n, tuple(t.shape)) for n, t in tensors_of(model)] for model in (a, b))
    found = first_difference(_built(a), _built(b), named="b", rates=False)
    if found is None and ours != theirs:
        gone, new = sorted({*ours} - {*theirs}), sorted({*theirs} - {*ours})
        found = f"a has {_told(gone)} where b has {_told(new)}"
    if found is not None:
        raise ValueError(f"a and b must be of one architecture, and differ: {found}")


def tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and buffers of a network by their first names."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _built(model: nn.Module) -> nn.Module:
    """What was compiled, of a compiled network."""
    built: Any = getattr(model, "_orig_mod", model)
    return built


def _told(found: list[tuple[str, tuple[int, ...]]]) -> str:
    return f"{found[0][0]} of shape {found[0][1]}" if found else "no tensor that the other lacks"
