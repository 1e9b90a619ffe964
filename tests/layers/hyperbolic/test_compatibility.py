"""Layers that read another ball, or other coordinates, than they are given: what can be seen."""

import itertools

import pytest
import torch
from archzoo.layers.hyperbolic import (
    BallCurvature,
    ChangeBall,
    ClipTangent,
    FromBall,
    LorentzConv2d,
    LorentzLinear,
    LorentzMLR,
    MidpointBatchNorm,
    MidpointPool,
    PoincareConv2d,
    PoincareLinear,
    PoincareMLR,
    PointActivation,
    ToBall,
    check_geometry,
    keep_one_ball,
)
from torch import nn

# What reads and what returns which coordinates, 4 wide.
READERS = {
    "linear": ("tangent", lambda c: PoincareLinear(4, 4, curvature=c)),
    "conv": ("tangent", lambda c: PoincareConv2d(4, 4, 1, curvature=c)),
    "mlr": ("tangent", lambda c: PoincareMLR(4, 4, curvature=c)),
    "norm": ("tangent", lambda c: MidpointBatchNorm(4, curvature=c)),
    "norm of velocities": (
        "velocity", lambda c: MidpointBatchNorm(4, curvature=c, input="velocity")),
    "pool": ("tangent", lambda c: MidpointPool(curvature=c)),
    "to ball": ("tangent", lambda c: ToBall(curvature=c)),
    "from ball": ("point", lambda c: FromBall(curvature=c)),
    "activation": ("point", lambda c: PointActivation(nn.ReLU(), curvature=c)),
    "change": ("tangent", lambda c: ChangeBall(c, 0.5)),
    "linear of space parts": ("space", lambda c: LorentzLinear(4, 4, curvature=c)),
    "mlr of space parts": ("space", lambda c: LorentzMLR(4, 4, curvature=c)),
}  # fmt: skip
GIVERS = {
    "linear": ("tangent", lambda c: PoincareLinear(4, 4, curvature=c)),
    "linear to velocities": (
        "velocity", lambda c: PoincareLinear(4, 4, curvature=c, output="velocity")),
    "conv to velocities": (
        "velocity", lambda c: PoincareConv2d(4, 4, 1, curvature=c, output="velocity")),
    "norm": ("tangent", lambda c: MidpointBatchNorm(4, curvature=c)),
    "to ball": ("point", lambda c: ToBall(curvature=c)),
    "from ball": ("tangent", lambda c: FromBall(curvature=c)),
    "change": ("tangent", lambda c: ChangeBall(0.5, c)),
    "conv of space parts": ("space", lambda c: LorentzConv2d(4, 4, 1, curvature=c)),
}  # fmt: skip
ARRANGEMENTS = {
    "next to each other": lambda a, b: nn.Sequential(a, b),
    "around an activation": lambda a, b: nn.Sequential(a, nn.ReLU(), nn.Dropout(0.1), b),
    "nested": lambda a, b: nn.Sequential(nn.Sequential(a, nn.Identity()), nn.Sequential(b)),
    "in a module": lambda a, b: nn.ModuleDict({"branch": nn.Sequential(a, b)}),
}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize(("giver", "reader"), list(itertools.product(GIVERS, READERS)))
def test_a_layer_reads_what_the_one_before_returns_or_is_refused(giver, reader, arrangement):
    (given, make), (read, make_next) = GIVERS[giver], READERS[reader]
    ball = BallCurvature(0.3, learned=True)
    both = ARRANGEMENTS[arrangement](make(ball), make_next(ball))
    if given == read:
        check_geometry(both)
    else:
        with pytest.raises(ValueError, match=rf"reads input='{read}', but .*output='{given}'"):
            check_geometry(both)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize(("giver", "reader"), list(itertools.product(GIVERS, READERS)))
def test_a_layer_lies_in_the_ball_of_the_one_before_or_is_refused(giver, reader, arrangement):
    (given, make), (read, make_next) = GIVERS[giver], READERS[reader]
    if given != read:
        return
    for one, two in (
        (BallCurvature(0.3), BallCurvature(0.9)),
        (BallCurvature(0.3, learned=True), BallCurvature(0.3, learned=True)),
    ):
        first, second = make(one), make_next(two)
        with pytest.raises(ValueError, match="balls?"):
            check_geometry(ARRANGEMENTS[arrangement](first, second))
        if given == "tangent":
            check_geometry(nn.Sequential(first, ChangeBall(one, two), second))


def test_flat_weights_begin_a_new_ball():
    one, two = (lambda c: PoincareLinear(4, 4, curvature=c, output="velocity")), PoincareMLR
    check_geometry(nn.Sequential(one(0.3), nn.Linear(4, 4), ClipTangent(1.0), two(4, 4)))
    check_geometry(nn.ModuleList([nn.Linear(4, 4), one(0.3), two(4, 4)]))


def test_a_module_whose_matrices_all_belong_to_balls_is_in_one_ball_whatever_calls_them():
    class Mine(nn.Module):
        """Two layers that no sequence connects."""

        def __init__(self, one, two):
            super().__init__()
            self.one = PoincareLinear(4, 4, curvature=one)
            self.two = PoincareLinear(4, 4, curvature=two)

    check_geometry(Mine(0.3, 0.3))
    with pytest.raises(ValueError, match=r"mixes balls: .*'one.curvature' and 'two.curvature'"):
        check_geometry(Mine(0.3, 0.9))


def kept(head: float = 0.3) -> nn.Module:
    """A network of two layers that own a ball each."""
    return nn.Sequential(PoincareLinear(4, 4, curvature=0.3), PoincareMLR(4, 4, curvature=head))


def test_a_network_of_one_ball_refuses_states_of_several():
    network, other = kept(), nn.Sequential(*(PoincareLinear(4, 4, curvature=0.9) for _ in "ab"))
    keep_one_ball(network)
    state, foreign = network.state_dict(), other.state_dict()
    network.load_state_dict(foreign)  # both layers at once
    assert {layer.curvature() for layer in network} == {0.9}
    network.load_state_dict(state)
    part = {k: v for k, v in foreign.items() if k.startswith("0.")}
    with pytest.raises(RuntimeError, match=r"in several: 0\.curvature\._extra_state is 0\.9"):
        network.load_state_dict(part, strict=False)
    with pytest.raises(ValueError, match="mixes balls"):
        keep_one_ball(kept(head=0.9))


def test_a_shared_ball_is_not_loaded_from_two():
    ball = BallCurvature(0.3)
    network = nn.Sequential(*(PoincareLinear(4, 4, curvature=ball) for _ in "ab"))
    keep_one_ball(network)
    state = network.state_dict()
    state["1.curvature._extra_state"] = torch.tensor(0.9, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"1\.curvature\._extra_state is 0\.9"):
        network.load_state_dict(state)
