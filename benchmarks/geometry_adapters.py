"""Layers of public code as functions of leaves in our shapes, and ours where theirs are wrapped.

Weights are in our shapes and are rearranged for the public code: its weights of the time are our
w₀, and its bias is b − w₀ r. What is compared is the space part.
"""

from collections.abc import Callable
from typing import Any

import geometry_peers as theirs
import torch
from archzoo.layers.hyperbolic import (
    hyperbolic_attention,
    lorentz_batch_norm,
    prototype_logits,
    space_points,
)
from archzoo.layers.hyperbolic.midpoint import MidpointStatistics
from archzoo.layers.residual import Context, LorentzCentroid
from parity import Leaves, sites
from torch import Tensor
from torch.func import functional_call

Function = Callable[[Leaves], Tensor]
B, H, T, N, M = 2, 3, 6, 5, 4


def full(s: Tensor, c: Tensor | float) -> Tensor:
    """Points with their time in front."""
    return torch.cat([(1 / c + s.square().sum(-1, keepdim=True)).sqrt(), s], -1)


def rows(weight: Tensor, time_weight: Tensor) -> Tensor:
    """Our weights as one matrix, the time's column first."""
    return torch.cat([time_weight[:, None], weight], 1)


def call(module: Any, parameters: dict[str, Tensor], *given: Any) -> Tensor:
    """Run a peer's module with its parameters given, in double precision."""
    return functional_call(module.double(), parameters, given, strict=False)


def attention(a: Leaves, c: Tensor | float, causal: bool = False) -> Tensor:
    """Ours with a scale of theirs."""
    gain = (2 * N**0.5 / a["scale"]).view(1, 1, 1, 1)
    return hyperbolic_attention(a["q"], a["k"], a["v"], c, gain=gain, causal=causal)


def hybonet_attention(a: Leaves) -> Tensor:
    """(B, T, H, 1 + D) of points; queries, keys and values go by as they are."""
    q, k, v = (full(a[name], 1.0).transpose(1, 2) for name in "qkv")
    given = {"scale": a["scale"].view(1)}
    context, _ = call(theirs.hybonet_attention(H), given, k, v, q)
    return context[..., 1:].transpose(1, 2)


def hypercore_attention(a: Leaves, causal: bool = False) -> Tensor:
    """Heads merged by their centroid; a mask says what is hidden."""
    layer = theirs.hypercore_attention(N, H, 1 / a["c"])
    del layer._parameters["scale"]
    layer.scale = a["scale"]
    q, k, v = (a[name].transpose(1, 2) for name in "qkv")
    mask = torch.ones(T, T, dtype=torch.bool).triu(1) if causal else None
    return layer.double().full_attention(q, k, v, mask=mask)[..., 1:]


def hexformer_attention(a: Leaves) -> Tensor:
    """Heads side by side, values averaged in the tangent space of the origin."""
    layer = theirs.hexformer_attention(N, H, 1 / a["c"])
    for name in "qkv":
        layer.get_submodule(name).forward = lambda x, name=name: full(a[name], a["c"])
    given = {"scale": a["scale"].expand(1, H, 1, 1)}
    return call(layer, given, a["q"].new_zeros(B, T, 1 + H * N))[..., 1:]


def tangent_attention(a: Leaves) -> Tensor:
    """Ours with their scores 2(r² + ⟨q, k⟩) · scale; theirs divides tangents by 1 + 1e-8."""
    gain = (2 * N**0.5 * a["scale"]).view(1, 1, 1, 1)
    heads = hyperbolic_attention(a["q"], a["k"], a["v"], a["c"], gain=gain, aggregate="tangent")
    shrunk = space_points.to_tangent(heads, a["c"]) / (1 + 1e-8)
    return space_points.from_tangent(shrunk, a["c"]).transpose(1, 2).flatten(2)


def hypercore_linear(a: Leaves) -> Tensor:
    """Their matrix has a column for the time, their bias what it adds at the origin."""
    layer = theirs.hypercore_linear(N, M, 1 / a["c"])
    bias = a["b"] - a["w0"] * a["c"] ** -0.5
    given = {"linear.weight": rows(a["w"], a["w0"]), "linear.bias": bias}
    return call(layer, given, full(a["s"], a["c"]))[..., 1:]


def hypformer_linear(a: Leaves) -> Tensor:
    """As that of HyperCore."""
    layer = theirs.hypformer_layer("HypLinear", 1 / a["c"], N, M)
    bias = a["b"] - a["w0"] * a["c"] ** -0.5
    given = {"linear.weight": rows(a["w"], a["w0"]), "linear.bias": bias}
    return call(layer, given, full(a["s"], a["c"]))[..., 1:]


def classes(a: Leaves) -> Tensor:
    """Probabilities of ours with a bias; their product of points is divided by the radius²."""
    logits = 2 * a["c"] * prototype_logits(a["s"], a["p"], a["c"])
    return (logits - a["b"]).log_softmax(-1)


def hypformer_classes(a: Leaves) -> Tensor:
    """Minus squared Lorentz distances from points of the manifold, and a bias."""
    layer = theirs.hypformer_layer("HypCLS", 1 / a["c"], N, M)
    del layer._parameters["cls"]
    layer.cls = full(a["p"], a["c"])
    return call(layer, {"bias": a["b"]}, full(a["s"], a["c"])).log_softmax(-1)


def hypercore_norm(name: str, **parameters: str) -> Function:
    """A norm, whose parameters have other names there."""

    def norm(a: Leaves) -> Tensor:
        layer = theirs.hypercore_part(name, a["s"].new_ones(()), N)
        given = {key.replace("_", "."): a[leaf] for key, leaf in parameters.items()}
        return call(layer, given, full(a["s"], 1.0))[..., 1:]

    return norm


def hypercore_residual(a: Leaves) -> Tensor:
    """A learned weight of the branch and a learned scale."""
    layer = theirs.hypercore_part(
        "LResNet", 1 / a["c"], a["weight"].exp(), use_scale=True, scale=2.0, learn_scale=True
    )
    del layer._parameters["scale"]
    layer.scale = a["log"] + a["weight"].exp().log1p()
    return layer(full(a["s"], a["c"]), full(a["y"], a["c"]))[..., 1:]


def centroid_residual(a: Leaves) -> Tensor:
    """One branch of ours."""
    residual = LorentzCentroid(N, sites(1), coordinates="space")
    del residual._modules["curvature"], residual._parameters["log_weight"]
    del residual._parameters["log_gain"]
    residual.curvature = lambda: a["c"]  # type: ignore[assignment]
    residual.log_weight, residual.log_gain = a["weight"][None], a["log"][None]  # type: ignore
    state = residual.open(a["s"])
    return residual.close(residual.write(state, 0, a["y"], Context(a["s"], a["s"])))


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


def hexformer_linear(a: Leaves) -> Tensor:
    """That of HyboNet, with a margin of 1.5."""
    given = {"weight.weight": a["rows"], "weight.bias": a["bias"], "scale": a["log"]}
    return call(theirs.hexformer_linear(N, M), given, full(a["s"], 1.0))[..., 1:]


def hybonet_aggregation(a: Leaves) -> Tensor:
    """A dense adjacency whose rows sum to one."""
    module, manifold = theirs.gcn_layers()
    layer = module.LorentzAgg(manifold, N + 1, 0.0, False, False)
    return layer(full(a["s"], 1.0), a["edges"].softmax(-1))[..., 1:]


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
    return _hcnn_normed(layer, a, a["s"])


def _hcnn_normed(layer: Any, a: Leaves, s: Tensor) -> Tensor:
    del layer._parameters["beta"], layer._parameters["gamma"]
    layer.double()
    layer.beta, layer.gamma = full(a["mean"], a["c"]), a["gamma"]
    torch.set_default_dtype(torch.float64)  # theirs makes weights of the default type
    try:
        return layer(full(s, a["c"]))[..., 1:]
    finally:
        torch.set_default_dtype(torch.float32)


def hcnn_image_norm(a: Leaves) -> Tensor:
    """In training, on pixels."""
    layer = theirs.hcnn_layers().LorentzBatchNorm2d(theirs.hcnn_manifold(1 / a["c"]), N + 1)
    return _hcnn_normed(layer, a, a["s"].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def image_norm(a: Leaves) -> Tensor:
    """Ours around their centre, the midpoint of the midpoints of each image."""
    s, c = a["s"], a["c"]
    centre = space_points.centroid(space_points.centroid(s, c, over=(2, 3), dim=1), c)
    far = space_points.distance(s, centre.view(1, -1, 1, 1), c, dim=1).mean()
    return lorentz_batch_norm(
        *(s, a["mean"], a["gamma"], c),
        statistics=MidpointStatistics(c.sqrt() * centre, c * far.square()),
        eps=1e-5,
        transport="origin",
        scale="mean",
    )


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
