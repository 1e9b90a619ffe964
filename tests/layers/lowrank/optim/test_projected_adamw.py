"""Laws of AdamW in a subspace of every matrix."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from archzoo.layers.lowrank import ProjectedAdamW, Trion
from archzoo.layers.lowrank.maths.subspace import cosine_basis, singular_basis
from archzoo.layers.lowrank.optim.error_feedback import kept_error
from torch import Tensor, nn

SHAPES = [(7, 4), (4, 7), (5, 5), (6, 3, 2, 2), (3, 2, 3, 3)]
SETTINGS: dict[str, dict[str, Any]] = {
    "dct": {},
    "dct, every third step": {"update_every": 3},
    "dct, l1": {"ranking": "l1", "rotate": False},
    "dct, error": {"error_feedback": True},
    "dct, error in whole numbers": {"error_feedback": "int8"},
    "svd": {"basis": "svd", "update_every": 2},
    "random": {"basis": "random", "update_every": 2, "seed": 5},
    "random, channels": {"basis": "random", "update_every": 2, "channel_scaling": True},
}


def gradient(shape: tuple[int, ...], step: int) -> Tensor:
    g = torch.Generator().manual_seed(100 * step + sum(shape))
    return torch.randn(shape, generator=g, dtype=torch.float64)


def parameters(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    return [nn.Parameter(gradient(shape, 999).to(dtype)) for shape in shapes]


def step(optimizer: torch.optim.Optimizer, number: int) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = gradient(tuple(p.shape), number).to(p.dtype)
    optimizer.step()


def tall(matrix: Tensor) -> Tensor:
    flat = matrix.detach().flatten(1)
    return flat.mT if flat.shape[0] < flat.shape[1] else flat


def columns(p: nn.Parameter, optimizer: ProjectedAdamW) -> Tensor:
    kept = optimizer.state[p]["basis"]
    return kept if kept.dim() == 2 else cosine_basis(tall(p).shape[1], p)[:, kept]


# What a step is.


@pytest.mark.parametrize("basis", ["dct", "svd", "random"])
@pytest.mark.parametrize("shape", SHAPES)
def test_in_columns_that_stay_it_is_adamw_of_the_coordinates(shape, basis) -> None:
    (p,) = parameters(shape)
    start = tall(p).clone()
    optimizer = ProjectedAdamW([p], lr=0.1, weight_decay=0.0, rank=2, basis=basis, update_every=100)
    coordinates = nn.Parameter(torch.zeros(start.shape[0], 2, dtype=torch.float64))
    plain = torch.optim.AdamW([coordinates], lr=0.1, weight_decay=0.0)
    for number in range(10):
        step(optimizer, number)
        kept = columns(p, optimizer)
        coordinates.grad = tall(gradient(shape, number)) @ kept
        plain.step()
    # Ten steps of a few roundings each, of numbers of size 1.
    torch.testing.assert_close(tall(p) - start, coordinates.detach() @ kept.mT, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_matrix_and_its_transpose_move_alike(name) -> None:
    (p,) = parameters((7, 4))
    other = nn.Parameter(p.detach().mT.clone())
    one, two = (ProjectedAdamW([q], lr=0.1, rank=2, **SETTINGS[name]) for q in (p, other))
    for number in range(6):
        p.grad = gradient((7, 4), number)
        other.grad = p.grad.mT.clone()
        one.step()
        two.step()
    torch.testing.assert_close(p.detach(), other.detach().mT, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [ProjectedAdamW, Trion])
def test_a_kernel_is_the_matrix_of_its_filters(kind) -> None:
    (kernel,) = parameters((6, 2, 3, 1))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    last = nn.Parameter(kernel.detach().clone().to(memory_format=torch.channels_last))
    optimizers = [kind([p], lr=0.1, rank=2, weight_decay=0.0) for p in (kernel, matrix, last)]
    for number in range(5):
        g = gradient((6, 2, 3, 1), number)
        kernel.grad, matrix.grad = g, g.flatten(1).clone()
        last.grad = g.to(memory_format=torch.channels_last)
        for optimizer in optimizers:
            optimizer.step()
    for other in (matrix, last):
        torch.testing.assert_close(
            kernel.flatten(1).detach(), other.detach().flatten(1), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("kind", [ProjectedAdamW, Trion])
def test_vectors_full_ranks_and_unprojected_groups_are_adamw(kind) -> None:
    shapes = [(), (5,), (4, 3), (4, 1), (0, 3), (6, 5)]
    ours, theirs = parameters(*shapes), parameters(*shapes)
    optimizer = kind(
        [
            {"params": ours[:2], "weight_decay": 0.0},
            {"params": ours[2:5], "rank": 3},
            {"params": ours[5:], "projected": False, "lr": 0.02},
        ],
        lr=0.1,
        weight_decay=0.1,
    )
    plain = torch.optim.AdamW(
        [
            {"params": theirs[:2], "weight_decay": 0.0},
            {"params": theirs[2:5]},
            {"params": theirs[5:], "lr": 0.02},
        ],
        lr=0.1,
        weight_decay=0.1,
    )
    for number in range(10):
        step(optimizer, number)
        step(plain, number)
        optimizer.param_groups[0]["lr"] *= 0.9  # as a scheduler does
        plain.param_groups[0]["lr"] *= 0.9
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in SETTINGS if "channels" not in n])
def test_a_step_lies_in_the_columns(name) -> None:
    (p,) = parameters((9, 6))
    optimizer = ProjectedAdamW([p], lr=0.1, weight_decay=0.0, rank=2, **SETTINGS[name])
    for number in range(5):
        before = tall(p).clone()
        step(optimizer, number)
        move, kept = tall(p) - before, columns(p, optimizer)
        torch.testing.assert_close(move @ kept @ kept.mT, move, rtol=0, atol=1e-12)
        assert float(move.abs().max()) > 0


def test_a_column_that_is_chosen_anew_moves_as_in_a_first_step() -> None:
    (p,) = parameters((6, 4))
    optimizer = ProjectedAdamW([p], lr=1.0, weight_decay=0.0, rank=1, eps=0.0)
    table = cosine_basis(4, p)
    for cosine in [*[0] * 400, 2]:
        before = p.detach().clone()
        p.grad = torch.ones(6, 1, dtype=torch.float64) @ table[:, cosine : cosine + 1].mT
        optimizer.step()
    moved = (p.detach() - before) @ table[:, 2]
    # A sign, as in a first step; without weights of its own the column would move by 3.2.
    torch.testing.assert_close(moved, torch.full_like(moved, -1.0), rtol=1e-9, atol=0)


def test_columns_that_stay_keep_their_moments_bit_by_bit() -> None:
    (p,) = parameters((6, 4))
    optimizer = ProjectedAdamW([p], lr=0.0, betas=(0.5, 0.5), rank=2)
    table = cosine_basis(4, p)

    def go(*cosines: int) -> dict[str, Tensor]:
        p.grad = table[:, list(cosines)].sum(1).expand(6, 4).clone()
        optimizer.step()
        return copy.deepcopy(optimizer.state[p])

    first, second = go(0, 2), go(2, 3)
    assert first["basis"].tolist() == [0, 2] and second["basis"].tolist() == [2, 3]
    # β = 1 / 2 halves exactly; the gradient of the column is 1 to rounding in both steps.
    assert second["totals"].tolist() == [[0.75, 0.5]] * 2
    torch.testing.assert_close(second["exp_avg"][:, 0], 0.5 * first["exp_avg"][:, 1] + 0.5)


def test_galore_is_one_of_its_settings() -> None:
    (p,) = parameters((8, 5))
    w, (mean, square) = p.detach().clone(), torch.zeros(2, 8, 2, dtype=torch.float64)
    optimizer = ProjectedAdamW(
        [p], lr=0.1, rank=2, weight_decay=0.0, basis="svd", update_every=3, rotate=False, scale=0.25
    )
    for number in range(8):
        step(optimizer, number)
        g = gradient((8, 5), number)
        if number % 3 == 0:
            kept = singular_basis(g, 2)
        mean = 0.9 * mean + 0.1 * g @ kept
        square = 0.999 * square + 0.001 * (g @ kept).square()
        t = number + 1
        move = mean / (1 - 0.9**t) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
        w = w - 0.1 * 0.25 * move @ kept.mT
    torch.testing.assert_close(p.detach(), w, rtol=0, atol=1e-12)


def test_channel_scaling_moves_along_the_rows_of_the_gradient() -> None:
    p, silent = parameters((8, 5), (8, 5))
    optimizer = ProjectedAdamW(
        [p, silent], lr=1.0, weight_decay=0.0, rank=2, basis="random", channel_scaling=True
    )
    norms = []
    for number in range(4):
        before = p.detach().clone()
        p.grad, silent.grad = gradient((8, 5), number), torch.zeros_like(silent)
        optimizer.step()
        moved, g = before - p.detach(), gradient((8, 5), number)
        ratio = (moved * g).sum(1, keepdim=True) / g.square().sum(1, keepdim=True)
        torch.testing.assert_close(moved, ratio * g, rtol=0, atol=1e-12)
        norms.append(float(moved.norm()))
    assert all(b <= 1.01 * a * (1 + 1e-12) for a, b in zip(norms, norms[1:], strict=False))
    assert torch.equal(silent, parameters((8, 5), (8, 5))[1])
    silent.grad = gradient((8, 5), 9)
    optimizer.step()
    assert not torch.equal(silent, parameters((8, 5), (8, 5))[1])  # it may grow from nothing


# Error feedback.


@pytest.mark.parametrize("shape", [(8, 5), (5, 8)])
def test_nothing_of_the_gradients_is_lost_with_error_feedback(shape) -> None:
    (p,) = parameters(shape)
    optimizer = ProjectedAdamW([p], rank=2, error_feedback=True)
    given = used = torch.zeros_like(tall(p))
    for number in range(6):
        error = kept_error(optimizer.state[p], tall(p))
        step(optimizer, number)
        given = given + tall(gradient(shape, number))
        kept = columns(p, optimizer)
        used = used + (tall(gradient(shape, number)) + error) @ kept @ kept.mT
    torch.testing.assert_close(used + optimizer.state[p]["error"], given, rtol=0, atol=1e-12)


def test_an_error_in_whole_numbers_is_the_error_to_half_a_level() -> None:
    p, exact = parameters((8, 5), (8, 5))
    exact.data.copy_(p.data)
    optimizers = [
        ProjectedAdamW([q], rank=2, error_feedback=kind) for q, kind in ((p, "int8"), (exact, True))
    ]
    for optimizer in optimizers:
        step(optimizer, 0)
    state, error = optimizers[0].state[p], optimizers[1].state[exact]["error"]
    assert state["error"].dtype == torch.int8
    half = error.abs().amax(1, keepdim=True) / 254
    assert bool(((kept_error(state, error) - error).abs() <= half * (1 + 1e-9)).all())
    assert torch.equal(p, exact)  # the first step knows no error


# What is kept.


@pytest.mark.parametrize("shape", [(32, 8), (8, 32)])
def test_moments_are_a_share_of_those_of_adamw(shape) -> None:
    (p,) = parameters(shape, dtype=torch.float32)
    sizes = {}
    for name in ("dct", "svd", "random"):
        optimizer = ProjectedAdamW([p], rank=0.25, basis=name)
        step(optimizer, 0)
        state = optimizer.state[p]
        # Storages, not views: a moment that were a slice of something would keep all of it.
        sizes[name] = sum(
            v.untyped_storage().nbytes() for v in state.values() if isinstance(v, Tensor)
        )
    r, moments = 2, 2 * 2 * 32 * 4
    assert sizes["dct"] == moments + 4 + 2 * 4 * r + 8 * r
    assert sizes["svd"] == sizes["random"] == moments + 4 + 2 * 4 * r + 4 * 8 * r
    assert moments == 0.25 * 2 * 4 * p.numel()


def resumed(kind: type, settings: dict[str, Any], dtype: torch.dtype) -> bool:
    """Whether a run that is saved and loaded after three steps ends like one that is not."""
    shapes = [(300, 280), (4, 7), (5,)]
    whole, cut = (parameters(*shapes, dtype=dtype) for _ in range(2))
    optimizers = [kind(several, lr=0.1, **settings) for several in (whole, cut)]
    for number in range(3):
        for optimizer in optimizers:
            step(optimizer, number)
    file = io.BytesIO()
    torch.save(optimizers[1].state_dict(), file)
    file.seek(0)
    optimizers[1] = kind(cut, lr=0.1, **settings)
    optimizers[1].load_state_dict(torch.load(file, weights_only=True))
    for number in range(3, 6):
        for optimizer in optimizers:
            step(optimizer, number)
    return all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_that_goes_on_from_its_state_equals_one_that_never_stopped(name, dtype) -> None:
    assert resumed(ProjectedAdamW, SETTINGS[name], dtype)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_copy_goes_on_like_the_original(name) -> None:
    (p,) = parameters((7, 4))
    optimizer = ProjectedAdamW([p], lr=0.1, rank=2, **SETTINGS[name])
    step(optimizer, 0)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        q = other.param_groups[0]["params"][0]
        q.data.copy_(p.data)
        here = copy.deepcopy((optimizer.state_dict(), p.data))
        step(optimizer, 1)
        step(other, 1)
        assert torch.equal(p, q)
        optimizer.load_state_dict(here[0])
        p.data.copy_(here[1])


@pytest.mark.parametrize(
    ("shape", "settings"),
    [((7, 5), {}), ((7, 4), {"rank": 1}), ((7, 4), {"basis": "svd"}), ((7, 4), {"rank": 4})],
)
def test_a_state_of_another_size_rank_or_basis_is_refused(shape, settings) -> None:
    (p,), (q,) = parameters((7, 4)), parameters(shape)
    saved, mine = ProjectedAdamW([p], rank=2), ProjectedAdamW([q], **{"rank": 2, **settings})
    step(saved, 0)
    step(mine, 0)
    state = saved.state_dict()
    # The state would bring its own settings along.
    state["param_groups"][0].update({"rank": 2, "basis": "dct", **settings})
    before = copy.deepcopy(mine.state_dict())
    with pytest.raises(
        ValueError, match="does not fit a parameter.*another optimiser, rank, basis"
    ):
        mine.load_state_dict(state)
    assert str(mine.state_dict()) == str(before)


@pytest.mark.parametrize("kind", [ProjectedAdamW, Trion])
def test_a_state_of_adamw_is_refused_and_its_own_brings_its_settings(kind) -> None:
    (p,) = parameters((7, 4))
    plain, optimizer = torch.optim.AdamW([p]), kind([p], rank=2)
    step(plain, 0)
    with pytest.raises(ValueError, match=f"has no .*another optimiser than {kind.__name__}"):
        optimizer.load_state_dict(plain.state_dict())
    other = kind([p], rank=3)
    step(other, 0)
    optimizer.load_state_dict(other.state_dict())
    assert optimizer.param_groups[0]["rank"] == 3
    step(optimizer, 1)


# What it is given.


@pytest.mark.parametrize("kind", [ProjectedAdamW, Trion])
def test_parameters_without_a_gradient_rest_and_a_closure_is_called_with_gradients(kind) -> None:
    p, idle = parameters((4, 3), (4, 3))
    optimizer = kind([p, idle], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    before = float(p.detach().square().sum())
    assert float(optimizer.step(closure).detach()) == before  # type: ignore[arg-type]
    assert float(p.detach().square().sum()) < before
    assert idle not in optimizer.state and torch.equal(idle, parameters((4, 3), (4, 3))[1])


@pytest.mark.parametrize("kind", [ProjectedAdamW, Trion])
def test_a_scaler_skips_infinite_gradients_and_else_changes_nothing(kind) -> None:
    (p,), (q,) = (parameters((4, 3), dtype=torch.float32) for _ in range(2))
    optimizer, plain = (kind([w], lr=0.1, rank=2) for w in (p, q))
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for number in range(4):
        x = gradient((3,), number).float()
        optimizer.zero_grad()
        plain.zero_grad()
        scaler.scale((p @ x).square().sum()).backward()
        (q @ x).square().sum().backward()
        if number == 2:
            p.grad[0] = float("inf")  # type: ignore[index]
            before = p.detach().clone()
        scaler.step(optimizer)
        if number == 2:
            assert torch.equal(p, before)
        else:
            plain.step()
        scaler.update()
    assert torch.equal(p, q)


@pytest.mark.parametrize("kind", [ProjectedAdamW, Trion])
def test_sparse_complex_and_sharded_parameters_are_refused(kind) -> None:
    p, q = parameters((4, 3), (4, 3))
    optimizer = kind([p, q])
    p.grad, q.grad = torch.ones_like(p), torch.ones(4, 3).double().to_sparse()
    with pytest.raises(ValueError, match=f"{kind.__name__} takes no sparse gradients"):
        optimizer.step()
    assert torch.equal(p, parameters((4, 3), (4, 3))[0])
    with pytest.raises(ValueError, match="no complex parameters"):
        kind([nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))])
    sharded = nn.Parameter(torch.ones(2, 2))
    sharded.full_tensor = None  # what marks a DTensor
    with pytest.raises(ValueError, match="fully_shard cuts them.*trainer.parallel=ddp"):
        optimizer.add_param_group({"params": [sharded]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("said", "settings"),
    [
        ("lr must be at least 0, got -1", {"lr": -1}),
        ("eps must be at least 0", {"eps": -1.0}),
        ("weight_decay must be at least 0", {"weight_decay": float("nan")}),
        ("betas must be two numbers", {"betas": (0.9, 1.0)}),
        ("rank must be a share in", {"rank": 1.5}),
        ("rank must be at least 1 component", {"rank": 0}),
        ("basis must be one of dct, svd, random, got 'fft'", {"basis": "fft"}),
        ("update_every must be a number of steps, at least 1, got 0", {"update_every": 0}),
        ("ranking must be one of", {"ranking": "l3"}),
        ("ranking=l1 ranks cosines; take basis=dct", {"ranking": "l1", "basis": "svd"}),
        ("error_feedback must be false, true or int8, got 'int4'", {"error_feedback": "int4"}),
        ("leave one of them out", {"error_feedback": True, "channel_scaling": True}),
        ("scale must be above 0, got 0", {"scale": 0}),
    ],
)
def test_bad_settings_are_refused(said, settings) -> None:
    with pytest.raises(ValueError, match=said):
        ProjectedAdamW(parameters((4, 3)), **settings)
