"""Laws of plain low rank and of its comparator: what they start at, and that W outlives an SVD."""

import copy

import pytest
import torch
from archzoo.layers.lowrank import (
    FactoredConv2d,
    Factors,
    Full,
    LowRank,
    merge,
    reparametrize,
    structures,
)
from archzoo.layers.lowrank.methods.low_rank import align_factors, product_square
from torch import Tensor, nn

from ..lowrank_runs import begin, differing, network, run, take_step

SCHEMES = ["channel", "spatial", "input", "depthwise"]


def adamw(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def often(reset_momentum: bool = False) -> LowRank:
    return LowRank(rank=2, refactorize_every=4, reset_momentum=reset_momentum)


def truncated(matrix: Tensor, rank: int) -> Tensor:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return (u[..., :rank] * s[..., None, :rank]) @ v[..., :rank, :]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_spectral_init_is_the_best_approximation_of_its_rank_and_balanced(
    scheme: str, groups: int
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups).double()
    model = nn.Sequential(copy.deepcopy(conv))
    reparametrize(model, LowRank(rank=2, scheme=scheme), ["0"])  # type: ignore[arg-type]
    layer = model[0]
    assert isinstance(layer, FactoredConv2d) and isinstance(layer.structure, Factors)
    unfolding, factors = layer.settings.unfolding, layer.structure
    expected = truncated(unfolding.to_matrix(conv.weight.detach()), 2)
    torch.testing.assert_close(factors.dense(), expected, rtol=0, atol=1e-13)
    gram_left, gram_right = factors.left.mT @ factors.left, factors.right @ factors.right.mT
    torch.testing.assert_close(gram_left, gram_right, rtol=0, atol=1e-13)
    with torch.no_grad():
        conv.weight.copy_(unfolding.to_kernel(expected))
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(model(x), conv(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_zero_init_is_a_map_of_zeros_that_learns(scheme: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Flatten(), nn.Linear(36, 5)).double()
    method = LowRank(rank=2, init="zero", scheme=scheme)  # type: ignore[arg-type]
    controller = reparametrize(model, method, ["0", "2"])
    optimizer = sgd(model)
    for factors in controller.factors().values():
        assert not factors.left.any()
        bound = factors.shape[-1] ** -0.5
        assert 0.5 * bound < factors.right.abs().max() <= bound
    for step in range(3):
        take_step(model, optimizer, step)
    for factors in controller.factors().values():
        assert factors.left.any() and factors.right.grad is not None and factors.right.grad.any()


def test_refactorising_keeps_the_map_and_balances_the_factors() -> None:
    model, controller, optimizer = begin(often(), adamw)
    for step in range(3):
        take_step(model, optimizer, step)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # so that the fourth step does nothing but refactorise
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    before = model(x)
    drifted = {name: f.left.detach().clone() for name, f in controller.factors().items()}
    take_step(model, optimizer, 3)
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-13)
    for name, factors in controller.factors().items():
        assert not torch.allclose(factors.left, drifted[name], rtol=0, atol=1e-4)
        values = torch.linalg.svdvals(factors.dense())[:2].diag()
        torch.testing.assert_close(factors.left.mT @ factors.left, values, rtol=0, atol=1e-13)
        torch.testing.assert_close(factors.right @ factors.right.mT, values, rtol=0, atol=1e-13)


def test_an_average_keeps_its_own_map_and_stays_in_the_basis_of_the_trained_factors() -> None:
    model, controller, optimizer = begin(often(), adamw)
    for step in range(3):
        take_step(model, optimizer, step)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 1e-6 * torch.randn_like(parameter)
    controller.twins.append(twin)
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    before = twin(x)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    take_step(model, optimizer, 3)
    torch.testing.assert_close(twin(x), before, rtol=0, atol=1e-13)
    for name, factors in controller.factors().items():
        other = next(controller.twins_of(name))
        # They were 1e-6 apart in every entry; an SVD of its own could have turned a sign.
        torch.testing.assert_close(other.left, factors.left, rtol=0, atol=1e-4)
        torch.testing.assert_close(other.right, factors.right, rtol=0, atol=1e-4)


def test_aligned_factors_are_those_they_were_rotated_from() -> None:
    left, right = torch.randn(7, 3).double(), torch.randn(3, 5).double()
    rotation = torch.linalg.qr(torch.randn(3, 3).double()).Q
    aligned = align_factors(left @ rotation, rotation.mT @ right, left, right)
    torch.testing.assert_close(aligned, (left, right), rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [adamw, sgd])
@pytest.mark.parametrize("reset_momentum", [False, True])
def test_momentum_is_dropped_where_asked_with_its_count_of_steps(make, reset_momentum) -> None:
    model, controller, optimizer = begin(often(reset_momentum), make)
    for step in range(4):
        take_step(model, optimizer, step)
    for factors in controller.factors().values():
        assert (factors.left in optimizer.state) == (not reset_momentum)
        assert (factors.right in optimizer.state) == (not reset_momentum)
    assert model[5].weight in optimizer.state  # no target: as it was


def test_the_penalty_is_the_squared_norm_of_the_products_and_decays_them() -> None:
    controller = reparametrize(network(), LowRank(rank=2, frobenius=0.3), ["0", "3"])
    penalty = controller.penalty()
    weights = [structure.dense() for _, structure in controller.structures()]
    expected = 0.3 * sum(weight.square().sum() for weight in weights)
    assert penalty is not None
    torch.testing.assert_close(penalty, expected)
    parameters = [p for f in controller.factors().values() for p in (f.left, f.right)]
    found = torch.autograd.grad(penalty, parameters)
    torch.testing.assert_close(found, torch.autograd.grad(expected, parameters))
    assert reparametrize(network(), LowRank(rank=2), ["3"]).penalty() is None


def test_the_norm_of_a_batch_of_products_is_that_of_all() -> None:
    left, right = torch.randn(3, 7, 2).double(), torch.randn(3, 2, 5).double()
    torch.testing.assert_close(product_square(left, right), (left @ right).square().sum())


@pytest.mark.parametrize("reset_momentum", [False, True])
@pytest.mark.parametrize("step", [3, 4])
def test_a_run_that_goes_on_from_its_files_equals_one_that_never_stopped(
    step: int, reset_momentum: bool
) -> None:
    def method() -> LowRank:
        return often(reset_momentum)

    assert not differing(run(method, adamw, 10)[0], run(method, adamw, 10, step)[0])


def test_a_share_of_the_run_is_as_many_steps_and_needs_its_length() -> None:
    def shared() -> LowRank:
        return LowRank(rank=2, refactorize_every=0.25, total_steps=16)

    assert not differing(run(shared, adamw, 9)[0], run(often, adamw, 9)[0])
    controller = reparametrize(network(), LowRank(rank=2, refactorize_every=0.25), ["3"])
    with pytest.raises(ValueError, match="refactorize_every=0.25 needs the length of the run"):
        controller.attach(adamw(controller.model))


@pytest.mark.parametrize("init", ["spectral", "zero"])
def test_parameters_are_those_of_the_factors_and_merging_gives_the_outputs(init: str) -> None:
    model, controller, optimizer = begin(LowRank(rank=2, init=init), adamw)  # type: ignore
    for step in range(3):
        take_step(model, optimizer, step)
    counts = [structure.parameter_count() for _, structure in controller.structures()]
    assert counts == [2 * (8 + 2 * 9), 2 * (12 + 72)]
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    before = model(x)
    merge(model)
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-13)


def test_full_rank_changes_nothing_but_the_learning_rate_of_its_targets() -> None:
    plain, model = network(), network()
    controller = reparametrize(model, Full(), ["0", "3"], learning_rate_ratio=0.5)
    assert not list(structures(model)) and list(controller.targets) == ["0", "3"]
    groups = [{"params": [*plain[0].parameters()][:1] + [*plain[3].parameters()][:1], "lr": 0.005}]
    rest = [p for p in plain.parameters() if all(p is not q for q in groups[0]["params"])]
    expected = torch.optim.SGD([*groups, {"params": rest}], lr=0.01)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    controller.attach(optimizer)
    for step in range(3):
        take_step(plain, expected, step)
        take_step(model, optimizer, step)
    assert not differing(model.state_dict(), plain.state_dict())


@pytest.mark.parametrize("rank", [2, 6, 0.5])
def test_full_rank_with_a_rank_has_the_targets_of_a_method_of_that_rank(rank: int | float) -> None:
    for method in (Full(rank=rank), LowRank(rank=rank)):
        controller = reparametrize(network(), method, excluded=())
        assert (
            list(controller.targets) == {2: ["0", "3", "5"], 6: ["3"], 0.5: ["0", "3", "5"]}[rank]
        )


BAD = {
    "rank must be": {"rank": 0},
    "init must be": {"init": "random"},
    "refactorize_every must be at least 1 step": {"refactorize_every": -1},
    "share of the run in": {"refactorize_every": 1.5},
    "frobenius must be at least 0": {"frobenius": float("nan")},
    "scheme must be one of": {"scheme": "filter"},
    "total_steps must be at least 1": {"total_steps": 0},
}


@pytest.mark.parametrize(("message", "settings"), BAD.items())
def test_bad_settings_are_refused(message: str, settings: dict) -> None:
    with pytest.raises(ValueError, match=message):
        LowRank(**settings)


def test_full_rank_refuses_a_rank_that_no_weight_has() -> None:
    with pytest.raises(ValueError, match="rank must be"):
        Full(rank=0)
