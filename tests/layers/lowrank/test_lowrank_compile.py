"""A model with any weight structure compiles whole, and goes on so after events between steps."""

import copy

import pytest
import torch
from archzoo.layers.lowrank import (
    LOST,
    SST,
    LowRank,
    Maestro,
    Method,
    ReLoRA,
    SLTrain,
    StepAdamW,
    SwitchLoRA,
    reparametrize,
)
from torch import Tensor, nn

pytestmark = pytest.mark.compiles

STEPS = 6
METHODS: dict[str, Method] = {
    # The class of the structure, and what happens to it between steps.
    "Factors, refactorised": LowRank(rank=3, refactorize_every=2),
    "Factors, drawn and cut": Maestro(threshold=0.9, shrink_every=3),
    "Factors over a frozen matrix": ReLoRA(rank=3, merge_every=2, rewarm=1),
    "Spectral": SST(rank=3, resample_every=2, iterations=2, rewarm=1),
    "SparseFactors": SLTrain(rank=2, density=0.1),
    "Factors beside columns": LOST(rank=2),
    "SwitchedFactors": SwitchLoRA(rank=3, interval=2, decay_share=2, freeze=1, total_steps=STEPS),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_compiled_model_trains_as_an_eager_one_through_all_events(name: str) -> None:
    torch.compiler.reset()  # graphs of other tests count towards the limit of recompilations
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(72, 12), nn.SiLU(),
        nn.Linear(12, 3),
    ).double()  # fmt: skip
    results = []
    for compiled in (False, True):
        mine = copy.deepcopy(model)
        controller = reparametrize(mine, copy.deepcopy(METHODS[name]), ["0", "3"])
        if compiled:
            mine.compile(backend="aot_eager", fullgraph=True)
        optimizer = StepAdamW(mine.parameters(), lr=0.01)
        controller.attach(optimizer)
        results.append([_step(mine, optimizer, step) for step in range(STEPS)])
        results[-1] += [value.clone() for value in mine.state_dict().values()]
    for one, other in zip(*results, strict=True):
        # float64; AdamW divides by the root of squared gradients, which may be small.
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64)
    optimizer.zero_grad()
    y = model(x)
    y.square().sum().backward()
    optimizer.step()
    return y.detach()
