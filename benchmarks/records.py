"""Results of long runs, kept one a line, so that what has ended is never run again."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Records"]


class Records:
    """A file of JSON lines, each with the key of a run and its result.

    Args:
        path: The file; made at the first result.
    """

    def __init__(self, path: Path) -> None:
        """Read what has ended."""
        lines = path.read_text().splitlines() if path.exists() else []
        self.path = path
        self.known = [json.loads(line) for line in lines]

    def get(self, key: Mapping[str, Any], run: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return the result of a key, run now where none is kept."""
        for record in self.known:
            if all(record.get(name) == value for name, value in key.items()):
                return record
        record = {**key, **run()}
        # One short write in append mode: a killed process leaves whole lines.
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.known.append(record)
        return record
