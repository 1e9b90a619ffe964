"""What every residual mechanism of the registry promises to every backbone.

Laws without an option are in `laws`, formulas in `test_formulas`.
"""

import functools

import pytest
import torch
from archzoo.layers.residual import Add, Context, Residual, Scaled, Site
from archzoo.zoo.axes.residuals import residuals
from torch.func import functional_call

from ...tiers import tiered
from .laws import LAWS
from .laws.sources import reads_and_the_close_see_every_source_if_it_says_so_and_only_then
from .laws.verbs import it_starts_equal_to_add_if_it_says_so_and_only_then
from .stacks import SITES, WIDTH, branch_weights, build, fill, normal, stack, trained

NAMES = residuals.names()
ADDITIVE = [name for name in NAMES if isinstance(build(name), (Add, Scaled))]
# Options that change what a mechanism does, beside its defaults.
VARIANTS = [(name, {}) for name in NAMES] + [
    *[("block_attnres", {"block_size": size}) for size in (1, 2, 3, 5, 6, 100)],
    ("block_attnres", {"key_gain": False}),
    ("attnres", {"key_gain": False}),
    ("scaled", {"exponent": 0.0}),
    ("scaled", {"learned": True, "per_channel": True}),
    ("skip_init", {"coefficient": 1.0}),
    ("layer_scale", {"initial": 1.0}),
    # Sources that are left out, and the largest size that leaves none out.
    *[("attnres", {"window": size}) for size in (1, 5, 6)],
    *[("block_attnres", {"block_size": 2, "window": size}) for size in (2, 3)],
    ("block_attnres", {"block_size": 2, "window": 1, "additive": True}),
    *[("gyro_attnres", {"window": size}) for size in (5, 6)],
    *[("dca", {"keep": size}) for size in (1, 2)],
    *[("parallel", {"group": size}) for size in (1, 6)],
    ("elc_bert", {"flavour": "weighted_output"}),
    ("depth_swa", {"window": 1}),
]
# Laws that a mechanism's own answers are part of.
OF_OPTIONS = [
    it_starts_equal_to_add_if_it_says_so_and_only_then,
    reads_and_the_close_see_every_source_if_it_says_so_and_only_then,
]
EQUAL = [
    (name, options) for name, options in VARIANTS if build(name, **options).equals_prenorm_at_init
]
DIFFERENT = [name for name in NAMES if not build(name).equals_prenorm_at_init]

every = pytest.mark.parametrize("name", NAMES)
BITWISE = {"rtol": 0.0, "atol": 0.0}
TOL = {"rtol": 0.0, "atol": 1e-12}  # some thousand roundings of float64 at unit scale


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@every
def test_a_mechanism_keeps_the_law(name, law):
    law(functools.partial(build, name))


@pytest.mark.parametrize("law", OF_OPTIONS, ids=lambda law: law.__name__)
@pytest.mark.parametrize(("name", "options"), VARIANTS[len(NAMES) :], ids=str)
def test_a_mechanism_with_options_keeps_the_law(name, options, law):
    law(functools.partial(build, name, **options))


def test_both_kinds_of_mechanism_are_known():
    assert {"add", "attnres", "block_attnres"} <= {name for name, _ in EQUAL}
    assert {"scaled", "rezero", "skip_init", "layer_scale"} <= set(DIFFERENT)


@pytest.mark.parametrize("name", ADDITIVE)
def test_zero_branches_leave_the_stream_bitwise(name):
    x = normal(2, 3, WIDTH)
    residual = trained(build(name))
    state = fill(residual, x, torch.zeros(len(SITES), 2, 3, WIDTH, dtype=torch.float64))
    torch.testing.assert_close(residual.close(state), residual.close(residual.open(x)), **BITWISE)


# In one direction of all inputs and outputs, or every derivative by itself.
@pytest.mark.parametrize("fast", tiered([True, False], [True]))
@every
def test_the_gradient_of_a_stack_is_its_gradient(name, fast):
    sites = [Site("attention", 0), Site("mlp", 0), Site("attention", 1)]
    residual = trained(build(name, sites=sites, width=3))
    names = [key for key, _ in residual.named_parameters()]

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.residual = residual

        def forward(self, x, weights):
            return stack(self.residual, x, weights)

    def function(x, weights, *parameters):
        values = {f"residual.{key}": p for key, p in zip(names, parameters, strict=True)}
        return functional_call(Whole(), values, (x, weights))

    inputs = [normal(2, 3, seed=1), branch_weights(3, 3), *residual.parameters()]
    inputs = [t.detach().requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(function, inputs, fast_mode=fast)


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize(("name", "options"), EQUAL, ids=str)
def test_a_fresh_hand_off_carries_the_plain_sum(name, options, dropped):
    x, ys = normal(2, 3, WIDTH), normal(len(SITES), 2, 3, WIDTH, seed=1)
    keep = torch.tensor([[0.0, 1.5], [1.5, 0.0], [0.0, 1.5], [0.0, 0.0], [1.5, 1.5], [0.0, 1.5]])
    keep = keep.double()[:, :, None, None] if dropped else torch.ones(6, 1, 1, 1).double()
    residual = build(name, **options)
    state = residual.handoff(fill(residual, x, ys, keep), lambda t: t @ branch_weights()[0])
    plain = (x + (ys * keep).sum(0)) @ branch_weights()[0]
    torch.testing.assert_close(residual.close(state), residual.close(residual.open(plain)), **TOL)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_autocast_does_not_narrow_the_stream(name, options, mode):
    residual = build(name, **options).float()
    x = normal(2, 3, WIDTH).float()
    with mode(), torch.autocast("cpu", torch.bfloat16):
        state = residual.open(x)
        for site, y in enumerate(normal(len(SITES), 2, 3, WIDTH, seed=1).bfloat16()):
            h = residual.read(state, site)
            views = [h] if isinstance(h, torch.Tensor) else [*h.values()]
            assert all(view.dtype == torch.float32 for view in views)
            state = residual.write(state, site, y, Context(h, h))
        assert residual.close(state).dtype == torch.float32


@pytest.mark.parametrize("wide", [[0, 1], [0, 3, 4], [2, 5], [1, 2, 3, 4]], ids=str)
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_branches_of_two_dtypes_join_one_stream(name, options, wide):
    residual = build(name, **options).float()
    x, ys = normal(2, 3, WIDTH).float(), normal(len(SITES), 2, 3, WIDTH, seed=1)
    outputs = [y.float() if site in wide else y.bfloat16() for site, y in enumerate(ys)]
    expected = residual.close(fill(residual, x, [y.float() for y in outputs]))
    for mode in (torch.enable_grad, torch.no_grad):
        with mode(), torch.autocast("cpu", torch.bfloat16):
            found = residual.close(fill(residual, x, outputs))
        # Sums of two branches, and products that autocast makes, are rounded to eight bits.
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


@every
def test_bad_sizes_are_refused_by_name(name):
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        build(name, width=0)
    with pytest.raises(ValueError, match="sites must name at least one branch, got none"):
        build(name, sites=[])
    for channel_dim in (0, 2, 3, -2):
        with pytest.raises(ValueError, match=f"channel_dim must be .*, got {channel_dim}"):
            build(name, channel_dim=channel_dim)


@every
def test_an_unknown_option_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"{name} takes no keyword 'blok_size'"):
        build(name, blok_size=2)


@every
def test_a_mechanism_is_a_residual_that_counts_its_blocks(name):
    residual = build(name)
    assert isinstance(residual, Residual)
    assert residual.sites == tuple(SITES)
    assert residual.num_blocks == 3
