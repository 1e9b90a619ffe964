"""Low rank in the trainer: a choice of any run, which stops, goes on and is saved as any other."""

import dataclasses
import json

import pytest
import torch
from archzoo.layers.lowrank import Controller, reparametrize
from archzoo.train.check import check_run
from archzoo.train.config import OptimConfig
from archzoo.train.data import data_sets
from archzoo.train.engine import loop
from archzoo.train.engine.optim import make_optimizer
from archzoo.train.errors import RunError
from archzoo.train.override_errors import explain_overrides
from archzoo.train.run import run
from archzoo.zoo import create_model
from archzoo.zoo.axes.lowrank import make_method, method_info, methods
from torch import nn

from ...tiers import tiered
from ..small_runs import configure, equal_weights, store_schemas, train, weights

pytestmark = pytest.mark.long

# Settings under which something happens within a run of a dozen steps; others have their defaults.
EAGER = {
    "maestro": {"shrink_every": 2, "threshold": 0.9},
    "trp": {"min_kernel": 1, "period": 3, "energy": 0.1, "nuclear": 0.01},
    "low_rank": {"refactorize_every": 3},
    "relora": {"merge_every": 3, "rewarm": 2},
    "sst": {"resample_every": 2, "iterations": 2, "rewarm": 1},
    "switchlora": {"interval": 2, "decay_share": 2.0, "freeze": 1},
}


def chosen(method):
    """Return the overrides of a run with a method, and with an optimiser that it can work with."""
    optim = "adamw"
    try:
        make_method(method).check_optimizer(make_optimizer(torch.nn.Linear(1, 1), OptimConfig()))
    except ValueError:
        optim = "step_adamw"
    given = [f"lowrank.{key}={value}" for key, value in EAGER.get(method, {}).items()]
    return [f"lowrank={method}", f"optim={optim}", *given]


class Stop(Exception):
    """Ends a run where a crash would."""


def run_into(folder, config, resume=None):
    return run(dataclasses.replace(config, run_dir=str(folder), resume=resume))


def run_until(step, folder, config, monkeypatch):
    after = loop.Trainer._after_step

    def stopping(self, loss, request):
        after(self, loss, request)
        if self.step == step:
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(loop.Trainer, "_after_step", stopping)
        run_into(folder, config)


def ranks(folder):
    return [json.loads(line) for line in (folder / "ranks.jsonl").read_text().splitlines()]


# At the ends of the ranks a part of a structure is a single column, or empty.
ENDS = [f"lowrank.rank={rank}" for rank in ("1", "1.0")]
CASES = [(name, ()) for name in methods.names()]
CASES += [(name, ("callbacks=[ema]",)) for name in ("maestro", "sst")]
CASES += [
    (name, (end, "lowrank.targets=['*.branches.*.0']"))
    for name in ("low_rank", "lost", "sst")
    for end in ENDS
]


# One method that removes components, one that draws vectors, one with a part that is no factor.
USUAL = ("maestro", "switchlora", "sltrain", "trp")


@pytest.mark.parametrize(
    ("method", "more"), tiered(CASES, lambda method, more: method in USUAL and not more)
)
def test_a_run_that_stopped_and_went_on_equals_one_that_did_not(
    method, more, tmp_path, monkeypatch
):
    config = configure(
        *chosen(method), *more, "trainer.steps=10", "trainer.evaluate_every=5",
        folder=tmp_path / "any",
    )  # fmt: skip
    whole = run_into(tmp_path / "whole", config)
    run_until(7, tmp_path / "cut", config, monkeypatch)
    assert run_into(tmp_path / "cut", config, "auto") == whole
    assert equal_weights(tmp_path / "whole", tmp_path / "cut")
    assert ranks(tmp_path / "whole") == ranks(tmp_path / "cut")
    best = create_model(f"local-dir:{tmp_path / 'cut'}")
    other = create_model(f"local-dir:{tmp_path / 'whole'}")
    for key, value in best.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    assert best.lowrank is not None


def test_ranks_that_shrink_are_written_down_and_leave_the_saved_model(tmp_path):
    train(tmp_path, *chosen("maestro"), "callbacks=[ema]")
    rows = ranks(tmp_path)
    assert [row["step"] for row in rows] == [6, 12]
    first, last = rows[0]["ranks"], rows[1]["ranks"]
    assert first.keys() == last.keys() and sum(last.values()) < sum(first.values())
    assert rows[1]["parameters"] < rows[0]["parameters"]
    for name, values in rows[1]["spectra"].items():
        assert len(values) == last[name] and values == sorted(values, reverse=True)
    model = create_model(f"local-dir:{tmp_path}")
    saved = {name: factors.rank for name, factors in model.lowrank.factors().items()}
    assert saved in (first, last)  # the best model is of one of the two evaluations
    text = (tmp_path / "metrics.csv").read_text()
    assert "mean_rank" in text and "lowrank" in text


def test_a_penalty_of_the_method_is_part_of_the_loss(tmp_path):
    common = ["lowrank=maestro", "lowrank.lasso=loss", "lowrank.sample=false", "trainer.steps=1"]
    for name, weight in (("none", 0.0), ("some", 1.0)):
        train(tmp_path / name, *common, f"lowrank.group_lasso={weight}")
    none, some = ((tmp_path / name / "metrics.csv").read_text() for name in ("none", "some"))
    losses = [float(text.splitlines()[1].split(",")[2]) for text in (none, some)]
    assert losses[1] > losses[0] + 10


def test_a_penalty_counts_once_however_many_batches_are_accumulated(tmp_path):
    common = [
        "lowrank=maestro", "lowrank.lasso=loss", "lowrank.sample=false", "lowrank.group_lasso=0.1",
        "optim=sgd", "optim.name=momentum", "optim.options.momentum=0", "data.augment=false",
        "trainer.steps=1",
    ]  # fmt: skip
    train(tmp_path / "one", *common, "trainer.batch_size=64")
    train(tmp_path / "two", *common, "trainer.batch_size=32", "trainer.accumulate=2")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key in one:  # sums in another order
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=1e-6)


def test_without_a_method_a_run_is_what_it_was(tmp_path):
    assert configure().lowrank is configure("lowrank=none").lowrank is None
    train(tmp_path)
    assert not (tmp_path / "ranks.jsonl").exists()
    assert create_model(f"local-dir:{tmp_path}").lowrank is None


@pytest.mark.parametrize("method", methods.names())
def test_every_method_is_a_choice_with_its_settings_as_fields(method):
    config = configure(f"lowrank={method}", "seed=7")
    assert config.lowrank.keys() - {"name"} == method_info(method).options.keys()
    assert config.lowrank["seed"] == 7


def test_the_rank_is_a_whole_number_or_a_share(tmp_path):
    for text, value in (("8", 8), ("0.5", 0.5), ("1.0", 1.0)):
        rank = configure("lowrank=relora", f"lowrank.rank={text}").lowrank["rank"]
        assert rank == value and type(rank) is type(value)
    train(tmp_path, "lowrank=relora", "lowrank.rank=3", "lowrank.targets=['*.0.0','*.1.3']")
    assert ranks(tmp_path)[0]["ranks"] == {"trunk.branches.0.0": 3, "trunk.branches.1.3": 3}


def test_a_method_that_needs_the_length_of_the_run_is_told_it(tmp_path):
    train(tmp_path, "lowrank=relora", "lowrank.merge_every=0.25")
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert state["callbacks"][0]["settings"]["total_steps"] == 12


def test_a_run_whose_method_planned_over_its_length_says_how_it_can_grow(tmp_path):
    given = ["lowrank=relora", "lowrank.merge_every=0.25"]
    train(tmp_path, *given)
    with pytest.raises(RunError, match=r"over the 12 steps .* now has 24; resume with .*steps=12"):
        train(tmp_path, *given, "trainer.steps=24", f"resume={tmp_path}")


MISSPELT = {
    "lowrank=mastro": "lowrank=mastro: no such choice; did you mean 'maestro'",
    "lowrank.treshold=1": "lowrank.treshold",
}


@pytest.mark.parametrize("override", MISSPELT)
def test_a_misspelt_override_is_explained_in_one_line(override):
    store_schemas()
    more = ["lowrank=maestro"] if "." in override else []
    with pytest.raises(RunError, match=MISSPELT[override]) as caught:
        explain_overrides([*more, override])
    assert "\n" not in str(caught.value)


IMPOSSIBLE = [
    (["lowrank=relora", "lowrank.rank=0"], "lowrank=relora: rank must be at least 1 component"),
    (["lowrank=relora", "lowrank.rank=four"], "relora: rank must be int | float, got 'four'"),
    (["lowrank=relora", "lowrank.rank=400", "lowrank.targets=['*.0.0']"], "exceeds the full rank"),
    (["lowrank=maestro", "lowrank.sampler=pair"], "maestro: sampler must be"),
    (["lowrank=relora", "lowrank.targets=['*.atn']"], "matches no linear or convolutional layer"),
    (["lowrank=trp"], "lowrank=trp: no weight of MLP is a target of TRP"),
    (["lowrank=switchlora", "optim=adamw"], "optim=step_adamw"),
    (["lowrank=maestro", "trainer.parallel=fsdp"], "set lowrank.shrink_every=0, or use"),
    (["lowrank=maestro", "lowrank.learning_rate_ratio=-1"], "must be above 0, got -1.0"),
    (["+lowrank.name=maestr"], "no low-rank method named 'maestr'; did you mean 'maestro'"),
    (["+lowrank.rank=3"], "has no 'name'; give one of"),
]


@pytest.mark.parametrize(("overrides", "said"), IMPOSSIBLE, ids=[str(i[0]) for i in IMPOSSIBLE])
def test_an_impossible_combination_is_refused_before_data_is_read(overrides, said, monkeypatch):
    def read(*_arguments, **_keywords):
        raise AssertionError("data was read")

    monkeypatch.setattr(type(data_sets), "build", read)
    with pytest.raises(RunError, match=said) as caught:
        check_run(configure(*overrides))
    assert "\n" not in str(caught.value)


OTHERS = [
    (["lowrank=trp", "lowrank.min_kernel=1"], "name=trp, but the run has lowrank.name=maestro"),
    (["lowrank=maestro", "lowrank.threshold=0.5"], "threshold=0.5, but the run has .*=0.9"),
    ([*chosen("maestro"), "lowrank.targets=['*.0.0']"], r"lowrank.targets=.*, but the run has"),
    (["lowrank=none"], "lowrank.name=null, but the run has lowrank.name=maestro"),
]


def test_another_method_cannot_go_on_and_nothing_is_lost(tmp_path, monkeypatch):
    mine = configure(*chosen("maestro"), folder=tmp_path)
    run_until(7, tmp_path, mine, monkeypatch)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for overrides, said in OTHERS:
        with pytest.raises(RunError, match=said) as caught:
            train(tmp_path, *overrides, f"resume={tmp_path}")
        assert "\n" not in str(caught.value)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    run_into(tmp_path, mine, str(tmp_path))


def test_a_run_from_before_low_rank_is_found_again():
    from archzoo.train.engine.saved.resume import difference

    new = {"name": "a", "seed": 0, "lowrank": None}
    old = {key: value for key, value in new.items() if key != "lowrank"}
    assert difference(old, new) is None
    assert difference(new, {**new, "lowrank": {"name": "maestro"}}) is not None


# What must be added to the command line, by method and model, and what its refusal says of it.
STEPS_OF_ITS_OWN = ("optim=step_adamw", "use optim=step_adamw")
ADDED = {
    ("switchlora", "resnet_nano_block_attnres"): STEPS_OF_ITS_OWN,
    ("switchlora", "vit_nano"): STEPS_OF_ITS_OWN,
    ("trp", "vit_nano"): ("lowrank.min_kernel=1", "its kernel side 1 is below min_kernel=2"),
}


@pytest.mark.parametrize("model", ["resnet_nano_block_attnres", "vit_nano"])
@pytest.mark.parametrize("method", methods.names())
def test_the_default_run_takes_every_method_or_says_what_to_add(method, model):
    added, given = [], [f"lowrank={method}", f"model={model}"]
    if (method, model) in ADDED:
        added, said = [ADDED[method, model][0]], ADDED[method, model][1]
        with pytest.raises(RunError, match=said) as caught:
            check_run(configure(*given, base=[]))
        assert "\n" not in str(caught.value)
    check_run(configure(*given, *added, base=[]))


@pytest.mark.parametrize(
    "method", tiered([name for name in methods.names() if name != "switchlora"], USUAL)
)
def test_muon_trains_under_every_method_whose_optimiser_it_can_be(method, tmp_path):
    given = [text for text in chosen(method) if not text.startswith("optim")]
    train(tmp_path, *given, "optim=muon", "trainer.steps=7", "trainer.evaluate_every=7")
    assert all(torch.isfinite(value).all() for value in weights(tmp_path).values())


@pytest.mark.parametrize("method", ["low_rank", "maestro", "relora", "sst", "trp"])
def test_a_weight_without_a_decomposition_ends_the_run_in_one_line(method, tmp_path, monkeypatch):
    before = Controller._after_step

    def spoilt(self, optimizer, *rest):
        if self.step == 8:  # every method of these has an event after the ninth step
            target = next(iter(self.targets.values()))
            target.parameters()[0].detach().fill_(torch.nan)
        before(self, optimizer, *rest)

    monkeypatch.setattr(Controller, "_after_step", spoilt)
    more = {
        "maestro": ["lowrank.shrink_every=3"],
        "sst": ["lowrank.resample_every=3", "lowrank.iterations=1"],
    }
    with pytest.raises(RunError, match="NaN or infinite .*nothing saved before is lost") as caught:
        train(tmp_path, *chosen(method), *more.get(method, []))
    assert "\n" not in str(caught.value)
    assert torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["step"] == 6


def test_accumulated_batches_and_steps_that_a_scaler_skips_are_none_of_the_controller():
    model = nn.Sequential(nn.Linear(6, 4))
    controller = reparametrize(model, make_method("low_rank"), ["0"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=100)
    counted = []
    for factor in (1.0, torch.inf, 1.0):
        for _ in range(2):
            scaler.scale(factor * model(torch.ones(2, 6)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        counted.append(controller.step)
    assert counted == [1, 1, 2] and scaler.get_scale() == 2.0**9
