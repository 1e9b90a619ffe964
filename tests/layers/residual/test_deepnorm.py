"""DeepNorm is a scaled post-norm; without its two constants it is the plain one."""

import math

import pytest
import torch
from archzoo.layers.residual import Site
from archzoo.zoo import create_model

from .stacks import build, normal

EXACT = {"rtol": 0.0, "atol": 1e-13}  # some ten roundings of float64 at unit scale


def blocks(count, *kinds):
    return [Site(kind, block) for block in range(count) for kind in kinds]


@pytest.mark.parametrize("name", ["mlp_nano", "vit_nano"])
@torch.no_grad()
def test_without_its_constants_a_model_is_a_post_norm_model(name):
    model = create_model(name, residual={"name": "deepnorm", "alpha": 1.0, "beta": 1.0})
    model = model.double().eval()
    trunk, x = model.trunk, normal(2, 5, model.num_features)
    *norms, last = [*trunk.norms, model.norm]
    norms = [*norms, last]
    expected = norms[0](x)
    for branch, norm in zip(trunk.branches, norms[1:], strict=True):
        expected = norm(expected + branch(expected))
    torch.testing.assert_close(last(trunk(x)), expected, **EXACT)


@pytest.mark.parametrize(
    ("count", "alpha", "beta"),
    [
        (6, 12**0.25, 48**-0.25),
        (12, 24**0.25, 96**-0.25),
        (18, 36**0.25, 144**-0.25),
        (100, 200**0.25, 800**-0.25),
    ],
)
def test_the_constants_are_those_of_the_paper(count, alpha, beta):
    residual = build("deepnorm", sites=blocks(count, "attention", "mlp"))
    assert residual.alpha == pytest.approx(alpha)
    assert residual.branch_gain == pytest.approx(beta)
    # At any depth the stream grows as much as branches shrink, up to √2.
    assert residual.alpha * residual.branch_gain == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize("kinds", [("mlp",), ("attention", "mlp"), ("a", "b", "c")])
def test_depth_is_counted_in_blocks(kinds):
    assert build("deepnorm", sites=blocks(8, *kinds)).alpha == pytest.approx(2.0)


def test_a_fresh_model_shrinks_its_branches_but_not_queries_and_keys():
    def weights(residual):
        torch.manual_seed(0)
        return dict(create_model("gpt_nano", residual=residual).named_parameters())

    plain, ours = weights("add"), weights("deepnorm")
    beta = 16**-0.25
    for key, weight in plain.items():
        if key.endswith("qkv.weight"):
            rows = 2 * len(weight) // 3
            torch.testing.assert_close(ours[key][:rows], weight[:rows], rtol=0.0, atol=0.0)
            torch.testing.assert_close(ours[key][rows:], beta * weight[rows:])
        elif ".branches." in key and weight.dim() > 1:
            torch.testing.assert_close(ours[key], beta * weight)
        else:
            torch.testing.assert_close(ours[key], weight, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", ["alpha", "beta"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_constant_that_is_not_positive_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} must be positive and finite or None, got"):
        build("deepnorm", **{name: value})
