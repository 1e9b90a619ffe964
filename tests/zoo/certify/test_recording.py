"""A certificate speaks of what runs: whatever a forward does is counted, or refused by name."""

import copy
import math

import pytest
import torch
from archzoo.layers import fast_path
from archzoo.layers.fast_path import kernel_takes
from archzoo.layers.lipschitz import LDLTCircularConv2d, SLLBlock, SLLConv2d
from archzoo.zoo import certify, create_model
from archzoo.zoo.certify.bounds import Bounds
from archzoo.zoo.certify.recording import graph_of
from torch import Tensor, nn
from torch.nn import functional as F

from .random_networks import steepest


def scaled(factor: float, width: int = 2) -> nn.Linear:
    layer = nn.Linear(width, width)
    with torch.no_grad():
        layer.weight.copy_(factor * torch.eye(width))
        layer.bias.fill_(0.1)
    return layer


def bound(model: nn.Module, *shape: int) -> float:
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    return certify(model, x, attack=False).lipschitz


def reasons(model: nn.Module, *shape: int) -> tuple[str, ...]:
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    certificate = certify(model, x)
    assert certificate.lipschitz == math.inf and not certificate.rigorous
    return certificate.reasons


class Call(nn.Module):
    """A module of one function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def near(value: float) -> object:
    return pytest.approx(value, rel=1e-6)


# The table of what the walker of modules that this recording replaced got wrong.


def test_a_module_used_three_times_counts_three_times():
    layer = scaled(3.0)
    assert bound(nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), layer), 2) == near(27.0)


def test_a_shared_activation_at_the_end_is_no_head():
    act, layer = nn.ReLU(), scaled(1.0)
    assert bound(nn.Sequential(layer, act, layer, act), 2) == near(1.0)
    x = torch.tensor([[1.0, 0.2]])
    found = certify(nn.Sequential(scaled(1.0), act, scaled(1.0), act), x, attack_steps=10)
    assert 0 < float(found.radius[0]) < 1 and found.attack_violations == 0


def test_a_batch_norm_before_a_dropout_is_not_forgotten():
    norm = nn.BatchNorm1d(2, eps=0.0)
    with torch.no_grad():
        norm.weight.fill_(10.0)
    layers = (norm, nn.Dropout(), scaled(1.0), nn.ReLU(), scaled(1.0))
    assert bound(nn.Sequential(*layers), 2) == near(10.0)


@pytest.mark.parametrize("scale", [[-1.0, -1.0], [-1.0, 0.5]])
def test_a_negative_scale_of_a_branch_adds_to_the_skip(scale):
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.scale = scaled(1.0), nn.Parameter(torch.tensor(scale))

        def forward(self, x: Tensor) -> Tensor:
            return x - self.scale * self.inner(x).relu()

    assert bound(Reversed(), 2) == near(2.0)


def test_a_negative_skip_init_is_counted_with_its_sign():
    model = create_model(
        "poincare_mlp_nano", geometry="euclidean", head="linear", residual="skip_init", width=8,
        depth=1,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "residual" in name:
                p.fill_(-1.0)
    x = torch.rand(3, *model.default_cfg["input_size"])
    found = certify(model, x, attack=False)
    assert found.lower_bound <= found.lipschitz < math.inf


class MaxMin(nn.Module):
    """The smaller and the larger of two values."""

    def forward(self, x: Tensor) -> Tensor:
        one, two = x.unflatten(1, (-1, 2)).unbind(2)
        return torch.stack([one.minimum(two), one.maximum(two)], 2).flatten(1)


def test_a_sort_reorders_values_and_never_counts_twice():
    first, last = nn.Linear(2, 2), nn.Linear(2, 1)
    with torch.no_grad():
        first.weight.copy_(torch.eye(2))
        last.weight.copy_(torch.tensor([[1.0, 0.0]]))
    model = nn.Sequential(first, MaxMin(), nn.ReLU(), last)
    assert bound(model, 2) == near(1.0)
    assert bound(nn.Sequential(scaled(1.0, 6), MaxMin()), 6) == near(1.0)


def test_a_channel_shuffle_moves_a_batch_norm_to_other_channels():
    conv, norm = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4, eps=0.0)
    with torch.no_grad():
        conv.weight.copy_(torch.diag(torch.tensor([1.0, 0.01, 0.01, 0.01]))[..., None, None])
        norm.weight.copy_(torch.tensor([10.0, 0.01, 0.01, 0.01]))
    model = nn.Sequential(conv, nn.ChannelShuffle(2), norm, nn.Flatten())
    assert bound(model, 4, 2, 2) == near(10.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_are_those_that_the_forward_forms_in_its_own_precision(dtype):
    block = SLLBlock(1, 1)
    with torch.no_grad():
        block.weight.fill_(0.9609375)
    head = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0], [0.0]]))
    model = nn.Sequential(block, head).to(dtype).eval()
    with torch.no_grad():
        inner, outer, _ = block.weights()
    steepest = max(1.0, abs(1 + float(outer.double()) * float(inner.double())))
    assert certify(model, torch.randn(3, 1), attack=False).lipschitz >= steepest


def test_a_hook_of_the_outermost_module_is_seen():
    model = nn.Sequential(scaled(1.0), nn.ReLU())
    model.register_forward_pre_hook(lambda module, inputs: (inputs[0] / 0.01,))
    assert bound(model, 2) == near(100.0)
    model.register_forward_hook(lambda module, inputs, output: output * -2)
    assert bound(model, 2) == near(200.0)


MIXING = {
    "softmax over the batch": nn.Softmax(0),
    "mean of the batch": Call(lambda x: x - x.mean(0)),
    "roll of the batch": Call(lambda x: x.roll(1, 0)),
    "batch norm without statistics": nn.BatchNorm1d(4, track_running_stats=False),
    "product of samples": Call(lambda x: x + torch.ones(len(x), len(x)) @ x),
    "flip of the batch": Call(lambda x: x.flip(0)),
    "cumulative sum over the batch": Call(lambda x: x.cumsum(0)),
}


@pytest.mark.parametrize("name", MIXING)
def test_samples_that_reach_one_another_are_refused(name):
    assert any("samples" in reason for reason in reasons(MIXING[name], 4))


# What a recording cannot see.


class Counter(nn.Module):
    """Grows with every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class Kept(nn.Module):
    """Writes into a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        self.kept.mul_(1.5)
        return x * self.kept


UNSEEN = {
    "a branch on the values": Call(lambda x: x if x.sum() > 0 else -x),
    "a number from the values": Call(lambda x: x * x.mean().item()),
    "values as an array": Call(lambda x: x + torch.from_numpy(x.detach().numpy().copy())),
    "values as a list": Call(lambda x: x * torch.tensor(x.tolist())),
    "caught refusals": Call(lambda x: caught(x)),
    "the type of the tensor": Call(lambda x: x if type(x) is Tensor else 0.1 * x),
    "the size of the batch": Call(lambda x: x * len(x)),
    "the mode of gradients": Call(lambda x: x * (2 if torch.is_grad_enabled() else 1)),
    "random numbers": Call(lambda x: x + torch.rand(4)),
    "dropout in evaluation": Call(lambda x: F.dropout(x, 0.5, training=True)),
    "a counter": Counter(),
    "a buffer": Kept(),
    "a product of two values": Call(lambda x: x * x.roll(1, 1)),
    "a kernel made of the values": Call(lambda x: x @ x.mT @ x),
    "a root": Call(lambda x: x.abs().sqrt()),
    "rounding": Call(lambda x: x.round()),
    "a comparison": Call(lambda x: (x > 0).to(x.dtype)),
    "integers": Call(lambda x: x.long().to(x.dtype)),
    "an index made of the values": Call(lambda x: x.gather(1, x.argsort(1).flip(1))),
    "a constant": Call(lambda x: torch.ones(len(x), 4)),
    "a tuple": Call(lambda x: (x, x)),
    "no row for each sample": Call(lambda x: x.sum()),
    "a hard shrink": nn.Hardshrink(),
    "attention": Call(lambda x: F.scaled_dot_product_attention(*[x[:, None]] * 3)[:, 0]),
    "a fourier transform": Call(lambda x: torch.fft.rfft(x).abs()),
}  # fmt: skip


def caught(x: Tensor) -> Tensor:
    """Take a number from the values, and hide that it was refused."""
    try:
        return x * float(x.sum())
    except Exception:
        return x * 1e-3


@pytest.mark.parametrize("name", UNSEEN)
def test_what_a_recording_cannot_see_is_refused_by_name(name):
    found = reasons(copy.deepcopy(UNSEEN[name]), 4)
    assert found and all(": " in reason and "\n" not in reason for reason in found)


def raising(error: Exception, when=lambda x: True) -> nn.Module:
    """A layer that raises on some tensors, behind another."""

    def function(x: Tensor) -> Tensor:
        if when(x):
            raise error
        return x

    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), Call(function)))


RAISED = [KeyError("scale"), ZeroDivisionError(), RuntimeError("one\ntwo"), StopIteration("end")]


@pytest.mark.parametrize("error", RAISED, ids=lambda e: type(e).__name__)
def test_what_a_forward_raises_anyway_is_raised_with_the_path_of_its_module(error):
    with pytest.raises(ValueError, match=rf"^1\.1: .* raises {type(error).__name__}") as found:
        certify(raising(error), torch.randn(3, 4))
    assert found.value.__cause__ is error and "\n" not in str(found.value)
    with pytest.raises(ValueError, match=r"1\.1: .* on samples \(3, 4\)"):
        certify(raising(error, lambda x: len(x) == 3), torch.randn(2, 4), attack=False)
    with pytest.raises(ValueError, match="0: .* shapes cannot be multiplied"):
        certify(raising(error), torch.randn(3, 5))


@pytest.mark.parametrize("error", RAISED, ids=lambda e: type(e).__name__)
def test_what_only_a_recording_makes_a_forward_raise_is_a_refusal_with_its_name(error):
    (reason,) = reasons(raising(error, lambda x: type(x) is not Tensor), 4)
    assert reason.startswith(f"1.1: cannot be recorded, {type(error).__name__}")


class OddBatches(nn.Module):
    """Does something else with batches of three samples."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 5 if len(x) == 3 else x


def test_a_module_that_treats_three_samples_otherwise_is_refused():
    model, x = nn.Sequential(nn.Linear(4, 4), OddBatches()), torch.randn(2, 4)
    found = certify(model, x, attack=False)
    assert found.lipschitz == math.inf and "batches of different sizes" in found.reasons[0]


def test_operators_of_other_libraries_are_listed():
    library = torch.library.Library("certify_test", "DEF")
    library.define("rectify(Tensor x) -> Tensor")
    library.impl("rectify", lambda x: x.relu(), "CompositeExplicitAutograd")
    rectify = torch.ops.certify_test.rectify
    # As a library does that has a kernel for plain tensors and a definition for all others.
    model = Call(lambda x: rectify(x) if type(x) is Tensor else x.clamp_min(0.0))
    found = certify(nn.Sequential(model, nn.Linear(4, 3)), torch.randn(3, 4), attack=False)
    library._destroy()
    assert found.kernels == ("certify_test::rectify",) == tuple(found.to_dict()["kernels"])
    assert found.rigorous and "certify_test::rectify" in str(found)
    plain = certify(nn.Sequential(nn.ReLU(), nn.Linear(4, 3)), torch.randn(3, 4), attack=False)
    assert plain.kernels == () == plain.limits


def test_compiled_kernels_that_stand_aside_in_a_recording_are_listed(monkeypatch):
    monkeypatch.setattr(fast_path, "load_kernels", lambda family: True)
    model = Call(lambda x: x.relu() if kernel_takes("delta", x) else x.clamp_min(0.0))
    found = certify(nn.Sequential(model, nn.Linear(4, 3)), torch.randn(3, 4), attack=False)
    assert found.kernels == ("archzoo_delta",)
    assert len(found.limits) == 1 and "archzoo_delta" in found.limits[0]


# What it sees.

SEEN = {
    "writes into zeros": (Call(lambda x: written(x)), 2.0),
    "writes through a view": (Call(lambda x: through_view(x)), 3.0),
    "another shape in place": (Call(lambda x: 3 * x.clone().unsqueeze_(1).squeeze_(1)), 3.0),
    "channels last": (Call(lambda x: channels_last(x)), 0.5**0.5),
    "an addition in place": (Call(lambda x: x.clone().add_(x)), 2.0),
    "a detached value": (Call(lambda x: x.detach() * 4), 4.0),
    "data of a tensor": (Call(lambda x: x.data * 4), 4.0),
    "half precision inside": (Call(lambda x: x.half().float() * 2), 2.0),
    "autocast": (Call(lambda x: cast(x)), 3.0),
    "a function of torch.func": (Call(lambda x: torch.func.vmap(lambda v: 5 * v)(x)), 5.0),
    "an autograd function": (Call(lambda x: Tripled.apply(x)), 3.0),
    "a sum with itself": (Call(lambda x: x + x.relu() + x), 3.0),
    "swish by hand": (Call(lambda x: x * x.sigmoid()), 1.0999),
    "softsign by hand": (Call(lambda x: x / (1 + x.abs())), 1.0),
    "inference mode": (Call(torch.inference_mode()(lambda x: x * 2)), 2.0),
}


class Tripled(torch.autograd.Function):
    """Three times the input, with a gradient that says otherwise."""

    @staticmethod
    def forward(ctx, x):
        return 3 * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def written(x: Tensor) -> Tensor:
    out = torch.zeros(len(x), 4)
    out[:, 1:] = 2 * x[:, :-1]
    out[:, 0] = -2 * x[:, 3]
    return out


def channels_last(x: Tensor) -> Tensor:
    image = torch.cat([x.view(-1, 1, 2, 2)] * 2, 1).contiguous(memory_format=torch.channels_last)
    return F.adaptive_avg_pool2d(image, 1).flatten(1)


def through_view(x: Tensor) -> Tensor:
    y = x.clone()
    y.view(-1, 2, 2).transpose(1, 2).mul_(3)
    return y


def cast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return F.linear(x, 3 * torch.eye(4)).float()


@pytest.mark.parametrize("name", SEEN)
def test_what_a_recording_sees_needs_no_rule_of_its_own(name):
    model, exact = SEEN[name]
    assert bound(model, 4) == near(exact)


def exported(model: nn.Module) -> nn.Module:
    sizes = ({0: torch.export.Dim.AUTO},)
    return Call(torch.export.export(model, (torch.randn(2, 4),), dynamic_shapes=sizes).module())


TWINS = {
    "compiled": torch.compile,
    "data parallel": nn.DataParallel,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "exported": exported,
    "traced": lambda model: torch.jit.trace(model, torch.randn(2, 4)),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
@pytest.mark.parametrize("name", TWINS)
def test_a_twin_of_a_model_has_its_certificate(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3)).eval()
    x = torch.randn(5, 4)
    plain, twin = certify(model, x, attack=False), certify(TWINS[name](model), x, attack=False)
    assert twin.reasons == ()
    assert twin.lipschitz == pytest.approx(plain.lipschitz, rel=1e-9)
    torch.testing.assert_close(twin.radius, plain.radius)


def test_a_forward_in_inference_mode_is_attacked_like_any():
    model = nn.Sequential(Call(torch.inference_mode()(lambda x: x.flip(1).relu())), scaled(1.0, 4))
    found = certify(model, torch.randn(5, 4), attack_steps=3)
    assert found.attacked_samples and found.attack_violations == 0


# Laws.


def values(*layers: nn.Module) -> float:
    return bound(nn.Sequential(*layers), 4)


def test_what_changes_nothing_does_not_change_the_bound():
    torch.manual_seed(1)
    first, last = nn.Linear(4, 8), nn.Linear(8, 3)
    plain = values(first, nn.ReLU(), last)
    turn = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    order = torch.randperm(8)
    same = {
        "identity": (first, nn.Identity(), nn.ReLU(), nn.Dropout(), last),
        "shapes": (first, nn.Unflatten(1, (2, 4)), nn.ReLU(), nn.Flatten(), last),
        "order": (first, Call(lambda x: x[:, order]), nn.ReLU(),
                  Call(lambda x: x[:, order.argsort()]), last),
        "split": (first, nn.ReLU(), Call(lambda x: x @ turn.T.float()),
                  Call(lambda x: x @ turn.float()), last),
    }  # fmt: skip
    for layers in same.values():
        assert values(*layers) == pytest.approx(plain, rel=1e-5)


def test_a_linear_layer_alone_and_in_a_sequence_have_their_exact_norm():
    torch.manual_seed(2)
    first, second = nn.Linear(4, 5), nn.Linear(5, 3)
    a, b = first.weight.detach().double(), second.weight.detach().double()
    assert bound(first, 4) == near(float(torch.linalg.matrix_norm(a, 2)))
    assert values(first, second) == near(float(torch.linalg.matrix_norm(b @ a, 2)))


def test_a_division_by_std_is_folded_channel_by_channel():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    std = torch.tensor([0.5, 0.25, 1.0])
    exact = model[1].weight.detach() / std.repeat_interleave(4)
    found = certify(model, torch.randn(3, 3, 2, 2), input_std=std.tolist(), attack=False)
    assert found.lipschitz == near(float(torch.linalg.matrix_norm(exact, 2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_graph_computes_what_the_model_computes_on_its_widened_weights(dtype):
    torch.manual_seed(4)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16, 3),
    ).to(dtype).eval()  # fmt: skip
    x = torch.randn(3, 2, 4, 4)
    wide = copy.deepcopy(model).double()(x.double())
    torch.testing.assert_close(graph_of(model, x.to(dtype))(x.double()), wide)


@pytest.mark.parametrize("make", [lambda: SLLConv2d(3, 4), 
                                  lambda: LDLTCircularConv2d(3, (4, 5), skip="learned"),
                                  lambda: LDLTCircularConv2d(3, (4,), padding=1)])  # fmt: skip
def test_a_layer_by_construction_is_proved_on_its_record_and_an_altered_one_is_not(make):
    torch.manual_seed(5)
    layer = make().eval()
    x = torch.randn(2, 3, 5, 5)
    honest = Bounds(graph_of(layer, x)).lipschitz()
    assert honest <= layer.lipschitz * (1 + 1e-5)
    layer.register_forward_hook(lambda module, inputs, output: output + 0.5 * inputs[0])
    assert Bounds(graph_of(layer, x)).lipschitz() >= 1.4
    swapped = make().eval()
    swapped.activation = Call(lambda v: 3 * v)
    found = Bounds(graph_of(swapped, x)).lipschitz()
    true = steepest(nn.Sequential(copy.deepcopy(swapped).double(), nn.Flatten()), (3, 5, 5), 0, 2)
    assert true <= found * (1 + 1e-6)


@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_a_circular_convolution_has_the_norm_of_its_frequencies(kernel):
    torch.manual_seed(7)
    conv = nn.Conv2d(2, 3, kernel, padding="same", padding_mode="circular")
    columns = (
        conv(torch.eye(32).view(32, 2, 4, 4)).detach() - conv(torch.zeros(1, 2, 4, 4)).detach()
    )
    exact = float(torch.linalg.matrix_norm(columns.flatten(1).double(), 2))
    found = certify(nn.Sequential(conv, nn.Flatten()), torch.randn(2, 2, 4, 4), attack=False)
    assert found.lipschitz == pytest.approx(exact, rel=1e-5)


def test_three_shared_blocks_count_three_times():
    torch.manual_seed(6)
    block = SLLBlock(4, lipschitz=2.0).eval()
    assert bound(nn.Sequential(block, block, block), 4) <= 8 * (1 + 1e-6)
