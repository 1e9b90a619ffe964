"""SwitchLoRA, ReLoRA and sparse spectral training with weights that `fully_shard` cuts in two."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from archzoo.layers.lowrank import SST, Method, ReLoRA, StepAdamW, SwitchLoRA, reparametrize
from torch import Tensor, distributed, multiprocessing, nn

STEPS = 9
METHODS: dict[str, Callable[[], Method]] = {
    # Every third step is one after which vectors have no optimiser state.
    "relora": lambda: ReLoRA(rank=4, merge_every=3, rewarm=2),
    "sst": lambda: SST(rank=4, resample_every=3, iterations=4, rewarm=2),
    "switchlora": lambda: SwitchLoRA(
        rank=4, interval=4.0, freeze=2, decay_share=10.0, total_steps=STEPS
    ),
}


def train(method: Method, process: tuple[int, Path] | None, stop: int | None) -> dict[str, Tensor]:
    """Train on one process, or on a part of every batch with sharded weights that may resume."""

    def begin() -> tuple:
        torch.manual_seed(0)
        layers = nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)
        model = nn.Sequential(*layers).double()
        controller = reparametrize(model, method, ["0", "2"])
        if process is not None:
            from torch.distributed.fsdp import fully_shard

            for part in (model[0], model[2], model):
                fully_shard(part)
        optimizer = StepAdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        controller.attach(optimizer)
        return model, controller, optimizer

    model, controller, optimizer = begin()
    for step in range(STEPS):
        if step == stop and process is not None:
            from archzoo.train.checkpoint import load_states, optimizer_state

            rank, place = process
            whole = {name: full(value) for name, value in model.state_dict().items()}
            state = {"model": whole, "optimizer": optimizer_state(model, optimizer)}
            if rank == 0:  # the other process gets the optimiser's state from none but the file
                torch.save([state, controller.state_dict()], place / "checkpoint.pt")
            distributed.barrier()
            state, known = torch.load(place / "checkpoint.pt", weights_only=True)
            model, controller, optimizer = begin()
            load_states(model, optimizer, state)
            controller.load_state_dict(known)
        g = torch.Generator().manual_seed(step)
        x = torch.randn(8, 12, generator=g, dtype=torch.float64)
        optimizer.zero_grad()
        model(x if process is None else x.chunk(2)[process[0]]).square().mean().backward()
        optimizer.step()
    return {name: full(value).clone() for name, value in model.state_dict().items()}


def full(value: Tensor) -> Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value  # type: ignore


def work(rank: int, place: Path) -> None:
    """Train with every method, once through and once with a stop after an event."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{place}/store", rank=rank, world_size=2)
    for name, make in METHODS.items():
        for stop in (None, 3):
            weights = train(make(), (rank, place), stop)
            torch.save(copy.deepcopy(weights), place / f"{name}-{stop}-{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_sharded_runs_equal_those_of_one_process_and_resume_bit_by_bit(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (tmp_path,), nprocs=2)
    for name, make in METHODS.items():
        alone = train(make(), None, None)
        runs = [
            torch.load(tmp_path / f"{name}-{stop}-{rank}.pt", weights_only=True)
            for stop in (None, 3)
            for rank in range(2)
        ]
        for key, value in alone.items():
            assert all(torch.equal(run[key], runs[0][key]) for run in runs), (name, key)
            # Gradients of two half batches are summed in another order than those of a whole one.
            torch.testing.assert_close(runs[0][key], value, rtol=0, atol=1e-9)
