"""Half precision, by autocast or by a cast of the module, stays near float32 in every mode."""

import contextlib
import copy
import warnings
from typing import NamedTuple

import pytest
import torch
from archzoo.zoo import residuals
from archzoo.zoo.axes.lowrank import methods
from archzoo.zoo.backbones.self_attention import KeyValueCache

from ..tiers import tiered
from .small_models import KINDS, NANO, SMALL, build, example, loss_of, settled


class Precision(NamedTuple):
    """A type, and whether autocast brings it or a cast of the module."""

    dtype: torch.dtype
    autocast: bool

    def __str__(self) -> str:
        return f"{'autocast' if self.autocast else 'cast'}-{str(self.dtype)[6:]}"

    def context(self):
        """Return the context of a forward pass."""
        return torch.autocast("cpu", self.dtype) if self.autocast else contextlib.nullcontext()


FULL = Precision(torch.float32, autocast=False)
AUTOCAST = [Precision(torch.bfloat16, autocast=True), Precision(torch.float16, autocast=True)]
CAST = [Precision(torch.bfloat16, autocast=False), Precision(torch.float16, autocast=False)]
PRECISIONS = [*AUTOCAST, *CAST]
MODES = {
    "gradients": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}
# Of the norm of all logits, in roundings of the half type: a network is some ten of them deep, and
# the geometries multiply an error by a few.
OUTPUT = 32
# Of the norm of the whole gradient. No multiple of a rounding: a unit near zero that falls to the
# other side of its ReLU changes a gradient by all that one sample brings to it. The more branches
# lie above one another, the more units fall.
GRADIENT = 0.3

slow = pytest.mark.slow
mixed = pytest.mark.parametrize("precision", AUTOCAST, ids=str)
with_and_without = pytest.mark.parametrize(
    "kernels",
    [pytest.param(True, id="kernels"), pytest.param(False, id="plain", marks=slow)],
    indirect=True,
)


@pytest.fixture
def kernels(request, monkeypatch):
    """Close the door to compiled kernels where a case asks for it."""
    if not request.param:
        monkeypatch.setattr("archzoo.layers.fast_path.load_kernels", lambda family: False)


def disturbed(name, **options):
    """Return a model a little off its start, with the statistics of a batch.

    Far off it a ball runs into its range, where float32 is no reference for float64 either.
    """
    model = build(name, **options)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=g)
    return settled(model, example(name, 16, seed=1))


def distance(found, expected):
    """Return the norm of the difference of two lists of tensors over that of the second."""
    both = ([t for t in part if t is not None] for part in (found, expected))
    a, b = (torch.cat([t.detach().double().flatten() for t in part]) for part in both)
    return float((a - b).norm() / b.norm())


def run(model, x, precision, mode):
    """Return the logits of a copy in a precision, and its gradients."""
    model = copy.deepcopy(model)
    if not precision.autocast:
        model.to(precision.dtype)
        x = x.to(precision.dtype) if x.is_floating_point() else x
    with MODES[mode](), precision.context():
        logits = model(x)
    if mode == "gradients":
        loss_of(logits.float()).backward()
    return logits, [p.grad for p in model.parameters() if p.requires_grad]


def sensitivity(model, x, dtype, exact):
    """Return how far the float32 gradient moves when weights and input alone are rounded.

    In a deep ball that is up to 0.8 of its norm, before anything is computed in half precision.
    """
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype).to(parameter.dtype))
    x = x.to(dtype).to(x.dtype) if x.is_floating_point() else x
    return distance(run(model, x, FULL, "gradients")[1], exact)


def check(model, x, precision):
    """Compare every mode with float32, training and evaluating.

    What float16 has not the range for is refused by name, with a wider type as the way out.
    """
    for training in (True, False):
        expected, exact = run(model.train(training), x, FULL, "gradients")
        for mode in MODES:
            said = f"{mode}, {'training' if training else 'evaluating'}"
            try:
                logits, found = run(model, x, precision, mode)
            except ValueError as error:
                assert precision == CAST[1], said
                assert "float16" in str(error) and "float32" in str(error), said
                continue
            assert logits.isfinite().all(), said
            assert precision.autocast or logits.dtype == precision.dtype, said
            rounding = torch.finfo(precision.dtype).eps / 2
            assert distance([logits], [expected]) < OUTPUT * rounding, said
            if mode == "gradients":
                # Both may lack one, of a weight that a mechanism does not use.
                assert [g is None for g in found] == [g is None for g in exact], said
                depth = sum(len(getattr(module, "branches", ())) for module in model.modules())
                error = distance(found, exact)
                if error >= GRADIENT * max(1.0, depth / 16) ** 0.5:
                    assert error < 2 * sensitivity(model, x, precision.dtype, exact), said


EVERY_MODEL = [(name, precision) for name in SMALL for precision in PRECISIONS]
EVERY_RESIDUAL = [
    (name, residual, precision)
    for name in NANO
    for residual in residuals.names()
    for precision in PRECISIONS
]
EVERY_METHOD = [
    (name, method, precision)
    for name in ("mlp_nano", "resnet_nano", "gpt_nano", "vit_nano")
    for method in methods.names()
    for precision in PRECISIONS
]


# Those of twenty layers take seconds for a convolution's gradient in float16.
USUAL = [name for name in KINDS if "resnet20" not in name]


@with_and_without
@pytest.mark.parametrize(("name", "precision"), tiered(EVERY_MODEL, lambda name, _: name in USUAL))
def test_every_model_is_near_float32_in_every_precision_and_mode(name, precision, kernels):
    check(disturbed(name), example(name, 4), precision)


@with_and_without
@pytest.mark.parametrize(
    ("name", "residual", "precision"),
    tiered(EVERY_RESIDUAL, lambda name, _, p: name == "vit_nano" and p in (AUTOCAST[0], CAST[1])),
)
def test_so_is_every_residual_over_every_backbone(name, residual, precision, kernels):
    check(disturbed(name, residual=residual), example(name, 4), precision)


@pytest.mark.parametrize(
    ("name", "method", "precision"), tiered(EVERY_METHOD, lambda name, *_: name == "mlp_nano")
)
def test_so_is_every_low_rank_method(name, method, precision):
    spec = {"name": method, "min_kernel": 1} if method == "trp" else method
    check(disturbed(name, lowrank=spec), example(name, 4), precision)


# What runs the forward pass in another way.


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("residual", ["add", "block_attnres", "delta"])
def test_a_cache_continues_a_text_in_every_precision(residual, precision):
    model = disturbed("gpt_nano", residual=residual).eval()
    tokens = example("gpt_nano", 2)
    expected = model(tokens)
    if not precision.autocast:
        model.to(precision.dtype)
    cache = KeyValueCache(model.context_length)
    parts = tokens.split([5, 1, 4, 1, 1], dim=1)
    with torch.no_grad(), precision.context():
        logits = [model.forward_head(model.forward_features(part, cache)) for part in parts]
        text = model.generate(tokens, 3, temperature=0)
    assert distance(logits, [p.contiguous() for p in expected.split([5, 1, 4, 1, 1], dim=1)]) < 0.1
    assert text.shape == (2, tokens.shape[1] + 3)


@mixed
@pytest.mark.parametrize("name", [name for name in NANO if name != "mlp_nano"])
@pytest.mark.parametrize("residual", ["add", "block_attnres"])
def test_recomputing_under_autocast_gives_the_same_gradients(name, residual, precision):
    x = example(name, 4)
    model = disturbed(name, residual=residual)
    plain = run(model, x, precision, "gradients")[1]
    model.set_grad_checkpointing()
    for ours, gradient in zip(run(model, x, precision, "gradients")[1], plain, strict=True):
        torch.testing.assert_close(ours, gradient, rtol=0.0, atol=0.0)


@pytest.mark.compiles
@pytest.mark.parametrize("mode", ["no_grad", pytest.param("gradients", marks=slow)])
@pytest.mark.parametrize("name", ["mlp_nano", pytest.param("vit_nano", marks=slow)])
def test_compiled_code_under_autocast_computes_the_same(name, mode):
    model = disturbed(name, residual="block_attnres").eval()
    x = example(name, 4)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler about itself
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        with MODES[mode](), AUTOCAST[0].context():
            logits, expected = compiled(x), model(x)
    torch._dynamo.reset()
    assert distance([logits], [expected]) < OUTPUT * torch.finfo(torch.bfloat16).eps / 2
