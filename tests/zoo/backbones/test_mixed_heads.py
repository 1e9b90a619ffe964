"""Residuals that mix the keys and values of attention, in the transformers of the zoo."""

import math

import pytest
import torch
from archzoo.layers.residual import LayerMemory, Site, ValueResidual
from archzoo.zoo import certify
from archzoo.zoo.backbones.self_attention import Attention, KeyValueCache, heads, join_heads
from archzoo.zoo.trunk import Trunk
from torch import nn

from ..small_models import NANO, TINY, build, example, loss_of, trained

MIXING = [
    {"name": "value_residual", "form": "identity"},
    {"name": "value_residual", "form": "sparse", "layers": 1},
    "value_residual",
    "lime",
]
TOL = {"rtol": 1e-10, "atol": 1e-10}  # some thousand roundings of float64
mixing = pytest.mark.parametrize("residual", MIXING, ids=str)
each = pytest.mark.parametrize("name", ["vit_nano", "gpt_nano", "encoder_nano"])


def made(name: str, residual, **options):
    sizes = {**TINY[name], "depth": 3, **options}
    return trained(build(name, residual=residual, **sizes)).double()


def double(x):
    return x.double() if x.is_floating_point() else x


@mixing
def test_decoding_with_a_cache_is_the_full_forward(residual):
    model = made("gpt_nano", residual).eval()
    tokens = example("gpt_nano", 2)
    full = model.forward_features(tokens)
    for sizes in ([1] * tokens.shape[1], [5, 1, 2, tokens.shape[1] - 8]):
        cache = KeyValueCache(None)
        parts = [model.forward_features(part, cache) for part in tokens.split(sizes, 1)]
        torch.testing.assert_close(torch.cat(parts, 1), full, **TOL)


def test_the_equation_holds_over_whole_attentions():
    model = made("vit_nano", "value_residual", drop_path_rate=0.0).eval()
    trunk, x = model.trunk, torch.randn(2, 5, 16, dtype=torch.float64)
    expected, first, place = x, None, 0
    for branch, norm, site in zip(trunk.branches, trunk.norms, trunk.residual.sites, strict=True):
        h = norm(expected)
        if not site.attends:
            expected = expected + branch(h)
            continue
        query, key, value = heads(branch.qkv, h, branch.num_heads)
        if first is None:
            first = value
        else:
            mine, own = trunk.residual.weight[place - 1]
            value = mine * first + own * value
        place += 1
        expected = expected + branch.proj(join_heads(branch.attend(query, key, value)))
    torch.testing.assert_close(trunk(x), expected, **TOL)


@each
def test_weights_of_the_branch_s_own_values_alone_are_plain_addition(name):
    mixed, plain = made(name, "value_residual"), made(name, "add")
    plain.load_state_dict(mixed.state_dict(), strict=False)
    with torch.no_grad():
        mixed.trunk.residual.weight.copy_(torch.tensor([0.0, 1.0]).expand(2, 2))
    x = double(example(name, 2))
    torch.testing.assert_close(mixed.eval()(x), plain.eval()(x), **TOL)


@each
@mixing
def test_recomputed_activations_give_the_same_gradients(name, residual):
    model, x = made(name, residual, drop_path_rate=0.0), double(example(name, 2))
    found = []
    for recomputed in (False, True):
        model.set_grad_checkpointing(recomputed)
        model.zero_grad()
        loss_of(model(x)).backward()
        found.append({key: p.grad.clone() for key, p in model.named_parameters()})
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient, **TOL)


@pytest.mark.compiles
@each
@pytest.mark.parametrize("residual", ["value_residual", "lime"])
def test_one_graph_holds_the_whole_network(name, residual):
    model, x = made(name, residual).eval(), double(example(name, 2))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x), **TOL)


@pytest.mark.parametrize("residual", ["value_residual", "lime"])
def test_the_certificate_is_that_of_attention_and_names_it(residual):
    certificate = certify(build("vit_nano", residual=residual, **TINY["vit_nano"]))
    plain = certify(build("vit_nano", **TINY["vit_nano"]))
    assert certificate.lipschitz == plain.lipschitz == math.inf
    assert any("attention" in reason for reason in certificate.reasons), certificate.reasons


@pytest.mark.parametrize("name", NANO)
def test_a_backbone_says_its_number_of_heads_or_has_no_attention(name):
    plain = build(name, **TINY.get(name, {}))
    found = {branch.num_heads for branch in plain.modules() if isinstance(branch, Attention)}
    if not found:
        with pytest.raises(ValueError, match="attention"):
            build(name, residual="lime", **TINY.get(name, {}))
        return
    mixing = build(name, residual="lime", **TINY.get(name, {}))
    told = {part.num_heads for part in mixing.modules() if isinstance(part, LayerMemory)}
    assert told == found


def test_an_attention_that_keeps_its_heads_to_itself_is_refused():
    class Own(nn.Linear):
        """A branch that hands out nothing."""

    sites = [Site("attention", 0), Site("attention", 1)]
    parts = [Own(4, 4), Own(4, 4)], [nn.Identity(), nn.Identity()], [0.0, 0.0]
    with pytest.raises(ValueError, match="attention at site 0, which Own keeps to itself; choose"):
        Trunk(ValueResidual(4, sites), *parts)
