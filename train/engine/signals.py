"""Turn Ctrl-C, a scheduler's signal or the end of the time into a request to stop after a step."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

import torch.distributed as dist

__all__ = ["STOPPING", "StopRequest", "stop_request"]

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C, a scheduler's end, a terminal that closes, and a scheduler's or submitit's warning."""


class StopRequest:
    """What asked for the stop.

    Args:
        minutes: After which the run stops by itself; None is never.
    """

    def __init__(self, minutes: float | None = None) -> None:
        """Start the clock."""
        self.received: str | None = None
        self.minutes = minutes
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes

    @property
    def signal(self) -> str | None:
        """The name of the signal that arrived, or of the limit that was reached, or None."""
        if self.received is None and self.deadline is not None:
            return f"trainer.max_time={self.minutes:g}" * (time.monotonic() > self.deadline) or None
        return self.received


@contextlib.contextmanager
def stop_request(minutes: float | None = None) -> Iterator[StopRequest]:
    """Catch the stopping signals inside the block; a second one acts at once, as it would outside.

    Under `torchrun` it does not: SLURM signals every process of a job and `torchrun` passes on what
    it got, so that two signals are one wish. Signals reach the main thread only, so in another
    thread nothing is caught.

    Args:
        minutes: As in `StopRequest`.
    """
    request = StopRequest(minutes)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in STOPPING}

    def note(number: int, _frame: object) -> None:
        request.received = request.received or signal.Signals(number).name
        if not dist.is_torchelastic_launched():
            for each, handler in before.items():
                signal.signal(each, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
