"""Where this process stands among those that `torchrun` started, and on which device."""

import contextlib
import gc
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from ..errors import RunError

__all__ = [
    "World",
    "abandon",
    "choose_device",
    "connect",
    "disconnect",
    "exchanging_gradients",
    "is_sharded",
    "parallelize",
]


T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Rank of this process, number of processes, and the device it computes on.

    `store` is what several processes write to and read from without waiting for each other.
    """

    rank: int
    size: int
    device: torch.device
    store: dist.Store | None = None

    @property
    def leader(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0

    def share(self, value: T) -> T:
        """Return the leader's value on every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def leader_first(self, work: Callable[[], T]) -> T:
        """Return what work returns: on the leader first, so that a download happens once."""
        if not self.leader:
            self.share(None)
        found = work()
        if self.leader:
            self.share(None)
        return found

    def lead(self, work: Callable[[], T]) -> T:
        """Return on every process what the leader's work returns, or raise its RunError on all."""
        if self.size == 1:
            return work()
        box: list[Any] = [None, None]
        if self.leader:
            try:
                box[0] = work()
            except RunError as error:
                box[1] = str(error)
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise RunError(box[1])
        return box[0]

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes, which must all call."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.size

    def first(self, value: str | None) -> str | None:
        """Return on every process what the first that has one has; None where none has.

        Asked every step, so one number is exchanged where none has any: 0.13 ms between two
        processes of a busy machine.
        """
        if self.size == 1:
            return value
        has = torch.tensor(value is not None, dtype=torch.uint8)
        dist.all_reduce(has, dist.ReduceOp.MAX)
        return next(filter(None, self.gather(value))) if has else None

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in order of rank."""
        if self.size == 1:
            return [value]
        box: list[T] = [value] * self.size
        dist.all_gather_object(box, value)
        return box


def choose_device(wanted: str, key: str = "device") -> torch.device:
    """Return the device to compute on; `auto` is CUDA where there is any.

    Args:
        wanted: `auto`, `cpu` or `cuda`.
        key: What the setting is called.

    Raises:
        RunError: CUDA was asked for and is not there, or an unknown device.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise RunError(f"{key} must be auto, cpu or cuda, got {wanted!r}")
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise RunError(f"{key}=cuda, but torch sees no CUDA device; use {key}=cpu")
    return torch.device("cuda" if wanted != "cpu" and there else "cpu")


def connect(device: str) -> World:
    """Join the process group if `torchrun` started this process, and choose the device.

    Raises:
        RunError: CUDA was asked for and is not there, or an unknown device.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = choose_device(device, "trainer.device").type == "cuda"
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else "cpu"
    if cuda:
        torch.cuda.set_device(place)
    if size == 1:
        return World(rank, size, torch.device(place))
    store, *_ = next(dist.rendezvous("env://"))
    # The runs of a sweep follow each other here; what one leaves in the store misleads the next.
    count = store.add(f"runs of {rank}", 1)
    store = dist.PrefixStore(f"run {count}", store)
    # Numbers that decide what a process does are on the CPU; on a GPU they would wait for it.
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    return World(rank, size, torch.device(place), store)


def disconnect() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        # A sharded module holds the group in reference cycles. Were it to die with the
        # interpreter, its threads would abort the process after all work is done.
        gc.collect()
        dist.destroy_process_group()


def abandon(error: BaseException) -> None:
    """Leave the process group after an error, so that processes which wait for this one get one.

    Gloo's connections close with the last reference to the group. The frames of an error hold some,
    and so does a mesh of processes, which caches of PyTorch keep when its model is gone.
    """
    at: BaseException | None = error
    while at is not None:
        traceback.clear_frames(at.__traceback__)
        at = at.__cause__ or at.__context__
    for mesh in [each for each in gc.get_objects() if type(each) is DeviceMesh]:
        mesh._pg_registry.clear()
    dist.distributed_c10d._abort_process_group()
    gc.collect()


def is_sharded(model: nn.Module) -> bool:
    """Whether `fully_shard` cut the parameters into pieces."""
    return any(hasattr(p, "full_tensor") for p in model.parameters())


def parallelize(model: nn.Module, world: World, parallel: str) -> nn.Module:
    """Wrap a model for data parallelism, or shard it in place.

    Args:
        model: On its device.
        world: The processes; one process changes nothing.
        parallel: `ddp` copies the model to every process, `fsdp` shards it with `fully_shard`.

    Raises:
        RunError: `fsdp` for a model with manifold parameters, which sharding would turn into
            plain ones without a word, or on several processes for one with parameters of one
            number, such as a learned curvature.
    """
    if parallel == "fsdp":
        from torch.distributed.fsdp import fully_shard

        manifolds = [name for name, p in model.named_parameters() if hasattr(p, "manifold")]
        if manifolds:
            raise RunError(
                f"trainer.parallel=fsdp would drop the manifold of {manifolds[0]} "
                f"({len(manifolds)} parameters); use trainer.parallel=ddp"
            )
        if world.size > 1:
            numbers = [name for name, p in model.named_parameters() if not p.dim()]
            if numbers:
                raise RunError(
                    f"trainer.parallel=fsdp cannot cut {numbers[0]} into pieces "
                    f"({len(numbers)} parameters of one number); use trainer.parallel=ddp"
                )
            for trunk in model.modules():
                for block in getattr(trunk, "branches", ()):
                    fully_shard(block)
            fully_shard(model)
        return model
    if world.size == 1:
        return model
    devices = [world.device.index] if world.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=devices)


def exchanging_gradients(wrapped: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """Under DDP, exchange gradients with the last micro-batch of a step only.

    Args:
        wrapped: What `parallelize` returned.
        last: Whether the pass inside is that of the last micro-batch.
    """
    if isinstance(wrapped, nn.parallel.DistributedDataParallel) and not last:
        return wrapped.no_sync()
    return contextlib.nullcontext()
