"""What every residual mechanism of the registry promises to every backbone."""

import pytest
import torch
from archzoo.layers.residual import Add, Context, Residual, Scaled, Site
from archzoo.zoo.axes.residuals import residuals
from torch.func import functional_call

from .stacks import (
    SITES,
    WIDTH,
    branch_weights,
    build,
    fill,
    layer_norm,
    normal,
    rms_norm,
    stack,
    states,
    tensors,
    trained,
)

NAMES = residuals.names()
ADDITIVE = [name for name in NAMES if isinstance(build(name), (Add, Scaled))]
LEARNED = [name for name in NAMES if any(True for _ in build(name).parameters())]
# Options that change what a mechanism does, beside its defaults.
VARIANTS = [(name, {}) for name in NAMES] + [
    *[("block_attnres", {"block_size": size}) for size in (1, 2, 3, 5, 6, 100)],
    ("block_attnres", {"key_gain": False}),
    ("attnres", {"key_gain": False}),
    ("scaled", {"exponent": 0.0}),
    ("scaled", {"learned": True, "per_channel": True}),
    ("skip_init", {"coefficient": 1.0}),
    ("layer_scale", {"initial": 1.0}),
]
# Mechanisms say "no" of their defaults; an option may make them plain, so only "yes" is for all.
EQUAL = [(name, options) for name, options in VARIANTS if build(name).equals_prenorm_at_init]
DIFFERENT = [name for name in NAMES if not build(name).equals_prenorm_at_init]

every = pytest.mark.parametrize("name", NAMES)
BITWISE = {"rtol": 0.0, "atol": 0.0}
TOL = {"rtol": 0.0, "atol": 1e-12}  # some thousand roundings of float64 at unit scale


def network(residual, x, parts, norm):
    """Return logits and the gradients of everything but the mechanism's own parameters."""
    embed, weights, head = (part.clone().requires_grad_() for part in parts)
    logits = norm(stack(residual, x @ embed, weights, norm)) @ head
    gradients = torch.autograd.grad(
        (logits * normal(*logits.shape, seed=9)).sum(), [embed, weights, head]
    )
    return logits.detach(), gradients


def plain_and(name, options, norm):
    x = normal(2, 3, 4, seed=2)
    parts = normal(4, WIDTH, seed=3), branch_weights(), normal(WIDTH, 6, seed=4)
    return network(build("add"), x, parts, norm), network(build(name, **options), x, parts, norm)


@pytest.mark.parametrize("norm", [rms_norm, layer_norm])
@pytest.mark.parametrize(("name", "options"), EQUAL, ids=str)
def test_a_mechanism_that_says_so_starts_equal_to_add(name, options, norm):
    (logits, gradients), (ours, our_gradients) = plain_and(name, options, norm)
    torch.testing.assert_close(ours, logits, **TOL)
    for gradient, our_gradient in zip(gradients, our_gradients, strict=True):
        torch.testing.assert_close(our_gradient, gradient, **TOL)


@pytest.mark.parametrize("norm", [rms_norm, layer_norm])
@pytest.mark.parametrize("name", DIFFERENT)
def test_a_mechanism_that_does_not_say_so_starts_apart_from_add(name, norm):
    (logits, _), (ours, _) = plain_and(name, {}, norm)
    assert (ours - logits).abs().max() > 1e-3


def test_both_kinds_of_mechanism_are_known():
    assert {"add", "attnres", "block_attnres"} <= {name for name, _ in EQUAL}
    assert {"scaled", "rezero", "skip_init", "layer_scale"} <= set(DIFFERENT)


@pytest.mark.parametrize("name", ADDITIVE)
def test_zero_branches_leave_the_stream_bitwise(name):
    x = normal(2, 3, WIDTH)
    residual = trained(build(name))
    state = fill(residual, x, torch.zeros(len(SITES), 2, 3, WIDTH, dtype=torch.float64))
    torch.testing.assert_close(residual.close(state), residual.close(residual.open(x)), **BITWISE)


@every
def test_an_opened_state_is_read_and_closed_as_the_embedding_up_to_its_scale(name):
    # The scale is free: a norm follows either way, and a sum of n streams is n times as long.
    x = normal(2, 3, WIDTH)
    residual = build(name)
    for seen in (residual.read(residual.open(x), 0), residual.close(residual.open(x))):
        torch.testing.assert_close(rms_norm(seen), rms_norm(x), **TOL)


@every
def test_a_state_is_a_tuple_that_no_verb_changes(name):
    residual = trained(build(name))
    keep = torch.tensor([1.0, 0.0], dtype=torch.float64).view(1, 2, 1, 1).expand(6, -1, -1, -1)
    seen = []
    for state in states(residual, normal(2, 3, WIDTH), branch_weights(), keep=keep):
        assert isinstance(state, tuple)
        seen.append((tensors(state), [(t.clone(), t._version) for t in tensors(state)]))
    residual.close(state)
    residual.handoff(state, torch.neg)
    for now, before in seen:
        for tensor, (copy, version) in zip(now, before, strict=True):
            assert tensor._version == version
            assert torch.equal(tensor, copy)


@every
def test_a_read_is_pure(name):
    residual = trained(build(name))
    for site, state in enumerate(states(residual, normal(2, 3, WIDTH), branch_weights())):
        site = min(site, len(SITES) - 1)
        torch.testing.assert_close(
            residual.read(state, site), residual.read(state, site), **BITWISE
        )


@pytest.mark.parametrize(("channel_dim", "shape"), [(-1, (2, 3, WIDTH)), (1, (2, WIDTH, 4, 3))])
@every
def test_reads_and_the_close_keep_the_shape(name, channel_dim, shape):
    residual = trained(build(name, channel_dim=channel_dim))
    state = residual.open(normal(*shape))
    for site in range(len(SITES)):
        h = residual.read(state, site)
        views = [h] if isinstance(h, torch.Tensor) else list(h.values())
        assert all(view.shape == shape for view in views)
        state = residual.write(state, site, normal(*shape, seed=site), Context(h, h))
    assert residual.close(state).shape == shape
    assert residual.close(residual.handoff(state, lambda x: x[:1])).shape == (1, *shape[1:])


@every
def test_images_and_tokens_are_treated_alike(name):
    tokens, images = trained(build(name)), trained(build(name, channel_dim=1))
    x, ys = normal(2, 4, 3, WIDTH), normal(len(SITES), 2, 4, 3, WIDTH, seed=1)
    expected = tokens.close(fill(tokens, x, ys)).movedim(-1, 1)
    ours = images.close(fill(images, x.movedim(-1, 1), ys.movedim(-1, 2)))
    # Relative, too: with trained gates a rewritten state reaches some thousands.
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@every
def test_the_gradient_of_a_stack_is_its_gradient(name):
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
    assert torch.autograd.gradcheck(function, [t.detach().requires_grad_() for t in inputs])


@pytest.mark.parametrize("name", LEARNED)
def test_every_parameter_takes_part_in_a_stack(name):
    residual = trained(build(name))
    stack(residual, normal(2, 3, WIDTH), branch_weights()).square().sum().backward()
    for key, parameter in residual.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, key


@every
def test_a_keep_mask_of_ones_is_no_mask(name):
    residual = trained(build(name))
    x, weights = normal(2, 3, WIDTH), branch_weights()
    ones = torch.ones(len(SITES), 2, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(
        stack(residual, x, weights, keep=ones), stack(residual, x, weights), **BITWISE
    )


@every
def test_what_a_dropped_branch_computed_does_not_matter(name):
    residual = trained(build(name))
    x, ys = normal(3, 2, WIDTH), normal(len(SITES), 3, 2, WIDTH, seed=1)
    keep = torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64).view(1, 3, 1, 1)
    keep = torch.cat([keep, keep.flip(0).roll(1, 1)]).repeat(3, 1, 1, 1)
    noise = torch.where(keep == 0, normal(*ys.shape, seed=2), 0.0)
    expected = residual.close(fill(residual, x, ys, keep))
    torch.testing.assert_close(
        residual.close(fill(residual, x, ys + noise, keep)), expected, **BITWISE
    )
    assert not torch.equal(residual.close(fill(residual, x, ys + noise)), expected)


@every
def test_a_sample_never_sees_the_keep_mask_of_another(name):
    residual = trained(build(name))
    x, weights = normal(2, 3, WIDTH), branch_weights()
    g = torch.Generator().manual_seed(0)
    keep = torch.randint(0, 2, (len(SITES), 2, 1, 1), generator=g).double() * 2
    assert keep[:, 0].ne(keep[:, 1]).any()
    together = stack(residual, x, weights, keep=keep)
    for i in range(2):
        alone = stack(residual, x[i : i + 1], weights, keep=keep[:, i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, **TOL)


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
