"""Times of several pieces of work, measured in turns: a change of the machine's speed meets all."""

import time
from collections.abc import Callable, Sequence

__all__ = ["interleaved_times"]

WARMUPS = 3
LEAST = 5  # rounds


def interleaved_times(
    works: Sequence[Callable[[], object]],
    *,
    seconds: float = 0.5,
    wait: Callable[[], object] = lambda: None,
) -> list[list[float]]:
    """The seconds of every repetition of each work, in rounds of alternating order.

    Args:
        works: Called without arguments; three times each before the first round.
        seconds: About how long each is measured; five rounds at least.
        wait: Called before a clock is read, such as `torch.cuda.synchronize`.
    """
    for work in works:
        for _ in range(WARMUPS):
            work()
    clocks: list[list[float]] = [[] for _ in works]
    turns = list(zip(works, clocks, strict=True))
    spent, rounds = 0.0, 0
    while rounds < LEAST or spent < seconds * len(works):
        for work, clock in turns if rounds % 2 == 0 else reversed(turns):
            wait()
            began = time.perf_counter()
            work()
            wait()
            clock.append(time.perf_counter() - began)
            spent += clock[-1]
        rounds += 1
    return clocks
