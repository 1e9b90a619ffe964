"""What hyperbolic convolutions cost: time, memory and float32 error, beside public code.

1. A 3×3 convolution and midpoint batch norm, forward and backward, batch 32, in three sizes,
   against the Euclidean pair: with compiled kernels, in plain PyTorch, and as HypLL, geoopt and the
   authors' repository have them (`hyperbolic_peers.py` says how to get these).
2. Bytes that the same pairs keep for the backward pass. The input of the pair counts, since in a
   network it is a result of the layer before; parameters do not.
3. Error of the outputs in float32 over scales of the input, against our float64, which
   `hyperbolic_parity.py` compares with public code.
4. A training step of the Poincaré ResNet-20 of widths 8, 16 and 32, batch 32, without the
   optimiser's step everywhere, against its Euclidean twin and the same network from public code, at
   equal weights, after their logits were seen to be equal.

Times are of the process's CPU on one thread. Rows are medians of interleaved repetitions, ratios
medians of pairwise ratios. Layers of HypLL take and return points of the ball, as they do in its
networks, the others tangents. The figures want a machine that does nothing else.
"""

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import hyperbolic_peers as theirs
import torch
from archzoo.layers._kernels import load_kernels
from archzoo.layers.hyperbolic import MidpointBatchNorm, PoincareConv2d
from harness import Bar, Measurement, interleaved, main, median_ratio
from saved_bytes import saved_bytes
from torch import Tensor, nn

Row = dict[str, Any]
Forward = Callable[[Tensor], Tensor]
C = 0.1
BATCH = 32
SHAPES = {(16, 32): (5.0, 2.0), (32, 16): (3.7, 1.7), (64, 8): (3.3, 1.7)}
"""Width and side of the images, and the bars of plain PyTorch and of the kernels."""


@contextlib.contextmanager
def kernels(used: bool) -> Iterator[None]:
    """Run with compiled kernels inside, or without."""
    with mock.patch.dict(os.environ, {"ARCHZOO_KERNELS": "1" if used else "0"}):
        load_kernels.cache_clear()
        load_kernels("poincare")  # outside of what is timed
        yield
    load_kernels.cache_clear()


def paths() -> tuple[str, ...]:
    """The paths of our layers that there are: without a compiler there are no kernels."""
    return ("kernels", "plain") if load_kernels("poincare") else ("plain",)


class Candidate:
    """A forward pass to be differentiated, and the path that our layers in it take.

    Args:
        forward: Returns an output, or a loss.
        inputs: Leaves that are no parameters.
        parameters: Leaves that exist anyway, and so are not counted as kept.
        kernels: Whether compiled kernels run.
    """

    def __init__(
        self,
        forward: Callable[[], Tensor],
        inputs: list[Tensor],
        parameters: list[Tensor],
        kernels: bool = True,
    ) -> None:
        """Draw a gradient of the output."""
        self.forward, self.inputs, self.parameters = forward, inputs, parameters
        self.kernels = kernels
        with torch.no_grad():
            self.along = torch.randn_like(forward())

    def step(self) -> float:
        """Run forward and backward, and return the seconds of CPU that they took."""
        for leaf in (*self.inputs, *self.parameters):
            leaf.grad = None
        with kernels(self.kernels):
            started = time.process_time()
            self.forward().backward(self.along)
            return time.process_time() - started

    def kept(self) -> int:
        """Return the bytes kept for the backward pass."""
        with kernels(self.kernels):
            return saved_bytes(self.forward, tuple(self.parameters))


def weights(width: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Weights of a pair as if trained: normals of length one half, nothing at its start."""
    g = torch.Generator().manual_seed(0)
    drawn = {
        "z": 0.5 * torch.randn(width, width, 3, 3, generator=g) / (9 * width) ** 0.5,
        "r": 0.1 * torch.randn(width, generator=g),
        "mean": 0.1 * torch.randn(width, generator=g),
        "variance": torch.tensor(1.3),
    }
    return {name: value.to(dtype) for name, value in drawn.items()}


def our_pair(w: dict[str, Tensor]) -> nn.Sequential:
    """Our convolution and norm, which exchange velocities."""
    width = len(w["r"])
    conv = PoincareConv2d(width, width, 3, padding=1, curvature=C, output="velocity")
    norm = MidpointBatchNorm(width, curvature=C, input="velocity")
    pair = nn.Sequential(conv, norm).to(w["z"].dtype)
    with torch.no_grad():
        conv.weight.copy_(w["z"])
        conv.offset.copy_(w["r"])
        norm.mean.copy_(w["mean"])
        norm.log_variance.copy_(w["variance"].log())
    return pair


def peer_pairs(w: dict[str, Tensor], x: Tensor) -> dict[str, tuple[Forward, Tensor]]:
    """The pair of every peer that is there, and its input."""
    c = torch.tensor(C, dtype=x.dtype)
    z, r, mean, variance = w.values()

    def hypll() -> tuple[Forward, Tensor]:
        made = theirs.Hypll(c)
        pair = nn.Sequential(made.conv(z, r, padding=1), made.batch_norm(mean, variance))
        return lambda points: pair(made.wrap(points)).tensor, made.point(x).tensor

    def geoopt() -> tuple[Forward, Tensor]:
        theirs.stereographic()

        def forward(t: Tensor) -> Tensor:
            out = theirs.geoopt_conv2d(t, z, r, c, padding=1)
            return theirs.geoopt_batch_norm(out, mean, variance, c)

        return forward, x

    def original() -> tuple[Forward, Tensor]:
        conv = theirs.original_conv2d(z, r, c, padding=1)
        return nn.Sequential(conv, theirs.original_batch_norm(mean, variance, c)), x

    builders = {"HypLL": hypll, "geoopt": geoopt, "original": original}
    return available(builders)


def available(builders: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Build what can be imported, and say what cannot."""
    found = {}
    for name, build in builders.items():
        try:
            found[name] = build()
        except ImportError as error:
            print(f"{name}: left out, {error}")
    return found


def pairs(quick: bool) -> tuple[list[Row], list[Bar]]:
    """Time the pairs and count what they keep."""
    rows, bars = [], []
    for (width, side), (plain_limit, kernel_limit) in list(SHAPES.items())[1 if quick else 0 :]:
        x = torch.randn(BATCH, width, side, side)
        w = {name: value.requires_grad_() for name, value in weights(width).items()}
        euclidean = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        candidates = {"Euclidean": candidate(euclidean, x, [*euclidean.parameters()])}
        for path in paths():
            ours = our_pair(w)
            candidates[f"ours, {path}"] = candidate(
                ours, x, [*ours.parameters()], path == "kernels"
            )
        cheap = dict(candidates)
        for name, (forward, given) in peer_pairs(w, x).items():
            candidates[name] = candidate(forward, given, [*w.values()])
        ratios, milliseconds = timed(candidates, 2 if quick else 5)
        better = timed(cheap, 7 if quick else 31)
        ratios |= better[0]
        milliseconds |= better[1]
        size = f"C={width}, {side}x{side}"
        mebibytes = {name: one.kept() / 2**20 for name, one in candidates.items()}
        for name in candidates:
            over = mebibytes[name] / mebibytes["Euclidean"]
            part = f"conv + BN, {size}"
            rows.append(row(part, name, milliseconds[name], ratios[name], mebibytes[name], over))
        for path in paths():
            limit, most = (kernel_limit, 1.8) if path == "kernels" else (plain_limit, 2.5)
            ours = f"ours, {path}"
            bars.append(Bar(f"time over Euclidean, conv + BN, {size}, {path}", ratios[ours], limit))
            over = mebibytes[ours] / mebibytes["Euclidean"]
            bars.append(Bar(f"bytes over Euclidean, conv + BN, {size}, {path}", over, most))
    return rows, bars


def candidate(
    forward: Forward, x: Tensor, parameters: list[Tensor], kernels: bool = True
) -> Candidate:
    """Train a function of an input whose gradient is wanted."""
    given = x.detach().clone().requires_grad_()
    return Candidate(lambda: forward(given), [given], parameters, kernels)


def timed(
    candidates: dict[str, Candidate], repetitions: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return ratios over the first candidate, and milliseconds."""
    for one in candidates.values():
        one.step()
    times = interleaved({name: one.step for name, one in candidates.items()}, repetitions)
    first = next(iter(times.values()))
    ratios = {name: median_ratio(figures, first) for name, figures in times.items()}
    return ratios, {name: 1e3 * statistics.median(figures) for name, figures in times.items()}


def errors(quick: bool) -> tuple[list[Row], list[Bar]]:
    """Compare float32 outputs with float64 over scales of the input."""
    rows, bars = [], []
    w = weights(16)
    pair = our_pair(w)
    exact = our_pair({name: value.double() for name, value in w.items()})
    hypll = available({"HypLL": lambda: theirs.Hypll(torch.tensor(C))})
    sides: dict[str, tuple[Forward, bool]] = {
        f"ours, {path}": (pair, path == "kernels") for path in paths()
    }
    for name, made in hypll.items():
        z, r, mean, variance = w.values()
        layers = nn.Sequential(made.conv(z, r, padding=1), made.batch_norm(mean, variance))
        sides[name] = made.on_tangents(layers), True
    for scale in (1e-3, 1e-2, 0.1, 0.3, 1.0, 2.0):
        x = scale * torch.randn(8, 16, 16, 16, generator=torch.Generator().manual_seed(1))
        with kernels(False), torch.no_grad():
            truth = exact(x.double())
        found = {}
        for name, (forward, path) in sides.items():
            with kernels(path), torch.no_grad():
                found[name] = ((forward(x).double() - truth).norm() / truth.norm()).item()
            rows.append(row(f"float32 error, inputs of {scale:g}", name, error=found[name]))
            if name.startswith("ours"):
                bars.append(Bar(f"float32 error, inputs of {scale:g}, {name}", found[name], 5e-5))
        for name in hypll:
            worst = max(error for who, error in found.items() if who != name) / found[name]
            bars.append(Bar(f"float32 error over {name}'s, inputs of {scale:g}", worst, 1.0))
    for scale in (0.0, 1e4, 1e8):
        for path in paths():
            x = (scale * torch.randn(8, 16, 16, 16)).requires_grad_()
            with kernels(path == "kernels"):
                out = pair(x)
                gradients = torch.autograd.grad(out.square().mean(), [x, *pair.parameters()])
            lost = sum(int((~t.isfinite()).sum()) for t in (out, *gradients))
            bars.append(Bar(f"entries not finite, inputs of {scale:g}, {path}", lost, 0.0))
    return rows, bars


def row(
    what: str,
    who: str,
    milliseconds: float | str = "",
    ratio: float | str = "",
    mebibytes: float | str = "",
    over: float | str = "",
    error: float | str = "",
) -> Row:
    """One line of the table; ratios are over the Euclidean twin."""
    return {
        "what": what,
        "who": who,
        "ms": milliseconds,
        "time ratio": ratio,
        "MiB kept": mebibytes,
        "MiB ratio": over,
        "error": error,
    }


def measure(quick: bool) -> Measurement:
    """Run the parts on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, bars = [], []
    for part in (pairs, errors):
        more, limits = part(quick)
        rows += more
        bars += limits
    return rows, bars


if __name__ == "__main__":
    main("hyperbolic", measure)
