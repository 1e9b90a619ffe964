"""How far our hyperbolic layers are from public code with the same weights, outputs and gradients.

In float64 the figure of a case is the largest difference of any entry, over the largest entry of
the same tensor, at worst over the output and over the gradients of inputs, weights, offsets, means,
variances and the curvature (where the public code has one that is right), under a random gradient
of the output, and over seeds. The bar is 1e-10: theirs has ball points in between, whose rounding
is multiplied by the conformal factor.

In float32 ours is compared with theirs in float64 at the same numbers, and the bar is the error
that is claimed for float32, 5e-5: the largest of the output, as above, and that of the gradient as
one vector. Entry by entry a gradient that is a sum of thousands of terms that cancel, such as that
of c, has fewer digits in theirs and in ours.

Inputs lie where the projections of the public code, which ours has not, leave points alone.

Layers with compiled kernels have a row with and one without. `hyperbolic_peers.py` says how to get
the public code; what cannot be imported is a row that says "not installed" and no bar.
"""

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import hyperbolic_peers as theirs
import torch
from archzoo.layers.hyperbolic import (
    BallCurvature,
    MidpointBatchNorm,
    PoincareConv2d,
    lorentz,
    midpoint_batch_norm,
    poincare,
    poincare_conv2d,
    poincare_linear,
)
from archzoo.layers.hyperbolic.head import poincare_mlr
from archzoo.layers.hyperbolic.midpoint import midpoint_pool
from archzoo.layers.hyperbolic.mobius_addition import mobius_add_tangents
from harness import Bar, Measurement, main
from hyperbolic import kernels, paths, resnet20
from hyperbolic_peers import Hypll
from parity import Case, Leaves, Side, difference, normals, results
from residual_peers import import_peer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

Row = dict[str, Any]
LIMITS = {torch.float64: 1e-10, torch.float32: 5e-5}
C = 0.3
B, N, M, H, W = 4, 6, 8, 8, 6  # even sides: at odd ones the original miscounts its output


@dataclass(frozen=True)
class Comparison:
    """One case: whose code, what of it, and how to make the two sides from a seed."""

    peer: str
    what: str
    make: Callable[[int], Case]
    kernels: bool = False


def draw(seed: int, **shapes: tuple[int, ...]) -> Leaves:
    """Draw leaves in float64: what a name stands for decides the scale.

    Points lie up to some three radii from the origin, normals have a length near one.
    """
    leaves = normals(seed, torch.float64, **shapes)
    with torch.no_grad():
        if "c" in leaves:
            leaves["c"].mul_(0.3).exp_().mul_(C)
        for name, leaf in leaves.items():
            if name in ("variance", "weights"):
                leaf.mul_(0.3).exp_()
            elif name.startswith("point"):
                leaf.copy_(poincare.expmap0(leaf, leaves["c"]))
            elif name == "z":
                leaf.div_(leaf[0].numel() ** 0.5)
            elif name != "c":
                leaf.mul_(0.3 if name in ("r", "mean") else 0.7)
        if "v" in leaves and "point" in leaves:
            # The length of a tangent at x is λ_x‖v‖; at the origin λ is 2.
            leaves["v"].mul_(2 / poincare.conformal_factor(leaves["point"], leaves["c"]))
    return leaves


# Pure functions. Theirs takes points (…, D), ours as well.

Function = Callable[[Leaves], Tensor]
SHAPES: dict[str, tuple[int, ...]] = {
    name: (16, 5) for name in ("point", "point2", "t", "v", "w")
} | {"c": (), "weights": (16,), "factor": (16, 1)}
OURS: dict[str, tuple[tuple[str, ...], Function]] = {
    "exp at 0": (("t", "c"), lambda a: poincare.expmap0(a["t"], a["c"])),
    "log at 0": (("point", "c"), lambda a: poincare.logmap0(a["point"], a["c"])),
    "exp": (("point", "v", "c"), lambda a: poincare.expmap(a["point"], a["v"], a["c"])),
    "log": (("point", "point2", "c"), lambda a: poincare.logmap(a["point"], a["point2"], a["c"])),
    "Möbius addition": (
        ("point", "point2", "c"),
        lambda a: poincare.mobius_add(a["point"], a["point2"], a["c"]),
    ),
    "Möbius scaling": (
        ("point", "factor", "c"),
        lambda a: poincare.mobius_scale(a["point"], a["factor"], a["c"]),
    ),
    "distance": (
        ("point", "point2", "c"),
        lambda a: poincare.distance(a["point"], a["point2"], a["c"]),
    ),
    "distance from 0": (("point", "c"), lambda a: poincare.distance0(a["point"], a["c"])),
    "conformal factor": (
        ("point", "c"),
        lambda a: poincare.conformal_factor(a["point"], a["c"]),
    ),
    "gyration": (
        ("point", "point2", "v", "c"),
        lambda a: poincare.gyration(a["point"], a["point2"], a["v"], a["c"]),
    ),
    "transport": (
        ("point", "point2", "v", "c"),
        lambda a: poincare.parallel_transport(a["point"], a["point2"], a["v"], a["c"]),
    ),
    "midpoint": (("point", "c"), lambda a: poincare.midpoint(a["point"], a["c"])),
    "weighted midpoint": (
        ("point", "weights", "c"),
        lambda a: poincare.midpoint(a["point"], a["c"], a["weights"][:, None]),
    ),
}


def function(name: str, other: Function) -> Callable[[int], Case]:
    """One of our pure functions against somebody else's."""
    names, mine = OURS[name]
    return lambda seed: (draw(seed, **{n: SHAPES[n] for n in names}), mine, other)


def hyperboloids() -> list[Comparison]:
    """The functions of geoopt's Lorentz model."""
    names = ("distance", "exp", "log", "transport")
    return [Comparison("geoopt", f"hyperboloid, {name}", hyperboloid(name)) for name in names]


def hypll_functions() -> list[Comparison]:
    """The maps of HypLL's manifold."""

    def of(call: Callable[[Any, Any, Leaves], Any], dim: int = 1) -> Function:
        def other(leaves: Leaves) -> Tensor:
            hypll = Hypll(leaves["c"])
            found = call(
                hypll, {n: hypll.wrap(x) for n, x in leaves.items() if "point" in n}, leaves
            )
            return found if isinstance(found, Tensor) else found.tensor

        return other

    calls: dict[str, Callable[[Any, Any, Leaves], Any]] = {
        "exp at 0": lambda h, p, a: h.point(a["t"]),
        "log at 0": lambda h, p, a: h.tangent(p["point"]),
        "exp": lambda h, p, a: h.ball.expmap(h.tangent_at(p["point"], a["v"])),
        "log": lambda h, p, a: h.ball.logmap(p["point"], p["point2"]),
        "Möbius addition": lambda h, p, a: h.ball.mobius_add(p["point"], p["point2"]),
        "distance": lambda h, p, a: h.ball.dist(p["point"], p["point2"]),
        "gyration": lambda h, p, a: h.ball.gyration(p["point"], p["point2"], h.wrap(a["v"])),
        "transport": lambda h, p, a: h.ball.transp(h.tangent_at(p["point"], a["v"]), p["point2"]),
        "midpoint": lambda h, p, a: h.ball.midpoint(p["point"]),
        "weighted midpoint": lambda h, p, a: h.ball.midpoint(p["point"], w=a["weights"][:, None]),
    }
    return [Comparison("HypLL", name, function(name, of(call))) for name, call in calls.items()]


def geoopt_functions() -> list[Comparison]:
    """The functions of geoopt's stereographic model at k = −c."""
    calls: dict[str, Callable[[Any, Leaves, Tensor], Tensor]] = {
        "exp at 0": lambda m, a, k: m.expmap0(a["t"], k=k),
        "log at 0": lambda m, a, k: m.logmap0(a["point"], k=k),
        "exp": lambda m, a, k: m.expmap(a["point"], a["v"], k=k),
        "log": lambda m, a, k: m.logmap(a["point"], a["point2"], k=k),
        "Möbius addition": lambda m, a, k: m.mobius_add(a["point"], a["point2"], k=k),
        "Möbius scaling": lambda m, a, k: m.mobius_scalar_mul(a["factor"], a["point"], k=k),
        "distance": lambda m, a, k: m.dist(a["point"], a["point2"], k=k),
        "distance from 0": lambda m, a, k: m.dist0(a["point"], k=k),
        "conformal factor": lambda m, a, k: m.lambda_x(a["point"], k=k, keepdim=True),
        "gyration": lambda m, a, k: m.gyration(a["point"], a["point2"], a["v"], k=k),
        "transport": lambda m, a, k: m.parallel_transport(a["point"], a["point2"], a["v"], k=k),
        "midpoint": lambda m, a, k: m.weighted_midpoint(a["point"], k=k, reducedim=[0]),
        "weighted midpoint": lambda m, a, k: m.weighted_midpoint(
            a["point"], a["weights"], k=k, reducedim=[0]
        ),
    }

    def of(call: Callable[[Any, Leaves, Tensor], Tensor]) -> Function:
        return lambda leaves: call(theirs.stereographic(), leaves, -leaves["c"])

    return [Comparison("geoopt", name, function(name, of(call))) for name, call in calls.items()]


def hyperboloid(name: str) -> Callable[[int], Case]:
    """Our hyperboloid against geoopt's, whose k is 1/c, from tangents at the origin.

    Off the hyperboloid the two continue a function differently, so gradients are compared after the
    map that reaches it.
    """

    def walk(math: Any, a: Leaves) -> Tensor:
        x, y = math.expmap0(a["t"]), math.expmap0(a["v"])
        if name == "distance":
            return math.dist(x, y)
        if name == "log":
            return math.logmap(x, y)
        if name == "exp":
            return math.expmap(x, 0.5 * math.logmap(x, y))
        return math.parallel_transport(x, y, math.logmap(x, math.expmap0(a["w"])))

    def mine(a: Leaves) -> Tensor:
        names = {"dist": "distance"}
        maps = ("expmap0", "expmap", "logmap", "parallel_transport", "dist")
        bound = {n: partial(getattr(lorentz, names.get(n, n)), curvature=a["c"]) for n in maps}
        return walk(SimpleNamespace(**bound), a)

    def other(a: Leaves) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            math = import_peer("", "geoopt.manifolds.lorentz.math")
        maps = ("expmap", "logmap", "parallel_transport", "dist")
        bound = {n: partial(getattr(math, n), k=1 / a["c"]) for n in maps}
        # A tangent at the origin has a time there, which is zero.
        bound["expmap0"] = lambda v: math.expmap0(F.pad(v, (1, 0)), k=1 / a["c"])
        return walk(SimpleNamespace(**bound), a)

    shapes = {n: (16, 5) for n in ("tvw" if name == "transport" else "tv")}
    return lambda seed: (draw(seed, **shapes, c=()), mine, other)


# Layers. The leaves of one are x, z, r, mean, variance and c, as far as it has them.


Shapes = dict[str, tuple[int, ...]]


def conv_shapes(kernel: tuple[int, int]) -> Shapes:
    """Images through a convolution."""
    return {"x": (B, N, H, W), "z": (M, N, *kernel), "r": (M,)}


def layer(
    peer: str,
    what: str,
    shapes: Shapes,
    mine: Side,
    other: Side,
    *,
    kernels: bool = False,
    curved: bool = True,
) -> Comparison:
    """Compare a layer, its derivative by c included where both have one.

    The original's is wrong, and a ReLU of tangents has none.
    """
    if curved and peer != "original":
        return Comparison(
            peer, what, lambda seed: (draw(seed, **shapes, c=()), mine, other), kernels
        )

    def fixed(side: Side) -> Side:
        return lambda a: side(a | {"c": torch.tensor(C, dtype=a["x"].dtype)})

    sides = fixed(mine), fixed(other)
    return Comparison(peer, what, lambda seed: (draw(seed, **shapes), *sides), kernels)


def our_conv_norm(a: Leaves) -> Tensor:
    """Our two modules in a row, as the networks have them."""
    curvature = BallCurvature(C, learned=True)
    outputs, inputs, *kernel = a["z"].shape
    options: dict[str, Any] = {"padding": 1, "curvature": curvature, "output": "velocity"}
    block = nn.Sequential(
        PoincareConv2d(inputs, outputs, tuple(kernel), **options),
        MidpointBatchNorm(outputs, curvature=curvature, input="velocity"),
    ).to(a["x"].dtype)
    given = {
        "0.weight": a["z"],
        "0.offset": a["r"],
        "1.mean": a["mean"],
        "1.log_variance": a["variance"].log(),
        "0.curvature.log_ratio": (a["c"] / C).log(),
    }
    return functional_call(block, given, a["x"])


def conv_cases() -> list[Comparison]:
    """Convolutions over kernels, strides and paddings."""
    found = []
    places = [((3, 3), 1, 1), ((3, 3), 2, 1), ((3, 3), 1, 0), ((1, 1), 2, 0), ((3, 1), 2, 1)]
    for kernel, stride, padding in places:
        place = {"stride": stride, "padding": padding}

        def mine(a: Leaves, place: dict[str, int] = place) -> Tensor:
            return poincare_conv2d(a["x"], a["z"], a["r"], a["c"], **place)

        def hypll(a: Leaves, place: dict[str, int] = place) -> Tensor:
            made = Hypll(a["c"])
            return made.on_tangents(made.conv(a["z"], a["r"], **place))(a["x"])

        def geoopt(a: Leaves, place: dict[str, int] = place) -> Tensor:
            return theirs.geoopt_conv2d(a["x"], a["z"], a["r"], a["c"], **place, literal=True)

        def original(a: Leaves, place: dict[str, int] = place) -> Tensor:
            return theirs.original_conv2d(a["z"], a["r"], a["c"], **place)(a["x"])

        what = f"conv {kernel[0]}x{kernel[1]}, stride {stride}, padding {padding}"
        shapes = conv_shapes(kernel)
        for peer, other in {"HypLL": hypll, "geoopt": geoopt, "original": original}.items():
            found.append(layer(peer, what, shapes, mine, other, kernels=True))
    return found


def layer_cases() -> list[Comparison]:
    """Every layer but convolutions without a companion."""

    def rows(a: Leaves, make: Callable[[Hypll], Any]) -> Tensor:
        hypll = Hypll(a["c"])
        return hypll.on_tangents(make(hypll))(a["x"])

    def linear(a: Leaves) -> Tensor:
        return poincare_linear(a["x"], a["z"], a["r"], a["c"])

    def mlr(a: Leaves) -> Tensor:
        return poincare_mlr(a["x"], a["z"], a["r"], a["c"])

    def hypll_mlr(a: Leaves) -> Tensor:
        hypll = Hypll(a["c"])
        planes = hypll.wrap(a["z"].mT, 0)
        return hypll.ball.hyperplane_dists(hypll.point(a["x"]), planes, a["r"])

    def geoopt_mlr(a: Leaves) -> Tensor:
        return theirs.geoopt_distances(a["x"], a["z"], a["r"], a["c"])

    def distances(a: Leaves) -> Tensor:
        x = poincare.expmap0(a["x"], a["c"])
        return poincare.hyperplane_distance(x, a["z"], a["r"], a["c"])

    def norm(a: Leaves) -> Tensor:
        return midpoint_batch_norm(a["x"], a["mean"], a["variance"], a["c"])

    def hypll_norm(a: Leaves) -> Tensor:
        images = a["x"].dim() == 4
        return rows(a, lambda h: h.batch_norm(a["mean"], a["variance"], images))

    def geoopt_norm(a: Leaves) -> Tensor:
        return theirs.geoopt_batch_norm(a["x"], a["mean"], a["variance"], a["c"])

    def original_norm(a: Leaves) -> Tensor:
        return theirs.original_batch_norm(a["mean"], a["variance"], a["c"])(a["x"])

    def residual(a: Leaves) -> Tensor:
        return mobius_add_tangents(a["x"], a["y"], a["c"], dim=1)

    def hypll_residual(a: Leaves) -> Tensor:
        hypll = Hypll(a["c"])
        return hypll.tangent(hypll.ball.mobius_add(hypll.point(a["x"]), hypll.point(a["y"])))

    def geoopt_residual(a: Leaves) -> Tensor:
        math, k = theirs.stereographic(), -a["c"]
        x, y = (math.expmap0(a[n], k=k, dim=1) for n in "xy")
        return math.logmap0(math.mobius_add(x, y, k=k, dim=1), k=k, dim=1)

    def pool(a: Leaves) -> Tensor:
        return midpoint_pool(a["x"], a["c"])

    def hypll_pool(a: Leaves) -> Tensor:
        hypll = Hypll(a["c"])
        pixels = hypll.wrap(hypll.point(a["x"]).tensor.flatten(2))
        return hypll.tangent(hypll.ball.midpoint(pixels, batch_dim=2))

    def geoopt_pool(a: Leaves) -> Tensor:
        math, k = theirs.stereographic(), -a["c"]
        pixels = math.expmap0(a["x"], k=k, dim=1).flatten(2).mT
        return math.logmap0(math.weighted_midpoint(pixels, k=k, reducedim=[1]), k=k)

    def relu(a: Leaves) -> Tensor:
        return a["x"].relu()

    images: Shapes = {"x": (B, N, H, W)}
    tokens, planes = {"x": (16, N)}, {"x": (16, N), "z": (M, N), "r": (M,)}
    moments: Shapes = {"mean": (N,), "variance": ()}
    block = conv_shapes((3, 3)) | {"mean": (M,), "variance": ()}

    def hypll_block(a: Leaves) -> Tensor:
        return rows(
            a,
            lambda h: nn.Sequential(
                h.conv(a["z"], a["r"], padding=1), h.batch_norm(a["mean"], a["variance"])
            ),
        )

    def geoopt_block(a: Leaves) -> Tensor:
        out = theirs.geoopt_conv2d(a["x"], a["z"], a["r"], a["c"], padding=1, literal=True)
        return theirs.geoopt_batch_norm(out, a["mean"], a["variance"], a["c"])

    def original_block(a: Leaves) -> Tensor:
        out = theirs.original_conv2d(a["z"], a["r"], a["c"], padding=1)(a["x"])
        return theirs.original_batch_norm(a["mean"], a["variance"], a["c"])(out)

    return [
        layer(
            "HypLL", "linear", planes, linear, lambda a: rows(a, lambda h: h.linear(a["z"], a["r"]))
        ),
        layer(
            "geoopt",
            "linear",
            planes,
            linear,
            lambda a: theirs.geoopt_linear(a["x"], a["z"], a["r"], a["c"], literal=True),
        ),
        layer(
            "original",
            "linear",
            planes,
            linear,
            lambda a: theirs.original_linear(a["z"], a["r"], a["c"])(a["x"]),
        ),
        layer("HypLL", "MLR", planes, mlr, hypll_mlr),
        layer("geoopt", "MLR", planes, mlr, geoopt_mlr),
        layer("HypLL", "hyperplane distance", planes, distances, hypll_mlr),
        layer("geoopt", "hyperplane distance", planes, distances, geoopt_mlr),
        layer("HypLL", "batch norm, rows", tokens | moments, norm, hypll_norm),
        layer("geoopt", "batch norm, rows", tokens | moments, norm, geoopt_norm),
        layer("HypLL", "batch norm, images", images | moments, norm, hypll_norm, kernels=True),
        layer("geoopt", "batch norm, images", images | moments, norm, geoopt_norm, kernels=True),
        layer(
            "original", "batch norm, images", images | moments, norm, original_norm, kernels=True
        ),
        layer("HypLL", "conv and batch norm", block, our_conv_norm, hypll_block, kernels=True),
        layer("geoopt", "conv and batch norm", block, our_conv_norm, geoopt_block, kernels=True),
        layer(
            "original", "conv and batch norm", block, our_conv_norm, original_block, kernels=True
        ),
        layer(
            "HypLL",
            "Möbius residual",
            images | {"y": (B, N, H, W)},
            residual,
            hypll_residual,
            kernels=True,
        ),
        layer(
            "geoopt",
            "Möbius residual",
            images | {"y": (B, N, H, W)},
            residual,
            geoopt_residual,
            kernels=True,
        ),
        layer("HypLL", "midpoint pooling", images, pool, hypll_pool),
        layer("geoopt", "midpoint pooling", images, pool, geoopt_pool),
        layer(
            "HypLL",
            "ReLU",
            images,
            relu,
            lambda a: rows(a, lambda h: h.layers.HReLU(h.ball)),
            curved=False,
        ),
    ]


# Whole networks: our poincare_resnet20 with the original's choices, perturbed from its start.


def network(peer: str) -> Callable[[int], Case]:
    """Logits in training mode, and gradients of the images and of all parameters."""

    def case(seed: int) -> Case:
        model, leaves = resnet20(seed)
        leaves["images"] = normals(seed, torch.float64, images=(4, 3, 32, 32))["images"]

        def mine(a: Leaves) -> Tensor:
            given = {name: x for name, x in a.items() if name != "images"}
            return functional_call(model.to(a["images"].dtype), given, a["images"])

        def other(a: Leaves) -> Tensor:
            c = torch.tensor(0.1, dtype=a["images"].dtype)
            if peer == "HypLL":
                return theirs.HypllResNet(a, c)(a["images"])
            return functional_call(
                theirs.original_resnet(a, c), theirs.original_names(a), a["images"]
            )

        return leaves, mine, other

    return case


def networks() -> list[Comparison]:
    """The network against the original's, put right, and against one built from HypLL."""
    return [
        Comparison(peer, "ResNet-20 (8, 16, 32)", network(peer), kernels=True)
        for peer in ("HypLL", "original")
    ]


def released() -> Row:
    """How far the original's network is as released, in float64: a row without a bar."""
    model, leaves = resnet20(0)
    images = normals(0, torch.float64, images=(4, 3, 32, 32))["images"]
    c = torch.tensor(0.1, dtype=torch.float64)
    with torch.no_grad():
        mine = functional_call(model.double(), leaves, images)
        network = theirs.original_resnet(leaves, c, released=True)
        with theirs.as_released():
            other = functional_call(network, theirs.original_names(leaves), images)
    apart = ((mine - other).abs().max() / other.abs().max()).item()
    return line("original, as released", "ResNet-20 (8, 16, 32)", "plain", {"float64 out": apart})


def line(peer: str, what: str, path: str, figures: dict[str, Any]) -> Row:
    """One line of the table."""
    columns = (f"{dtype} {kind}" for dtype in ("float64", "float32") for kind in ("out", "grad"))
    known = {"peer": peer, "case": what, "path": path}
    return known | {column: figures.get(column, "") for column in columns}


def measure(quick: bool) -> Measurement:
    """Compare every case on one seed or on three, in both dtypes, with and without kernels."""
    rows: list[Row] = []
    bars: list[Bar] = []
    seeds = range(1 if quick else 3)
    cases = hypll_functions() + geoopt_functions() + hyperboloids()
    cases += conv_cases() + layer_cases() + networks()
    for case in cases:
        for path in paths() if case.kernels else ("plain",):
            figures: dict[str, Any] = {}
            for dtype, limit in LIMITS.items():
                name = str(dtype).split(".")[1]
                try:
                    with kernels(path == "kernels"):
                        found = [compare(case, seed, dtype) for seed in seeds]
                except ImportError as error:
                    figures = {"float64 out": "not installed"}
                    print(f"{case.peer}, {case.what}: {error}")
                    break
                out, grad = (max(column) for column in zip(*found, strict=True))
                figures |= {f"{name} out": out, f"{name} grad": grad}
                bars.append(Bar(f"{case.peer}, {case.what}, {path}, {name}", max(out, grad), limit))
            rows.append(line(case.peer, case.what, path, figures))
    with contextlib.suppress(ImportError):  # said above
        rows.append(released())
    return rows, bars


def compare(case: Comparison, seed: int, dtype: torch.dtype) -> tuple[float, float]:
    """Return the differences of outputs and gradients, theirs always in float64."""
    leaves, mine, other = case.make(seed)
    if dtype == torch.float64:
        return difference((leaves, mine, other), seed)
    given = {n: x.detach().to(dtype).requires_grad_() for n, x in leaves.items()}
    rounded = results(given, mine, seed)
    exact = results(given, lambda a: other({n: x.double() for n, x in a.items()}), seed)
    apart = [one.double() - two.double() for one, two in zip(rounded, exact, strict=True)]
    out = apart[0].abs().max() / exact[0].abs().max()
    return out.item(), (length(apart[1:]) / length(exact[1:])).item()


def length(tensors: list[Tensor]) -> Tensor:
    """Return the norm of all entries together."""
    return torch.stack([x.double().norm() for x in tensors]).norm()


if __name__ == "__main__":
    main("hyperbolic_parity", measure)
