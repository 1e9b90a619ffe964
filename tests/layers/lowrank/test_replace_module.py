"""A layer that a structure replaces: what hangs on it moves, and what binds it is a reason."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from archzoo.layers.decay import decay_exclusions, exclude_from_decay
from archzoo.layers.lowrank import TRP, CoLA, LowRank, merge, reparametrize
from archzoo.layers.lowrank.replace_module import replace_module
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(8, 6), (3, 8)),
    "convolution": (lambda: nn.Conv2d(8, 6, 3, padding=1), (3, 8, 5, 4)),
    "grouped": (lambda: nn.Conv2d(8, 6, 3, groups=2), (3, 8, 5, 4)),
}


class Raw(nn.Module):
    """Reads a matrix of its own, and maybe a second one."""

    matrix_parameters = ("weight", "other")

    def __init__(self, *, other: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 8))
        self.register_parameter("other", nn.Parameter(torch.randn(6, 6)) if other else None)

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.mT
        return y if self.other is None else y @ self.other


def network(kind: str) -> tuple[nn.Sequential, Tensor, list[str]]:
    """Return a layer with one behind it, an input, and the layer's name as a target."""
    torch.manual_seed(0)
    if kind == "matrix":
        return nn.Sequential(Raw(), nn.Tanh()), torch.randn(3, 8), ["0:weight"]
    make, shape = LAYERS[kind]
    return nn.Sequential(make(), nn.Tanh()), torch.randn(shape), ["0"]


def hang(layer: nn.Module, said: list[str]) -> list[Any]:
    """Register two hooks of every kind and option; return their handles."""

    def note(what: str) -> Callable[..., None]:
        return lambda *given, **_: said.append(f"{what} {len(given)}")

    def load(module: nn.Module, *_: Any) -> None:
        said.append(f"load of {type(module).__name__}")

    handles = []
    for i in range(2):
        last = i == 1  # the second goes first
        handles += [
            layer.register_forward_pre_hook(note(f"pre {i}"), prepend=last),
            layer.register_forward_pre_hook(note(f"pre kw {i}"), with_kwargs=True),
            layer.register_forward_hook(note(f"post {i}"), prepend=last),
            layer.register_forward_hook(note(f"post kw {i}"), with_kwargs=True, always_call=True),
            layer.register_full_backward_pre_hook(note(f"backward pre {i}"), prepend=last),
            layer.register_full_backward_hook(note(f"backward {i}"), prepend=last),
            layer.register_state_dict_pre_hook(note(f"save pre {i}")),
            layer.register_state_dict_post_hook(note(f"save {i}")),
            layer.register_load_state_dict_pre_hook(load),
            layer.register_load_state_dict_post_hook(note(f"load post {i}")),
        ]
    return handles


def everything(model: nn.Module, x: Tensor) -> None:
    """Run, differentiate, save and load."""
    model(x.requires_grad_()).sum().backward()
    model.load_state_dict(model.state_dict())


@pytest.mark.parametrize("kind", [*LAYERS, "matrix"])
def test_hooks_of_every_kind_fire_in_their_order_before_and_after_and_are_removed(
    kind: str,
) -> None:
    model, x, targets = network(kind)
    said: list[str] = []
    handles = hang(model[0], said)
    everything(model, x)
    expected, said[:] = list(said), []
    assert len(expected) == 20
    for change in (lambda: reparametrize(model, LowRank(rank=2), targets), lambda: merge(model)):
        change()
        everything(model, x)
        loads = [text for text in said if text.startswith("load of")]
        assert loads == 2 * [f"load of {type(model[0]).__name__}"]
        assert [t for t in said if t not in loads] == [t for t in expected if "load of" not in t]
        said.clear()
    reparametrize(model, LowRank(rank=2), targets)
    copied = copy.deepcopy(model)
    for handle in handles:
        handle.remove()
    everything(model, x)
    assert not said
    everything(copied, x)
    assert said


def test_a_hook_that_is_always_called_is_so_after_an_error() -> None:
    model, _, targets = network("linear")
    called = []
    model[0].register_forward_hook(lambda *_: called.append(1), always_call=True)
    for change in (lambda: reparametrize(model, LowRank(rank=2), targets), lambda: merge(model)):
        change()
        with pytest.raises(RuntimeError):
            model(torch.zeros(3, 5))
    assert called == [1, 1]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [True, False])
def test_mode_dtype_device_bias_layout_and_attributes_stay(
    kind: str, dtype: torch.dtype, channels_last: bool
) -> None:
    model, x, targets = network(kind)
    model.to(dtype)
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layer = model[0].eval()
    layer.label = "mine"  # type: ignore[assignment]
    exclude_from_decay(layer, "bias")
    layer.bias.requires_grad_(False)  # type: ignore[union-attr]
    bias, strides = layer.bias, layer.weight.stride()  # type: ignore[union-attr, operator]
    names = set(vars(layer))
    for change in (lambda: reparametrize(model, LowRank(rank=2), targets), lambda: merge(model)):
        change()
        assert model.training and not any(m.training for m in model[0].modules())
        assert model[0].label == "mine" and model[0].bias is bias and not bias.requires_grad
        assert decay_exclusions(model) == {"0.bias"}
        assert all(p.dtype == dtype for p in model.parameters())
    assert model[0].weight.stride() == strides
    assert set(vars(model[0])) == names
    assert type(model[0]) is type(layer)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_lies_on_the_meta_device_before_and_after(kind: str) -> None:
    model = network(kind)[0].to("meta")
    reparametrize(model, LowRank(rank=2), ["0"])
    assert all(p.is_meta for p in model.parameters())
    merge(model)
    assert all(p.is_meta for p in model.parameters())


def _forward(layer: nn.Linear) -> None:
    layer.forward = lambda x: x  # type: ignore[method-assign]


BOUND: dict[str, tuple[Callable[[nn.Linear], Any], str]] = {
    "spectral norm": (spectral_norm, "torch.nn.utils.spectral_norm computes its weight"),
    "weight norm": (weight_norm, "torch.nn.utils.weight_norm computes its weight"),
    "pruning": (
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        "torch.nn.utils.prune computes its weight",
    ),
    "pruning twice": (
        lambda layer: [prune.random_unstructured(layer, "weight", 0.2) for _ in range(2)],
        "torch.nn.utils.prune computes its weight",
    ),
    "a pruned bias": (
        lambda layer: prune.l1_unstructured(layer, "bias", 0.5),
        "torch.nn.utils.prune computes its bias",
    ),
    "new spectral norm": (parametrizations.spectral_norm, "parametrised by _SpectralNorm"),
    "new weight norm": (parametrizations.weight_norm, "parametrised by _WeightNorm"),
    "orthogonal": (parametrizations.orthogonal, "parametrised by _Orthogonal"),
    "a parametrised bias": (
        lambda layer: parametrize.register_parametrization(layer, "bias", nn.Tanh()),
        "its bias is parametrised by Tanh",
    ),
    "a gain": (
        lambda layer: layer.register_parameter("gain", nn.Parameter(torch.ones(1))),
        "it holds gain beside weight and bias",
    ),
    "a forward of its own": (_forward, "its forward was set on this one module"),
    "a hook on a gradient": (
        lambda layer: layer.weight.register_hook(lambda g: 2 * g),
        "its weight has hooks on its gradient",
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.filterwarnings("ignore:.*spectral_norm.* is deprecated")
@pytest.mark.parametrize("name", BOUND)
def test_what_is_bound_to_its_layer_is_left_out_with_the_reason_and_others_are_not(
    name: str,
) -> None:
    bind, reason = BOUND[name]

    def build() -> nn.Sequential:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        bind(model[0])  # type: ignore[arg-type]
        return model

    expected, x = build(), torch.randn(3, 8)
    for targets in (None, ["*"], ["1"]):
        model = build()
        controller = reparametrize(model, LowRank(rank=2), targets)
        assert list(controller.targets) == ["1"]
        assert targets == ["1"] or reason in controller.skipped["0"]
        for key, value in model[0].state_dict().items():
            assert torch.equal(value, expected[0].state_dict()[key]), key
        model(x).sum().backward()
        merge(model)
        assert torch.equal(model[0](x), build()[0](x)) or "spectral" in name  # which iterates
    for given in (["0"], lambda path, _: path == "0"):
        with pytest.raises(ValueError, match=reason):
            reparametrize(expected, LowRank(rank=2), given)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.filterwarnings("ignore:.*spectral_norm.* is deprecated")
@pytest.mark.parametrize("bind", [spectral_norm, weight_norm, parametrizations.spectral_norm])
def test_a_dense_method_leaves_a_computed_kernel_alone(bind: Callable[[nn.Module], Any]) -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    bind(model[0])
    controller = reparametrize(model, TRP())
    assert list(controller.targets) == ["1"] and "its weight" in controller.skipped["0"]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("bind", [weight_norm, parametrizations.weight_norm])
def test_a_matrix_that_something_computes_is_left_out(bind: Callable[[nn.Module], Any]) -> None:
    model = nn.Sequential(Raw(other=True))
    bind(model[0])
    controller = reparametrize(model, LowRank(rank=2))
    assert list(controller.targets) == ["0:other"]
    assert "its weight" in controller.skipped["0:weight"]
    with pytest.raises(ValueError, match="0:weight cannot be a target"):
        reparametrize(model, LowRank(rank=2), ["0:weight"])
    with pytest.raises(ValueError, match="0:other cannot be a target: it has a structure already"):
        reparametrize(model, LowRank(rank=2), ["0:other"])


def test_a_matrix_that_its_layer_goes_without_is_no_target() -> None:
    controller = reparametrize(nn.Sequential(Raw()), LowRank(rank=2))
    assert list(controller.targets) == ["0:weight"] and not controller.skipped


def test_a_layer_that_stands_in_two_places_is_left_out_or_merged_in_both() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.between = nn.Linear(8, 8), nn.Linear(8, 8)
            self.last = self.first

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.between(self.first(x)))

    model, x = Twice(), torch.randn(3, 8)
    assert "tied to last.weight" in reparametrize(model, LowRank(rank=2)).skipped["first"]
    merge(model)
    model.last = nn.Identity()
    reparametrize(model, LowRank(rank=2), ["first"])
    model.last = model.first
    expected = model(x)
    assert merge(model) == ["first"]
    assert type(model.first) is nn.Linear and model.last is model.first
    torch.testing.assert_close(model(x), expected)


def test_a_layer_without_a_matrix_keeps_its_hooks_as_plain_layers() -> None:
    model, x, targets = network("linear")
    reparametrize(model, CoLA(rank=2), targets)
    expected = 2 * model[0](x)
    model[0].register_forward_hook(lambda *given: 2 * given[-1])
    replace_module(model, model[0], model[0].to_sequence())
    torch.testing.assert_close(model[0](x), expected)
