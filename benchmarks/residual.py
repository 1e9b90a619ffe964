"""What a residual costs: memory, speed against public code, whole steps, growth with depth.

1. Bytes kept for the backward pass, against plain addition.
2. Forward and backward of the mechanism alone, over branches that cost next to nothing, against
   public implementations that run on a CPU (`residual_peers.py` says how to get them).
3. A training step and an inference of a 12-block network of width 384, a ViT (65 tokens) and a GPT
   (64 tokens) at batch 16 (`--quick`: the ViT at 8), against the same network with plain addition.
4. Time and memory over depth, as fitted powers of the number of branches.

Rows are medians of interleaved repetitions; ratios are medians of pairwise ratios. The figures
want a machine that does nothing else. Two threads, as many as the bars speak of.
"""

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from archzoo.layers import fast_path
from archzoo.layers.residual import Context, Residual, Site
from archzoo.layers.saved_bytes import saved_bytes
from archzoo.zoo import create_model
from archzoo.zoo.axes.residuals import ResidualSpec, make_residual
from harness import Bar, Measurement, interleaved, main, median_ratio
from residual_peers import peers
from torch import Tensor, nn

Row = dict[str, Any]
# One forward serves every network here; past the default of 8 versions it would run uncompiled.
torch._dynamo.config.recompile_limit = 64
BLOCK: ResidualSpec = {"name": "block_attnres", "num_blocks": 8}
STEP_BARS = {"block_attnres": 1.08, "attnres": 1.18, "delta": 1.06, "delta_cc": 1.35}
SPECS: dict[str, ResidualSpec] = {
    "add": "add",
    "block_attnres": BLOCK,
    "attnres": "attnres",
    "delta": "delta",
    "delta_cc": "delta_cc",
}
NETWORK = {"width": 384, "depth": 12, "num_heads": 6}


def sites(length: int) -> list[Site]:
    """Attention and MLP sites of length / 2 blocks."""
    return [Site(kind, block) for block in range(length // 2) for kind in ("attention", "mlp")]


def mechanism(spec: ResidualSpec, length: int, width: int) -> nn.Module:
    """Return a mechanism with queries as if trained, so that no softmax is uniform."""
    torch.manual_seed(0)
    residual = make_residual(spec, width, sites(length))
    with torch.no_grad():
        for parameter in residual.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return residual


def run(residual: Residual, x: Tensor, branch: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Run a stack of branches over a mechanism."""
    state = residual.open(x)
    for site in range(len(residual.sites)):
        h = residual.read(state, site)
        assert isinstance(h, Tensor)
        state = residual.write(state, site, branch(h, site), Context(h, h))
    return residual.close(state)


@contextlib.contextmanager
def without_kernels() -> Iterator[None]:
    """Run plain PyTorch inside."""
    load, fast_path.load_kernels = fast_path.load_kernels, lambda family: False
    try:
        yield
    finally:
        fast_path.load_kernels = load


def timed(function: Callable[[], Any]) -> Callable[[], float]:
    """Return a function that times one call."""

    def once() -> float:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    return once


def memory(quick: bool) -> tuple[list[Row], list[Bar]]:
    """Count what is kept for tanh(norm(read) W) branches, with and without kernels."""
    rows, bars = [], []
    for length in (24,) if quick else (24, 48):
        x = torch.randn(8, 64, 128, requires_grad=True)
        weights = [torch.randn(128, 128) / 128**0.5 for _ in range(length)]

        def branch(h: Tensor, site: int, weights: list[Tensor] = weights) -> Tensor:
            normed = nn.functional.rms_norm(h, (128,))
            return (normed @ weights[site].requires_grad_()).tanh()

        kept = {}
        for name, spec in SPECS.items():
            residual = mechanism(spec, length, 128)
            given = (x, *weights, *residual.parameters())
            for path in ("kernel", "plain"):
                with contextlib.nullcontext() if path == "kernel" else without_kernels():
                    kept[name, path] = saved_bytes(lambda r=residual: run(r, x, branch), given)  # noqa: B023
        for (name, path), count in kept.items():
            ratio = count / kept["add", path]
            rows.append(row("bytes kept", f"{name}, {path}", f"L={length}", count / 2**20, ratio))
            if name in ("attnres", "block_attnres"):
                bars.append(Bar(f"bytes kept over add, {name}, {path}, L={length}", ratio, 1.35))
    return rows, bars


def alone(quick: bool) -> tuple[list[Row], list[Bar]]:
    """Time every mechanism and peer over branches tanh(g h)."""
    length, width = 24, 256
    gains = torch.rand(length, width) + 0.5
    x = torch.randn(2 if quick else 8, 64, width, requires_grad=True)

    def branch(h: Tensor, site: int) -> Tensor:
        return (h * gains[site]).tanh()

    def train(forward: Callable[[Tensor], Tensor]) -> Callable[[], float]:
        return timed(lambda: forward(x).square().mean().backward())

    candidates: dict[str, Callable[[], float]] = {}
    opponents: dict[str, str] = {}
    specs = SPECS | {"block_attnres": {"name": "block_attnres", "block_size": 4}}
    specs |= {"hyper_connections": "hyper_connections", "mhc": "mhc", "denseformer": "denseformer"}
    for name, spec in specs.items():
        residual = mechanism(spec, length, width)
        candidates[name] = train(lambda x, r=residual: run(r, x, branch))
    for peer in peers(length, width, branch):
        candidates[peer.name] = train(peer.forward)
        opponents[peer.name] = peer.against
    for candidate in candidates.values():
        candidate()
    times = interleaved(candidates, 3 if quick else 9)
    rows, bars = [], []
    for name, figures in times.items():
        milliseconds = 1e3 * statistics.median(figures)
        if name not in opponents:
            ratio = median_ratio(figures, times["add"])
            rows.append(row("mechanism alone", name, "over add", milliseconds, ratio))
            continue
        ours = opponents[name]
        ratio = median_ratio(figures, times[ours])
        rows.append(row("mechanism alone", name, f"over our {ours}", milliseconds, ratio))
        least = 3.0 if name == "fla naive" and ours == "attnres" else 1.0
        bars.append(Bar(f"{name} over our {ours}", ratio, least, at_most=False))
    return rows, bars


def networks(quick: bool) -> tuple[list[Row], list[Bar]]:
    """Time training steps and inferences of whole networks, plain, with kernels and compiled."""
    rows, bars = [], []
    # Half a batch costs half the time and, of the ratios, less than their bars leave.
    batch = 8 if quick else 16
    images, tokens = torch.randn(batch, 3, 32, 32), torch.randint(256, (batch, 64))
    vit = {"img_size": 32, "patch_size": 4, "num_classes": 100}
    kinds: list[tuple[str, str, dict[str, Any], Tensor]] = [
        ("ViT", "vit_tiny", vit, images),
        ("GPT", "gpt_base", {}, tokens),
    ]
    for kind, name, options, inputs in kinds[:1] if quick else kinds:
        models: dict[str, nn.Module] = {}
        for residual, spec in SPECS.items():
            torch.manual_seed(0)
            models[residual] = create_model(name, residual=spec, **NETWORK, **options)

        def step(model: nn.Module, inputs: Tensor = inputs) -> None:
            model.train()(inputs).square().mean().backward()
            model.zero_grad(set_to_none=True)

        @torch.no_grad()
        def infer(model: nn.Module, inputs: Tensor = inputs) -> None:
            model.eval()(inputs)

        for path in ("kernel",) if quick else ("kernel", "plain", "compiled"):
            run_as = dict(models)
            if path == "compiled":
                # Ten would compile for a quarter of an hour; of the GPTs two stand for all.
                names = list(models) if kind == "ViT" else ["add", "block_attnres"]
                run_as = {n: torch.compile(models[n]) for n in names}  # type: ignore[misc]
            for work, function in (("training step", step), ("inference", infer)):
                with contextlib.nullcontext() if path != "plain" else without_kernels():
                    calls = {n: timed(lambda m=m, f=function: f(m)) for n, m in run_as.items()}
                    for call in calls.values():
                        call()
                    times = interleaved(calls, 3 if quick else 11)
                for residual, figures in times.items():
                    ratio = median_ratio(figures, times["add"])
                    milliseconds = 1e3 * statistics.median(figures)
                    what = f"{kind}, {work}"
                    rows.append(row(what, residual, path, milliseconds, ratio))
    for kind in ("ViT",) if quick else ("ViT", "GPT"):
        for residual, limit in STEP_BARS.items():
            bars.append(best(rows, f"{kind}, training step", residual, limit))
        bars.append(best(rows, f"{kind}, inference", "block_attnres", 1.06))
    return rows, bars


def best(rows: list[Row], what: str, residual: str, limit: float) -> Bar:
    """Judge the best path over plain addition on the same path."""
    found = [r for r in rows if r["what"] == what and r["residual"] == residual]
    winner = min(found, key=lambda r: r["ratio"])
    return Bar(f"{what}, {residual} over add ({winner['case']})", winner["ratio"], limit)


def growth(quick: bool) -> tuple[list[Row], list[Bar]]:
    """Fit time and kept bytes to powers of the number of branches."""
    lengths = (12, 24) if quick else (12, 24, 48, 96)
    x = torch.randn(8, 64, 128, requires_grad=True)

    def branch(h: Tensor, site: int) -> Tensor:
        return h.tanh()

    rows = []
    for name in ("add", "block_attnres", "attnres"):
        calls, kept = {}, {}
        for length in lengths:
            residual = mechanism(SPECS[name], length, 128)
            forward = lambda r=residual: run(r, x, branch)  # noqa: E731
            calls[str(length)] = timed(lambda f=forward: f().square().mean().backward())
            kept[length] = saved_bytes(forward, (x, *residual.parameters()))
            calls[str(length)]()
        times = interleaved(calls, 3 if quick else 9)
        medians = [statistics.median(times[str(length)]) for length in lengths]
        for what, figures in (("time", medians), ("kept bytes", [kept[n] for n in lengths])):
            power = slope([math.log(n) for n in lengths], [math.log(f) for f in figures])
            case = f"{what}, L^{power:.2f}"
            last = 1e3 * figures[-1] if what == "time" else figures[-1] / 2**20
            rows.append(row("growth", name, case, last, power))
    return rows, []


def slope(x: list[float], y: list[float]) -> float:
    """Return the slope of the least-squares line."""
    return statistics.linear_regression(x, y).slope


def row(what: str, residual: str, case: str, figure: float, ratio: float) -> Row:
    """One line of the table; a figure is in ms or MiB."""
    return {"what": what, "residual": residual, "case": case, "ms or MiB": figure, "ratio": ratio}


def measure(quick: bool) -> Measurement:
    """Run the four parts on two threads."""
    torch.set_num_threads(2)
    rows, bars = [], []
    for part in (memory, alone, networks, growth):
        more, limits = part(quick)
        rows += more
        bars += limits
    return rows, bars


if __name__ == "__main__":
    main("residual", measure)
