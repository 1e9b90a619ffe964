"""Affine operations on images: convolutions, batch norms, averages and interpolations of planes."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ....layers.lipschitz.proof.norms import gamma
from ..maps import ConvMap, MatrixMap
from ..operators import Blocks
from ..tape import Linear, Piece
from .affine import rounded
from .call import Call, broadcast, operation, stop
from .grouped import along, floored

PLANE = 4096  # pixels up to which a pool is kept as a matrix


@operation("aten.convolution", "aten._convolution", "aten.cudnn_convolution")
def convolution(call: Call) -> Piece:
    """Convolve with a fixed kernel."""
    if not call.are("input"):
        return stop("convolves with a kernel that depends on the samples")
    x = call["input"]
    axes = call["weight"].dim() - 2
    batch, size = x.shape[0], x.shape[2:]
    if len(x.shape) != axes + 2:
        return stop("convolves without a batch")
    base = ConvMap(
        call["weight"], size, call["stride"], call["padding"], call["dilation"],
        call["transposed"], call["output_padding"], call["groups"],
    )  # fmt: skip
    shape = (batch, *base.out_shape)
    inputs = torch.arange(x.places.numel()).view(batch, -1)
    outputs = torch.arange(math.prod(shape)).view(batch, -1)
    operator = Blocks(base, inputs, outputs, x.places.numel(), outputs.numel())
    bias = call["bias"]
    constant = None if bias is None else bias.view(-1, *[1] * axes).expand(shape)
    return Linear([(x, operator)], shape, constant)


@operation(
    "aten.native_batch_norm", "aten._native_batch_norm_legit_no_training",
    "aten._native_batch_norm_legit", "aten.cudnn_batch_norm", "aten._batch_norm_no_update",
)  # fmt: skip
def batch_norm(call: Call) -> Piece:
    """Scale and shift each channel by fixed statistics, or by its own."""
    x = call["input"]
    if not call.are("input"):
        return stop("has statistics or a gain that depend on the samples")
    if call.values.get("training") is True or call.values.get("running_var") is None:
        return by_own_statistics(call)
    # Products of two roundings each: the sum, the root, the quotient and the gain.
    scale = (call["running_var"] + call["eps"]).rsqrt()
    if not bool(scale.isfinite().all()):
        return stop("divides by the root of a running variance of 0 with eps=0")
    if call["weight"] is not None:
        scale = scale * call["weight"]
    around = [1] * (len(x.shape) - 2)
    part = broadcast(x, x.shape, scale.view(1, -1, *around))
    constant = -call["running_mean"] * scale
    if call["bias"] is not None:
        constant = constant + call["bias"]
    return Linear([rounded(part, 6)], x.shape, constant.view(1, -1, *around).expand(x.shape))


def by_own_statistics(call: Call) -> Piece:
    """Normalise each channel over all its pixels, as an instance norm does with a batch of one.

    Where a channel holds several samples, they reach one another, and are refused for that.
    """
    x, weight, bias, eps = call["input"], call["weight"], call["bias"], float(call["eps"])
    if not eps > 0:
        return stop("divides by a norm without a floor; give it an eps above 0")

    def function(g: Tensor) -> Tensor:
        found = F.layer_norm(g, g.shape[-1:], eps=eps)
        found = found if weight is None else found * weight[: g.shape[-2], None]
        return found if bias is None else found + bias[: g.shape[-2], None]

    gain = 1.0 if weight is None else float(weight.abs().max())
    dims = [d for d in range(len(x.shape)) if d != 1]
    return along(call, dims, floored(gain, eps), function, (eps,), argument=x)


@operation(
    "aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d", "aten._adaptive_avg_pool2d",
    "aten._adaptive_avg_pool3d", "aten.adaptive_avg_pool1d", "aten.upsample_linear1d",
    "aten.upsample_bilinear2d", "aten.upsample_bicubic2d", "aten.upsample_trilinear3d",
)  # fmt: skip
def each_plane(call: Call) -> Piece:
    """Apply one matrix to each plane of an image."""
    (x,) = call.recorded
    axes = next(d for d in (1, 2, 3) if f"{d}d" in str(call.func))
    size = math.prod(x.shape[-axes:])
    if size > PLANE:
        return stop(f"pools planes of {size:,} pixels; at most {PLANE:,} are kept as a matrix")
    eye = torch.eye(size, dtype=torch.float64).view(1, size, *x.shape[-axes:])
    found = call.run(lambda a: eye)
    weight = found.reshape(size, -1).mT.contiguous()
    planes = x.places.numel() // size
    outputs = torch.arange(planes * len(weight)).view(planes, -1)
    inputs = torch.arange(x.places.numel()).view(planes, -1)
    # Weights of an average or an interpolation have gone through a few roundings.
    error = gamma(256) * float(weight.norm()) * 1.01
    operator = Blocks(MatrixMap(weight, error), inputs, outputs, x.places.numel(), outputs.numel())
    return Linear([(x, operator)], (*x.shape[:-axes], *found.shape[-axes:]))
