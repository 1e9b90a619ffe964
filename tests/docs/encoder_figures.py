"""The table of the encoder on proteins, read off the kept result, and what did not hold."""

from typing import Any

from ..reference import table
from .finding import Finding
from .kept import only, result, rows

__all__ = ["ENCODER_FIGURES", "encoder_on_proteins"]

NAME = "encoder_proteins"
BASE = "3-mers, logistic regression"
LOOSE = "3-mers, homologues on both sides"


def accuracy(row: dict[str, Any], fold: str = "test") -> str:
    """An accuracy in per cent with its standard error over seeds, where there are several."""
    error = row[f"{fold}, error"]
    return f"{row[f'{fold}, %']:.1f}" + ("" if error is None else f" ± {error:.1f}")


def encoder_proteins() -> str:
    """Accuracies on clusters of which nothing was learned from, and what the seeds show."""
    names = {
        BASE: "hashed 1-, 2- and 3-mers, logistic regression",
        LOOSE: "the same regression, nearly a split at random",
        "add": "encoder, `add`",
        "block_attnres": "encoder, `block_attnres`",
    }
    lines = table(
        ("model", "starts", "validation, %", "test, %", "CPU minutes"),
        *(
            (
                names[row["model"]],
                row["start"],
                accuracy(row, "validation"),
                accuracy(row),
                f"{row['CPU minutes']:.1f}",
            )
            for row in rows(NAME)
        ),
    )
    told = "\n".join(f"- {note}" for note in result(NAME)["notes"])
    return f"{lines}\n\n{told}"


def encoder_on_proteins() -> list[Finding]:
    """What an encoder of minutes did not reach."""
    bars = {bar["what"]: bar for bar in result(NAME)["bars"]}
    reached = bars["test accuracy of the encoder that validates best"]
    if reached["met"]:
        return []
    base, loose = only(NAME, model=BASE), only(NAME, model=LOOSE)
    over = 100 * bars["its accuracy over that of 3-mers"]["figure"]
    return [
        Finding(
            "2026-11-30",
            "An encoder of minutes does not tell the genera of proteins apart as well as was asked",
            f"{100 * reached['figure']:.1f} % of the test fold for the encoder that validates "
            f"best, {100 * reached['limit']:.0f} % was the bar; that is {over:+.1f} points over a "
            f"logistic regression of hashed 3-mers, {accuracy(base)} %. No homologue of what is "
            f"tested was learned from; where there are some the regression has "
            f"{accuracy(loose)} %.",
            NAME,
        )
    ]


ENCODER_FIGURES = {"encoder_proteins": encoder_proteins}
