"""ELC-BERT: weights on the simplex, and blocks wired as in each flavour."""

import math

import pytest
import torch
from archzoo.layers.decay import decay_exclusions
from archzoo.layers.residual import Context, ElcBert, Site

from ..stacks import SITES, WIDTH, branch_weights, build, fill, normal, rms_norm, stack, trained

TOL = {"rtol": 0.0, "atol": 1e-12}  # some thousand roundings of float64 at unit scale
BITWISE = {"rtol": 0.0, "atol": 0.0}
FLAVOURS = ["base", "zero", "normalized", "weighted_output"]
CONVS = [Site("conv", block) for block in range(4)]
flavours = pytest.mark.parametrize("flavour", FLAVOURS)


def branch(h, weight):
    return (rms_norm(h) @ weight).tanh()


@flavours
def test_weights_lie_on_the_simplex(flavour):
    residual = trained(build("elc_bert", sites=CONVS, flavour=flavour))
    counts = [2, 3, 4, 5] if flavour == "weighted_output" else [2, 3, 4]
    for count in counts:
        weights = residual.weights(count)
        assert weights.shape == (count,) and (weights > 0).all()
        torch.testing.assert_close(weights.sum(), torch.ones(()).double(), rtol=0.0, atol=1e-15)
    with pytest.raises(ValueError, match=r"count must be one of \[2, 3, 4.*got 7"):
        residual.weights(7)


@flavours
def test_fresh_weights_are_uniform_but_for_base(flavour):
    residual = build("elc_bert", sites=CONVS, flavour=flavour)
    for count in (2, 3, 4):
        newest = math.e if flavour == "base" else 1.0
        expected = torch.tensor([1.0] * (count - 1) + [newest]).double() / (count - 1 + newest)
        torch.testing.assert_close(residual.weights(count), expected, rtol=0.0, atol=1e-7)


@pytest.mark.parametrize("flavour", ["base", "zero"])
def test_a_one_hot_on_the_newest_is_a_plain_chain(flavour):
    residual = build("elc_bert", flavour=flavour)
    with torch.no_grad():
        for row in residual.rows.values():
            residual.logits[row] = -800.0  # the exponential is 0 in float64
            residual.logits[row.stop - 1] = 0.0
    x, weights = normal(2, 3, WIDTH), branch_weights()
    h = x
    for first, second in weights.unflatten(0, (3, 2)):
        t = branch(h, first)
        h = t + branch(t if flavour == "base" else h + t, second)
    torch.testing.assert_close(stack(residual, x, weights), h, **TOL)


def test_a_one_hot_on_the_embedding_forgets_all_blocks_before():
    residual = build("elc_bert", sites=CONVS)
    with torch.no_grad():
        for row in residual.rows.values():
            residual.logits[row] = -800.0
            residual.logits[row.start] = 0.0
    x, weights = normal(2, 3, WIDTH), branch_weights(4)
    torch.testing.assert_close(stack(residual, x, weights), branch(x, weights[3]), **TOL)


@pytest.mark.parametrize("flavour", ["base", "zero", "weighted_output"])
def test_a_block_that_is_dropped_whole_passes_its_input_on(flavour):
    residual = trained(build("elc_bert", flavour=flavour))
    x, ys = normal(2, 3, WIDTH), normal(len(SITES), 2, 3, WIDTH, seed=1)
    keep = torch.ones(6, 2, 1, 1).double()
    keep[2:4, 0] = 0.0
    state = fill(residual, x, ys[:4], keep)
    first = fill(residual, x, ys[:2])
    entry = residual.read(first, 2)
    torch.testing.assert_close(state.outputs[2][0], entry[0], **BITWISE)
    whole = fill(residual, x, ys[:4])
    torch.testing.assert_close(state.outputs[2][1], whole.outputs[2][1], **BITWISE)


def test_a_dropped_first_branch_of_base_passes_its_input_on():
    residual = trained(build("elc_bert", flavour="base"))
    x, ys = normal(2, 3, WIDTH), normal(1, 2, 3, WIDTH, seed=1)
    state = fill(residual, x, ys, torch.tensor([[0.0, 2.0]]).double()[:, :, None, None])
    torch.testing.assert_close(residual.read(state, 1)[0], x[0], **BITWISE)
    torch.testing.assert_close(residual.read(state, 1)[1], 2 * ys[0, 1], **BITWISE)


@flavours
def test_what_a_dropped_branch_computed_does_not_matter(flavour):
    residual = trained(build("elc_bert", flavour=flavour))
    x, ys = normal(2, 3, WIDTH), normal(len(SITES), 2, 3, WIDTH, seed=1)
    g = torch.Generator().manual_seed(3)
    keep = torch.randint(0, 2, (len(SITES), 2, 1, 1), generator=g).double()
    noise = torch.where(keep == 0, normal(*ys.shape, seed=2), 0.0)
    closed = [residual.close(fill(residual, x, y, keep)) for y in (ys, ys + noise)]
    torch.testing.assert_close(closed[1], closed[0], **BITWISE)


@flavours
def test_images_and_tokens_are_treated_alike(flavour):
    tokens = trained(build("elc_bert", flavour=flavour))
    images = trained(build("elc_bert", flavour=flavour, channel_dim=1))
    x, ys = normal(2, 4, 3, WIDTH), normal(len(SITES), 2, 4, 3, WIDTH, seed=1)
    expected = tokens.close(fill(tokens, x, ys)).movedim(-1, 1)
    ours = images.close(fill(images, x.movedim(-1, 1), ys.movedim(-1, 2)))
    torch.testing.assert_close(ours, expected, **TOL)


def test_normalized_outputs_are_centred_and_of_unit_variance():
    residual = trained(build("elc_bert", flavour="normalized"))
    state = fill(residual, normal(2, 3, WIDTH), normal(6, 2, 3, WIDTH, seed=1))
    for out in state.outputs[1:]:
        torch.testing.assert_close(out.mean(-1), torch.zeros(2, 3).double(), rtol=0.0, atol=1e-14)
        # 1e-7 in the variance of outputs that are about one long.
        torch.testing.assert_close(
            out.square().mean(-1), torch.ones(2, 3).double(), rtol=0.0, atol=1e-5
        )


def test_the_gradient_of_every_flavour_is_its_gradient():
    for flavour in FLAVOURS:
        residual = trained(build("elc_bert", sites=CONVS[:3], width=3, flavour=flavour))
        residual.requires_grad_(False)
        inputs = normal(2, 3).requires_grad_(), branch_weights(3, 3).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, w, r=residual: stack(r, x, w), inputs)


def test_one_block_needs_no_logits():
    residual = build("elc_bert", sites=CONVS[:1])
    assert list(residual.parameters()) == []
    x, y = normal(2, WIDTH), normal(2, WIDTH, seed=1)
    state = residual.write(residual.open(x), 0, y, Context(x, x))
    assert torch.equal(residual.close(state), y)


def test_no_logit_is_decayed_and_resetting_returns_to_the_start():
    residual = trained(build("elc_bert", flavour="base"))
    assert decay_exclusions(residual) == {"logits"}
    residual.reset_parameters()
    assert torch.equal(residual.logits, build("elc_bert", flavour="base").logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flavour": "one"}, "flavour must be 'base', 'zero', .*got 'one'"),
        ({"eps": 0.0}, "eps must be greater than 0, got 0.0"),
        ({"eps": float("nan")}, "eps must be greater than 0, got nan"),
    ],
)
def test_a_bad_argument_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        ElcBert(WIDTH, SITES, **options)
