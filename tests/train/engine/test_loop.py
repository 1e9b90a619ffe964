"""The loop: what a run leaves behind, and that stopping changes nothing."""

import json
import math

import pytest
import torch
from archzoo.train.engine import loop
from archzoo.train.errors import RunError
from archzoo.train.run import run
from archzoo.zoo import create_model

from ...tiers import tiered
from ..data.sequences.protein_families import families, write_table
from ..small_runs import configure, equal_weights, rows, train, weights

VARIANTS = {
    "plain": [],
    "dropout and drop path": ["model.drop_rate=0.2", "model.drop_path_rate=0.2"],
    "mixup": ["trainer.mixup=0.4", "trainer.label_smoothing=0.1"],
    "accumulation and clipping": ["trainer.accumulate=2", "trainer.clip_grad=0.5"],
    "ema": ["callbacks=[ema]", "callbacks.ema.decay=0.9"],
    "bf16": ["trainer.amp=bf16"],
    "fp16": ["trainer.amp=fp16"],
    "muon": ["optim=muon", "model.residual=block_attnres"],
    "workers": ["trainer.workers=1"],
    "images": ["model=vit_nano_block_attnres", "model.patch_size=4", "model.depth=1"],
    "cutmix": ["model=resnet_nano", "trainer.cutmix=1.0", "trainer.mixup=0.2"],
}


class Stop(Exception):
    """Ends a run where a crash would."""


def stop_after(monkeypatch, step):
    after = loop.Trainer._after_step

    def stopping(self, loss, request):
        after(self, loss, request)
        if self.step == step:
            raise Stop

    monkeypatch.setattr(loop.Trainer, "_after_step", stopping)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_the_default_run_trains_validates_and_saves_in_mixed_precision(tmp_path, amp):
    steps = ["trainer.epochs=null", "trainer.steps=2", "trainer.evaluate_every=1"]
    quiet = ["trainer.progress=false", "logger=[csv]", f"trainer.amp={amp}"]
    metric = run(configure(*steps, *quiet, folder=tmp_path, base=[]))
    assert 0.0 <= metric <= 1.0
    assert json.loads((tmp_path / "config.json").read_text())["name"] == "resnet_nano_block_attnres"
    assert all(value.isfinite().all() for value in weights(tmp_path).values())


@pytest.mark.parametrize(
    "variant", tiered(VARIANTS, lambda variant: variant not in ("workers", "fp16", "cutmix"))
)
def test_a_run_that_stopped_and_went_on_equals_one_that_did_not(tmp_path, monkeypatch, variant):
    overrides = VARIANTS[variant]
    # Step 7 lies in the middle of an epoch of 39 batches and one step after a checkpoint.
    whole = train(tmp_path / "whole", *overrides)
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(Stop):
            train(tmp_path / "cut", *overrides)
    assert train(tmp_path / "cut", *overrides, "resume=auto") == whole
    assert equal_weights(tmp_path / "whole", tmp_path / "cut")
    first, second = (rows(tmp_path / name) for name in ("whole", "cut"))
    for a, b in zip(first, second, strict=True):
        del a["samples_per_second"], b["samples_per_second"]
        assert a == b


@pytest.mark.long
@pytest.mark.parametrize("overrides", [VARIANTS["plain"], VARIANTS["dropout and drop path"]])
def test_one_seed_gives_one_result_and_another_seed_another(tmp_path, overrides):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tmp_path / name, *overrides, f"seed={seed}")
    assert equal_weights(tmp_path / "a", tmp_path / "b")
    assert not equal_weights(tmp_path / "a", tmp_path / "c")


HIDDEN = ("model=encoder_nano", "data=masked_sequences", "data.root={}/proteins.csv")


@pytest.mark.long
@pytest.mark.parametrize("told", [("data.augment=false",), HIDDEN], ids=["images", "hidden tokens"])
def test_accumulated_gradients_are_those_of_the_larger_batch(told, tmp_path):
    # SGD without momentum is linear in the gradient; float32 sums differ in their order only.
    sequences = [("ab"[i % 2], one[0][: 30 + i]) for i, one in enumerate(families(100, 1))]
    write_table(tmp_path / "proteins.csv", sequences)
    common = [
        *(word.format(tmp_path) for word in told),
        "optim=sgd",
        "optim.name=momentum",
        "optim.options.momentum=0",
        "trainer.steps=1",
    ]
    train(tmp_path / "one", *common, "trainer.batch_size=64")
    train(tmp_path / "two", *common, "trainer.batch_size=16", "trainer.accumulate=4")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=1e-6)


def test_a_model_learns_one_batch_by_heart(tmp_path):
    config = configure(
        "trainer.steps=150", "trainer.batch_size=1257", "data.augment=false", "optim.lr=0.01",
        "trainer.evaluate_every=150", folder=tmp_path,
    )  # fmt: skip
    from archzoo.train.run import run

    run(config)
    losses = [float(row["loss"]) for row in rows(tmp_path) if row["split"] == "train"]
    assert losses[0] > 1.5
    assert losses[-1] < 0.01


def test_a_run_folder_holds_all_that_is_needed_to_trust_it(tmp_path):
    metric = train(tmp_path, "logger=[csv,tensorboard]")
    result = json.loads((tmp_path / "result.json").read_text())
    assert metric == result["validation"]["accuracy"]
    assert set(result["test"]) == {"loss", "accuracy"}
    assert json.loads((tmp_path / "data.json").read_text())
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert "batch_size: 32" in (tmp_path / "config.yaml").read_text()
    assert list((tmp_path / "tensorboard").glob("events.*"))
    splits = [row["split"] for row in rows(tmp_path)]
    assert splits == ["train", "train", "validation", "train", "validation", "test"][:1] + [
        "validation" if s == "validation" else s for s in splits[1:]
    ]
    assert splits.count("validation") == 2
    assert splits.count("test") == 1
    assert not list(tmp_path.rglob("*.unfinished"))


def test_the_saved_model_is_the_best_one_and_gives_the_tested_accuracy(tmp_path):
    from archzoo.train.data import data_sets

    train(tmp_path)
    model = create_model(f"local-dir:{tmp_path}").eval()
    fold = data_sets.build("digits").test
    inputs, targets = fold.__getitems__([(0, i) for i in range(len(fold))])
    with torch.no_grad():
        accuracy = (model(inputs).argmax(-1) == targets).double().mean()
    result = json.loads((tmp_path / "result.json").read_text())
    assert float(accuracy) == pytest.approx(result["test"]["accuracy"], abs=1e-12)


@pytest.mark.long
def test_ema_evaluates_the_average_and_not_the_weights(tmp_path):
    train(tmp_path, "callbacks=[ema]", "callbacks.ema.decay=0.9", "callbacks.ema.warmup=false")
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    average = state["callbacks"][0]
    best = create_model(f"local-dir:{tmp_path}").state_dict()
    assert all(torch.equal(best[key], average[key]) for key in average)
    assert not torch.equal(best["head.weight"], state["model"]["head.weight"])


@pytest.mark.long
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    cross_entropy = loop.loss_for(torch.nn.Linear(1, 1))
    calls = []

    def poisoned(*arguments):
        calls.append(1)
        return cross_entropy(*arguments) * (math.nan if len(calls) > 8 else 1.0)

    monkeypatch.setattr(loop, "loss_for", lambda _model: poisoned)
    with pytest.raises(RunError, match="the loss is nan at step 8; .*Lower optim.lr=0.001 or set"):
        train(tmp_path)
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert state["step"] == 6
    assert all(p.isfinite().all() for p in state["model"].values())


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    train(tmp_path)
    before = (tmp_path / "checkpoints" / "last.pt").read_bytes()
    with pytest.raises(RunError, match="holds a run already; add resume=auto"):
        train(tmp_path)
    assert (tmp_path / "checkpoints" / "last.pt").read_bytes() == before


@pytest.mark.long
def test_a_run_that_ended_is_not_done_again(tmp_path, capsys):
    metric = train(tmp_path)
    capsys.readouterr()
    assert train(tmp_path, "resume=auto") == metric
    assert "ended before" in capsys.readouterr().out


@pytest.mark.long
def test_another_model_cannot_go_on_from_a_checkpoint(tmp_path, monkeypatch):
    stop_after(monkeypatch, 7)
    with pytest.raises(Stop):
        train(tmp_path / "a")
    with pytest.raises(RunError, match="model.name=mlp_tiny, but the run has model.name=mlp_nano"):
        train(tmp_path / "b", "model=mlp_tiny", f"resume={tmp_path / 'a'}")


@pytest.mark.long
def test_auto_goes_on_in_the_folder_that_an_earlier_process_chose(tmp_path, monkeypatch):
    # As with the default run_dir, which holds the time and is another one after a crash.
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(Stop):
            train(tmp_path / "09-00", "model.residual={name: block_attnres, block_size: 2}")
    train(tmp_path / "10-00", "model.residual={name: block_attnres, block_size: 2}", "resume=auto")
    assert (tmp_path / "09-00" / "result.json").exists()
    assert not (tmp_path / "10-00").exists()
    train(tmp_path / "11-00", "seed=5", "resume=auto")
    assert (tmp_path / "11-00" / "result.json").exists()


@pytest.mark.long
def test_a_disk_that_refuses_the_best_weights_ends_the_run_with_a_sentence(tmp_path, monkeypatch):
    from archzoo.train.engine.saved import best_weights

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(best_weights, "save_weights", refuse)
    with pytest.raises(RunError, match="No space left on device; what was saved before is intact"):
        train(tmp_path)


@pytest.mark.long
def test_text_is_scored_in_bits_per_byte_over_every_byte(tmp_path):
    source = tmp_path / "text"
    source.mkdir()
    for i in range(40):
        (source / f"{i}.txt").write_bytes(bytes((j * i) % 251 for j in range(300)))
    train(
        tmp_path / "run", "model=gpt_nano", "model.depth=1", "data=bytes", f"data.path={source}",
        "data.pattern=*.txt", "data.context_length=16", "trainer.batch_size=8",
        "callbacks=[sample]", "callbacks.sample.length=20",
    )  # fmt: skip
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    for fold in (result["validation"], result["test"]):
        assert fold["bits_per_byte"] == pytest.approx(fold["loss"] / math.log(2), rel=1e-12)
    sample = (tmp_path / "run" / "sample.txt").read_text()
    assert sample.startswith("def ")
