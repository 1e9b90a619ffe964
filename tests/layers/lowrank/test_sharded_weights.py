"""Low-rank methods on two processes: with weights that `fully_shard` cuts in two, and under DDP."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from archzoo.layers.lowrank import (
    LOST,
    SST,
    TRP,
    CoLA,
    LowRank,
    Maestro,
    Method,
    ReLoRA,
    SLTrain,
    StepAdamW,
    SwitchLoRA,
    reparametrize,
)
from archzoo.train.engine.process import disconnect
from torch import Tensor, distributed, multiprocessing, nn

pytestmark = pytest.mark.processes

STEPS = 9
RUNS = [("fsdp", None), ("fsdp", 3), ("ddp", None)]
METHODS: dict[str, Callable[[], Method]] = {
    # Every third step has an event; after it vectors have no optimiser state.
    "cola": lambda: CoLA(rank=4),
    "lost": lambda: LOST(rank=4, density=0.2),
    "low_rank": lambda: LowRank(rank=4, refactorize_every=3, reset_momentum=True),
    "maestro": lambda: Maestro(group_lasso=0.1, shrink_every=0),  # shards cannot change their size
    "relora": lambda: ReLoRA(rank=4, merge_every=3, rewarm=2),
    "sltrain": lambda: SLTrain(rank=4, density=0.1),
    "sst": lambda: SST(rank=4, resample_every=3, iterations=4, rewarm=2),
    "switchlora": lambda: SwitchLoRA(
        rank=4, interval=4.0, freeze=2, decay_share=10.0, total_steps=STEPS
    ),
    "trp": lambda: TRP(period=3, energy=0.1, nuclear=0.01, min_kernel=1),
}


def train(
    method: Method, process: tuple[int, Path] | None, stop: int | None, parallel: str = "fsdp"
) -> dict[str, Tensor]:
    """Train on one process, or on a part of every batch, with sharded weights that may resume."""

    def begin() -> tuple:
        torch.manual_seed(0)
        layers = nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)
        model = nn.Sequential(*layers).double()
        controller = reparametrize(model, method, ["0", "2"])
        wrapped = model
        if process is not None and parallel == "ddp":
            wrapped = nn.parallel.DistributedDataParallel(model)
        elif process is not None:
            from torch.distributed.fsdp import fully_shard

            for part in (model[0], model[2], model):
                fully_shard(part)
        optimizer = StepAdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        controller.attach(optimizer)
        return model, wrapped, controller, optimizer

    model, wrapped, controller, optimizer = begin()
    for step in range(STEPS):
        if step == stop and process is not None:
            from archzoo.train.engine.named_states import load_states, optimizer_state

            rank, place = process
            whole = {name: full(value) for name, value in model.state_dict().items()}
            state = {"model": whole, "optimizer": optimizer_state(model, optimizer)}
            if rank == 0:  # the other process gets the optimiser's state from none but the file
                torch.save([state, controller.state_dict()], place / "checkpoint.pt")
            distributed.barrier()
            state, known = torch.load(place / "checkpoint.pt", weights_only=True)
            model, wrapped, controller, optimizer = begin()
            load_states(model, optimizer, state)
            controller.load_state_dict(known)
        g = torch.Generator().manual_seed(step)
        x = torch.randn(8, 12, generator=g, dtype=torch.float64)
        optimizer.zero_grad()
        wrapped(x if process is None else x.chunk(2)[process[0]]).square().mean().backward()
        optimizer.step()
    return {name: full(value).clone() for name, value in model.state_dict().items()}


def full(value: Tensor) -> Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value  # type: ignore


def work(rank: int, place: Path) -> None:
    """Train with every method: sharded, once through and once with a stop, and under DDP."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{place}/store", rank=rank, world_size=2)
    for name, make in METHODS.items():
        for parallel, stop in RUNS:
            weights = train(make(), (rank, place), stop, parallel)
            torch.save(copy.deepcopy(weights), place / f"{name}-{parallel}-{stop}-{rank}.pt")
    disconnect()


@pytest.mark.slow
def test_runs_on_two_processes_equal_those_of_one_and_sharded_ones_resume_bit_by_bit(
    tmp_path: Path,
) -> None:
    multiprocessing.spawn(work, (tmp_path,), nprocs=2)
    for name, make in METHODS.items():
        alone = train(make(), None, None)
        for key, value in alone.items():
            for parallel in ("fsdp", "ddp"):
                runs = [
                    torch.load(tmp_path / f"{name}-{kind}-{stop}-{rank}.pt", weights_only=True)[key]
                    for kind, stop in RUNS
                    for rank in range(2)
                    if kind == parallel
                ]
                assert all(torch.equal(run, runs[0]) for run in runs), (name, parallel, key)
                # Gradients of two half batches are summed in another order than those of a whole.
                torch.testing.assert_close(
                    runs[0], value, rtol=0, atol=1e-9, msg=f"{name}, {parallel}, {key}"
                )
