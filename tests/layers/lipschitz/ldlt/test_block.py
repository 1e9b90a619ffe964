"""The LDLᵀ block as a module: what it refuses, deploys, caches, exports and takes back."""

import copy

import pytest
import torch
from archzoo.layers.lipschitz import (
    ACTIVATIONS,
    LDLTBlock,
    LDLTCircularConv2d,
    lmi_matrix,
    make_activation,
)
from torch import nn

from ..lipschitz_cases import deployed, jacobian_norm, noisy, pair_ascent, smallest, worst_pattern

BLOCKS = {
    "identity": {"hidden": (7,), "skip": "identity"},
    "given": {"hidden": (7,), "skip": 0.5 * torch.eye(6)},
    "orthogonal": {"hidden": (7,), "skip": torch.eye(6).flip(0)},
    "one": {"hidden": (7,)},
    "two": {"hidden": (7, 5)},
    "skip": {"hidden": (7, 5), "wiring": "skip_first"},
    "chain": {"hidden": (7, 5), "wiring": "chain_first", "out_width": 4},
    "taps": {"hidden": (7, 5, 6), "wiring": "taps"},
    "dense": {"hidden": (7, 5), "wiring": "dense"},
    "none": {"hidden": (7, 5), "skip": "none", "out_width": 3},
}
blocks = pytest.mark.parametrize("name", BLOCKS)


def build(name: str, seed: int = 0, size: float = 0.5, **options) -> LDLTBlock:
    """Return a block whose parameters are far from their start."""
    torch.manual_seed(seed)
    return noisy(LDLTBlock(6, **(BLOCKS[name] | options)), size, seed)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("lipschitz", [0.5, 1.0, 3.0])
@blocks
def test_the_weights_of_a_module_satisfy_the_inequality(name, lipschitz, activation):
    if name in ("given", "orthogonal") and lipschitz < 1:
        return  # their skip has a norm of its own
    module = build(name, lipschitz=lipschitz, activation=activation, size=2.0).double()
    assert smallest(module.effective(), lipschitz) >= -1e-10


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
@blocks
def test_the_float32_weights_verify_within_a_millionth(name, size):
    module = build(name, size=size, lipschitz=1.0)
    assert all(p.dtype == torch.float32 for p in module.parameters())
    assert deployed(module.effective(), 1.0 + 1e-6) >= 0.0


@blocks
def test_no_pair_of_inputs_passes_the_bound(name):
    module = build(name, size=3.0, activation="tanh").double()
    assert pair_ascent(module, (6,)) <= 1 + 1e-9


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_allowed_activation_keeps_the_bound(activation):
    module = build("two", size=3.0, activation=activation).double()
    x = 3 * torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert jacobian_norm(module, x) <= 1 + 1e-9
    slope = make_activation(activation)
    z = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    steps = slope(z).diff() / z.diff()
    assert steps.min() >= -1e-9 and steps.max() <= 1 + 1e-9


def test_the_worst_pattern_of_a_module_is_that_of_its_weights():
    module = build("two", size=2.0).double()
    x = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert jacobian_norm(module, x) <= worst_pattern(module.effective()) <= 1 + 1e-9


@blocks
def test_the_bound_scales_the_input(name):
    if name in ("given", "orthogonal"):
        return  # their skip stays what was given
    one, three = (build(name, lipschitz=bound).double() for bound in (1.0, 3.0))
    x = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(three(x), one(3 * x), rtol=1e-12, atol=1e-12)


def test_multipliers_are_learned_where_they_matter():
    names = dict(build("two").named_parameters())
    assert not any("multiplier" in name for name in names)
    names = dict(build("two", activation="tanh").named_parameters())
    assert {"log_multiplier1", "log_multiplier2"} <= names.keys()


def test_a_fresh_block_of_two_layers_has_four_fifths_of_the_identity_as_its_skip():
    torch.manual_seed(0)
    skip = LDLTBlock(5, (5, 5)).double().effective().skip
    # κ = 1.33: κ/√(1 + κ²) = 0.7993.
    assert (skip - 0.7993 * torch.eye(5, dtype=torch.float64)).abs().max() < 1e-4


# The way back in float32.

NARROW = [
    {"hidden": (7,), "out_width": 5},
    {"hidden": (150,), "lipschitz": 2.0},
    {"hidden": (3, 4), "lipschitz": 0.5},
    {"hidden": (9, 5), "out_width": 7},  # more rows than columns in the one contraction
    {"hidden": (150, 300)},
]


@pytest.mark.parametrize("size", [0.1, 30.0])
@pytest.mark.parametrize("options", NARROW, ids=str)
def test_a_float32_block_has_the_weights_of_its_definition_and_their_gradients(options, size):
    torch.manual_seed(0)
    module = noisy(LDLTBlock(6, **options), size)
    wide = copy.deepcopy(module).double()
    found, defined = ([w for w in m.weights() if w.requires_grad] for m in (module, wide))
    assert all("Single" in type(w.grad_fn).__name__ for w in found)
    torch.testing.assert_close(found, [w.float() for w in defined], rtol=0, atol=0)
    of = [torch.randn_like(w) for w in found]
    names = [name for name, _ in module.named_parameters() if "bias" not in name]
    ours = torch.autograd.grad(found, [module.get_parameter(n) for n in names], of)
    theirs = torch.autograd.grad(
        defined, [wide.get_parameter(n) for n in names], [g.double() for g in of]
    )
    for one, other in zip(ours, theirs, strict=True):
        # ε of float32 times the condition number of a factor: up to 400 for 150 rows.
        assert (one - other).norm() <= 400 * torch.finfo(torch.float32).eps * other.norm()


@pytest.mark.parametrize("options", [NARROW[0], NARROW[2]], ids=str)
def test_a_second_derivative_is_that_of_the_definition(options):
    torch.manual_seed(0)
    module = noisy(LDLTBlock(6, **options))
    found = []
    for m in (module, copy.deepcopy(module).double()):
        own = [p for name, p in m.named_parameters() if "bias" not in name]
        total = sum(w.pow(3).sum() for w in m.weights())
        first = torch.autograd.grad(total, own, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), own))
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()  # float32


# Refusals.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": ()}, "at least one inner layer"),
        ({"hidden": (3, 0)}, "at least 1"),
        ({"hidden": (3,), "lipschitz": 0.0}, "lipschitz must be a positive number, got 0.0"),
        ({"hidden": (3,), "lipschitz": -1.0}, "lipschitz must be a positive number, got -1.0"),
        ({"hidden": (3,), "lipschitz": float("nan")}, "lipschitz must be a positive number"),
        ({"hidden": (3, 3), "skip": "identity"}, "skip='identity' with 2 inner layers"),
        ({"hidden": (3, 3), "skip": torch.eye(6)}, "a given matrix with 2 inner layers"),
        ({"hidden": (3,), "skip": "identity", "out_width": 4}, "out_width = width = 6, got 4"),
        ({"hidden": (3,), "skip": 1.1 * torch.eye(6)}, "skip has norm 1.1, above lipschitz=1"),
        ({"hidden": (3,), "skip": torch.eye(5)}, r"shape \(6, 6\), got \(5, 5\)"),
        ({"hidden": (3,), "skip": "dense"}, "skip must be 'learned', 'identity', 'none'"),
        ({"hidden": (3,), "wiring": "tap"}, "wiring must be one of"),
        ({"hidden": (3, 3, 3), "wiring": "joint"}, "two inner layers, got 3; use 'skip_first'"),
        ({"hidden": (3, 3), "gain": 1e5}, "gain=100000 and skip_gain=1.33 start a block so near"),
        ({"hidden": (3,), "wiring": "taps", "skip": "identity"}, "form of its own"),
        ({"hidden": (3,), "wiring": "taps", "skip": "none"}, "feed_forward"),
        ({"hidden": (3,), "activation": "gelu"}, r"'gelu' has slopes in \[-0.1289, 1.1289\]"),
        ({"hidden": (3,), "activation": nn.SiLU()}, "'SiLU' has slopes in"),
        ({"hidden": (3,), "activation": "maxmin"}, "put it between blocks"),
        ({"hidden": (3,), "activation": nn.LayerNorm(3)}, "'LayerNorm' has a norm layer"),
        ({"hidden": (3,), "activation": nn.BatchNorm1d(3)}, "'BatchNorm1d' has a norm layer"),
        ({"hidden": (3,), "activation": nn.Dropout()}, "a factor above 1 in training"),
        ({"hidden": (3,), "activation": nn.ELU(1.5)}, "slopes outside"),
        ({"hidden": (3,), "activation": "reluu"}, "use one of relu"),
    ],
)
def test_what_has_no_bound_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        LDLTBlock(6, **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("make", [lambda: LDLTBlock(4, (4,)), lambda: LDLTCircularConv2d(2, (3,))])
def test_parameters_that_are_no_numbers_are_refused_when_the_map_runs(make, value):
    module = make()
    with torch.no_grad():
        module.k1.view(-1)[0] = value
    x = torch.zeros(1, 4) if isinstance(module, LDLTBlock) else torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match="the parameter k1 holds NaN or infinite values"):
        module(x)


# Cached weights.


@blocks
def test_evaluation_maps_once_and_any_change_maps_anew(name):
    module = build(name).eval()
    calls = []
    compute = module.compute
    module.compute = lambda own: calls.append(1) or compute(own)
    x = torch.randn(2, 6)

    def count() -> int:
        calls.clear()
        with torch.no_grad():
            before = module(x)
            torch.testing.assert_close(module(x), before, rtol=0, atol=0)
        return len(calls)

    assert count() == 1 and count() == 0
    module.train().eval()
    assert count() == 1 and count() == 0
    module.load_state_dict(copy.deepcopy(module.state_dict()))
    assert count() == 0  # the same numbers
    module.load_state_dict({n: 0.9 * t for n, t in module.state_dict().items()})
    assert count() == 1 and count() == 0
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    assert count() == 1 and count() == 0
    module.double().float()
    assert count() == 0
    module.bfloat16().float()
    assert count() == 1
    module.train()
    assert count() == 2  # training never keeps


def test_a_gradient_reaches_the_parameters_in_evaluation_too():
    module = build("two").eval()
    with torch.no_grad():
        kept = module(torch.ones(1, 6))
    out = module(torch.ones(1, 6))
    out.sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    torch.testing.assert_close(out, kept, rtol=0, atol=0)


def test_frozen_parameters_are_mapped_once_for_gradients_of_the_input():
    module = build("two").eval().requires_grad_(False)
    calls = []
    compute = module.compute
    module.compute = lambda own: calls.append(1) or compute(own)
    for _ in range(3):
        x = torch.ones(1, 6, requires_grad=True)
        module(x).sum().backward()
        assert x.grad is not None
    assert len(calls) == 1


def test_autocast_does_not_reach_the_map():
    module = build("two").eval()
    plain = module.effective()
    module.forget()
    with torch.autocast("cpu", torch.bfloat16):
        inside = module.effective()
    torch.testing.assert_close(inside, plain, rtol=0, atol=0)


# Export and loading.


@blocks
def test_an_exported_block_is_plain_and_computes_the_same(name):
    module = build(name, activation="tanh").eval()
    plain = module.export()
    allowed = (type(plain), nn.Linear, nn.Tanh, nn.ModuleList, nn.Identity)
    kinds = {type(m).__name__ for m in plain.modules() if not isinstance(m, allowed)}
    assert kinds <= {"Scale"}
    x = torch.randn(9, 6)
    # float32: the same products and sums, in one other order where a bias moves.
    torch.testing.assert_close(plain(x), module(x), rtol=1e-6, atol=1e-6)
    for p in plain.parameters():
        p.data.zero_()
    assert module(x).abs().max() > 0  # nothing is shared


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("name", [n for n in BLOCKS if n not in ("given", "orthogonal")])
def test_a_certified_plain_block_is_taken_as_parameters(name, activation):
    source = build(name, seed=1, activation=activation).double()
    target = build(name, seed=2, activation=activation).double()
    block = source.effective()
    if activation == "relu":  # a certificate of other multipliers: those of a rescaled hidden layer
        t = torch.linspace(0.5, 2.0, 7, dtype=torch.float64)
        d, later = block.widths[0], [c.clone() for c in block.inner[1:]]
        if later:
            columns = slice(d, d + 7) if later[0].shape[1] > 7 else slice(0, 7)
            later[0][:, columns] /= t
        taps = [block.taps[0] / t if block.taps[0] is not None else None, *block.taps[1:]]
        if len(later) > 1 and name == "dense":
            raise AssertionError("the rescaling above reaches one later layer only")
        block = block._replace(
            inner=(t[:, None] * block.inner[0], *later),
            taps=tuple(taps),
            multipliers=(block.multipliers[0] / t**2, *block.multipliers[1:]),
        )
    assert smallest(block, 1.0) >= -1e-10
    biases = [source.get_parameter(f"bias{k}") for k in range(1, len(source.widths))]
    if activation == "relu":
        biases[0] = biases[0] * t
    target.load_block(block, biases)
    with torch.no_grad():
        target.out_bias.copy_(source.out_bias)
    x = torch.randn(9, 6, dtype=torch.float64)
    torch.testing.assert_close(target(x), source(x), rtol=1e-9, atol=1e-9)


def test_a_block_that_a_form_cannot_hold_is_refused():
    block = build("two").double().effective()
    with pytest.raises(ValueError, match="has no skip"):
        LDLTBlock(6, (7, 5), skip="none").double().load_block(block)
    with pytest.raises(ValueError, match="no inverse map"):
        build("given").load_block(build("one").effective())
    with pytest.raises(ValueError, match="cannot represent the block"):
        build("identity").double().load_block(build("one").double().effective())
    with pytest.raises(ValueError, match="not strictly certified"):
        LDLTBlock(6, (7, 5), lipschitz=0.2).double().load_block(block)


# Circular convolutions.


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": (4,)},
        {"hidden": (4,), "activation": "tanh", "lipschitz": 2.0},
        {"hidden": (3,), "skip": "learned", "out_channels": 2},
        {"hidden": (3, 4), "skip": "learned", "padding": 1},
        {"hidden": (3, 4, 2), "skip": "learned", "wiring": "chain_first"},
    ],
)
def test_a_circular_block_holds_at_every_frequency_and_for_the_image(options):
    torch.manual_seed(0)
    module = noisy(LDLTCircularConv2d(3, **options)).double().eval()
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    y = module(x)
    block = module.effective()
    assert torch.linalg.eigvalsh(lmi_matrix(block, module.lipschitz)).min() >= -1e-10
    assert jacobian_norm(module, x) <= module.lipschitz * (1 + 1e-9)
    torch.testing.assert_close(module.export()(x), y, rtol=1e-11, atol=1e-11)


def test_a_circular_block_without_borders_commutes_with_shifts():
    torch.manual_seed(0)
    module = noisy(LDLTCircularConv2d(2, (3,))).double()
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    shifted = module(x.roll((2, 3), (-2, -1)))
    torch.testing.assert_close(shifted, module(x).roll((2, 3), (-2, -1)), rtol=1e-11, atol=1e-11)


def test_the_weights_of_a_circular_block_belong_to_the_image_size():
    module = LDLTCircularConv2d(2, (3,)).eval()
    with pytest.raises(ValueError, match="set image_size, or run the block once"):
        module.effective()
    with torch.no_grad():
        module(torch.zeros(1, 2, 5, 6))
        assert module.effective().inner[0].shape == (5, 4, 3, 2)
        module(torch.zeros(1, 2, 4, 4))
        assert module.effective().inner[0].shape == (4, 3, 3, 2)
    fixed = LDLTCircularConv2d(2, (3,), image_size=(4, 4))
    assert fixed.effective().inner[0].shape == (4, 3, 3, 2)
    with pytest.raises(ValueError, match=r"built for images of \(4, 4\), got \(5, 5\)"):
        fixed(torch.zeros(1, 2, 5, 5))
    with pytest.raises(ValueError, match="an image at least as large, got 2×2"):
        module(torch.zeros(1, 2, 2, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 2}, "kernel_size must be odd"),
        ({"hidden": (3, 3)}, "skip='identity' with 2 inner layers"),
        ({"out_channels": 3}, "out_channels = channels = 2, got 3"),
        ({"padding": -1}, "padding=-1 at least 0"),
        ({"skip": "none"}, "skip must be 'identity' or 'learned'"),
        ({"activation": "silu"}, "'silu' has slopes in"),
    ],
)
def test_a_circular_block_refuses_the_same(options, message):
    with pytest.raises(ValueError, match=message):
        LDLTCircularConv2d(2, **({"hidden": (3,)} | options))
