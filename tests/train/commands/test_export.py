"""archzoo export: a finished run becomes a smaller model in a folder."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from archzoo.layers.lowrank import structures
from archzoo.train.command_line.arguments import call_with
from archzoo.train.command_line.export_arguments import ExportConfig
from archzoo.train.commands.__main__ import main
from archzoo.train.commands.export import exported, table
from archzoo.train.engine.saved.folder_lock import FolderLock
from archzoo.train.errors import RunError
from archzoo.zoo.share.create import create_model

from ...close import assert_close_in_scale
from ...tiers import tiered
from ..engine.test_full_disk import no_file_above
from ..small_runs import train

pytestmark = pytest.mark.long

SMALL = ("model=resnet_nano", "model.widths=[4,8]", "model.depths=[1,1]", "trainer.steps=4")
FAST = {"statistics": 128, "latency_seconds": 0.0, "search_samples": 64, "threads": 1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of every kind that is exported differently."""
    place = tmp_path_factory.mktemp("runs")
    wanted = {"dense": (), "trp": ("lowrank=trp", "lowrank.scheme=spatial", "lowrank.energy=0.2"),
              "maestro": ("lowrank=maestro", "lowrank.scheme=spatial")}  # fmt: skip
    for name, overrides in wanted.items():
        train(place / name, *SMALL, *overrides)
    return {name: place / name for name in wanted}


def config(run: Path, out: Path, **settings: Any) -> ExportConfig:
    return ExportConfig(str(run), str(out), **{**FAST, **settings})


@pytest.mark.parametrize("kind", ["dense", "trp", "maestro"])
def test_the_folder_holds_a_model_of_the_wanted_size_and_what_was_measured(
    kind: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    found = exported(config(runs[kind], tmp_path, parameters=0.6, validation=True))
    assert found == json.loads((tmp_path / "export.json").read_text())
    model = create_model(f"local-dir:{tmp_path}").eval()
    assert sum(p.numel() for p in model.parameters()) == found["exported"]["parameters"]
    assert found["exported"]["parameters"] <= 0.6 * found["dense"]["parameters"]
    assert found["exported"]["MACs"] < found["dense"]["MACs"]
    assert found["scheme"] == ("channel" if kind == "dense" else "spatial")
    ranks = {row["name"]: row["rank"] for row in found["ranks"] if row["rank"] is not None}
    assert ranks == {name: s.rank for name, _, s in structures(model)}
    assert set(found["accuracy"]) == {"validation", "test"}
    assert [row["batch"] for row in found["exported"]["latency"]] == [1, 64]


def test_the_folder_of_a_run_is_not_overwritten(runs: dict[str, Path]) -> None:
    before = (runs["trp"] / "model.safetensors").read_bytes()
    with pytest.raises(RunError, match="holds a run, which an export would overwrite"):
        exported(config(runs["dense"], runs["trp"], parameters=1.0))
    assert (runs["trp"] / "model.safetensors").read_bytes() == before


def test_the_folder_of_a_run_that_has_saved_nothing_yet_is_not_written_to(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    lock = FolderLock(tmp_path / "live")
    with pytest.raises(RunError, match="live holds a run, which an export would overwrite"):
        exported(config(runs["dense"], tmp_path / "live", parameters=1.0))
    assert [path.name for path in (tmp_path / "live").iterdir()] == ["run.lock"]
    lock.release()


def test_an_export_that_the_disk_refuses_is_one_line_and_leaves_what_was_there(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    exported(config(runs["dense"], tmp_path, parameters=1.0))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with no_file_above(1_000), pytest.raises(RunError, match=f"could not write to {tmp_path}: "):
        exported(config(runs["trp"], tmp_path, parameters=0.6))
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}


def test_a_model_that_is_only_counted_keeps_its_accuracy(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    found = exported(config(runs["dense"], tmp_path, parameters=1.0, statistics=0))
    assert found["accuracy"]["test"]["accuracy"] == found["tested"]
    assert "before_statistics" not in found
    assert all(row["rank"] is None for row in found["ranks"])


@pytest.mark.parametrize(
    "budget",
    [{"energy": 0.3}, {"threshold": 0.5}, {"macs": 0.7}, {"latency": 1.0, "search": "spectrum"},
     {"parameters": 0.5, "search": "spectrum"}],
)  # fmt: skip
def test_every_kind_of_budget_gives_a_model(
    budget: dict[str, Any], runs: dict[str, Path], tmp_path: Path
) -> None:
    found = exported(config(runs["trp"], tmp_path, **budget))
    create_model(f"local-dir:{tmp_path}")
    name = next(iter(budget))
    assert found["budget"] == {name: budget[name]}
    if name == "macs":
        assert found["exported"]["MACs"] <= 0.7 * found["dense"]["MACs"]


def test_the_table_says_what_stays_dense(runs: dict[str, Path], tmp_path: Path) -> None:
    settings = {"ranks": ["stages.1.branches.0.0:2"], "statistics": 0}
    text = table(exported(config(runs["dense"], tmp_path, **settings)))
    assert "resnet_nano on digits, channel factors" in text
    assert "weights stay dense" in text
    assert "latency at batch 64, ms" in text


def test_the_command_prints_a_table_and_names_its_file(
    runs: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    given = [str(runs["trp"]), str(tmp_path / "new"), "energy=0.3", "statistics=64"]
    threads = torch.get_num_threads()
    main(["export", *given, "latency_seconds=0"])
    assert torch.get_num_threads() == threads
    told = capsys.readouterr().out
    assert "parameters" in told and "export.json" in told


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (
            [],
            "exactly one of parameters, macs, latency, energy, threshold, ranks, case, got none",
        ),
        (["format=folder"], "got none; format=pt2 or format=onnx needs none"),
        (["format=tflite"], "format must be a list of folder or pt2 or onnx"),
        (["format=pt2", "tolerance=0"], "tolerance must be above 0, got 0"),
        (["format=pt2", "samples=0"], "samples must be at least 1, got 0"),
        (["energy=0.1", "macs=0.5"], "exactly one of .* got macs, energy"),
        (["parameters=1.5"], r"parameters must be a share of the dense model in \(0, 1\], got 1.5"),
        (["energy=0.1", "search=luck"], "search must be loss or spectrum, got 'luck'"),
        (["energy=0.1", "scheme=tucker"], "scheme must be channel or spatial"),
        (["energy=0.1", "batch_size=0"], "batch_size must be at least 1"),
        (["energy=0.1", "statistics=-1"], "statistics must be at least 0"),
        (["energie=0.1"], "energie"),
        (["ranks=[a.b:half]"], "ranks must hold NAME:RANK, such as .*, got 'a.b:half'"),
        (["run=a"], "run is now model; write model=a"),
        (["root=a"], "root is now data.root; write data.root=a"),
    ],
)
def test_an_argument_that_does_not_fit_is_one_line(given: list[str], named: str) -> None:
    with pytest.raises(RunError, match=named):
        call_with(ExportConfig, ["model=somewhere", "out=elsewhere", *given])


def test_ranks_by_name_are_read_from_the_command_line() -> None:
    given = ["model=a", "out=b", "ranks=[stages.1.branches.0.0:2,blocks.0.attn:weight:3]"]
    assert call_with(ExportConfig, given).ranks == [
        "stages.1.branches.0.0:2",
        "blocks.0.attn:weight:3",
    ]


def test_a_budget_out_of_reach_or_a_run_without_an_end_is_one_line(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="cannot be met"):
        exported(config(runs["dense"], tmp_path, parameters=0.01))
    with pytest.raises(RunError, match="holds no run that began and no saved model"):
        exported(config(tmp_path, tmp_path, energy=0.1))
    with pytest.raises(RunError, match="energy must be a share"):
        exported(config(runs["dense"], tmp_path, energy=1.0))


@pytest.mark.compiles
def test_a_run_without_a_budget_becomes_a_program_compared_on_its_test_fold(
    runs: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    main(["export", str(runs["trp"]), str(tmp_path), "format=[folder,pt2]", "latency_seconds=0"])
    told = capsys.readouterr().out
    assert "of the largest output" in told and str(tmp_path / "model.pt2") in told
    found = json.loads((tmp_path / "export.json").read_text())
    assert found["samples"] == "test fold of digits" and found["model"] == "resnet_nano"
    assert [row["batch"] for row in found["parity"]] == [1, 3, 8]
    program = torch.export.load(tmp_path / "model.pt2").module()
    model = create_model(f"local-dir:{tmp_path}").eval()
    x = torch.randn(5, *found["input"]["shape"][1:])
    assert_close_in_scale(program(x), model(x).detach(), 1e-5)


@pytest.mark.compiles
@pytest.mark.parametrize("name", tiered(["mlp_nano", "gpt_nano"], ["mlp_nano"]))
def test_a_registered_name_is_exported_with_random_inputs(name: str, tmp_path: Path) -> None:
    found = exported(ExportConfig(name, str(tmp_path), format=("pt2",), latency_seconds=0.0))
    assert found["samples"] == "random numbers"
    assert (tmp_path / "decoder.pt2").is_file() == name.startswith("gpt")


@pytest.mark.compiles
def test_a_model_cut_to_a_budget_is_compared_before_anything_is_written(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: Any
) -> None:
    whole = importlib.import_module("archzoo.zoo.share.export.export_model")
    monkeypatch.setattr(whole, "pt2_runner", lambda path: lambda x: (x.flatten(1)[:, :10],))
    settings = {"parameters": 0.6, "format": ("folder", "pt2")}
    with pytest.raises(RunError, match="as pt2 differs from the model by .* and tolerance=0.0001"):
        exported(config(runs["trp"], tmp_path, **settings))
    assert not list(tmp_path.glob("model.*"))
