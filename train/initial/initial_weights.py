"""The weights that a run starts from: those of another run or of a saved model, for `init=`.

All that the two models have in common is taken over, which is everything but the head where the
number of classes differs, and the structure of factored weights where that of the run is another.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ...layers.lowrank.adapters.adapter import Statistics
from ...zoo.axes.lowrank import LowRankSpec, apply_lowrank, lowrank_config, merge_lowrank
from ...zoo.models import build_model, models
from ...zoo.network import Network
from ...zoo.recipe import first_difference
from ...zoo.share.content_digest import content_digest
from ...zoo.share.pretrained import PRETRAINED
from ...zoo.share.save_load import build_empty
from ...zoo.share.transfer_weights import take_weights
from ..errors import RunError
from ..subject.conventions import conventions_of, different_convention
from ..subject.given_model import ModelPlace, find_model
from .initial_adapter import head_is_frozen, is_preset_of, put_adapter, refuse_untrained_head

__all__ = [
    "build_from",
    "initial_place",
    "refuse_differences",
    "warn_of_other_fold",
    "whole_place",
]

log = logging.getLogger("archzoo")

STANDING = ("fixed_ranks", "compensated")
"""Methods that are none: they stand for factors that something else made."""

UNDECIDED = ("seed", "learning_rate_ratio")
"""Settings of every method that decide nothing of stored weights."""


def whole_place(init: str) -> str:
    """Return the same place for a reader in any folder: a path from the root on."""
    if init.startswith(("hf-hub:", PRETRAINED)) or init in models:
        return init
    return str(Path(init.removeprefix("local-dir:")).absolute())


def initial_place(init: str, key: str = "init") -> ModelPlace:
    """Find trained weights, such as those to start from.

    Args:
        init: Where they are.
        key: What the setting is called that names them.

    Raises:
        RunError: there is no such model, or it has no weights.
    """
    try:
        place = find_model(init)
    except RunError as error:
        raise RunError(f"{key}: {error}") from error
    if not place.trained:
        raise RunError(
            f"{key}={init} is a registered name, which has no weights; name a run, the folder of a "
            f"saved model, hf-hub:OWNER/NAME or pretrained:NAME"
        )
    return place


def build_from(
    place: ModelPlace,
    name: str,
    options: Mapping[str, Any],
    classes: Sequence[str] | None = None,
    statistics: Statistics | None = None,
    conventions: Mapping[str, Any] | None = None,
) -> tuple[Network, dict[str, Any]]:
    """Build a model with the weights of another.

    Factored weights of the same method and settings are taken over as they are, and so are those of
    an export where the run's method is `fixed_ranks` or `compensated` and names no ranks; of any
    other they are made dense first, and the run's own method starts from dense weights.

    Args:
        place: Of the other.
        name: Of the model.
        options: Keywords of `build_model`.
        classes: Names of the classes that the model is to tell apart.
        statistics: What an adapter that starts from data reads.
        conventions: What the model is to keep of its data, as of `Splits`.

    Returns:
        The model, and facts to record: `init`, `model`, a digest of the `weights`, `head`, a
        sentence where it is started anew or its classes had other names, and `lowrank` or
        `adapter`, the method with what it read off the weights.

    Raises:
        RunError: the two differ in more than the head, the structure of weights and rates of
            dropout, or in the tokens that they read; the message names the first difference.
    """
    source: Any = place.load()
    own = conventions or {}
    differing = different_convention(conventions_of(source), own, ("tokeniser",))
    if differing is not None:
        raise RunError(
            f"init={place.text} learned of other tokens: {differing}; set data.… as it was there"
        )
    facts: dict[str, Any] = {
        "init": place.text,
        "model": source.recipe[0],
        "weights": content_digest(source.state_dict()),
    }
    plain = {key: value for key, value in options.items() if key not in ("lowrank", "adapter")}
    known, adapter = source.recipe.options, options.get("adapter")
    theirs = known.get("lowrank")
    spec = _with_ranks_of(theirs, options.get("lowrank"))
    same_method = spec is not None and _method(theirs) == _method(spec)
    same_preset = adapter is not None and is_preset_of(adapter, known.get("adapter"))
    kept = same_method or same_preset
    try:
        if getattr(source, "lowrank", None) is not None and not kept:
            merge_lowrank(source)
        given = dict(plain)
        if same_method:
            given["lowrank"] = spec
        if same_preset:
            given["adapter"] = facts["adapter"] = known["adapter"]
        model = build_model(name, **given)
        anew, head = _head(model, source, classes)
        refuse_differences(name, given, source)
        take_weights(model, source, head=anew, stem=False)
        if same_method and spec != options["lowrank"]:
            facts["lowrank"] = spec
        if spec is not None and not kept:
            controller = apply_lowrank(model, spec)
            if controller.method.decided():
                assert model.recipe is not None  # it was built by name
                facts["lowrank"] = model.recipe.options["lowrank"]
        if adapter is not None and not kept:
            facts |= put_adapter(model, adapter, statistics)
        if adapter is not None and anew:
            refuse_untrained_head(model)
        elif adapter is not None and head is not None and head_is_frozen(model):
            head += "; the adapter leaves it so, and adapter.train_also=[head] trains it"
    except ValueError as error:
        raise RunError(f"init={place.text}: {' '.join(str(error).split())}") from error
    return model, facts if head is None else {**facts, "head": head}


def warn_of_other_fold(place: ModelPlace, about: Mapping[str, Any]) -> None:
    """Say where the weights of a run learned of other sequences than the run itself learns of.

    Homologues are kept apart by the folds of one run alone: what is tested may have been learned
    of before.

    Args:
        place: Of the weights.
        about: Facts of the run's own data.

    Raises:
        RunError: the record of the other run's data is damaged.
    """
    if place.run is None or "tokeniser" not in about:
        return
    try:
        recorded = place.run.recorded_data() or {}
    except ValueError as error:
        raise RunError(f"init={place.text}: {error}") from error
    theirs = (recorded.get("sha256") or {}).get("train")
    if "tokeniser" in recorded and theirs not in (None, about["sha256"]["train"]):
        log.warning(
            "init=%s: the training fold there is another, and may hold test sequences of this run; "
            "set data.root, target, cluster, similarity and split as they were there",
            place.text,
        )


def _with_ranks_of(theirs: LowRankSpec | None, own: LowRankSpec | None) -> LowRankSpec | None:
    """A run's method, with the ranks of the initial weights where it stands for given ones."""
    if own is None or theirs is None:
        return own
    mine, written = _changed(own), _changed(theirs)
    if mine["name"] not in STANDING or mine["name"] != written["name"] or "ranks" in mine:
        return own
    return {**written, **mine}


def _method(spec: LowRankSpec | None) -> dict[str, Any] | None:
    """A low-rank method and its settings, but for those that decide nothing of stored weights."""
    if spec is None:
        return None
    return {k: v for k, v in _changed(spec).items() if k not in UNDECIDED}


def _changed(spec: LowRankSpec) -> dict[str, Any]:
    """A method's name, and its settings that are not the defaults."""
    written = lowrank_config(spec)
    return {"name": written} if isinstance(written, str) else written


def _head(model: Network, source: Any, classes: Sequence[str] | None) -> tuple[bool, str | None]:
    """Give the source a head of the model's size.

    Returns:
        Whether the head is started anew, and what is to be said of it.
    """
    before, now = source.num_classes, model.num_classes
    # A language model's head is its vocabulary, and often its embedding.
    other = before != now or (_names_tokens(source) and not _names_tokens(model))
    if other and models[str(model.recipe and model.recipe[0])].kind != "tokens":
        source.reset_classifier(now)
        return True, f"head: {before} -> {now} classes, started anew"
    names = conventions_of(source).get("label_names")
    if names is None or classes is None or list(names) == list(classes):
        return False, None
    return False, f"head: kept, though its classes were {_few(names)} and are {_few(classes)}"


def _names_tokens(model: Any) -> bool:
    """Whether the head of an encoder of sequences is over its tokens, and not over classes."""
    return getattr(model, "names_tokens", False)


def _few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


def refuse_differences(name: str, options: Mapping[str, Any], source: Any) -> None:
    """Refuse a source that is built otherwise than a model, but for rates of dropout.

    Args:
        name: Of the model.
        options: Keywords of its builder.
        source: Made by name, too.

    Raises:
        ValueError: naming the first difference.
    """
    theirs, known = source.recipe, models[name].options
    rates = {}
    for key in known:
        if "drop" in key:
            default = models[theirs[0]].options if theirs[0] in models else {}
            fallback = default[key].default if key in default else known[key].default
            rates[key] = theirs.options.get(key, fallback)
    probe: nn.Module = build_empty(name, {**options, **rates})
    difference = first_difference(source, probe)
    if difference is not None:
        raise ValueError(
            f"the model there, {theirs[0]}, is another than model={name} as it is set here: "
            f"{difference}; set model.… as it was there"
        )
