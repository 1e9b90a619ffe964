"""Laws of a loss in compute: planted ones are recovered, and intervals hold what they should."""

import numpy as np
import pytest
from scipy import optimize

COMPUTE = np.log(1e11 * np.array([1.0, 3.0, 10.0, 30.0, 100.0]))
SEEDS = (3, 3, 3, 1, 1)


def planted(b, c, *, saved=None):
    """Log compute and losses of laws: the first the reference, each other saves a factor."""
    b = np.array(b)
    saved = np.ones(len(b)) if saved is None else np.array(saved)
    log_compute = np.repeat(COMPUTE[None], len(b), 0)
    # At the middle size a law has the loss that the first has for `saved` times the compute.
    at = COMPUTE[2]
    heights = 2.0 * np.exp(-b[0] * np.log(saved))
    return log_compute, heights[:, None] * np.exp(-b[:, None] * (log_compute - at)) + c


def observed(losses, spread, generator, *, shared=0.0):
    """Runs of a few seeds around losses; NaN where a size has fewer seeds."""
    runs = np.full((*losses.shape, max(SEEDS)), np.nan)
    for size, count in enumerate(SEEDS):
        own = generator.standard_normal((len(losses), count))
        common = generator.standard_normal(count)
        noise = np.sqrt(1 - shared) * own + np.sqrt(shared) * common
        runs[:, size, :count] = losses[:, size, None] + spread * noise
    return runs


@pytest.mark.parametrize("floor", [0.0, 0.7, 1.3])
def test_planted_laws_are_recovered(script, floor):
    fit = script("scaling_fit").fit
    log_compute, losses = planted([0.2, 0.22, 0.19], floor, saved=[1.0, 1.25, 0.8])
    found = fit(log_compute, losses[None], np.array(SEEDS, dtype=float))
    # The floor is read off a grid of 17 that is drawn finer eightfold four times.
    assert found.c == pytest.approx([floor], abs=1e-3)
    assert found.b[0] == pytest.approx([0.2, 0.22, 0.19], rel=5e-3)
    assert np.exp(found.log_multiplier(COMPUTE[2])[0]) == pytest.approx([1, 1.25, 0.8], rel=1e-3)
    assert found.trend()[0] == pytest.approx([0.0, 0.1, -0.05], abs=1e-3)
    assert found.loss(COMPUTE[4])[0] == pytest.approx(losses[:, 4], rel=1e-4)


def test_the_fit_is_the_least_squares_of_a_general_optimiser(script):
    generator = np.random.default_rng(0)
    log_compute, losses = planted([0.25, 0.3], 1.0)
    losses = losses + 0.02 * generator.standard_normal(losses.shape)
    counts = np.array(SEEDS, dtype=float)
    found = script("scaling_fit").fit(log_compute, losses[None], counts)

    def left(theta):
        theta = np.asarray(theta)
        heights, b, c = theta[:2], theta[2:4], theta[4]
        laws = np.exp(heights[:, None] - b[:, None] * (log_compute - COMPUTE[2])) + c
        return (np.sqrt(counts) * (laws - losses)).ravel()

    theirs = optimize.least_squares(left, [0.5, 0.5, 0.25, 0.25, 0.8], xtol=1e-14, ftol=1e-14)
    ours = np.sum(left([*(found.log_a[0] - found.b[0] * COMPUTE[2]), *found.b[0], found.c[0]]) ** 2)
    assert ours == pytest.approx(2 * theirs.cost, rel=1e-4)
    assert found.misfit[0] == pytest.approx(np.sqrt(ours / (2 * counts.sum())), rel=1e-9)


def test_the_multiplier_is_the_compute_at_which_the_reference_has_the_loss(script):
    log_compute, losses = planted([0.2, 0.24], 0.9, saved=[1.0, 1.1])
    found = script("scaling_fit").fit(log_compute, losses[None], np.ones(5))
    for place in COMPUTE:
        more = found.log_multiplier(place)[0, 1]
        assert found.loss(place + more)[0, 0] == pytest.approx(found.loss(place)[0, 1], rel=1e-9)


def test_intervals_hold_planted_multipliers_about_as_often_as_they_say(script):
    scaling_fit = script("scaling_fit")
    log_compute, losses = planted([0.2, 0.21], 1.0, saved=[1.0, 1.15])
    truth = np.log(1.15), 0.05
    held = np.zeros(2)
    for trial in range(40):
        generator = np.random.default_rng(trial)
        runs = observed(losses, 0.01, generator, shared=0.3)
        drawn = scaling_fit.bootstrap(log_compute, runs, samples=100, generator=generator)
        figures = drawn.log_multiplier(COMPUTE[2])[:, 1], drawn.trend()[:, 1]
        ends = [scaling_fit.interval(each) for each in figures]
        held += [low <= true <= high for true, (low, high) in zip(truth, ends, strict=True)]
    # Of 40 intervals of 95 % at least 34 hold with probability 0.997; without Student's stretch 36
    # are expected.
    assert (held >= 36).all()


def test_no_gain_is_claimed_of_two_residuals_that_are_one(script):
    scaling_fit, scaling = script("scaling_fit"), script("scaling")
    log_compute, losses = planted([0.2, 0.2], 1.0)
    claims = 0
    for trial in range(40):
        generator = np.random.default_rng(1000 + trial)
        runs = observed(losses, 0.02, generator)
        drawn = scaling_fit.bootstrap(log_compute, runs, samples=100, generator=generator)
        multiplier = np.exp(drawn.log_multiplier(COMPUTE[2])[:, 1])
        figures = scaling.figure(1.0, multiplier)
        claims += scaling.judged(figures, 1.0, "saves", "costs", "not shown") != "not shown"
    assert claims <= 5  # 2 are expected at 95 %, more than 5 with probability 0.014


def test_a_fit_refuses_what_it_cannot_tell(script):
    scaling_fit = script("scaling_fit")
    log_compute, losses = planted([0.2, 0.2], 1.0)
    with pytest.raises(ValueError, match="needs 3 sizes, got 2"):
        scaling_fit.fit(log_compute[:, :2], losses[None, :, :2], np.ones(2))
    for bad in (-1.0, 0.0, np.inf, np.nan):
        given = losses[None].copy()
        given[0, 1, 2] = bad
        with pytest.raises(ValueError, match="losses must be finite and above 0"):
            scaling_fit.fit(log_compute, given, np.ones(5))
    given = {"samples": 2, "generator": np.random.default_rng(0)}
    with pytest.raises(ValueError, match="a size with several seeds"):
        scaling_fit.bootstrap(log_compute, losses[..., None], **given)
    uneven = observed(losses, 0.01, np.random.default_rng(0))
    uneven[0, 0, 2] = np.nan
    with pytest.raises(ValueError, match="the same seeds"):
        scaling_fit.bootstrap(log_compute, uneven, **given)


def test_without_a_law_a_multiplier_is_read_between_the_runs_of_the_reference(script):
    between = script("scaling_fit").log_multiplier_between
    # On a straight line it is exact at every size, beyond both ends too.
    log_compute, losses = planted([0.2, 0.2, 0.2], 0.0, saved=[1.0, 7.0, 0.2])
    saved = np.log([1.0, 7.0, 0.2])[:, None].repeat(5, 1)
    np.testing.assert_allclose(between(log_compute, losses[None])[0], saved, atol=1e-12)
    # Where the reference bends, a loss that it has itself is that of its own compute.
    bent = np.array([[4.0, 3.6, 3.0, 2.2, 2.1], [3.6, 3.0, 2.2, 2.1, 2.0]])
    found = between(np.stack([COMPUTE, COMPUTE]), bent[None])[0]
    np.testing.assert_allclose(found[0], 0.0, atol=1e-12)
    np.testing.assert_allclose(found[1, :4], np.diff(COMPUTE), atol=1e-12)
    with pytest.raises(ValueError, match="must fall from size to size"):
        between(log_compute, losses[None, :, ::-1])
