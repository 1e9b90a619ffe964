"""Mean rank and MAP against their definitions, and the runs that report them."""

import json

import pytest
import torch
from archzoo.train.data.relations import transitive_closure
from archzoo.train.data.sets.trees import balanced_parents, random_parents
from archzoo.train.errors import RunError
from archzoo.train.measures.reconstruction import CELLS, reconstruction
from archzoo.zoo import create_model

from ..engine.test_loop import Stop, stop_after
from ..small_runs import configure, equal_weights, train

pytestmark = pytest.mark.long

RUN = [
    *("model=poincare_embedding_nano", "data=tree", "data.depth=2", "optim=riemannian_sgd"),
    *("callbacks=[reconstruction]", "trainer.batch_size=7"),
]


def brute_force(table, relations, known):
    """The two figures as their definition says them, one comparison at a time."""
    true = {(u, v) for u, v in known.tolist()}
    ranks, precisions = [], []
    for u in sorted({u for u, _ in relations.tolist()}):
        others = [w for w in range(len(table)) if w != u and (u, w) not in true]
        before = []
        for v in sorted(v for w, v in relations.tolist() if w == u):
            nearer = sum(bool(table[u, w] < table[u, v]) for w in others)
            equal = sum(bool(table[u, w] == table[u, v]) for w in others)
            before.append(nearer + equal / 2)
        ranks += [1 + b for b in before]
        before.sort()
        precisions.append(sum(k / (k + b) for k, b in enumerate(before, 1)) / len(before))
    return {
        "mean_rank": sum(ranks) / len(ranks), "map": sum(precisions) / len(precisions)
    }  # fmt: skip


def distances(nodes, seed=0, steps=None):
    table = torch.rand(nodes, nodes, generator=torch.Generator().manual_seed(seed)).double()
    return table if steps is None else (table * steps).floor()


@pytest.mark.parametrize("steps", [None, 4], ids=["all different", "many ties"])
@pytest.mark.parametrize("parents", [balanced_parents(3, 2), random_parents(40, 1)])
def test_the_figures_are_those_of_the_definition(parents, steps):
    relations = transitive_closure(parents)
    table = distances(len(parents), steps=steps)
    found = reconstruction(lambda nodes: table[nodes], relations, relations, len(parents))
    # float64, sums of some hundred terms.
    assert found == pytest.approx(brute_force(table, relations, relations), rel=1e-12)


def test_relations_that_are_not_asked_for_are_no_mistakes():
    relations = transitive_closure(random_parents(40, 1))
    table = distances(40)
    part = relations[::3]
    found = reconstruction(lambda nodes: table[nodes], part, relations, 40)
    assert found == pytest.approx(brute_force(table, part, relations), rel=1e-12)
    assert found["mean_rank"] < reconstruction(lambda n: table[n], part, part, 40)["mean_rank"]


def test_the_average_precision_is_scikit_learns_where_no_distances_are_equal():
    from sklearn.metrics import average_precision_score

    relations = transitive_closure(random_parents(40, 1))
    table = distances(40)
    precisions = []
    for u in relations[:, 0].unique().tolist():
        label = torch.zeros(40)
        label[relations[relations[:, 0] == u, 1]] = 1
        others = torch.arange(40) != u
        precisions.append(average_precision_score(label[others], -table[u, others]))
    found = reconstruction(lambda nodes: table[nodes], relations, relations, 40)
    assert found["map"] == pytest.approx(sum(precisions) / len(precisions), rel=1e-12)


def test_chunks_change_nothing(monkeypatch):
    relations = transitive_closure(random_parents(40, 1))
    table = distances(40)
    whole = reconstruction(lambda nodes: table[nodes], relations, relations, 40)
    monkeypatch.setattr("archzoo.train.measures.reconstruction.CELLS", 120)  # three rows at a time
    assert reconstruction(lambda n: table[n], relations, relations, 40) == pytest.approx(
        whole, rel=1e-12
    )
    assert CELLS > 120


def test_perfect_order_has_rank_one_and_one_point_the_rank_of_chance():
    relations = transitive_closure(balanced_parents(3, 2))
    perfect = torch.ones(13, 13)
    perfect[relations[:, 0], relations[:, 1]] = 0.5
    found = reconstruction(lambda nodes: perfect[nodes], relations, relations, 13)
    assert found == {"mean_rank": 1.0, "map": 1.0}
    collapsed = reconstruction(lambda n: torch.zeros(len(n), 13), relations, relations, 13)
    # 3 nodes have 11 non-neighbours for one relation, 9 have 10 for two.
    assert collapsed["mean_rank"] == pytest.approx(1 + (3 * 5.5 + 18 * 5) / 21)


def test_a_distance_that_is_no_number_is_refused():
    relations = transitive_closure(balanced_parents(3, 2))
    with pytest.raises(ValueError, match="distances hold NaN"):
        reconstruction(lambda n: torch.full((len(n), 13), torch.nan), relations, relations, 13)


@pytest.mark.parametrize("optimizer", ["riemannian_sgd", "riemannian_adam"])
def test_a_run_of_points_that_stopped_and_went_on_equals_one_that_did_not(
    tmp_path, monkeypatch, optimizer
):
    overrides = [*RUN, f"optim={optimizer}"]
    whole = train(tmp_path / "whole", *overrides)
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(Stop):
            train(tmp_path / "cut", *overrides)
    assert train(tmp_path / "cut", *overrides, "resume=auto") == whole
    assert equal_weights(tmp_path / "whole", tmp_path / "cut")


def test_the_figures_are_in_the_result_and_are_those_of_the_saved_model(tmp_path):
    train(tmp_path, *RUN)
    result = json.loads((tmp_path / "result.json").read_text())
    final = json.loads((tmp_path / "reconstruction.json").read_text())
    relations = transitive_closure(balanced_parents(3, 2))
    model = create_model(f"local-dir:{tmp_path}")
    expected = reconstruction(model.distances, relations, relations, 13)
    assert final == pytest.approx(expected)
    # Reconstruction: both folds hold all relations.
    assert {k: result["validation"][k] for k in final} == pytest.approx(final)
    assert set(result["test"]) == {"loss", "accuracy", "auc", "average_precision"}
    assert "mean_rank" in (tmp_path / "metrics.csv").read_text().splitlines()[0]


@pytest.mark.parametrize("overrides", [[], ["model.geometry=euclidean", "optim=adamw"]])
def test_an_average_of_points_is_evaluated_like_any_model(tmp_path, overrides):
    train(tmp_path, *RUN, "callbacks=[ema,reconstruction]", *overrides)
    assert json.loads((tmp_path / "reconstruction.json").read_text())["mean_rank"] >= 1.0


def test_links_are_predicted_where_relations_were_held_out(tmp_path):
    train(tmp_path, *RUN, "data.depth=3", "data.held_out=0.2", "trainer.batch_size=20")
    assert json.loads((tmp_path / "data.json").read_text())["task"] == "link prediction"
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["validation"]["mean_rank"] >= 1.0


def test_sharding_points_is_refused_before_they_lose_their_manifold(tmp_path):
    said = r"trainer.parallel=fsdp would drop the manifold of embedding.points .* use .*ddp"
    with pytest.raises(RunError, match=said):
        train(tmp_path, *RUN, "trainer.parallel=fsdp")


def test_an_optimiser_without_manifolds_is_refused(tmp_path):
    with pytest.raises(RunError, match="optim.name=adamw would take embedding.points off"):
        train(tmp_path, *RUN, "optim=adamw")


def test_the_figures_of_an_image_model_are_refused(tmp_path):
    with pytest.raises(RunError, match="callbacks.reconstruction needs a model of nodes"):
        train(tmp_path, "callbacks=[reconstruction]")


def test_nodes_and_images_are_told_apart():
    from archzoo.train.check import check_run

    with pytest.raises(RunError, match="reads nodes, but data=digits gives image"):
        check_run(configure("model=poincare_embedding"))
    with pytest.raises(RunError, match="gives nodes; choose a model such as poincare_embedding"):
        check_run(configure("data=tree"))
    with pytest.raises(RunError, match="trainer.mixup cannot mix nodes"):
        check_run(configure(*RUN, "trainer.mixup=0.2"))


def test_a_model_follows_the_number_of_nodes():
    from archzoo.train.check import model_options

    assert model_options(configure(*RUN), (12,), 40)["num_nodes"] == 40
