"""Low-rank methods on two processes: alike on both, and equal to one process on the whole batch."""

import pytest
import torch
from archzoo.layers.lowrank import Controller, Maestro, Method, reparametrize
from archzoo.train.engine.process import disconnect
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

METHODS: dict[str, Method] = {
    "ddp: Maestro, prox": Maestro(group_lasso=0.3, sampler="independent", shrink_every=5),
    "ddp: Maestro, loss": Maestro(group_lasso=0.1, lasso="loss", threshold=0.05, shrink_every=5),
    # A sharded parameter cannot change its size.
    "fsdp: Maestro, prox": Maestro(group_lasso=0.3, sampler="independent", shrink_every=0),
    "fsdp: Maestro, loss": Maestro(group_lasso=0.1, lasso="loss", shrink_every=0),
}
STEPS = 50


def train(method: Method, kind: str = "", rank: int | None = None) -> tuple[list[Tensor], list]:
    """Take 50 steps, on one half of every batch where there are two processes.

    Returns:
        The parameters, whole, and what was drawn for every step.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 6)).double()
    controller = reparametrize(model, method, ["0", "2"])
    wrapped = wrap(model, kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    controller.attach(optimizer)
    generator = torch.Generator().manual_seed(1)
    drawn, resized = [], controller.resized
    for _ in range(STEPS):
        if controller.resized != resized:
            wrapped, resized = wrap(model, kind), controller.resized
        drawn.append(controller.state["drawn"])
        x = torch.randn(8, 6, generator=generator, dtype=torch.float64)
        part = x if rank is None else x[rank::2]
        loss = (wrapped(part) - part.flip(1)).square().mean()
        penalty = controller.penalty()
        optimizer.zero_grad()
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
    return whole(controller), drawn


def wrap(model: nn.Module, kind: str) -> nn.Module:
    if kind == "ddp":
        return DistributedDataParallel(model)
    if kind == "fsdp":
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    return model


def whole(controller: Controller) -> list[Tensor]:
    return [getattr(p, "full_tensor", lambda p=p: p)().detach().clone()
            for p in controller.model.parameters()]  # fmt: skip


def work(rank: int, place: str) -> None:
    """Train with every method beside another process."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{place}/store", rank=rank, world_size=2)
    found = {name: train(method, name.partition(":")[0], rank) for name, method in METHODS.items()}
    torch.save(found, f"{place}/{rank}.pt")
    disconnect()


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_draw_alike_and_train_as_one(tmp_path):
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, method in METHODS.items():
        (parameters, drawn), (others, also_drawn) = first[name], second[name]
        assert drawn == also_drawn and len(drawn) == STEPS
        assert all(torch.equal(p, q) for p, q in zip(parameters, others, strict=True)), name
        expected, expected_drawn = train(method)
        assert drawn == expected_drawn
        for p, q in zip(parameters, expected, strict=True):
            # float64 means of halves, summed in another order in each of 50 steps.
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)
        removed = 208 - sum(p.numel() for p in parameters)  # 2 · 6 · (6 + 10) + 16 at full rank
        assert (removed > 0) == name.startswith("ddp"), name


@pytest.mark.long
def test_parameters_that_are_sharded_cannot_be_asked_to_shrink(tmp_path):
    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.Sequential(nn.Linear(6, 6))
        controller = reparametrize(model, Maestro(shrink_every=5), ["0"])
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ValueError, match="set shrink_every=0, or use trainer.parallel=ddp"):
            controller.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    finally:
        disconnect()
