"""Attacks reach the optimum where it is known, stay in their ball, and count what they claim."""

import copy

import pytest
import torch
from archzoo.train.data import data_sets
from archzoo.train.measures.pixels import FromPixels, pixel_batches
from archzoo.train.measures.robust_accuracy import (
    FGSM,
    adversarial_accuracy,
    attack,
    correct,
    fgsm,
    margin_loss,
)
from archzoo.zoo import create_model
from archzoo.zoo.certify.projected_ascent import checkpoints
from torch import Tensor, nn

EVERY = pytest.mark.parametrize(
    ("norm", "method"), [(n, m) for n in ("l2", "linf") for m in ("pgd", "apgd")]
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def linear(classes: int, size: int = 12, seed: int = 0) -> nn.Sequential:
    """A linear classifier of 'images' (N, 3, 2, 2) in float64."""
    layer = nn.Linear(size, classes).double()
    with torch.no_grad():
        layer.weight.copy_(draw(classes, size, seed=seed))
        layer.bias.copy_(draw(classes, seed=seed + 1))
    return nn.Sequential(nn.Flatten(), layer).eval()


def network(seed: int = 0) -> nn.Sequential:
    """A small random network in float64."""
    torch.manual_seed(seed)
    layers = nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4)
    return nn.Sequential(nn.Flatten(), *layers).double().eval()


def images(count: int = 32) -> tuple[Tensor, Tensor]:
    """Random images in [0, 1] and classes below 4."""
    x = draw(count, 3, 2, 2, seed=7).sigmoid()
    return x, torch.arange(count) % 4


def sizes(delta: Tensor, norm: str) -> Tensor:
    order = 2 if norm == "l2" else torch.inf
    return torch.linalg.vector_norm(delta.flatten(1), ord=order, dim=1)


@EVERY
@pytest.mark.parametrize("eps", [0.01, 0.3, 5.0])
def test_a_linear_classifier_of_two_classes_is_attacked_optimally(norm, method, eps):
    model, (x, y) = linear(2), images()
    y = y % 2
    w = model[1].weight[1] - model[1].weight[0]
    dual = w.norm() if norm == "l2" else w.abs().sum()
    best = margin_loss(model(x), y) + eps * dual
    # A step of ε at least halves what a random start has of other directions: 2^-40 is left of it.
    options = {"step_size": 1.0} if method == "pgd" else {}
    found = attack(model, x, y, eps, norm=norm, method=method, box=None, **options)
    torch.testing.assert_close(margin_loss(model(found), y), best, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_of_many_classes_the_nearest_is_found_and_none_beats_the_optimum(norm):
    model, (x, y) = linear(4), images()
    w = model[1].weight
    pairs = w[None] - w[y][:, None]
    dual = pairs.norm(dim=-1) if norm == "l2" else pairs.abs().sum(-1)
    logits = model(x)
    # The entry of the right class itself would be 0, which no loss below 0 can beat.
    reachable = (logits - logits.gather(1, y[:, None]) + 0.2 * dual).scatter(
        1, y[:, None], -torch.inf
    )
    best = reachable.amax(1)
    found = margin_loss(model(attack(model, x, y, 0.2, norm=norm, box=None, restarts=20)), y)
    assert (found <= best + 1e-9).all()
    torch.testing.assert_close(found, best, rtol=1e-9, atol=1e-9)


def test_the_box_is_part_of_the_optimum():
    model, (x, y) = linear(2), images()
    y = y % 2
    w = (model[1].weight[1] - model[1].weight[0]).view(3, 2, 2)
    sign = torch.where(y == 0, 1.0, -1.0)[:, None, None, None] * w.sign()
    best = (x + 0.4 * sign).clamp(0.0, 1.0)
    found = attack(model, x, y, 0.4, norm="linf", method="pgd")
    torch.testing.assert_close(found, best, rtol=0, atol=1e-12)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_perturbation_never_leaves_the_ball_or_the_box(norm, method, dtype):
    x, y = images()
    x[0], x[1] = 0.0, 1.0
    model, x = network().to(dtype), x.to(dtype)
    eps = torch.linspace(0.0, 2.0, len(x), dtype=dtype)
    found = attack(model, x, y, eps, norm=norm, method=method, steps=9, restarts=3)
    assert ((found >= 0) & (found <= 1)).all()
    # x + δ is rounded once per coordinate, at magnitude one.
    slack = 4 * torch.finfo(dtype).eps
    assert (sizes(found - x, norm) <= eps * (1 + slack) + slack).all()
    assert torch.equal(found[0], x[0])
    assert found.dtype == dtype and not found.requires_grad


@EVERY
def test_more_restarts_never_help_the_model(norm, method):
    model, (x, y) = network(), images()
    options = {"norm": norm, "method": method, "steps": 3}
    margins = [
        margin_loss(model(attack(model, x, y, 0.1, restarts=r, **options)), y) for r in (1, 2, 5)
    ]
    assert (margins[0] >= margin_loss(model(x), y)).all()
    assert (margins[1] >= margins[0]).all() and (margins[2] >= margins[1]).all()
    counts = [
        adversarial_accuracy(model, [(x, y)], [0.05, 0.1], restarts=r, **options) for r in (1, 2, 5)
    ]
    for fewer, more in zip(counts, counts[1:], strict=False):
        assert (more.right <= fewer.right).all()


@EVERY
@pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
def test_a_seed_decides_everything(norm, method, loss):
    model, (x, y) = network(), images()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    options = {"norm": norm, "method": method, "loss": loss, "steps": 4}
    one, two, other = (attack(model, x, y, 0.1, seed=s, **options) for s in (3, 3, 4))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_sample_does_not_depend_on_the_others_of_its_batch():
    model, (x, y) = network(), images()
    changed = x.clone()
    changed[1:] = 0.5
    options = {"norm": "l2", "steps": 5, "restarts": 2}
    one, two = (attack(model, z, y, 0.2, **options)[0] for z in (x, changed))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


@EVERY
def test_a_plateau_without_a_gradient_is_left_by_chance(norm, method):
    def plateau(x: Tensor) -> Tensor:
        """Right around 0.5 with a zero gradient; beyond it, wrong when moved far enough."""
        moved = (x - 0.5).flatten(1).norm(dim=1)
        return torch.stack([torch.full_like(moved, 0.3), torch.relu(moved - 0.1)], 1)

    x, y = torch.full((6, 3, 2, 2), 0.5, dtype=torch.float64), torch.zeros(6, dtype=torch.long)
    options = {"norm": norm, "method": method, "random_start": False}
    found = attack(plateau, x, y, 0.48, **options)
    assert found.isfinite().all()
    assert not correct(plateau(found), y).any()


def test_a_saturated_cross_entropy_gives_no_nan_and_the_margin_is_not_masked():
    model = linear(2).float()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1e5)  # softmax is 0 or 1 in float32, and its gradient exactly zero
    x, _ = images()
    x = x.float()
    y = model(x).argmax(1)
    assert attack(model, x, y, 0.5, loss="cross_entropy", norm="l2").isfinite().all()
    assert not correct(model(attack(model, x, y, 0.9, norm="l2", box=None)), y).all()


def test_gradients_that_underflow_when_squared_still_point_the_way():
    model = linear(2).float()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1e-25)
    x, y = images()
    x, y = x.float(), y % 2
    w = 1e25 * (model[1].weight[1] - model[1].weight[0])
    best = 1e25 * margin_loss(model(x), y) + 0.3 * w.norm()
    found = 1e25 * margin_loss(model(attack(model, x, y, 0.3, norm="l2", box=None)), y)
    torch.testing.assert_close(found, best, rtol=1e-4, atol=1e-4)  # float32 logits


def test_logits_that_are_not_numbers_count_as_broken():
    def fragile(x: Tensor) -> Tensor:
        logits = torch.stack([x.flatten(1).sum(1), 0.9 * x.flatten(1).sum(1)], 1)
        return torch.where(x.flatten(1).amax(1, keepdim=True) > 0.8, torch.nan, logits)

    x, y = torch.full((4, 3, 2, 2), 0.5, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    right = adversarial_accuracy(fragile, [(x, y)], [0.1, 0.4], norm="linf", steps=10)
    assert (right.clean, right.attacked) == (1.0, (1.0, 0.0))


def test_fgsm_is_one_step_along_the_sign_of_the_gradient():
    model, (x, y) = network(), images()
    z = x.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(z), y, reduction="sum")
    step = (x + 0.01 * torch.autograd.grad(loss, z)[0].sign()).clamp(0.0, 1.0)
    found = fgsm(model, x, y, 0.01)
    moved = margin_loss(model(step), y) > margin_loss(model(x), y)
    assert moved.float().mean() > 0.9
    assert torch.equal(found[moved], step[moved])
    assert torch.equal(found[~moved], x[~moved])
    right = adversarial_accuracy(model, [(x, y)], [0.01], **FGSM)
    assert torch.equal(right.right[1], correct(model(x), y) & correct(model(step), y))


def test_a_radius_in_pixels_acts_before_the_normalisation():
    mean, std = (0.2, 0.5, 0.4), (0.1, 0.25, 0.5)
    inner, (x, y) = linear(2), images()
    y = y % 2
    model = FromPixels(inner, mean, std).eval()
    scale = torch.tensor(std, dtype=torch.float64)[:, None, None]
    shift = torch.tensor(mean, dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(model(x), inner((x - shift) / scale), rtol=0, atol=0)
    w = (inner[1].weight[1] - inner[1].weight[0]).view(3, 2, 2) / scale
    best = margin_loss(model(x), y) + 0.01 * w.norm()
    found = attack(model, x, y, 0.01, norm="l2", box=None)
    torch.testing.assert_close(margin_loss(model(found), y), best, rtol=1e-9, atol=1e-9)


def test_the_pixels_of_a_fold_are_those_of_its_files():
    splits = data_sets.build("digits")
    batches = list(pixel_batches(splits.test, splits.mean, splits.std, batch_size=100))
    pixels, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    torch.testing.assert_close(pixels, splits.test.inputs / 16, rtol=0, atol=1e-6)
    assert torch.equal(targets, splits.test.targets)
    some = list(pixel_batches(splits.test, splits.mean, splits.std, samples=50, batch_size=30))
    assert [len(y) for _, y in some] == [30, 20]
    known = {tuple(p.flatten().tolist()) for p in pixels}
    assert {tuple(p.flatten().tolist()) for x, _ in some for p in x} <= known


@pytest.mark.parametrize("method", ["pgd", "apgd"])
def test_accuracy_only_falls_with_the_radius_and_counts_every_batch(method):
    splits = data_sets.build("digits")
    torch.manual_seed(0)
    model = FromPixels(create_model("mlp_nano"), splits.mean, splits.std).eval()
    batches = list(pixel_batches(splits.test, splits.mean, splits.std, batch_size=150))
    options = {"method": method, "steps": 5}
    whole = adversarial_accuracy(model, batches, [0.1, 0.0, 0.02], **options)
    assert whole.eps == (0.0, 0.02, 0.1)
    assert whole.right.shape == (4, 360)
    assert whole.clean == whole.attacked[0] >= whole.attacked[1] >= whole.attacked[2]
    assert (whole.right[1:] <= whole.right[:-1]).all()
    with torch.no_grad():
        clean = torch.cat([correct(model(x), y) for x, y in batches])
    assert torch.equal(whole.right[0], clean)


def test_apgd_looks_back_where_its_authors_do():
    # 0.22 N, then gaps that shrink by 0.03 N to no less than 0.06 N: Croce and Hein, §3.2.
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sum(checkpoints(100).values()) == 99
    assert list(checkpoints(1)) == [1]


def test_apgd_adapts_its_step_where_a_fixed_one_overshoots():
    def ridge(x: Tensor) -> Tensor:
        """Margin loss -1e-3 - |x₀ - 0.6| - 10 |x₁ - 0.3|, which no step hits but a small one."""
        a, b = x[:, 0] - 0.6, x[:, 1] - 0.3
        return torch.stack([a.abs() + 10 * b.abs() + 1e-3, torch.zeros_like(a)], 1)

    x, y = torch.full((16, 2), 0.5, dtype=torch.float64), torch.zeros(16, dtype=torch.long)
    options = {"norm": "l2", "steps": 100}
    pgd, apgd = (
        margin_loss(ridge(attack(ridge, x, y, 0.3, method=m, **options)), y).mean()
        for m in ("pgd", "apgd")
    )
    assert -1e-3 - 1e-2 < apgd < 0  # ends within a thousandth of the optimum in x₁
    assert apgd > pgd


BAD = {
    "norm must be one of l2, linf, got 'l1'": {"norm": "l1"},
    "method must be one of pgd, apgd, got 'fgsm'": {"method": "fgsm"},
    "loss must be one of margin, cross_entropy, got 'dlr'": {"loss": "dlr"},
    "steps must be at least 1, got 0": {"steps": 0},
    "restarts must be at least 1, got 0": {"restarts": 0},
    "step_size is for pgd and must be above 0, got 0.1 for apgd": {"step_size": 0.1},
    "restarts=2 without random_start": {"restarts": 2, "random_start": False},
    r"eps must be finite and at least 0, got -1": {"eps": -1.0},
    r"eps must be finite and at least 0, got inf": {"eps": torch.inf},
    r"eps must be a number or one per sample \(32,\), got \(3,\)": {"eps": torch.ones(3)},
    r"x must lie in the box \(0.0, 0.5\), got values .*FromPixels": {"box": (0.0, 0.5)},
    "x must be floats": {"x": torch.zeros(32, 12, dtype=torch.long)},
    "got torch.float64": {"y": torch.zeros(3, dtype=torch.long)},
    r"must return logits \(N, K\) of at least 2 classes, got \(32, 1\)": {"model": linear(1)},
    "in training mode; call model.eval": {"model": linear(4).train()},
}


@pytest.mark.parametrize(("message", "options"), BAD.items())
def test_what_cannot_be_attacked_is_refused_by_name(message, options):
    x, y = images()
    with pytest.raises(ValueError, match=message):
        attack(**{"model": linear(4), "x": x, "y": y, "eps": 0.1, **options})


def test_an_accuracy_needs_radii_samples_and_whole_statistics():
    model, (x, y) = linear(4), images()
    with pytest.raises(ValueError, match="at least one radius"):
        adversarial_accuracy(model, [(x, y)], [])
    with pytest.raises(ValueError, match="batches hold no sample"):
        adversarial_accuracy(model, [], [0.1])
    with pytest.raises(ValueError, match="restarts must be at least 1"):
        adversarial_accuracy(model, [(x, y)], [0.1], restarts=0)
    with pytest.raises(ValueError, match="give mean and std or neither"):
        FromPixels(model, mean=(0.5,))
