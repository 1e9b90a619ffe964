"""An entry of the log of negative results."""

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True)
class Finding:
    """One thing that was expected or claimed and not found.

    Args:
        date: The day on which the result was kept.
        title: What did not hold.
        text: The figures, and what they do not say.
        kept: The result file, by name.
        script: The benchmark, where it has another name.
    """

    date: str
    title: str
    text: str
    kept: str
    script: str = ""

    def __str__(self) -> str:
        """The entry as it stands on the page."""
        script = f"`python benchmarks/{self.script or self.kept}.py`"
        return (
            f"### {self.title}\n\n{self.date}. {self.text}\n\n"
            f"({script}; kept in `benchmarks/results/{self.kept}.json`)"
        )
