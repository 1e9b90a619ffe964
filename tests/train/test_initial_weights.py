"""A run starts from the weights it is given, says what it cannot take, and reads them once."""

import json
import shutil

import pytest
import torch
from archzoo.train import assemble
from archzoo.train.errors import RunError
from archzoo.train.initial.initial_weights import build_from, initial_place, whole_place
from archzoo.zoo import create_model
from archzoo.zoo.share.save_load import save_model

from .command_line import TORCHRUN, call, command
from .small_runs import configure, equal_weights, train, weights

pytestmark = pytest.mark.long

STILL = ("optim.lr=1e-30", "optim.weight_decay=0")
"""Steps that no float32 feels."""

VIT = {"num_classes": 10, "img_size": 8, "in_chans": 1, "patch_size": 2}


def saved(folder, name="vit_nano", **options):
    return str(save_model(create_model(name, **{**VIT, **options}), folder / "saved"))


def built(place, name="vit_nano", classes=None, **options):
    return build_from(initial_place(place), name, {**VIT, **options}, classes)


def alike(model, other, but=()) -> bool:
    mine, theirs = model.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        torch.equal(mine[key], theirs[key]) for key in mine if not key.startswith(tuple(but))
    )


def test_a_run_that_learns_nothing_ends_with_the_weights_it_was_given(tmp_path, capsys):
    train(tmp_path / "one")
    train(tmp_path / "two", f"init={tmp_path / 'one'}", *STILL, "seed=3")
    assert alike(*(create_model(f"local-dir:{tmp_path / name}") for name in ("one", "two")))
    out = capsys.readouterr().out
    assert f"init: the weights of mlp_nano in {tmp_path / 'one'}\n" in out
    assert "head:" not in out
    told = json.loads((tmp_path / "two" / "init.json").read_text())
    assert told["model"] == "mlp_nano" and len(told["weights"]) == 64
    assert f"init: {tmp_path / 'one'}\n" in (tmp_path / "two" / "config.yaml").read_text()


def test_a_run_that_goes_on_needs_no_initial_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(tmp_path / "one")
    steps = ["init=one", "trainer.checkpoint_every=6", "trainer.max_time=10"]
    train(tmp_path / "whole", *steps)
    train(tmp_path / "cut", *steps)
    shutil.rmtree(tmp_path / "one")
    # As a kill after the first checkpoint would leave it.
    (tmp_path / "cut" / "checkpoints" / "last-1.pt").replace(
        tmp_path / "cut" / "checkpoints" / "last.pt"
    )
    (tmp_path / "cut" / "result.json").unlink()
    monkeypatch.setattr(assemble, "build_from", None)
    train(tmp_path / "cut", *steps, "resume=auto")
    assert equal_weights(tmp_path / "whole", tmp_path / "cut")
    with pytest.raises(RunError, match=r"^init: .*one is no model"):
        train(tmp_path / "new", *steps)
    with pytest.raises(RunError, match="init=null, but the run has init=|holds another run"):
        train(tmp_path / "cut", *steps[1:], "resume=auto")


def test_what_a_method_read_off_the_initial_weights_is_known_where_they_are_gone(tmp_path):
    train(tmp_path / "one")
    steps = [f"init={tmp_path / 'one'}", "trainer.checkpoint_every=6", "trainer.max_time=10"]
    steps += ["lowrank=welore", "lowrank.keep=0.8"]
    train(tmp_path / "whole", *steps)
    train(tmp_path / "cut", *steps)
    shutil.rmtree(tmp_path / "one")
    told = json.loads((tmp_path / "cut" / "init.json").read_text())["lowrank"]
    assert told["name"] == "welore" and told["ranks"]
    (tmp_path / "cut" / "checkpoints" / "last-1.pt").replace(
        tmp_path / "cut" / "checkpoints" / "last.pt"
    )
    (tmp_path / "cut" / "result.json").unlink()
    train(tmp_path / "cut", *steps, "resume=auto")
    assert equal_weights(tmp_path / "whole", tmp_path / "cut")


def test_a_head_of_another_size_is_started_anew_and_said(tmp_path, capsys):
    place = saved(tmp_path)
    model, facts = built(place, num_classes=7)
    assert facts["head"] == "head: 10 -> 7 classes, started anew"
    assert model.num_classes == 7 and model.head.out_features == 7
    source = create_model(f"local-dir:{place}")
    assert alike(model, source, but=("head.",))
    assert model.recipe.options["num_classes"] == 7
    ball = str(save_model(create_model("poincare_resnet_tiny"), tmp_path / "ball"))
    model, facts = build_from(initial_place(ball), "poincare_resnet_tiny", {"num_classes": 3})
    assert facts["head"] == "head: 10 -> 3 classes, started anew"
    assert alike(model, create_model(f"local-dir:{ball}"), but=("head.",))


def test_classes_of_other_names_keep_the_head_and_are_said(tmp_path):
    model = create_model("vit_nano", **VIT)
    model.follow_data(label_names=[f"a{i}" for i in range(10)])
    place = str(save_model(model, tmp_path / "named"))
    same, facts = built(place, classes=[f"a{i}" for i in range(10)])
    assert "head" not in facts and alike(same, model)
    other, facts = built(place, classes=[f"b{i}" for i in range(10)])
    assert facts["head"] == (
        "head: kept, though its classes were a0, a1, a2 and 7 more and are b0, b1, b2 and 7 more"
    )
    assert alike(other, model)


def test_rates_of_dropout_may_differ(tmp_path):
    place = saved(tmp_path, drop_rate=0.1)
    model, _ = built(place, drop_path_rate=0.2)
    assert model.recipe.options["drop_path_rate"] == 0.2
    assert alike(model, create_model(f"local-dir:{place}"))


def test_a_name_with_other_defaults_is_the_same_model_as_one_that_was_set(tmp_path):
    place = saved(tmp_path, residual="block_attnres")
    model, _ = built(place, "vit_nano_block_attnres")
    assert alike(model, create_model(f"local-dir:{place}"))


DIFFERENT = {
    "width": ("vit_nano", {"width": 32}, {}),
    "heads that no shape shows": ("vit_nano", {"num_heads": 4}, {"num_heads": 2}),
    "residual": ("vit_nano", {"residual": "attnres"}, {}),
    "image size": ("vit_nano", {"img_size": 16}, {}),
    "channels": ("vit_nano", {"in_chans": 3}, {}),
    "backbone": ("resnet_nano", {"patch_size": None}, {}),
    "curvature": ("poincare_resnet_tiny", {"curvature": 0.5, "patch_size": None}, {}),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_a_model_that_is_built_otherwise_is_refused_with_the_first_difference(case, tmp_path):
    name, options, source = DIFFERENT[case]
    base = name if case == "curvature" else "vit_nano"

    def without(options):
        return {key: value for key, value in options.items() if value is not None}

    given = without({**VIT, **({"patch_size": None} if case == "curvature" else {}), **source})
    place = str(save_model(create_model(base, **given), tmp_path / "saved"))
    with pytest.raises(RunError, match=f"^init={place}: the model there, {base}, ") as caught:
        build_from(initial_place(place), name, without({**VIT, **options}))
    said = str(caught.value)
    assert "where the recipe has" in said or "the recipe does not have" in said
    assert "\n" not in said


def test_a_language_model_of_another_vocabulary_is_refused(tmp_path):
    place = str(save_model(create_model("gpt_nano", vocab_size=300), tmp_path / "words"))
    with pytest.raises(RunError, match="300 where the recipe has 256"):
        build_from(initial_place(place), "gpt_nano", {})


def test_dense_weights_start_a_low_rank_method(tmp_path):
    place = saved(tmp_path)
    x = torch.randn(2, 1, 8, 8)
    source = create_model(f"local-dir:{place}").eval()
    model, _ = built(place, lowrank="maestro")
    assert model.lowrank is not None and model.recipe.options["lowrank"] == "maestro"
    with torch.no_grad():  # full-rank factors: the same matrices to the rounding of an SVD
        torch.testing.assert_close(model.eval()(x), source(x), rtol=1e-4, atol=1e-5)


def test_factors_of_the_same_method_are_taken_as_they_are_and_of_another_as_their_product(tmp_path):
    spec = {"name": "low_rank", "rank": 4}
    place = saved(tmp_path, lowrank=spec)
    source = create_model(f"local-dir:{place}").eval()
    same, _ = built(place, lowrank=spec)
    assert alike(same, source)
    x = torch.randn(2, 1, 8, 8)
    for lowrank in ({}, {"lowrank": "maestro"}):
        model, _ = built(place, **lowrank)
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(x), source(x), rtol=1e-4, atol=1e-5)
    cola = saved(tmp_path / "cola", lowrank="cola")
    with pytest.raises(RunError, match="an activation between their factors"):
        built(cola)


def test_a_shrunk_model_keeps_its_ranks_under_another_seed(tmp_path):
    source = create_model("vit_nano", **VIT, lowrank="maestro")
    for factors in source.lowrank.factors().values():
        factors.select(torch.arange(3))
    place = str(save_model(source, tmp_path / "saved"))
    model, _ = built(place, lowrank={"name": "maestro", "seed": 5, "learning_rate_ratio": 0.5})
    assert alike(model, source)


def test_a_low_rank_run_starts_from_a_dense_one(tmp_path):
    train(tmp_path / "dense")
    train(tmp_path / "low", f"init={tmp_path / 'dense'}", "lowrank=maestro")
    assert any("left" in key or "factor" in key for key in weights(tmp_path / "low"))
    train(tmp_path / "again", f"init={tmp_path / 'low'}", "lowrank=none")
    assert (tmp_path / "again" / "result.json").is_file()


def test_what_has_no_weights_is_refused_before_any_data_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "_read_data", None)
    with pytest.raises(RunError, match="init=mlp_nano is a registered name, which has no weights"):
        train(tmp_path / "run", "init=mlp_nano")
    with pytest.raises(RunError, match=r"^init: .*nowhere is no model"):
        train(tmp_path / "run", f"init={tmp_path / 'nowhere'}")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("a: 1\n")
    with pytest.raises(RunError, match="has not ended"):
        train(tmp_path / "run", f"init={tmp_path / 'begun'}")


def test_a_place_is_recorded_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert whole_place("runs/a") == whole_place("local-dir:runs/a") == str(tmp_path / "runs" / "a")
    assert whole_place("hf-hub:some/one") == "hf-hub:some/one"
    assert configure(f"init={tmp_path}").init == str(tmp_path)


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_start_from_the_same_weights(tmp_path):
    train(tmp_path / "one")
    arguments = command(f"init={tmp_path / 'one'}", *STILL, f"run_dir={tmp_path / 'two'}")
    done = call([*TORCHRUN, *arguments[1:]], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("init: the weights of mlp_nano") == 1
    assert alike(*(create_model(f"local-dir:{tmp_path / name}") for name in ("one", "two")))
