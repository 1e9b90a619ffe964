"""The comparison on tables: ranks, the choice of rows, and that a point is what a run trains."""

import json
import math

import numpy as np
import pytest
import torch
from archzoo.train.data import data_sets
from archzoo.train.data.sets.tabular import subsample
from archzoo.train.data.table_files import Table
from archzoo.train.run import run
from archzoo.zoo import create_model
from scipy import stats

from ..train.small_runs import configure


def test_the_best_has_rank_one_and_ties_share_their_places(script):
    ranks = script("ranks").rank(np.array([[0.9, 0.8, 0.9, 0.1], [0.5, 0.5, 0.5, 0.5]]))
    assert ranks.tolist() == [[1.5, 3.0, 1.5, 4.0], [2.5, 2.5, 2.5, 2.5]]


@pytest.mark.parametrize("decimals", [None, 1])
def test_friedmans_test_is_scipys_with_and_without_ties(script, decimals):
    figures = np.random.default_rng(0).random((20, 5))
    figures = figures if decimals is None else figures.round(decimals)
    ranks = script("ranks")
    statistic, p = ranks.friedman(ranks.rank(figures))
    theirs = stats.friedmanchisquare(*figures.T)
    assert (decimals is not None) == any(len(set(row)) < 5 for row in figures.tolist())
    assert statistic == pytest.approx(theirs.statistic, rel=1e-12)
    assert p == pytest.approx(theirs.pvalue, rel=1e-12)


def test_friedmans_test_refuses_what_it_cannot_rank(script):
    ranks = script("ranks")
    with pytest.raises(ValueError, match="got 9 and 2"):
        ranks.friedman(ranks.rank(np.random.default_rng(0).random((9, 2))))
    with pytest.raises(ValueError, match="nothing to rank"):
        ranks.friedman(ranks.rank(np.ones((9, 3))))


@pytest.mark.parametrize(
    ("methods", "alpha", "quantile"),
    [(2, 0.05, 1.960), (5, 0.05, 2.728), (10, 0.05, 3.164), (4, 0.10, 2.291)],
)
def test_critical_differences_are_those_of_demsars_table(script, methods, alpha, quantile):
    # Demšar 2006, table 5 a, printed with three decimals.
    found = script("ranks").critical_difference(methods, 14, alpha=alpha)
    assert found / math.sqrt(methods * (methods + 1) / (6 * 14)) == pytest.approx(
        quantile, abs=6e-4
    )


def lottery(rows, classes=(0.9, 0.09, 0.01)):
    """A table whose only number is the row's own, with classes of given shares."""
    targets = np.repeat(np.arange(len(classes)), (rows * np.array(classes)).round().astype(int))
    numbers = np.arange(len(targets), dtype=float)[:, None]
    words = np.array([[f"w{i}"] for i in range(len(targets))], dtype=object)
    names = [str(i) for i in range(len(classes))]
    return Table(numbers, words, targets, names, "made", {"numeric": ["i"], "categorical": ["w"]})


def test_a_subsample_keeps_whole_rows_and_every_class_in_proportion():
    table = lottery(5000)
    kept = subsample(table, 1000)
    assert np.bincount(kept.targets) == pytest.approx([900, 90, 10], abs=1)
    rows = kept.numeric[:, 0].astype(int)
    assert len(set(rows.tolist())) == 1000
    assert (kept.targets == table.targets[rows]).all()
    assert (kept.nominal == table.nominal[rows]).all()
    assert kept.classes == table.classes


def test_a_subsample_is_the_same_every_time_and_no_subsample_of_a_small_table():
    table = lottery(300)
    again = subsample(table, 100).numeric
    assert (subsample(table, 100).numeric == again).all()
    assert subsample(table, 300) is table
    with pytest.raises(ValueError, match="max_rows must lie in"):
        subsample(table, 0)


def test_a_table_is_cut_before_it_is_split_and_encoded():
    whole = data_sets.build("tabular", table="digits")
    cut = data_sets.build("tabular", table="digits", max_rows=500)
    assert sum(whole.about["sizes"].values()) == 1797
    assert sum(cut.about["sizes"].values()) == 500
    # Standardised by the training rows that are left.
    numbers = cut.train.inputs[:, cut.train.inputs.std(0) > 0].double()
    # float32 features: their rounding moves a mean over 350 rows by less.
    assert float(numbers.mean(0).abs().max()) < 1e-5


def test_the_plan_names_sets_seeds_and_methods(script):
    plan = script("ldlt_tabular").PLAN
    assert len(plan["bundled"] | plan["csv"]) >= 25
    assert len(plan["seeds"]) >= 3
    assert plan["eps"] == [36, 72, 108]
    assert len({json.dumps(m["try"]) for m in plan["methods"].values() if m["model"]}) == 1
    for method in plan["methods"].values():
        if method["model"]:
            create_model(method["model"], in_features=5, num_classes=3, **method["options"])


@pytest.mark.long
def test_a_point_of_the_comparison_is_the_run_of_the_command_line(script, tmp_path):
    comparison = script("ldlt_tabular")
    base = ["experiment=ldlt_tabular", "data.table=iris", "trainer.progress=false", "seed=1"]
    base += ["trainer.steps=12", "trainer.batch_size=105", "logger=[csv]", "model.depth=4"]
    run(configure("model.lipschitz=2.0", folder=tmp_path / "run", base=base))
    theirs = create_model(f"local-dir:{tmp_path / 'run'}").state_dict()
    splits = data_sets.build("tabular", table="iris", split=1)
    ours = comparison.train("LDLT n=1", splits, 1, 12, {"lipschitz": 2.0}).state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


def test_a_point_takes_its_choice_from_validation_rows_and_finds_no_violation(script):
    found = script("ldlt_tabular").point("SLL", {"table": "iris"}, 0, 40)
    scores = [np.mean(one["validation"]) for one in found["tried"]]
    assert found["chosen"] == found["tried"][int(np.argmax(scores))]["lipschitz"]
    assert found["rows"] == [105, 15, 30]
    assert found["violations"] == 0 < found["attacked"]
    assert sorted(found["test"], reverse=True) == found["test"]
    assert found["lipschitz"] <= found["chosen"] * (1 + 1e-6)
