"""How far our layers of the hyperboloid are from public code, outputs and gradients in float64.

The figure of a case is that of `parity.py`: the largest difference of any entry over the largest
entry of the same tensor, at worst over the output and over the gradients of inputs, weights and
the curvature, where the public code has one, and over seeds. The bar is 1e-12 for products and
centroids of points, 1e-11 for chains of maps, 1e-10 for logarithms at the origin, and 1e-8 for
geoopt, which moves what it divides by.

`geometry_peers.py` says how to get the public code; what cannot be imported is a row that says "not
installed" and no bar.
"""

import warnings
from typing import Any, NamedTuple

import geometry_adapters as sides
import geometry_graph_adapters as graphs
import torch
from archzoo.layers.hyperbolic import (
    drop,
    gated_linear,
    hyperplane_linear,
    lift,
    lorentz_batch_norm,
    lorentz_conv2d,
    lorentz_linear,
    lorentz_mlr,
    space_points,
)
from geometry_adapters import B, Function, H, M, N, T
from harness import Bar, Measurement, main
from parity import Leaves, difference, normals
from torch.nn import functional as F


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


POINTS = {name: (B, H, T, N) for name in "qkv"}
LINEAR = {"s": (7, N), "w": (M, N), "w0": (M,), "b": (M,)}
CONV = {"s": (B, N, 7, 6), "w": (M, N, 3, 3), "w0": (M,), "b": (M,)}


def cases() -> list[Case]:
    """Every layer that public code has too."""
    scale, c = {"scale": ()}, {"c": ()}
    return [
        Case(
            "HyboNet",
            "attention",
            POINTS | scale,
            lambda a: sides.attention(a, 1.0),
            sides.hybonet_attention,
        ),
        Case(
            "HyperCore",
            "attention, heads merged",
            POINTS | scale | c,
            lambda a: space_points.centroid(sides.attention(a, a["c"]), a["c"], over=1),
            sides.hypercore_attention,
        ),
        Case(
            "HyperCore, HELM",
            "attention, causal",
            POINTS | scale | c,
            lambda a: space_points.centroid(sides.attention(a, a["c"], True), a["c"], over=1),
            lambda a: sides.hypercore_attention(a, True),
        ),
        Case(
            "HexFormer",
            "attention, tangents averaged",
            POINTS | scale | c,
            sides.tangent_attention,
            sides.hexformer_attention,
            1e-10,
        ),
        Case(
            "HyperCore",
            "layer norm",
            {"s": (7, N), "gain": (N,), "b": (N,)},
            lambda a: F.layer_norm(a["s"], (N,), a["gain"], a["b"]),
            sides.hypercore_norm("LorentzLayerNorm", layer_weight="gain", layer_bias="b"),
        ),
        Case(
            "HyperCore",
            "RMS norm",
            {"s": (7, N), "gain": (N,)},
            lambda a: F.rms_norm(a["s"], (N,), a["gain"], 1e-4),
            sides.hypercore_norm("LorentzRMSNorm", weight="gain"),
        ),
        Case(
            "HyperCore",
            "residual (LResNet)",
            {"s": (7, N), "y": (7, N), "weight": (), "log": (), "c": ()},
            sides.centroid_residual,
            sides.hypercore_residual,
        ),
        Case(
            "HyperCore",
            "linear",
            LINEAR | c,
            lambda a: lorentz_linear(a["s"], a["w"], a["w0"], a["b"], a["c"]),
            sides.hypercore_linear,
        ),
        Case(
            "Hypformer",
            "linear",
            LINEAR | c,
            lambda a: lorentz_linear(a["s"], a["w"], a["w0"], a["b"], a["c"]),
            sides.hypformer_linear,
        ),
        Case(
            "Hypformer",
            "distances to classes",
            {"s": (7, N), "p": (M, N), "b": (M,), "c": ()},
            sides.classes,
            sides.hypformer_classes,
        ),
        Case(
            "van der Klis et al.",
            "linear",
            {"s": (7, N), "w": (M, N), "b": (M,), "c": ()},
            lambda a: hyperplane_linear(a["s"], a["w"], a["b"], a["c"]),
            sides.fgg_linear,
        ),
        Case(
            "HyboNet",
            "gated linear",
            {"s": (7, N), "rows": (M + 1, N + 1), "bias": (M + 1,), "log": ()},
            lambda a: gated_linear(a["s"], a["rows"], a["bias"], a["log"], 1.0),
            sides.hybonet_linear,
        ),
        Case(
            "HexFormer",
            "gated linear",
            {"s": (7, N), "rows": (M + 1, N + 1), "bias": (M + 1,), "log": ()},
            lambda a: gated_linear(a["s"], a["rows"], a["bias"], a["log"], 1.0, margin=1.5),
            sides.hexformer_linear,
        ),
        Case(
            "HyboNet",
            "graph aggregation",
            {"s": (7, N), "edges": (7, 7)},
            lambda a: drop(a["edges"].softmax(-1) @ lift(a["s"], 1.0), 1.0),
            sides.hybonet_aggregation,
        ),
        Case(
            "HyboNet",
            "graph convolution",
            {"s": (graphs.NODES, N), "rows": (M + 1, N + 1), "bias": (M + 1,), "log": ()},
            graphs.hybonet_ours,
            graphs.hybonet_convolution,
        ),
        Case(
            "HGCN",
            "graph convolution",
            {"t": (graphs.NODES, N), "w": (M, N), "b": (M,), "c": ()},
            graphs.hgcn_ours,
            graphs.hgcn_convolution,
        ),
        Case(
            "HyperbolicCV",
            "conv, stride 2, padded",
            CONV | c,
            lambda a: lorentz_conv2d(
                *(a[name] for name in ("s", "w", "w0", "b", "c")), stride=2, padding=1
            ),
            sides.hcnn_conv,
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
            sides.hcnn_norm,
            1e-11,
        ),
        Case(
            "HyperbolicCV",
            "batch norm, images",
            {"s": (B, N, 4, 3), "mean": (N,), "gamma": (), "c": ()},
            sides.image_norm,
            sides.hcnn_image_norm,
            1e-11,
        ),
        Case(
            "HyperbolicCV",
            "MLR",
            {"s": (7, N), "w": (M, N), "b": (M,), "c": ()},
            lambda a: lorentz_mlr(a["s"], a["w"] / 2, a["b"] / 2, a["c"]),
            sides.hcnn_mlr,
            1e-11,
        ),
        Case(
            "HyperbolicCV",
            "pool",
            {"s": (B, N, 4, 3), "c": ()},
            lambda a: space_points.centroid(a["s"], a["c"], over=(2, 3), dim=1),
            sides.hcnn_pool,
        ),
        Case(
            "geoopt",
            "weighted midpoint of the ball",
            {"s": (9, N), "weights": (9,), "c": ()},
            lambda a: space_points.centroid(a["s"], a["c"], a["weights"].exp()[:, None]),
            sides.geoopt_midpoint,
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
