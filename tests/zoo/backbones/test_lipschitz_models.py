"""Networks that are Lipschitz by construction: their constant holds, and says what it covers."""

import math
import warnings

import pytest
import torch
from archzoo.layers.lipschitz import LDLTBlock, LipschitzLayer, export_plain
from archzoo.zoo import create_model, list_models, model_info
from torch import nn

from ...close import assert_close_in_scale
from ...layers.lipschitz.lipschitz_cases import jacobian_norm, pair_ascent
from ...tiers import tiered
from ..small_models import build, example, trained

NAMES = [
    name for name in list_models() if model_info(name).about["weights"].startswith("Lipschitz")
]
NANO = [name for name in NAMES if name.endswith("_nano")]
nano = pytest.mark.parametrize("name", NANO)
VARIANTS = [
    ("ldlt_mlp_nano", {"hidden_depth": 2}),
    ("ldlt_mlp_nano", {"hidden_depth": 3, "wiring": "taps"}),
    ("ldlt_mlp_nano", {"hidden_depth": 2, "wiring": "dense", "activation": "tanh"}),
    ("ldlt_mlp_nano", {"hidden_depth": 2, "wiring": "chain_first", "expansion": 0.5}),
    ("ldlt_mlp_nano", {"wiring": "feed_forward"}),
    ("sll_mlp_nano", {"expansion": 2.0}),
    ("ldlt_resnet_nano", {"hidden_depth": 2}),
    ("ldlt_resnet_nano", {"downsample": "pool", "in_chans": 1, "img_size": 14}),
    ("sll_resnet_nano", {"expansion": 2.0, "activation": "elu"}),
    ("sll_resnet_nano", {"block": "orthogonal"}),
    ("sll_resnet_nano", {"block": "aol"}),
]


def test_there_are_three_sizes_of_each_structure():
    blocks = {"ldlt_mlp", "sll_mlp", "sandwich_mlp", "aol_mlp", "ldlt_resnet", "sll_resnet"}
    assert set(NAMES) == {f"{b}_{size}" for b in blocks for size in ("nano", "tiny", "small")}


def network(name: str, **options) -> nn.Module:
    """Return a network far from its start, in float64."""
    return trained(build(name, **options)).double().eval()


def shape(name: str, **options) -> tuple[int, ...]:
    return tuple(example(name, 1, **options).shape[1:])


@pytest.mark.parametrize("lipschitz", [0.5, 1.0, 3.0])
@nano
def test_no_jacobian_passes_the_product_of_the_bounds(name, lipschitz):
    model = network(name, lipschitz=lipschitz)
    x = example(name, 2, dtype=torch.float64)
    assert model.body_lipschitz == pytest.approx(lipschitz, rel=1e-12)
    # float64: some thousand roundings.
    assert jacobian_norm(model, x) <= model.lipschitz * (1 + 1e-9)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_every_choice_keeps_the_bound_and_its_gradients(name, options):
    model = network(name, **options)
    x = example(name, 2, dtype=torch.float64, **options)
    assert model.lipschitz == pytest.approx(1.0)
    assert pair_ascent(model, shape(name, **options), steps=8) <= 1 + 1e-9
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@nano
def test_an_even_split_gives_every_layer_its_share(name):
    model = network(name, lipschitz=3.0, split="even")
    assert model.body_lipschitz == pytest.approx(3.0, rel=1e-12)
    bounds = [m.lipschitz for m in model.modules() if isinstance(m, LipschitzLayer)]
    assert sum(bound > 1 for bound in bounds) == 3  # the stem and two blocks
    x = example(name, 2, dtype=torch.float64)
    assert jacobian_norm(model, x) <= 3 * (1 + 1e-9)


@nano
def test_rows_of_norm_one_bound_each_logit(name):
    model = network(name, head="lln")
    assert model.lipschitz == pytest.approx(math.sqrt(10))
    x = example(name, 1, dtype=torch.float64)
    for logit in range(0, 10, 3):
        one = nn.Sequential(model, Column(logit))
        assert jacobian_norm(one, x) <= 1 + 1e-9


class Column(nn.Module):
    """One logit."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, self.index : self.index + 1]


@nano
def test_an_exported_network_is_plain_and_computes_the_same(name):
    model = trained(build(name)).eval()
    x = example(name)
    y = model(x)
    plain = export_plain(model)
    assert not any(isinstance(m, LipschitzLayer) for m in plain.modules())
    # float32; a Fourier product sums all pixels of the image in another order.
    assert_close_in_scale(plain(x), y, 3e-5)
    assert any(isinstance(m, LipschitzLayer) for m in model.modules())


def test_a_stack_starts_with_a_branch_that_shrinks_with_its_depth():
    torch.manual_seed(0)
    stds = []
    for depth in (1, 16):
        model = create_model("ldlt_mlp_nano", depth=depth, width=256)
        blocks = [m for m in model.modules() if isinstance(m, LDLTBlock)]
        stds.append(float(blocks[0].k1.detach().std()))
    assert stds[0] == pytest.approx(0.3 / 16, rel=0.05)  # gain 0.3 over √256
    assert stds[1] == pytest.approx(stds[0] / 4, rel=0.05)


def test_a_model_of_a_larger_image_computes_its_weights_anew():
    model = build("ldlt_resnet_nano").eval()
    with torch.no_grad():
        small, large = (model(torch.zeros(1, 3, n, n)) for n in (16, 24))
        again = model(torch.zeros(1, 3, 16, 16))
    assert small.shape == large.shape
    torch.testing.assert_close(again, small, rtol=0, atol=0)


@nano
def test_a_model_runs_in_bfloat16_and_under_autocast(name):
    model = trained(build(name)).eval()
    x = example(name)
    exact = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(x)
    low = model.bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16
    # Eight bits of mantissa, through at most four blocks.
    for ours in (mixed, low):
        assert (ours.float() - exact).norm() < 0.1 * exact.norm()


@pytest.mark.compiles
@pytest.mark.parametrize("name", tiered(NANO, ["ldlt_mlp_nano", "sll_mlp_nano"]))
def test_the_compiler_and_the_exporter_take_the_whole_graph(name):
    model = trained(build(name)).eval()
    x = example(name)
    expected = model(x)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler about itself
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
        program = torch.export.export(model, (x,)).module()
    # float32: the compiler may order a sum otherwise.
    assert_close_in_scale(compiled, expected, 1e-5)
    assert_close_in_scale(program(x), expected, 1e-5)
    compiled.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    torch._dynamo.reset()


def test_a_network_without_a_known_constant_says_so():
    model = build("sll_mlp_nano")
    model.head = nn.Linear(32, 10)
    with pytest.raises(ValueError, match="Linear has no Lipschitz constant by construction"):
        model.lipschitz  # noqa: B018


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ldlt_mlp_nano", {"lipschitz": 0.0}, "lipschitz must be a positive number, got 0.0"),
        ("ldlt_mlp_nano", {"activation": "gelu"}, "'gelu' has slopes"),
        ("ldlt_mlp_nano", {"depth": 0}, "depth must be at least 1, got 0"),
        ("sll_mlp_nano", {"hidden_depth": 2}, "belong to block='ldlt', got block='sll'"),
        ("sandwich_mlp_nano", {"expansion": 2.0}, "has no inner width"),
        ("aol_mlp_nano", {"activation": "tanh"}, "MaxMin between its layers"),
        ("aol_mlp_nano", {"width": 31}, "width must be even"),
        ("ldlt_mlp_nano", {"residual": "add"}, "takes no keyword 'residual'"),
        ("ldlt_resnet_nano", {"widths": (6, 12)}, "must be a multiple of 4, got 6"),
        ("ldlt_resnet_nano", {"widths": (16, 8)}, "must not fall from stage to stage"),
        ("ldlt_resnet_nano", {"depths": (1,)}, "the same number of stages"),
        ("sll_resnet_nano", {"hidden_depth": 2}, "block='sll' takes no hidden_depth"),
        ("sll_resnet_nano", {"block": "orthogonal", "split": "even"}, "takes no split"),
    ],
)
def test_bad_input_is_refused_by_name(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **options)


@pytest.mark.parametrize("name", [name for name in NANO if "mlp" in name])
def test_an_input_of_another_size_is_refused(name):
    with pytest.raises(ValueError, match="in_features=64 values a sample"):
        build(name)(torch.zeros(2, 65))
