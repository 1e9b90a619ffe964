"""What layers of space parts cost, beside their flat twins and public code of the hyperboloid.

1. A transformer block, forward and backward, over the flat block of equal sizes: gradients written
   by hand, and plain PyTorch, which compiled and traced code sees.
2. Attention of 1,024 tokens over that of flat space, of HyboNet and of HyperCore at equal points,
   and the bytes that each keeps for the backward pass.
3. A 3×3 convolution and batch norm over the flat pair, and over that of HyperbolicCV.

Times are of the process's CPU on one thread. Rows are medians of interleaved repetitions, ratios
medians of pairwise ratios; figures want a machine that does nothing else. `geometry_peers.py` says
how to get the public code, and `geometry_parity.py` compares its results with ours.
"""

import contextlib
import statistics
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import geometry_peers as theirs
import torch
from archzoo.layers.hyperbolic import (
    HyperbolicAttention,
    LorentzBatchNorm,
    LorentzConv2d,
    LorentzLinear,
    hyperbolic_attention,
)
from archzoo.layers.hyperbolic._fast import fused_layout
from geometry_adapters import full
from harness import Bar, Measurement, interleaved, main, median_ratio
from hyperbolic import Candidate
from torch import Tensor, nn
from torch.nn import functional as F

Row = dict[str, Any]
C = 0.1
BLOCKS = {(64, 4, 32, 17): "vit_nano", (192, 3, 4, 197): "vit_tiny"}
"""Width, heads, batch and tokens of a block, and whose it is."""
IMAGES = [(16, 32), (64, 8)]
BATCHES = [1, 8]
"""Of attention: scores of one sequence fit into a cache, those of eight do not."""


class Block(nn.Module):
    """A pre-norm block of attention and MLP, flat or of the hyperboloid."""

    def __init__(self, width: int, heads: int, *, flat: bool) -> None:
        """Build the block."""
        super().__init__()

        def linear(inputs: int, outputs: int) -> nn.Module:
            if flat:
                return nn.Linear(inputs, outputs)
            layer = LorentzLinear(inputs, outputs, curvature=C)
            nn.init.normal_(layer.time_weight, std=0.02)
            return layer

        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.proj = linear(width, 3 * width), linear(width, width)
        self.fc1, self.fc2 = linear(width, 4 * width), linear(4 * width, width)
        self.heads = heads
        self.core = None if flat else HyperbolicAttention(heads, curvature=C)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        attend = F.scaled_dot_product_attention if self.core is None else self.core
        x = x + self.proj(attend(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norms[1](x))))


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Run definitions inside, as compiled and traced code does."""
    with mock.patch.object(fused_layout, "records_gradients", lambda *given: False):
        yield


class Definition(Candidate):
    """A candidate whose hyperbolic layers run as they are defined."""

    def step(self) -> float:
        """Run forward and backward."""
        with plain():
            return super().step()

    def kept(self) -> int:
        """Return the bytes kept for the backward pass."""
        with plain():
            return super().kept()


def module(kind: type[Candidate], layer: Callable[[Tensor], Tensor], x: Tensor) -> Candidate:
    """Return a layer at an input as a candidate."""
    leaf = x.clone().requires_grad_()
    parameters = list(layer.parameters()) if isinstance(layer, nn.Module) else []
    return kind(lambda: layer(leaf), [leaf], parameters)


def compare(what: str, candidates: dict[str, Candidate], repetitions: int) -> list[Row]:
    """Rows of all candidates; the first is what the others are measured against."""
    for candidate in candidates.values():
        candidate.step()
    times = interleaved({name: each.step for name, each in candidates.items()}, repetitions)
    first, *_ = candidates
    kept = {name: each.kept() for name, each in candidates.items()}
    return [
        {
            "case": what,
            "layer": name,
            "ms": 1e3 * statistics.median(times[name]),
            "time": median_ratio(times[name], times[first]),
            "kept": kept[name] / kept[first],
        }
        for name in candidates
    ]


def blocks(quick: bool) -> list[Row]:
    """Blocks of both sizes."""
    rows = []
    for (width, heads, batch, tokens), name in BLOCKS.items():
        torch.manual_seed(0)
        x = torch.randn(batch, tokens, width)
        flat, curved = (Block(width, heads, flat=flat) for flat in (True, False))
        candidates = {
            "flat": module(Candidate, flat, x),
            "lorentz": module(Candidate, curved, x),
            "lorentz, plain": module(Definition, curved, x),
        }
        rows += compare(f"block of {name}", candidates, 5 if quick else 25)
    return rows


def attentions(quick: bool, batch: int) -> list[Row]:
    """Attention of 1,024 tokens."""
    torch.manual_seed(0)
    heads, tokens, width = 4, 1024, 32
    given = [torch.randn(batch, heads, tokens, width, requires_grad=True) for _ in range(3)]

    def peer(run: Callable[..., Tensor]) -> Candidate:
        return Candidate(lambda: run(*given), given, [])

    def hybonet(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (full(each, 1.0).transpose(1, 2) for each in (q, k, v))
        return hybonet_layer(k, v, q)[0]

    def hypercore(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return hypercore_layer.full_attention(*(each.transpose(1, 2) for each in (q, k, v)))

    candidates = {
        "lorentz": peer(lambda q, k, v: hyperbolic_attention(q, k, v, 1.0)),
        "flat": peer(F.scaled_dot_product_attention),
    }
    with contextlib.suppress(ImportError):
        hybonet_layer = theirs.hybonet_attention(heads)
        candidates["HyboNet"] = peer(hybonet)
    with contextlib.suppress(ImportError):
        hypercore_layer = theirs.hypercore_attention(width, heads, torch.ones(()))
        candidates["HyperCore"] = peer(hypercore)
    return compare(f"attention, {batch} x 1,024 tokens", candidates, 3 if quick else 9)


def convolutions(quick: bool) -> list[Row]:
    """Convolution and norm."""
    rows = []
    for width, side in IMAGES:
        torch.manual_seed(0)
        x = torch.randn(32, width, side, side)

        def ours(norm: nn.Module, width: int = width) -> nn.Module:
            conv = LorentzConv2d(width, width, 3, padding=1, curvature=C)
            nn.init.normal_(conv.time_weight, std=0.02)
            return nn.Sequential(conv, norm)

        midpoint = LorentzBatchNorm(width, curvature=C, transport="origin", scale="mean")
        flat = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        candidates = {
            "lorentz, midpoint norm": module(Candidate, ours(midpoint), x),
            "flat": module(Candidate, flat, x),
            "lorentz": module(Candidate, ours(nn.BatchNorm2d(width)), x),
        }
        with contextlib.suppress(ImportError):
            layers, manifold = theirs.hcnn_layers(), theirs.hcnn_manifold(torch.tensor(1 / C))
            peer = nn.Sequential(
                layers.LorentzConv2d(manifold, width + 1, width + 1, 3, padding=1),
                layers.LorentzBatchNorm2d(manifold, width + 1),
            )
            points = full(x.permute(0, 2, 3, 1), C)
            candidates["HyperbolicCV"] = module(Candidate, peer, points)
        rows += compare(f"conv and norm, {width} x {side}", candidates, 3 if quick else 15)
    return rows


def measure(quick: bool) -> Measurement:
    """Measure everything; bars are on the small block, and against public code."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what public code uses that is deprecated
        rows = [
            *blocks(quick),
            *(row for batch in BATCHES for row in attentions(quick, batch)),
            *convolutions(quick),
        ]
    least = {"HyboNet": 2.0, "HyperCore": 2.0, "HyperbolicCV": 5.0}
    bars = [
        Bar(f"{row['layer']} over ours, {row['case']}", row["time"], least[row["layer"]], False)
        for row in rows
        if row["layer"] in least
    ]
    most = {"lorentz": 1.4, "lorentz, plain": 1.6}
    bars += [
        Bar(f"{row['layer']} over flat, {row['case']}", row["time"], most[row["layer"]])
        for row in rows
        if row["case"] == "block of vit_nano" and row["layer"] in most
    ]
    return rows, bars


if __name__ == "__main__":
    main("geometry", measure)
