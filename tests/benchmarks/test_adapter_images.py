"""Adapters on images: what is compared at which size, and when a claim is reproduced."""

import pytest
import torch
from archzoo.train.callbacks import callbacks
from archzoo.zoo import adapt, create_model
from archzoo.zoo.axes.adapters import presets


@pytest.fixture
def images(script, monkeypatch):
    """The comparison, whose callback is known in this test only."""
    monkeypatch.setattr(callbacks, "_entries", dict(callbacks._entries))
    return script("adapter_images")


@pytest.mark.parametrize("network", ["resnet", "poincare", "ldlt"])
def test_every_weight_takes_part_at_about_the_numbers_of_a_lora(images, script, network):
    subject = images.SUBJECTS[network]
    task = images.task_of(subject, "turned")
    names = ("lora", "lora_xs", "svfit", "tlora", "randlora")
    sizes = script("adapter_runs").sized(task, subject.rank, names)
    trained, targets = {}, {}
    for name in names:
        with torch.device("meta"):
            model = create_model(subject.model, **task.options)
        targets[name] = set(adapt(model, name, **sizes[name]).targets)
        trained[name] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    for name in ("lora_xs", "randlora"):
        assert targets[name] == targets["lora"]
        assert 0.6 < trained[name] / trained["lora"] < 1.6
    assert targets["svfit"] == targets["lora"] and trained["svfit"] < trained["lora"]


def test_the_vision_transformer_is_adapted_by_every_preset_that_fits(images):
    found = images.overrides(images.SUBJECTS["vit"], "turned")
    assert {told[0].removeprefix("adapter=") for told in found.values()} >= set(presets.names())


def test_a_head_is_trained_where_the_classes_are_others_and_only_there(images):
    for network, subject in images.SUBJECTS.items():
        for which in subject.tasks:
            told = images.overrides(subject, which)
            trained = [any("train_also" in one for one in told[name]) for name in told
                       if told[name][0].startswith("adapter=")]  # fmt: skip
            assert set(trained) == {which == "new"}, (network, which)


def test_methods_are_compared_seed_by_seed(images, monkeypatch):
    monkeypatch.setattr(images, "unadapted", lambda *_: [0.2, 0.2, 0.2])
    monkeypatch.setattr(images, "COUNTED", None)

    def adapted(*shares):
        same = {"step_seconds": 1.0, "adapter": {"trained": 5, "optimizer_bytes": 40}}
        runs = [{"test": {"accuracy": share}, "validation": {"accuracy": share}, **same}
                for share in shares]  # fmt: skip
        return images.Adapted(("adapter=any",), 0.01, {0.003: 0.1, 0.01: 0.2, 0.03: 0.1}, runs)

    # Bases differ by ten points, methods by one: only pairs tell.
    found = {"lora": adapted(0.6, 0.7, 0.8), "tlora": adapted(0.61, 0.712, 0.808),
             "svfit": adapted(0.58, 0.65, 0.76), "sara": adapted(0.59, 0.71, 0.8)}  # fmt: skip
    rows, bars = images.judged_task("resnet", "turned", found)
    claims = {row["claim"]: row for row in rows if "claim" in row}
    assert claims["tlora better than lora"]["reproduced"]
    assert claims["sara as good as lora"]["reproduced"]
    share = claims["svfit 90 % of the gain of lora"]
    assert share["found"].startswith("92.8 ±") and share["reproduced"]
    (told,) = (row for row in rows if row.get("method") == "tlora")
    assert told["accuracy"] == pytest.approx(71.0) and told["gain"] == pytest.approx(51.0)
    assert told["against lora"].startswith("better by 1.0000")
    (bar,) = bars
    assert bar.met and bar.figure == pytest.approx(46.333, abs=1e-3)


@pytest.mark.parametrize(("degrees", "components"), [(180, 1), (90, 49)])
def test_half_a_turn_is_one_kronecker_product_and_a_quarter_is_as_many_as_pixels(
    degrees, components
):
    pixels = torch.eye(49, dtype=torch.float64).unflatten(1, (7, 7))
    turn = pixels.rot90(degrees // 90, (1, 2)).flatten(1).T
    pairs = turn.unflatten(1, (7, 7)).unflatten(0, (7, 7)).transpose(1, 2)  # (i1 j1), (i2 j2)
    assert torch.linalg.matrix_rank(pairs.flatten(2).flatten(0, 1)) == components
