"""Laws of AdamW with a count of updates a vector."""

import copy
import io

import pytest
import torch
from archzoo.layers.lowrank import StepAdamW, reset_state
from archzoo.layers.lowrank.optim.step_adamw import step_shape
from torch import Tensor, nn

SHAPES = {(): (), (5,): (1,), (7, 3): (1, 3), (3, 7): (3, 1), (4, 4): (1, 4), (2, 3, 7): (1, 3, 1)}


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=g, dtype=dtype)) for shape in SHAPES]


def set_gradients(several: list[nn.Parameter], step: int) -> None:
    g = torch.Generator().manual_seed(step)
    for p in several:
        p.grad = torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype)


@pytest.mark.parametrize(("shape", "counts"), SHAPES.items())
def test_counts_lie_along_the_shorter_side(shape: tuple[int, ...], counts: tuple[int, ...]) -> None:
    assert step_shape(shape) == counts


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.95)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_without_a_reset_it_is_adamw(dtype: torch.dtype, betas: tuple[float, float]) -> None:
    ours, theirs = parameters(dtype), parameters(dtype)
    pair = []
    for several, kind in ((ours, StepAdamW), (theirs, torch.optim.AdamW)):
        groups = [{"params": several[:3], "weight_decay": 0.0}, {"params": several[3:], "lr": 0.02}]
        pair.append(kind(groups, lr=0.01, betas=betas, weight_decay=0.1))
    for step in range(20):
        for several, optimizer in zip((ours, theirs), pair, strict=True):
            set_gradients(several, step)
            optimizer.step()
            optimizer.param_groups[0]["lr"] *= 0.9  # as a scheduler does
    # 20 steps of a few roundings each, of numbers of size 1.
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("place", "dim"), [(2, 1), (3, 0), (5, 1)])
def test_a_vector_that_is_reset_moves_as_in_its_first_update_and_no_other_one_changes(
    place: int, dim: int
) -> None:
    reset, plain = parameters(), parameters()
    optimizers = [StepAdamW(several, lr=0.1, weight_decay=0.0) for several in (reset, plain)]

    def step(number: int) -> None:
        for several, optimizer in zip((reset, plain), optimizers, strict=True):
            set_gradients(several, number)
            optimizer.step()

    for number in range(3):
        step(number)
    before = reset[place].detach().clone()
    reset_state(optimizers[0], reset[place], dim, torch.tensor([1]))
    step(3)
    moved = (reset[place] - before).select(dim, 1).abs()
    # g / (|g| + ε) of length one, but for ε = 1e-8 against gradients of about 1.
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1), rtol=1e-5, atol=0)
    others = torch.tensor([i for i in range(reset[place].shape[dim]) if i != 1])
    kept = [several[place].index_select(dim, others) for several in (reset, plain)]
    assert torch.equal(*kept)
    assert optimizers[0].state[reset[place]]["step"].flatten().tolist() == [4.0, 1.0, 4.0]


def test_moments_without_their_count_would_make_the_step_three_times_too_long() -> None:
    p = nn.Parameter(torch.zeros(4, 2, dtype=torch.float64))
    optimizer = StepAdamW([p], lr=1.0, weight_decay=0.0)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.state[p]["step"].fill_(1e5)  # βᵗ is nothing any more, and both moments are zero
    p.grad = torch.ones_like(p)
    optimizer.step()
    torch.testing.assert_close(p.detach().abs(), torch.full_like(p, 0.1 / 0.001**0.5), rtol=1e-4,
                               atol=0)  # fmt: skip


def test_a_run_that_goes_on_from_its_state_equals_one_that_never_stopped() -> None:
    whole, cut = parameters(torch.float32), parameters(torch.float32)
    optimizers = [StepAdamW(several, lr=0.1) for several in (whole, cut)]

    def step(number: int) -> None:
        for several, optimizer in zip((whole, cut), optimizers, strict=True):
            set_gradients(several, number)
            optimizer.step()

    for optimizer, several in zip(optimizers, (whole, cut), strict=True):
        set_gradients(several, 0)
        optimizer.step()
        reset_state(optimizer, several[2], 1, torch.tensor([0]))
    step(1)
    file = io.BytesIO()
    torch.save(optimizers[1].state_dict(), file)
    file.seek(0)
    optimizers[1] = StepAdamW(cut, lr=0.1)
    optimizers[1].load_state_dict(torch.load(file, weights_only=True))
    step(2)
    assert all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True))


def test_a_run_of_adamw_may_go_on_with_it() -> None:
    first, second = parameters(), parameters()
    start = torch.optim.AdamW(first, lr=0.1)
    set_gradients(first, 0)
    start.step()
    for mine, other in zip(second, first, strict=True):
        mine.data.copy_(other.data)
    further = StepAdamW(second, lr=0.1)
    further.load_state_dict(copy.deepcopy(start.state_dict()))
    for several, optimizer in ((first, start), (second, further)):
        set_gradients(several, 1)
        optimizer.step()
    for mine, other in zip(second, first, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


def test_bfloat16_counts_beyond_256_and_parameters_without_a_gradient_rest() -> None:
    p, idle = nn.Parameter(torch.zeros(3, 2, dtype=torch.bfloat16)), nn.Parameter(torch.ones(2))
    optimizer = StepAdamW([p, idle], lr=1e-3)
    for _ in range(300):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert optimizer.state[p]["step"].tolist() == [[300.0, 300.0]]
    assert idle not in optimizer.state and bool((idle == 1).all())


def test_a_closure_is_called_with_gradients() -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer = StepAdamW([p], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 2.0  # type: ignore[arg-type]
    assert bool((p < 1).all())


@pytest.mark.parametrize(
    ("message", "settings"),
    {
        "lr must be at least 0, got -1": {"lr": -1},
        "eps": {"eps": -1.0},
        "weight_decay": {"weight_decay": float("nan")},
        "betas must be two numbers": {"betas": (0.9, 1.0)},
    }.items(),
)
def test_bad_settings_are_refused(message: str, settings: dict) -> None:
    with pytest.raises(ValueError, match=message):
        StepAdamW([nn.Parameter(torch.ones(2))], **settings)


def test_counts_of_another_shape_and_sparse_gradients_are_refused() -> None:
    p = nn.Parameter(torch.ones(3, 2))
    optimizer = StepAdamW([p])
    p.grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step()
    p.grad = torch.ones(3, 2)
    optimizer.step()
    state = optimizer.state_dict()
    state["state"][0]["step"] = torch.ones(5)
    with pytest.raises(ValueError, match=r"counts of shape \(5,\)"):
        StepAdamW([p]).load_state_dict(state)
