"""Folders as runs leave them, written without training."""

import csv
import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

ACCURACIES = (0.2, 0.5, 0.7)


def leave(
    path: Path,
    *,
    seed: int = 0,
    residual: Any = "add",
    shift: float = 0.0,
    ended: bool = True,
    lr: float = 0.01,
    model: str = "vit_nano",
    bits: bool = False,
) -> Path:
    """Write a run of 30 steps; `shift` is added to its accuracies, `bits` reads text."""
    path.mkdir(parents=True)
    config = {
        "name": f"{model}-digits", "seed": seed, "run_dir": str(path), "optim": {"lr": lr},
        "model": {"name": model, "residual": residual}, "data": {"name": "digits"},
        "lowrank": None, "trainer": {"batch_size": 64, "accumulate": 1, "steps": 30},
    }  # fmt: skip
    OmegaConf.save(OmegaConf.create(config), path / "config.yaml")
    rows: list[dict[str, Any]] = [
        {"step": 10 * (i + 1), "split": "train", "loss": 2.0 - a, "samples_per_second": 1000.0}
        for i, a in enumerate(ACCURACIES)
    ]
    rows += [
        {"step": 10 * (i + 1), "split": "validation", "loss": 2.1 - a, "accuracy": a + shift}
        for i, a in enumerate(ACCURACIES)
    ]
    if bits:
        for row in rows[3:]:
            row["bits_per_byte"] = 3.0 - row["accuracy"]
    with open(path / "metrics.csv", "w", newline="") as file:
        columns = ["step", "split", "loss", "samples_per_second", "accuracy", "bits_per_byte"]
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    command = ["archzoo", "train", f"model.residual={residual}", f"seed={seed}"]
    environment = {"command": command, "versions": {"torch": "2.14.1"}, "threads": 1}
    (path / "environment.json").write_text(json.dumps(environment))
    if ended:
        best = {"loss": 1.4, "accuracy": ACCURACIES[-1] + shift}
        if bits:
            best["bits_per_byte"] = rows[-1]["bits_per_byte"]
        (path / "result.json").write_text(json.dumps({"validation": best, "test": best}))
    return path
