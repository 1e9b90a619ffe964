"""The scaling study: what a run costs on paper, how rates are sought, and what is held out."""

import pytest
import torch


@pytest.mark.parametrize("size", [3, 5])
def test_flops_of_add_are_those_of_the_formula(script, size):
    costs = script("scaling_costs")
    config = costs.config_of(size, "add")
    found = costs.counted(costs.model_of(config), costs.tokens_of(config))
    assert found["FLOPs"] == costs.formula(size, config)
    assert found["arithmetic"] > found["FLOPs"]


def test_mixing_over_the_depth_is_arithmetic_that_products_leave_out(script):
    costs = script("scaling_costs")
    found = {}
    for residual in ("add", "attnres", "mhc_lite"):
        config = costs.config_of(3, residual)
        found[residual] = costs.counted(costs.model_of(config), costs.tokens_of(config))
    assert found["attnres"]["FLOPs"] == found["add"]["FLOPs"]
    assert found["attnres"]["arithmetic"] > found["add"]["arithmetic"]
    assert found["mhc_lite"]["FLOPs"] > found["add"]["FLOPs"]


def test_a_run_sees_twenty_bytes_for_each_weight_of_its_blocks(script):
    costs, runs = script("scaling_costs"), script("scaling_runs")
    for size in runs.SIZES:
        config = costs.config_of(size, "add")
        model = costs.model_of(config)
        blocks = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2)
        blocks -= model.embedding.weight.numel()
        seen = config.trainer.steps * config.trainer.batch_size * config.data["context_length"]
        width, depth = config.model["width"], config.model["depth"]
        whole = 12 * width**2 * depth
        assert seen == 20 * whole
        # The hidden width of an MLP is 8/3 of the width, rounded down by less than one.
        assert whole - 3 * width * depth < blocks <= whole


@pytest.mark.parametrize("start", [0, 2, 4, 7])
@pytest.mark.parametrize("least", range(8))
def test_the_search_ends_where_both_neighbours_are_worse(script, start, least):
    asked = []

    def loss(place):
        asked.append(place)
        return abs(place - least)

    assert script("scaling_runs").climb(loss, start, 8) == least
    assert len(set(asked)) <= 8 and {max(least - 1, 0), min(least + 1, 7)} <= {*asked}


def test_a_thinned_text_is_of_blocks_from_its_first_to_its_last(script):
    corpora = script("scaling_corpora")
    text = torch.arange(200_000).remainder(251).to(torch.uint8).numpy().tobytes()
    found = corpora.thinned(text, corpora.HELD_OUT)
    assert len(found) == corpora.HELD_OUT
    assert found.startswith(text[: corpora.BLOCK]) and found.endswith(text[-corpora.BLOCK :])
    with pytest.raises(ValueError, match="has 100 bytes"):
        corpora.thinned(text[:100], corpora.HELD_OUT)


def test_a_point_that_was_not_trained_is_named_and_not_trained(script, monkeypatch, tmp_path):
    monkeypatch.setattr(script("runs"), "RESULTS", tmp_path)
    runs, scaling = script("scaling_runs"), script("scaling")
    study = runs.Study(train=False)
    with pytest.raises(LookupError, match="has not been trained"):
        study.result(3, "add", 0.02, 0)
    assert scaling.ended(study) == ([], [])


class Planted:
    """A study whose residuals need a share of the reference's compute for its loss."""

    def __init__(self, runs, saved, sizes):
        self.runs, self.saved, self.sizes = runs, saved, sizes

    def rate(self, size, residual):
        return 3

    def losses(self, size, residual):
        if size not in self.sizes or residual not in self.saved:
            raise LookupError
        compute = self.saved[residual] * size**2 * self.runs.steps(size)
        loss = 3.0 * compute**-0.2 + 1.0
        found = []
        for seed in self.runs.SEEDS[size]:
            bits = loss + 1e-4 * (seed - 1) * (len(self.runs.SEEDS[size]) > 1)
            of_each = {"novels": bits, "sources": bits}
            found.append({"test": {"bits_per_byte": bits}, "by_corpus": of_each})
        return found


def planted_costs(sizes, seconds):
    return [
        {"size": size, "residual": name, "FLOPs": size**2, "arithmetic": size**2}
        | {"step, ms": size**2 * ratio, "step over add": ratio}
        for size in sizes
        for name, ratio in seconds.items()
    ]


def test_a_residual_that_halves_the_compute_and_doubles_the_step_saves_no_time(script):
    runs, scaling = script("scaling_runs"), script("scaling")
    study = Planted(runs, {"add": 1.0, "delta": 2.0}, runs.SIZES)
    costs = planted_costs(runs.SIZES, {"add": 1.0, "delta": 2.0})
    rows = scaling.tables(study, costs, 50)
    found = {
        row["equal"]: row for row in rows if row["part"] == "multiplier" and row["text"] == "both"
    }
    for axis, times in {"FLOPs": 2.0, "seconds": 1.0}.items():
        for place in ("smallest", "middle", "largest"):
            figure, low, high = found[axis][place]
            assert figure == pytest.approx(times, rel=0.01)
            assert low <= figure <= high
        assert found[axis]["trend"][0] == pytest.approx(0.0, abs=0.01)
    assert found["FLOPs"]["verdicts"] == ["saves"] * 3


def test_a_study_that_is_not_at_its_end_has_the_sizes_of_all_its_residuals(script):
    runs, scaling = script("scaling_runs"), script("scaling")
    study = Planted(runs, {"add": 1.0, "delta": 2.0, "attnres": 1.0}, (2, 3, 4, 5))
    assert scaling.ended(study) == ([2, 3, 4, 5], ["add", "attnres", "delta"])
    assert scaling.ended(Planted(runs, {"add": 1.0}, (2, 3))) == ([2, 3], ["add"])
    two = Planted(runs, {"add": 1.0, "delta": 2.0}, (2, 3))
    rows = scaling.tables(two, [], 50)
    assert {row["part"] for row in rows} == {"loss"}
