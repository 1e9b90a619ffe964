"""Every weight structure under `torch.func`, whose transforms give what autograd does.

Derivatives in the input are those of the dense layer with the same weight; derivatives in the
parameters are those of `torch.autograd`, one example, network or direction after the other.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from archzoo.layers.lowrank import SST, merge, reparametrize
from archzoo.zoo import create_model, merge_lowrank, model_info
from archzoo.zoo.axes.lowrank import make_method, methods
from archzoo.zoo.certify.lower_bound import lipschitz_estimate
from archzoo.zoo.inspect.describe import example_shape
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.nn import functional as F

SPECS: dict[str, dict[str, Any]] = {
    name: {"name": name, **({"rank": 2} if "rank" in methods[name].options else {})}
    for name in methods.names()
}
SPECS["sltrain"]["density"] = 0.2
SPECS["trp"]["min_kernel"] = 1
SPECS["sst, true gradient"] = {**SPECS["sst"], "enhanced": False}
SPECS["lost, a matrix"] = {**SPECS["lost"], "activation": None}
FACES = ["linear", "convolution", "grouped", "matrix"]
close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
Parameters = dict[str, Tensor]


class Raw(nn.Module):
    """Reads a matrix of its own."""

    matrix_parameters = ("weight",)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(7, 6))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.sin(), self.weight)


def layer(spec: dict[str, Any], face: str) -> tuple[nn.Module, Tensor]:
    """Return a layer of a method with no part at zero, and a batch for it, in float64."""
    torch.manual_seed(0)
    model, x = {
        "linear": lambda: (nn.Linear(6, 7), torch.randn(3, 6)),
        "convolution": lambda: (nn.Conv2d(4, 6, 3, padding=1), torch.randn(3, 4, 4, 3)),
        "grouped": lambda: (nn.Conv2d(4, 6, 3, groups=2, stride=2), torch.randn(3, 4, 5, 5)),
        "matrix": lambda: (Raw(), torch.randn(3, 6)),
    }[face]()
    holder = nn.Sequential(model).double()
    method = make_method(spec)
    if face == "matrix" and not method.is_matrix:
        pytest.skip("the layer needs a matrix")
    reparametrize(holder, method, ["0:weight" if face == "matrix" else "0"])
    with torch.no_grad():
        for p in holder.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return holder, x.double()


def trained(model: nn.Module) -> Parameters:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def loss_of(model: nn.Module) -> Callable[[Parameters, Tensor], Tensor]:
    """Return a loss whose second derivatives are not zero."""
    return lambda parameters, x: functional_call(model, parameters, (x,)).sin().square().sum()


def by_autograd(loss: Tensor, parameters: Parameters, **more: bool) -> Parameters:
    return dict(zip(parameters, torch.autograd.grad(loss, [*parameters.values()], **more),
                    strict=True))  # fmt: skip


def directions(like: Parameters) -> Parameters:
    return {name: torch.randn_like(p) for name, p in like.items()}


@pytest.fixture(params=[(n, f) for n in SPECS for f in FACES], ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    name, face = request.param
    return layer(SPECS[name], face)


def test_derivatives_in_the_input_are_those_of_the_dense_layer(
    case: tuple[nn.Module, Tensor],
) -> None:
    model, x = case
    dense = copy.deepcopy(model)
    merge(dense, strict=False)  # one with an activation stays, and is compared with autograd
    direction = torch.randn_like(x)
    tracked = x.clone().requires_grad_()
    weights = torch.randn_like(dense(x))
    (first,) = torch.autograd.grad((dense(tracked) * weights).sin().sum(), tracked,
                                   create_graph=True)  # fmt: skip
    (second,) = torch.autograd.grad((first * direction).sum(), tracked)

    def loss(x: Tensor) -> Tensor:
        return (model(x) * weights).sin().sum()

    close(grad(loss)(x), first)
    close(vjp(loss, x)[1](torch.ones((), dtype=x.dtype))[0], first)
    close(jvp(loss, (x,), (direction,))[1], (first * direction).sum())
    close(grad(lambda x: (grad(loss)(x) * direction).sum())(x), second)
    close(jvp(grad(loss), (x,), (direction,))[1], second)
    close(grad(lambda x: jvp(loss, (x,), (direction,))[1])(x), second)
    close(vmap(model)(x), dense(x))
    jacobian = torch.autograd.functional.jacobian(dense, x[0:1])
    close(jacrev(model)(x[0:1]), jacobian)
    close(jacfwd(model)(x[0:1]), jacobian)
    expected = jvp(dense, (x,), (direction,))[1]
    with forward_ad.dual_level():
        pair = forward_ad.unpack_dual(model(forward_ad.make_dual(x, direction)))
        close(pair.tangent, expected)


def test_derivatives_in_the_parameters_are_those_of_autograd(
    case: tuple[nn.Module, Tensor],
) -> None:
    model, x = case
    loss, own = loss_of(model), trained(model)
    first = by_autograd(model(x).sin().square().sum(), own, create_graph=True)
    found = {name: p.detach() for name, p in own.items()}
    close(grad(loss)(found, x), first)
    single = vmap(grad(loss), (None, 0))(found, x)
    for i in range(len(x)):
        alone = by_autograd(model(x[i]).sin().square().sum(), own)
        close({name: g[i] for name, g in single.items()}, alone)
        close({n: g[i] for n, g in jacrev(lambda p: vmap(lambda x: loss(p, x))(x))(found).items()},
              alone)  # fmt: skip
    along = directions(found)
    rate = jvp(lambda p: loss(p, x), (found,), (along,))[1]
    close(rate, sum((first[n] * along[n]).sum() for n in found))
    products = sum((first[n] * along[n]).sum() for n in found)
    assert isinstance(products, Tensor)
    second = by_autograd(products, own)

    def turned(p: Parameters) -> Tensor:
        gradient = grad(loss)(p, x)
        return sum(((gradient[n] * along[n]).sum() for n in p), torch.zeros(()).double())

    close(grad(turned)(found), second)


def test_second_derivatives_are_those_of_finite_differences(
    case: tuple[nn.Module, Tensor],
) -> None:
    model, x = case
    if any(getattr(module, "enhanced", False) for module in model.modules()):
        pytest.skip("the enhanced gradient is that of no function")
    own, step = trained(model), 1e-5
    x.requires_grad_()
    everything = {**own, "input": x}
    first = by_autograd(model(x).sin().square().sum(), everything, create_graph=True)
    along, weights = directions(everything), directions(everything)
    total = sum((first[n] * weights[n]).sum() for n in everything)
    assert isinstance(total, Tensor)
    second = by_autograd(total, everything)
    rate = sum((second[n] * along[n]).sum() for n in everything)
    values = []
    for side in (step, -step):
        with torch.no_grad():
            for name, p in everything.items():
                p.add_(side * along[name])
        moved = by_autograd(model(x).sin().square().sum(), everything)
        values.append(sum((moved[n] * weights[n]).sum() for n in everything))
        with torch.no_grad():
            for name, p in everything.items():
                p.sub_(side * along[name])
    difference = (values[0] - values[1]) / (2 * step)
    torch.testing.assert_close(rate, difference, rtol=1e-5, atol=1e-6)


def test_several_networks_at_once_answer_as_each_does_alone(case: tuple[nn.Module, Tensor]) -> None:
    model, x = case
    several = [model, copy.deepcopy(model)]
    with torch.no_grad():
        for p in several[1].parameters():
            p.mul_(1.5)
    parameters, buffers = stack_module_state(several)

    def run(parameters: Parameters, buffers: Parameters) -> Tensor:
        return functional_call(model, (parameters, buffers), (x,)).sin().sum()

    found = vmap(run)(parameters, buffers)
    gradients = vmap(grad(run))(parameters, buffers)
    for i, each in enumerate(several):
        loss = each(x).sin().sum()
        close(found[i], loss)
        alone = by_autograd(loss, trained(each))
        close({name: gradients[name][i] for name in alone}, alone)


@pytest.mark.parametrize("rows", [3, 200])
@pytest.mark.parametrize("enhanced", [True, False])
def test_an_enhanced_gradient_is_the_same_under_every_transform(rows: int, enhanced: bool) -> None:
    model, _ = layer({**SPECS["sst"], "enhanced": enhanced}, "linear")
    x = torch.randn(rows, 6).double()
    own = trained(model)
    first = by_autograd(model(x).sin().square().sum(), own)
    close(grad(loss_of(model))(own, x), first)
    sigma, structure = own["0.structure.sigma"], model[0].structure  # type: ignore[index]
    assert isinstance(structure, nn.Module)
    plain = reparametrize(nn.Sequential(nn.Linear(6, 7)).double(), SST(rank=2, enhanced=False))
    plain.model.load_state_dict(model.state_dict())
    true = by_autograd(plain.model(x).sin().square().sum(), trained(plain.model))
    active = sigma[0, structure.order[:2]]  # type: ignore[index]
    scale = 1.0 if not enhanced else active
    close(first["0.structure.left"] * scale, true["0.structure.left"])


@pytest.mark.parametrize("name", SPECS)
def test_the_lipschitz_estimate_of_a_model_is_that_of_its_dense_copy(name: str) -> None:
    torch.manual_seed(0)
    model = create_model("mlp_nano", lowrank=SPECS[name]).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    dense = copy.deepcopy(model)
    merge_lowrank(dense, strict=False)
    x = torch.randn(2, *example_shape(model_info("mlp_nano"))).double()
    found = [lipschitz_estimate(m, x, points=2, power=2, steps=2) for m in (model, dense)]
    assert found[0] > 0
    assert found[0] == pytest.approx(found[1], rel=1e-6)
