"""Refusals of numbers that a layer or a network cannot be built with."""

__all__ = ["check_rates", "check_sizes"]


def check_sizes(least: int, **sizes: int) -> None:
    """Refuse sizes below a bound.

    Raises:
        ValueError: naming the size, its value and the bound.
    """
    for name, size in sizes.items():
        if size < least:
            raise ValueError(f"{name} must be at least {least}, got {size}")


def check_rates(**rates: float) -> None:
    """Refuse shares of what is dropped that leave nothing, or less.

    Raises:
        ValueError: naming the rate, its value and the bounds.
    """
    for name, rate in rates.items():
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"{name} must lie in [0, 1), got {rate}")
