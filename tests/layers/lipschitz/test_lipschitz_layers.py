"""The siblings of the LDLᵀ block: bounds, exact limits, isometries, heads and margins."""

import math

import pytest
import torch
from archzoo.layers.lipschitz import (
    AOLConv2d,
    AOLLinear,
    ContractionConv1x1,
    ContractionLinear,
    GlobalScaledPool,
    GroupSort,
    LDLTBlock,
    LipschitzLayer,
    LMIBlock,
    MaxMin,
    NormalizedLinear,
    OrthogonalConv2d,
    PadChannels,
    SandwichLayer,
    ScaledAvgPool2d,
    SLLBlock,
    SLLConv2d,
    SpaceToDepth,
    export_plain,
    margin_logits,
    margin_radius,
    pairwise_radius,
)
from archzoo.layers.lipschitz.orthogonal import block_reflector
from archzoo.layers.lipschitz.sandwich import cayley
from torch import nn
from torch.nn import functional as F

from ...close import assert_close_in_scale
from .lipschitz_cases import deployed, jacobian_norm, noisy, pair_ascent, smallest

LAYERS = {
    "sll": (lambda: SLLBlock(6, 9), (6,)),
    "sll of 2": (lambda: SLLBlock(6, 4, lipschitz=2.0, activation="tanh"), (6,)),
    "sandwich": (lambda: SandwichLayer(6, 4), (6,)),
    "sandwich of 3": (lambda: SandwichLayer(3, 5, lipschitz=3.0, activation="tanh"), (3,)),
    "aol": (lambda: AOLLinear(5, 7), (5,)),
    "aol of 2": (lambda: AOLLinear(7, 5, lipschitz=2.0, bias=False), (7,)),
    "contraction": (lambda: ContractionLinear(5, 7, lipschitz=2.0), (5,)),
    "contraction 1x1": (lambda: ContractionConv1x1(5, 3), (5, 3, 4)),
    "sll conv": (lambda: SLLConv2d(3, 4), (3, 5, 6)),
    "sll conv of ½": (lambda: SLLConv2d(2, kernel_size=5, lipschitz=0.5), (2, 5, 5)),
    "aol conv": (lambda: AOLConv2d(3, 4), (3, 5, 6)),
    "orthogonal conv": (lambda: OrthogonalConv2d(4), (4, 5, 6)),
    "circular orthogonal conv": (lambda: OrthogonalConv2d(4, padding=0, rank=1), (4, 5, 6)),
    "normalized": (lambda: NormalizedLinear(4, 3), (4,)),
}
ISOMETRIES = {
    "space to depth": (SpaceToDepth(2), (2, 5, 4)),
    "pad channels": (PadChannels(2), (2, 3, 3)),
    "scaled pool": (ScaledAvgPool2d(2), (2, 4, 6)),
    "global pool": (GlobalScaledPool(), (2, 5, 4)),
    "maxmin": (MaxMin(), (4, 3, 3)),
    "groupsort": (GroupSort(3, dim=-1), (6,)),
}
layers = pytest.mark.parametrize("name", LAYERS)


def build(name: str, size: float = 0.7) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a layer far from its start, and the shape of a sample."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    return noisy(make(), size), shape


@pytest.mark.parametrize("size", [0.7, 30.0])
@layers
def test_no_jacobian_passes_the_bound_of_its_layer(name, size):
    module, shape = build(name, size)
    x = torch.randn(3, *shape, dtype=torch.float64)
    # float64: a few hundred roundings.
    assert jacobian_norm(module.double(), x) <= module.lipschitz * (1 + 1e-10)


@pytest.mark.parametrize("name", ["sll", "sll of 2", "sandwich", "sandwich of 3"])
def test_a_sibling_satisfies_the_same_inequality(name):
    module, shape = build(name, 2.0)
    assert deployed(module.effective(), module.lipschitz * (1 + 1e-6)) >= 0  # float32 weights
    block = module.double().effective()
    assert isinstance(block, LMIBlock)
    assert smallest(block, module.lipschitz) >= -1e-10
    assert pair_ascent(module, shape) <= module.lipschitz * (1 + 1e-9)


@layers
def test_an_exported_layer_is_plain_and_computes_the_same(name):
    module, shape = build(name)
    module.eval()
    x = torch.randn(3, *shape)
    y = module(x)
    plain = module.export()
    assert all(
        "lipschitz" not in type(m).__module__ or not list(m.parameters(recurse=False))
        for m in plain.modules()
    )
    # float32; a Fourier product sums all pixels of the image in another order.
    assert_close_in_scale(plain(x), y, 3e-5)


@layers
def test_a_layer_trains_all_its_parameters(name):
    module, shape = build(name)
    out = module(torch.randn(3, *shape))
    (out * torch.linspace(-1, 2, out.numel()).view_as(out)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


# What each is made of.


def test_an_sll_block_is_the_formula_of_its_paper():
    torch.manual_seed(0)
    module = noisy(SLLBlock(5, 7)).double()
    w, q = module.weight.mT, module.log_q.exp()
    t = ((w.mT @ w).abs() * q[None] / q[:, None]).sum(1)
    x = torch.randn(4, 5, dtype=torch.float64)
    theirs = x - 2 * F.relu(x @ w + module.bias) / t @ w.mT
    torch.testing.assert_close(module(x), theirs, rtol=1e-10, atol=1e-10)


def test_an_ldlt_block_takes_an_sll_block_as_its_parameters():
    torch.manual_seed(0)
    sll = noisy(SLLBlock(5, 7), 0.1).double()
    block = sll.effective()
    ldlt = LDLTBlock(5, (7,), skip="identity").double()
    ldlt.load_block(block, [sll.bias])
    with torch.no_grad():
        ldlt.out_bias.zero_()
    x = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(ldlt(x), sll(x), rtol=1e-10, atol=1e-10)


def test_a_cayley_factor_has_orthonormal_columns_and_leaves_a_layer_at_its_bound():
    x = torch.randn(9, 4, dtype=torch.float64)
    q = cayley(x)
    torch.testing.assert_close(q.mT @ q, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.manual_seed(0)
    block = SandwichLayer(6, 4).double().effective()
    assert abs(smallest(block, 1.0)) < 1e-12


@pytest.mark.parametrize("make", [AOLLinear, lambda a, b: SLLBlock(a, b)])
def test_a_diagonal_bound_is_tight_for_orthogonal_weights(make):
    torch.manual_seed(0)
    module = make(6, 6).double()
    nn.init.orthogonal_(module.weight)
    x = torch.randn(40, 6, dtype=torch.float64)
    assert jacobian_norm(module, x) > 1 - 1e-9


@pytest.mark.parametrize("module", [AOLLinear(4, 4), AOLConv2d(2, 2), SLLBlock(4), SLLConv2d(2)])
def test_weights_of_zero_stay_finite(module):
    nn.init.zeros_(module.weight)
    x = torch.randn(2, 4) if module.weight.dim() == 2 else torch.randn(2, 2, 4, 4)
    assert module(x).isfinite().all()


def test_a_block_reflector_is_orthogonal_even_without_full_rank():
    v = torch.randn(3, 5, 2, dtype=torch.complex128)
    w = block_reflector(v)
    eye = torch.eye(5, dtype=torch.complex128).expand(3, 5, 5)
    torch.testing.assert_close(w @ w.mH, eye, rtol=0, atol=1e-12)
    v[..., 1] = v[..., 0]
    assert torch.linalg.matrix_norm(block_reflector(v), 2).max() <= 1 + 1e-12
    assert torch.linalg.matrix_norm(block_reflector(0 * v), 2).max() <= 1 + 1e-12


def test_a_circular_orthogonal_convolution_keeps_every_distance():
    torch.manual_seed(0)
    module = noisy(OrthogonalConv2d(6, padding=0)).double()
    x = torch.randn(2, 4, 6, 5, 5, dtype=torch.float64)
    before = (x[0] - x[1]).flatten(1).norm(dim=1)
    after = (module(x[0]) - module(x[1])).flatten(1).norm(dim=1)
    torch.testing.assert_close(after, before, rtol=1e-11, atol=0)


@pytest.mark.parametrize("name", ISOMETRIES)
def test_a_change_of_shape_has_norm_exactly_one(name):
    module, shape = ISOMETRIES[name]
    x = torch.randn(2, *shape, dtype=torch.float64)
    assert jacobian_norm(module, x) == pytest.approx(module.lipschitz, abs=1e-12)


def test_an_odd_side_is_padded_before_it_is_halved():
    x = torch.randn(1, 2, 5, 4)
    y = SpaceToDepth(2)(x)
    assert y.shape == (1, 8, 3, 2)
    assert y.square().sum() == pytest.approx(float(x.square().sum()), rel=1e-6)


def test_sorting_is_by_groups():
    x = torch.tensor([[3.0, 1.0, 2.0, 5.0]])
    assert MaxMin(dim=-1)(x).tolist() == [[1.0, 3.0, 2.0, 5.0]]
    assert GroupSort(4, dim=-1)(x).tolist() == [[1.0, 2.0, 3.0, 5.0]]
    with pytest.raises(ValueError, match="length 4 is no multiple of group_size=3"):
        GroupSort(3, dim=-1)(x)


def test_a_network_is_exported_whole_and_left_as_it_was():
    torch.manual_seed(0)
    net = nn.Sequential(
        SpaceToDepth(2), nn.Sequential(SLLConv2d(4), MaxMin()), nn.Flatten(), AOLLinear(36, 4)
    ).eval()
    plain = export_plain(net)
    x = torch.randn(2, 1, 6, 6)
    torch.testing.assert_close(plain(x), net(x), rtol=1e-6, atol=1e-6)
    assert type(plain[3]) is nn.Linear and type(net[3]) is AOLLinear
    assert not plain.training
    assert export_plain(net[3]).in_features == 36


def test_a_layer_that_stands_in_several_places_is_exported_in_all_of_them():
    block = SLLBlock(4).eval()
    net = nn.Sequential(block, nn.Sequential(block, nn.ReLU()), block)
    plain = export_plain(net)
    assert not any(isinstance(m, LipschitzLayer) for m in plain.modules())
    assert plain[0] is plain[1][0] is plain[2] and net[2] is block
    x = torch.randn(3, 4)
    torch.testing.assert_close(plain(x), net(x))


# Heads and margins.


def test_rows_of_norm_one_bound_each_logit_and_not_the_vector():
    torch.manual_seed(0)
    head = NormalizedLinear(3, 6).double()
    weight = head.effective().weight
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(6, dtype=torch.float64))
    assert 1 < torch.linalg.matrix_norm(weight, 2) <= head.lipschitz == math.sqrt(6)


def test_the_pairwise_radius_is_never_below_the_radius_of_the_vector():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 5, generator=g, dtype=torch.float64)
    weight = torch.randn(5, 7, generator=g, dtype=torch.float64)
    whole = margin_radius(logits, 1.5 * float(torch.linalg.matrix_norm(weight, 2)))
    pairs = pairwise_radius(logits, weight, 1.5)
    assert (pairs >= whole).all() and (pairs > 1.01 * whole).any()


def test_the_pairwise_radius_of_a_linear_classifier_is_its_distance_to_the_boundary():
    g = torch.Generator().manual_seed(1)
    weight, x = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((4, 6), (50, 6)))
    logits = x @ weight.mT
    radius = pairwise_radius(logits, weight, 1.0)
    top = logits.argmax(1)
    for i in range(len(x)):
        toward = weight - weight[top[i]]
        gaps = (logits[i, top[i]] - logits[i]) / toward.norm(dim=1)
        gaps[top[i]] = math.inf
        j = int(gaps.argmin())
        step = toward[j] / toward[j].norm() * radius[i]
        assert ((x[i] + 0.999 * step) @ weight.mT).argmax() == top[i]
        assert ((x[i] + 1.001 * step) @ weight.mT).argmax() == j


def test_a_tie_has_no_radius():
    logits = torch.tensor([[1.0, 1.0, 0.0]])
    assert margin_radius(logits, 1.0).item() == 0
    assert pairwise_radius(logits, torch.eye(3), 1.0).item() == 0
    assert pairwise_radius(logits, torch.ones(3, 2), 1.0).item() == 0


def test_the_offset_is_taken_from_the_true_logit():
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0]])
    shifted = margin_logits(logits, torch.tensor([0, 1]), 0.5, 0.25)
    offset = math.sqrt(2) * 0.5
    expected = torch.tensor([[2.0 - offset, 1.0], [0.0, 1.0 - offset]]) / 0.25
    torch.testing.assert_close(shifted, expected)
    shares = margin_logits(logits, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 0.5, 0.25)
    torch.testing.assert_close(shares, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AOLLinear(0, 2), "in_features must be at least 1, got 0"),
        (lambda: SLLBlock(3, lipschitz=0), "lipschitz must be a positive number, got 0"),
        (lambda: SLLBlock(3, activation="gelu"), "'gelu' has slopes"),
        (lambda: SLLConv2d(3, kernel_size=4), "kernel_size must be odd"),
        (lambda: SandwichLayer(3, 3, activation=nn.LayerNorm(3)), "a norm layer"),
        (lambda: OrthogonalConv2d(4, rank=4), r"rank must lie in \[1, 4\), got 4"),
        (lambda: OrthogonalConv2d(4).export(), "set image_size, or run the layer once"),
        (lambda: ContractionLinear(3, 3, lipschitz=-1), "lipschitz must be a positive number"),
        (lambda: GroupSort(1), "group_size must be at least 2"),
        (lambda: SpaceToDepth(0), "factor must be at least 1"),
        (lambda: PadChannels(-1), "extra must be at least 0"),
        (lambda: ScaledAvgPool2d(0), "kernel_size must be at least 1"),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
