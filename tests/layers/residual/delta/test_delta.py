"""Every form of Deep Delta Learning against the equations of the paper, in float64."""

import pytest
import torch
from archzoo.layers.residual import Context, Site
from archzoo.zoo import create_model
from archzoo.zoo.backbones.self_attention import KeyValueCache
from torch import Tensor, nn

from ..formulas.columns import Literal
from ..stacks import SITES, WIDTH, branch_weights, build, fill, normal, rms_norm, stack, trained
from .delta_parts import (
    BITWISE,
    FORMS,
    POINTWISE,
    TAPS,
    TOL,
    M,
    assert_same,
    every_variant,
)


@every_variant
def test_a_stack_is_what_the_equations_say(options, path):
    residual = trained(build("delta", **options))
    x, weights = normal(2, 6, WIDTH), branch_weights()
    parameters = list(residual.parameters())

    def with_gradients(run) -> list[Tensor]:
        inputs = [t.clone().requires_grad_() for t in (x, weights)]
        out = run(*inputs)
        g = normal(*out.shape, seed=9)
        return [out, *torch.autograd.grad(out, [*inputs, *parameters], g, materialize_grads=True)]

    ours = with_gradients(lambda *inputs: stack(residual, *inputs))
    theirs = with_gradients(Literal(residual, options).stack)
    assert_same(ours, theirs)


@every_variant
def test_evaluation_without_gradients_gives_the_same_features(options, path):
    residual = trained(build("delta", **options))
    with torch.no_grad():
        ours = stack(residual, normal(2, 6, WIDTH), branch_weights())
    expected = stack(residual, normal(2, 6, WIDTH), branch_weights()).detach()
    torch.testing.assert_close(ours, expected, **BITWISE)


@every_variant
def test_every_parameter_takes_part(options, monkeypatch):
    residual = trained(build("delta", **options))
    stack(residual, normal(2, 6, WIDTH), branch_weights()).square().sum().backward()
    for key, parameter in residual.named_parameters():
        # β = 0 never writes, so only what reads takes part.
        assert parameter.grad.abs().max() > 0 or options.get("frozen_beta") == 0.0, key


@pytest.mark.parametrize("m", [2, 3, 4, 5])
def test_the_padded_convolution_and_read_vector_collapse_to_one_matrix(m):
    residual = trained(build("delta", value_channels=m, cc_form="repo"))
    weights, x = residual.channel_weights(), normal(2, 3, WIDTH, m)
    assert weights.shape == (4, m, WIDTH)
    literal = Literal(residual, {"cc_form": "repo", "value_channels": m})
    for block in range(4):
        collapsed = torch.einsum("btdm,md->btd", x, weights[block])
        torch.testing.assert_close(collapsed, literal.compress(x, block), **TOL)


def test_a_free_matrix_is_its_own_channel_weights():
    residual = trained(build("delta", value_channels=M))
    assert residual.channel_weights() is residual.columns


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_fresh_mechanism_reads_its_embedding_at_every_site(form):
    residual = build("delta", **form)
    x = normal(2, 6, WIDTH)
    state = residual.open(x)
    repeated = x.unsqueeze(-2).expand(2, 6, residual.value_channels, WIDTH)
    torch.testing.assert_close(state.columns, repeated, **BITWISE)
    for read in (*(residual.read(state, site) for site in range(6)), residual.close(state)):
        # A read vector of thirds was rounded to float32.
        torch.testing.assert_close(read, x, rtol=1e-7, atol=1e-13)


@pytest.mark.parametrize("position", [0, 2, 5])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_token_reaches_the_taps_after_it_and_none_before(form, position):
    residual = trained(build("delta", **form))
    x = normal(2, 12, WIDTH)
    changed = x.clone()
    changed[:, position] += 1.0
    states = residual.open(x), residual.open(changed)
    reach = 0
    for stage, key in enumerate(("expand", "compress")):
        reach += TAPS - 1 if form.get(key) in ("convolution", "tokens") else 0
        if stage == 0:
            differences = states[1].columns - states[0].columns
        else:
            differences = residual.read(states[1], 0) - residual.read(states[0], 0)
        moved = differences.flatten(2).abs().amax((0, 2)) > 1e-9
        expected = [position <= t <= position + reach for t in range(12)]
        assert moved.tolist() == expected


def test_channel_compression_treats_tokens_one_by_one():
    residual = trained(build("delta", value_channels=M, cc_form="repo"))
    x, weights, order = normal(2, 6, WIDTH), branch_weights(), [3, 0, 5, 1, 4, 2]
    torch.testing.assert_close(
        stack(residual, x[:, order], weights), stack(residual, x, weights)[:, order], **TOL
    )


def perturbed(model: nn.Module) -> nn.Module:
    """Move every parameter, so that no law holds by a fresh value."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=g, dtype=parameter.dtype)
    return model


@pytest.mark.parametrize("prompt", range(1, TAPS + 2))
@pytest.mark.parametrize("form", FORMS, ids=str)
@torch.no_grad()
def test_cached_decoding_is_the_full_forward_after_any_prompt(form, prompt):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model("gpt_nano", residual={"name": "delta", **form})
    model = perturbed(model.double().eval())
    ids = torch.randint(256, (2, 10), generator=torch.Generator().manual_seed(0))
    cache = KeyValueCache(64)
    pieces = ids.split([prompt, *[1] * (10 - prompt)], dim=1)
    logits = [model.forward_head(model.forward_features(piece, cache)) for piece in pieces]
    # Sums over the keys run in another order; float64, a few thousand roundings.
    torch.testing.assert_close(torch.cat(logits, 1), model(ids), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("options", POINTWISE, ids=str)
def test_images_are_tokens_with_the_channels_elsewhere(options):
    by_tokens = trained(build("delta", **options))
    by_images = trained(build("delta", channel_dim=1, **options))
    x, ys = normal(2, 4, 3, WIDTH), normal(len(SITES), 2, 4, 3, WIDTH, seed=1)
    g = normal(*x.shape, seed=9)
    expected = by_tokens.close(fill(by_tokens, x, ys))
    ours = by_images.close(fill(by_images, x.movedim(-1, 1), ys.movedim(-1, 2))).movedim(1, -1)
    assert_same([ours], [expected])
    theirs = torch.autograd.grad(expected, list(by_tokens.parameters()), g, materialize_grads=True)
    mine = torch.autograd.grad(ours, list(by_images.parameters()), g, materialize_grads=True)
    assert_same(mine, theirs)


@every_variant
def test_a_dropped_branch_leaves_the_state(options, path):
    residual = trained(build("delta", **options))
    x, y = normal(3, 6, WIDTH), normal(3, 6, WIDTH, seed=1)
    state = residual.open(x)
    h = residual.read(state, 0)
    keep = torch.tensor([0.0, 2.0, 0.0]).double().view(3, 1, 1)
    after = residual.write(state, 0, y, Context(h, rms_norm(h), keep)).columns
    torch.testing.assert_close(after[::2], state.columns[::2], **BITWISE)
    kept = residual.write(state, 0, y, Context(h, rms_norm(h))).columns
    # A kept branch writes its change divided by the probability to be kept.
    change = 2 * (kept - state.columns)[1]
    torch.testing.assert_close(after[1] - state.columns[1], change, **TOL)


def test_blocks_may_be_numbered_from_anywhere():
    plain = [Site("mlp", block) for block in (0, 0, 1, 2)]
    gaps = [Site("mlp", block) for block in (3, 3, 7, 8)]
    x, weights = normal(2, 3, WIDTH), branch_weights(4)
    ours, expected = (
        stack(trained(build("delta", sites=sites, value_channels=M)), x, weights)
        for sites in (gaps, plain)
    )
    torch.testing.assert_close(ours, expected, **BITWISE)


def test_the_preset_is_four_columns_compressed_over_channels():
    preset, spelt = build("delta_cc"), build("delta", value_channels=4)
    assert preset.channel_weights().shape == (4, 4, WIDTH)
    assert {k: p.shape for k, p in preset.named_parameters()} == {
        k: p.shape for k, p in spelt.named_parameters()
    }


# Published totals: small and medium, for the baseline, m = 1, TC and CC without EC, TC and CC.

OPTIONS = [
    None,
    {},
    {"value_channels": 4, "compress": "tokens"},
    {"value_channels": 4, "compress": "channels"},
    {"value_channels": 4, "compress": "tokens", "expand": "convolution"},
    {"value_channels": 4, "compress": "channels", "expand": "convolution"},
]
TOTALS = {
    "gpt_124m": [123590400, 123627312, 123842476, 123722668, 123854764, 123734956],
    "gpt_353m": [353508352, 353606752, 354164052, 353856852, 354180436, 353873236],
}


@pytest.mark.parametrize(
    ("name", "options", "total"),
    [
        (name, options, total)
        for name, totals in TOTALS.items()
        for options, total in zip(OPTIONS, totals, strict=True)
    ],
)
def test_a_model_has_as_many_parameters_as_the_authors_release(name, options, total):
    released = {"name": "delta", "parameterisation": "repo", "cc_form": "repo"}
    with torch.device("meta"):
        model = create_model(name, residual="add" if options is None else released | options)
    assert sum(p.numel() for p in model.parameters()) == total
