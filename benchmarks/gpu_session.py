"""What a run of `gpu.py` knows so far, and how much time is left of it.

Standard library alone: it is made before anyone knows whether torch is there.
"""

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Session"]


class Session:
    """What is known so far, and how much time is left.

    Args:
        device: Where the models run.
        quick: Whether the smallest models stand for all.
        seconds: For everything.
        file: Written anew after every section, so that what ends the process loses the last only.
    """

    def __init__(self, device: Any, quick: bool, seconds: float, file: Path) -> None:
        """Start the clock."""
        self.device, self.quick, self.file = device, quick, file
        self.began = time.perf_counter()
        self.end = self.section_end = self.began + seconds
        self.section = ""
        self.checks: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.about: dict[str, Any] = {}

    @property
    def in_time(self) -> bool:
        """Whether the section may begin something."""
        return time.perf_counter() < self.section_end

    def check(self, name: str, work: Callable[[], str | None]) -> None:
        """Do something that must not fail; what it returns is noted beside its name."""
        found: dict[str, Any] = {"section": self.section, "check": name}
        started = time.perf_counter()
        if not self.in_time:
            found |= {"met": None, "note": "not run: the section's time is over"}
        else:
            try:
                found |= {"met": True, "note": work() or ""}
            # Whatever fails here is what the script is for: it is named, and the rest goes on.
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                said = (str(error).strip().splitlines() or [""])[0]
                where = f"{Path(last.filename).name}:{last.lineno}"
                found |= {"met": False, "note": f"{type(error).__name__}: {said} ({where})"}
        found["seconds"] = round(time.perf_counter() - started, 2)
        self.checks.append(found)
        if found["met"] is False:
            print(f"FAILED {self.section}, {name}: {found['note']}", flush=True)

    def row(self, **figures: Any) -> None:
        """Note figures."""
        self.rows.append({"section": self.section, **figures})

    def run(self, name: str, seconds: float, work: Callable[["Session"], None]) -> None:
        """Run a section and write the file."""
        import torch

        self.section, started = name, time.perf_counter()
        self.section_end = min(started + seconds, self.end)
        before = len(self.checks)
        work(self)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        torch._dynamo.reset()
        mine = self.checks[before:]
        count = {state: sum(one["met"] is state for one in mine) for state in (True, False, None)}
        print(
            f"{name}: {count[True]} met, {count[False]} failed, {count[None]} not run, "
            f"{time.perf_counter() - started:.0f} s",
            flush=True,
        )
        self.write()

    def write(self) -> None:
        """Write what is known."""
        record = {
            "benchmark": "gpu",
            "quick": self.quick,
            "seconds": round(time.perf_counter() - self.began, 1),
            "machine": self.about,
            "checks": self.checks,
            "rows": self.rows,
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(record, indent=2) + "\n")
