"""A certificate is a function of its arguments, and leaves everything as it found it."""

import copy
import itertools
from typing import Any, get_args

import pytest
import torch
from archzoo.layers.lipschitz import LDLTBlock, LDLTCircularConv2d, OrthogonalConv2d, SLLBlock
from archzoo.zoo import certify, create_model, list_models, model_info
from archzoo.zoo.certify.certificate import Certificate
from archzoo.zoo.certify.certify_model import Method
from archzoo.zoo.certify.rules.call import OPERATIONS
from archzoo.zoo.certify.rules.layers import LAYERS as LAYER_RULES
from torch import Tensor, nn

from ...tiers import selected, tiered
from ..small_models import build as created
from ..small_models import example, on_meta


def timm_mlp() -> nn.Module:
    from timm.layers import Mlp

    return nn.Sequential(Mlp(4, 6, act_layer=nn.ReLU), nn.Linear(4, 3))


def seen(module: nn.Module) -> nn.Module:
    """A layer that has run on images of another size."""
    module.eval()(torch.randn(1, 4, 9, 9))
    return module


LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "timm's mlp": (timm_mlp, (4,)),
    "linear": (lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), (4,)),
    "ldlt": (lambda: nn.Sequential(LDLTBlock(4, (5, 5)), nn.Linear(4, 3)), (4,)),
    "sll": (lambda: nn.Sequential(SLLBlock(4), SLLBlock(4)), (4,)),
    "circular": (
        lambda: nn.Sequential(seen(LDLTCircularConv2d(4, (4,))), nn.Flatten(), nn.Linear(100, 3)),
        (4, 5, 5),
    ),
    "orthogonal": (
        lambda: nn.Sequential(seen(OrthogonalConv2d(4)), nn.Flatten(), nn.Linear(100, 3)),
        (4, 5, 5),
    ),
    "weightnorm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))),
        (4,),
    ),
    "spectral": (
        lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))),
        (4,),
    ),
    "flat ball": (
        lambda: create_model(
            "poincare_mlp_nano", geometry="euclidean", head="linear", width=8, depth=2
        ),
        (64,),
    ),
}
SMALL = {"resnet_nano": {"img_size": 8, "widths": (4, 8), "depths": (1, 1)}}
NANO = [name for name in list_models() if name.endswith("_nano")]
MODELS = [*LAYERS, *NANO]
USUAL = (*(name for name in LAYERS if name != "circular"), "mlp_nano", "ldlt_mlp_nano")


def build(name: str) -> tuple[nn.Module, Tensor | None]:
    """A fresh model, and samples where a certificate can look at such ones."""
    if name in NANO:
        options = SMALL.get(name, {})
        looked_at = model_info(name).kind in ("image", "features")
        return created(name, 3, **options), example(name, 3, **options) if looked_at else None
    make, shape = LAYERS[name]
    torch.manual_seed(3)
    return make(), torch.randn(3, *shape)


def test_every_class_of_models_is_among_the_small_ones():
    names = {type(on_meta(name)) for name in list_models()}
    assert names == {type(on_meta(name)) for name in NANO}


pytestmark = pytest.mark.long
WITHOUT_SAMPLES = [method for method in get_args(Method) if method != "local"]


def certified(name: str) -> dict[Any, Any]:
    """What every method says, proved with all searches and believed without any."""
    model, x = build(name)
    return {
        (method, proved): facts(
            certify(
                model,
                x,
                method=method,
                verify=proved,
                attack=proved,
                estimate=proved,
                attack_steps=2,
            )  # fmt: skip
        )
        for method, proved in itertools.product(WITHOUT_SAMPLES, (True, False))
    }


def facts(certificate: Certificate) -> dict[str, Any]:
    """All that is said but the time it took."""
    found = {k: v for k, v in vars(certificate).items() if k != "seconds"}
    return {k: v.tolist() if isinstance(v, Tensor) else v for k, v in found.items()}


@pytest.fixture(scope="module")
def first(request) -> dict[str, Any]:
    """Certificates in one order, which the tests ask for in others."""
    names = selected(request, "name")
    return {name: certified(name) for name in MODELS if name in names}


CASES = tiered(MODELS, USUAL)
every = pytest.mark.parametrize("name", CASES)


@pytest.mark.parametrize("name", CASES[::-1])
def test_a_certificate_does_not_depend_on_what_was_certified_before(name, first):
    assert certified(name) == first[name]


@every
def test_certifying_twice_or_training_between_copies_gives_the_same(name, first):
    model, x = build(name)
    torch.randn(7)  # the state of the global generator is no argument
    for _ in range(2):
        assert facts(certify(model, x, attack_steps=2)) == first[name]["auto", True]


@pytest.mark.parametrize("training", [False, True])
@every
def test_certify_leaves_the_model_and_the_generator_as_they_were(name, training):
    model, x = build(name)
    model.train(training)
    next(m for m in model.modules() if m is not model).train(not training)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    next(iter(model.parameters())).requires_grad_(False)
    state = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    wanted = [p.requires_grad for p in model.parameters()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    sizes = [getattr(m, "seen", None) for m in model.modules()]
    generator, rules = torch.get_rng_state(), (dict(OPERATIONS), dict(LAYER_RULES))
    certify(model, x, attack_steps=2)
    assert torch.equal(torch.get_rng_state(), generator)
    assert rules == (OPERATIONS, LAYER_RULES)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(bool((p.grad == 1).all()) for p in model.parameters())
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert [getattr(m, "seen", None) for m in model.modules()] == sizes
    after = model.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[k], state[k]) for k in state)
