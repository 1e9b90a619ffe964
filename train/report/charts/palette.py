"""Colours that can be told apart by colour-blind readers, too.

Lines take those of Okabe and Ito (2008), without the yellow that white paper swallows, and a dash
pattern once they begin anew. Heat maps take viridis, or blue to red where signs differ.
"""

from collections.abc import Sequence

__all__ = ["COLOURS", "contrast", "dash", "ramp", "readable", "series_colour"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#222222")
DASHES = (None, "6 3", "2 2", "8 2 2 2")

VIRIDIS = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")
BLUE_RED = ("#2166ac", "#67a9cf", "#f7f7f7", "#ef8a62", "#b2182b")


def series_colour(index: int) -> str:
    """The colour of the series with this number."""
    return COLOURS[index % len(COLOURS)]


def readable(colour: str) -> str:
    """The colour for text on white: darkened until its contrast is what WCAG asks of text, 4.5."""
    channels = _channels(colour)
    while contrast(colour) < 4.5:
        channels = [int(0.95 * channel) for channel in channels]
        colour = _written(channels)
    return colour


def contrast(colour: str) -> float:
    """The contrast of a colour with white, from 1 to 21, as WCAG defines it."""
    shares = [channel / 255 for channel in _channels(colour)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    light = sum(w * one for w, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return 1.05 / (light + 0.05)


def dash(index: int) -> str | None:
    """The dash pattern of the series with this number; none for the first round of colours."""
    return DASHES[index // len(COLOURS) % len(DASHES)]


def ramp(share: float, signed: bool = False) -> str:
    """A colour of a heat map.

    Args:
        share: In [0, 1], or in [−1, 1] where signs differ.
        signed: Whether they do.
    """
    stops: Sequence[str] = BLUE_RED if signed else VIRIDIS
    place = ((share + 1) / 2 if signed else share) * (len(stops) - 1)
    below = min(max(int(place), 0), len(stops) - 2)
    mixed = [
        round(a + (b - a) * (place - below))
        for a, b in zip(_channels(stops[below]), _channels(stops[below + 1]), strict=True)
    ]
    return _written(mixed)


def _written(channels: Sequence[int]) -> str:
    return "#" + "".join(f"{min(max(channel, 0), 255):02x}" for channel in channels)


def _channels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
