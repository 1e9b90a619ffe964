"""A tiny network, and runs of it under a low-rank method that may stop and go on."""

import io
from collections.abc import Callable

import torch
from archzoo.layers.lowrank import Controller, Method, reparametrize
from torch import Tensor, nn

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


def network(seed: int = 0) -> nn.Sequential:
    """Return a convolution, a linear layer and a head, in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 9, 12), nn.Tanh(),
        nn.Linear(12, 3),
    ).double()  # fmt: skip


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Update on data that follow from the step."""
    g = torch.Generator().manual_seed(step)
    x = torch.randn(4, 2, 3, 3, generator=g, dtype=torch.float64)
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()


def begin(
    method: Method, make: MakeOptimizer, seed: int = 0
) -> tuple[nn.Module, Controller, torch.optim.Optimizer]:
    """Give the first two layers of a fresh network a structure, and attach an optimiser."""
    model = network(seed)
    controller = reparametrize(model, method, ["0", "3"])
    optimizer = make(model)
    controller.attach(optimizer)
    return model, controller, optimizer


def run(
    method: Callable[[], Method], make: MakeOptimizer, steps: int, stop: int | None = None
) -> tuple[dict[str, Tensor], Controller]:
    """Train; where `stop` says, save all, throw it away, and go on from the file."""
    model, controller, optimizer = begin(method(), make)
    for step in range(steps):
        if step == stop:
            kept = {"model": model, "optimizer": optimizer, "controller": controller}
            file = io.BytesIO()
            torch.save({name: part.state_dict() for name, part in kept.items()}, file)
            file.seek(0)
            loaded = torch.load(file, weights_only=True)
            model, controller, optimizer = begin(method(), make, seed=1)
            model.load_state_dict(loaded["model"])
            optimizer.load_state_dict(loaded["optimizer"])
            controller.load_state_dict(loaded["controller"])
        take_step(model, optimizer, step)
    return model.state_dict(), controller


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Return the names of the tensors that are not the same bit by bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]
