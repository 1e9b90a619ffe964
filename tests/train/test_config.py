"""Configs: everything composes, and a mistake is one line that says how to mend it."""

from pathlib import Path

import pytest
from archzoo.train.callbacks import EMA, callbacks
from archzoo.train.check import check_run
from archzoo.train.config import ScheduleConfig
from archzoo.train.data import data_sets
from archzoo.train.engine.loggers import loggers
from archzoo.train.engine.schedule import SCHEDULES
from archzoo.train.errors import RunError
from archzoo.train.override_errors import explain_overrides
from archzoo.zoo import list_models, model_info

from ..tiers import tiered
from .small_runs import configure, store_schemas

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted(
    (path.parent.name, path.stem) for path in CONF.glob("*/*.yaml") if path.parent != CONF
)
NAMES = {
    "callbacks": ["none", *callbacks.names()],
    "logger": ["none", *loggers.names()],
    "schedule": [*SCHEDULES],
    "optim": ["step_adamw", "trion"],
    "lowrank": ["none"],
    "distill": ["none", "pela"],
    "adapter": ["none"],
}
"""What signatures make a choice of, beside models, data sets and low-rank methods."""
STORED = [(group, name) for group, names in NAMES.items() for name in names]
NEEDS = {
    "pela": ["distill.teacher=pretrained:vit_nano"],
    "sample": ["model=gpt_nano", "data=bytes"],
    "reconstruction": ["model=poincare_embedding_nano", "data=tree", "optim=riemannian_sgd"],
}


@pytest.mark.parametrize("group", NAMES)
def test_no_file_of_conf_repeats_a_signature(group):
    assert {name for g, name in FILES if g == group} & {*NAMES[group]} == set()


@pytest.mark.parametrize(("group", "choice"), FILES + STORED)
def test_every_choice_composes_and_passes_the_checks(group, choice):
    if group == "queue":
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra slurm")
    several = group in ("callbacks", "logger")
    override = f"{group}=[{choice}]" if several else f"{group}={choice}"
    if group == "experiment":
        config = configure(override, "trainer.device=auto", base=[])
    elif group == "trainer":
        config = configure(override, "trainer.device=auto")
    else:
        config = configure(override, *NEEDS.get(choice, []))
    if group == "trainer":
        config.trainer.epochs = None
    check_run(config)
    assert config.model["name"] in list_models()


@pytest.mark.parametrize("name", tiered(list_models(), list_models("*_nano")))
def test_every_model_is_a_choice_with_its_keywords_as_fields(name):
    config = configure(f"model={name}")
    assert config.model.keys() - {"name"} == model_info(name).options.keys()


@pytest.mark.parametrize("name", data_sets.names())
def test_every_data_set_is_a_choice_with_its_keywords_as_fields(name):
    config = configure(f"data={name}")
    assert config.data.keys() - {"name"} == data_sets[name].options.keys()


@pytest.mark.parametrize("name", callbacks.names())
def test_every_callback_is_a_choice_with_the_defaults_of_its_signature(name):
    defaults = {key: option.default for key, option in callbacks[name].options.items()}
    assert configure(f"callbacks={name}").callbacks == {name: defaults}
    assert configure(f"callbacks=[{name}]").callbacks == {name: defaults}


@pytest.mark.parametrize("name", loggers.names())
def test_every_logger_is_a_choice_with_the_defaults_of_its_signature(name):
    defaults = {key: option.default for key, option in loggers[name].options.items()}
    assert configure(f"logger={name}").logger == {name: defaults}
    assert configure(f"logger=[{name}]").logger == {name: defaults}


def test_several_callbacks_are_chosen_and_set_at_once():
    config = configure("callbacks=[ema,geometry]", "callbacks.ema.decay=0.9")
    assert config.callbacks == {"ema": {"decay": 0.9, "warmup": True}, "geometry": {"samples": 64}}
    assert configure("callbacks=[ema_short]").callbacks["ema"]["decay"] == 0.99
    chosen = configure(base=["data=digits"]).callbacks["ema"]
    assert {**vars(EMA()), **chosen} == vars(EMA())  # one default for Python and the command line


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_has_the_defaults_of_its_fields(name):
    assert configure(f"schedule={name}").schedule == ScheduleConfig(name=name)


def test_a_data_set_brings_its_recipe_which_one_word_leaves_out():
    digits = configure("model=vit_nano", base=["data=digits"])
    assert (digits.trainer.mixup, digits.trainer.label_smoothing) == (0.2, 0.1)
    assert configure("trainer.mixup=0.5", base=["data=digits"]).trainer.mixup == 0.5
    for plain in ["~recipe"], ["data=mnist"]:
        trainer = configure(base=plain).trainer
        assert (trainer.mixup, trainer.label_smoothing) == (0.0, 0.0)


def test_a_model_follows_its_data_where_it_is_not_told_otherwise():
    from archzoo.train.check import model_options

    options = model_options(configure("model=vit_nano"), (1, 8, 8), 10)
    assert (options["in_chans"], options["img_size"], options["num_classes"]) == (1, 8, 10)
    for given in ([], ["model.img_size=[8,4]"]):
        options = model_options(configure("model=vit_nano", *given), (1, 8, 4), 10)
        assert tuple(options["img_size"]) == (8, 4)
    options = model_options(configure("model=vit_nano", "model.img_size=[8,8]"), (1, 8, 8), 10)
    assert tuple(options["img_size"]) == (8, 8)
    with pytest.raises(ValueError, match=r"img_size=\[4, 8\], but data digits has \(8, 4\)"):
        model_options(configure("model=vit_nano", "model.img_size=[4,8]"), (1, 8, 4), 10)
    options = model_options(configure("model=mlp_nano"), (3, 4, 4), 5)
    assert (options["in_features"], options["num_classes"]) == (48, 5)
    options = model_options(configure("model=gpt_nano", "data=bytes"), (64,), 256)
    assert (options["vocab_size"], options["context_length"]) == (256, 64)
    assert options.get("num_classes") is None


BAD = {
    "model=vit_tinny": "model=vit_tinny: no such choice; did you mean 'vit_tiny'",
    "data=digit": "data=digit: no such choice; did you mean 'digits'",
    "optim=adam_w": "optim=adam_w: no such choice; did you mean 'adamw'",
    "experiment=bytes": "experiment=bytes: no such choice; did you mean 'bytes_gpt'",
    "callbacks=[emma]": "callbacks=emma: no such choice; did you mean 'ema'",
    "logger=[cvs]": "logger=cvs: no such choice; did you mean 'csv'",
    "schedule=cosin": "schedule=cosin: no such choice; did you mean 'cosine'",
    "callbacks.ema.decy=0.9": "callbacks.ema.decy: callbacks.ema has no key 'decy'; did you mean",
    "callbacks.ema.decay=high": "callbacks.ema.decay: value 'high'",
    "logger.csv.path=x": "logger.csv.path: logger.csv has no key 'path'",
    "model.dept=4": "model.dept: model has no key 'dept'; did you mean 'depths'",
    "trainer.epoch=4": "trainer.epoch: trainer has no key 'epoch'; did you mean 'epochs'",
    "sed=3": "sed: there is no key 'sed'; did you mean 'seed'",
    "model.drop_rate=four": "model.drop_rate: value 'four'.* could not be converted to Float",
    "trainer.batch_size=1.5": "trainer.batch_size: value '1.5'",
}


@pytest.mark.parametrize("override", BAD)
def test_a_misspelt_override_is_explained_in_one_line(override):
    store_schemas()
    with pytest.raises(RunError, match=BAD[override]) as caught:
        explain_overrides([override])
    assert "\n" not in str(caught.value)


NULL = {
    "lowrank.alpha": ("lowrank=switchlora", "1.0"),
    "trainer.batch_size": ("trainer.epochs=1", "64"),
    "model.depth": ("model=vit_nano", "4"),
}


@pytest.mark.parametrize("key", NULL)
def test_null_in_the_place_of_a_value_is_refused_with_the_way_out(key):
    store_schemas()
    group, default = NULL[key]
    said = f"{key}: null is no value of it; write one, or leave {key} out for {default}$"
    with pytest.raises(RunError, match=said):
        explain_overrides([group, f"{key}=null"])


NOT_ONE_RUN = {
    "seed=0,1": "seed=0,1: several values are a sweep; add -m",
    "trainer.steps=range(3)": r"trainer.steps=range\(3\): several values are a sweep; add -m",
    "--multrun": "--multrun: no such flag; did you mean '--multirun'",
    "-q": "-q: no such flag; .*; settings are key=value",
}
UNREADABLE = {
    "trainer.steps": "trainer.steps: .*; write key=value",
    "=3": "=3: there is no key; write key=value",
    "model.residual=[add": r"model.residual=\[add: .*; write key=value",
    "trainer=3": "trainer=3: no such choice; known: .*debug",
    "model=7": "model=7: no such choice; known: .*mlp",
    "schedule={a:1}": "schedule={'a': 1}: no such choice; known: constant, cosine",
    "trainer.deterministic=7": "trainer.deterministic: value 7 must be true or false",
    "trainer.compile=7": "trainer.compile: value '7' .*; write true or false or text",
    "~optim.lrr": "~optim.lrr: there is no optim.lrr to take away; leave it out",
}
NOWHERE = {
    "+resuume=1": "resuume: there is no key 'resuume'; did you mean 'resume'",
    "+trainer.log_eveery=1": "trainer.log_eveery: trainer has no key .*; did you mean 'log_every'",
    "+model.patch_size=2": "model.patch_size: model has no key 'patch_size'",
    "trainer.steps=${nope}": "trainer.steps: Interpolation key 'nope' not found; write a value",
}


@pytest.mark.parametrize(("argument", "said"), [*NOT_ONE_RUN.items(), *UNREADABLE.items()])
def test_a_line_that_is_no_setting_of_one_run_is_explained_in_one_line(argument, said):
    store_schemas()
    with pytest.raises(RunError, match=said) as caught:
        explain_overrides([argument])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", NOWHERE)
def test_a_key_that_nothing_reads_and_a_reference_to_nothing_are_refused(override):
    with pytest.raises(RunError, match=NOWHERE[override]) as caught:
        configure(override)
    assert "\n" not in str(caught.value)


def test_what_is_free_by_design_can_be_added():
    config = configure("+optim.options.betas=[0.8,0.9]", "+callbacks.ema={}")
    assert config.optim.options["betas"] == [0.8, 0.9]
    assert config.callbacks == {"ema": {}}


@pytest.mark.parametrize("arguments", [["-m", "seed=0,1"], ["model=vit_nano"], ["--help"], []])
def test_good_arguments_are_left_alone(arguments):
    store_schemas()
    assert explain_overrides(arguments) is None


def test_a_sweep_is_checked_at_its_first_point():
    store_schemas()
    with pytest.raises(RunError, match="did you mean 'vit_tiny'"):
        explain_overrides(["-m", "model=vit_tinny,vit_nano"])


FLAT = ("model.geometry=euclidean", "optim=adamw")
IMPOSSIBLE = [
    (["model=gpt_nano"], "model=gpt_nano reads tokens, but data=digits gives image; choose"),
    (["model=vit_nano", "data=bytes"], "reads image, but data=bytes gives tokens; choose .*gpt"),
    (["model=vit_nano", "model.patch_size=3"], "patch_size=3 does not divide img_size=8; choose"),
    (["model.num_classes=5"], "model.num_classes=5, but data digits has 10; leave model.num_cl"),
    (["model.residual=attnrez"], "no residual named 'attnrez'; did you mean 'attnres'"),
    (["model.residual={name:block_attnres,blok_size:2}"], "no keyword 'blok_size'; did you mean"),
    (["model.residual=3"], "residual must be"),
    (["model=vit_nano", "model.global_pool=max"], "global_pool must be Literal"),
    (["trainer.epochs=3"], "give one of trainer.epochs and trainer.steps, got epochs=3.0, steps"),
    (["trainer.batch_size=0"], "trainer.batch_size must be at least 1, got 0"),
    (["trainer.amp=fp8"], "trainer.amp must be one of off, bf16, fp16, got 'fp8'"),
    (["trainer.compile=perhaps"], "trainer.compile must be true, false or blocks, got 'perhaps'"),
    (
        ["model=poincare_embedding_nano", "data=tree", "trainer.grad_checkpointing=true"],
        "NodeEmbedding has no blocks whose activations could be computed again; leave",
    ),
    (["trainer.label_smoothing=1.0"], r"trainer.label_smoothing must lie in \[0, 1\), got 1.0"),
    (["trainer.cutmix=1", "data=tabular"], "trainer.cutmix cuts images, but the data gives feat"),
    (["schedule.warmup=2"], r"schedule.warmup must lie in \[0, 1\], got 2.0"),
    (["schedule.name=cosin"], "schedule.name must be one of"),
    (["optim.name=adamm"], "optim.name: no optimiser 'adamm'; did you mean"),
    (["optim.name=bnbadam"], "optim.name=bnbadam cannot be used here: .*; choose another"),
    (["+optim.options.betas=[2,2]"], "optim.options of adamw: Invalid beta .* 2; leave it out"),
    (["optim.name=adahessian"], "optim.name=adahessian needs second derivatives, .*; choose"),
    (["+callbacks.emma={}"], "callbacks: no callback named 'emma'; did you mean 'ema'"),
    (["model.drop_rate=1"], r"drop_rate must lie in \[0, 1\), got 1.0"),
    (["model=vit_nano", "model.drop_rate=-0.1"], r"drop_rate must lie in \[0, 1\), got -0.1"),
    (["model=resnet_nano", "model.drop_rate=1.5"], r"drop_rate must lie in \[0, 1\), got 1.5"),
    (["model=poincare_mlp_nano", "model.drop_rate=1"], r"drop_rate must lie in \[0, 1\), got 1.0"),
    (["model=poincare_resnet_nano", "model.drop_rate=1"], r"drop_rate must lie in \[0, 1\), got 1"),
    (
        ["model=gpt_nano", "data=bytes", "model.norm_eps=-1"],
        "norm_eps must be at least 0, got -1.0",
    ),
    (
        ["model=poincare_embedding_nano", "data=tree", *FLAT, "model.init_range=-1"],
        "init_range must be above 0, got -1.0",
    ),
    (["model.residual={name:attnres,eps:-1.0}"], "eps must be at least 0, got -1.0"),
    (["+logger.tensorbord={}"], "logger: no logger named 'tensorbord'; did you mean 'tensorboard"),
]


@pytest.mark.parametrize(("overrides", "said"), IMPOSSIBLE, ids=[i[0][-1] for i in IMPOSSIBLE])
def test_an_impossible_combination_is_refused_before_data_is_read(overrides, said, monkeypatch):
    def read(*_arguments, **_keywords):
        raise AssertionError("data was read")

    monkeypatch.setattr(type(data_sets), "build", read)
    with pytest.raises(RunError, match=said) as caught:
        check_run(configure(*overrides))
    assert "\n" not in str(caught.value)
