"""Laws of GradNormLoRP: row-normalised weights, W = m V / |V|, and an optimiser that projects V."""

import pytest
import torch
from archzoo.layers.lowrank import ProjectedAdamW
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


@pytest.fixture
def layer() -> nn.Module:
    torch.manual_seed(0)
    return weight_norm(nn.Linear(5, 8, bias=False).double())


def parts(layer: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    """Lengths m (o, 1) and directions V (o, i)."""
    normalised = layer.parametrizations["weight"]  # type: ignore[index]
    return normalised.original0, normalised.original1  # type: ignore[union-attr]


def backward(layer: nn.Module, seed: int) -> Tensor:
    """Take gradients of a loss and return the one with respect to W."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 5, generator=g, dtype=torch.float64)
    target = torch.randn(16, 8, generator=g, dtype=torch.float64)
    layer.zero_grad()
    weight = layer.weight
    weight.retain_grad()  # type: ignore[operator]
    (x @ weight.mT - target).square().mean().backward()
    return weight.grad  # type: ignore[return-value]


def test_gradients_are_those_of_the_paper_and_that_of_a_direction_is_tangential(layer) -> None:
    with nn.utils.parametrize.cached():
        g = backward(layer, 0)
    m, v = parts(layer)
    length = v.detach().norm(dim=1, keepdim=True)
    unit = v.detach() / length
    along = (g * unit).sum(1, keepdim=True)
    torch.testing.assert_close(m.grad, along, rtol=0, atol=1e-13)
    torch.testing.assert_close(v.grad, m.detach() / length * (g - along * unit), rtol=0, atol=1e-13)
    assert float((v.grad * v.detach()).sum(1).abs().max()) < 1e-14


@pytest.mark.parametrize("basis", ["svd", "dct"])
def test_rows_are_as_long_as_the_magnitudes_at_every_step_and_v_moves_in_the_columns(
    layer, basis
) -> None:
    m, v = parts(layer)
    optimizer = ProjectedAdamW([m, v], lr=0.05, weight_decay=0.0, rank=2, basis=basis)
    first = m.detach().clone()
    for number in range(5):
        backward(layer, number)
        before = v.detach().clone()
        optimizer.step()
        rows = layer.weight.norm(dim=1, keepdim=True)
        torch.testing.assert_close(rows, m.abs(), rtol=0, atol=1e-14)
        move = v.detach() - before
        assert torch.linalg.matrix_rank(move, rtol=1e-9) == 2
    assert "basis" in optimizer.state[v] and "basis" not in optimizer.state[m]
    assert not torch.equal(m, first)


def test_at_full_rank_it_is_adamw_of_lengths_and_directions(layer) -> None:
    other = weight_norm(nn.Linear(5, 8, bias=False).double())
    other.load_state_dict(layer.state_dict())
    optimizers = [
        ProjectedAdamW(layer.parameters(), lr=0.05, rank=5),
        torch.optim.AdamW(other.parameters(), lr=0.05),
    ]
    for number in range(5):
        for each, optimizer in zip((layer, other), optimizers, strict=True):
            backward(each, number)
            optimizer.step()
    torch.testing.assert_close(layer.weight, other.weight, rtol=0, atol=1e-12)


def test_the_length_of_a_direction_changes_its_rate_alone(layer) -> None:
    _, v = parts(layer)
    weight = layer.weight.detach().clone()
    backward(layer, 0)
    gradient = v.grad.clone()
    v.data.mul_(4.0)
    torch.testing.assert_close(layer.weight.detach(), weight, rtol=0, atol=1e-15)
    backward(layer, 0)
    torch.testing.assert_close(v.grad, gradient / 4, rtol=0, atol=1e-15)
