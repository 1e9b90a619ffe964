"""Scales of a chart's axes: from values to places, with ticks at round numbers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Scale", "scale_of"]

ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map of [low, high] to [start, end].

    Attributes:
        ticks: Values to mark, from low to high.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """The place of a value; one outside lies at the nearer end."""
        low, high, value = (self._inner(v) for v in (self.low, self.high, value))
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return self.start + share * (self.end - self.start)

    def _inner(self, value: float) -> float:
        return math.log10(max(value, self.low * 1e-3)) if self.log else value


def scale_of(
    values: Iterable[float],
    start: float,
    end: float,
    *,
    log: bool = False,
    zero: bool = False,
    count: int = 5,
) -> Scale:
    """A scale that shows all finite values; a logarithmic one those above 0.

    Args:
        values: To be shown; none make an axis from 0 to 1.
        start: Place of the low end.
        end: Place of the high end.
        log: Whether the axis is logarithmic, where the values span more than a factor of 3.
        zero: Whether 0 is shown in any case, on a linear axis.
        count: About how many ticks.
    """
    shown = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    log = log and bool(shown) and max(shown) > 3 * min(shown)
    if zero and not log:
        shown.append(0.0)
    low, high = (min(shown), max(shown)) if shown else (0.0, 1.0)
    if low == high:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad * (not (zero and low == 0)), high + pad
    if log:
        room = (high / low) ** 0.04
        low, high = low / room, high * room
        return Scale(low, high, start, end, True, _log_ticks(low, high, count))
    pad = 0.04 * (high - low)
    low, high = low - pad * (not (zero and low == 0)), high + pad
    return Scale(low, high, start, end, False, _linear_ticks(low, high, count))


def _linear_ticks(low: float, high: float, count: int) -> tuple[float, ...]:
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * r for r in ROUND if power * r >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(i * step for i in range(first, last + 1))


def _log_ticks(low: float, high: float, count: int) -> tuple[float, ...]:
    """Powers of ten, with their doubles and fives where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for digits in ((1,), (1, 3), (1, 2, 5)):
        ticks = [d * 10.0**i for i in range(first, last + 1) for d in digits]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= min(3, count):
            step = -(-len(inside) // (count + 2))
            return tuple(inside[::step])
    return tuple(inside) or (low, high)
