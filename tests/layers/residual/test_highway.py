"""A highway moves the stream towards a branch, by a gate that starts nearly closed."""

import math

import pytest
import torch
from archzoo.layers.decay import decay_exclusions
from archzoo.layers.residual import Context
from archzoo.zoo import create_model, depth_mixing_matrix

from .stacks import SITES, WIDTH, build, fill, normal, trained

EXACT = {"rtol": 0.0, "atol": 1e-13}  # some ten roundings of float64 at unit scale
BITWISE = {"rtol": 0.0, "atol": 0.0}
every_gate = pytest.mark.parametrize("gate", ["channel", "scalar"])


@every_gate
def test_a_written_channel_lies_between_the_stream_and_the_branch(gate):
    residual = trained(build("highway", gate=gate))
    x, y = normal(50, WIDTH), normal(50, WIDTH, seed=1)
    (after,) = residual.write(residual.open(x), 0, y, Context(x, x))
    assert (after >= torch.minimum(x, y)).all()
    assert (after <= torch.maximum(x, y)).all()


@every_gate
@pytest.mark.parametrize("bias", [-2.0, 0.0, 1.0])
def test_a_fresh_gate_is_open_by_its_bias(gate, bias):
    residual = build("highway", gate=gate, bias=bias)
    x, y = normal(2, 3, WIDTH), normal(2, 3, WIDTH, seed=1)
    (after,) = residual.write(residual.open(x), 0, y, Context(x, x))
    t = 1 / (1 + math.exp(-bias))
    torch.testing.assert_close(after, (1 - t) * x + t * y, **EXACT)


@pytest.mark.parametrize(("bias", "open_"), [(-800.0, False), (40.0, True)])
def test_the_ends_are_the_carried_stream_and_a_plain_chain(bias, open_):
    residual = build("highway", bias=bias)
    x, ys = normal(2, WIDTH), normal(len(SITES), 2, WIDTH, seed=1)
    expected = ys[-1] if open_ else x
    torch.testing.assert_close(residual.close(fill(residual, x, ys)), expected, **EXACT)


def test_a_scalar_gate_moves_all_channels_alike():
    residual = trained(build("highway", gate="scalar"))
    x, y = normal(2, 3, WIDTH), normal(2, 3, WIDTH, seed=1)
    (after,) = residual.write(residual.open(x), 0, y, Context(x, x))
    t = (after - x) / (y - x)
    torch.testing.assert_close(t, t[..., :1].expand_as(t), rtol=1e-9, atol=1e-12)
    assert t[..., 0].std() > 0.01


@every_gate
def test_the_gate_does_not_see_the_scale_of_the_stream(gate):
    residual, x = trained(build("highway", gate=gate)), normal(2, 3, WIDTH)
    # The epsilon of 1e-6 beside a mean square of about one.
    torch.testing.assert_close(residual.gate(100 * x, 0), residual.gate(x, 0), rtol=0, atol=1e-4)


@every_gate
def test_a_dropped_branch_leaves_the_stream_bitwise(gate):
    residual = trained(build("highway", gate=gate))
    x, y = normal(2, 3, WIDTH), normal(2, 3, WIDTH, seed=1)
    keep = torch.tensor([0.0, 2.0], dtype=torch.float64).view(2, 1, 1)
    (after,) = residual.write(residual.open(x), 0, y, Context(x, x, keep))
    (whole,) = residual.write(residual.open(x), 0, y, Context(x, x))
    torch.testing.assert_close(after[0], x[0], **BITWISE)
    # The mean over masks is the undropped write.
    torch.testing.assert_close((after[1] + x[1]) / 2, whole[1], **EXACT)


def test_with_scalar_gates_a_stream_is_an_average_of_its_sources():
    model = create_model("gpt_nano", residual={"name": "highway", "gate": "scalar"}).double()
    trained(model.trunk.residual)
    g = torch.Generator().manual_seed(0)
    matrix = depth_mixing_matrix(model, torch.randint(256, (2, 12), generator=g))
    torch.testing.assert_close(matrix.sum(1), torch.ones_like(matrix[0]), **EXACT)
    assert (matrix.tril() == matrix).all() and (matrix.tril() >= 0).all()


@pytest.mark.parametrize(("gate", "rows"), [("channel", WIDTH), ("scalar", 1)])
def test_a_site_owns_one_gate(gate, rows):
    residual = build("highway", gate=gate)
    assert residual.weight.shape == (len(SITES), rows, WIDTH)
    assert residual.bias.shape == (len(SITES), rows)
    assert decay_exclusions(residual) == {"bias"}


def test_resetting_returns_to_the_start():
    residual = trained(build("highway", bias=-1.0))
    residual.reset_parameters()
    assert not residual.weight.any()
    assert residual.bias.eq(-1.0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bias": math.nan}, "bias must be finite, got nan"),
        ({"gate": "token"}, "gate must be .*'scalar'.*got 'token'"),
    ],
)
def test_a_bad_argument_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        build("highway", **options)


def test_a_bad_gate_is_refused_by_the_class_itself():
    from archzoo.layers.residual import Highway

    with pytest.raises(ValueError, match="gate must be 'channel' or 'scalar', got 'token'"):
        Highway(WIDTH, SITES, gate="token")
