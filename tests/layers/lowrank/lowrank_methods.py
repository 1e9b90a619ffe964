"""Every registered low-rank method and the optimisers it is run under, on a tiny network."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from archzoo.layers.lowrank import Controller, Method, StepAdamW, reparametrize
from archzoo.zoo.axes.lowrank import make_method, method_info, methods
from torch import Tensor, nn
from torch.nn import functional as F

NAMES = list(methods.names())

# Settings under which something happens within a few steps; other methods have their defaults.
EAGER: dict[str, dict[str, Any]] = {
    "low_rank": {"refactorize_every": 3, "reset_momentum": True, "frobenius": 0.01},
    "maestro": {"shrink_every": 4, "threshold": 0.7, "group_lasso": 0.02},
    "trp": {"min_kernel": 1, "period": 3, "energy": 0.1, "nuclear": 0.05},
    "relora": {"merge_every": 3, "rewarm": 2},
    "sst": {"resample_every": 3, "iterations": 2, "rewarm": 2},
    # Given ranks, as other weights would decide others; the head below is trained.
    "welore": {"ranks": {"0": 2, "3": 3, "5:matrix": 2}, "freeze": False},
    "switchlora": {"interval": 2, "decay_share": 2.0, "freeze": 1},
}

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.02, momentum=0.9, foreach=False),
    "sgd_foreach": functools.partial(torch.optim.SGD, lr=0.02, momentum=0.9, foreach=True),
    "sgd_fused": functools.partial(torch.optim.SGD, lr=0.02, momentum=0.9, fused=True),
    "adamw": functools.partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, foreach=False),
    "adamw_foreach": functools.partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, foreach=True),
    "adamw_fused": functools.partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, fused=True),
    "step_adamw": functools.partial(StepAdamW, lr=0.01, weight_decay=0.1),
}
FUSED = [name for name in OPTIMIZERS if name.endswith("fused")]


class Raw(nn.Module):
    """A layer that consumes a raw matrix."""

    matrix_parameters = ("matrix",)

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(10, 12) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.matrix).tanh()


def network(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Return a convolution, a linear layer, a raw matrix and a head."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 9, 12), nn.Tanh(),
        Raw(), nn.Linear(10, 3),
    ).to(dtype)  # fmt: skip


def method_of(name: str, **more: Any) -> Method:
    """Return a method with events every few steps, in a run of known length."""
    settings = {**EAGER.get(name, {}), **more}
    if "total_steps" in method_info(name).options:
        settings["total_steps"] = 40
    return make_method({"name": name, **settings})


def targets_of(method: Method) -> list[str]:
    """Name all weights but the head's that a method can work on."""
    return ["0", "3", "5:matrix"] if method.is_matrix else ["0", "3"]


def reparametrized(
    name: str, seed: int = 0, dtype: torch.dtype = torch.float64, **more: Any
) -> tuple[nn.Sequential, Controller]:
    """Give the weights of a network a structure; different learning rates for targets and rest."""
    model, method = network(seed, dtype), method_of(name)
    return model, reparametrize(
        model, method, targets_of(method), learning_rate_ratio=0.5, **more
    )  # fmt: skip


def works_with(name: str, optimizer: str) -> bool:
    """Whether a method takes an optimiser."""
    made = OPTIMIZERS[optimizer]([nn.Parameter(torch.zeros(1))])
    try:
        method_of(name).check_optimizer(made)
    except ValueError:
        return False
    return True


PAIRS = [(name, optimizer) for name in NAMES for optimizer in OPTIMIZERS
         if works_with(name, optimizer)]  # fmt: skip


def loss_at(controller: Controller, step: int) -> Tensor:
    """Return the loss on data that follow from the step, with the method's penalty."""
    model = controller.model
    g = torch.Generator().manual_seed(step)
    dtype = next(model.parameters()).dtype
    x = torch.randn(4, 2, 3, 3, generator=g, dtype=torch.float64).to(dtype)
    loss, penalty = model(x).square().sum(), controller.penalty()
    return loss if penalty is None else loss + penalty


def take_step(controller: Controller, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Make one update on the plain path."""
    optimizer.zero_grad()
    loss_at(controller, step).backward()
    optimizer.step()


def everything(controller: Controller, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return a copy of all that a run is: weights, optimiser, the method's state and the rates."""
    found: dict[str, Tensor] = {}

    def collect(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                collect(f"{name}.{key}", each)
        elif isinstance(value, (list, tuple)):
            for place, each in enumerate(value):
                collect(f"{name}.{place}", each)
        elif isinstance(value, (Tensor, int, float)):
            found[name] = torch.as_tensor(value).detach().clone()

    collect("model", dict(controller.model.state_dict()))
    collect("optimizer", optimizer.state_dict())
    collect("controller", controller.state_dict())
    return found


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Two runs are the same bit by bit."""
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, different[:5]


def checkpoint(controller: Controller, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return copies of the three states that a resumed run needs."""
    return {
        "model": copy.deepcopy(controller.model.state_dict()),
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "controller": copy.deepcopy(controller.state_dict()),
    }
