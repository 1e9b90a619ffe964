"""The command certifies a finished run's best model, in the units of its data, and writes it."""

import json

import pytest
import torch
from archzoo.train.command_line.arguments import call_with
from archzoo.train.commands.__main__ import main
from archzoo.train.commands.certify import CertifyConfig, measure
from archzoo.train.data import data_sets
from archzoo.train.errors import RunError
from archzoo.zoo import create_model
from archzoo.zoo.certify.bounds import Bounds
from archzoo.zoo.certify.certify_model import certify

from ..small_runs import train

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A Lipschitz network that has learnt some of the digits."""
    folder = tmp_path_factory.mktemp("certify") / "run"
    train(folder, "model=ldlt_mlp_nano", "trainer.steps=60", "optim.lr=0.01")
    return folder


def settings(words: list[str]) -> CertifyConfig:
    return call_with(CertifyConfig, words)


def test_one_command_prints_and_writes_the_certificate(run, capsys):
    pytest.importorskip("matplotlib")
    main(["certify", str(run), "eps=[4,18]", "samples=40", "steps=5"])
    out = capsys.readouterr().out
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
    _, found = measure(settings([f"run={run}", "samples=20", "attack=false"]))
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
    whole = measure(settings(arguments))[1]
    local = measure(settings([*arguments, "method=local"]))[1]
    cube = measure(settings([*arguments, "method=local", "norm=linf"]))[1]
    assert (local.radius >= whole.radius).all() and local.relaxed is not None
    assert cube.norm == "linf" and (cube.radius <= local.radius).all()
    assert "radii in the L∞ norm" in str(cube) and "radii by local relaxation" in str(local)


def test_the_same_arguments_give_the_same_certificate(run):
    arguments = [f"run={run}", "samples=15", "steps=3", "estimate=false"]
    one, two = (measure(settings(arguments))[1] for _ in range(2))
    assert torch.equal(one.radius, two.radius)
    assert one.attacked_accuracy == two.attacked_accuracy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eps=[36]"], "run is missing"),
        (["nowhere"], "holds no config.yaml"),
        (["{run}", "eps=[-1]"], "eps must name radii"),
        (["{run}", "samples=0"], "samples must be at least 1"),
        (["{run}", "method=power"], "method must be"),
        (["{run}", "norm=linf"], "norm='linf' is for method='local'"),
        (["{run}", "epsilon=3"], "epsilon"),
        (["{run}", "--fast"], "arguments are key=value"),
    ],
)
def test_a_mistake_is_one_line(run, arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(["certify", *(argument.format(run=run) for argument in arguments)])
    said = capsys.readouterr()
    assert said.err.startswith("archzoo certify: ") and message in said.err
    assert said.err.count("\n") == 1 and not said.out


def test_a_refuted_certificate_is_written_and_ends_with_exit_code_1(run, monkeypatch, capsys):
    wrong = torch.full((10, 10), 1e-6, dtype=torch.float64)
    monkeypatch.setattr(Bounds, "pairs", lambda self: wrong)
    with pytest.raises(SystemExit) as stopped:
        main(["certify", str(run), "samples=8", "steps=5", "estimate=false", "plot=false"])
    said = capsys.readouterr()
    assert stopped.value.code == 1
    assert said.err.startswith("archzoo certify: the certificate is refuted")
    assert "refuted" in said.out
    found = json.loads((run / "certificate.json").read_text())
    assert found["lipschitz"] == "inf" and not found["rigorous"] and not any(found["radius"])
    assert found["attack_violations"] > 0 and found["refuted"]["first"]


def test_a_run_that_has_not_ended_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("data: {name: digits}\n")
    with pytest.raises(RunError, match="has not ended"):
        measure(settings([f"run={tmp_path}"]))
