"""Learning-rate schedules are pure functions of the step."""

import pytest
from archzoo.train.engine.schedule import SCHEDULES, learning_rate_factor

BASE = {"warmup": 0.1, "cooldown": 0.2, "final": 0.0}


def curve(name, total=100, **changes):
    options = BASE | changes
    return [learning_rate_factor(s, total, name=name, **options) for s in range(total)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_is_linear_and_ends_at_one(name):
    assert curve(name)[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_a_decay_ends_at_its_final_factor(name, final):
    assert curve(name, final=final)[-1] == pytest.approx(final, abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_schedule_rises_after_the_warm_up(name):
    after = curve(name)[9:]
    assert all(a >= b for a, b in zip(after, after[1:], strict=False))


def test_wsd_stays_at_one_until_the_cooldown():
    values = curve("wsd")
    assert values[10:79] == [1.0] * 69
    assert values[85] == pytest.approx(0.7)


def test_cosine_is_half_way_in_the_middle():
    assert curve("cosine", total=101, warmup=0.0)[50] == pytest.approx(0.5)


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_shortest_runs_have_a_rate(name, total):
    assert all(0.0 <= factor <= 1.0 for factor in curve(name, total=total))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="one of constant, linear, cosine, wsd"):
        curve("cosin")
