"""Random command lines of `archzoo train` with one thing wrong, and what its error must name."""

import random
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from archzoo.train.config import FACTS, OptimConfig, ScheduleConfig, TrainerConfig
from archzoo.train.data import data_sets
from archzoo.zoo.axes.lowrank import method_info, methods
from archzoo.zoo.axes.residuals import residuals
from archzoo.zoo.models import models
from archzoo.zoo.registry import Option
from option_values import written
from ranges import COMBINATIONS, LOWRANK, MODELS, RESIDUALS, SETTINGS, SYNTAX, Bad

__all__ = ["KINDS", "Invalid", "draw_invalid"]

BASES = {
    "vit_nano": ["data=digits"],
    "resnet_nano": ["data=digits"],
    "mlp_nano": ["data=tabular", "data.table=iris"],
    "gpt_nano": ["data=bytes", "data.path={files}/text.txt", "data.context_length=8"],
    "poincare_embedding_nano": ["data=tree", "optim=riemannian_adam"],
    "poincare_mlp_nano": ["data=tabular", "data.table=wine"],
    "poincare_resnet_nano": ["data=digits"],
    "ldlt_mlp_nano": ["data=digits"],
    "ldlt_resnet_small": ["data=digits", "model.widths=[4,8]", "model.depths=[1,1]"],
}
"""Runs that work, of every family, to break."""
TINY = ["trainer.epochs=null", "trainer.steps=2", "trainer.batch_size=8", "trainer.progress=false"]
CONFIGS = {"trainer": TrainerConfig, "optim": OptimConfig, "schedule": ScheduleConfig}
GROUPS = {
    "model": models.names(), "data": data_sets.names(), "lowrank": methods.names(),
    "optim": ["adamw", "muon", "riemannian_adam", "sgd"], "schedule": ["cosine", "linear", "wsd"],
    "experiment": ["bytes_gpt", "ldlt_tabular"], "trainer": ["default", "debug", "gpu"],
    "recipe": ["digits"], "sweep": ["seeds"],
    "callbacks": ["ema", "geometry", "sample"], "logger": ["csv", "tensorboard"],
}  # fmt: skip
LISTS = ("callbacks", "logger")


@dataclass(frozen=True)
class Invalid:
    """A command line that must be refused.

    Args:
        kind: What is wrong with it.
        overrides: The command line.
        names: What the error must name; of a tuple, one.
    """

    kind: str
    overrides: list[str]
    names: Sequence[str | tuple[str, ...]]


def draw_invalid(number: int, files: Path) -> Invalid:
    """Return a command line with one mistake, the same for the same number; kinds come in turn."""
    draw = random.Random(f"invalid {number}")
    kind = list(KINDS)[number % len(KINDS)]
    base, wrong, names = KINDS[kind](draw)
    start = [f"model={base}", *BASES[base]] if base else []
    overrides = [*start, *TINY, *wrong]
    return Invalid(kind, [text.replace("{files}", str(files)) for text in overrides], names)


Drawn = tuple[str, list[str], Sequence[str | tuple[str, ...]]]


def _typo(draw: random.Random, word: str, taken: Sequence[str]) -> str:
    """Swap, drop, double or change a letter, so that no known name comes out."""
    while True:
        i = draw.randrange(len(word))
        changed = draw.choice([
            word[:i] + word[i + 1 :], word[:i] + word[i] + word[i:],
            word[:i] + draw.choice("abcdefxyz") + word[i + 1 :],
            word[:i] + word[i : i + 2][::-1] + word[i + 2 :],
        ])  # fmt: skip
        if (
            changed
            and changed not in (word, *taken)
            and not changed.isdecimal()
            and changed[-1] != "_"
        ):
            return changed


def _base(draw: random.Random) -> str:
    return draw.choice(list(BASES))


def _choice(draw: random.Random) -> Drawn:
    group = draw.choice(list(GROUPS))
    wrong = _typo(draw, draw.choice(GROUPS[group]), GROUPS[group])
    value = f"[{wrong}]" if group in LISTS else wrong
    return _base(draw), [f"{group}={value}"], [group, wrong]


def _options(base: str) -> dict[str, Option]:
    """Every typed key that a base has."""
    data = BASES[base][0].removeprefix("data=")
    found = {f"model.{n}": o for n, o in models[base].options.items() if n not in FACTS}
    found |= {f"data.{n}": o for n, o in data_sets[data].options.items()}
    for group, schema in CONFIGS.items():
        hints = typing.get_type_hints(schema)
        found |= {f"{group}.{f.name}": Option(f.name, hints[f.name], None) for f in fields(schema)}
    return found


def _key(draw: random.Random) -> Drawn:
    base = _base(draw)
    keys = [*_options(base), "seed", "resume", "run_dir", "other_data"]
    key = draw.choice(keys)
    group, _, leaf = key.rpartition(".")
    taken = [k.rpartition(".")[2] for k in keys if k.rpartition(".")[0] == group]
    wrong = _typo(draw, leaf, [*taken, "name", "model", "data"])
    place = f"{group}.{wrong}" if group else wrong
    return base, [f"{draw.choice(['', '', '+'])}{place}=1"], [wrong]


def _plain(kind: Any) -> Any:
    """The type inside an optional one."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kinds = [k for k in typing.get_args(kind) if k is not type(None)]
        return kinds[0] if len(kinds) == 1 else None
    return kind


def _type(draw: random.Random) -> Drawn:
    base = _base(draw)
    wrong: dict[Any, list[Any]] = {
        int: ["four", 1.5, [1], {"a": 1}],
        float: ["high", [0.1], {"a": 1}],
        bool: ["perhaps", 7, [1]],
        str: [[1], {"a": 1}],
    }
    keys = {k: _plain(o.type) for k, o in _options(base).items()}
    if draw.random() < 0.3:
        method = draw.choice([n for n in methods.names() if method_info(n).options])
        own = {f"lowrank.{n}": _plain(o.type) for n, o in method_info(method).options.items()}
        key = draw.choice([k for k, kind in own.items() if kind in wrong])
        value = draw.choice(wrong[own[key]])
        return "mlp_nano", [f"lowrank={method}", f"{key}={written(value)}"], [_leaf(key)]
    key = draw.choice([k for k, kind in keys.items() if kind in wrong])
    value = draw.choice(wrong[keys[key]])
    shown = str(value) if not isinstance(value, (list, dict)) else ""
    return base, [f"{key}={written(value)}"], [_leaf(key), shown]


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _infinite(draw: random.Random) -> Drawn:
    base = _base(draw)
    options = _options(base)
    keys = [k for k, o in options.items() if _plain(o.type) is float]
    ours = {"callbacks.ema.decay": "ema", "callbacks.margin_loss.offset": "margin_loss"}
    value = draw.choice(["nan", "inf", "-inf"])
    key = draw.choice([*keys, *ours])
    start = [f"callbacks=[{ours[key]}]"] if key in ours else []
    if key == "trainer.epochs":
        start = ["trainer.steps=null"]
    return base, [*start, f"{key}={value}"], [_leaf(key), value]


def _table(table: Sequence[Bad]) -> Callable[[random.Random], Drawn]:
    def drawn(draw: random.Random) -> Drawn:
        bad = draw.choice(table)
        value = draw.choice(bad.values)
        shown = written(value)
        wrong = [*bad.start, *([f"{bad.key}={shown}"] if bad.key else shown.split(" "))]
        named = bad.names if bad.names is not None else (_leaf(bad.key), _spellings(value))
        return bad.base, wrong, named

    return drawn


def _spellings(value: Any) -> tuple[str, ...]:
    """How an error may write a value."""
    if isinstance(value, (list, tuple)):
        return (str(tuple(value)), str(list(value)), ", ".join(map(str, value)))
    if isinstance(value, int) and not isinstance(value, bool):
        return (str(value), str(float(value)))
    return (str(value), repr(value))


def _inside(group: str, table: dict[str, dict[str, list[Any]]]) -> Callable[..., Drawn]:
    """A setting out of range of something that is chosen by name: a residual or a method."""

    def drawn(draw: random.Random) -> Drawn:
        name = draw.choice(list(table))
        key = draw.choice(list(table[name]))
        value = draw.choice(table[name][key])
        named = (key, _spellings(value))
        if group == "lowrank":
            start = [f"lowrank={name}", "optim=step_adamw"]  # which every method takes
            return "mlp_nano", [*start, f"lowrank.{key}={written(value)}"], named
        spec = written({"name": name, key: value})
        return draw.choice(["vit_nano", "resnet_nano"]), [f"model.residual={spec}"], named

    return drawn


def _unknown_inside(draw: random.Random) -> Drawn:
    """An unknown residual, an unknown option of one, callback, logger, or a foreign option."""
    name = draw.choice(residuals.names())
    typo = _typo(draw, name, residuals.names())
    options = list(residuals[name].options) or ["heads"]
    option = _typo(draw, draw.choice(options), options)
    callback, logger = _typo(draw, "margin_loss", []), _typo(draw, "tensorboard", [])
    optimizer = "qz" + draw.choice(["adam", "sgd", "lion"])
    choices: list[Drawn] = [
        ("vit_nano", [f"model.residual={typo}"], ["residual", typo]),
        ("vit_nano", [f"model.residual={{name:{name},{option}:1}}"], [option]),
        ("vit_nano", ["model.residual={heads:2}"], ["residual", "name"]),
        ("mlp_nano", [f"+callbacks.{callback}={{}}"], [callback]),
        ("mlp_nano", [f"+logger.{logger}={{}}"], [logger]),
        ("mlp_nano", [f"optim.name={optimizer}"], [optimizer]),
        ("mlp_nano", [f"+optim.options.{option}=1"], [option]),
    ]
    return draw.choice(choices)


def _foreign(draw: random.Random) -> Drawn:
    """An option that other models, data sets or methods have."""
    base, other = draw.sample(list(BASES), 2)
    own = models[base].options
    theirs = [k for k in models[other].options if k not in own and k not in FACTS]
    if theirs:
        key = draw.choice(theirs)
        return base, [f"{draw.choice(['', '+'])}model.{key}=1"], [key]
    one, two = draw.sample(methods.names(), 2)
    keys = [k for k in method_info(two).options if k not in method_info(one).options]
    if not keys:
        return base, ["data.nouns=1"], ["nouns"]
    key = draw.choice(keys)
    return "mlp_nano", [f"lowrank={one}", f"lowrank.{key}=1"], [key]


KINDS: dict[str, Callable[[random.Random], Drawn]] = {
    "misspelt choice": _choice,
    "misspelt key": _key,
    "wrong type": _type,
    "not finite": _infinite,
    "setting out of range": _table(SETTINGS),
    "model option out of range": _table(MODELS),
    "residual option out of range": _inside("residual", RESIDUALS),
    "low-rank option out of range": _inside("lowrank", LOWRANK),
    "unknown name or option": _unknown_inside,
    "option of another": _foreign,
    "impossible combination, file or folder": _table(COMBINATIONS),
    "syntax": _table(SYNTAX),
}
"""Kinds of mistakes; each draws the base that it breaks, overrides, and what must be named."""
