"""`torchrun` whose exit code tells a run that can go on from a failure.

    python -m archzoo.train.torchrun --nproc-per-node=8 -m archzoo.train model=vit_small resume=auto

The flags are those of torchrun. torchrun makes 1 of every exit code and takes a signal for its own
end; a queue then cannot tell a run that was stopped and saved from one that failed. Here a signal
goes to the processes, which finish their step and save, and 75 of theirs is 75.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .engine.signals import STOPPING
from .errors import RunStopped

__all__ = ["main"]

# Of the signals that torchrun would catch it keeps the one that no run is stopped by.
ITS_OWN = "--signals-to-handle=SIGQUIT"


def main(arguments: Sequence[str] | None = None) -> None:
    """Call torchrun and exit with 75 where the processes were stopped and can go on.

    Where some of them still started and the signal ended these, nothing is lost, and it is 75, too.
    What else went wrong is torchrun's to tell, with its exit code.

    Args:
        arguments: The words of torchrun's command line; None is those of this process.
    """
    # They take as long to import as a short command line takes.
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    words = list(sys.argv[1:] if arguments is None else arguments)
    with _passed_on() as passed:
        try:
            torchrun.run(torchrun.parse_args([ITS_OWN, *words]))
        except ChildFailedError as error:
            codes = {failure.exitcode for failure in error.failures.values()}
            # As soon as one process has ended torchrun ends those beside it, by SIGTERM.
            ended = {RunStopped.exit_code, -signal.SIGTERM, *(-number for number in passed)}
            if codes <= ended and (RunStopped.exit_code in codes or passed):
                sys.exit(RunStopped.exit_code)
            raise


@contextlib.contextmanager
def _passed_on() -> Iterator[set[int]]:
    """Pass stopping signals on to the processes inside the block, and note which they were.

    A signal that comes before the first process ends the block as a stopped run would.
    """
    passed: set[int] = set()

    def pass_on(number: int, _frame: object) -> None:
        children = _children(os.getpid())
        if not children:
            sys.exit(RunStopped.exit_code)
        passed.add(number)
        for child in children:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(child, number)

    before = {number: signal.signal(number, pass_on) for number in STOPPING}
    try:
        yield passed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _children(parent: int) -> list[int]:
    """The processes that another one started, by Linux's table of processes."""
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # a process that has ended meanwhile
            # The name before the last bracket may hold anything; behind it are state and parent.
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                children.append(int(stat.parent.name))
    return children


if __name__ == "__main__":
    main()
