"""Public hyperbolic layers and networks on a CPU, around weights that are given.

On the package index (`pip install -e ".[peers]"`): HypLL, by the authors of the Poincaré ResNet,
and geoopt, which has the maps of the ball but no layer: the layers below put them together. As a
clone in the folder that the environment variable ARCHZOO_PEERS names, the paper's own code:

    git clone https://github.com/maxvanspengler/poincare-resnet

Two things in it are not the paper's and are put right at run time, in the imported copy only: its
hyperplane distances multiply by 1 − c‖x‖² where the conformal factor divides, and its residual adds
along the width of the image, not along the channels.

Weights are in our shapes: z (M, N, kh, kw) or (M, N), r (M,), mean (D,), variance ().
"""

import contextlib
import functools
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

from archzoo.layers.hyperbolic.maths.hyperplanes import concatenation_gain
from residual_peers import import_peer
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "Hypll",
    "HypllResNet",
    "as_released",
    "geoopt_batch_norm",
    "geoopt_conv2d",
    "geoopt_distances",
    "geoopt_linear",
    "original_batch_norm",
    "original_conv2d",
    "original_linear",
    "original_names",
    "original_resnet",
    "put",
    "stereographic",
]

Weights = Mapping[str, Tensor]
OnTangents = Callable[[Tensor], Tensor]


def hyperplane_distances(x: Tensor, factor: Tensor, z: Tensor, r: Tensor, c: Tensor) -> Tensor:
    """Return v (…, M) of HNN++ eq. 6 for points x (…, N), λ_x, normals z (N, M) and offsets r."""
    length, angle = z.norm(dim=0), 2 * c.sqrt() * r
    along = c.sqrt() * factor * (x @ z) / length * angle.cosh()
    return 2 * length / c.sqrt() * (along - (factor - 1) * angle.sinh()).asinh()


def point_at_distances(v: Tensor, c: Tensor) -> Tensor:
    """Return the point (…, M) of HNN++ eq. 7 whose distances to the coordinate planes are v."""
    w = (c.sqrt() * v).sinh() / c.sqrt()
    return w / (1 + (1 + c * w.square().sum(-1, keepdim=True)).sqrt())


# HypLL: points and their axis travel together, layers take and return points.


class Hypll:
    """Layers of HypLL in a ball of curvature c, a scalar tensor that may need a gradient."""

    def __init__(self, c: Tensor) -> None:
        """Make the ball; HypLL's own curvature is float32 and a softplus."""
        ball = import_peer("", "hypll.manifolds.poincare_ball")
        self.layers = import_peer("", "hypll.nn")
        self.tensors = import_peer("", "hypll.tensors")
        self.ball = ball.PoincareBall(lambda: c)

    def wrap(self, x: Tensor, dim: int = 1) -> Any:
        """Say that a tensor holds points along an axis."""
        return self.tensors.ManifoldTensor(x, self.ball, man_dim=dim)

    def tangent_at(self, x: Any, v: Tensor, dim: int = 1) -> Any:
        """Say that a tensor holds tangents at points x, or at the origin where x is None."""
        return self.tensors.TangentTensor(v, x, self.ball, man_dim=dim)

    def point(self, t: Tensor, dim: int = 1) -> Any:
        """Map tangents at the origin to points."""
        return self.ball.expmap(self.tangent_at(None, t, dim))

    def tangent(self, x: Any) -> Tensor:
        """Map points to tangents at the origin."""
        return self.ball.logmap(None, x).tensor

    def on_tangents(self, layer: Callable[[Any], Any], dim: int = 1) -> OnTangents:
        """Turn a layer of points into one of tangents."""
        return lambda t: self.tangent(layer(self.point(t, dim)))

    def conv(self, z: Tensor, r: Tensor, stride: int = 1, padding: int = 0) -> nn.Module:
        """Return a convolution."""
        outputs, inputs, *kernel = z.shape
        layer = self.layers.HConvolution2d(
            inputs, outputs, tuple(kernel), self.ball, stride=stride, padding=padding
        )
        return put(layer, weights=self.wrap(z.flatten(1).mT, 0), bias=r)

    def linear(self, z: Tensor, r: Tensor) -> nn.Module:
        """Return a fully connected layer."""
        layer = self.layers.HLinear(z.shape[1], z.shape[0], self.ball)
        return put(layer, z=self.wrap(z.mT, 0), bias=r)

    def batch_norm(self, mean: Tensor, variance: Tensor, images: bool = True) -> nn.Module:
        """Return the midpoint normalisation of images or of rows."""
        kind = self.layers.HBatchNorm2d if images else self.layers.HBatchNorm
        layer = kind(len(mean), self.ball, use_midpoint=True)
        put(layer.norm if images else layer, bias=mean, weight=variance)
        return layer


def put(module: nn.Module, **tensors: Any) -> nn.Module:
    """Replace parameters by tensors through which gradients flow."""
    for name, tensor in tensors.items():
        delattr(module, name)
        setattr(module, name, tensor)
    return module


class HypllResNet(nn.Module):
    """The Poincaré ResNet of 6n + 2 layers from HypLL's, around our network's parameters.

    HypLL has no such model; its tutorial builds one like it, but pools by a β-concatenated mean
    that shrinks a constant map. This pools tangents, as the original does.
    """

    def __init__(self, weights: Weights, c: Tensor) -> None:
        """Build all layers."""
        super().__init__()
        self.hypll = hypll = Hypll(c)
        self.relu = hypll.layers.HReLU(hypll.ball)

        def conv(name: str, stride: int = 1) -> nn.Module:
            z = weights[f"{name}.weight"]
            return hypll.conv(z, weights[f"{name}.offset"], stride, padding=z.shape[2] // 2)

        def normed_conv(name: str, stride: int = 1) -> nn.Sequential:
            variance = weights[f"{name}.1.log_variance"].exp()
            norm = hypll.batch_norm(weights[f"{name}.1.mean"], variance)
            return nn.Sequential(conv(f"{name}.0", stride), norm)

        self.stem = nn.Sequential(normed_conv("stem"), self.relu)
        self.branches, self.shortcuts = nn.ModuleList(), nn.ModuleList()
        for stage, branch in branches(weights):
            stride = 2 if stage > 0 and branch == 0 else 1
            name = f"stages.{stage}.branches.{branch}"
            first, second = normed_conv(f"{name}.0", stride), normed_conv(f"{name}.2")
            self.branches.append(nn.Sequential(first, self.relu, second))
            shortcut = conv(f"shortcuts.{stage}", 2) if stride == 2 else nn.Identity()
            self.shortcuts.append(shortcut)
        self.head = hypll.linear(weights["head.weight"], weights["head.offset"])

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) of images, which are tangents at the origin."""
        hypll = self.hypll
        x = self.stem(hypll.point(images))
        for branch, shortcut in zip(self.branches, self.shortcuts, strict=True):
            x = self.relu(hypll.ball.mobius_add(branch(x), shortcut(x)))
        pooled = hypll.tangent(x).mean((2, 3))
        return hypll.tangent(self.head(hypll.point(pooled)))


def branches(weights: Weights) -> list[tuple[int, int]]:
    """List stage and place of the branches in our network's parameters."""
    ends = [name.split(".") for name in weights if name.endswith(".0.0.weight")]
    return [(int(stage), int(branch)) for _, stage, _, branch, *_ in ends]


# geoopt: functions of points and the sectional curvature k = −c.


def stereographic() -> types.ModuleType:
    """Import geoopt's functions of the ball; it warns dozens of times on the way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_peer("", "geoopt.manifolds.stereographic.math")


def geoopt_distances(t: Tensor, z: Tensor, r: Tensor, c: Tensor) -> Tensor:
    """Return 2‖z_k‖ times the signed distances of tangents (…, N) to hyperplanes, literally."""
    math = stereographic()
    length = z.norm(dim=1)
    unit = z / length[:, None]
    places, points = math.expmap0(r[:, None] * unit, k=-c), math.expmap0(t, k=-c).unsqueeze(-2)
    return 2 * length * math.dist2plane(points, p=places, a=unit, k=-c, signed=True)


def geoopt_linear(t: Tensor, z: Tensor, r: Tensor, c: Tensor, *, literal: bool = False) -> Tensor:
    """Map tangents (…, N) by the layer of HNN++.

    Args:
        t: Tangents at the origin.
        z: Normals (M, N).
        r: Offsets (M,).
        c: Curvature.
        literal: Distances by `dist2plane`, for M times the memory of their closed form.
    """
    math = stereographic()
    if literal:
        v = geoopt_distances(t, z, r, c)
    else:
        x = math.expmap0(t, k=-c)
        v = hyperplane_distances(x, math.lambda_x(x, k=-c, keepdim=True), z.mT, r, c)
    return math.logmap0(math.project(point_at_distances(v, c), k=-c), k=-c)


def geoopt_conv2d(
    t: Tensor,
    z: Tensor,
    r: Tensor,
    c: Tensor,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    literal: bool = False,
) -> Tensor:
    """Convolve tangents (B, N, H, W): concatenate patches by β, and map them."""
    place = {"stride": stride, "padding": padding, "dilation": dilation}
    gain = concatenation_gain(t.shape[1], z[0].numel())
    patches = F.unfold(gain * t, z.shape[2:], **place).mT
    out = geoopt_linear(patches, z.flatten(1), r, c, literal=literal).mT
    rows = t.shape[2] + 2 * padding - dilation * (z.shape[2] - 1) - 1
    return out.unflatten(2, (rows // stride + 1, -1))


def geoopt_batch_norm(t: Tensor, mean: Tensor, variance: Tensor, c: Tensor) -> Tensor:
    """Normalise tangents (N, D) or (B, D, H, W): centre, transport, scale, and leave."""
    math = stereographic()
    rows = t if t.dim() == 2 else t.movedim(1, -1).flatten(0, 2)
    x, target = math.expmap0(rows, k=-c), math.expmap0(mean, k=-c)
    middle = math.weighted_midpoint(x, k=-c, reducedim=[0], keepdim=True)
    spread = math.dist(x, middle, k=-c).square().mean()
    v = math.parallel_transport(middle, target, math.logmap(middle, x, k=-c), k=-c)
    v = (variance / (spread + 1e-6)).sqrt() * v
    out = math.logmap0(math.expmap(target, v, k=-c), k=-c)
    return out if t.dim() == 2 else out.unflatten(0, (len(t), *t.shape[2:])).movedim(-1, 1)


# The original repository: tangents in and out, as ours.


@functools.cache
def original() -> types.SimpleNamespace:
    """Import the original repository, with its hyperplane distances put right.

    Raises:
        ImportError: no clone of it.
    """
    folder = "poincare-resnet"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid escapes in its docstrings
        resnets = import_peer(folder, "models.resnets.hyperbolic")
        layers = import_peer(folder, "models.nn")
        distances = import_peer(folder, "models.manifolds.math.linreg")
        manifolds = import_peer(folder, "models.manifolds")

    def corrected(x: Tensor, z: Tensor, r: Tensor, c: Tensor) -> Tensor:
        factor = 2 / (1 - c * x.pow(2).sum(dim=-1, keepdim=True))
        return hyperplane_distances(x, factor, z, r, c)

    found = {"resnets": resnets, "layers": layers, "manifolds": manifolds, "distances": distances}
    found["released"] = distances.poincare_mlr
    distances.poincare_mlr = corrected  # type: ignore[attr-defined]
    return types.SimpleNamespace(**found)


def as_released() -> contextlib.AbstractContextManager[Any]:
    """Use the original's own hyperplane distances inside."""
    found = original()
    return mock.patch.object(found.distances, "poincare_mlr", found.released)


def original_ball(c: Tensor) -> nn.Module:
    """Return its ball of derivatives by hand, the default there, of c's dtype.

    Its own c is float32; its derivative by c is wrong, so c is fixed.
    """
    ball = original().manifolds.poincareball_factory(c=0.0, learnable=False)
    ball.isp_c = nn.Parameter(c.detach(), requires_grad=False)
    return ball


def original_conv2d(
    z: Tensor, r: Tensor, c: Tensor, *, stride: int = 1, padding: int = 0
) -> nn.Module:
    """Return its convolution."""
    outputs, inputs, *kernel = z.shape
    layer = original().layers.PoincareConvolution2d(
        inputs, outputs, tuple(kernel), original_ball(c), stride=stride, padding=padding
    )
    return put(layer, weights=z.flatten(1).mT, bias=r)


def original_linear(z: Tensor, r: Tensor, c: Tensor) -> nn.Module:
    """Return its fully connected layer."""
    layer = original().layers.PoincareLinear(z.shape[1], z.shape[0], original_ball(c))
    return put(layer, z=z.mT, bias=r)


def original_batch_norm(mean: Tensor, variance: Tensor, c: Tensor) -> nn.Module:
    """Return its midpoint normalisation of images."""
    layer = original().layers.PoincareBatchNorm2d(len(mean), original_ball(c))
    put(layer.norm, mean=mean, var=variance)
    return layer


class AlongChannels(nn.Module):
    """A ball of the original repository whose maps act along the channels of an image."""

    def __init__(self, ball: nn.Module) -> None:
        """Keep the ball."""
        super().__init__()
        self.ball = ball

    def expmap0(self, v: Tensor, dim: int) -> Tensor:
        """Map tangents at the origin to points."""
        return self.ball.expmap0(v, dim=1)

    def logmap0(self, x: Tensor, dim: int) -> Tensor:
        """Map points to tangents at the origin."""
        return self.ball.logmap0(x, dim=1)

    def mobius_add(self, x: Tensor, y: Tensor) -> Tensor:
        """Add points."""
        return self.ball.mobius_add(x, y, dim=1)


def original_resnet(weights: Weights, c: Tensor, *, released: bool = False) -> nn.Module:
    """Return its network with our parameters' sizes, its residual along the channels.

    `released` leaves the residual along the width of the image.
    """
    stages = branches(weights)
    depths = [sum(stage == i for stage, _ in stages) for i in range(3)]
    widths = [len(weights[f"stages.{i}.branches.0.0.0.offset"]) for i in range(3)]
    classes = len(weights["head.offset"])
    model = original().resnets.HyperbolicResNet(classes, widths, depths)
    for module in list(model.modules()):
        if hasattr(module, "ball"):
            module.ball = original_ball(c)
        if hasattr(module, "balls"):
            ball = original_ball(c)
            module.balls["skip_ball"] = ball if released else AlongChannels(ball)
    return model.to(c.dtype)


def original_names(weights: Weights) -> dict[str, Tensor]:
    """Name and shape our network's parameters as the original repository's."""
    found: dict[str, Tensor] = {}

    def conv(theirs: str, ours: str) -> None:
        found[f"{theirs}.weights"] = weights[f"{ours}.weight"].flatten(1).mT
        found[f"{theirs}.bias"] = weights[f"{ours}.offset"]

    def normed_conv(theirs: tuple[str, str], ours: str) -> None:
        conv(theirs[0], f"{ours}.0")
        found[f"{theirs[1]}.norm.mean"] = weights[f"{ours}.1.mean"]
        found[f"{theirs[1]}.norm.var"] = weights[f"{ours}.1.log_variance"].exp()

    normed_conv(("conv", "bn"), "stem")
    for stage, branch in branches(weights):
        name, ours = f"group{stage + 1}.{branch}", f"stages.{stage}.branches.{branch}"
        normed_conv((f"{name}.conv1", f"{name}.bn1"), f"{ours}.0")
        normed_conv((f"{name}.conv2", f"{name}.bn2"), f"{ours}.2")
        if stage > 0 and branch == 0:
            conv(f"{name}.downsample", f"shortcuts.{stage}")
    found["fc.z"], found["fc.bias"] = weights["head.weight"].mT, weights["head.offset"]
    return found
