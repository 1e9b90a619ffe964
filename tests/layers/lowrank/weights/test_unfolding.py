"""Kernels as matrices: every unfolding is exact, and counts what it costs."""

import itertools

import pytest
import torch
from archzoo.layers.lowrank.weights.stride_padding import Movement
from archzoo.layers.lowrank.weights.unfolding import SCHEMES, Unfolding
from torch import Tensor, nn
from torch.nn import functional as F

# Sums of some 50 products of normals in float64, in another order.
TOL = {"rtol": 0.0, "atol": 1e-12}

GEOMETRIES = [
    {"stride": 1, "padding": 0, "dilation": 1},
    {"stride": 2, "padding": 1, "dilation": 1},
    {"stride": (1, 2), "padding": (0, 2), "dilation": (2, 1)},
    {"stride": (3, 1), "padding": (2, 1), "dilation": (1, 2)},
    {"stride": 1, "padding": "same", "dilation": (1, 2)},
    {"stride": (2, 1), "padding": "valid", "dilation": 1},
]
KERNELS = [(3, 3), (1, 1), (3, 2), (1, 4)]
MODES = ["zeros", "reflect", "replicate", "circular"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def full_rank(unfolding: Unfolding, kernel: Tensor) -> tuple[Tensor, Tensor]:
    left, values, right = torch.linalg.svd(unfolding.to_matrix(kernel), full_matrices=False)
    return left * values[..., None, :], right


def factors(unfolding: Unfolding, rank: int) -> tuple[Tensor, Tensor]:
    *batch, rows, columns = unfolding.matrix_shape
    return draw(*batch, rows, rank), draw(*batch, rank, columns, seed=1)


def dense(x: Tensor, kernel: Tensor, bias: Tensor | None, groups: int, **options) -> Tensor:
    """Return what `nn.Conv2d` gives."""
    filters, inputs, *sides = kernel.shape
    conv = nn.Conv2d(
        inputs * groups, filters, tuple(sides), groups=groups, bias=bias is not None, **options
    ).double()
    with torch.no_grad():
        conv.weight.copy_(kernel)
        if bias is not None and conv.bias is not None:
            conv.bias.copy_(bias)
    return conv(x)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("sides", KERNELS, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_factors_of_full_rank_give_the_outputs_of_the_kernel(scheme, sides, groups):
    kernel, bias, x = draw(4, 3, *sides), draw(4, seed=1), draw(2, 3 * groups, 7, 6, seed=2)
    unfolding = Unfolding(scheme, (4, 3, *sides), groups)
    left, right = full_rank(unfolding, kernel)
    assert left.shape[-1] == unfolding.max_rank
    for geometry, mode, offset in itertools.product(GEOMETRIES, MODES, (None, bias)):
        options = {**geometry, "padding_mode": mode}
        expected = dense(x, kernel, offset, groups, **options)
        found = unfolding.convolve(x, left, right, offset, **options)
        torch.testing.assert_close(found, expected, **TOL)
        whole = Movement.of(sides, **options).convolve(x, kernel, offset, groups)
        torch.testing.assert_close(whole, expected, **TOL)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("rank", [0, 1, 2, 5])
def test_any_product_convolves_as_the_kernel_it_unfolds(scheme, groups, rank):
    unfolding = Unfolding(scheme, (4, 2, 3, 2), groups)
    left, right = factors(unfolding, rank)
    kernel, x, bias = unfolding.to_kernel(left @ right), draw(2, 2 * groups, 5, 6), draw(4)
    options = {"stride": 2, "padding": 1}
    expected = dense(x, kernel, bias, groups, **options)
    torch.testing.assert_close(unfolding.convolve(x, left, right, bias, **options), expected, **TOL)
    single = unfolding.convolve(x[0], left, right, bias, **options)
    torch.testing.assert_close(single, expected[0], **TOL)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_gradients_are_those_through_the_kernel(scheme):
    unfolding = Unfolding(scheme, (4, 2, 3, 2), 2)
    inputs = [draw(2, 4, 5, 6), *factors(unfolding, 2), draw(4)]
    inputs = [t.requires_grad_() for t in inputs]
    x, left, right, bias = inputs
    options = {"stride": (1, 2), "padding": 1}
    kernel = unfolding.to_kernel(left @ right)
    expected = F.conv2d(x, kernel, bias, groups=2, **options)
    found = unfolding.convolve(x, left, right, bias, **options)
    cotangent = draw(*expected.shape, seed=4)
    for one, other in zip(
        torch.autograd.grad((found * cotangent).sum(), inputs),
        torch.autograd.grad((expected * cotangent).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0.0, atol=1e-11)  # sums of 100 products


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_rank_zero_is_the_bias_and_gives_every_input_a_gradient_of_zero(scheme, with_bias):
    unfolding = Unfolding(scheme, (4, 3, 3, 3))
    left, right = factors(unfolding, 0)
    inputs = [t.requires_grad_() for t in (draw(2, 3, 7, 6), left, right)]
    bias = draw(4) if with_bias else None
    y = unfolding.convolve(*inputs, bias, stride=(2, 1), padding=(1, 0))
    expected = torch.zeros(2, 4, 4, 4, dtype=torch.float64)
    if bias is not None:
        expected = expected + bias.view(-1, 1, 1)
    assert torch.equal(y, expected)
    for tensor, gradient in zip(inputs, torch.autograd.grad(y.sum(), inputs), strict=True):
        assert torch.equal(gradient, torch.zeros_like(tensor))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_matrix_and_kernel_are_inverse_and_keep_the_norm(scheme, groups):
    unfolding, kernel = Unfolding(scheme, (4, 3, 2, 5), groups), draw(4, 3, 2, 5)
    matrix = unfolding.to_matrix(kernel)
    assert matrix.shape == unfolding.matrix_shape
    assert torch.equal(unfolding.to_kernel(matrix), kernel)
    torch.testing.assert_close(matrix.norm(), kernel.norm())


def test_one_group_has_one_matrix_and_a_filter_of_the_depthwise_scheme_its_own():
    shape = (8, 6, 3, 2)
    assert Unfolding("channel", shape).matrix_shape == (8, 36)
    assert Unfolding("spatial", shape).matrix_shape == (18, 16)
    assert Unfolding("input", shape).matrix_shape == (6, 48)
    assert Unfolding("depthwise", shape).matrix_shape == (8, 6, 6)
    assert Unfolding("channel", shape, 2).matrix_shape == (2, 4, 36)
    assert Unfolding("spatial", shape, 2).matrix_shape == (2, 18, 8)
    assert Unfolding("depthwise", shape, 2).matrix_shape == (8, 6, 6)


def test_the_channel_matrix_acts_on_patches():
    unfolding, kernel, x = Unfolding("channel", (4, 3, 3, 3)), draw(4, 3, 3, 3), draw(2, 3, 5, 5)
    found = unfolding.to_matrix(kernel) @ F.unfold(x, 3)
    torch.testing.assert_close(found, F.conv2d(x, kernel).flatten(2), **TOL)


def test_what_stands_between_sees_the_rank_channels():
    unfolding = Unfolding("channel", (4, 3, 3, 3))
    left, right = factors(unfolding, 2)
    x = draw(2, 3, 5, 5)
    first, second = unfolding.kernels(left, right)
    expected = F.conv2d(F.silu(F.conv2d(x, first, padding=1)), second)
    found = unfolding.convolve(x, left, right, padding=1, between=F.silu)
    torch.testing.assert_close(found, expected, **TOL)
    assert not torch.allclose(found, unfolding.convolve(x, left, right, padding=1))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_parameters_and_macs_are_those_of_the_convolutions_that_run(scheme, groups, geometry):
    unfolding = Unfolding(scheme, (4, 3, 3, 2), groups)
    left, right = factors(unfolding, 2)
    kernels, counted = unfolding.kernels(left, right), []

    def count(hidden: Tensor) -> Tensor:
        counted.append(hidden[0, 0].numel() * kernels[0].numel())
        return hidden

    y = unfolding.convolve(draw(1, 3 * groups, 9, 8), left, right, between=count, **geometry)
    counted.append(y[0, 0].numel() * kernels[1].numel())
    assert (
        unfolding.parameters(2) == sum(k.numel() for k in kernels) == (left.numel() + right.numel())
    )
    assert unfolding.macs(2, (9, 8), **geometry) == sum(counted)
    assert unfolding.macs(None, (9, 8), **geometry) == y[0, 0].numel() * 4 * 3 * 3 * 2
    assert unfolding.macs(0, (9, 8), **geometry) == unfolding.parameters(0) == 0


# Numbers of the published layers: a 3×3 convolution of ResNets and a bottleneck's expansion.
@pytest.mark.parametrize(
    ("scheme", "shape", "break_even", "max_rank"),
    [
        ("channel", (64, 64, 3, 3), 57.6, 64),
        ("spatial", (64, 64, 3, 3), 96.0, 192),
        ("channel", (512, 512, 3, 3), 460.8, 512),
        ("channel", (256, 64, 1, 1), 51.2, 64),
    ],
)
def test_factors_are_smaller_below_the_break_even_rank_only(scheme, shape, break_even, max_rank):
    unfolding = Unfolding(scheme, shape)
    assert unfolding.break_even == pytest.approx(break_even, rel=1e-15)
    assert unfolding.max_rank == max_rank
    whole = torch.Size(shape).numel()
    for rank in (int(break_even), int(break_even) + 1):
        assert (unfolding.parameters(rank) < whole) == (rank < break_even)


def test_a_horizontal_stride_leaves_the_first_convolution_of_the_spatial_scheme_wide():
    unfolding = Unfolding("spatial", (8, 8, 3, 3))
    macs = unfolding.macs(4, (16, 16), stride=2, padding=1)
    assert macs == 4 * 8 * 3 * (8 * 16 + 8 * 8)
    assert macs > unfolding.parameters(4) * 8 * 8


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_two_plain_layers_with_the_kernels_and_movements_are_the_same_map(scheme, groups, geometry):
    unfolding = Unfolding(scheme, (4, 3, 3, 5), groups)
    left, right = factors(unfolding, 2)
    x, options = draw(2, 3 * groups, 9, 11), {**geometry, "padding_mode": "circular"}
    y = x
    for kernel, movement, group in zip(
        unfolding.kernels(left, right),
        unfolding.movements(**options),
        (groups, unfolding.second_groups),
        strict=True,
    ):
        y = dense(y, kernel, None, group, **movement.arguments())
    torch.testing.assert_close(y, unfolding.convolve(x, left, right, **options), **TOL)


def test_padding_by_name_and_by_size_is_that_of_torch():
    even = Movement.of((4, 3), 1, "same", (1, 2))
    assert even.margins == ((1, 2), (2, 2))
    assert even.output_size((9, 8), (4, 3)) == (9, 8)
    assert Movement.of((4, 3), 2, "valid", 1).margins == ((0, 0), (0, 0))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch, of its copy
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("mode", MODES)
def test_an_even_kernel_has_its_odd_margin_where_torch_puts_it(scheme, mode):
    kernel, x = draw(4, 3, 2, 4), draw(2, 3, 5, 5)
    unfolding = Unfolding(scheme, (4, 3, 2, 4))
    options = {"padding": "same", "padding_mode": mode}
    expected = dense(x, kernel, None, 1, **options)
    found = unfolding.convolve(x, *full_rank(unfolding, kernel), **options)
    torch.testing.assert_close(found, expected, **TOL)


BAD = {
    "scheme must be one of": lambda: Unfolding("rows", (4, 3, 3, 3)),  # type: ignore[arg-type]
    r"kernel_shape must be four sizes \(o, i, h, w\), got \(4, 3\)": (
        lambda: Unfolding("channel", (4, 3))  # type: ignore[arg-type]
    ),
    "groups must divide the 4 filters, got 3": lambda: Unfolding("channel", (4, 3, 3, 3), 3),
    r"kernel has shape \(4, 3, 3\)": lambda: Unfolding("channel", (4, 3, 3, 3)).to_matrix(
        draw(4, 3, 3)
    ),
    r"matrix has shape \(27, 4\), this unfolding takes \(4, 27\)": lambda: Unfolding(
        "channel", (4, 3, 3, 3)
    ).to_kernel(draw(27, 4)),
    "are not factors of a matrix": lambda: Unfolding("channel", (4, 3, 3, 3)).convolve(
        draw(1, 3, 5, 5), draw(4, 2), draw(3, 27)
    ),
    "rank must be at least 0, got -1": lambda: Unfolding("input", (4, 3, 3, 3)).parameters(-1),
    r"padding='same' needs stride 1, got \(2, 2\)": lambda: Unfolding("channel", (4, 3, 3, 3)).macs(
        1, (8, 8), stride=2, padding="same"
    ),
    r"an even kernel has the margins \(\(1, 2\), \(1, 1\)\)": lambda: Movement.of(
        (4, 3), 1, "same", 1
    ).arguments(),
    "padding must be 'same', 'valid' or sizes, got 'full'": lambda: Movement.of(
        (3, 3), 1, "full", 1
    ),
}


@pytest.mark.parametrize(("message", "call"), BAD.items())
def test_bad_arguments_are_refused_by_name(message, call):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.compiles
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("rank", [0, 2])
def test_the_two_convolutions_trace_as_one_graph(scheme, rank):
    unfolding = Unfolding(scheme, (4, 3, 3, 2))
    left, right = factors(unfolding, rank)
    x = draw(2, 3, 5, 6).to(memory_format=torch.channels_last)

    def convolve(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return unfolding.convolve(x, left, right, padding=1, padding_mode="reflect")

    traced = torch.compile(convolve, fullgraph=True, backend="eager")
    torch.testing.assert_close(traced(x, left, right), convolve(x, left, right), **TOL)
