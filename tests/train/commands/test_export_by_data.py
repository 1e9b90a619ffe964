"""archzoo export case=…: what `compress` makes of a trained model, measured and written."""

import inspect
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from archzoo.layers.lowrank import structures
from archzoo.train.command_line.arguments import in_words, read_arguments
from archzoo.train.command_line.export_arguments import COMPRESSION, ExportConfig
from archzoo.train.commands.__main__ import main
from archzoo.train.commands.export import export, exported, table
from archzoo.train.errors import RunError
from archzoo.train.subject.given_data import model_on_data
from archzoo.train.subject.given_model import find_model
from archzoo.zoo import compress, create_model, save_model

from ..data.sequences.protein_families import families, write_table
from ..engine.test_full_disk import no_file_above
from ..engine.test_loop import Stop, stop_after
from ..small_runs import equal_weights, train

pytestmark = pytest.mark.long

SMALL = ("model=resnet_nano", "model.widths=[4,8]", "model.depths=[1,1]", "trainer.steps=4")
FAST: dict[str, Any] = {"statistics": 64, "latency_seconds": 0.0, "threads": 1}
FAST |= {"calibration": 64, "calibration_batch": 32}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of a small ResNet on the digits."""
    place = tmp_path_factory.mktemp("runs") / "dense"
    train(place, *SMALL)
    return place


def made(run: Path, out: Path, case: str, settings: dict[str, Any], **how: Any) -> dict[str, Any]:
    return exported(ExportConfig(str(run), str(out), case=case, **{**FAST, **settings}), how)


@pytest.mark.parametrize(
    ("case", "how"),
    [
        ("feature_mimicking", {}),
        ("svd_llm", {"sensitivity": "output", "sequential": False}),
        ("svd", {"allocation": "energy"}),
    ],
)
def test_a_case_writes_what_compress_makes_of_the_runs_own_training_samples(
    case: str, how: dict[str, Any], run: Path, tmp_path: Path
) -> None:
    found = made(run, tmp_path, case, {"statistics": 0, "seed": 3}, budget=0.8, **how)
    assert found == json.loads((tmp_path / "export.json").read_text())
    small = create_model(f"local-dir:{tmp_path}").eval()
    count = sum(p.numel() for p in small.parameters())
    assert count == found["exported"]["parameters"] <= 0.8 * found["dense"]["parameters"]
    subject = model_on_data(find_model(str(run)))
    data = [inputs for inputs, _ in subject.drawn(64, 32, 3)]
    same = compress(
        subject.model, case, budget=0.8, batches=data, batch_norm=False, seed=3, **how
    ).state_dict()
    assert all(torch.equal(value, same[key]) for key, value in small.state_dict().items())
    told = found["compression"]
    assert told["calibration"] == {"data": "digits", "samples": 64, "batches": 2}
    assert told["additivity"]["sum"] > 0 and math.isfinite(told["additivity"]["ratio"])
    assert told["inputs"] and all(count >= 64 for count in told["inputs"].values())
    curves = told["curves"]
    assert bool(curves) == (told["sensitivity"] == "output")
    assert all(len(c["ranks"]) == len(c["distortion"]) for c in curves.values())
    ranks = {row["name"]: row["rank"] for row in found["ranks"] if row["rank"] is not None}
    assert ranks == {name: s.rank for name, _, s in structures(small)}
    shown = table(found)
    assert f"case={case} budget=0.8" in shown and "over the sum of each" in shown


def test_padding_has_no_say_in_what_a_layer_is_compressed_by(tmp_path: Path) -> None:
    rows = [("ab"[i % 2], one[0][: 20 + i]) for i, one in enumerate(families(80, 1))]
    data = write_table(tmp_path / "proteins.csv", rows)
    told = ("model=encoder_nano", "data=sequences", f"data.root={data}", "trainer.steps=4")
    train(tmp_path / "run", *told)
    counted = []
    for size in (1, 40):
        settings = {"calibration": 40, "calibration_batch": size}
        found = made(tmp_path / "run", tmp_path / str(size), "svd_llm", settings, budget=0.8)
        counted.append(found["compression"]["inputs"])
    assert counted[0] == counted[1]  # of each layer, tokens: as many as there are letters


def test_paths_stand_beside_a_coarse_weight_or_a_compressed_copy(run: Path, tmp_path: Path) -> None:
    found = made(run, tmp_path / "pruned", "eora", {}, base="prune:2:4", rank=2)
    assert found["compression"]["sensitivity"] is None
    ranks = {row["rank"] for row in found["ranks"]}
    assert ranks == {2}
    assert len(found["compression"]["inputs"]) == len(found["ranks"])
    made(run, tmp_path / "cut", "svd", {}, budget=0.7, allocation="energy", sensitivity="local")
    base = str(tmp_path / "cut")
    again = made(run, tmp_path / "again", "eora", {}, base=base, rank=1)
    before = {name: s.rank for name, _, s in structures(create_model(f"local-dir:{base}"))}
    raised = {row["name"]: row["rank"] for row in again["ranks"] if row["rank"] is not None}
    assert raised == {name: before[name] + 1 for name in raised}


def test_any_models_data_are_calibrated_on_and_the_folder_is_evaluated(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    save_model(create_model(f"local-dir:{run}"), tmp_path / "saved")
    words = [str(tmp_path / "saved"), str(tmp_path / "out"), "case=asvd", "budget=0.7"]
    words += ["data=digits", "calibration=64", "statistics=0", "latency_seconds=0"]
    main(["export", *words])
    assert "resnet_nano on digits, case=asvd budget=0.7" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "export.json").read_text())
    assert 0 < found["tested"] < 1
    main(["eval", str(tmp_path / "out"), "data=digits", "--json"])
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["accuracy"] == found["accuracy"]["test"]["accuracy"]


BAD = [
    ({}, {"budget": 1.5}, r"budget must be a share of the parameters in \(0, 1\], got 1.5"),
    ({}, {}, r"budget must be a share of the parameters in \(0, 1\], got None"),
    ({}, {"budget": 0.01}, "budget=0.01 cannot be met: rank 1 in every target leaves"),
    ({}, {"budget": 0.5, "allocation": "luck"}, "allocation must be one of .* got 'luck'"),
    ({}, {"budget": 0.5, "allocation": "energy", "sensitivity": "output"}, "compares no errors"),
    ({}, {"base": "prune:2:4", "rank": 2}, "case must be one of .* beside base="),
    ({"case": "eora"}, {"base": "prune:2:4"}, "rank must be at least 1 beside base=, got None"),
    ({"case": "eora"}, {"base": "nowhere", "rank": 2}, "base: nowhere is no model.*or give prune:"),
    ({"case": "eora"}, {"base": "prune:2:4", "rank": 2, "allocation": "dp"}, "leave allocation"),
    ({"case": "eora"}, {"budget": 0.5}, "case='eora' compensates a compressed model: give base="),
    ({"case": "plain"}, {"budget": 0.5}, "case must be one of .* got 'plain'"),
    ({"case": None, "energy": 0.1}, {"budget": 0.5}, "budget=0.5 is of a compression by data"),
    ({"macs": 0.5}, {"budget": 0.5}, "give exactly one of .* got macs, case"),
    ({"latency": 0.5}, {"budget": 0.5}, "give exactly one of .* got latency, case"),
    ({"scheme": "spatial"}, {"budget": 0.5}, "case=svd_llm unfolds kernels by channel"),
    ({"ordered": True}, {"budget": 0.5}, "leave ordered out"),
    ({"calibration": 0}, {"budget": 0.5}, "calibration must be at least 1, got 0"),
    ({"case": "eora", "calibration": 1, "targets": ["head"]}, {"base": "prune:0.5", "rank": 4},
     "batches hold 1 inputs of head, which cannot decide 4 components; give more batches"),
    ({"targets": ["nothing*"]}, {"budget": 0.5}, "nothing"),
    ({"data": "bytes"}, {"budget": 0.5}, "gives tokens; choose data such as"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "how", "named"), BAD)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    settings: dict[str, Any], how: dict[str, Any], named: str, run: Path, tmp_path: Path
) -> None:
    settings = {"case": "svd_llm", **settings}
    with pytest.raises(RunError, match=named) as refused:
        made(run, tmp_path / "out", settings.pop("case"), settings, **how)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_name_without_weights_is_refused(tmp_path: Path) -> None:
    config = ExportConfig("resnet_nano", str(tmp_path / "out"), case="svd", data="digits")
    with pytest.raises(RunError, match="resnet_nano is a registered name, which has no weights"):
        exported(config, {"budget": 0.5})


def test_a_disk_that_refuses_leaves_what_was_there(run: Path, tmp_path: Path) -> None:
    made(run, tmp_path, "svd", {}, budget=0.9)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with no_file_above(1_000), pytest.raises(RunError, match=f"could not write to {tmp_path}: "):
        made(run, tmp_path, "svd_llm", {}, budget=0.7)
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}


GIVEN_BY_THE_COMMAND = {"model", "batches", "batch_norm", "forward", "loss", "report"}


def test_what_compress_takes_the_command_takes_with_the_same_default() -> None:
    function, command = inspect.signature(compress), inspect.signature(export)
    wanted = function.parameters.keys() - GIVEN_BY_THE_COMMAND
    assert wanted <= command.parameters.keys()
    assert wanted - set(COMPRESSION) == {"case", "targets", "seed"}
    for name in COMPRESSION:
        assert command.parameters[name] == function.parameters[name]
    assert in_words(command.parameters["base"].annotation) == "text or null"
    words = ["a", "b", "case=svd", "budget=0.5", "sequential=false", "base=prune:2:4", "rank=4"]
    _, given = read_arguments(export, words)
    assert given["base"] == "prune:2:4" and given["sequential"] is False and given["rank"] == 4


def test_an_export_is_trained_on_at_its_own_ranks_and_goes_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(run, tmp_path / "small", "feature_mimicking", {}, budget=0.7)
    small = create_model(f"local-dir:{tmp_path / 'small'}")
    more = [*SMALL, f"init={tmp_path / 'small'}", "lowrank=fixed_ranks", "trainer.evaluate_every=2"]
    train(tmp_path / "whole", *more)
    trained = create_model(f"local-dir:{tmp_path / 'whole'}")
    assert {n: s.rank for n, _, s in structures(trained)} == {
        n: s.rank for n, _, s in structures(small)
    }
    assert trained.state_dict().keys() == small.state_dict().keys()
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stop):
            train(tmp_path / "parts", *more, "trainer.checkpoint_every=1")
    train(tmp_path / "parts", *more, "trainer.checkpoint_every=1", "resume=auto")
    assert equal_weights(tmp_path / "whole", tmp_path / "parts")
