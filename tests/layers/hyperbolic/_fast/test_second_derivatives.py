"""A gradient of a hyperbolic layer can be differentiated again, and is the same where it can be.

Checked against the definition and against differences, never against the hand-written gradient
itself: `gradgradcheck` finds a second derivative right that belongs to a wrong first one.
"""

import functools
from collections.abc import Callable
from itertools import chain, combinations
from typing import Any, NamedTuple

import pytest
import torch
from archzoo.layers.fast_path import faster
from archzoo.layers.hyperbolic import (
    BallCurvature,
    LorentzBatchNorm,
    MidpointBatchNorm,
    PoincareConv2d,
    PoincareLinear,
    mobius_add_tangents,
)
from archzoo.layers.hyperbolic._fast.fused_maps import fused_tangent
from archzoo.layers.hyperbolic._fast.fused_planes import fused_patches
from archzoo.layers.hyperbolic._fast.fused_weights import fused_hyperplanes, point_velocity
from archzoo.layers.hyperbolic.maths.coordinates import scaled_tangent
from archzoo.layers.hyperbolic.maths.hyperplanes import Place, hyperplanes, patch_velocity
from archzoo.layers.hyperbolic.midpoint import MidpointStatistics, NormKind
from archzoo.layers.hyperbolic.norm import normalise
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..hyperbolic_paths import HAND_WRITTEN, take

TOL = {"rtol": 1e-9, "atol": 1e-10}
STEP = 1e-5  # a central difference is exact to its square and to rounding over it
DIFFERENCES = {"rtol": 1e-6, "atol": 1e-7}


def draw(*shape: int, seed: int = 0, size: float = 0.6) -> Tensor:
    """Draw normals."""
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(shape, generator=generator, dtype=torch.float64)


class Function(NamedTuple):
    """A hand-written function, and tensors that it takes; the first is a map."""

    of: Callable[..., Any]
    inputs: dict[str, Tensor]


PLACE = Place((2, 1), (1, 1), (1, 1))
C = torch.tensor(0.3, dtype=torch.float64)
ROWS, IMAGE = draw(4, 6), draw(2, 4, 5, 3)
PLANES = {"stretch": 0.5 + draw(6, seed=2).abs(), "shift": draw(6, seed=3)}
NORM = {"target": draw(4, seed=1), "variance": C + 1, "curvature": C}


def _planes(place: Place | None, groups: int = 1) -> Callable[..., Tensor]:
    return lambda t, w, a, h, k: faster(fused_patches, patch_velocity, t, w, a, h, k, place, groups)


def _tangents(groups: int) -> Callable[..., Tensor]:
    return lambda w, f: faster(fused_tangent, scaled_tangent, w, f, groups)


def _norm(w: Tensor, b: Tensor, v: Tensor, c: Tensor, *given: Tensor, **kind: Any) -> Tensor:
    by = MidpointStatistics(*given) if given else None
    return normalise(w, b, v, c, by, 1e-3, kind=NormKind(**kind))[0]


_space_norm = functools.partial(_norm, transport="origin", scale="mean", space=True)
GIVEN = {"mean": draw(4, seed=2), "spread": C + 0.5}


FUNCTIONS = {
    "tangents": Function(_tangents(1), {"velocity": IMAGE, "factor": C}),
    "tangents of groups": Function(_tangents(2), {"velocity": IMAGE, "factor": C}),
    "sum": Function(
        lambda a, b, c: mobius_add_tangents(a, b, c, dim=1),
        {"left": IMAGE, "right": draw(2, 4, 5, 3, seed=1), "curvature": C},
    ),
    "norm": Function(_norm, {"velocity": IMAGE, **NORM}),
    "norm by statistics": Function(_norm, {"velocity": IMAGE, **NORM, **GIVEN}),
    "norm of space parts": Function(_space_norm, {"s": IMAGE, **NORM}),
    "norm of space parts by statistics": Function(_space_norm, {"s": IMAGE, **NORM, **GIVEN}),
    "planes of rows": Function(
        _planes(None), {"t": ROWS, "weight": draw(6, 6, seed=1), **PLANES, "k": C}
    ),
    "planes of patches": Function(
        _planes(PLACE), {"t": IMAGE, "weight": draw(6, 4, 3, 2, seed=1), **PLANES, "k": C}
    ),
    "planes of groups": Function(
        _planes(PLACE, 2), {"t": IMAGE, "weight": draw(6, 2, 3, 2, seed=1), **PLANES, "k": C}
    ),
    "weights": Function(
        lambda z, r, c: faster(fused_hyperplanes, hyperplanes, z, r, c, 0.7),
        {"weight": draw(6, 4), "offset": draw(6, seed=1), "curvature": C},
    ),
    "weights without offset": Function(
        lambda z, c: faster(fused_hyperplanes, hyperplanes, z, None, c, 0.7),
        {"weight": draw(6, 4), "curvature": C},
    ),
    "point": Function(point_velocity, {"t": draw(6), "curvature": C}),
}

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1) if x.dim() > 1 else x,
}


def subsets(names: list[str]) -> list[tuple[str, ...]]:
    """Return all subsets but the empty one."""
    return list(chain.from_iterable(combinations(names, n + 1) for n in range(len(names))))


def value(function: Function, inputs: list[Tensor]) -> Tensor:
    """Return one number, curved in all outputs."""
    outputs = function.of(*inputs)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return sum((x * draw(*x.shape, seed=9 + i)).sin().sum() for i, x in enumerate(outputs))  # type: ignore[return-value]


def leaves(function: Function, wanted: tuple[str, ...], layout: str) -> list[Tensor]:
    """Return fresh inputs in a layout, some of which need a gradient."""
    return [
        LAYOUTS[layout](x.clone()).detach().requires_grad_(name in wanted)
        for name, x in function.inputs.items()
    ]


def gradients(out: Tensor, inputs: list[Tensor], *, again: bool) -> list[Tensor]:
    """Return the gradients of those inputs that need one, to be differentiated again or not."""
    wanted = [x for x in inputs if x.requires_grad]
    return list(torch.autograd.grad(out, wanted, create_graph=again))


def curl(found: list[Tensor]) -> Tensor:
    """Return one number of some gradients."""
    return sum((x * draw(*x.shape, seed=30 + i)).sum() for i, x in enumerate(found))  # type: ignore[return-value]


def second(function: Function, inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return first gradients with a graph, and gradients of one number of them."""
    first = gradients(value(function, inputs), inputs, again=True)
    wanted = [x for x in inputs if x.requires_grad]
    found = torch.autograd.grad(curl(first), wanted, allow_unused=True, materialize_grads=True)
    return first, list(found)


def assert_same(found: list[Tensor], expected: list[Tensor], **tol: float) -> None:
    """Assert that gradients agree on the scale of the largest."""
    scale = max(x.abs().max().item() for x in expected)
    tol = tol or TOL
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            one, other, rtol=tol["rtol"], atol=tol["atol"] + tol["rtol"] * scale
        )


def check(
    path: str, name: str, layout: str, wanted: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Assert the law for one function, layout and subset of inputs with a gradient."""
    function = FUNCTIONS[name]
    take("definition", monkeypatch)
    expected = second(function, leaves(function, wanted, layout))
    take(path, monkeypatch)
    inputs = leaves(function, wanted, layout)
    plain = gradients(value(function, inputs), inputs, again=False)
    found = second(function, inputs)
    assert_same(plain, expected[0])
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("path", HAND_WRITTEN)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_and_second_gradients_are_those_of_the_definition(name, path, monkeypatch):
    names = list(FUNCTIONS[name].inputs)
    for layout in LAYOUTS:
        check(path, name, layout, tuple(names), monkeypatch)
    for wanted in [(x,) for x in names] + [tuple(names[1:])]:
        check(path, name, "transposed", wanted, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("path", HAND_WRITTEN)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_so_they_are_for_every_subset_of_inputs(name, layout, path, monkeypatch):
    for wanted in subsets(list(FUNCTIONS[name].inputs)):
        check(path, name, layout, wanted, monkeypatch)


@pytest.mark.parametrize("path", HAND_WRITTEN)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_and_second_gradients_are_those_of_differences(name, path, monkeypatch):
    take(path, monkeypatch)
    function = FUNCTIONS[name]
    inputs = leaves(function, tuple(function.inputs), "transposed")
    ways = [draw(*x.shape, seed=60 + i) for i, x in enumerate(inputs)]

    def moved(step: float) -> list[Tensor]:
        return [
            (x.detach() + step * way).requires_grad_() for x, way in zip(inputs, ways, strict=True)
        ]

    values = [value(function, moved(step)).detach() for step in (STEP, -STEP)]
    plain = [curl(gradients(value(function, x), x, again=False)) for x in map(moved, (STEP, -STEP))]
    first, found = second(function, inputs)
    for pair, gradient in ((values, first), (plain, found)):
        along = sum((g * way).sum() for g, way in zip(gradient, ways, strict=True))
        torch.testing.assert_close(along, (pair[0] - pair[1]) / (2 * STEP), **DIFFERENCES)


@pytest.mark.parametrize("path", HAND_WRITTEN)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_that_are_made_of_one_leaf_are_counted_once_each(name, path, monkeypatch):
    function = FUNCTIONS[name]
    found = {}
    for way in ("definition", path):
        take(way, monkeypatch)
        for again in (False, True):
            leaf = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
            inputs = [x * (1 + leaf) for x in function.inputs.values()]
            out = value(function, inputs)
            found[way, again] = torch.autograd.grad(out, [leaf, *inputs], create_graph=again)
    for key in ((path, False), (path, True)):
        assert_same(list(found[key]), list(found["definition", False]))


@pytest.mark.parametrize("path", HAND_WRITTEN)
def test_one_tensor_in_two_places_is_counted_once_in_each(path, monkeypatch):
    take(path, monkeypatch)
    t = draw(2, 4, 5, 3).requires_grad_()
    found = [
        torch.autograd.grad(
            mobius_add_tangents(t, t, 0.3, dim=1).sin().sum(), t, create_graph=again
        )[0]
        for again in (False, True)
    ]
    # (a ⊕ a) of a tangent is twice the tangent.
    torch.testing.assert_close(found[0], 2 * (2 * t).cos(), **TOL)
    torch.testing.assert_close(found[1], 2 * (2 * t).cos(), **TOL)


def _ball() -> BallCurvature:
    return BallCurvature(0.3, learned=True)


MODULES = {
    "conv": lambda: PoincareConv2d(4, 6, 3, curvature=_ball(), init="normal"),
    "conv of groups": lambda: PoincareConv2d(4, 6, 3, curvature=_ball(), init="normal", groups=2),
    "linear without offset": lambda: nn.Sequential(
        nn.Flatten(), PoincareLinear(60, 5, curvature=_ball(), init="normal", bias=False)
    ),
    "norm": lambda: MidpointBatchNorm(4, curvature=_ball()),
    "norm in evaluation": lambda: MidpointBatchNorm(4, curvature=_ball()).eval(),
    "norm of space parts": lambda: LorentzBatchNorm(
        4, curvature=_ball(), transport="origin", scale="mean"
    ),
}


@pytest.mark.parametrize("path", HAND_WRITTEN)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MODULES)
def test_a_layer_with_a_learned_curvature_gives_one_gradient(name, layout, path, monkeypatch):
    take(path, monkeypatch)
    layer = MODULES[name]().double()
    # The running statistics move between two passes of a training norm, its output does not.
    found = []
    for again in (False, True):
        t = LAYOUTS[layout](IMAGE).detach().requires_grad_()
        out = layer(t).sin().sum()
        found.append(torch.autograd.grad(out, [t, *layer.parameters()], create_graph=again))
    assert_same(list(found[1]), list(found[0]))


@pytest.mark.parametrize("path", HAND_WRITTEN)
@pytest.mark.parametrize("name", MODULES)
def test_hessians_products_and_batches_of_covectors_are_those_of_the_definition(
    name, path, monkeypatch
):
    layer = MODULES[name]().double()
    t = IMAGE[:, :, :3]
    layer = layer if "linear" not in name else nn.Sequential(layer[0], MODULES[name]()[1].double())
    if "linear" in name:
        t = IMAGE

    def number(x: Tensor) -> Tensor:
        return layer(x).sin().sum()

    found = {}
    for way in ("definition", path):
        take(way, monkeypatch)
        x = t.clone().requires_grad_()
        out = layer(x)
        covectors = draw(3, *out.shape, seed=5)
        found[way] = [
            torch.autograd.functional.hvp(number, t, draw(*t.shape, seed=4))[1],
            torch.autograd.functional.hessian(number, t, vectorize=True),
            torch.autograd.grad(out, x, covectors, is_grads_batched=True)[0],
        ]
    assert_same(found[path], found["definition"])


@pytest.mark.parametrize("path", HAND_WRITTEN)
def test_checkpointed_layers_give_the_same_first_and_second_gradients(path, monkeypatch):
    take(path, monkeypatch)
    layer = nn.Sequential(MODULES["conv"](), MidpointBatchNorm(6, curvature=_ball())).double()
    found = []
    for run in (layer, lambda x: checkpoint(layer, x, use_reentrant=False)):
        t = IMAGE.clone().requires_grad_()
        inputs = [t, *layer.parameters()]
        first = torch.autograd.grad(run(t).sin().sum(), inputs, create_graph=True)
        again = torch.autograd.grad(
            curl(list(first)), inputs, allow_unused=True, materialize_grads=True
        )
        found.append([*first, *again])
    assert_same(found[1], found[0])
