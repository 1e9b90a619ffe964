"""How far our layers of the hyperboloid are from public code, outputs and gradients in float64.

The figure of a case is that of `parity.py`: the largest difference of any entry over the largest
entry of the same tensor, at worst over the output and over the gradients of inputs, weights and
the curvature, where the public code has one, and over seeds. The bar is 1e-12 for products and
centroids of points, 1e-11 for chains of maps, and 1e-8 for geoopt, which moves what it divides by.

Weights are in our shapes and are rearranged for the public code: its weights of the time are our
w₀, and its bias is b − w₀ r. `geometry_peers.py` says how to get the public code; what cannot be
imported is a row that says "not installed" and no bar.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import geometry_peers as theirs
import torch
from archzoo.layers.graphs import (
    KeptNeighbours,
    Neighbours,
    midpoints,
    mobius_linear,
    neighbour_mean,
    tangent_means,
)
from archzoo.layers.hyperbolic import (
    drop,
    gated_linear,
    hyperbolic_attention,
    hyperplane_linear,
    lift,
    lorentz_batch_norm,
    lorentz_conv2d,
    lorentz_linear,
    lorentz_mlr,
    space_points,
)
from harness import Bar, Measurement, main
from parity import Leaves, difference, normals
from torch import Tensor
from torch.func import functional_call

Function = Callable[[Leaves], Tensor]
B, H, T, N, M = 2, 3, 6, 5, 4


class Case(NamedTuple):
    """Whose code, what of it, the leaves' shapes, both sides, and the bar."""

    peer: str
    what: str
    shapes: dict[str, tuple[int, ...]]
    mine: Function
    other: Function
    limit: float = 1e-12


def draw(seed: int, shapes: dict[str, tuple[int, ...]]) -> Leaves:
    """Points up to some two radii from the origin, and weights of size one half."""
    leaves = normals(seed, torch.float64, **shapes)
    with torch.no_grad():
        for name, leaf in leaves.items():
            if name in ("c", "scale", "gamma"):
                leaf.mul_(0.3).exp_()
            else:
                leaf.mul_(0.5)
    return leaves


def full(s: Tensor, c: Tensor | float) -> Tensor:
    """Points with their time in front."""
    return torch.cat([(1 / c + s.square().sum(-1, keepdim=True)).sqrt(), s], -1)


def rows(weight: Tensor, time_weight: Tensor) -> Tensor:
    """Our weights as one matrix, the time's column first."""
    return torch.cat([time_weight[:, None], weight], 1)


def call(module: Any, parameters: dict[str, Tensor], *given: Any) -> Tensor:
    """Run a peer's module with its parameters given, in double precision."""
    return functional_call(module.double(), parameters, given, strict=False)


POINTS = {name: (B, H, T, N) for name in "qkv"}
LINEAR = {"s": (7, N), "w": (M, N), "w0": (M,), "b": (M,)}
CONV = {"s": (B, N, 7, 6), "w": (M, N, 3, 3), "w0": (M,), "b": (M,)}


def attention(a: Leaves, c: Tensor | float) -> Tensor:
    """Ours with a scale of theirs."""
    gain = 2 * N**0.5 / a["scale"]
    return hyperbolic_attention(a["q"], a["k"], a["v"], c, gain=gain.view(1, 1, 1, 1))


def hybonet_attention(a: Leaves) -> Tensor:
    """(B, T, H, 1 + D) of points; queries, keys and values go by as they are."""
    q, k, v = (full(a[name], 1.0).transpose(1, 2) for name in "qkv")
    given = {"scale": a["scale"].view(1)}
    context, _ = call(theirs.hybonet_attention(H), given, k, v, q)
    return context[..., 1:].transpose(1, 2)


def hypercore_attention(a: Leaves) -> Tensor:
    """Heads merged by their centroid."""
    layer = theirs.hypercore_attention(N, H, 1 / a["c"])
    del layer._parameters["scale"]
    layer.scale = a["scale"]
    q, k, v = (a[name].transpose(1, 2) for name in "qkv")
    return layer.double().full_attention(q, k, v)[..., 1:]


def hypercore_linear(a: Leaves) -> Tensor:
    """Their matrix has a column for the time, their bias what it adds at the origin."""
    layer = theirs.hypercore_linear(N, M, 1 / a["c"])
    bias = a["b"] - a["w0"] * a["c"] ** -0.5
    given = {"linear.weight": rows(a["w"], a["w0"]), "linear.bias": bias}
    return call(layer, given, full(a["s"], a["c"]))[..., 1:]


def fgg_linear(a: Leaves) -> Tensor:
    """Their normals are columns."""
    layer = theirs.fgg_linear(N, M, a["c"])
    given = {"U": a["w"].mT, "a": a["b"][None]}
    return call(layer, given, full(a["s"], a["c"]))[..., 1:]


def hybonet_linear(a: Leaves) -> Tensor:
    """The gate's row first."""
    module, manifold = theirs.gcn_layers()
    layer = module.LorentzLinear(manifold, N + 1, M + 1, dropout=0.0)
    given = {"weight.weight": a["rows"], "weight.bias": a["bias"], "scale": a["log"]}
    return call(layer, given, full(a["s"], 1.0))[..., 1:]


def hybonet_aggregation(a: Leaves) -> Tensor:
    """A dense adjacency whose rows sum to one."""
    module, manifold = theirs.gcn_layers()
    layer = module.LorentzAgg(manifold, N + 1, 0.0, False, False)
    return layer(full(a["s"], 1.0), a["edges"].softmax(-1))[..., 1:]


EDGES = torch.tensor([[0, 1], [0, 2], [1, 3], [1, 4], [3, 4]])
NODES = 7
"""A triangle with two tails, and two nodes alone."""


def neighbours() -> Neighbours:
    """Rows that sum to one, as graph networks have them here."""
    return KeptNeighbours()(EDGES, NODES, "row", torch.float64)


def dense() -> Tensor:
    """The same rows for the public code."""
    return neighbour_mean(torch.eye(NODES, dtype=torch.float64), neighbours())


def hgcn_convolution(a: Leaves) -> Tensor:
    """Points of the ball in and out, the bias a tangent."""
    module, manifold = theirs.hgcn_layers()
    c = a["c"]
    sizes, off = (N, M, c, c, 0.0), {"use_bias": True, "use_att": False, "local_agg": False}
    layer = module.HyperbolicGraphConvolution(manifold, *sizes, torch.relu, **off)
    given = {"linear.weight": a["w"], "linear.bias": a["b"]}
    out, _ = call(layer, given, (manifold.expmap0(a["t"], c), dense()))
    return manifold.logmap0(out, c)


def hgcn_ours(a: Leaves) -> Tensor:
    """Tangents in and out."""
    mapped = mobius_linear(a["t"], a["w"], a["b"], a["c"])
    return tangent_means(mapped, neighbours(), a["c"], "tangent").relu()


def hybonet_convolution(a: Leaves) -> Tensor:
    """The gate's row first."""
    module, manifold = theirs.gcn_layers()
    sizes = N + 1, M + 1, True, 0.0, False, False
    layer = module.LorentzGraphConvolution(manifold, *sizes, nonlin=None)
    names = {"rows": "weight.weight", "bias": "weight.bias", "log": "scale"}
    given = {f"linear.{theirs}": a[ours] for ours, theirs in names.items()}
    out, _ = call(layer, given, (full(a["s"], 1.0), dense()))
    return out[..., 1:]


def hybonet_ours(a: Leaves) -> Tensor:
    """With their gate."""
    mapped = gated_linear(a["s"], a["rows"], a["bias"], a["log"], 1.0)
    return midpoints(mapped, neighbours(), 1.0, "space")


def hcnn_conv(a: Leaves) -> Tensor:
    """Their patches are pixel by pixel, and their first row is dead."""
    manifold = theirs.hcnn_manifold(1 / a["c"])
    layer = theirs.hcnn_layers().LorentzConv2d(manifold, N + 1, M + 1, 3, stride=2, padding=1)
    weight = rows(a["w"].flatten(2).mT.flatten(1), a["w0"])
    bias = a["b"] - a["w0"] * a["c"] ** -0.5
    weight, bias = (torch.cat([x[:1].detach() * 0, x]) for x in (weight, bias))
    given = {"linearized_kernel.weight.weight": weight, "linearized_kernel.weight.bias": bias}
    out = call(layer, given, full(a["s"].permute(0, 2, 3, 1), a["c"]))
    return out[..., 1:].permute(0, 3, 1, 2)


def hcnn_norm(a: Leaves) -> Tensor:
    """In training, on rows."""
    layer = theirs.hcnn_layers().LorentzBatchNorm1d(theirs.hcnn_manifold(1 / a["c"]), N + 1)
    del layer._parameters["beta"], layer._parameters["gamma"]
    layer.double()
    layer.beta, layer.gamma = full(a["mean"], a["c"]), a["gamma"]
    torch.set_default_dtype(torch.float64)  # theirs makes weights of the default type
    try:
        return layer(full(a["s"], a["c"]))[..., 1:]
    finally:
        torch.set_default_dtype(torch.float32)


def hcnn_mlr(a: Leaves) -> Tensor:
    """Their normals count once."""
    layer = theirs.hcnn_layers().LorentzMLR(theirs.hcnn_manifold(1 / a["c"]), N + 1, M)
    return call(layer, {"z": a["w"], "a": a["b"]}, full(a["s"], a["c"]))


def hcnn_pool(a: Leaves) -> Tensor:
    """The centroid of all pixels."""
    manifold = theirs.hcnn_manifold(1 / a["c"])
    return manifold.centroid(full(a["s"].flatten(2).mT, a["c"]))[..., 1:]


def geoopt_midpoint(a: Leaves) -> Tensor:
    """The gyro-midpoint of the ball."""
    from archzoo.layers.hyperbolic.geoopt_bridge.quiet_geoopt import geoopt  # noqa: F401
    from geoopt.manifolds.stereographic import math

    ball = space_points.to_ball(a["s"], a["c"], margin=0.0)
    found = math.weighted_midpoint(ball, a["weights"].exp(), k=-a["c"], reducedim=[0])
    return space_points.from_ball(found, a["c"], margin=0.0)


def cases() -> list[Case]:
    """Every layer that public code has too."""
    scale, c = {"scale": ()}, {"c": ()}
    return [
        Case(
            "HyboNet", "attention", POINTS | scale, lambda a: attention(a, 1.0), hybonet_attention
        ),
        Case(
            "HyperCore",
            "attention, heads merged",
            POINTS | scale | c,
            lambda a: space_points.centroid(attention(a, a["c"]), a["c"], over=1),
            hypercore_attention,
        ),
        Case(
            "HyperCore",
            "linear",
            LINEAR | c,
            lambda a: lorentz_linear(a["s"], a["w"], a["w0"], a["b"], a["c"]),
            hypercore_linear,
        ),
        Case(
            "van der Klis et al.",
            "linear",
            {"s": (7, N), "w": (M, N), "b": (M,), "c": ()},
            lambda a: hyperplane_linear(a["s"], a["w"], a["b"], a["c"]),
            fgg_linear,
        ),
        Case(
            "HyboNet",
            "gated linear",
            {"s": (7, N), "rows": (M + 1, N + 1), "bias": (M + 1,), "log": ()},
            lambda a: gated_linear(a["s"], a["rows"], a["bias"], a["log"], 1.0),
            hybonet_linear,
        ),
        Case(
            "HyboNet",
            "graph aggregation",
            {"s": (7, N), "edges": (7, 7)},
            lambda a: drop(a["edges"].softmax(-1) @ lift(a["s"], 1.0), 1.0),
            hybonet_aggregation,
        ),
        Case(
            "HyboNet",
            "graph convolution",
            {"s": (NODES, N), "rows": (M + 1, N + 1), "bias": (M + 1,), "log": ()},
            hybonet_ours,
            hybonet_convolution,
        ),
        Case(
            "HGCN",
            "graph convolution",
            {"t": (NODES, N), "w": (M, N), "b": (M,), "c": ()},
            hgcn_ours,
            hgcn_convolution,
        ),
        Case(
            "HyperbolicCV",
            "conv, stride 2, padded",
            CONV | c,
            lambda a: lorentz_conv2d(
                *(a[name] for name in ("s", "w", "w0", "b", "c")), stride=2, padding=1
            ),
            hcnn_conv,
            1e-11,
        ),
        Case(
            "HyperbolicCV",
            "batch norm, rows",
            {"s": (9, N), "mean": (N,), "gamma": (), "c": ()},
            lambda a: lorentz_batch_norm(
                *(a["s"], a["mean"], a["gamma"], a["c"]),
                eps=1e-5,
                transport="origin",
                scale="mean",
            ),
            hcnn_norm,
            1e-11,
        ),
        Case(
            "HyperbolicCV",
            "MLR",
            {"s": (7, N), "w": (M, N), "b": (M,), "c": ()},
            lambda a: lorentz_mlr(a["s"], a["w"] / 2, a["b"] / 2, a["c"]),
            hcnn_mlr,
            1e-11,
        ),
        Case(
            "HyperbolicCV",
            "pool",
            {"s": (B, N, 4, 3), "c": ()},
            lambda a: space_points.centroid(a["s"], a["c"], over=(2, 3), dim=1),
            hcnn_pool,
        ),
        Case(
            "geoopt",
            "weighted midpoint of the ball",
            {"s": (9, N), "weights": (9,), "c": ()},
            lambda a: space_points.centroid(a["s"], a["c"], a["weights"].exp()[:, None]),
            geoopt_midpoint,
            1e-8,
        ),
    ]


def measure(quick: bool) -> Measurement:
    """Compare every case on one seed or on five."""
    table: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for case in cases():
        row: dict[str, Any] = {"peer": case.peer, "case": case.what}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what they use that is deprecated
                found = [
                    difference((draw(seed, case.shapes), case.mine, case.other), seed)
                    for seed in range(1 if quick else 5)
                ]
        except ImportError as error:
            print(f"{case.peer}, {case.what}: {error}")
            table.append(row | {"outputs": "not installed", "gradients": "not installed"})
            continue
        outputs, gradients = (max(column) for column in zip(*found, strict=True))
        table.append(row | {"outputs": outputs, "gradients": gradients})
        bars.append(Bar(f"{case.peer}, {case.what}", max(outputs, gradients), case.limit))
    return table, bars


if __name__ == "__main__":
    main("geometry_parity", measure)
