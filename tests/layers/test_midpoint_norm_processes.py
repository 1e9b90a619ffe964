"""Midpoint batch normalisation over the points of two processes."""

import torch
from archzoo.layers.hyperbolic import MidpointBatchNorm
from archzoo.train.world import disconnect
from torch import Tensor, distributed, multiprocessing

C = 0.3


def batch() -> Tensor:
    """Return eight images of which the processes take unequal parts."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 4, 3, 2, generator=generator, dtype=torch.float64)


def normalise(t: Tensor, *, synchronised: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs, input gradients of a loss that weighs all points, and running statistics."""
    layer = MidpointBatchNorm(4, curvature=C, synchronised=synchronised).double()
    t = t.clone().requires_grad_()
    out = layer(t)
    (out.sin() * out.square()).sum().backward()
    assert t.grad is not None
    return out.detach(), t.grad, torch.cat([layer.running_mean, layer.running_var[None]])


def work(rank: int, place: str) -> None:
    """Normalise one part of the batch beside another process."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{place}/store", rank=rank, world_size=2)
    part = batch().split([3, 5])[rank]
    torch.save(normalise(part, synchronised=True), f"{place}/{rank}.pt")
    disconnect()


def test_processes_that_share_their_points_normalise_as_one(tmp_path):
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    out, gradient, statistics = normalise(batch(), synchronised=False)
    # float64 sums in another order.
    tight = {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), out, **tight)
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), gradient, **tight)
    for part in parts:
        torch.testing.assert_close(part[2], statistics, **tight)


def test_without_other_processes_nothing_is_shared():
    for one, other in zip(
        normalise(batch(), synchronised=True), normalise(batch(), synchronised=False), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
