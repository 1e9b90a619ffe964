"""The command certifies a model on a test fold, in pixels, and writes it where its folder is."""

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
from archzoo.zoo.share.pretrained import SHIPPED, weights_cards
from archzoo.zoo.share.save_load import save_model

from ..small_runs import train
from ..turned_digits import turned_digits as turned_digits

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
    _, found = measure(settings([f"model={run}", "samples=20", "attack=false"]))
    model = create_model(f"local-dir:{run}")
    bare = certify(model, attack=False, estimate=False)
    std = data_sets.build("digits").std
    assert std is not None
    # Each channel by its own std; the digits have one.
    assert len(std) == 1
    assert found.lipschitz == pytest.approx(bare.lipschitz / min(std), rel=1e-6)
    assert found.radius is not None and len(found.radius) == 20


def test_radii_around_samples_are_no_smaller_and_name_their_norm(run):
    arguments = [f"model={run}", "samples=6", "attack=false", "estimate=false"]
    whole = measure(settings(arguments))[1]
    local = measure(settings([*arguments, "method=local"]))[1]
    cube = measure(settings([*arguments, "method=local", "norm=linf"]))[1]
    assert (local.radius >= whole.radius).all() and local.relaxed is not None
    assert cube.norm == "linf" and (cube.radius <= local.radius).all()
    assert "radii in the L∞ norm" in str(cube) and "radii by local relaxation" in str(local)


QUICK = ("attack=false", "estimate=false", "plot=false")


def certified(capsys, *words: str) -> tuple[dict, list[str]]:
    """What the command found and printed; it is run twice, for JSON and for a reader."""
    main(["certify", *words, *QUICK, "--json"])
    found = json.loads(capsys.readouterr().out)
    main(["certify", *words, *QUICK])
    return found, capsys.readouterr().out.splitlines()


def test_pretrained_weights_have_no_folder_and_are_certified_as_their_card_says(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shipped = sorted(SHIPPED.rglob("*"))
    card = weights_cards()["ldlt_mlp_nano/breast_cancer"]
    words = ("pretrained:ldlt_mlp_nano", "eps=[36,72]")
    found, lines = certified(capsys, *words)
    assert lines[0] == (
        f"ldlt_mlp_nano on tabular, 114 test samples; the card says "
        f"{100 * card.metrics['accuracy']:.2f} %"
    )
    for row in found["certified_accuracy"]:
        said = card.certified[f"{round(255 * row['eps'])}/255"]
        assert row["accuracy"] == pytest.approx(said, abs=0.02)  # one of 114 samples is 0.009
    assert found["tested"] == card.metrics["accuracy"] and found["written"] is None
    assert lines[-1].startswith("nothing was written, since pretrained:ldlt_mlp_nano has no folder")
    assert not list(tmp_path.iterdir()) and sorted(SHIPPED.rglob("*")) == shipped
    kept, lines = certified(capsys, *words, "folder=new/place")
    assert kept.pop("written") == lines[-1] == "new/place/certificate.json"
    written = json.loads((tmp_path / lines[-1]).read_text())
    assert {**written, "seconds": 0} == {**kept, "seconds": 0}
    assert [path.name for path in (tmp_path / "new" / "place").iterdir()] == ["certificate.json"]


def test_a_saved_model_keeps_its_certificate_in_its_folder(run, tmp_path, capsys):
    saved = save_model(create_model(f"local-dir:{run}"), tmp_path / "saved")
    own, _ = certified(capsys, str(run), "samples=20", f"folder={tmp_path / 'own'}")
    for text in (saved, f"local-dir:{saved}"):
        found, lines = certified(capsys, str(text), "samples=20", "data=digits")
        assert found["radius"] == own["radius"] and found["tested"] is None
        assert lines[0] == "ldlt_mlp_nano on digits, 20 test samples"
        assert lines[-1] == str(saved / "certificate.json")
        assert json.loads((saved / "certificate.json").read_text())["radius"] == own["radius"]
        (saved / "certificate.json").unlink()
    assert {path.name for path in saved.iterdir()} == {"config.json", "model.safetensors"}


def test_classes_in_another_order_and_other_statistics_leave_radii_in_pixels(
    run, turned_digits, tmp_path, capsys
):
    own, _ = certified(capsys, str(run), "samples=20", f"folder={tmp_path / 'own'}")
    before = (run / "certificate.json").read_bytes()
    found, lines = certified(capsys, str(run), "samples=20", f"data={turned_digits}")
    assert found["lipschitz"] == own["lipschitz"]
    assert found["correct"] == own["correct"] and any(own["correct"])
    # Pixels came through other float32 numbers.
    assert found["radius"] == pytest.approx(own["radius"], rel=1e-4, abs=1e-6)
    assert found["data"] == "turned" and found["tested"] is None
    assert found["written"] is None and (run / "certificate.json").read_bytes() == before
    assert lines[-1].startswith(f"nothing was written, since {run} keeps what was measured on its")


def test_a_name_is_certified_untrained_and_says_so(capsys):
    found, lines = certified(capsys, "ldlt_mlp_nano", "data=digits", "samples=3")
    assert not found["trained"] and lines[0].endswith("3 test samples; its weights are untrained")


def test_the_same_arguments_give_the_same_certificate(run):
    arguments = [f"model={run}", "samples=15", "steps=3", "estimate=false"]
    one, two = (measure(settings(arguments))[1] for _ in range(2))
    assert torch.equal(one.radius, two.radius)
    assert one.attacked_accuracy == two.attacked_accuracy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eps=[36]"], "model is missing"),
        (["run={run}"], "run is now model; write model={run}"),
        (["{run}", "root=DIR"], "root is now data.root; write data.root=DIR"),
        (["nowhere"], "nowhere is no model; there is no such folder"),
        (["ldlt_mlp_nano"], "ldlt_mlp_nano does not say which data to measure it on"),
        (["pretrained:gpt_nano"], "reads bytes; samples of kind tokens have no radius to move in"),
        (["{run}", "data=bytes"], "reads bytes; samples of kind tokens have no radius to move in"),
        (["{run}", "data.root=DIR"], "digits takes no keyword 'root'"),
        (["pretrained:ldlt_mlp_nano", "folder={run}"], "folder={run} holds a run"),
        (["{run}", "folder={run}/config.yaml"], "config.yaml cannot be written to; name another"),
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
    assert said.err.startswith("archzoo certify: ") and message.format(run=run) in said.err
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
        measure(settings([f"model={tmp_path}"]))
