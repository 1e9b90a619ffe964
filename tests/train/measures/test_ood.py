"""Scores by hand, metrics in cases that a reader can count, and out-sets that are what they say."""

import math

import pytest
import torch
from archzoo.layers.hyperbolic import PoincareLinear, poincare
from archzoo.train.data import data_sets
from archzoo.train.data.image_arrays import image_splits
from archzoo.train.measures.foreign_images import fit_images, out_sets
from archzoo.train.measures.ood import (
    SCORES,
    embedding_norm,
    energy,
    max_softmax,
    scores,
    separation,
)
from archzoo.train.measures.pixels import FromPixels, pixel_batches
from archzoo.zoo import create_model


def test_scores_are_their_definitions():
    features = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert embedding_norm(features).tolist() == [5.0, 0.0]
    logits = torch.tensor([[0.0, math.log(3.0)]])
    assert energy(logits).item() == pytest.approx(math.log(4.0), rel=1e-7)
    assert energy(logits, 2.0).item() == pytest.approx(2 * math.log(1 + math.sqrt(3)), rel=1e-7)
    assert max_softmax(logits).item() == pytest.approx(0.75, rel=1e-7)


@pytest.mark.parametrize("c", [0.1, 1.0, 3.0])
def test_the_norm_of_tangents_is_the_distance_from_the_origin_of_any_ball(c):
    t = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = poincare.expmap0(t, c)
    torch.testing.assert_close(
        embedding_norm(t, hyperbolic=True), poincare.distance0(points, c), rtol=1e-7, atol=0
    )


def test_energy_of_large_logits_does_not_overflow():
    assert energy(torch.tensor([[5000.0, 0.0]])).item() == 5000.0


def metrics(inside, outside):
    return separation(torch.tensor(inside), torch.tensor(outside))


def test_perfect_separation_is_perfect_and_its_reverse_the_worst():
    assert metrics([3.0, 4.0, 5.0], [0.0, 1.0]) == (0.0, 1.0, 1.0)
    worst = metrics([0.0, 1.0], [3.0, 4.0, 5.0])
    assert (worst.fpr95, worst.auroc) == (1.0, 0.0)


def test_a_constant_score_is_chance():
    assert metrics([1.0] * 6, [1.0] * 2) == (1.0, 0.5, 0.75)


def test_a_small_case_counted_by_hand():
    # Pairs (4 of 6 in order). Falling score: in, out, in, in, out. Keeping 95 % of three is keeping
    # all, down to 2.0, which lets 4.0 through. Precision at the in-set's ranks: 1/1, 2/3, 3/4.
    found = metrics([5.0, 3.0, 2.0], [4.0, 1.0])
    assert found.fpr95 == 0.5
    assert found.auroc == pytest.approx(4 / 6)
    assert found.aupr == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


def test_ninety_five_per_cent_are_enough():
    inside = [float(i) for i in range(1, 21)]  # 19 of 20 lie above 1.5
    assert metrics(inside, [1.5, 0.0]).fpr95 == 0.0
    assert metrics(inside, [2.5, 0.0]).fpr95 == 0.5


@pytest.mark.parametrize("increasing", [torch.exp, torch.atan, lambda v: 3 * v - 7])
def test_only_the_order_of_scores_counts(increasing):
    generator = torch.Generator().manual_seed(0)
    inside, outside = (
        torch.randn(200, dtype=torch.float64, generator=generator) + shift for shift in (1.0, 0.0)
    )
    assert separation(increasing(inside), increasing(outside)) == separation(inside, outside)


def test_the_size_of_the_out_set_moves_aupr_only():
    inside, outside = [0.3, 0.8, 0.5, 0.9], [0.4, 0.1, 0.7]
    one, two = metrics(inside, outside), metrics(inside, outside * 5)
    assert (one.fpr95, one.auroc) == pytest.approx((two.fpr95, two.auroc))
    assert two.aupr < one.aupr


def test_scores_that_are_missing_or_no_numbers_are_refused():
    with pytest.raises(ValueError, match="outside holds no score"):
        metrics([1.0], [])
    with pytest.raises(ValueError, match="inside holds 1 scores not finite"):
        metrics([1.0, math.nan], [0.0])
    with pytest.raises(ValueError, match="temperature must be above 0"):
        energy(torch.zeros(1, 2), 0.0)


def model_of(splits, name="resnet_nano"):
    torch.manual_seed(0)
    return FromPixels(create_model(name, in_chans=1), splits.mean, splits.std).eval()


def test_a_model_is_scored_by_its_pooled_features_and_its_logits():
    splits = data_sets.build("digits")
    model = model_of(splits)
    batches = [x for x, _ in pixel_batches(splits.test, splits.mean, splits.std, batch_size=200)]
    found = scores(model, batches, temperature=2.0)
    assert tuple(found) == SCORES
    with torch.no_grad():
        x = torch.cat(batches)
        logits = model(x)
        pooled = model.model.forward_head(
            model.model.forward_features(model.normalize(x)), pre_logits=True
        )
    torch.testing.assert_close(found["energy"], energy(logits, 2.0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["max_softmax"], max_softmax(logits), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["norm"], embedding_norm(pooled), rtol=1e-5, atol=1e-5)


def test_a_model_with_a_ball_is_scored_by_distance():
    splits = data_sets.build("digits")
    flat, curved = model_of(splits), model_of(splits)
    curved.model.head = PoincareLinear(curved.model.num_features, 10)
    x = [next(iter(pixel_batches(splits.test, splits.mean, splits.std)))[0]]
    torch.testing.assert_close(scores(curved, x)["norm"], 2 * scores(flat, x)["norm"])


def test_out_sets_have_the_shape_the_range_and_the_content_they_are_named_for():
    splits = data_sets.build("digits")
    sets = out_sets(["rotated", "noise"], splits, "digits", batch_size=128)
    assert list(sets) == ["rotated", "noise_gaussian", "noise_uniform"]
    drawn = {name: torch.cat(list(make())) for name, make in sets.items()}
    for pixels in drawn.values():
        assert pixels.shape == (360, 1, 8, 8)
        assert ((pixels >= 0) & (pixels <= 1)).all()
    scans = splits.test.inputs / 16
    torch.testing.assert_close(drawn["rotated"][:, 0, 7, 0], scans[:, 0, 0, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(drawn["rotated"].rot90(-1, (2, 3)), scans.float(), rtol=0, atol=1e-6)
    # Means and spreads of 23,040 draws: standard error under 0.003. What lies below 0 is held
    # there: E max(0, N(μ, σ²)) = μ Φ(μ/σ) + σ φ(μ/σ), and from above alike.
    mean, std = splits.mean[0], splits.std[0]
    normal = torch.distributions.Normal(0.0, 1.0)
    low, high = torch.tensor(-mean / std), torch.tensor((1 - mean) / std)
    held = (
        mean * (normal.cdf(high) - normal.cdf(low))
        + std * (normal.log_prob(low).exp() - normal.log_prob(high).exp())
        + 1 - normal.cdf(high)
    )  # fmt: skip
    assert drawn["noise_gaussian"].mean().item() == pytest.approx(held.item(), abs=0.01)
    assert drawn["noise_uniform"].mean().item() == pytest.approx(0.5, abs=0.01)
    assert drawn["noise_uniform"].std().item() == pytest.approx(12**-0.5, abs=0.01)


def test_noise_and_the_choice_of_samples_follow_from_the_seed():
    splits = data_sets.build("digits")

    def draw(seed, batch_size=360):
        options = {"samples": 40, "seed": seed, "batch_size": batch_size}
        sets = out_sets(["rotated", "noise"], splits, "digits", **options)
        return {name: torch.cat(list(make())) for name, make in sets.items()}

    one, two, other = draw(0), draw(0), draw(1)
    for name, pixels in one.items():
        assert len(pixels) == 40
        assert torch.equal(pixels, two[name]) and not torch.equal(pixels, other[name])


@pytest.fixture
def grey():
    """An in-set of 12×12 that is not the digits."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 1, 12, 12), generator=generator, dtype=torch.uint8)
    labels = torch.arange(60) % 2
    halves = (pixels[:40], labels[:40]), (pixels[40:], labels[40:])
    return image_splits(
        *halves, validation=10, classes=["a", "b"], source="drawn", mean=(0.5,), std=(0.29,)
    )


def test_the_digits_come_whole_and_in_the_size_of_the_in_set(grey):
    (make,) = out_sets(["digits"], grey, "grey").values()
    pixels = torch.cat(list(make()))
    assert pixels.shape == (1797, 1, 12, 12)
    assert pixels.mean().item() == pytest.approx(0.3053, abs=0.003)  # resizing keeps the mean
    assert torch.equal(pixels, torch.cat(list(make())))
    (some,) = out_sets([{"name": "digits"}], grey, "grey", samples=1300).values()
    assert len(torch.cat(list(some()))) == 1300


def test_channels_are_repeated_or_averaged():
    colour = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fit_images(colour, (1, 4, 4)), colour.mean(1, keepdim=True))
    grey = fit_images(colour[:, :1], (3, 4, 4))
    assert torch.equal(grey[:, 2], colour[:, 0])
    assert torch.equal(fit_images(colour, (3, 4, 4)), colour)
    with pytest.raises(ValueError, match="images of 3 channels do not become 4"):
        fit_images(colour, (4, 4, 4))


BAD = {
    "no out-set 'digit'; did you mean 'digits'": ["digit"],
    "no out-set 'rotate'; did you mean 'rotated'": ["rotate"],
    "grey is what the model is measured on": ["grey"],
    "noise takes no options, got seed": [{"name": "noise", "seed": 1}],
    "out-sets are images, but bytes gives tokens": ["bytes"],
    "digits takes no keyword 'root'": [{"name": "digits", "root": "x"}],
    "the out-set digits is named twice": ["digits", "digits"],
    "the out-set noise is named twice": ["noise", "noise"],
    "needs a name, such as {name: digits}, got {'root': 'x'}": [{"root": "x"}],
    "needs a name, .*, got 5": [5],
    "mnist.*data.download": ["mnist"],
}


@pytest.mark.parametrize(("message", "chosen"), BAD.items())
def test_an_out_set_that_is_none_is_refused_by_name(message, chosen, grey, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        out_sets(chosen, grey, "grey")


def test_a_table_has_no_out_sets():
    with pytest.raises(ValueError, match=r"tabular gives features; write out=\[\]"):
        out_sets(["noise"], data_sets.build("tabular"), "tabular")
