"""Kept weights never go stale, and layers work inside inference mode and `torch.func`."""

import copy
import inspect
import io
import warnings
from collections.abc import Callable

import archzoo.layers.lipschitz as lipschitz
import pytest
import torch
from archzoo.layers.lipschitz import LDLTBlock, LDLTCircularConv2d, LipschitzLayer, OrthogonalConv2d
from archzoo.layers.lipschitz.weight_cache import Kept
from archzoo.layers.lowrank import LowRank, reparametrize
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import (
    functional_call,
    functionalize,
    grad,
    hessian,
    jacrev,
    jvp,
    stack_module_state,
    vjp,
    vmap,
)
from torch.nn.utils import parametrize

from .lipschitz_cases import noisy
from .test_lipschitz_layers import LAYERS

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **LAYERS,
    "ldlt": (lambda: LDLTBlock(5, (7,)), (5,)),
    "ldlt identity": (lambda: LDLTBlock(5, (7,), skip="identity", activation="tanh"), (5,)),
    "ldlt given": (lambda: LDLTBlock(5, (7,), skip=0.5 * torch.eye(5)), (5,)),
    "ldlt of two": (lambda: LDLTBlock(5, (7, 4)), (5,)),
    "ldlt dense": (lambda: LDLTBlock(5, (7, 4), wiring="dense", out_width=3), (5,)),
    "circular": (lambda: LDLTCircularConv2d(3, (4,)), (3, 5, 6)),
    "circular learned": (lambda: LDLTCircularConv2d(3, (4, 2), skip="learned"), (3, 5, 6)),
}
cases = pytest.mark.parametrize("name", CASES)


def build(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    make, shape = CASES[name]
    torch.manual_seed(0)
    module = noisy(make(), 0.3).to(dtype).eval()
    return module, torch.randn(3, *shape, dtype=dtype)


def fresh(module: nn.Module, x: Tensor) -> Tensor:
    """The outputs of the module's parameters, computed anew."""
    twin = copy.deepcopy(module)
    twin.forget()
    return twin(x)


def test_the_cases_hold_every_layer_of_the_package():
    kinds = {k for k in vars(lipschitz).values() if inspect.isclass(k)}
    kinds = {k for k in kinds if issubclass(k, LipschitzLayer) and k is not LipschitzLayer}
    assert kinds == {type(make()) for make, _ in CASES.values()}


def _lerp(module: nn.Module) -> None:
    for p in module.parameters():
        p.data.lerp_(torch.randn_like(p), 0.1)


def _data_copy(module: nn.Module) -> None:
    for p in module.parameters():
        p.data.copy_(p.data * 0.9 + 0.1)


def _data_set(module: nn.Module) -> None:
    for p in module.parameters():
        p.data = p.data * 0.8 + 0.05


def _numpy(module: nn.Module) -> None:
    for p in module.parameters():
        p.detach().numpy()[...] *= 1.3


def _load(module: nn.Module, assign: bool = False) -> None:
    changed = {name: 0.7 * t for name, t in module.state_dict().items()}
    module.load_state_dict(changed, assign=assign)


def _step(module: nn.Module, **options: bool) -> None:
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.Adam(module.parameters(), lr=0.1, **options).step()


def _replaced(module: nn.Module) -> None:
    for name, p in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(p.detach() * 0.8))


def _swapped(module: nn.Module) -> None:
    for p in module.parameters():
        torch.utils.swap_tensors(p, nn.Parameter(p.detach() * 0.8))


@torch.inference_mode()
def _inference(module: nn.Module) -> None:
    for p in module.parameters():
        p.mul_(0.8)


def _permuted(module: nn.Module) -> None:
    for p in module.parameters():
        p.data = p.data.flip(0)


def _negated(module: nn.Module) -> None:
    for p in module.parameters():
        p.data = torch._neg_view(p.data)  # same memory, same strides, other numbers


def _bound(module: nn.Module) -> None:
    module.lipschitz = 1.5


CHANGES: dict[str, Callable[[nn.Module], None]] = {
    "lerp on data": _lerp,
    "copy to data": _data_copy,
    "data set": _data_set,
    "numpy": _numpy,
    "load": _load,
    "load by assigning": lambda m: _load(m, assign=True),
    "foreach": lambda m: _step(m, foreach=True),
    "fused": lambda m: _step(m, fused=True),
    "new parameters": _replaced,
    "swapped": _swapped,
    "inference mode": _inference,
    "permuted": _permuted,
    "negative view": _negated,
    "another bound": _bound,
}


@pytest.mark.parametrize("change", CHANGES)
@cases
def test_a_change_of_any_kind_reaches_the_next_forward(name, change):
    module, x = build(name)
    with torch.no_grad():
        module(x)
        CHANGES[change](module)
        assert torch.equal(module(x), fresh(module, x))


@cases
def test_a_change_of_a_single_bit_is_seen_and_none_costs_nothing(name):
    module, x = build(name)
    with torch.no_grad():
        module(x)
        kept = module._kept
        module(x)
        assert module._kept is kept
        last = list(module.parameters())[0].data.view(-1)
        last[-1] = torch.nextafter(last[-1], last[-1] + 1)
        assert torch.equal(module(x), fresh(module, x))
        assert module._kept is not kept


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "transposed": lambda t: t.transpose(0, 1),
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "with gaps": lambda t: t[:, ::2],
    "at an odd offset": lambda t: t.view(-1)[1:],
    "expanded": lambda t: t[:1].expand_as(t),
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_bit_is_compared_in_every_layout(layout, dtype):
    whole = torch.randn(3, 4, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    t = LAYOUTS[layout](whole)
    kept = Kept((), {"t": t}, ())
    assert kept.serves((), {"t": t})
    assert kept.serves((), {"t": t.contiguous()})
    memory = torch.empty(0, dtype=torch.uint8).set_(t.untyped_storage())
    size, first = t.element_size(), t.storage_offset()
    last = first + sum((n - 1) * step for n, step in zip(t.shape, t.stride(), strict=True))
    for place in (first * size, (last + 1) * size - 1):
        for bit in (1, 128):
            memory[place] ^= bit
            assert not kept.serves((), {"t": t})
            memory[place] ^= bit
    assert kept.serves((), {"t": t})


def test_zeros_of_both_signs_differ_and_nan_is_itself():
    zero, odd = torch.zeros(4), torch.tensor([float("nan"), 1.0])
    kept = Kept((), {"zero": zero, "odd": odd}, ())
    assert kept.serves((), {"zero": zero.clone(), "odd": odd.clone()})
    assert not kept.serves((), {"zero": -zero, "odd": odd})
    assert not kept.serves((), {"zero": zero.double(), "odd": odd})
    assert not kept.serves((), {"zero": zero[None], "odd": odd})
    zero.untyped_storage().resize_(0)
    assert not kept.serves((), {"zero": zero, "odd": odd})


@pytest.mark.parametrize("name", ["ldlt", "contraction", "aol", "sll conv"])
def test_a_low_rank_matrix_changes_through_its_factors(name):
    module, x = build(name)
    holder = nn.Sequential(module)
    reparametrize(holder, LowRank(rank=2))
    module = holder.eval()[0]
    assert parametrize.is_parametrized(module)
    with torch.no_grad():
        module(x)
        for p in module.parameters():
            p.data.lerp_(torch.ones_like(p), 0.3)
        assert torch.equal(module(x), fresh(module, x))


@cases
def test_copies_and_pickles_hold_no_weights_and_compute_the_same(name):
    module, x = build(name)
    with torch.no_grad():
        expected = module(x)
        twin = copy.deepcopy(module)
        assert twin._kept is None
        file = io.BytesIO()
        torch.save(module, file)
        loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
        for other in (twin, loaded):
            assert torch.equal(other(x), expected)
        _lerp(twin)
        assert torch.equal(module(x), expected)
        assert torch.equal(twin(x), fresh(twin, x))


@cases
def test_a_layer_is_built_copied_and_run_in_inference_mode(name):
    module, x = build(name)
    with torch.inference_mode():
        made = CASES[name][0]().eval()
        made.load_state_dict(module.state_dict())
        expected = made(x)
        twin = copy.deepcopy(made)
        assert torch.equal(twin(x), expected)
        assert torch.equal(copy.deepcopy(module)(x), expected)
        _lerp(made)
        assert torch.equal(made(x), fresh(made, x))
    with torch.no_grad():
        assert torch.equal(twin(x), expected)
    # What was kept there serves no backward pass outside.
    x.requires_grad_()
    module.requires_grad_(False)(x).sum().backward()


@cases
def test_functional_call_takes_the_weights_that_it_is_given(name):
    module, x = build(name)
    with torch.no_grad():
        module(x)
        other = {n: 0.7 * p for n, p in module.named_parameters()}
        found = functional_call(module, other, (x,))
        before = module(x)
        twin = copy.deepcopy(module)
        twin.load_state_dict({**twin.state_dict(), **other})
        assert torch.equal(found, twin(x))
        assert torch.equal(before, fresh(module, x))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
@cases
def test_vmap_over_stacked_parameters_is_a_loop(name, gradients, training):
    modules = [noisy(build(name, torch.float64)[0], 0.2, seed).train(training) for seed in range(3)]
    _, x = build(name, torch.float64)
    with torch.set_grad_enabled(gradients):
        for module in modules:
            module(x)
        parameters, buffers = stack_module_state(modules)
        base = modules[0]
        found = vmap(lambda p, b: functional_call(base, (p, b), (x,)))(parameters, buffers)
        torch.testing.assert_close(
            found, torch.stack([m(x) for m in modules]), rtol=1e-9, atol=1e-9
        )


@cases
def test_vmap_over_samples_is_the_batch(name):
    module, x = build(name, torch.float64)
    single = vmap(lambda s: module(s[None])[0])(x)
    torch.testing.assert_close(single, module(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@cases
def test_the_jacobian_by_torch_func_is_that_of_autograd(name, dtype):
    module, x = build(name, dtype)
    names = [n for n, _ in module.named_parameters()]
    start = tuple(p.detach() for p in module.parameters())

    def output(*values: Tensor) -> Tensor:
        return functional_call(module, dict(zip(names, values, strict=True)), (x[:1],)).flatten()[
            :4
        ]

    found = jacrev(output, argnums=tuple(range(len(start))))(*start)
    expected = torch.autograd.functional.jacobian(output, start)
    tolerance = 1e-8 if dtype == torch.float64 else 1e-4
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(1 + b.abs().max()))


def dual(f: Callable[[Tensor], Tensor], p: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return f(forward_ad.make_dual(p, torch.ones_like(p)))


TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], object]] = {
    "none": lambda f, p: f(p),
    "grad": lambda f, p: grad(f)(p),
    "jvp": lambda f, p: jvp(f, (p,), (torch.ones_like(p),)),
    "vjp": lambda f, p: vjp(f, p),
    "vmap": lambda f, p: vmap(f)(torch.stack([p, torch.ones_like(p)])),
    "vmap of another": lambda f, p: vmap(lambda s: s * f(p))(torch.ones(2)),
    "vmap of grad": lambda f, p: vmap(grad(f))(torch.stack([torch.ones_like(p), p])),
    "hessian": lambda f, p: hessian(f)(p),
    "functionalize": lambda f, p: functionalize(f)(p),
    "dual numbers": lambda f, p: dual(f, p),
}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", ["ldlt", "contraction", "aol", "circular"])
def test_bad_numbers_are_refused_by_name_under_every_transform(name, transform, training, bad):
    module, x = build(name)
    module.train(training)
    own, parameter = next(iter(module.named_parameters()))
    values = parameter.detach().clone()
    values.view(-1)[-1] = bad

    def loss(p: Tensor) -> Tensor:
        return functional_call(module, {own: p}, (x,)).square().sum()

    with pytest.raises(ValueError, match=f"the parameter {own} holds NaN or infinite values"):
        TRANSFORMS[transform](loss, values)
    TRANSFORMS[transform](loss, parameter.detach())


@cases
def test_the_jacobian_of_the_inputs_is_that_of_autograd(name):
    module, x = build(name, torch.float64)
    found = jacrev(lambda s: module(s[None])[0])(x[0])
    expected = torch.autograd.functional.jacobian(lambda s: module(s[None])[0], x[0])
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_a_trace_holds_the_weights_as_constants():
    module, x = build("contraction")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        traced = torch.jit.trace(module, x)
        assert not any("cholesky" in str(n.kind()) for n in traced.inlined_graph.nodes())
        assert torch.equal(traced(x), module(x))


@cases
def test_a_layer_that_trains_is_no_constant_of_a_symbolic_trace(name):
    module, _ = build(name)
    # What asks for the sizes of its input is refused by torch itself, and before.
    with pytest.raises((ValueError, torch.fx.proxy.TraceError, TypeError)):
        torch.fx.symbolic_trace(nn.Sequential(module.train()))


def test_the_refusal_of_a_symbolic_trace_names_the_way_out():
    module, x = build("aol")
    with pytest.raises(ValueError, match="would not train; trace in evaluation mode, or use"):
        torch.fx.symbolic_trace(nn.Sequential(module.train()))
    module.eval()
    assert torch.equal(torch.fx.symbolic_trace(nn.Sequential(module))(x), module(x))


def test_circular_weights_belong_to_their_image_size():
    module = OrthogonalConv2d(4).eval()
    small, large = torch.randn(1, 4, 5, 5), torch.randn(1, 4, 7, 7)
    with torch.no_grad():
        first = module(small)
        module(large)
        assert torch.equal(module(small), first)
