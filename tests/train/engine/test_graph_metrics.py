"""Figures of links and of nodes against their definitions, and the loss of log-odds."""

import math

import pytest
import torch
from archzoo.train.engine.graph_metrics import GraphMetrics, in_unit_interval
from archzoo.train.engine.metrics import candidate_entropy, cross_entropy, loss_for
from archzoo.zoo import create_model
from sklearn import metrics as theirs

CPU = torch.device("cpu")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def figures(kind, logits, targets, size=7):
    found = GraphMetrics(kind, CPU)
    for x, y in zip(logits.split(size), targets.split(size), strict=True):
        found.update(x, y)
    return found.compute()


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_links_are_ranked_as_scikit_learn_ranks_pooled_pairs(scale):
    # At 1e4 a sigmoid in float32 would make one score of half of them.
    logits, targets = scale * random(40, 6), torch.zeros(40, dtype=torch.int64)
    logits[:, 0] += scale
    found = figures("nodes", logits, targets)
    truth = [1, 0, 0, 0, 0, 0] * 40
    scores = logits.flatten().numpy()
    assert found.keys() == {"auc", "average_precision"}
    assert found["auc"] == pytest.approx(theirs.roc_auc_score(truth, scores), abs=1e-6)
    expected = theirs.average_precision_score(truth, scores)
    assert found["average_precision"] == pytest.approx(expected, abs=1e-6)


def test_a_model_that_knows_nothing_has_the_area_of_chance():
    found = figures("nodes", torch.zeros(10, 4), torch.zeros(10, dtype=torch.int64))
    assert found["auc"] == pytest.approx(0.5) and found["average_precision"] == pytest.approx(0.25)


def test_two_classes_have_the_f1_of_the_second():
    logits, targets = random(50, 2), random(50, seed=1).gt(0.5).long()
    found = figures("graph", logits, targets)
    margin = (logits[:, 1] - logits[:, 0]).numpy()
    assert found["f1"] == pytest.approx(theirs.f1_score(targets, margin > 0), abs=1e-6)
    assert found["auc"] == pytest.approx(theirs.roc_auc_score(targets, margin), abs=1e-6)
    assert "macro_f1" not in found


def test_more_classes_have_the_mean_of_each_ones_f1():
    logits = random(60, 4)
    targets = torch.randint(4, (60,), generator=torch.Generator().manual_seed(2))
    found = figures("graph", logits, targets)
    expected = theirs.f1_score(targets, logits.argmax(1), average="macro")
    assert found == {"macro_f1": pytest.approx(expected, abs=1e-6)}


def test_a_fold_of_one_class_has_no_ranking():
    found = figures("graph", random(8, 2), torch.ones(8, dtype=torch.int64))
    assert found.keys() == {"f1"}


@pytest.mark.parametrize("kind", ["image", "features", "tokens"])
def test_other_data_have_none_of_these(kind):
    assert figures(kind, random(8, 2), torch.zeros(8, dtype=torch.int64)) == {}


def test_the_order_of_scores_is_kept_between_nought_and_one():
    scores = torch.tensor([-math.inf, -1e30, -1e4, -1e4 + 1e-3, -1.0, 0.0, 1e-3, 5.0, 1e6])
    found = in_unit_interval(scores[1:])
    assert (found.diff() > 0).all() and found.min() >= 0 and found.max() <= 1


# The loss.


def test_log_odds_of_nothing_cost_one_bit_and_the_true_candidate_counts_half():
    logits, targets = torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64)
    assert float(candidate_entropy(logits, targets)) == pytest.approx(math.log(2))
    z = random(3, 5).double().float()
    expected = torch.nn.functional.softplus(-z[:, 0]) / 2
    expected = expected + torch.nn.functional.softplus(z[:, 1:]).mean(1) / 2
    torch.testing.assert_close(candidate_entropy(z, targets), expected.mean())
    torch.testing.assert_close(candidate_entropy(z, targets, reduction="sum"), expected.sum())
    smooth = candidate_entropy(z, targets, 1.0)
    flipped = candidate_entropy(-z, targets, 1.0)
    torch.testing.assert_close(smooth, flipped)  # all aims are one half


def test_a_model_of_links_has_the_loss_of_log_odds_and_others_that_of_a_choice():
    assert loss_for(create_model("gcn_nano", num_classes=None)) is candidate_entropy
    for name in ("gcn_nano", "poincare_embedding_nano", "mlp_nano"):
        assert loss_for(create_model(name)) is cross_entropy
