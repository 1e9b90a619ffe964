"""An error of one process ends all of them, with its sentence.

Processes wait for each other whenever they exchange tensors, so one that fails alone would leave
the others waiting. The first that fails writes down why, where all can read it, and closes its
connections; whoever waits for it gets an error of the network in that moment, and reads on.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch.distributed as dist

from ..errors import RunError, RunStopped
from .process import World, abandon

__all__ = ["together"]

PATIENCE = 10.0
"""Seconds that a failed process waits for the others to hear of it, in their next exchange."""


class Failure(NamedTuple):
    """Why a run ends: the process that failed first, its sentence, and whether it was a stop."""

    rank: int
    text: str
    stopped: bool


@contextlib.contextmanager
def together(world: World) -> Iterator[None]:
    """Run a block on all processes, which ends well on all of them or on none.

    The error of the process that failed first is raised there as it is, and its sentence on the
    others. Where the leader hears of it, that one says it and others stay silent.

    Args:
        world: The processes, connected; one process changes nothing.

    Raises:
        RunError: another process failed first, or ended without a word.
    """
    if world.size == 1:
        yield
        return
    assert world.store is not None
    try:
        yield
        world.share(None)
    except Exception as error:
        first = _first_failure(world.store, Failure(world.rank, *_word(error, world.rank)))
        abandon(error)
        said = _leader_hears(world.store, world) and not world.leader
        if first.rank == world.rank and isinstance(error, RunError):
            error.said = said
            raise
        if first.rank == world.rank and not _is_of_the_network(error):
            raise
        told = (RunStopped if first.stopped else RunError)(first.text)
        told.said = said
        raise told from None


def _word(error: Exception, rank: int) -> tuple[str, bool]:
    """Return what an error says to other processes, and whether it is a stop."""
    if isinstance(error, RunError):
        return str(error), isinstance(error, RunStopped)
    if _is_of_the_network(error):
        return (
            f"process {rank} lost another one, which ended without a word: killed, or out of "
            f"memory; nothing saved before is lost. Go on with resume=auto"
        ), False
    said = " ".join(str(error).split())
    return f"process {rank} failed: {type(error).__name__}: {said}", False


def _is_of_the_network(error: Exception) -> bool:
    """Whether an exchange failed, which gloo says in a plain RuntimeError."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )


def _first_failure(store: dist.Store, own: Failure) -> Failure:
    """Write a failure down and return the one that was written first."""
    try:
        return Failure(*json.loads(store.compare_set("failure", "", json.dumps(own))))
    except dist.DistError:  # the process that kept the store is gone
        return own


def _leader_hears(store: dist.Store, world: World) -> bool:
    """Wait until all processes have left the block and return whether the leader has.

    They leave at the same time, since `torchrun` kills the others when the first is gone; the
    leader leaves last, since without `torchrun` the store is its own.
    """

    def wait_until_all(have: str) -> None:
        keys = [f"{have} {rank}" for rank in range(world.size)]
        until = time.monotonic() + PATIENCE
        while not store.check(keys) and time.monotonic() < until:
            time.sleep(0.01)

    try:
        store.set(f"heard {world.rank}", "")
        wait_until_all("heard")
        leader = store.check(["heard 0"])
        store.set(f"left {world.rank}", "")
        if world.leader:
            wait_until_all("left")
        return leader
    except dist.DistError:
        return False
