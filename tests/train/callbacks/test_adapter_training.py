"""Adapters in the trainer: beside the weights of another run, which stay, and go on as any run."""

import dataclasses
import json

import pytest
import torch
from archzoo.train.check import check_run
from archzoo.train.engine import loop
from archzoo.train.errors import RunError
from archzoo.train.run import run
from archzoo.zoo import create_model, load_adapter, save_model
from archzoo.zoo.axes.adapters import make_adapter, presets

from ...tiers import tiered
from ..small_runs import configure, train, weights

pytestmark = pytest.mark.long

# Settings under which something happens within a dozen steps of an MLP of 32 units.
EAGER = {
    "bone": {"rank": 4},
    "codyra": {"rank": 4, "shrink": 0.5, "stages": 3},
    "smora": {"rank": 8},
    "remix": {"rank": 2, "adapters": 3},
    "increlora": {"target_rank": 3, "warmup": 2, "grow_every": 2},
}
# Those that keep the weight that they stand beside.
WHOLE = [name for name in presets.names() if make_adapter(name).kept_whole]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "run"
    train(folder)
    return folder


def chosen(name, folder):
    given = [f"adapter.{key}={value}" for key, value in EAGER.get(name, {}).items()]
    more = ["trainer.accumulate=2", "trainer.batch_size=16"] if name == "remix" else []
    return [f"adapter={name}", f"init={folder}", *given, *more]


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("name", tiered(WHOLE, ("lora_sb",)))
def test_a_run_trains_beside_the_weights_of_another_which_keep_their_bits(name, base, tmp_path):
    train(tmp_path / "run", *chosen(name, base))
    before, after = create_model(f"local-dir:{base}"), create_model(f"local-dir:{tmp_path / 'run'}")
    assert after.recipe.options["adapter"]
    fixed = {n.removesuffix(".extra.weight"): p for n, p in after.lowrank.fixed().items()
             if n.endswith("extra.weight")}  # fmt: skip
    assert fixed and fixed.keys() == after.lowrank.targets.keys()
    for place, weight in fixed.items():
        assert torch.equal(weight, before.get_submodule(place).weight)
    for key, value in before.named_parameters():
        if key in dict(after.named_parameters()):
            assert torch.equal(value, after.get_parameter(key)), key
    alone = create_model(f"local-dir:{base}")
    load_adapter(alone, tmp_path / "run" / "adapter.safetensors")
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(alone.eval()(images), after.eval()(images))
    told = result_of(tmp_path / "run")["adapter"]
    trained = [p for p in after.parameters() if p.requires_grad]
    assert told["trained"] == sum(p.numel() for p in trained) < told["dense_parameters"]
    assert told["optimizer_bytes"] >= 8 * told["trained"] and told["step_ms"] > 0


class Stop(Exception):
    """Ends a run where a crash would."""


@pytest.mark.parametrize("name", ["dylora", "flexora"])
def test_a_run_that_stopped_goes_on_without_the_weights_it_started_from(
    name, base, tmp_path, monkeypatch
):
    given = configure(*chosen(name, base), folder=tmp_path / "any")

    def into(folder, config, resume=None):
        return run(dataclasses.replace(config, run_dir=str(folder), resume=resume))

    whole = into(tmp_path / "whole", given)
    after = loop.Trainer._after_step

    def stopping(self, loss, request):
        after(self, loss, request)
        if self.step == 8:
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(loop.Trainer, "_after_step", stopping)
        into(tmp_path / "cut", given)
    assert into(tmp_path / "cut", given, "auto") == whole
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.slow
def test_a_run_of_flexora_tells_which_weights_it_chose(base, tmp_path):
    train(tmp_path / "run", *chosen("flexora", base), "adapter.gate_rate=0.5")
    told = result_of(tmp_path / "run")["adapter"]
    assert set(told["chosen"]) < set(told["gates"]) and told["chosen"]
    assert sum(told["gates"].values()) == pytest.approx(len(told["gates"]), rel=1e-5)  # float32
    again = [f"adapter.targets=[{','.join(told['chosen'])}]"]
    train(tmp_path / "again", *chosen("lora", base), *again)
    kept = create_model(f"local-dir:{tmp_path / 'again'}").lowrank.targets
    assert sorted(kept) == sorted(told["chosen"])


@pytest.mark.slow
def test_an_adapter_goes_on_from_that_of_another_run(base, tmp_path):
    train(tmp_path / "one", *chosen("lora", base))
    train(tmp_path / "two", *chosen("lora", tmp_path / "one"), "optim.lr=1e-12")
    one, two = (create_model(f"local-dir:{tmp_path / name}") for name in ("one", "two"))
    for key, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[key], value, rtol=0, atol=1e-6)
    train(tmp_path / "three", *chosen("miss", tmp_path / "one"))
    merged = create_model(f"local-dir:{tmp_path / 'three'}")
    weight = merged.lowrank.structures().__next__()[1].extra.weight
    dense = next(one.lowrank.structures())[1].dense()
    torch.testing.assert_close(weight, dense)


@pytest.mark.slow
def test_a_quantised_weight_is_trained_beside_and_its_model_comes_back(base, tmp_path):
    train(tmp_path / "run", *chosen("lq_lora", base), "adapter.mean_bits=3.5")
    model = create_model(f"local-dir:{tmp_path / 'run'}")
    chosen_formats = model.recipe.options["adapter"]["chosen"]
    structures = dict(model.lowrank.structures())
    assert {name: str(s.extra.how) for name, s in structures.items()} == chosen_formats
    stored = sum(s.extra.storage_bits() for s in structures.values())
    assert stored <= 3.5 * sum(s.extra.dense().numel() for s in structures.values())
    assert result_of(tmp_path / "run")["adapter"]["trained"] > 0
    assert not (tmp_path / "run" / "adapter.safetensors").exists()


REFUSED = {
    ("adapter=lora",): "adapter=lora trains beside weights that stay, and there are none: give ini",
    ("adapter=lora", "lowrank=sltrain", "init=x"): "adapter=lora .* lowrank=sltrain trains the w",
    ("adapter=increlora", "init=x", "trainer.parallel=fsdp"): "adapter=increlora adds components",
    ("adapter=lora", "init=x", "adapter.rank=999"): "adapter=lora: no weight of .*exceeds the full",
    ("adapter=lora", "init=x", "adapter.targets=[nothing]"): "targets: 'nothing' matches no linear",
    ("adapter=lora", "init=x", "adapter.train_also=[haed]"): "train_also: 'haed' matches no param",
    ("adapter=lora", "init=x", "adapter.alpha=0"): "adapter=lora: alpha must be above 0, got 0",
}


USUAL = [*REFUSED][:3]


@pytest.mark.parametrize("words", tiered([(each,) for each in REFUSED], USUAL.__contains__))
def test_an_adapter_that_cannot_be_is_refused_in_one_line_before_the_run(words):
    with pytest.raises(RunError, match=REFUSED[words]) as caught:
        check_run(configure(*words))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_head_that_is_started_anew_must_be_trained(base, tmp_path):
    smaller = ["model.num_classes=10", "data=digits"]
    folder = tmp_path / "few"
    model = create_model(f"local-dir:{base}", num_classes=3)
    save_model(model, folder)
    with pytest.raises(RunError, match=r"head is started anew.*set adapter.train_also=\[head\]"):
        train(tmp_path / "run", *smaller, *chosen("lora", folder))
    train(tmp_path / "again", *smaller, *chosen("lora", folder), "adapter.train_also=[head]")
    assert result_of(tmp_path / "again")["adapter"]["trained"] > 0
