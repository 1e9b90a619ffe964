"""Laws of sparse spectral training: what waits stays bit by bit, and W survives draws and SVDs."""

import copy
import warnings

import pytest
import torch
from archzoo.layers.decay import decay_exclusions
from archzoo.layers.lowrank import SST, Spectral, merge, reparametrize
from archzoo.layers.lowrank.methods.sst import draw_order, pair_probabilities
from torch import Tensor, nn
from torch.nn import functional as F

from ..lowrank_runs import MakeOptimizer, begin, differing, network, run, take_step

SHAPES = [(7, 5), (5, 7), (6, 6), (2, 4, 9)]

# Sums of fewer than ten products of numbers of size 1, in float64.
TOLERANCE = {"rtol": 0.0, "atol": 1e-13}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def spectral(*shape: int, rank: int = 2, enhanced: bool = True) -> Spectral:
    structure = Spectral(randn(*shape), rank, enhanced=enhanced)
    structure.choose(draw_order(structure.sigma, rank, seeded(1)))
    return structure


def adamw(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)


def riemannian(model: nn.Module) -> torch.optim.Optimizer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # at geoopt's import
        from archzoo.train.config import OptimConfig
        from archzoo.train.engine.optim import make_optimizer

        return make_optimizer(model, OptimConfig(name="riemannian_adam", lr=0.02, weight_decay=0.1))


def often(**settings: object) -> SST:
    """Draw every third step, and decompose at every second draw."""
    given = {"rank": 2, "resample_every": 3, "iterations": 2, "rewarm": 2}
    return SST(**{**given, **settings})  # type: ignore[arg-type]


def all_vectors(structure: Spectral) -> tuple[Tensor, Tensor]:
    left = torch.cat([structure.left, structure.waiting_left], -1).detach()
    right = torch.cat([structure.right, structure.waiting_right], -2).detach()
    place = structure.order.argsort()
    return left.index_select(-1, place), right.index_select(-2, place)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_starts_at_the_weight_with_orthonormal_vectors(shape: tuple[int, ...]) -> None:
    structure = spectral(*shape)
    torch.testing.assert_close(structure.dense().detach(), randn(*shape), **TOLERANCE)
    left, right = all_vectors(structure)
    eye = torch.eye(min(shape[-2:]), dtype=left.dtype).expand(*shape[:-2], -1, -1)
    torch.testing.assert_close(left.mT @ left, eye, **TOLERANCE)
    torch.testing.assert_close(right @ right.mT, eye, **TOLERANCE)


@pytest.mark.parametrize("rows", [2, 200])  # in two products, and through W
@pytest.mark.parametrize("enhanced", [True, False])
@pytest.mark.parametrize("shape", [(7, 5), (5, 7)])
def test_outputs_are_those_of_the_matrix(shape: tuple[int, int], enhanced: bool, rows: int) -> None:
    structure = spectral(*shape, enhanced=enhanced)
    x, bias = randn(rows, 1, shape[1], seed=2), randn(shape[0], seed=3)
    expected = F.linear(x, randn(*shape), bias)
    torch.testing.assert_close(structure.linear(x, bias).detach(), expected, **TOLERANCE)


def gradients(structure: Spectral, face: str, x: Tensor) -> list[Tensor]:
    structure.zero_grad()
    x.grad = None
    y = structure.linear(x, None) if face == "linear" else F.linear(x, structure.dense())
    (y * randn(*y.shape, seed=5)).sum().backward()
    wanted = [x.grad, *(p.grad for p in structure.parameters() if p.requires_grad)]
    assert len(wanted) == 4
    return [g.clone() for g in wanted if g is not None]


@pytest.mark.parametrize("rows", [2, 200])
@pytest.mark.parametrize("face", ["linear", "dense"])
@pytest.mark.parametrize("shape", [(7, 5), (5, 7)])
def test_the_enhanced_gradient_is_the_true_one_without_sigma(
    shape: tuple[int, int], face: str, rows: int
) -> None:
    enhanced, true = (spectral(*shape, enhanced=e) for e in (True, False))
    x = randn(rows, shape[1], seed=4).requires_grad_()
    d_x, d_left, d_right, d_sigma = gradients(enhanced, face, x)
    t_x, t_left, t_right, t_sigma = gradients(true, face, x)
    active = true.sigma[0, true.order[:2]].detach()
    bound = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(d_x, t_x, **bound)
    torch.testing.assert_close(d_sigma, t_sigma, **bound)
    torch.testing.assert_close(d_left * active, t_left, **bound)
    torch.testing.assert_close(d_right * active[:, None], t_right, **bound)


def test_the_gradient_of_sigma_is_that_of_the_singular_directions() -> None:
    structure = spectral(7, 5)
    weight = structure.dense()
    gradient = randn(7, 5, seed=6)
    weight.backward(gradient)
    left, right = all_vectors(structure)
    expected = torch.einsum("mi,mn,in->i", left, gradient, right)
    assert structure.sigma.grad is not None
    torch.testing.assert_close(structure.sigma.grad[0], expected, **TOLERANCE)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_true_gradient_is_the_gradient_also_of_groups(shape: tuple[int, ...]) -> None:
    enhanced, true = (spectral(*shape, enhanced=e) for e in (True, False))
    gradient = randn(*shape, seed=6)
    for structure in (enhanced, true):
        structure.dense().backward(gradient)
    active = true.sigma[..., true.order[:2]].detach()
    grads = [(s.left.grad, s.right.grad, s.sigma.grad) for s in (enhanced, true)]
    for (mine, theirs), factor in zip(
        zip(*grads, strict=True), (active, active.mT, 1.0), strict=True
    ):
        torch.testing.assert_close(mine * factor, theirs, rtol=1e-12, atol=1e-12)


def test_pairs_are_drawn_half_uniformly_half_by_their_values_and_never_twice() -> None:
    sigma = torch.tensor([4.0, 3.0, 1.0, 0.0])
    p = pair_probabilities(sigma)
    assert p.tolist() == pytest.approx([(1 / 4 + s / 8) / 2 for s in sigma.tolist()])
    assert p.sum().item() == pytest.approx(1.0) and p.min().item() >= 1 / 8
    assert pair_probabilities(torch.zeros(3)).tolist() == pytest.approx([1 / 3] * 3)
    g = seeded()
    counts = torch.zeros(4)
    for _ in range(2000):
        counts[draw_order(sigma, 1, g)[0]] += 1
    # Five standard deviations of a share that is counted 2000 times.
    assert ((counts / 2000 - p).abs() < 5 * (p * (1 - p) / 2000).sqrt()).all()
    for rank in range(1, 5):
        order = draw_order(sigma, rank, g)
        assert order.sort().values.tolist() == [0, 1, 2, 3]
        assert bool((order[:rank].diff() > 0).all()) and bool((order[rank:].diff() > 0).all())


@pytest.mark.parametrize("shape", SHAPES)
def test_a_draw_keeps_the_weight_and_every_vector_bit_by_bit(shape: tuple[int, ...]) -> None:
    structure = spectral(*shape)
    with torch.no_grad():
        for p in structure.parameters():
            p.add_(randn(*p.shape, seed=7) / 10)
    weight, vectors = structure.dense().detach(), all_vectors(structure)
    x = randn(2, shape[-1], seed=2)
    y = structure.linear(x, None) if len(shape) == 2 else None
    for draw in range(5):
        structure.choose(draw_order(structure.sigma, 2, seeded(draw)))
        assert torch.equal(structure.dense().detach(), weight)
        assert all(map(torch.equal, all_vectors(structure), vectors))
        if y is not None:
            assert torch.equal(structure.linear(x, None), y)


@pytest.mark.parametrize("shape", SHAPES)
def test_decomposing_again_keeps_the_weight_and_makes_vectors_orthonormal(
    shape: tuple[int, ...],
) -> None:
    structure = spectral(*shape)
    with torch.no_grad():
        structure.left.add_(randn(*structure.left.shape, seed=7) / 10)
        structure.constrain()
    weight = structure.dense().detach()
    structure.rebase(*structure.decompose())
    torch.testing.assert_close(structure.dense().detach(), weight, **TOLERANCE)
    left, right = all_vectors(structure)
    eye = torch.eye(min(shape[-2:]), dtype=left.dtype).expand(*shape[:-2], -1, -1)
    torch.testing.assert_close(left.mT @ left, eye, **TOLERANCE)
    torch.testing.assert_close(right @ right.mT, eye, **TOLERANCE)
    values = structure.sigma[..., 0, :].detach()
    torch.testing.assert_close(values, structure.singular_values(), **TOLERANCE)


@pytest.mark.parametrize("make", [adamw, riemannian])
def test_in_training_pairs_that_wait_stay_and_the_others_keep_their_sets(
    make: MakeOptimizer,
) -> None:
    model, controller, optimizer = begin(often(resample_every=6), make)
    assert decay_exclusions(model) >= {"3.structure.left", "3.structure.right"}
    structures = [s for _, s in controller.structures() if isinstance(s, Spectral)]
    waiting = [(s.waiting_left.clone(), s.waiting_right.clone()) for s in structures]
    with torch.no_grad():
        structures[0].sigma[0, -1] = 1e-9  # the next steps would take it below 0
    for step in range(5):
        before = [s.left.detach().clone() for s in structures]
        take_step(model, optimizer, step)
        for structure, (left, right), moved in zip(structures, waiting, before, strict=True):
            assert torch.equal(structure.waiting_left, left)
            assert torch.equal(structure.waiting_right, right)
            assert not torch.equal(structure.left, moved)
            assert (structure.sigma >= 0).all()
            for lengths in (structure.left.norm(dim=-2), structure.right.norm(dim=-1)):
                torch.testing.assert_close(lengths, torch.ones_like(lengths), **TOLERANCE)
    drift = structures[1].left.mT @ structures[1].left - torch.eye(2)
    assert drift.abs().max() > 1e-3  # why an SVD is needed now and then


@pytest.mark.parametrize("make", [adamw, riemannian])
def test_draws_drop_the_state_of_vectors_and_decompositions_that_of_values_too(
    make: MakeOptimizer,
) -> None:
    model, controller, optimizer = begin(often(), make)
    structures = [s for _, s in controller.structures() if isinstance(s, Spectral)]
    orders = [[s.order.tolist()] for s in structures]
    for step in range(7):
        take_step(model, optimizer, step)
        for structure, seen in zip(structures, orders, strict=True):
            drawn, decomposed = step in (2, 5), step == 5
            assert (structure.left in optimizer.state) != drawn
            assert (structure.right in optimizer.state) != drawn
            assert (structure.sigma in optimizer.state) != decomposed
            if drawn:
                seen.append(structure.order.tolist())
            assert structure.order.tolist() == seen[-1]
            if decomposed:
                left, _ = all_vectors(structure)
                eye = torch.eye(left.shape[-1], dtype=left.dtype)
                torch.testing.assert_close(left.mT @ left, eye, **TOLERANCE)
    assert len({str(order) for order in orders[1]}) == 3
    assert optimizer.state[structures[0].left]["step"] == 1
    assert optimizer.state[model[5].weight]["step"] == 7


def test_a_draw_in_training_does_not_move_the_map_and_an_average_takes_part() -> None:
    model, controller, optimizer = begin(often(), adamw)
    for step in range(2):
        take_step(model, optimizer, step)
    twin = copy.deepcopy(model)
    controller.twins.append(twin)
    x = randn(4, 2, 3, 3)
    before = model(x)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    take_step(model, optimizer, 2)
    for place in (0, 3):
        assert torch.equal(twin[place].structure.order, model[place].structure.order)
    torch.testing.assert_close(model(x), before, **TOLERANCE)
    torch.testing.assert_close(twin(x), before, **TOLERANCE)
    for step in range(3, 6):
        take_step(model, optimizer, step)
    torch.testing.assert_close(twin(x), before, rtol=0, atol=1e-12)  # decomposed with the model


def test_decay_of_the_values_is_decay_of_the_matrix() -> None:
    structure = spectral(7, 5)
    before = structure.dense().detach()
    optimizer = torch.optim.AdamW([structure.sigma], lr=0.1, weight_decay=0.5)
    structure.sigma.grad = torch.zeros_like(structure.sigma)
    optimizer.step()
    torch.testing.assert_close(structure.dense().detach(), 0.95 * before, **TOLERANCE)


def test_the_learning_rate_climbs_back_after_a_draw_only() -> None:
    method = SST(rank=2, resample_every=5, rewarm=2)
    controller = reparametrize(network(), method, ["3"])
    factors = []
    for step in range(11):
        controller.step = step
        factors.append(method.learning_rate_factor(controller))
    assert factors == [1.0] * 5 + [0.5] + [1.0] * 4 + [0.5]


@pytest.mark.parametrize("make", [adamw, riemannian])
@pytest.mark.parametrize("step", [2, 3, 6])
def test_a_run_that_goes_on_from_its_files_equals_one_that_never_stopped(
    step: int, make: MakeOptimizer
) -> None:
    assert not differing(run(often, make, 8)[0], run(often, make, 8, step)[0])


def test_the_weights_of_two_processes_with_one_seed_stay_equal() -> None:
    assert not differing(run(often, adamw, 8)[0], run(often, adamw, 8)[0])


def test_merging_gives_the_model_back_with_the_same_outputs() -> None:
    model, _, optimizer = begin(often(), adamw)
    for step in range(4):
        take_step(model, optimizer, step)
    x = randn(4, 2, 3, 3)
    before = model(x)
    merge(model)
    assert model.state_dict().keys() == network().state_dict().keys()
    torch.testing.assert_close(model(x), before, **TOLERANCE)


@pytest.mark.parametrize("make", [adamw, riemannian])
def test_layers_of_the_ball_and_groups_of_a_convolution_are_trained_alike(
    make: MakeOptimizer,
) -> None:
    from archzoo.layers.hyperbolic import PoincareConv2d, PoincareLinear

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1, groups=2), PoincareConv2d(4, 6, 3, padding=1),
        nn.AvgPool2d(3), nn.Flatten(), PoincareLinear(6, 6),
    ).double()  # fmt: skip
    x = randn(4, 4, 3, 3) / 10
    before = model(x)
    controller = reparametrize(model, often(), ["0", "1:weight", "4:weight"])
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)
    optimizer = make(model)
    controller.attach(optimizer)
    losses = []
    for _ in range(7):
        optimizer.zero_grad()
        loss = (model(x) - 0.05).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert {n: s.order.shape for n, s in controller.structures() if isinstance(s, Spectral)} == {
        "0": (2,), "1:weight": (6,), "4:weight": (6,)
    }  # fmt: skip
    trained = model(x)
    merge(model)
    torch.testing.assert_close(model(x), trained, rtol=0, atol=1e-12)


def test_it_stores_and_trains_as_many_numbers_as_it_says() -> None:
    structure = spectral(7, 5)
    assert structure.parameter_count() == 5 * (7 + 5 + 1)
    trained = [p.numel() for p in structure.parameters() if p.requires_grad]
    assert sum(trained) == 2 * (7 + 5) + 5


@pytest.mark.parametrize("enhanced", [True, False])
@pytest.mark.parametrize("rows", [2, 200])
def test_it_works_in_half_precision(rows: int, enhanced: bool) -> None:
    structure = spectral(7, 5, enhanced=enhanced).float()
    x = torch.randn(rows, 5, generator=seeded())
    bias = torch.zeros(7, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = structure.linear(x, bias)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), F.linear(x, structure.dense()), rtol=0.05, atol=0.1)
    y.float().sum().backward()
    for p in (structure.left, structure.right, structure.sigma):
        assert p.grad is not None and p.grad.dtype == torch.float32 and p.grad.any()


def test_a_raw_matrix_of_the_ball_stays_in_float32_under_autocast() -> None:
    from archzoo.layers.hyperbolic import PoincareLinear

    torch.manual_seed(0)
    model = nn.Sequential(PoincareLinear(6, 6, init="normal"))
    x = torch.randn(4, 6, generator=seeded()) / 10
    expected = model(x)
    reparametrize(model, often(), ["0:weight"])
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    # A weight of float32 is recomposed to about 1e-7; one of bfloat16 would be off by 1e-3.
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-6)


def test_weights_in_half_precision_are_decomposed_in_float32() -> None:
    weight = randn(7, 5).bfloat16()
    structure = Spectral(weight, 2)
    assert structure.left.dtype == torch.bfloat16
    parts = structure.decompose()
    assert all(part.dtype == torch.float32 for part in parts)
    structure.rebase(*parts)
    torch.testing.assert_close(structure.dense().float(), weight.float(), rtol=0, atol=0.05)


@pytest.mark.compiles
def test_it_compiles_whole() -> None:
    structure = spectral(7, 5)

    def both(x: Tensor) -> Tensor:
        return structure.linear(x, None) + x @ structure.dense().mT

    def gradients_of(y: Tensor) -> list[Tensor]:
        structure.zero_grad()
        y.square().sum().backward()
        return [p.grad for p in structure.parameters() if p.grad is not None]

    x = randn(2, 5, seed=2)
    y = torch.compile(both, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(y, both(x), **TOLERANCE)
    found, expected = gradients_of(y), gradients_of(both(x))
    assert len(found) == 3
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_it_is_made_on_the_meta_device() -> None:
    weight = torch.empty(7, 5, device="meta")
    structure = often().structure("a", weight, seeded())
    assert structure.dense().is_meta and structure.dense().shape == (7, 5)
    filled = structure.to_empty(device="cpu")
    source = often().structure("a", randn(7, 5).float(), seeded())
    filled.load_state_dict(source.state_dict())
    assert torch.equal(filled.dense(), source.dense())


def test_a_share_of_the_run_is_as_many_steps_and_needs_its_length() -> None:
    shared = often(resample_every=0.25, total_steps=12)
    assert not differing(run(lambda: shared, adamw, 7)[0], run(often, adamw, 7)[0])
    controller = reparametrize(network(), often(resample_every=0.25), ["3"])
    with pytest.raises(ValueError, match="resample_every=0.25 needs the length of the run"):
        controller.attach(adamw(controller.model))


def test_a_weight_that_became_infinite_is_named_before_its_svd() -> None:
    structure = spectral(7, 5)
    with torch.no_grad():
        structure.left[0, 0] = torch.nan
    with pytest.raises(ValueError, match="SST holds NaN"):
        structure.decompose()


BAD = {
    "rank must be": {"rank": 1.5},
    "resample_every must be at least 1 step": {"resample_every": 0},
    "iterations must be at least 1": {"iterations": 0},
    "rewarm must be at least 0": {"rewarm": -1},
    "total_steps must be at least 1": {"total_steps": 0},
}


@pytest.mark.parametrize(("message", "settings"), BAD.items())
def test_bad_settings_are_refused(message: str, settings: dict) -> None:
    with pytest.raises(ValueError, match=message):
        often(**settings)
