"""What `archzoo robustness` prints of what it found, below the line that names the model."""

from collections.abc import Mapping
from typing import Any

from ..command_line.table import aligned
from .ood import Separation

__all__ = ["table"]

NORMS = {"linf": "L∞", "l2": "L2"}


def table(found: Mapping[str, Any]) -> str:
    """Write what `robustness.measure` returned for a reader."""
    attack = found["attack"]
    restarts = f"{attack['restarts']} restart{'s' if attack['restarts'] > 1 else ''}"
    box = "no box" if attack["box"] is None else "pixels held in [0, 1]"
    steps = "1 step" if attack["steps"] == 1 else f"{attack['steps']} steps"
    loss = attack["loss"].replace("_", "-")
    lines = [
        f"{attack['method'].upper()} in {NORMS[attack['norm']]}, {loss} loss, {steps}, {restarts}, "
        f"{box}, {attack['dtype']}",
        "",
    ]
    rows: list[tuple[str, ...]] = [("ε · 255", "accuracy, %")]
    rows.append(("clean", f"{100 * found['clean']:.2f}"))
    rows += [(f"{row['eps']:g}", f"{100 * row['accuracy']:.2f}") for row in found["attacked"]]
    lines += aligned(rows, left=1)
    if found["out"]:
        names = ("out-set", "score", "images", "mean", "in-set mean")
        rows = [(*names, "FPR95, %", "AUROC, %", "AUPR, %")]
        for row in found["out"]:
            means = f"{row['mean']:.4g}", f"{found['inside'][row['score']]:.4g}"
            shares = tuple(f"{100 * row[key]:.2f}" for key in Separation._fields)
            rows.append((row["set"], row["score"], f"{row['images']:,}", *means, *shares))
        lines += ["", *aligned(rows, left=2)]
    return "\n".join(lines)
