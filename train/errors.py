"""The errors that end a run or a command with a sentence instead of a traceback."""

__all__ = ["RunError", "RunStopped", "UsageError", "check_at_least_one"]


class RunError(Exception):
    """A run or a command cannot start or go on; the message says why and what to do."""

    exit_code = 1
    said = False  # whether another process says the message


class UsageError(RunError):
    """A command line that cannot be read: no such command, flag or key, or a value of another type.

    Its exit code is that of argparse and of most commands for wrong usage.
    """

    exit_code = 2


class RunStopped(RunError):
    """A run was asked to stop and saved its step; it can go on.

    Its exit code is that of sysexits.h for what is worth trying again (EX_TEMPFAIL), so that a
    script can tell it from a failure.

    Args:
        text: The message.
        by: The name of the signal that it was, where the process knows.
    """

    exit_code = 75

    def __init__(self, text: str, by: str | None = None) -> None:
        """Keep both."""
        super().__init__(text)
        self.by = by


def check_at_least_one(**values: int | None) -> None:
    """Refuse counts below 1 by their names; None is one that is not given.

    Raises:
        RunError: a value is below 1.
    """
    for name, value in values.items():
        if value is not None and value < 1:
            raise RunError(f"{name} must be at least 1, got {value}")
