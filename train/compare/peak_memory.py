"""The most memory that torch holds while something runs, above what it held before.

On a CPU that is read off the allocator's own record, which the profiler keeps: every allocation and
release of torch, the temporary ones inside an operator included. What a library takes from the
system by itself, as oneDNN's scratch space, is not torch's and not counted. On CUDA it is the
caching allocator's own count.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["peak_bytes"]


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Run a piece of work once and return how many bytes it added at most."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with (
        _quiet_descriptor(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record,
    ):
        work()
    assert record.profiler is not None and record.profiler.kineto_results is not None
    changes = [
        (event.start_ns(), event.nbytes())  # pyright: ignore[reportAttributeAccessIssue]  # no stub
        for event in record.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    held = most = 0
    for _, change in sorted(changes, key=lambda one: one[0]):
        held += change
        most = max(most, held)
    return most


@contextlib.contextmanager
def _quiet_descriptor() -> Iterator[None]:
    """The profiler's library writes its beginning and end to the standard error's descriptor."""
    sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)
