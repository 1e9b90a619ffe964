"""The errors that end a run with a sentence instead of a traceback."""

__all__ = ["RunError", "RunStopped"]


class RunError(Exception):
    """A run cannot start or go on; the message says why and what to do."""

    exit_code = 1
    said = False  # whether another process says the message


class RunStopped(RunError):
    """A run was asked to stop and saved its step; it can go on.

    Its exit code is that of sysexits.h for what is worth trying again (EX_TEMPFAIL), so that a
    script can tell it from a failure.
    """

    exit_code = 75
