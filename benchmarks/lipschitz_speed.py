"""What Lipschitz layers cost: training steps at width 256, evaluation, and the map to weights.

A candidate is one layer of 256 to 256 values with a ReLU. Process time of one thread, interleaved;
ratios are medians of pairwise ratios. Public layers (`pip install -e ".[peers]"`) that are not
there are left out, with a line that says so. Sandwich is timed twice: with its Cayley transform in
float32, as published, and as shipped here, where parameters become weights in float64.
"""

import importlib
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from archzoo.layers.lipschitz import LDLTBlock, SandwichLayer, SLLBlock
from archzoo.layers.lipschitz.sandwich import cayley
from harness import Bar, Measurement, interleaved, median_ratio
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 256
BATCHES = (256, 2048)
PEERS = {
    "torchlip SpectralLinear": ("deel.torchlip", "SpectralLinear"),
    "orthogonium OrthoLinear": ("orthogonium.layers.linear.ortho_linear", "OrthoLinear"),
}
# Bars for training, over the published Sandwich: at batch 256 and at batch 2,048.
LIMITS = {"LDLT n=1, identity skip": (1.2, 1.0), "LDLT n=2": (2.5, 2.5)}


class Plain(nn.Module):
    """A residual block of two linear layers, without a bound."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.inner, self.outer = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch."""
        return x + self.outer(F.relu(self.inner(x)))


class PublishedSandwich(nn.Module):
    """Sandwich with the Cayley transform in float32: arXiv:2301.11526, eq. 8."""

    def __init__(self) -> None:
        """Keep the parameters of the shipped layer."""
        super().__init__()
        self.layer = SandwichLayer(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """√2 Aᵀ Ψ σ(√2 Ψ⁻¹ B x + b)."""
        layer = self.layer
        stacked = cayley(layer.alpha / layer.weight.norm() * layer.weight)
        scale = layer.log_psi.exp()
        inner = math.sqrt(2) * F.linear(x, stacked[WIDTH:].mT) / scale + layer.bias
        return math.sqrt(2) * F.linear(F.relu(inner) * scale, stacked[:WIDTH])


def candidates() -> dict[str, nn.Module]:
    """Make every layer that is there."""
    made: dict[str, nn.Module] = {
        "nn.Linear": nn.Linear(WIDTH, WIDTH),
        "plain residual": Plain(),
        "Sandwich, published": PublishedSandwich(),
        "Sandwich, shipped": SandwichLayer(WIDTH, WIDTH),
        "SLL": SLLBlock(WIDTH),
        "LDLT n=1, identity skip": LDLTBlock(WIDTH, (WIDTH,), skip="identity"),
        "LDLT n=1, learned skip": LDLTBlock(WIDTH, (WIDTH,)),
        "LDLT n=2, chain first": LDLTBlock(WIDTH, (WIDTH, WIDTH), wiring="chain_first"),
        "LDLT n=2, skip first": LDLTBlock(WIDTH, (WIDTH, WIDTH), wiring="skip_first"),
        "LDLT n=2": LDLTBlock(WIDTH, (WIDTH, WIDTH)),
    }
    for name, (module, attribute) in PEERS.items():
        try:
            made[name] = getattr(importlib.import_module(module), attribute)(WIDTH, WIDTH)
        except ImportError as error:
            print(f"{name}: left out, {error}")
    return made


def timed(call: Callable[[], Any]) -> Callable[[], float]:
    """Return a function that returns the process time of a call."""

    def run() -> float:
        started = time.process_time()
        call()
        return time.process_time() - started

    return run


def speed(quick: bool) -> Measurement:
    """Training steps, evaluation and maps."""
    torch.manual_seed(0)
    layers = candidates()
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for place, batch in enumerate(BATCHES):
        x = torch.randn(batch, WIDTH)

        def step(layer: nn.Module, x: Tensor = x) -> None:
            layer.zero_grad(set_to_none=True)
            layer(x).sum().backward()

        found = measured(
            {n: lambda m=m, f=step: f(m) for n, m in layers.items()}, 3 if quick else 15
        )
        base = found["Sandwich, published"]
        for name, times in found.items():
            ratio = median_ratio(times, base)
            rows.append(line(f"training, batch {batch}", name, times, ratio, "Sandwich"))
            if name in LIMITS:
                bars.append(
                    Bar(
                        f"training over Sandwich, batch {batch}, {name}", ratio, LIMITS[name][place]
                    )
                )
        ready = {n: m.eval() for n, m in layers.items() if n != "Sandwich, published"}
        with torch.no_grad():
            found = measured(
                {n: lambda m=m, x=x: m(x) for n, m in ready.items()}, 5 if quick else 61
            )
        for name, times in found.items():
            ratio = median_ratio(times, found["plain residual"])
            rows.append(line(f"evaluation, batch {batch}", name, times, ratio, "plain residual"))
            if name == "LDLT n=1, identity skip":
                bars.append(Bar(f"cached weights over plain, batch {batch}, {name}", ratio, 1.05))
        for layer in layers.values():
            layer.train()
    for width in (256, 512) if quick else (256, 512, 1024):
        for n in (1, 2):
            block = LDLTBlock(width, (width,) * n)
            times = [timed(block.effective)() for _ in range(3)]
            rows.append(line("map to weights", f"LDLT n={n}, width {width}", times, math.nan, ""))
    return rows, bars


def measured(calls: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, list[float]]:
    """Run each once to warm up, then all in turn."""
    for call in calls.values():
        call()
    return interleaved({name: timed(call) for name, call in calls.items()}, repetitions)


def line(part: str, case: str, times: list[float], ratio: float, over: str) -> dict[str, Any]:
    """One line of the table of `lipschitz.py`."""
    notes = f"{ratio:.3g} of {over}" if over else ""
    return {"part": part, "case": case, "figure": 1e3 * statistics.median(times), "unit": "ms",
            "seconds": round(sum(times), 3), "notes": notes}  # fmt: skip
