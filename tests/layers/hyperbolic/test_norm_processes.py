"""Midpoint batch normalisation over the points of two processes."""

import pytest
import torch
from archzoo.layers.hyperbolic import MidpointBatchNorm
from archzoo.train.engine.process import disconnect
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


SIZES = [(3, 5), (0, 8), (0, 0)]
"""How many images each of two processes takes."""


def work(rank: int, place: str) -> None:
    """Normalise parts of the batch beside another process."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{place}/store", rank=rank, world_size=2)
    parts = [batch()[: sum(sizes)].split(sizes)[rank] for sizes in SIZES]
    torch.save([normalise(part, synchronised=True) for part in parts], f"{place}/{rank}.pt")
    disconnect()


@pytest.mark.processes
def test_processes_that_share_their_points_normalise_as_one(tmp_path):
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    # float64 sums in another order.
    tight = {"rtol": 1e-9, "atol": 1e-11}
    for sizes, *parts in zip(SIZES, *ranks, strict=True):
        out, gradient, statistics = normalise(batch()[: sum(sizes)], synchronised=False)
        torch.testing.assert_close(torch.cat([p[0] for p in parts]), out, **tight)
        torch.testing.assert_close(torch.cat([p[1] for p in parts]), gradient, **tight)
        for part in parts:
            torch.testing.assert_close(part[2], statistics, **tight)


def test_without_other_processes_nothing_is_shared():
    for one, other in zip(
        normalise(batch(), synchronised=True), normalise(batch(), synchronised=False), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
