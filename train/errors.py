"""The one kind of error that ends a run with a sentence instead of a traceback."""

__all__ = ["RunError"]


class RunError(Exception):
    """A run cannot start or go on; the message says why and what to do."""
