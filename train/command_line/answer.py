"""What a command answers, and how an error ends one."""

import json
import os
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

from ..errors import RunError

__all__ = ["Answer", "exit_with"]


@dataclass(frozen=True)
class Answer:
    """What a command found.

    Args:
        found: What JSON can hold, no number of it infinite: what `--json` prints.
        text: The same for a reader.
        lines: Whether `found` is a list that JSON holds a line for each of.
        failed: One line that ends the command with exit code 1, such as a refuted claim. What was
            found is printed all the same.
    """

    found: Any
    text: str
    failed: str | None = None
    lines: bool = False

    def as_json(self) -> str:
        """What was found as `--json` prints it."""
        if self.lines:
            return "\n".join(json.dumps(row, allow_nan=False) for row in self.found)
        return json.dumps(self.found, indent=2, allow_nan=False)


def exit_with(command: str, error: RunError) -> NoReturn:
    """Say an error in one line, unless another process does, and end with its exit code.

    With HYDRA_FULL_ERROR=1 the error is raised, which shows where it arose.
    """
    if os.environ.get("HYDRA_FULL_ERROR"):
        raise error
    if not error.said:
        print(f"{command}: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
