"""What a branch reads is measured, for every mechanism, as a share of each source."""

import pytest
import torch
from archzoo.layers.residual import Add, AttnRes, Residual, Site, depth_weights
from archzoo.layers.residual.stream import routing
from archzoo.zoo import create_model, depth_mixing_matrix, trace, with_residual
from torch import Tensor, nn
from torch.nn import functional as F

from ...tiers import tiered
from ..small_models import EVERYWHERE, NANO, build, example, fitting, loss_of, trained

TOKENS = [name for name in NANO if "resnet" not in name]
EXACT = {"rtol": 0.0, "atol": 1e-12}  # some hundred roundings of float64 at unit scale


def model_of(name, residual, seed=0, **options):
    """Return a trained model in float64, or skip what a backbone's branches cannot take."""
    try:
        model = build(name, residual=residual, **options)
    except ValueError as error:
        if "takes one tensor" in str(error):
            pytest.skip(str(error))
        raise
    return trained(model, seed).double().eval()


def inputs(name, batch=2):
    return example(name, batch, dtype=torch.float64)


def recorded(model, x):
    """Return the embedding and the branch outputs of a pass, by hooks."""
    sources, hooks = [], []
    hooks.append(model.trunk.register_forward_pre_hook(lambda _, args: sources.append(args[0])))
    for branch in model.trunk.branches:
        hooks.append(branch.register_forward_hook(lambda _, args, y: sources.append(y)))
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return sources


class MarkedMix(Residual):
    """A softmax mixture with marked weights: what the matrix must return, written down."""

    def __init__(self, width, sites, *, channel_dim=-1):
        super().__init__(width, sites, channel_dim=channel_dim)
        self.query = nn.Parameter(torch.randn(len(sites) + 1, width))

    def weights(self, sources, site):
        return depth_weights(sources, self.query[site])

    def read(self, state, site):
        weights = routing(self.weights(state, site))
        return sum(w * v for w, v in zip(weights, state, strict=True))

    def write(self, state, site, y, context):
        return (*state, y)

    def close(self, state):
        return self.read(state, len(self.sites))


# Closed forms.


@pytest.mark.parametrize("name", TOKENS)
def test_a_plain_stream_holds_every_source_once(name):
    matrix = depth_mixing_matrix(model_of(name, "add"), inputs(name))
    torch.testing.assert_close(matrix, torch.ones_like(matrix).tril(), **EXACT)


def test_a_scaled_stream_holds_every_output_by_its_scale():
    model = model_of("mlp_nano", "layer_scale", depth=3)
    scale = model.trunk.residual.scale.detach()
    _, *outputs = recorded(model, inputs("mlp_nano"))
    expected = torch.ones(4, 4, dtype=torch.float64)
    for i, y in enumerate(outputs):
        share = (scale[i] * y * y).sum(-1) / y.square().sum(-1)
        expected[:, i + 1] = share.mean()
    matrix = depth_mixing_matrix(model, inputs("mlp_nano"))
    torch.testing.assert_close(matrix, expected.tril(), **EXACT)


@pytest.mark.parametrize("residual", [MarkedMix, "attnres"])
@pytest.mark.parametrize("name", TOKENS)
def test_a_softmax_over_depth_is_its_weights_averaged_over_tokens(name, residual):
    model, x = model_of(name, residual, seed=3), inputs(name)
    mechanism = model.trunk.residual
    with torch.no_grad():
        mechanism.query.normal_()
    sources = recorded(model, x)
    matrix = depth_mixing_matrix(model, x)
    for site in range(len(sources)):
        query = mechanism.query[site]
        if getattr(mechanism, "gain", None) is not None:
            query = query * mechanism.gain[site]
        weights = depth_weights(sources[: site + 1], query.detach())
        expected = weights.flatten(1).mean(1)
        torch.testing.assert_close(matrix[site, : site + 1], expected, **EXACT)


@pytest.mark.parametrize("residual", [MarkedMix, "attnres"])
def test_the_rows_of_a_softmax_sum_to_one(residual):
    matrix = depth_mixing_matrix(model_of("gpt_nano", residual), inputs("gpt_nano"))
    torch.testing.assert_close(matrix.sum(1), torch.ones_like(matrix[0]), **EXACT)


def test_zero_queries_share_equally():
    model = with_residual(build("gpt_nano"), "attnres").double()
    matrix = depth_mixing_matrix(model, inputs("gpt_nano"))
    n = torch.arange(1, len(matrix) + 1, dtype=torch.float64)[:, None]
    torch.testing.assert_close(matrix, (1 / n).expand_as(matrix).tril(), **EXACT)


def test_blocks_share_the_weight_of_their_sum():
    model = with_residual(build("gpt_nano"), "block_attnres", block_size=2).double()
    matrix = depth_mixing_matrix(model, inputs("gpt_nano"))
    third, half = 1 / 3, 0.5
    expected = [
        [1, 0, 0, 0, 0],
        [half, half, 0, 0, 0],
        [half, half, half, 0, 0],
        [third, third, third, third, 0],
        [third, third, third, third, third],
    ]
    torch.testing.assert_close(matrix, torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_a_post_norm_divides_what_came_before_by_the_statistics_of_the_pass():
    class PostNorm(Add):
        norm_position = "post"

    model, x = model_of("mlp_nano", PostNorm), inputs("mlp_nano")
    for norm in model.trunk.norms:  # with no centring the shares are scalars
        norm.__class__ = nn.RMSNorm
        nn.init.ones_(norm.weight)
        norm.bias = None
    first, *outputs = recorded(model, x)
    expected = torch.zeros(3, 3, dtype=torch.float64)
    stream, shares = first, [torch.ones(2, dtype=torch.float64)]
    for site, y in enumerate(outputs):
        r = torch.rsqrt(stream.square().mean(-1) + model.trunk.norms[site].eps)
        stream, shares = stream * r[:, None], [share * r for share in shares]
        expected[site, : site + 1] = torch.stack([share.mean() for share in shares])
        stream, shares = stream + y, [*shares, torch.ones(2, dtype=torch.float64)]
    expected[2] = torch.stack([share.mean() for share in shares])
    torch.testing.assert_close(depth_mixing_matrix(model, x), expected, **EXACT)


def test_a_zero_source_has_a_share_all_the_same():
    model = model_of("mlp_nano", "attnres")
    with torch.no_grad():
        for parameter in model.trunk.branches[0][-1].parameters():
            parameter.zero_()
    matrix = depth_mixing_matrix(model, inputs("mlp_nano"))
    torch.testing.assert_close(matrix.sum(1), torch.ones_like(matrix[0]), **EXACT)
    assert (matrix[1:, 1] > 0).all()


# Several views of a read.


class Views(Add):
    """An addition whose attentions read multiples of the stream."""

    def views(self, site):
        return ("query", "key", "value") if self.sites[site].kind == "attention" else ()

    def read(self, state, site):
        (x,) = state
        if not self.views(site):
            return {"input": 5.0 * x, "residual": x}
        return {"query": 2.0 * x, "key": 3.0 * x, "value": 4.0 * x, "residual": x}


@pytest.mark.parametrize(
    ("view", "factors"),
    [
        ("query", [2, 5, 2, 5, 1]),
        ("key", [3, 5, 3, 5, 1]),
        ("value", [4, 5, 4, 5, 1]),
        ("residual", [1, 1, 1, 1, 1]),
    ],
)
def test_one_view_is_shown_at_a_time(view, factors):
    matrix = depth_mixing_matrix(model_of("gpt_nano", Views), inputs("gpt_nano"), view=view)
    expected = torch.tensor(factors, dtype=torch.float64)[:, None] * torch.ones_like(matrix).tril()
    torch.testing.assert_close(matrix, expected, **EXACT)


# Every mechanism.


@pytest.mark.parametrize(
    ("name", "residual"),
    tiered(fitting(NANO), lambda name, _: name in ("mlp_nano", "vit_nano", "resnet_nano")),
)
def test_every_mechanism_has_a_causal_matrix(name, residual):
    model, x = model_of(name, residual), inputs(name)
    stages = [None] if name in TOKENS else [0, 1]
    for stage in stages:
        matrix = depth_mixing_matrix(model, x, stage=stage)
        trunk = model.trunk if stage is None else model.stages[stage]
        assert matrix.shape == (len(trunk.branches) + 1,) * 2
        assert torch.isfinite(matrix).all()
        assert torch.equal(matrix, matrix.tril())
        assert (matrix != 0).any(1).all()


@pytest.mark.parametrize("residual", EVERYWHERE)
def test_looking_leaves_a_model_as_it_was(residual):
    model, x = model_of("mlp_nano", residual, drop_path_rate=0.5).train(), inputs("mlp_nano")
    model.trunk.branches[0].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    names = [set(vars(module)) for module in model.modules()]
    depth_mixing_matrix(model, x)
    trace(model, x)
    assert modes == [module.training for module in model.modules()]
    assert names == [set(vars(module)) for module in model.modules()]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_converted_timm_model_is_looked_into():
    import timm

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, pretrained=False)
    model = with_residual(model, "attnres").eval()
    matrix = depth_mixing_matrix(model, torch.randn(1, 3, 32, 32))
    # Five values in float32.
    torch.testing.assert_close(matrix[-1], torch.full((5,), 0.2), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_shown_is_refused_by_name():
    with pytest.raises(ValueError, match="Linear runs no residual of archzoo"):
        depth_mixing_matrix(nn.Linear(2, 2), torch.zeros(1, 2))
    resnet, x = build("resnet_nano"), example("resnet_nano")
    with pytest.raises(ValueError, match="ResNet has 2 stages; give stage=0, 1"):
        depth_mixing_matrix(resnet, x)
    with pytest.raises(ValueError, match="stage must lie in 0, …, 1, got 2"):
        depth_mixing_matrix(resnet, x, stage=2)
    with pytest.raises(ValueError, match="no view 'values' among .*'key'.*'value'"):
        depth_mixing_matrix(model_of("gpt_nano", Views), inputs("gpt_nano"), view="values")


# Magnitudes.


def test_a_trace_holds_the_magnitudes_of_reads_outputs_and_gradients():
    model, x = model_of("mlp_nano", "add"), inputs("mlp_nano", batch=3)
    target = torch.tensor([1, 0, 2])
    found = trace(model, x, lambda logits: F.cross_entropy(logits, target))
    first, second, third = model.stem(x), *recorded(model, x)[1:]
    reads = [first, first + second]

    def rms(v: Tensor) -> float:
        return v.square().mean().sqrt().item()

    assert found.sites == (Site("mlp", 0), Site("mlp", 1))
    assert found.read.tolist() == pytest.approx([rms(read) for read in reads])
    assert found.output.tolist() == pytest.approx([rms(second), rms(third)])
    stream = (first + second + third).detach().requires_grad_()
    F.cross_entropy(model.head(model.norm(stream)), target).backward()
    # The last output enters the closing sum alone, so its gradient is the sum's.
    assert stream.grad is not None
    assert found.gradient[-1].item() == pytest.approx(stream.grad.norm().item())


def loss_with(model, x, site, shift):
    """Return the loss of a model whose branch at a site returns so much more."""
    hook = model.trunk.branches[site].register_forward_hook(lambda _, args, y: y + shift)
    try:
        with torch.no_grad():
            return loss_of(model(x)).item()
    finally:
        hook.remove()


@pytest.mark.parametrize("residual", [*EVERYWHERE, MarkedMix])
def test_the_gradient_is_how_steeply_the_loss_rises(residual):
    model, x = model_of("mlp_nano", residual, depth=4), inputs("mlp_nano", batch=1)
    found, h = trace(model, x, loss_of), 1e-5
    width = model.num_features
    for site in range(4):
        slopes = []
        for unit in torch.eye(width, dtype=torch.float64):
            ends = [loss_with(model, x, site, sign * h * unit) for sign in (1.0, -1.0)]
            slopes.append((ends[0] - ends[1]) / (2 * h))
        # Central differences: an error of h² and of rounding over h.
        assert torch.tensor(slopes).norm().item() == pytest.approx(
            found.gradient[site].item(), rel=1e-5, abs=1e-8
        )


def test_a_branch_that_reaches_no_logit_has_no_gradient():
    model = model_of("mlp_nano", "skip_init")
    with torch.no_grad():
        model.trunk.residual.scale.zero_()
    assert trace(model, inputs("mlp_nano")).gradient.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "residual"),
    tiered(fitting(NANO), lambda name, _: name in ("mlp_nano", "vit_nano", "resnet_nano")),
)
def test_every_mechanism_is_traced(name, residual):
    model = model_of(name, residual)
    found = trace(model, inputs(name), loss_of)
    for values in (found.read, found.output, found.gradient):
        assert values.shape == (len(found.sites),)
        assert torch.isfinite(values).all()
        assert (values > 0).all()


def test_frozen_parameters_have_gradients_at_outputs_all_the_same():
    model = model_of("mlp_nano", "add").requires_grad_(False)
    assert (trace(model, inputs("mlp_nano"), loss_of).gradient > 0).all()


def test_the_default_model_is_looked_into():
    matrix = depth_mixing_matrix(create_model("vit_nano_block_attnres"), torch.randn(2, 1, 8, 8))
    assert matrix.shape == (9, 9)
    assert isinstance(create_model("vit_nano_block_attnres").trunk.residual, AttnRes)
