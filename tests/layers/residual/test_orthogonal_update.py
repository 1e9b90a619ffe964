"""The laws of the orthogonal update, in float64."""

import pytest
import torch
from archzoo.layers.fast_path import kernels_taken
from archzoo.layers.residual import Context, OrthogonalUpdate, orthogonal_update
from torch import Tensor

from .stacks import SITES, WIDTH, build, normal

EPS = torch.finfo(torch.float64).eps
TOL = {"rtol": 1e-12, "atol": 1e-12}  # some hundred roundings of float64


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return normal(*shape), normal(*shape, seed=1)


def written(x: Tensor, y: Tensor, keep: Tensor | None = None, **options) -> Tensor:
    residual = build("orthogonal", width=x.shape[options.get("channel_dim", -1)], **options)
    return residual.close(residual.write(residual.open(x), 0, y, Context(x, x, keep)))


@pytest.mark.parametrize(
    ("shape", "over"), [((2, 3, 64), -1), ((2, 8, 4, 5), 1), ((2, 8, 4, 5), (1, 2, 3))], ids=str
)
def test_what_is_added_is_orthogonal_and_the_squares_add_up(shape, over):
    x, y = pair(*shape)
    added = orthogonal_update(x, y, over=over, eps=0.0) - x
    size = (x.square().sum(over) * y.square().sum(over)).sqrt()
    # Of a sum of n products, and of the difference that gives what was added.
    assert ((x * added).sum(over).abs() <= 64 * EPS * size).all()
    total = (x + added).square().sum(over)
    torch.testing.assert_close(total, x.square().sum(over) + added.square().sum(over), **TOL)


def test_epsilon_leaves_the_share_of_the_product_that_it_says():
    x, y = pair(4, 16)
    added = orthogonal_update(x, y, eps=0.5) - x
    square, product = x.square().sum(-1), (x * y).sum(-1)
    torch.testing.assert_close((x * added).sum(-1), product * 0.5 / (square + 0.5), **TOL)


def test_a_branch_along_the_stream_is_left_out_and_one_across_it_is_added_whole():
    x, y = pair(4, 16)
    torch.testing.assert_close(orthogonal_update(x, -3.0 * x, eps=0.0), x, **TOL)
    across = orthogonal_update(x, y, eps=0.0) - x
    torch.testing.assert_close(orthogonal_update(x, across, eps=0.0), x + across, **TOL)


@pytest.mark.parametrize("length", [0.0, 1e-200, 1e-30])
def test_at_zero_the_branch_is_added_whole_and_gradients_are_finite(length):
    x, y = (length * normal(3, WIDTH)).requires_grad_(), normal(3, WIDTH, seed=1).requires_grad_()
    out = written(x, y)
    torch.testing.assert_close(out, x + y, **TOL)
    to_x, to_y = torch.autograd.grad(out.square().sum(), (x, y))
    assert to_x.isfinite().all()
    torch.testing.assert_close(to_y, 2 * out, **TOL)


@pytest.mark.parametrize("over", ["features", "sample"])
def test_the_gradient_goes_through_the_projection(over):
    x, y = (t.requires_grad_() for t in pair(2, 3, 2, 2))

    def write(x, y):
        return written(x, y, channel_dim=1, over=over, eps=0.1)

    assert torch.autograd.gradcheck(write, (x, y))
    assert torch.autograd.gradgradcheck(write, (x, y))


def test_its_constants_are_those_that_the_page_tells():
    for scale in (1e-6, 1e-3, 1.0, 1e3):
        x, y, eps = scale * normal(6), normal(6, seed=1), 1e-6
        to_x, to_y = torch.autograd.functional.jacobian(
            lambda x, y: orthogonal_update(x, y, eps=1e-6), (x, y)
        )
        assert torch.linalg.matrix_norm(to_y, 2) <= 1 + 1e-12
        assert torch.linalg.matrix_norm(to_x, 2) <= 1 + y.norm() / eps**0.5
    # At |x| = √ε, along y, the second is no smaller than half of what is added to 1.
    x = y / y.norm() * eps**0.5
    to_x = torch.autograd.functional.jacobian(lambda x: orthogonal_update(x, y, eps=eps), x)
    assert torch.linalg.matrix_norm(to_x, 2) >= 0.5 * y.norm() / eps**0.5 - 1


def test_the_kernel_of_tokens_gives_what_the_definition_gives():
    x, y = (t.requires_grad_() for t in pair(2, 3, 16))
    with kernels_taken() as taken:
        found = written(x, y, eps=0.3)
    if not taken:
        pytest.skip("no compiler")
    expected = orthogonal_update(x, y, eps=0.3)
    torch.testing.assert_close(found, expected, **TOL)
    probe = normal(2, 3, 16, seed=2)
    pairs = [torch.autograd.grad((out * probe).sum(), (x, y)) for out in (found, expected)]
    torch.testing.assert_close(*pairs, **TOL)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_float32(dtype):
    # In float16 ⟨x, x⟩ is infinite, and in bfloat16 a sum of many small products stands still.
    x, y = (300 * t.to(dtype) for t in pair(2, 4096))
    expected = orthogonal_update(x.double(), y.double())
    found = written(x, y)
    assert found.dtype == dtype
    eps = torch.finfo(dtype).eps
    size = x.double().abs() + y.double().abs()
    assert ((found.double() - expected).abs() <= 2 * eps * size).all()


def test_all_of_a_sample_is_one_vector_in_any_layout():
    x, y = pair(2, 3, 4, 5)
    expected = orthogonal_update(x.flatten(1), y.flatten(1)).view(x.shape)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = (t.contiguous(memory_format=layout) for t in (x, y))
        found = written(*given, channel_dim=1, over="sample")
        torch.testing.assert_close(found, expected, **TOL)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 4, 5)], ids=str)
@pytest.mark.parametrize("over", ["features", "sample"])
def test_a_sample_has_any_number_of_axes_and_no_sample_sees_another(shape, over):
    x, y = pair(*shape)
    found = written(x, y, channel_dim=1, over=over)
    flat = (t.flatten(1) if over == "sample" else t.movedim(1, -1) for t in (x, y))
    expected = orthogonal_update(*flat)
    expected = expected.view(shape) if over == "sample" else expected.movedim(-1, 1)
    torch.testing.assert_close(found, expected, **TOL)
    alone = written(x[:1], y[:1], channel_dim=1, over=over)
    torch.testing.assert_close(found[:1], alone, **TOL)


def test_where_the_square_overflows_the_branch_is_added_whole_as_the_page_tells():
    x, y = torch.full((1, WIDTH), 1e20), torch.full((1, WIDTH), 1e14)
    for write in (orthogonal_update, written):
        assert torch.equal(write(x, y), x + y) and not torch.equal(x + y, x)
        assert torch.equal(write(x * 1e-2, y), x * 1e-2)
        assert write(x, x).isnan().all()


def test_a_dropped_branch_leaves_the_stream():
    x, y = pair(2, 3, WIDTH)
    keep = torch.tensor([0.0, 2.0]).double().view(2, 1, 1)
    found = written(x, y, keep)
    torch.testing.assert_close(found[0], x[0], rtol=0.0, atol=0.0)
    torch.testing.assert_close(found[1], orthogonal_update(x, 2.0 * y)[1], **TOL)


def test_a_bad_choice_is_refused_by_name():
    with pytest.raises(ValueError, match="over must be 'features' or 'sample', got 'token'"):
        OrthogonalUpdate(WIDTH, SITES, over="token")  # pyright: ignore
    with pytest.raises(ValueError, match="among tokens one would see later ones, and of a"):
        OrthogonalUpdate(WIDTH, SITES, over="sample")
    for eps in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"eps must be positive and finite, got {eps}"):
            build("orthogonal", eps=eps)
