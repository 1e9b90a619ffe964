"""The command certifies a finished run's best model, in the units of its data, and writes it."""

import json
import sys

import pytest
import torch
from archzoo.train.commands import certify as command
from archzoo.train.commands.certify import measure, read_arguments
from archzoo.train.data import data_sets
from archzoo.train.errors import RunError
from archzoo.zoo import create_model
from archzoo.zoo.certify.bounds import Bounds
from archzoo.zoo.certify.certify_model import certify

from ..small_runs import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A Lipschitz network that has learnt some of the digits."""
    folder = tmp_path_factory.mktemp("certify") / "run"
    train(folder, "model=ldlt_mlp_nano", "trainer.steps=60", "optim.lr=0.01")
    return folder


def call(monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["archzoo-certify", *arguments])
    command.main()
    return capsys.readouterr().out


def test_one_command_prints_and_writes_the_certificate(run, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    out = call(monkeypatch, capsys, f"run={run}", "eps=[4,18]", "samples=40", "steps=5")
    found = json.loads((run / "certificate.json").read_text())
    assert (found["model"], found["data"], found["samples"]) == ("ldlt_mlp_nano", "digits", 40)
    assert found["rigorous"] and found["attack_violations"] == 0
    assert 0 < found["lower_bound"] <= found["lipschitz"]
    four, eighteen = found["certified_accuracy"]
    assert four["eps"] == pytest.approx(4 / 255)
    for certified, attacked in zip(
        found["certified_accuracy"], found["attacked_accuracy"], strict=True
    ):
        assert certified["accuracy"] <= attacked["accuracy"] <= found["clean_accuracy"]
    assert four["accuracy"] >= eighteen["accuracy"] and four["accuracy"] > 0
    assert out.splitlines()[0].startswith("ldlt_mlp_nano on digits, 40 test samples")
    assert out.splitlines()[-1] == str(run / "certificate.json")
    assert (run / "certificate.png").read_bytes().startswith(b"\x89PNG")
    assert not list(run.rglob("*.unfinished"))


def test_radii_are_in_pixels(run):
    _, found = measure(read_arguments([f"run={run}", "samples=20", "attack=false"]))
    model = create_model(f"local-dir:{run}")
    bare = certify(model, attack=False, estimate=False)
    std = data_sets.build("digits").std
    assert std is not None
    # Each channel by its own std; the digits have one.
    assert len(std) == 1
    assert found.lipschitz == pytest.approx(bare.lipschitz / min(std), rel=1e-6)
    assert found.radius is not None and len(found.radius) == 20


def test_radii_around_samples_are_no_smaller_and_name_their_norm(run):
    arguments = [f"run={run}", "samples=6", "attack=false", "estimate=false"]
    whole = measure(read_arguments(arguments))[1]
    local = measure(read_arguments([*arguments, "method=local"]))[1]
    cube = measure(read_arguments([*arguments, "method=local", "norm=linf"]))[1]
    assert (local.radius >= whole.radius).all() and local.relaxed is not None
    assert cube.norm == "linf" and (cube.radius <= local.radius).all()
    assert "radii in the L∞ norm" in str(cube) and "radii by local relaxation" in str(local)


def test_the_same_arguments_give_the_same_certificate(run):
    arguments = [f"run={run}", "samples=15", "steps=3", "estimate=false"]
    one, two = (measure(read_arguments(arguments))[1] for _ in range(2))
    assert torch.equal(one.radius, two.radius)
    assert one.attacked_accuracy == two.attacked_accuracy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eps=[36]"], "run is missing"),
        (["run=nowhere"], "holds no config.yaml"),
        (["run={run}", "eps=[-1]"], "eps must name radii"),
        (["run={run}", "samples=0"], "samples must be at least 1"),
        (["run={run}", "method=power"], "method must be"),
        (["run={run}", "norm=linf"], "norm='linf' is for method='local'"),
        (["run={run}", "epsilon=3"], "epsilon"),
        (["run={run}", "--fast"], "arguments are key=value"),
    ],
)
def test_a_mistake_is_one_line(run, arguments, message, monkeypatch, capsys):
    filled = [argument.format(run=run) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["archzoo-certify", *filled])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    text = str(stopped.value.code)
    assert text.startswith("archzoo-certify: ") and message in text and "\n" not in text
    assert not capsys.readouterr().out


def test_a_refuted_certificate_is_written_and_ends_with_exit_code_1(run, monkeypatch, capsys):
    wrong = torch.full((10, 10), 1e-6, dtype=torch.float64)
    monkeypatch.setattr(Bounds, "pairs", lambda self: wrong)
    arguments = [f"run={run}", "samples=8", "steps=5", "estimate=false", "plot=false"]
    monkeypatch.setattr(sys, "argv", ["archzoo-certify", *arguments])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert str(stopped.value.code).startswith("archzoo-certify: the certificate is refuted")
    assert "refuted" in capsys.readouterr().out
    found = json.loads((run / "certificate.json").read_text())
    assert found["lipschitz"] == "inf" and not found["rigorous"] and not any(found["radius"])
    assert found["attack_violations"] > 0 and found["refuted"]["first"]


def test_a_run_that_has_not_ended_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("data: {name: digits}\n")
    with pytest.raises(RunError, match="has not ended"):
        measure(read_arguments([f"run={tmp_path}"]))


def test_help_lists_every_key(monkeypatch, capsys):
    out = call(monkeypatch, capsys, "--help")
    assert all(f"{key}:" in out for key in ("run", "eps", "attack", "samples", "root"))
