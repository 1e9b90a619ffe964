"""Graph convolutions of public code as functions of leaves in our shapes, and ours beside them."""

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
from archzoo.layers.hyperbolic import gated_linear
from geometry_adapters import M, N, call, full
from parity import Leaves
from torch import Tensor

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
