"""Turn Ctrl-C and a scheduler's SIGTERM into a request to stop after the current step."""

import contextlib
import signal
import threading
from collections.abc import Iterator

__all__ = ["StopRequest", "stop_request"]


class StopRequest:
    """Holds the name of the signal that arrived, or None."""

    signal: str | None = None


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM inside the block; a second one acts at once, as it would outside.

    Signals reach the main thread only, so in another thread nothing is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: object) -> None:
        request.signal = signal.Signals(number).name
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
