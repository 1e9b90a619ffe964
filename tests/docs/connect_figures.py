"""Tables of barriers between two seeds, from the kept result of `benchmarks/connect.py`."""

from typing import Any

from ..reference import table
from .kept import rows

__all__ = ["CONNECT_FIGURES"]

SHOWN = {
    "mlp_small": "`mlp_small`",
    "vit": "ViT",
    "resnet": "ResNet",
}


def _spread(row: dict[str, Any], what: str, digits: int) -> str:
    """Both figures of a barrier, before and after matching, each over the pairs."""
    several = row["pairs"] > 1
    return " → ".join(
        f"{row[f'{what}, {when}']:.{digits}f}"
        + (f" ± {row[f'{what}, {when} ±']:.{digits}f}" if several else "")
        for when in ("before", "after")
    )


def connect_barriers() -> str:
    """Barriers of every residual and width, before and after matching."""
    head = ("model", "width", "residual", "pairs", "accuracy, %", "loss barrier, nats")
    return table(
        (*head, "accuracy barrier, points", "alignment"),
        *(
            (
                SHOWN[row["model"]] + (", training images" if row["fold"] == "train" else ""),
                str(row["width"]),
                f"`{row['residual']}`",
                str(row["pairs"]),
                f"{row['accuracy, %']:.1f}",
                _spread(row, "loss barrier", 3),
                _spread(row, "accuracy barrier", 1),
                f"{row['alignment, before']:.2f} → {row['alignment, after']:.2f}",
            )
            for row in rows("connect")
        ),
    )


CONNECT_FIGURES = {"connect_barriers": connect_barriers}
