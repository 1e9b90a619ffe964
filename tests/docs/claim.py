"""A row of the page of claims: what a source says, what was found here, and the verdict."""

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["NOT_REPRODUCED", "NOT_TESTED", "REPRODUCED", "Claim", "Spread", "ahead"]

REPRODUCED, NOT_REPRODUCED, NOT_TESTED = "reproduced", "**not reproduced**", "not tested"


@dataclass(frozen=True)
class Spread:
    """A mean and its standard error, as the page writes them.

    Args:
        mean: Of some seeds.
        error: Its standard error.
        digits: After the point.
    """

    mean: float
    error: float
    digits: int = 3

    @classmethod
    def of(cls, row: dict[str, Any], key: str, error: str, digits: int = 3) -> "Spread":
        """A figure of a row whose error has a key of its own."""
        return cls(row[key], row[error], digits)

    @classmethod
    def read(cls, text: str, digits: int = 3) -> "Spread":
        """A figure that a kept result holds as a text, such as `0.987 ± 0.003`."""
        mean, error = map(float, text.split(" ± "))
        return cls(mean, error, digits)

    def __str__(self) -> str:
        """The mean and its error."""
        return f"{self.mean:.{self.digits}f} ± {self.error:.{self.digits}f}"


def ahead(one: Spread, other: Spread) -> bool:
    """Whether a mean is above another by more than two standard errors of the difference."""
    return one.mean - other.mean > 2 * math.hypot(one.error, other.error)


@dataclass(frozen=True)
class Claim:
    """What a source says, and what a kept result says of it.

    Args:
        told: The claim, in our words.
        source: The paper by its arXiv number, and where in it.
        found: The figures, read off the kept result; empty where nothing was measured.
        holds: Whether they show it; None where nothing here tests it.
        kept: The result file, by name.
        script: The benchmark, where it has another name.
    """

    told: str
    source: str
    found: str = ""
    holds: bool | None = None
    kept: str = ""
    script: str = ""

    @property
    def verdict(self) -> str:
        """The verdict as the page writes it."""
        if self.holds is None:
            return NOT_TESTED
        return REPRODUCED if self.holds else NOT_REPRODUCED

    def cells(self) -> tuple[str, ...]:
        """The row of the page."""
        command = f"`python benchmarks/{self.script or self.kept}.py`" if self.kept else ""
        return (self.told, self.source, self.found, self.verdict, command)
