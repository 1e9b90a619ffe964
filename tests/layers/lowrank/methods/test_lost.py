"""Laws of LOST: which columns it keeps, what they hold, and how both terms are weighed."""

import copy

import pytest
import torch
from archzoo.layers.lowrank import LOST, FactoredLinear, Factors, merge, reparametrize
from archzoo.layers.lowrank.methods.lost import ColumnTerm
from torch import Tensor, nn
from torch.nn import functional as F

from ..lowrank_runs import begin, differing, run, take_step


def adamw(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def made(rows: int, columns: int, **settings: object) -> tuple[Tensor, FactoredLinear]:
    """Return a fresh matrix in float64 and the layer that LOST makes of it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(columns, rows)).double()
    weight = model[0].weight.detach().clone()  # type: ignore[operator]
    given = {"rank": 4, "density": 0.2, "activation": None, **settings}
    reparametrize(model, LOST(**given), ["0"])  # type: ignore[arg-type]
    assert isinstance(model[0], FactoredLinear)
    return weight, model[0]


def parts(layer: FactoredLinear) -> tuple[Factors, ColumnTerm]:
    structure = layer.structure
    assert isinstance(structure, Factors) and isinstance(structure.extra, ColumnTerm)
    return structure, structure.extra


# Neither square: factors that were given to the wrong side would not fit.
@pytest.mark.parametrize("shape", [(12, 20), (20, 12)])
@pytest.mark.parametrize("residual_rank", [None, 3, 256])
def test_the_factors_are_the_best_of_their_rank_and_the_columns_those_it_leaves_out_most(
    shape: tuple[int, int], residual_rank: int | None
) -> None:
    weight, layer = made(*shape, residual_rank=residual_rank)
    factors, term = parts(layer)
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    low = (u[:, :4] * s[:4]) @ v[:4]
    torch.testing.assert_close(factors.left @ factors.right, low, rtol=0, atol=1e-13)
    end = None if residual_rank is None else 4 + residual_rank
    rest = (u[:, 4:end] * s[4:end]) @ v[4:end]
    count = int(0.2 * shape[1])
    expected = rest.norm(dim=0).argsort(descending=True)[:count].sort().values
    assert term.index.tolist() == expected.tolist()
    # From the fresh matrix itself, not from what the low rank leaves out.
    assert torch.equal(term.values, weight[:, expected])


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0])
def test_the_output_weighs_low_rank_by_gamma_and_columns_by_the_rest(
    gamma: float, activation: str | None
) -> None:
    weight, layer = made(12, 20, gamma=gamma, activation=activation)
    factors, term = parts(layer)
    x = torch.randn(3, 5, 20, dtype=torch.float64)
    hidden = x @ factors.right.T
    hidden = hidden if activation is None else F.silu(hidden)
    expected = gamma * hidden @ factors.left.T
    expected = expected + (1 - gamma) * x[..., term.index.long()] @ term.values.T + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-13)
    layer(x).square().sum().backward()
    for trained, weighs in (
        (factors.left, gamma),
        (factors.right, gamma),
        (term.values, 1 - gamma),
    ):
        assert trained.grad is not None and bool(trained.grad.any()) == (weighs > 0)


def test_parameters_are_those_of_the_factors_and_of_the_columns() -> None:
    layer = made(12, 20)[1]
    assert layer.structure.parameter_count() == 4 * (12 + 20) + 12 * 4
    tiny = made(12, 20, density=0.001)[1]  # at least one column
    assert tiny.structure.parameter_count() == 4 * (12 + 20) + 12


def test_without_an_activation_it_merges_exactly_and_has_a_bounded_rank() -> None:
    layer = made(12, 20, rank=3, density=0.1)[1]
    x = torch.randn(5, 20, dtype=torch.float64)
    torch.testing.assert_close(layer.to_dense()(x), layer(x), rtol=0, atol=1e-14)
    assert torch.linalg.matrix_rank(layer.weight) == 3 + 2


def test_with_an_activation_no_matrix_equals_it() -> None:
    layer = made(12, 20, activation="silu")[1]
    with pytest.raises(ValueError, match="has an activation between its factors"):
        layer.to_dense()
    with pytest.raises(ValueError, match="have an activation between their factors"):
        merge(nn.Sequential(layer))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_without_activation_equals_the_one_with_its_kernel(groups: int) -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups)).double()
    reparametrize(model, LOST(rank=2, density=0.2, activation=None), ["0"])
    conv = model[0]
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    expected = F.conv2d(x, conv.weight, conv.bias, 2, 1, groups=groups)  # type: ignore[arg-type]
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-13)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_a_raw_matrix_takes_it_without_an_activation_only() -> None:
    from archzoo.layers.hyperbolic import PoincareLinear

    with pytest.raises(ValueError, match="needs a matrix"):
        reparametrize(nn.Sequential(PoincareLinear(6, 6)), LOST(rank=2), ["0:weight"])
    model = nn.Sequential(PoincareLinear(6, 6))
    reparametrize(model, LOST(rank=2, activation=None), ["0:weight"])
    model(torch.randn(4, 6) / 10).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("activation", [None, "silu"])
def test_columns_stay_the_same_and_a_run_goes_on_from_its_files(activation: str | None) -> None:
    def method() -> LOST:
        return LOST(rank=2, density=0.1, activation=activation)  # type: ignore[arg-type]

    model, _, optimizer = begin(method(), adamw)
    before = {key: value.clone() for key, value in model.state_dict().items() if "index" in key}
    for step in range(3):
        take_step(model, optimizer, step)
    after = model.state_dict()
    assert len(before) == 2
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not differing(run(method, adamw, 6)[0], run(method, adamw, 6, 3)[0])


@pytest.mark.compiles
def test_it_compiles_to_one_graph() -> None:
    layer = made(12, 20, activation="silu")[1]
    compiled = torch.compile(copy.deepcopy(layer), backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 20, dtype=torch.float64)
    torch.testing.assert_close(compiled(x), layer(x), rtol=0, atol=1e-13)


def test_a_weight_that_would_not_become_smaller_is_left_out() -> None:
    model = nn.Sequential(nn.Linear(20, 12))
    with pytest.raises(ValueError, match="with 120 numbers beside them are not smaller than 12x20"):
        reparametrize(model, LOST(rank=4, density=0.5))


BAD = {
    "rank must be": {"rank": 0},
    "gamma must lie in": {"gamma": 1.5},
    "density must lie in": {"density": 0.0},
    "residual_rank must be at least 1": {"residual_rank": 0},
    "activation must be": {"activation": "relu"},
}


@pytest.mark.parametrize(("message", "settings"), BAD.items())
def test_bad_settings_are_refused(message: str, settings: dict) -> None:
    with pytest.raises(ValueError, match=message):
        LOST(**settings)
