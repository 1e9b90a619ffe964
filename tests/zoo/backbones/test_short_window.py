"""Short sliding-window attention along the tokens: the operator, and the third branch of a GPT."""

import pytest
import torch
from archzoo.layers.residual import Site
from archzoo.zoo import create_model, residuals
from archzoo.zoo.axes.residuals import make_residual
from archzoo.zoo.backbones.self_attention import CausalAttention, rotation

from ..small_models import build, loss_of, trained
from .test_gpt import decode, ids

WIDTH, HEADS, LENGTH = 16, 2, 12
BITWISE = {"rtol": 0.0, "atol": 0.0}
EXACT = {"rtol": 0.0, "atol": 1e-12}  # some hundred roundings of float64 at unit scale
ANGLES = rotation(torch.arange(LENGTH), WIDTH // HEADS)
needs_branches = [
    name
    for name in residuals.names()
    if make_residual(name, 4, [Site("mlp", 0)]).needs_nonzero_branches
]


def attention(window=None):
    torch.manual_seed(0)
    return trained(CausalAttention(WIDTH, HEADS, 0, window=window)).double()


def tokens():
    g = torch.Generator().manual_seed(1)
    return torch.randn(2, LENGTH, WIDTH, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("window", [1, 2, 5, LENGTH - 1, LENGTH, 100])
@torch.no_grad()
def test_a_token_attends_to_itself_and_those_just_before(window):
    short, full, x = attention(window), attention(), tokens()
    ours = short(x, ANGLES)
    for t in range(LENGTH):
        seen = slice(max(0, t - window + 1), t + 1)
        alone = full(x[:, seen], tuple(a[seen] for a in ANGLES))
        torch.testing.assert_close(ours[:, t], alone[:, -1], **EXACT)


@torch.no_grad()
def test_a_window_of_one_is_the_value_of_the_token_itself():
    short, x = attention(1), tokens()
    value = x @ short.qkv.weight[2 * WIDTH :].T
    torch.testing.assert_close(short(x, ANGLES), value @ short.proj.weight.T, **EXACT)


@pytest.mark.parametrize("window", [LENGTH, LENGTH + 1, 1000])
@torch.no_grad()
def test_a_window_as_long_as_the_text_is_no_window(window):
    x = tokens()
    torch.testing.assert_close(attention(window)(x, ANGLES), attention()(x, ANGLES), **BITWISE)


@pytest.mark.parametrize("window", [1, 3, 7])
def test_no_gradient_reaches_further_back_than_the_window(window):
    x = tokens().requires_grad_()
    y = attention(window)(x, ANGLES)
    for t in (0, 5, LENGTH - 1):
        (gradient,) = torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)
        reached = gradient.abs().amax((0, 2)) > 0
        assert reached.nonzero().flatten().tolist() == list(range(max(0, t - window + 1), t + 1))


def test_a_window_below_one_is_refused():
    with pytest.raises(ValueError, match="window must be at least 1 or None, got 0"):
        CausalAttention(WIDTH, HEADS, 0, window=0)
    with pytest.raises(ValueError, match="short_window must be at least 1, got 0"):
        create_model("gpt_nano", short_window=0)


# The branch.


def gpt(residual="add", **options):
    options = {"short_window": 3, **options}
    return trained(build("gpt_nano", residual=residual, **options)).double().eval()


def test_a_block_has_three_branches():
    model = build("gpt_nano", short_window=5)
    sites = model.trunk.residual.sites
    kinds = ["short_attention", "attention", "mlp"]
    assert [tuple(site) for site in sites] == [(k, block) for block in range(2) for k in kinds]
    assert [getattr(b, "window", None) for b in model.trunk.branches] == [5, None, None] * 2
    assert [getattr(b, "branch", None) for b in model.trunk.branches] == [0, 1, None, 3, 4, None]


@torch.no_grad()
def test_with_closed_short_branches_a_model_is_the_plain_one():
    model, plain = build("gpt_nano", short_window=3), build("gpt_nano")
    plain.embedding, plain.norm, plain.head = model.embedding, model.norm, model.head
    for parts in ("branches", "norms"):
        ours = getattr(model.trunk, parts)
        others = [part for i, part in enumerate(ours) if i % 3 > 0]
        setattr(plain.trunk, parts, torch.nn.ModuleList(others))
    torch.testing.assert_close(model(ids()), plain(ids()), **BITWISE)


def test_a_closed_branch_opens():
    model = build("gpt_nano", short_window=3)
    loss_of(model(ids())).backward()
    for branch in model.trunk.branches[::3]:
        assert not branch.proj.weight.any()
        assert branch.proj.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    "pieces", [[12], [1] * 12, [11, 1], [5, 1, 1, 5], [1, 11], [2, 3, 7]], ids=str
)
@pytest.mark.parametrize("window", [1, 2, 3, 6, 12, 64])
@torch.no_grad()
def test_cached_decoding_is_the_full_forward(window, pieces):
    model, text = gpt(short_window=window), ids()
    # Sums over the keys run in another order; float64, a few thousand roundings.
    torch.testing.assert_close(decode(model, text, pieces), model(text), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("residual", ["muddformer", "dca", "depth_swa", "highway", "deepnorm"])
@pytest.mark.parametrize("pieces", [[1] * 12, [5, 1, 6]], ids=str)
@torch.no_grad()
def test_cached_decoding_is_the_full_forward_over_other_residuals(residual, pieces):
    for options in ({"short_window": None}, {"short_window": 3}):
        model, text = gpt(residual, **options), ids()
        torch.testing.assert_close(decode(model, text, pieces), model(text), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_a_window_that_slides_while_a_piece_is_fed_stays_causal():
    model, text = gpt(short_window=4), ids()
    changed = text.clone()
    changed[:, 10] = (changed[:, 10] + 1) % 256
    before, after = (decode(model, t, [5, 7], limit=8) for t in (text, changed))
    torch.testing.assert_close(after[:, :10], before[:, :10], **BITWISE)
    assert not torch.equal(after[:, 10], before[:, 10])


def test_generation_takes_the_likeliest_token_each_time():
    model, prompt = gpt(), ids(length=4)
    text = prompt
    with torch.no_grad():
        for _ in range(6):
            text = torch.cat([text, model(text)[:, -1:].argmax(-1)], 1)
    assert torch.equal(model.generate(prompt, 6, temperature=0), text)


@pytest.mark.parametrize("residual", [n for n in residuals.names() if n not in needs_branches])
def test_every_residual_takes_a_third_branch(residual):
    model = trained(build("gpt_nano", residual=residual, short_window=3, drop_path_rate=0.5))
    loss_of(model(ids(4))).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("residual", needs_branches)
def test_a_residual_that_needs_directions_refuses_closed_branches(residual):
    with pytest.raises(ValueError, match=r"site 0 ends in a weight of zeros, and \w+ cannot"):
        create_model("gpt_nano", residual=residual, short_window=3)
    assert create_model("gpt_nano", residual=residual)
