"""Laws of WeLore: one threshold, a budget of parameters, and nothing trained but the factors."""

import copy

import pytest
import torch
from archzoo.layers.lowrank import (
    Factors,
    WeLore,
    break_even,
    normalised_spectrum,
    reparametrize,
    weighted_svd,
)
from torch import nn

NAMES = ["0", "2", "4"]


def network(seed: int = 0) -> nn.Sequential:
    """Three linear layers with spectra that fall at different speeds, a norm and a head."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(20, 24), nn.ReLU(), nn.Linear(24, 20), nn.LayerNorm(20), nn.Linear(20, 20),
        nn.Linear(20, 3),
    ).double()  # fmt: skip
    for name, speed in zip(NAMES, (1.0, 0.3, 0.02), strict=True):
        weight = model.get_submodule(name).weight
        u, s, v = torch.linalg.svd(weight.detach(), full_matrices=False)
        falling = torch.exp(-speed * torch.arange(len(s), dtype=torch.float64))
        with torch.no_grad():
            weight.copy_((u * falling) @ v)
    return model


def numbers(model: nn.Module, ranks: dict[str, int]) -> float:
    """Parameters of the targets at some ranks; others are dense."""
    shapes = {n: tuple(model.get_submodule(n).weight.shape) for n in NAMES}
    return sum(
        ranks[n] * (o + i) if n in ranks else o * i for n, (o, i) in shapes.items()
    )  # fmt: skip


@pytest.mark.parametrize("share", [0.25, 0.4, 0.6, 0.9])
@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_the_lowest_threshold_that_meets_the_budget_decides(share, rho):
    dense = network()
    spectra = {n: torch.linalg.svdvals(dense.get_submodule(n).weight.detach()) for n in NAMES}
    scaled = {n: normalised_spectrum(s) for n, s in spectra.items()}

    def at(cut: float) -> dict[str, int]:
        found = {n: max(1, int((z >= cut).sum())) for n, z in scaled.items()}
        shapes = {n: tuple(dense.get_submodule(n).weight.shape) for n in NAMES}
        return {
            n: r for n, r in found.items()
            if r < break_even(shapes[n]) and 1 - r / len(spectra[n]) > rho
        }  # fmt: skip

    budget = share * numbers(dense, {})
    cuts = sorted({float(c) for z in scaled.values() for c in z})
    fitting = [cut for cut in cuts if numbers(dense, at(cut)) <= budget]
    if not fitting:
        with pytest.raises(ValueError, match="is met by no threshold"):
            reparametrize(network(), WeLore(keep=share, rho=rho), NAMES)
        return
    method = WeLore(keep=share, rho=rho)
    controller = reparametrize(network(), method, NAMES)
    assert method.ranks == at(fitting[0])
    assert {n: f.rank for n, f in controller.factors().items()} == method.ranks
    assert set(controller.skipped) >= set(NAMES) - set(method.ranks)


def test_a_low_rank_component_is_the_truncated_svd_with_even_factors():
    dense = network()
    controller = reparametrize(copy.deepcopy(dense), WeLore(keep=0.5), NAMES)
    assert controller.factors()
    for name, factors in controller.factors().items():
        weight = dense.get_submodule(name).weight.detach()
        best = weighted_svd(weight, factors.rank)
        product = best.left @ best.right
        torch.testing.assert_close(factors.dense().detach(), product, rtol=0.0, atol=1e-13)
        norms = factors.left.detach().norm(dim=0), factors.right.detach().norm(dim=1)
        torch.testing.assert_close(norms[0], norms[1], rtol=1e-10, atol=1e-13)


def test_rotations_of_rows_and_columns_change_no_rank():
    rotated = network()
    for seed, name in enumerate(NAMES):
        weight = rotated.get_submodule(name).weight
        generator = torch.Generator().manual_seed(seed)
        turns = [
            torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
            for n in weight.shape
        ]
        with torch.no_grad():
            weight.copy_(turns[0] @ weight @ turns[1])
    found = []
    for model in (network(), rotated):
        method = WeLore(keep=0.6)
        reparametrize(model, method, NAMES)
        found.append(method.ranks)
    assert found[0] == found[1]


@pytest.mark.parametrize("also", [None, ["3"], ["*.bias"]])
def test_nothing_but_the_factors_and_what_is_named_moves(also):
    model = network()
    controller = reparametrize(model, WeLore(keep=0.6, train_also=also), NAMES)
    assert 0 < len(controller.factors()) < len(NAMES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    controller.attach(optimizer)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 20, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    named = {"3.weight", "3.bias"} if also == ["3"] else set()
    if also == ["*.bias"]:
        named = {n for n in before if n.endswith(".bias")}
    factors = {f"{n}.structure.{side}" for n in controller.factors() for side in ("left", "right")}
    assert moved == factors | named


def test_given_ranks_make_the_same_weights_of_other_values():
    method = WeLore(keep=0.6)
    reparametrize(network(), method, NAMES)
    again = WeLore(**method.decided())
    controller = reparametrize(nn.Sequential(*network().children()).float(), again)
    assert {n: f.rank for n, f in controller.factors().items()} == method.ranks
    assert all(isinstance(f, Factors) for f in controller.factors().values())


BAD = {
    r"keep must lie in \(0, 1\], got 0.0": {"keep": 0.0},
    r"rho must be a share of the rank in \[0, 1\), got 1.0": {"rho": 1.0},
    "ranks: 0 must have a whole rank of at least 1, got 0": {"ranks": {"0": 0}},
    "train_also=.*says what freeze=True leaves out": {"train_also": ["3"], "freeze": False},
    "scheme must be one of": {"scheme": "rows"},
}


@pytest.mark.parametrize(("message", "settings"), BAD.items())
def test_bad_settings_are_refused_by_name(message, settings):
    with pytest.raises(ValueError, match=message):
        WeLore(**settings)


def test_ranks_of_another_model_are_refused():
    with pytest.raises(ValueError, match="ranks: '9' is no target"):
        reparametrize(network(), WeLore(ranks={"9": 1}), NAMES)
    with pytest.raises(ValueError, match="train_also: 'norm' matches no parameter"):
        reparametrize(network(), WeLore(keep=0.6, train_also=["norm"]), NAMES)
