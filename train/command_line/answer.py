"""What a command answers, and how an error ends one."""

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
        failed: One line that ends the command with exit code 1, such as a refuted claim. What was
            found is printed all the same.
    """

    found: Any
    text: str
    failed: str | None = None


def exit_with(command: str, error: RunError) -> NoReturn:
    """Say an error in one line, unless another process does, and end with its exit code.

    With HYDRA_FULL_ERROR=1 the error is raised, which shows where it arose.
    """
    if os.environ.get("HYDRA_FULL_ERROR"):
        raise error
    if not error.said:
        print(f"{command}: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
