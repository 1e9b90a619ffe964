"""Colours that can be told apart by colour-blind readers, too.

Lines take those of Okabe and Ito (2008), without the yellow that white paper swallows, and a dash
pattern once they begin anew. Heat maps take viridis, or blue to red where signs differ.
"""

from collections.abc import Sequence

__all__ = ["COLOURS", "dash", "ramp", "series_colour"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#222222")
DASHES = (None, "6 3", "2 2", "8 2 2 2")

VIRIDIS = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")
BLUE_RED = ("#2166ac", "#67a9cf", "#f7f7f7", "#ef8a62", "#b2182b")


def series_colour(index: int) -> str:
    """The colour of the series with this number."""
    return COLOURS[index % len(COLOURS)]


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
    return "#" + "".join(f"{min(max(channel, 0), 255):02x}" for channel in mixed)


def _channels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
