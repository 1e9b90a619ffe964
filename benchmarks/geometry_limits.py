"""How far whole models of a curved space are from what they must be.

* Flat limit: at c = 1e-8 a model of a curved space computes what a flat one computes with the same
  weights, in float64. Queries and keys are normed without a gain, since attention of points is
  ordinary attention where keys are equally long. The ball has norms of its own, an RMS norm and a
  batch norm with one scale for all channels, so its flat twin gets those; weights of the ball are
  half as large, and a hyperplane is told by how far from the origin it lies (`ball_weights`).
* Range: inputs, or the table of embeddings, times 1e3 and zero; float32 logits and gradients.
* Decoding: logits of a prompt and of one token after another, beside the logits of all at once,
  over the largest of those. In half precision they differ as rounding does, in flat space too.
* Half precision: logits under autocast to bfloat16 beside those of float64, over the largest.
"""

import copy
import itertools
import math
from typing import Any, cast

import torch
from archzoo.layers.hyperbolic import (
    MidpointBatchNorm,
    PoincareConv2d,
    PoincareLinear,
    PointProjection,
    TangentNorm,
)
from archzoo.layers.hyperbolic.maths.hyperplanes import concatenation_gain
from archzoo.zoo import create_model
from archzoo.zoo.backbones.self_attention import KeyValueCache
from harness import Bar
from torch import Tensor, nn

__all__ = ["limits"]

SIZES: dict[str, dict[str, Any]] = {
    "mlp_nano": {},
    "vit_nano": {"qk_norm": True},
    "gpt_nano": {"num_classes": 11},
    "resnet_nano": {"in_chans": 1},
}
CURVED = {"lorentz": 1e-5, "poincare": 1e-4}
"""The bar of each space's flat limit."""
FLAT = 1e-8
CURVATURES = (0.01, 0.1, 1.0, 10.0)
ROUNDING = 2.0
"""How many times the error of flat space in half precision that of a curved one may be."""
Row = dict[str, Any]


def inputs(name: str) -> Tensor:
    """A batch of four."""
    g = torch.Generator().manual_seed(0)
    if name == "gpt_nano":
        return torch.randint(256, (4, 48), generator=g)
    shape = {"mlp_nano": (64,), "vit_nano": (1, 8, 8), "resnet_nano": (1, 16, 16)}[name]
    return torch.randn(4, *shape, generator=g)


def built(name: str, geometry: str, seed: int, **options: Any) -> Any:
    """A model in evaluation mode, its weights no fresh zeros."""
    torch.manual_seed(seed)
    model = create_model(name, geometry=geometry, **SIZES[name] | options)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.rpartition(".")[2] in ("bias", "offset", "mean"):
                parameter.normal_(std=0.1)
            elif key.endswith("time_weight"):
                parameter.normal_(std=0.02)
        model.train()(model_input(model, inputs(name)))
    return model.eval()


def model_input(model: nn.Module, x: Tensor) -> Tensor:
    """Floating-point inputs in the dtype of a model."""
    return x.to(next(model.parameters()).dtype) if x.is_floating_point() else x


# The flat limit.


def without_key_gains(model: nn.Module) -> None:
    """Norm queries and keys exactly, so that all keys are equally long."""
    for name, norm in model.named_modules():
        if name.endswith(("q_norm", "k_norm", "query_norm", "key_norm")):
            norm = cast(nn.LayerNorm, norm)
            norm.eps = 0.0
            nn.init.ones_(norm.weight)
            if getattr(norm, "bias", None) is not None:
                nn.init.zeros_(norm.bias)


@torch.no_grad()
def ball_weights(flat: nn.Module, ball: nn.Module) -> None:
    """Give a model of the ball the weights of a flat one, and that one the ball's kinds of norms.

    A layer of the ball computes 2⟨z, t⟩ − 2‖z‖r near the origin, and of a patch κ times as much.
    """
    for name, layer in ball.named_modules():
        if isinstance(layer, PoincareLinear | PointProjection | PoincareConv2d):
            twin: Any = flat.get_submodule(name)
            weight, bias = twin.weight, twin.bias
            layer.weight.copy_(weight / 2)
            if isinstance(layer, PoincareConv2d):
                width, pixels = weight.shape[1], math.prod(weight.shape[2:])
                layer.weight.div_(concatenation_gain(width, pixels * width))
            if bias is not None:
                assert layer.offset is not None
                layer.offset.copy_(-bias / weight.flatten(1).norm(dim=1))
        elif isinstance(layer, TangentNorm):
            norm = nn.RMSNorm(len(layer.weight), eps=layer.eps).to(layer.weight.dtype)
            flat.set_submodule(name, norm)
        elif isinstance(layer, MidpointBatchNorm):
            twin = flat.get_submodule(name)
            layer.mean.copy_(twin.bias)
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.copy_(twin.running_mean)
            layer.running_var.copy_(twin.running_var.mean())
            twin.running_var.fill_(layer.running_var)
            twin.eps = layer.eps
        elif name and not any(layer.children()):
            own = dict(layer.named_parameters(recurse=False))
            for key, parameter in own.items():
                if key != "log_gain":
                    parameter.copy_(getattr(flat.get_submodule(name), key))
    for key, parameter in ball.named_parameters(recurse=False):
        parameter.copy_(getattr(flat, key))


def flat_limit(name: str, geometry: str, seed: int) -> float:
    """The largest difference of logits from those of the flat twin at c = 1e-8."""
    options = {"head": "linear"} | SIZES[name]
    flat = built(name, "euclidean", seed, **options).double()
    torch.manual_seed(seed + 1)
    model = create_model(name, geometry=geometry, curvature=FLAT, **options).double().eval()
    without_key_gains(flat)
    if geometry == "poincare":
        without_key_gains(model)
        ball_weights(flat, model)
    else:
        model.load_state_dict(flat.state_dict(), strict=False)
        without_key_gains(model)
    x = model_input(model, inputs(name))
    with torch.no_grad():
        return (model(x) - flat(x)).abs().max().item()


# The range of numbers.


def stays_finite(name: str, geometry: str, curvature: float, size: float) -> bool:
    """Whether logits and gradients of float32 inputs times `size` are finite."""
    torch.manual_seed(0)
    model = create_model(name, geometry=geometry, curvature=curvature, **SIZES[name])
    x = inputs(name)
    if x.is_floating_point():
        x = (size * x).requires_grad_()
    else:
        with torch.no_grad():
            model.get_submodule("embedding").weight.mul_(size / 0.02)
    out = model(x)
    out.logsumexp(-1).sum().backward()
    found = [out, *(p.grad for p in model.parameters() if p.grad is not None)]
    found += [x.grad] if x.grad is not None else []
    return all(bool(each.isfinite().all()) for each in found)


# Decoding, and half precision.


def relative(found: Tensor, exact: Tensor) -> float:
    """The largest difference over the largest entry."""
    return ((found.double() - exact.double()).abs().max() / exact.double().abs().max()).item()


@torch.no_grad()
def decoded(model: Any, tokens: Tensor, prompt: int = 8) -> Tensor:
    """Logits of a prompt and of one token after another."""
    cache = KeyValueCache(None)
    pieces = [tokens[:, :prompt], *tokens[:, prompt:].split(1, 1)]
    return torch.cat([model.forward_head(model.forward_features(x, cache)) for x in pieces], 1)


def decoding(geometry: str, seed: int) -> dict[str, float]:
    """The error of decoding in each precision."""
    model = built("gpt_nano", geometry, seed)
    tokens, wide = inputs("gpt_nano"), copy.deepcopy(model).double()
    with torch.no_grad():
        exact = wide(tokens)
        found = {
            "float64": relative(decoded(wide, tokens), exact),
            "float32": relative(decoded(model, tokens), model(tokens)),
        }
        with torch.autocast("cpu", torch.bfloat16):
            found["bfloat16"] = relative(decoded(model, tokens), exact)
    return found


def half_precision(name: str, geometry: str, seed: int) -> float:
    """The error of logits under autocast."""
    model = built(name, geometry, seed)
    x, wide = inputs(name), copy.deepcopy(model).double()
    with torch.no_grad():
        exact = wide(model_input(wide, x))
        with torch.autocast("cpu", torch.bfloat16):
            return relative(model(x), exact)


def limits(quick: bool) -> tuple[list[Row], list[Bar]]:
    """Measure one seed or three."""
    seeds = range(1 if quick else 3)
    rows: list[Row] = []
    bars: list[Bar] = []
    for name, geometry in itertools.product(SIZES, CURVED):
        row: Row = {"model": name, "geometry": geometry}
        row["flat limit"] = max(flat_limit(name, geometry, seed) for seed in seeds)
        bars.append(Bar(f"flat limit, {geometry}, {name}", row["flat limit"], CURVED[geometry]))
        cases = itertools.product(CURVATURES, (0.0, 1e3))
        broken = sum(not stays_finite(name, geometry, *case) for case in cases)
        row["not finite"] = broken
        bars.append(Bar(f"inputs of 0 and 1e3, not finite, {geometry}, {name}", broken, 0))
        half, flat = (
            max(half_precision(name, each, seed) for seed in seeds)
            for each in (geometry, "euclidean")
        )
        row |= {"bfloat16": half, "bfloat16, flat": flat}
        bars.append(Bar(f"bfloat16 over flat, {geometry}, {name}", half / flat, ROUNDING))
        rows.append(row)
    flat = [decoding("euclidean", seed) for seed in seeds]
    for geometry in CURVED:
        found = [decoding(geometry, seed) for seed in seeds]
        worst = {key: max(each[key] for each in found) for key in found[0]}
        half = max(each["bfloat16"] for each in flat)
        rows.append({"model": "gpt_nano, decoding", "geometry": geometry} | worst)
        bars.append(Bar(f"decoding, float64, {geometry}", worst["float64"], 1e-12))
        bars.append(Bar(f"decoding, float32, {geometry}", worst["float32"], 1e-5))
        bars.append(Bar(f"decoding, bfloat16 over flat, {geometry}", worst["bfloat16"] / half, 2.0))
    return rows, bars
