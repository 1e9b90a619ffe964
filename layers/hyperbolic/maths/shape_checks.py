"""Refusals of shapes that a layer does not take, each in one line that says what it takes."""

from torch import Tensor

__all__ = ["check_axis", "check_one_number", "check_parameters", "check_shape"]


def check_shape(name: str, x: Tensor, *expected: int | str) -> None:
    """Refuse a tensor that has other axes.

    Args:
        name: The argument's name.
        x: Its value.
        expected: The size of each axis, or the letter of one that may have any. A first letter `…`
            stands for any number of axes.

    Raises:
        ValueError: another number of axes, or another size.
    """
    # A decoder notices what a check costs at each token: most shapes fit, axis by axis.
    shape = x.shape
    axes, wanted = len(shape), len(expected)
    fits = axes >= wanted - 1 if expected[0] == "…" else axes == wanted
    while fits and wanted > 0:
        wanted, axes = wanted - 1, axes - 1
        size = expected[wanted]
        fits = isinstance(size, str) or shape[axes] == size
    if not fits:
        wanted = ", ".join(map(str, expected))
        raise ValueError(f"{name} has shape {tuple(shape)}, expected ({wanted})")


def check_axis(name: str, x: Tensor, dim: int, size: int | None = None, least: int = 1) -> None:
    """Refuse a tensor without the axis of its channels, or with another number of them.

    Raises:
        ValueError: fewer than `least` axes, none of that number, or another size.
    """
    axes = x.dim()
    if axes < least or not -axes <= dim < axes:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, expected at least {least} axes, and channels on "
            f"axis {dim}"
        )
    if size is not None and x.shape[dim] != size:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, expected {size} channels on axis {dim}"
        )


def check_one_number(name: str, x: float | Tensor) -> None:
    """Refuse a tensor of many numbers.

    Raises:
        ValueError: a tensor that holds any other number of them than one.
    """
    if isinstance(x, Tensor) and x.numel() != 1:
        raise ValueError(f"{name} must be one number, got shape {tuple(x.shape)}")


def check_parameters(weight: Tensor, offset: Tensor | None, *expected: int | str) -> None:
    """Refuse normals of other axes than expected, or offsets that are not one for each of them.

    Raises:
        ValueError: a weight or an offset of another shape.
    """
    check_shape("weight", weight, *expected)
    if offset is not None:
        check_shape("offset", offset, weight.shape[0])
