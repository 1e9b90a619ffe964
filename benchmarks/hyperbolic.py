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
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import hyperbolic_peers as theirs
import torch
from archzoo.layers import fast_path
from archzoo.layers._kernels import load_kernels
from archzoo.layers.hyperbolic import MidpointBatchNorm, PoincareConv2d
from archzoo.layers.saved_bytes import saved_bytes
from archzoo.zoo import create_model
from harness import Bar, Measurement, interleaved, main, median_ratio
from torch import Tensor, nn
from torch.nn import functional as F

Row = dict[str, Any]
Forward = Callable[[Tensor], Tensor]
C = 0.1
BATCH = 32
SHAPES = {(16, 32): (5.0, 2.0), (32, 16): (3.7, 1.7), (64, 8): (3.3, 1.7)}
"""Width and side of the images, and the bars of plain PyTorch and of the kernels."""


@contextlib.contextmanager
def kernels(used: bool) -> Iterator[None]:
    """Run with compiled kernels inside where there are any, or in plain PyTorch."""
    with (
        contextlib.nullcontext()
        if used
        else mock.patch.object(fast_path, "load_kernels", no_kernels)
    ):
        yield


def no_kernels(family: str) -> bool:
    """Say that a family has no kernels."""
    return False


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


def weights(width: int, offset: float = 0.1) -> dict[str, Tensor]:
    """Weights of a pair as if trained: normals of length one half, nothing at its start."""
    g = torch.Generator().manual_seed(0)
    return {
        "z": 0.5 * torch.randn(width, width, 3, 3, generator=g) / (9 * width) ** 0.5,
        "r": offset * torch.randn(width, generator=g),
        "mean": 0.1 * torch.randn(width, generator=g),
        "variance": torch.tensor(1.3),
    }


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

    return available({"HypLL": hypll, "geoopt": geoopt, "original": original})


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
        what = f"conv + BN, C={width}, {side}x{side}"
        found = costs(candidates, timed(candidates, 2 if quick else 5))
        found |= costs(cheap, timed(cheap, 7 if quick else 31))
        for name, cost in found.items():
            rows.append(row(what, name, *cost))
        for path in paths():
            limit, most = (kernel_limit, 1.8) if path == "kernels" else (plain_limit, 2.5)
            _, ratio, _, over = found[f"ours, {path}"]
            bars.append(Bar(f"time over Euclidean, {what}, {path}", ratio, limit))
            bars.append(Bar(f"bytes over Euclidean, {what}, {path}", over, most))
    return rows, bars


def candidate(
    forward: Forward, x: Tensor, parameters: list[Tensor], kernels: bool = True
) -> Candidate:
    """Train a function of an input whose gradient is wanted."""
    given = x.detach().clone().requires_grad_()
    return Candidate(lambda: forward(given), [given], parameters, kernels)


def timed(candidates: dict[str, Candidate], repetitions: int) -> dict[str, list[float]]:
    """Time all in turn, after one step of each."""
    for one in candidates.values():
        one.step()
    return interleaved({name: one.step for name, one in candidates.items()}, repetitions)


def costs(
    candidates: dict[str, Candidate], times: dict[str, list[float]]
) -> dict[str, tuple[float, float, float, float]]:
    """Return milliseconds, their ratio over the first, MiB kept and their ratio."""
    first, *_ = candidates
    kept = {name: one.kept() for name, one in candidates.items()}
    return {
        name: (
            1e3 * statistics.median(figures),
            median_ratio(figures, times[first]),
            kept[name] / 2**20,
            kept[name] / kept[first],
        )
        for name, figures in times.items()
    }


def resnet20(seed: int = 0) -> tuple[nn.Module, dict[str, Tensor]]:
    """Our poincare_resnet20 with the original's choices, and parameters as if trained, float64."""
    model = create_model("poincare_resnet20", init="identity", averaging="tangent", head="linear")
    g = torch.Generator().manual_seed(seed)
    parameters = {}
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=g, dtype=torch.float64)
        size = 0.5 / value[0].numel() ** 0.5 if name.endswith("weight") else 0.1
        parameters[name] = (value.detach().double() + size * noise).requires_grad_()
    return model, parameters


def network(quick: bool) -> tuple[list[Row], list[Bar]]:
    """Time a training step of the ResNet-20 without the optimiser, and count what it keeps."""
    model, exact = resnet20()
    parameters = {name: value.float().detach() for name, value in exact.items()}
    images, classes = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    c = torch.tensor(C)

    def hypll() -> tuple[Forward, list[Tensor]]:
        leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
        made = theirs.HypllResNet(leaves, c)
        for module in made.modules():
            if isinstance(module, made.hypll.layers.HBatchNorm):
                # The variance is a leaf of its own: its exponential would be differentiated once.
                variance = module.weight.detach().requires_grad_()
                theirs.put(module, weight=variance)
                leaves[f"variance {len(leaves)}"] = variance
        return made, [leaf for name, leaf in leaves.items() if "log_variance" not in name]

    def original() -> tuple[Forward, list[Tensor]]:
        made = theirs.original_resnet(parameters, c)
        named = theirs.original_names(parameters)
        found = {name: p for name, p in made.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for name, parameter in found.items():
                parameter.copy_(named[name])
        return made, [*found.values()]

    euclidean = create_model("euclidean_resnet20")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameters[name])
    sides: dict[str, tuple[Forward, list[Tensor]]] = {
        "Euclidean": (euclidean, [*euclidean.parameters()])
    }
    sides |= {f"ours, {path}": (model, [*model.parameters()]) for path in paths()}
    sides |= available({"HypLL": hypll, "original": original})
    logits, candidates = {}, {}
    for name, (forward, leaves) in sides.items():
        with kernels(name != "ours, plain"), torch.no_grad():
            logits[name] = forward(images)
        loss = partial(step_loss, forward, images, classes)
        candidates[name] = Candidate(loss, [], leaves, name != "ours, plain")
    peers = [name for name in ("HypLL", "original") if name in candidates]
    cheap = {name: one for name, one in candidates.items() if name not in peers}
    best, *_ = (name for name in cheap if name != "Euclidean")
    times = timed(candidates, 1 if quick else 5)
    found = costs(candidates, times) | costs(cheap, timed(cheap, 3 if quick else 15))
    rows = [row("ResNet-20 step", name, *cost) for name, cost in found.items()]
    bars = []
    for path in paths():
        limit = 2.5 if path == "kernels" else 6.0
        name = f"ours, {path}"
        bars.append(Bar(f"time over Euclidean, ResNet-20, {name}", found[name][1], limit))
    bars.append(Bar(f"bytes over Euclidean, ResNet-20, {best}", found[best][3], 3.5))
    for peer in peers:
        apart = (logits[peer] - logits[best]).abs().max() / logits[peer].abs().max()
        bars.append(Bar(f"logits apart from {peer}'s, ResNet-20", apart.item(), 5e-5))
        slower = median_ratio(times[peer], times[best])
        bars.append(Bar(f"time over {best}, ResNet-20, {peer}", slower, 10.0, at_most=False))
    return rows, bars


def step_loss(forward: Forward, images: Tensor, classes: Tensor) -> Tensor:
    """Return the loss of a training step."""
    return F.cross_entropy(forward(images), classes)


def errors(quick: bool) -> tuple[list[Row], list[Bar]]:
    """Compare float32 outputs with float64 over scales of the input, with and without offsets.

    Figures are root mean squares over draws of the input.
    """
    rows, bars = [], []
    draws = range(3 if quick else 8)
    peer = available({"HypLL": lambda: theirs.Hypll(torch.tensor(C))})
    for offset, scale in itertools.product((0.0, 0.1), (1e-3, 1e-2, 0.1, 0.3, 1.0, 2.0)):
        w = weights(16, offset=offset)
        exact = our_pair({name: value.double() for name, value in w.items()})
        pair = our_pair(w)
        sides: dict[str, Forward] = {f"ours, {path}": pair for path in paths()}
        for name, hypll in peer.items():
            layers = nn.Sequential(
                hypll.conv(w["z"], w["r"], padding=1), hypll.batch_norm(w["mean"], w["variance"])
            )
            sides[name] = hypll.on_tangents(layers)
        squares: dict[str, list[float]] = {who: [] for who in sides}
        for seed in draws:
            g = torch.Generator().manual_seed(seed)
            x = scale * torch.randn(8, 16, 16, 16, generator=g)
            with kernels(False), torch.no_grad():
                truth = exact(x.double())
            for who, forward in sides.items():
                with kernels(who != "ours, plain"), torch.no_grad():
                    apart = forward(x).double() - truth
                squares[who].append((apart.square().sum() / truth.square().sum()).item())
        found = {who: statistics.mean(errors) ** 0.5 for who, errors in squares.items()}
        what = f"float32 error, inputs of {scale:g}, offsets of {offset:g}"
        for who, error in found.items():
            rows.append(row(what, who, error=error))
            if who != "HypLL":
                bars.append(Bar(f"{what}, {who}", error, 5e-5))
                if "HypLL" in found:
                    bars.append(Bar(f"{what}, {who} over HypLL", error / found["HypLL"], 1.0))
    return rows, bars + finite()


def finite() -> list[Bar]:
    """Count what is not finite in outputs and gradients for inputs of any size."""
    bars = []
    pair = our_pair(weights(16))
    for scale, path in itertools.product((0.0, 1e4, 1e8), paths()):
        x = (scale * torch.randn(8, 16, 16, 16)).requires_grad_()
        with kernels(path == "kernels"):
            out = pair(x)
            gradients = torch.autograd.grad(out.square().mean(), [x, *pair.parameters()])
        lost = sum(int((~t.isfinite()).sum()) for t in (out, *gradients))
        bars.append(Bar(f"entries not finite, inputs of {scale:g}, {path}", lost, 0.0))
    return bars


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
    for part in (pairs, errors, network):
        more, limits = part(quick)
        rows += more
        bars += limits
    return rows, bars


if __name__ == "__main__":
    main("hyperbolic", measure)
