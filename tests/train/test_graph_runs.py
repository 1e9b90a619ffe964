"""Runs on graphs from the config to the result, and what is measured of them later."""

import json

import pytest
import torch
from archzoo.train.check import check_run, model_options
from archzoo.train.commands.eval import eval_
from archzoo.train.data import data_sets
from archzoo.train.errors import RunError
from archzoo.train.subject.given_data import check_fit
from archzoo.zoo import create_model

from .small_runs import configure, train

NODES = ("model=gcn_nano", "data=karate")
LINKS = ("model=gcn_nano", "data=karate_links")


@pytest.mark.long
def test_nodes_are_classified_from_the_config_to_the_result(tmp_path):
    train(tmp_path, *NODES, "trainer.steps=30", "optim.lr=0.01")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["test"].keys() == {"loss", "accuracy", "f1", "auc", "average_precision"}
    model = create_model(f"local-dir:{tmp_path}").eval()
    splits = data_sets.build("karate")
    assert torch.equal(model.edges, splits.graph.edges)
    assert (model.num_nodes, model.num_classes) == (34, 2)
    answer = eval_(str(tmp_path)).found
    for name in ("accuracy", "f1", "auc", "average_precision"):
        assert answer[name] == pytest.approx(result["test"][name], abs=1e-6)
    assert [row["class"] for row in answer["classes"]] == ["Mr. Hi", "Officer"]


@pytest.mark.long
def test_links_are_predicted_from_the_config_to_the_result(tmp_path):
    train(tmp_path, *LINKS, "trainer.steps=12", "callbacks=[reconstruction]")
    result = json.loads((tmp_path / "result.json").read_text())
    assert {"auc", "average_precision"} <= result["test"].keys()
    assert (tmp_path / "reconstruction.json").is_file()
    model = create_model(f"local-dir:{tmp_path}").eval()
    assert model.logits_are_odds
    text = eval_(str(tmp_path)).text
    assert "AUC" in text and "average precision" in text


def test_ranks_by_distance_are_not_asked_of_a_model_that_has_none(tmp_path):
    inner = ("model.decoder=inner_product", "callbacks=[reconstruction]")
    with pytest.raises(RunError, match="this model decides otherwise; take model.decoder=distance"):
        train(tmp_path, *LINKS, *inner)


@pytest.mark.long
def test_pairs_drawn_evenly_are_predicted_from_the_config_to_the_result(tmp_path):
    file = tmp_path / "ring.tsv"
    file.write_text("".join(f"{u}\t{(u + step) % 30}\n" for u in range(30) for step in (1, 2)))
    data = ("data=graph_links", f"data.path={file}", "data.even_pairs=true", "data.held_out=0.2")
    train(tmp_path / "run", "model=gcn_nano", *data, "trainer.steps=8", "model.init=fastrp")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    found = eval_(str(tmp_path / "run")).found
    assert found["auc"] == pytest.approx(result["test"]["auc"], abs=1e-6)


def test_a_model_that_may_know_the_links_it_is_asked_for_is_refused():
    splits, others = (data_sets.build("karate_links", split=split) for split in (0, 1))
    model = create_model("gcn_nano", num_classes=None, **splits.graph.sizes()).eval()
    model.follow_graph(splits.graph.edges)
    assert check_fit(model, splits, False) is None
    with pytest.raises(ValueError, match="may know the links that it is asked for; give the data"):
        check_fit(model, others, False)
    assert check_fit(model, others, True) is None


def test_the_data_decide_the_sizes_and_the_task():
    for data, classes in (("karate", 2), ("karate_links", None)):
        splits = data_sets.build(data)
        config = configure("model=gcn_nano", f"data={data}")
        options = model_options(config, splits.shape, splits.num_classes, splits.graph)
        assert options["num_classes"] == classes and options["in_features"] == 0
        assert (options["num_nodes"], options["num_edges"]) == (34, len(splits.graph.edges))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("model=mlp_nano", "data=karate"), "gives graph; choose a model such as gcn_"),
        (("model=gcn_nano", "data=digits"), "model=gcn_nano reads graph, but data=digits gives im"),
        (("model=poincare_embedding", "data=karate"), "reads nodes, but data=karate gives graph"),
        ((*NODES, "trainer.mixup=0.2"), "trainer.mixup cannot mix graph"),
        ((*NODES, "model.num_classes=5"), "model.num_classes=5, but data karate has 2"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_any_data_is_read(given, message):
    with pytest.raises(RunError, match=message):
        check_run(configure(*given))


def test_a_number_of_classes_for_links_is_refused():
    splits = data_sets.build("karate_links")
    with pytest.raises(ValueError, match="model.num_classes=3, but data karate_links has none"):
        model_options(
            configure(*LINKS, "model.num_classes=3"),
            splits.shape, splits.num_classes, splits.graph,
        )  # fmt: skip
