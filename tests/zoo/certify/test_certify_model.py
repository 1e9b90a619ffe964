"""A certificate is above every search, below no attack, and says why where there is none."""

import copy
import functools
import itertools
import json
import math

import pytest
import torch
from archzoo.layers.hyperbolic import ClipTangent, PoincareMLR, ToBall
from archzoo.layers.lipschitz import LDLTBlock, SLLConv2d
from archzoo.layers.residual import Add, ElcBert, HyperConnections, Parallel, Scaled
from archzoo.zoo import create_model, list_models, use_hyperbolic_head
from archzoo.zoo.certify.bounds import Bounds
from archzoo.zoo.certify.certificate import plot_certificate
from archzoo.zoo.certify.certify_model import certify
from archzoo.zoo.certify.graph import Elementwise
from archzoo.zoo.certify.lower_bound import lipschitz_estimate
from archzoo.zoo.certify.recording import graph_of
from archzoo.zoo.models import models
from torch import nn

from ...tiers import tiered
from ..small_models import EVERYWHERE, KINDS

FLAT = {"geometry": "euclidean", "head": "linear"}
TINY = {"width": 8, "depth": 2}


def samples(model: nn.Module, count: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, *model.default_cfg["input_size"], generator=generator)


def sequence(*layers: nn.Module, seed: int = 0) -> nn.Sequential:
    """Layers with weights that are large enough for bounds to be seen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in layers:
            for p in layer.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * (0.5 if p.dim() > 1 else 0.2))
    return nn.Sequential(*layers)


def shaken(model: nn.Module, scale: float = 0.2) -> nn.Module:
    """Move every parameter and statistic off its start, so that no rule rests on it."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator) / max(1, p.shape[-1]) ** 0.5)
        for name, b in model.named_buffers():
            if name.endswith("running_var"):
                b.mul_(0.5 + torch.rand(b.shape, generator=generator))
            elif name.endswith("running_mean"):
                b.add_(0.3 * torch.randn(b.shape, generator=generator))
    return model.eval()


SMALL = {
    "width": 16,
    "depth": 2,
    "widths": (4, 8),
    "depths": (2, 1),
    "img_size": 16,
    "patch_size": 8,
    "num_heads": 2,
    "vocab_size": 32,
    "context_length": 8,
    "num_nodes": 20,
    "num_classes": 10,
}


@pytest.mark.parametrize("name", tiered(list_models(), KINDS))
def test_every_model_gets_a_bound_or_a_reason(name):
    options = {k: v for k, v in SMALL.items() if k in models[name].options}
    if "resnet" in name and "widths" in options and "ldlt" not in name and "sll" not in name:
        options["widths"], options["depths"] = (8, 16), (2, 1)
    model = create_model(name, **options)
    certificate = certify(model, method="product", estimate=False)
    if certificate.lipschitz == math.inf:
        assert certificate.reasons and certificate.method == "none" and not certificate.rigorous
        assert all(": " in reason for reason in certificate.reasons)
        assert not any("no rule is known" in reason for reason in certificate.reasons)
    else:
        assert certificate.lipschitz > 0 and certificate.rigorous and not certificate.reasons
        assert certificate.per_block


BOUNDED = {
    "add", "scaled", "skip_init", "rezero", "layer_scale", "deepnorm", "denseformer", "elc_bert",
    "embedding_skip", "parallel",
}  # fmt: skip


@pytest.mark.parametrize("residual", EVERYWHERE)
def test_a_mechanism_has_a_finite_constant_exactly_if_its_weights_are_fixed(residual):
    model = shaken(create_model("poincare_mlp_nano", residual=residual, **FLAT, **TINY))
    certificate = certify(model)
    if residual in BOUNDED:
        assert 0 < certificate.lower_bound <= certificate.lipschitz < math.inf
    else:
        assert certificate.lipschitz == math.inf
        assert any(reason.startswith("trunk") for reason in certificate.reasons)


FIXED_WEIGHTS = [
    functools.partial(HyperConnections, dynamic=False, streams=2),
    functools.partial(HyperConnections, dynamic=False),
    functools.partial(Parallel, group=None, learned=True, per_channel=True),
    functools.partial(Scaled, learned=True, per_channel=True, exponent=0.0),
    *(functools.partial(ElcBert, flavour=f) for f in ("base", "zero", "weighted_output")),
    "denseformer",
    "embedding_skip",
    "deepnorm",
    "add",
]


@pytest.mark.parametrize(
    ("name", "residual"),
    tiered(
        itertools.product(
            ["poincare_mlp_nano", "resnet_nano", "poincare_resnet_nano"], FIXED_WEIGHTS
        ),
        lambda name, residual: (
            "mlp" in name or (name == "resnet_nano" and residual in FIXED_WEIGHTS[::4])
        ),
    ),
)
def test_no_search_exceeds_the_bound_over_a_mechanism(name, residual):
    options = dict(FLAT) if name.startswith("poincare") else {}
    options |= TINY if "mlp" in name else {"widths": (4, 8), "depths": (2, 2)}
    model = shaken(create_model(name, residual=residual, **options), scale=0.5)
    x = samples(model, 3)[..., :16, :16] if "resnet" in name else samples(model, 3)
    certificate = certify(model, x, attack=False, method="product", estimate=False)
    found = lipschitz_estimate(copy.deepcopy(model).double(), x, points=3, power=6, steps=8)
    assert 0 < found <= certificate.lipschitz < math.inf


def test_a_hyperbolic_head_has_a_bound_behind_a_clip_only():
    plain = create_model("resnet_nano", img_size=8, widths=(4,), depths=(1,))
    clipped = certify(use_hyperbolic_head(plain, clip=1.0))
    assert 0 < clipped.lower_bound <= clipped.lipschitz < math.inf
    unclipped = certify(use_hyperbolic_head(plain, clip=None))
    assert unclipped.lipschitz == math.inf
    assert "head: PoincareMLR has no radius clip" in unclipped.reasons[0]


@pytest.mark.parametrize("curvature", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("clip", [0.3, 1.0, 3.0])
def test_the_ball_s_head_is_bounded_and_the_bound_is_reached_at_the_clip(curvature, clip):
    head = PoincareMLR(6, 2, curvature=curvature, clip=clip)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2, 6))
        head.offset.zero_()
    certificate = certify(sequence_of(head), torch.randn(4, 6), attack=False)
    wide = copy.deepcopy(head).double()
    # Across the radius, beside the hyperplane, the distance grows as fast as the ball is stretched.
    x = torch.zeros(1, 6, dtype=torch.float64)
    x[0, 3] = 0.999999 * clip
    jacobian = torch.autograd.functional.jacobian(lambda t: wide(t)[0, :1], x).flatten()
    each = certificate.lipschitz / math.sqrt(2)
    assert 0.99 * each < float(jacobian.norm()) <= each


def sequence_of(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


def test_the_exponential_map_and_the_clip_never_stretch():
    model = sequence_of(ClipTangent(2.0), ToBall(curvature=2.0))
    x = 0.01 * torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    certificate = certify(model, x, attack=False)
    assert certificate.lipschitz == 1.0
    assert 0.9 < certificate.lower_bound <= 1.0


FUNCTIONS = [nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.LogSigmoid,
             nn.Softsign, nn.Softshrink, nn.CELU, nn.Hardsigmoid, nn.SELU, nn.GELU, nn.SiLU,
             nn.Mish, nn.Hardswish, nn.LeakyReLU, nn.ELU, nn.PReLU]  # fmt: skip


@pytest.mark.parametrize("kind", FUNCTIONS, ids=lambda k: k.__name__)
def test_no_slope_of_an_activation_lies_outside_its_interval(kind):
    graph = graph_of(kind().double().eval(), torch.randn(2, 1, dtype=torch.float64))
    (atom,) = (node for node in graph.nodes if isinstance(node, Elementwise))
    low, high = float(atom.low), float(atom.high)
    x = torch.linspace(-30, 30, 400_001, dtype=torch.float64)
    y = atom.function(x).detach()
    steps = (y[1:] - y[:-1]) / (x[1:] - x[:-1])
    # A difference of two values near 30 is off by 1e-14, over a step of 1.5e-4.
    assert low - 1e-9 <= float(steps.min()) and float(steps.max()) <= high + 1e-9
    assert max(abs(low), abs(high)) <= 1.001 * float(steps.abs().max())
    apart = (kind().double()(x).detach() - y).abs()
    assert (apart <= atom.step + atom.rounding * (x.abs() + y.abs())).all()


@pytest.mark.parametrize(("beta", "threshold"), [(1.0, 20.0), (0.5, 14.0), (4.0, 30.0)])
def test_the_step_of_softplus_at_its_threshold_is_an_error_of_the_logits(beta, threshold):
    model = nn.Sequential(nn.Softplus(beta, threshold), nn.Linear(3, 2)).double().eval()
    nn.init.eye_(model[1].weight)
    at = threshold / beta
    x = torch.full((2, 3), at, dtype=torch.float64)
    graph = graph_of(model, x)
    above = x * (1 + 2.0**-40)  # on the other side of the step
    drop = float((graph(above) - model(above).detach()).norm(dim=1).max())
    assert drop == pytest.approx(math.sqrt(2) * math.log1p(math.exp(-threshold)) / beta, rel=1e-2)
    # Samples far below the threshold know of the step too: an attack may cross it.
    small = torch.zeros(1, 3, dtype=torch.float64)
    assert certify(model, small, attack=False).slack >= 4 * drop


def test_a_softplus_that_steps_down_visibly_is_refused():
    for options in ((1.0, 5.0), (-1.0, 20.0)):
        found = certify(nn.Sequential(nn.Softplus(*options), nn.Linear(3, 2)), torch.ones(2, 3))
        assert found.lipschitz == math.inf and "threshold of at least 14" in found.reasons[0]


LAYERS = {
    "overlapping pools": lambda: (nn.Conv2d(2, 4, 3, padding=1), nn.MaxPool2d(3, 2, 1),
                                  nn.AvgPool2d(3, 2, 1)),
    "pools with a remainder": lambda: (nn.AvgPool2d(3, 2, ceil_mode=True, padding=1,
                                                    count_include_pad=False),
                                       nn.AdaptiveAvgPool2d(3)),
    "batch norms on either side": lambda: (nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 4, 3),
                                           nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 4, 3, 2),
                                           nn.BatchNorm2d(4)),
    "groups and transposes": lambda: (nn.Conv2d(2, 4, 3, groups=2, padding=2, dilation=2),
                                      nn.BatchNorm2d(4), nn.LeakyReLU(0.2),
                                      nn.ConvTranspose2d(4, 2, 3, 2, 1, groups=2)),
    "circular": lambda: (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), nn.GELU(),
                         nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular")),
    "shuffles": lambda: (nn.PixelUnshuffle(2), nn.Conv2d(8, 4, 1), nn.Hardswish(),
                         nn.PixelShuffle(2), nn.Upsample(scale_factor=2), nn.ZeroPad2d(1)),
    "instance norms": lambda: (nn.Conv2d(2, 4, 1), nn.InstanceNorm2d(4, eps=0.1, affine=True)),
    "norms with a floor": lambda: (nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4, eps=0.1), nn.Tanh()),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_no_search_exceeds_the_bound_over_layers_of_torch(name):
    model = shaken(sequence(*LAYERS[name]()), scale=0.1)
    x = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(3))
    model = nn.Sequential(*model, nn.Flatten())
    certificate = certify(model, x, attack=False)
    assert 0.02 * certificate.lipschitz < certificate.lower_bound <= certificate.lipschitz


def test_a_folded_batch_norm_is_tighter_than_a_product_of_constants():
    conv, norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([4.0, 0.1, 0.1, 0.1, 0.1, 0.1]))
        conv.weight[0].mul_(0.1)
    x = torch.randn(2, 3, 6, 6)
    parts = (conv, nn.Flatten()), (conv, norm, nn.Flatten())
    alone, both = (certify(sequence_of(*p), x, attack=False).lipschitz for p in parts)
    assert both < 0.5 * alone * 4.0  # 4 is the norm's own constant


def test_a_dense_network_is_bounded_as_a_whole_by_the_inequality():
    model = sequence(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))
    whole, product = certify(model), certify(model, method="product")
    assert whole.method == "lmi" and product.method == "product"
    assert whole.lower_bound <= whole.lipschitz < 0.8 * product.lipschitz


class Gate(nn.Module):
    """Squares its input: Lipschitz nowhere."""

    def forward(self, x):
        return x * x


class Doubled(nn.Linear):
    """A linear layer in name only."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_a_product_of_two_values_is_named_and_never_counted():
    model = sequence_of(nn.Linear(4, 4), Gate(), nn.Linear(4, 2))
    certificate = certify(model, torch.randn(3, 4))
    assert certificate.lipschitz == math.inf and not certificate.radius.any()
    (reason,) = certificate.reasons
    assert reason.startswith("1: aten.mul.Tensor multiplies two values")
    assert certificate.certified_accuracy == dict.fromkeys(certificate.certified_accuracy, 0.0)


def test_what_a_subclass_a_hook_or_a_forward_of_an_instance_does_is_counted():
    plain = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    x = torch.randn(3, 4)

    def times() -> float:
        return certify(changed, x, attack=False).lipschitz / certify(plain, x).lipschitz

    changed = nn.Sequential(Doubled(4, 4), plain[1])
    changed[0].load_state_dict(plain[0].state_dict())
    assert times() == pytest.approx(2.0)
    changed = copy.deepcopy(plain)
    changed[0].register_forward_hook(lambda module, inputs, output: 5 * output)
    assert times() == pytest.approx(5.0)
    changed = copy.deepcopy(plain)
    changed[0].forward = lambda x: 7 * plain[0](x)
    assert times() == pytest.approx(7.0)


class Halved(Add):
    """A mechanism of a user's own."""

    def write(self, state, site, y, context):
        return (2 * state[0] + y,)


def test_a_mechanism_of_a_user_or_a_hook_on_a_trunk_needs_no_rule():
    torch.manual_seed(0)
    model = shaken(create_model("poincare_mlp_nano", residual=Halved, **FLAT, **TINY))
    certificate = certify(model)
    assert 0 < certificate.lower_bound <= certificate.lipschitz < math.inf
    model.trunk.register_forward_hook(lambda module, inputs, output: 3 * output)
    assert certify(model).lower_bound > 2 * certificate.lower_bound


CONSTRUCTED = ["ldlt_mlp_nano", "sll_mlp_nano", "sandwich_mlp_nano", "aol_mlp_nano",
               "ldlt_resnet_nano", "sll_resnet_nano"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "dtype"),
    tiered(
        itertools.product(CONSTRUCTED, [torch.float32, torch.float64]),
        lambda name, dtype: "mlp" in name or (name, dtype) == ("ldlt_resnet_nano", torch.float32),
    ),
)
def test_a_constructed_network_is_proved_close_to_its_nominal_constant(name, dtype):
    model = create_model(name).to(dtype).eval()
    certificate = certify(model, samples(model).to(dtype))
    assert certificate.rigorous and certificate.method != "none"
    # The float32 cast of float64 weights costs 2.5e-7 a block.
    assert certificate.lipschitz <= model.lipschitz * (1 + 1e-6)
    assert certificate.lower_bound <= certificate.lipschitz
    assert certificate.attack_violations == 0


@pytest.mark.parametrize(
    ("name", "options"),
    tiered(
        [("ldlt_resnet_nano", {"widths": (24,), "depths": (8,), "img_size": 8}),
         ("ldlt_resnet_tiny", {}), ("sll_resnet_tiny", {})],
        lambda name, options: bool(options),
    ),
)  # fmt: skip
def test_the_rounding_of_a_deep_constructed_network_takes_no_radius_away(name, options):
    torch.manual_seed(0)
    model = create_model(name, **options).eval()
    certificate = certify(model, samples(model), attack=False, estimate=False)
    # Of logits of size one; norms of absolute values gave 1.7e-5, and 7e5 after training.
    assert certificate.slack < 1e-5 * (1e-3 if options else 1.0)


@pytest.mark.parametrize("wiring", ["chain_first", "dense"])
def test_the_best_multipliers_of_a_constructed_block_may_prove_less_than_its_own(wiring):
    block = LDLTBlock(8, [10, 10], wiring=wiring).eval()
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    found, own = certify(sequence_of(block), x), certify(sequence_of(block), x, method="product")
    assert found.lipschitz < 0.99 * own.lipschitz <= 0.99 * (1 + 1e-6)
    assert found.lower_bound <= found.lipschitz and found.attack_violations == 0


def test_bfloat16_weights_are_certified_as_they_are_stored():
    model = create_model("ldlt_mlp_nano", hidden_depth=2).bfloat16().eval()
    certificate = certify(model, samples(model))
    assert certificate.rigorous and certificate.attack_violations == 0
    assert certificate.lipschitz < model.lipschitz * 1.05
    assert certificate.lower_bound <= certificate.lipschitz


LIMITED = {
    "bfloat16 weights": lambda: nn.Sequential(nn.Linear(4, 3)).bfloat16(),
    "float16 inside": lambda: nn.Sequential(nn.Linear(4, 3), Cast(torch.float16)),
    "autocast": lambda: nn.Sequential(Autocast(nn.Linear(4, 3))),
}


class Cast(nn.Module):
    """Rounds to a type and back."""

    def __init__(self, dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        return x.to(self.dtype).float()


class Autocast(nn.Sequential):
    """Layers under autocast."""

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x).float()


@pytest.mark.parametrize("name", LIMITED)
def test_a_certificate_says_that_the_rounding_of_half_precision_is_not_covered(name, tmp_path):
    certificate = certify(LIMITED[name](), torch.randn(3, 4), attack_steps=2)
    half = "float16" if name.startswith("float16") else "bfloat16"
    (limit,) = certificate.limits
    assert certificate.rigorous and f"rounds activations to {half}" in limit
    assert f"not covered: {limit}" in str(certificate).splitlines()
    assert json.loads(certificate.save(tmp_path / "c.json").read_text())["limits"] == [limit]
    for dtype in (torch.float32, torch.float64):
        wide = certify(nn.Sequential(nn.Linear(4, 3)).to(dtype), torch.randn(3, 4, dtype=dtype))
        assert wide.limits == () and "not covered" not in str(wide)


def test_a_tampered_layer_loses_its_nominal_constant():
    block = LDLTBlock(8, [12], skip="identity", gain=3.0).eval()
    assert certify(sequence_of(block), torch.randn(6, 8)).lipschitz < 1 + 1e-6
    plain = block.export()
    assert certify(sequence_of(plain), torch.randn(6, 8)).lipschitz < 1 + 1e-4
    with torch.no_grad():
        plain.inner[0].weight.mul_(1.5)
    assert certify(sequence_of(plain), torch.randn(6, 8)).lipschitz > 1.02


def test_a_map_with_a_fault_is_caught_on_the_weights_that_it_returns(monkeypatch):
    whole = LDLTBlock.compute

    def faulty(self, parameters):
        return tuple(1.3 * w for w in whole(self, parameters))

    block = LDLTBlock(8, [12, 12], gain=3.0)
    monkeypatch.setattr(LDLTBlock, "compute", faulty)
    monkeypatch.setattr(LDLTBlock, "compute_narrow", lambda self, parameters: None)
    assert block.lipschitz == 1.0
    assert 1.1 < certify(sequence_of(block), torch.randn(6, 8)).lipschitz < math.inf
    believed = certify(sequence_of(block, nn.Linear(8, 3)), torch.randn(6, 8), verify=False,
                       estimate=False, attack=False, method="product")  # fmt: skip
    assert believed.per_block[0] == ("0", 1.0, "construction", False) and not believed.rigorous


def test_exported_blocks_are_bounded_without_their_multipliers():
    for block in (LDLTBlock(8, [12], skip="identity"), LDLTBlock(8, [10, 10], wiring="dense")):
        exported = certify(sequence_of(block.eval().export()), torch.randn(4, 8))
        assert exported.lipschitz < 1 + 1e-4
    image = torch.randn(3, 4, 6, 6)
    shear = SLLConv2d(4, 6).eval()
    certificate = certify(sequence_of(shear.export(), nn.Flatten()), image, attack=False)
    assert certificate.lipschitz < 1 + 1e-6


def test_radii_follow_the_margin_and_pairs_of_rows():
    model = sequence(nn.Linear(5, 5), nn.Linear(5, 3))
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(2))
    certificate = certify(model, x, attack=False)
    logits = copy.deepcopy(model).double()(x.double()).detach()
    lead = logits.topk(2).values
    coarse = (lead[:, 0] - lead[:, 1]) / (math.sqrt(2) * certificate.lipschitz)
    assert (certificate.radius >= coarse * (1 - 1e-6)).all()
    assert (certificate.radius > coarse * 1.01).any()
    # A linear network turns exactly where two of its logits meet.
    w = model[1].weight.double() @ model[0].weight.double()
    top = logits.argmax(1)
    exact = torch.stack([
        (logits[i, top[i]] - logits[i]) / (w[top[i]] - w).norm(dim=1).clamp_min(1e-300)
        for i in range(len(x))
    ])  # fmt: skip
    exact.scatter_(1, top[:, None], math.inf)
    assert (certificate.radius <= exact.amin(1)).all()


@pytest.mark.parametrize("seed", range(8))
def test_no_radius_is_longer_than_that_of_a_linear_network_which_has_no_slack(seed):
    generator = torch.Generator().manual_seed(seed)
    row = torch.randn(1, 5, generator=generator)
    net = nn.Sequential(nn.Linear(5, 2, bias=False), nn.Flatten())
    with torch.no_grad():
        net[0].weight.copy_(torch.cat([row, -row]))
    x = torch.randn(32, 5, generator=generator, dtype=torch.float64)
    found = certify(net, x, eps=(), estimate=False, attack_steps=10)
    # The boundary is the plane row · x = 0; float64 rounds its distance by a few units.
    exact = (x @ row.double().T).abs().squeeze(1) / row.double().norm()
    assert (found.radius <= exact * (1 + 1e-14)).all()
    assert found.radius.tolist() == pytest.approx(exact.tolist(), rel=1e-6)
    assert found.attack_violations == 0


def test_a_division_by_std_moves_radii_to_the_units_before_it():
    model = sequence(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(10, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    plain = certify(model, x)
    scaled = certify(model, x, input_std=(0.5, 0.25, 0.5))
    uniform = certify(model, x, input_std=0.25)
    assert uniform.lipschitz == pytest.approx(4 * plain.lipschitz, rel=1e-9)
    torch.testing.assert_close(uniform.radius, plain.radius / 4, rtol=1e-6, atol=1e-9)
    # Only one channel was divided by so little.
    assert 2 * plain.lipschitz < scaled.lipschitz < 0.99 * uniform.lipschitz
    assert scaled.attack_violations == 0
    assert scaled.lower_bound <= scaled.lipschitz


def test_certified_attacked_and_clean_accuracy_are_in_order():
    model = create_model("ldlt_mlp_nano").eval()
    x = samples(model, 60)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[:10] = (y[:10] + 1) % 10
    certificate = certify(model, x, y, eps=(0.0, 0.005, 0.02, 0.1))
    assert certificate.clean_accuracy == pytest.approx(50 / 60)
    certified, attacked = certificate.certified_accuracy, certificate.attacked_accuracy
    assert list(certified) == [0.0, 0.005, 0.02, 0.1]
    assert all(certified[e] <= attacked[e] <= certificate.clean_accuracy for e in certified)
    assert certificate.attack_violations == 0 and certificate.attacked_samples == 60
    assert 0 < certificate.attack_margin < 1


def test_a_radius_that_is_wrong_is_found_out_and_every_claim_withdrawn(monkeypatch, tmp_path):
    model = sequence(nn.Linear(5, 5), nn.Linear(5, 3))
    wrong = torch.full((3, 3), 1e-3, dtype=torch.float64)
    monkeypatch.setattr(Bounds, "pairs", lambda self: wrong)
    certificate = certify(model, torch.randn(20, 5), estimate=False)
    assert certificate.attack_violations > 0 and not certificate.rigorous
    assert certificate.lipschitz == math.inf and not certificate.radius.any()
    assert certificate.method == "refuted" and set(certificate.certified_accuracy.values()) == {0.0}
    found = certificate.refuted
    wide = copy.deepcopy(model).double()
    classes = wide(torch.stack([found.first, found.second])).argmax(1)
    assert classes[0] != classes[1] and float((found.first - found.second).norm()) < found.radius
    saved = json.loads(certificate.save(tmp_path / "certificate.json").read_text())
    assert saved["refuted"]["radius"] == found.radius and len(saved["refuted"]["first"]) == 5
    assert "refuted" in str(certificate)


def test_a_search_above_the_bound_refutes_it(monkeypatch):
    model = sequence(nn.Linear(5, 5), nn.Linear(5, 3))
    monkeypatch.setattr(Bounds, "lipschitz", lambda self: 0.5)
    certificate = certify(model, torch.randn(20, 5), attack=False)
    first, second = certificate.refuted[1:3]
    wide = copy.deepcopy(model).double()
    rise = (wide(first[None]) - wide(second[None])).detach().norm()
    assert float(rise / (first - second).norm()) > 0.5
    assert certificate.lipschitz == math.inf and not certificate.rigorous


def test_a_certificate_can_be_read_saved_and_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    model = create_model("sll_mlp_nano").eval()
    certificate = certify(model, samples(model), torch.zeros(12, dtype=torch.long))
    lines = str(certificate).splitlines()
    assert lines[0].startswith("Lipschitz bound  0.9") and "proved" in lines[0]
    assert any(line.split()[:1] == ["head"] for line in lines)
    assert lines[-1].endswith("0 violations")
    saved = json.loads(certificate.save(tmp_path / "certificate.json").read_text())
    assert saved["lipschitz"] == certificate.lipschitz
    assert len(saved["radius"]) == 12 and saved["per_block"][0]["verified"] is True
    figure = plot_certificate(certificate)
    figure.savefig(tmp_path / "certificate.png")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["clean", "attacked", "certified"]
    unbounded = certify(create_model("vit_nano"))
    assert json.loads(json.dumps(unbounded.to_dict(), allow_nan=False))["lipschitz"] == "inf"
    assert "attention" in str(unbounded)
    with pytest.raises(ValueError, match="no samples"):
        plot_certificate(unbounded)


def test_the_model_is_left_as_it_was():
    model = create_model("ldlt_mlp_nano").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    certify(model, samples(model))
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_bad_input_is_refused_by_name():
    model = sequence(nn.Linear(4, 3))
    x = torch.randn(5, 4)
    with torch.no_grad():
        broken = copy.deepcopy(model)
        broken[0].weight[1, 1] = math.nan
    with pytest.raises(ValueError, match=r"0\.weight holds NaN"):
        certify(broken, x)
    with pytest.raises(ValueError, match="x holds NaN"):
        certify(model, x * math.inf)
    with pytest.raises(ValueError, match="y must be classes"):
        certify(model, x, torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="y is given without x"):
        certify(model, y=torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="method"):
        certify(model, x, method="power")
    with pytest.raises(ValueError, match="eps"):
        certify(model, x, eps=(-0.1,))
    with pytest.raises(ValueError, match="input_std"):
        certify(model, x, input_std=(1.0, 0.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="x is needed"):
        certify(nn.Sequential(nn.Conv2d(1, 1, 3)))
    with pytest.raises(ValueError, match="y must hold classes"):
        certify(model, x, torch.full((5,), 3))
    with pytest.raises(ValueError, match="meta device"):
        certify(copy.deepcopy(model).to("meta"), x)
    assert certify(model, x, eps=0.1, attack=False).certified_accuracy.keys() == {0.1}
    assert certify(model, x.numpy(), attack=False).lipschitz < math.inf


def test_integers_are_refused_in_one_line():
    model = sequence(nn.Linear(4, 3))
    with pytest.raises(ValueError, match="x holds torch.uint8, which the model cannot read"):
        certify(model, torch.ones(5, 4, dtype=torch.uint8))
    tokens = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 3))
    certificate = certify(tokens, torch.ones(5, 2, dtype=torch.long))
    assert certificate.reasons[0].startswith("the model: reads integers")
    assert certificate.clean_accuracy == 1.0 and not certificate.radius.any()


def test_a_head_of_zeros_and_a_single_class_have_infinite_radii():
    head = nn.Linear(4, 3)
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(torch.arange(3.0))
    x = torch.randn(5, 4)
    certificate = certify(sequence_of(head), x, attack_steps=2)
    assert certificate.lipschitz == 0.0 and certificate.radius.isinf().all()
    assert certificate.attack_violations == 0 and "0 violations" in str(certificate)
    single = certify(sequence_of(nn.Linear(4, 1)), x, attack_steps=2)
    assert single.radius.isinf().all() and json.dumps(single.to_dict(), allow_nan=False)


def test_a_pruned_and_a_reparametrised_model_are_certified_as_they_run():
    from torch.nn.utils import parametrizations, prune

    for change in (
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
    ):
        torch.manual_seed(0)
        layer = nn.Linear(6, 4)
        change(layer)
        model = nn.Sequential(layer).eval()
        exact = float(torch.linalg.matrix_norm(layer.weight.detach().double(), 2))
        model(torch.randn(2, 6))  # a pruned layer computes its weight on every call
        found = certify(model, torch.randn(3, 6), attack=False)
        assert found.lipschitz == pytest.approx(exact, rel=1e-6)
