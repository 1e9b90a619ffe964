"""What a residual is given in error is refused by name, with kernels and without."""

import pytest
import torch
from archzoo.layers._kernels import load_kernels
from archzoo.layers.residual import Context, delta_write
from archzoo.layers.residual.delta.write import compress, delta_write_definition
from archzoo.zoo.axes.residuals import residuals

from .stacks import SITES, WIDTH, build, normal, trained

NAMES = residuals.names()
SHAPES = {-1: (2, 3, WIDTH), 1: (2, WIDTH, 4, 3)}
KERNELS = [False, *([True] if load_kernels("attnres") and load_kernels("delta") else [])]

every = pytest.mark.parametrize("name", NAMES)
both = pytest.mark.parametrize("channel_dim", [-1, 1])


@pytest.fixture(params=KERNELS, ids=lambda on: "kernels" if on else "plain")
def kernels(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr("archzoo.layers.fast_path.load_kernels", lambda family: False)
    return request.param


def begun(name: str, channel_dim: int):
    """Return a residual, its state after one write, and a read."""
    residual = trained(build(name, channel_dim=channel_dim))
    shape = SHAPES[channel_dim]
    state = residual.open(normal(*shape))
    h = residual.read(state, 0)
    state = residual.write(state, 0, normal(*shape, seed=1), Context(h, h))
    return residual, state, residual.read(state, 1)


def wrong_shapes(channel_dim: int) -> dict[str, tuple[int, ...]]:
    """Return shapes that would broadcast, that hold the right count, and that fit nothing."""
    shape = SHAPES[channel_dim]
    wide = list(shape)
    wide[channel_dim] += 2
    thin = list(shape)
    thin[channel_dim] = 1
    return {
        "one sample": (1, *shape[1:]),
        "one row": (WIDTH,),
        "one number": (),
        "no batch": shape[1:],
        "another axis": (1, *shape),
        "reversed": shape[::-1],
        "flat": (shape[0], shape[1] * shape[2], *shape[3:]),
        "wider": tuple(wide),
        "one channel": tuple(thin),
        "nothing": (0, *shape[1:]),
        "one token": (*shape[:-2], 1, shape[-1]),
    }


@pytest.mark.parametrize("kind", wrong_shapes(-1))
@both
@every
def test_a_branch_output_of_another_shape_is_refused(name, channel_dim, kind, kernels):
    residual, state, h = begun(name, channel_dim)
    shape, stream = wrong_shapes(channel_dim)[kind], SHAPES[channel_dim]
    with pytest.raises(ValueError) as refused:
        residual.write(state, 1, normal(*shape), Context(h, h))
    assert str(refused.value) == f"y has shape {shape}, expected that of the stream, {stream}"


@pytest.mark.parametrize("width", [0, 1, WIDTH - 1, WIDTH + 1, 2 * WIDTH])
@both
@every
def test_a_stream_of_another_width_is_refused(name, channel_dim, width, kernels):
    residual = build(name, channel_dim=channel_dim)
    shape = list(SHAPES[channel_dim])
    shape[channel_dim] = width
    said = rf"x has shape \({', '.join(map(str, shape))}\), expected width {WIDTH}"
    x = normal(*shape)
    with pytest.raises(ValueError, match=said):
        residual.read(residual.open(x), 0)
    if not residual.keeps_only_the_stream and residual.norm_position == "pre":
        with pytest.raises(ValueError, match=said):
            residual.close(residual.open(x))
    with pytest.raises(ValueError, match=said):
        residual.write(residual.open(x), 0, x, Context(x, x))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
@every
def test_what_holds_no_real_numbers_is_refused(name, dtype, kernels):
    residual, state, h = begun(name, -1)
    x = torch.ones(SHAPES[-1], dtype=dtype)
    with pytest.raises(ValueError, match=f"y must hold real floating-point numbers, got {dtype}"):
        residual.write(state, 1, x, Context(h, h))
    with pytest.raises(ValueError, match=f"x must hold real floating-point numbers, got {dtype}"):
        residual.open(x)


@pytest.mark.parametrize("shape", [(), (3, 4)])
@every
def test_a_stream_needs_its_axes(name, shape):
    dim = 1 if shape else -1
    if shape:
        assert build(name, channel_dim=dim).open(normal(3, WIDTH))
        shape = (3,)
    with pytest.raises(ValueError, match="x needs at least . axes, got shape"):
        build(name, channel_dim=dim).open(normal(*shape))


@pytest.mark.parametrize("shape", [(2,), (2, 3, WIDTH), (3, 1, 1), (2, 1), (1, 2, 1, 1)])
@every
def test_a_keep_mask_is_one_number_for_each_sample(name, shape):
    residual, state, h = begun(name, -1)
    with pytest.raises(ValueError, match=r"context.keep has shape .*, expected \(2, 1, 1\)"):
        residual.write(state, 1, normal(*SHAPES[-1]), Context(h, h, torch.ones(shape).double()))


@pytest.mark.parametrize("name", ["delta", "delta_cc"])
def test_a_context_that_is_looked_at_has_the_shape_of_the_stream(name, kernels):
    residual, state, h = begun(name, -1)
    y = normal(*SHAPES[-1])
    for context in (Context(h[:1], h), Context(h, h[:1]), Context(h, h[0, 0])):
        with pytest.raises(ValueError, match=r"context\.(read|normed) has shape"):
            residual.write(state, 1, y, context)


@every
def test_an_empty_batch_passes(name, kernels):
    residual = trained(build(name))
    x = normal(0, 3, WIDTH).requires_grad_()
    state = residual.open(x)
    for site in range(len(SITES)):
        h = residual.read(state, site)
        seen = h if isinstance(h, torch.Tensor) else next(iter(h.values()))
        state = residual.write(state, site, seen.sin(), Context(h, seen))
    out = residual.close(state)
    assert out.shape == x.shape
    out.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in residual.parameters())


# The pure functions broadcast as their definitions do, with kernels and without.


@pytest.mark.parametrize(
    ("branch", "beta", "value"),
    [
        ((1, 3, 4), (2, 3, 1), (2, 3, 2)),
        ((4,), (2, 3, 1), (2, 3, 2)),
        ((2, 3, 4), (1,), (2, 3, 2)),
        ((2, 3, 4), (2, 1, 1), (1, 3, 2)),
        ((2, 3, 4), (2, 3, 1), (2, 3, 1)),
        ((2, 3, 4), (), (2,)),
    ],
)
def test_a_delta_write_broadcasts_as_its_definition(branch, beta, value, kernels):
    given = [normal(*shape, seed=i) for i, shape in enumerate([(2, 3, 2, 4), branch, beta, value])]
    if not beta:
        given[2] = given[2].view(1)
    torch.testing.assert_close(delta_write(*given), delta_write_definition(*given))


@pytest.mark.parametrize("weight", [(1, 4), (2, 1), (1, 1), (4,)])
def test_a_compression_broadcasts_as_its_definition(weight, kernels):
    state, w = normal(3, 2, 4), normal(*weight, seed=1)
    torch.testing.assert_close(compress(state, w), (state * w).sum(-2))


@pytest.mark.parametrize("which", range(4))
def test_a_negated_view_is_read_as_what_it_shows(which, kernels):
    given = [normal(3, 2, 4), normal(3, 4), normal(3, 1).sigmoid(), normal(3, 2)]
    shown = [*given]
    x = given[which]
    shown[which] = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert shown[which].is_neg()
    torch.testing.assert_close(delta_write(*shown), delta_write_definition(*given))
