"""Networks that adapters are tried on: a layer of each kind, and settings for tiny weights."""

from collections.abc import Mapping
from typing import Any

import torch
from archzoo.layers.hyperbolic import PoincareLinear
from archzoo.layers.lipschitz import LDLTBlock
from archzoo.layers.lowrank import Controller
from archzoo.layers.lowrank.adapters.adapter import Adapter, adapt
from archzoo.layers.lowrank.adapters.lora_xs import mean_gradients
from archzoo.zoo.axes.adapters import adapter_info, make_adapter, presets
from torch import Tensor, nn

NAMES = list(presets.names())

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "svfit": {"rank": 3},
    "increlora": {"rank": 1, "target_rank": 2, "warmup": 1, "grow_every": 1},
    "sara": {"share": 0.3},
    "smora": {"rank": 4, "active": 2},
    "remix": {"rank": 1, "adapters": 3, "active": 2},
}
"""What a preset is tried with, where its defaults do not suit weights of eight rows."""

LAYERS = ("linear", "conv", "poincare", "ldlt")
TARGETS = {"linear": "0", "conv": "0", "poincare": "0:weight", "ldlt": "0:*"}


def network(kind: str, seed: int = 0) -> nn.Sequential:
    """Return a layer to adapt and a head, in float64."""
    torch.manual_seed(seed)
    if kind == "linear":
        layers = [nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3)]
    elif kind == "conv":
        layers = [nn.Conv2d(4, 8, 3, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)]
    elif kind == "poincare":
        layers = [PoincareLinear(10, 8, init="normal"), nn.Tanh(), nn.Linear(8, 3)]
    else:
        layers = [LDLTBlock(10, [8]), nn.Tanh(), nn.Linear(10, 3)]
    return nn.Sequential(*layers).double()


def example(kind: str, seed: int = 1) -> Tensor:
    """Return a batch for a network."""
    generator = torch.Generator().manual_seed(seed)
    shape = (5, 4, 4, 4) if kind == "conv" else (5, 10)
    return torch.randn(shape, generator=generator, dtype=torch.float64) / 4


def preset_of(name: str, **more: Any) -> Adapter:
    """Return a preset with few components, in a run of known length."""
    options = adapter_info(name).options
    settings = {"rank": 2} if "rank" in options else {}
    if "total_steps" in options:
        settings["total_steps"] = 10
    return make_adapter({"name": name, **settings, **SETTINGS.get(name, {}), **more})


def adapted(name: str, kind: str, **more: Any) -> tuple[nn.Sequential, Controller]:
    """Return a network with an adapter on its first layer."""
    model, preset = network(kind), preset_of(name, **more)
    batches = [example(kind, seed) for seed in (1, 2)]
    given = mean_gradients(batches, lambda net, x: net(x).square().sum()) if preset.reads else None
    controller = adapt(model, preset, [TARGETS[kind]], statistics=given)
    controller.held_out = lambda number: (model(example(kind, 90 + number)) - 1).square().sum()
    return model, controller


def train(controller: Controller, kind: str, steps: int = 5, **optim: Any) -> None:
    """Take steps of AdamW over all parameters, with weight decay, of two micro-batches each."""
    model = controller.model.train()
    settings = {"lr": 0.05, "weight_decay": 0.1, **optim}
    optimizer = torch.optim.AdamW(model.parameters(), **settings)
    controller.attach(optimizer)
    for step in range(steps):
        optimizer.zero_grad()
        for micro in range(2):
            x = example(kind, 10 + 2 * step + micro)
            loss, penalty = (model(x) - 1).square().sum(), controller.penalty()
            controller.note_loss(loss)
            (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
