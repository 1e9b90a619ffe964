"""Every mechanism computes its equation and starts where it says; both are in `formulas`."""

import functools
import itertools

import pytest
import torch
from archzoo.layers.residual import Site
from archzoo.zoo.axes.residuals import residuals

from .formulas import FORMULAS
from .formulas.starts import STARTS, Normals
from .laws.given import Make, takes
from .stacks import (
    SITES,
    WIDTH,
    branch_weights,
    build,
    layer_norm,
    normal,
    rms_norm,
    stack,
    trained,
)

DEEP = [Site(kind, block) for block in range(5) for kind in ("attention", "mlp")]
CONVS = [Site("conv", block) for block in range(4)]
M = 4


def grid(**options) -> list[dict]:
    """Every combination of some options."""
    return [
        dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())
    ]


READS = [
    {"key_gain": False},
    {"heads": 5},
    {"competition": "sigmoid"},
    {"window": 1},
    {"window": 2},
    {"input_dependent_query": True},
    {"additive": True},
    {"shared_query": True},
    {"heads": 5, "competition": "sigmoid", "window": 3, "input_dependent_query": True},
]
# Options beside the defaults, and sites beside attention and MLP in turn.
OPTIONS: dict[str, list[dict]] = {
    "scaled": [
        *grid(exponent=[0.0, 1.0], coefficient=[1.0, 2.0], count=["adds", "blocks"]),
        *grid(learned=[True], per_channel=[False, True], shared=[False, True]),
    ],
    "deepnorm": grid(alpha=[1.0, 0.3, 2.5]),
    "highway": grid(gate=["scalar"]),
    "orthogonal": grid(eps=[1e-9, 0.5]),
    "parallel": grid(group=range(1, 7), exponent=[0.0, 0.5, 1.0]),
    "mobius": [
        *grid(curvature=[1e-3, 0.3], order=["branch_first", "stream_first"]),
        *grid(curvature=[0.3], order=["branch_first", "stream_first"], coordinates=["space"]),
    ],
    "lorentz_centroid": grid(curvature=[1e-3, 0.3], coordinates=["tangent", "space"]),
    "attnres": READS,
    "block_attnres": [
        *grid(block_size=[1, 2, 3, 5, 6, 100]),
        *({"block_size": 2, **options} for options in READS),
    ],
    "gyro_attnres": [
        *grid(curvature=[0.3], window=[None, 2], shared_query=[False, True]),
        {"curvature": 0.3, "coordinates": "space"},
    ],
    "gyro_block_attnres": grid(
        curvature=[0.3], block_size=[1, 2, 3], coordinates=["tangent", "space"]
    ),
    "depth_swa": grid(mode=["add", "replace"], heads=[1, 5], window=[1, 2, 4, None]),
    "value_residual": grid(form=["identity", "sparse", "learned"], layers=[1, 2, 3]),
    "lime": grid(sites=[SITES]),
    "denseformer": grid(sites=[DEEP], dilation=[1, 2, 3, 7], period=[1, 2, 4]),
    "elc_bert": grid(
        sites=[SITES, CONVS], flavour=["base", "zero", "normalized", "weighted_output"]
    ),
    "dca": [*grid(sites=[DEEP, CONVS], keep=[1, 2, 3, 100, None])],
    "muddformer": grid(sites=[DEEP, CONVS]),
    "hyper_connections": grid(streams=[1, 2, 4, 5], dynamic=[False, True]),
    "mhc": grid(streams=[1, 2, 3, 4], sinkhorn_steps=[1, 20]),
    "mhc_lite": grid(streams=[1, 2, 3]),
    "delta": [
        {"value_channels": M},
        {"value_channels": M, "compress": "tokens", "expand": "convolution"},
        *grid(parameterisation=["repo", "v1"], gate_hidden=[None, 3]),
        *grid(mode=["write_only", "erase_only"], frozen_beta=[0.3]),
    ],
}
OURS = [n for n in residuals.names() if residuals[n].build.__module__.startswith("archzoo.")]
CASES = [(name, options) for name in OURS for options in [{}, *OPTIONS.get(name, [])]]


def a_stack_is_the_formula(make: Make, name: str, options: dict) -> None:
    """Compare a mechanism, whatever it is called, with the formula of a name."""
    options = {key: value for key, value in options.items() if key != "sites"}
    residual = trained(make())
    x, weights = normal(2, 3, WIDTH), branch_weights(len(residual.sites))
    norm = layer_norm if residual.norm_position == "post" else rms_norm
    # Points of a ball lose up to seven digits to its boundary, sums some thousand roundings.
    tol = 1e-8 if takes(make, "curvature") else 1e-11
    expected = FORMULAS[name](residual, x, weights, **options)
    torch.testing.assert_close(stack(residual, x, weights, norm), expected, rtol=tol, atol=tol)


def a_fresh_parameter_is_where_it_starts(make: Make, name: str) -> None:
    """Compare a mechanism, whatever it is called, with the starts of a name."""
    starts = STARTS.get(name, {})
    parameters = dict(make().named_parameters())
    assert parameters.keys() == starts.keys()
    for key, parameter in parameters.items():
        start, found = starts[key], parameter.detach()
        if isinstance(start, Normals):
            deviation = found.square().mean().sqrt().item()
            # Five standard errors.
            assert deviation == pytest.approx(start.std, rel=5 * (2 * found.numel()) ** -0.5), key
        else:
            expected = torch.as_tensor(start, dtype=torch.float64).expand_as(found)
            # Values are set in float32.
            torch.testing.assert_close(found, expected, rtol=1e-7, atol=0.0)


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_a_stack_is_the_formula(name, options):
    a_stack_is_the_formula(functools.partial(build, name, **options), name, options)


@pytest.mark.parametrize("name", OURS)
def test_a_fresh_parameter_is_where_it_starts(name):
    a_fresh_parameter_is_where_it_starts(functools.partial(build, name), name)


def test_every_mechanism_has_its_formula():
    assert FORMULAS.keys() == {*OURS}, "write it in tests/layers/residual/formulas"
