"""The command measures a model on a test fold, says what, and refuses what it cannot."""

import json
import re

import pytest
import torch
from archzoo.train.command_line.arguments import call_with
from archzoo.train.commands.__main__ import main
from archzoo.train.commands.robustness import RobustnessConfig, measure
from archzoo.train.data import data_sets
from archzoo.train.errors import RunError
from archzoo.train.measures.ood import SCORES
from archzoo.train.measures.pixels import FromPixels, pixel_batches
from archzoo.train.measures.robust_accuracy import adversarial_accuracy, correct
from archzoo.train.measures.robustness_table import table
from archzoo.zoo import create_model
from archzoo.zoo.share.save_load import save_model

from ..small_runs import train
from ..turned_digits import turned_digits as turned_digits

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network that has learnt the digits: 400 steps, three seconds."""
    folder = tmp_path_factory.mktemp("robustness") / "run"
    train(folder, "trainer.steps=400", "trainer.evaluate_every=100", "optim.lr=0.01")
    return folder


def settings(words: list[str]) -> RobustnessConfig:
    return call_with(RobustnessConfig, words)


def test_one_command_measures_the_best_model_on_the_whole_test_fold(run, capsys):
    main(["robustness", str(run), "eps=[32,8]", "steps=10"])
    out = capsys.readouterr().out
    found = json.loads((run / "robustness.json").read_text())
    reported = json.loads((run / "result.json").read_text())["test"]["accuracy"]
    assert (found["model"], found["data"], found["samples"]) == ("mlp_nano", "digits", 360)
    # Pixels are recovered to a rounding of float32, which no digit here is close enough to feel.
    assert found["clean"] == pytest.approx(reported, abs=1e-12)
    assert [row["eps"] for row in found["attacked"]] == [8, 32]
    eight, thirty = (row["accuracy"] for row in found["attacked"])
    assert found["clean"] > 0.9 and 0 <= thirty < eight < found["clean"]
    assert {row["set"] for row in found["out"]} == {"rotated", "noise_gaussian", "noise_uniform"}
    assert len(found["out"]) == 3 * len(SCORES)
    for row in found["out"]:
        assert row["images"] == 360
        assert all(0 <= row[key] <= 1 for key in ("fpr95", "auroc", "aupr"))
    lines = out.splitlines()
    cells = [line.split() for line in lines]
    assert ["clean", f"{100 * found['clean']:.2f}"] in cells
    assert ["32", f"{100 * thirty:.2f}"] in cells
    assert lines[-1] == str(run / "robustness.json")
    assert not list(run.rglob("*.unfinished"))


def test_the_figures_are_those_of_the_functions(run):
    found = measure(settings([f"model={run}", "eps=[16]", "norm=l2", "steps=5", "out=[]"]))
    splits = data_sets.build("digits")
    model = FromPixels(create_model(f"local-dir:{run}"), splits.mean, splits.std).eval()
    batches = list(pixel_batches(splits.test, splits.mean, splits.std))
    direct = adversarial_accuracy(model, batches, [16 / 255], norm="l2", steps=5)
    assert found["attacked"] == [{"eps": 16, "accuracy": direct.attacked[0]}]
    assert found["out"] == []
    with torch.no_grad():
        right = torch.cat([correct(model(x), y) for x, y in batches])
    assert found["clean"] == right.double().mean().item()


def test_the_same_arguments_give_the_same_figures(run):
    arguments = [f"model={run}", "samples=50", "eps=[24]", "steps=3", "restarts=2", "out=[noise]"]
    one, two = (measure(settings(arguments)) for _ in range(2))
    other = measure(settings([*arguments, "seed=1"]))
    for found in one, two, other:
        assert found.pop("seconds") > 0
        assert found["samples"] == 50
    assert one == two
    assert one["out"] != other["out"]


def test_classes_in_another_order_and_other_statistics_leave_attacks_in_pixels(
    run, turned_digits, tmp_path, capsys
):
    words = ["samples=60", "eps=[16]", "steps=3", "out=[rotated]", "dtype=float64"]
    own = measure(settings([f"model={run}", *words]))
    saved = save_model(create_model(f"local-dir:{run}"), tmp_path / "saved")
    main(["robustness", str(saved), f"data={turned_digits}", *words, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["clean"], found["attacked"]) == (own["clean"], own["attacked"])
    for row, other in zip(found["out"], own["out"], strict=True):
        assert row["mean"] == pytest.approx(other["mean"], rel=1e-4)
    assert found["data"] == "turned" and found["tested"] is None
    assert found.pop("written") == str(saved / "robustness.json")
    assert json.loads((saved / "robustness.json").read_text()) == found


@pytest.mark.parametrize("method", ["fgsm", "pgd", "apgd"])
def test_every_method_says_in_the_table_what_it_was(run, method):
    arguments = [f"model={run}", "samples=20", f"method={method}", "dtype=float64", "out=[]"]
    found = measure(settings(arguments))
    expected = {
        "fgsm": "FGSM in L∞, cross-entropy loss, 1 step, 1 restart",
        "pgd": "PGD in L∞, margin loss, 40 steps, 1 restart",
        "apgd": "APGD in L∞, margin loss, 40 steps, 1 restart",
    }
    first = table(found).splitlines()[0]
    assert first == f"{expected[method]}, pixels held in [0, 1], float64"


def test_a_table_is_attacked_without_a_box(tmp_path):
    train(tmp_path, "data=tabular")
    found = measure(settings([f"model={tmp_path}", "norm=l2", "eps=[36]", "out=[]"]))
    assert found["attack"]["box"] is None
    assert found["attacked"][0]["accuracy"] <= found["clean"]
    with pytest.raises(RunError, match=r"tabular gives features; write out=\[\]"):
        measure(settings([f"model={tmp_path}"]))


BAD = {
    "epz: there is no key 'epz'; did you mean 'eps'": ["{run}", "epz=[1]"],
    "model is missing; write model=": ["eps=[1]"],
    "run is now model; write model=a=b": ["run=a=b"],
    "root is now data.root; write data.root=DIR": ["{run}", "root=DIR"],
    "elsewhere is no model; there is no such folder": ["{run}/elsewhere"],
    "samples of kind nodes have no radius to move in": ["pretrained:poincare_embedding"],
    "holds a run, whose own figures lie there": ["mlp_nano", "data=digits", "folder={run}"],
    r"eps must be a list of numbers, got \['a'\]": ["{run}", "eps=[a]"],
    "eps must name radii of at least 0": ["{run}", "eps=[-1]"],
    r"steps=1,2: several values are written \[a,b\]": ["{run}", "steps=1,2"],
    "steps must be a whole number or null, got 'many'": ["{run}", "steps=many"],
    "samples must be at least 1, got 0": ["{run}", "samples=0"],
    "norm must be linf or l2, got 'l1'": ["{run}", "norm=l1"],
    "loss must be null or margin or cross_entropy, got 'dlr'": ["{run}", "loss=dlr"],
    "temperature must be above 0, got 0": ["{run}", "temperature=0"],
    "fgsm takes one step once": ["{run}", "method=fgsm", "restarts=2"],
    "digits is what the model is measured on": ["{run}", "out=[digits]"],
    "no out-set 'noize'; did you mean 'noise'": ["{run}", "out=[noize]"],
    "mnist takes no keyword 'path'": ["{run}", "out=[{{name: mnist, path: x}}]"],
    "digits takes no keyword 'root'": ["{run}", "data.root=elsewhere"],
    "--multirun: no such flag; arguments are key=value": ["{run}", "--multirun"],
}


@pytest.mark.parametrize(("message", "arguments"), BAD.items())
def test_a_mistake_is_one_line_that_says_how_to_mend_it(message, arguments, run, capsys):
    with pytest.raises(SystemExit):
        main(["robustness", *(argument.format(run=run) for argument in arguments)])
    assert re.match(f"archzoo robustness: .*{message}.*\n$", capsys.readouterr().err)


def copied(run, folder):
    for name in ("config.yaml", "config.json", "result.json", "model.safetensors"):
        (folder / name).write_bytes((run / name).read_bytes())
    return folder


DAMAGES = {
    "has not ended; finish it with resume=": ("result.json", None),
    r"result.json is damaged or of another run: (Expecting|Unterminated)": (
        "result.json",
        b'{"test',
    ),
    "is damaged: .*": ("config.yaml", b"data: [unclosed"),
    "is damaged: 'data'": ("config.yaml", b"seed: 0"),
    "no data set named 'digitz'; did you mean 'digits'": ("config.yaml", b"data: {name: digitz}"),
    "no saved model in": ("config.json", None),
    "model.safetensors is damaged": ("model.safetensors", b"not weights"),
}


@pytest.mark.parametrize(("message", "damage"), DAMAGES.items())
def test_a_run_folder_that_is_no_finished_run_is_named(message, damage, run, tmp_path):
    name, content = damage
    folder = copied(run, tmp_path)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(RunError, match=message):
        measure(settings([f"model={folder}"]))
    assert not (folder / "robustness.json").exists()


def test_a_model_of_text_has_no_radius(run, tmp_path):
    folder = copied(run, tmp_path)
    (folder / "config.yaml").write_text("data: {name: bytes}")
    with pytest.raises(RunError, match="samples of kind tokens have no radius to move in"):
        measure(settings([f"model={folder}"]))
