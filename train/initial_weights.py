"""The weights that a run starts from: those of another run or of a saved model, for `init=`.

All that the two models have in common is taken over, which is everything but the head where the
number of classes differs, and the structure of factored weights where that of the run is another.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.lowrank import Target
from ..layers.lowrank.adapters.adapter import Adapter, Statistics
from ..layers.lowrank.adapters.lora_xs import mean_gradients
from ..zoo.axes.adapters import AdapterSpec, adapter_config, apply_adapter, make_adapter
from ..zoo.axes.lowrank import LowRankSpec, apply_lowrank, lowrank_config, merge_lowrank
from ..zoo.models import build_model, models
from ..zoo.network import Network
from ..zoo.recipe import first_difference
from ..zoo.share.content_digest import content_digest
from ..zoo.share.pretrained import PRETRAINED
from ..zoo.share.save_load import build_empty
from ..zoo.share.transfer_weights import take_weights
from .data import Splits
from .engine.metrics import loss_for
from .errors import RunError
from .subject.given_model import ModelPlace, find_model

__all__ = ["build_from", "gradients_of", "initial_place", "whole_place"]

SAMPLES = 50
"""How many training samples an adapter reads that starts from gradients."""


def whole_place(init: str) -> str:
    """Return the same place for a reader in any folder: a path from the root on."""
    if init.startswith(("hf-hub:", PRETRAINED)) or init in models:
        return init
    return str(Path(init.removeprefix("local-dir:")).absolute())


def initial_place(init: str) -> ModelPlace:
    """Find the weights to start from.

    Raises:
        RunError: there is no such model, or it has no weights.
    """
    try:
        place = find_model(init)
    except RunError as error:
        raise RunError(f"init: {error}") from error
    if not place.trained:
        raise RunError(
            f"init={init} is a registered name, which has no weights; name a run, the folder of a "
            f"saved model, hf-hub:OWNER/NAME or pretrained:NAME"
        )
    return place


def build_from(
    place: ModelPlace,
    name: str,
    options: Mapping[str, Any],
    classes: Sequence[str] | None = None,
    statistics: Statistics | None = None,
) -> tuple[Network, dict[str, Any]]:
    """Build a model with the weights of another.

    Factored weights of the same method and settings are taken over as they are; of any other they
    are made dense first, and the run's own method starts from dense weights.

    Args:
        place: Of the other.
        name: Of the model.
        options: Keywords of `build_model`.
        classes: Names of the classes that the model is to tell apart.
        statistics: What an adapter that starts from data reads.

    Returns:
        The model, and facts to record: `init`, `model`, a digest of the `weights`, `head`, a
        sentence where it is started anew or its classes had other names, and `lowrank` or
        `adapter`, the method with what it read off the weights.

    Raises:
        RunError: the two differ in more than the head, the structure of weights and rates of
            dropout; the message names the first difference.
    """
    source: Any = place.load()
    facts: dict[str, Any] = {
        "init": place.text,
        "model": source.recipe[0],
        "weights": content_digest(source.state_dict()),
    }
    plain = {key: value for key, value in options.items() if key not in ("lowrank", "adapter")}
    spec, adapter = options.get("lowrank"), options.get("adapter")
    known = source.recipe.options
    kept = spec is not None and _method(known.get("lowrank")) == _method(spec)
    kept |= adapter is not None and _preset(known.get("adapter")) == _preset(adapter)
    try:
        if getattr(source, "lowrank", None) is not None and not kept:
            merge_lowrank(source)
        given = dict(options) if kept else plain
        if kept and adapter is not None:
            given["adapter"] = facts["adapter"] = known["adapter"]
        model = build_model(name, **given)
        anew, head = _head(model, source, classes)
        _refuse_differences(name, given, model, source)
        take_weights(model, source, head=anew, stem=False)
        if spec is not None and not kept:
            controller = apply_lowrank(model, spec)
            if controller.method.decided():
                assert model.recipe is not None  # it was built by name
                facts["lowrank"] = model.recipe.options["lowrank"]
        if adapter is not None and not kept:
            facts |= _adapt(model, adapter, statistics)
        if adapter is not None and anew:
            _refuse_untrained_head(model)
    except ValueError as error:
        raise RunError(f"init={place.text}: {' '.join(str(error).split())}") from error
    return model, facts if head is None else {**facts, "head": head}


def _method(spec: LowRankSpec | None) -> dict[str, Any] | None:
    """A low-rank method and its settings, but for those that decide nothing of stored weights."""
    if spec is None:
        return None
    written = lowrank_config(spec)
    settings = {"name": written} if isinstance(written, str) else written
    return {k: v for k, v in settings.items() if k not in ("seed", "learning_rate_ratio")}


def _preset(spec: AdapterSpec | None) -> dict[str, Any] | None:
    """A preset and its settings, but for those that decide nothing of stored weights."""
    if spec is None:
        return None
    written = adapter_config(spec)
    settings = {"name": written} if isinstance(written, str) else written
    decided = make_adapter(spec).decided()
    free = ("seed", "learning_rate_ratio", "train_also", "total_steps", *decided)
    return {k: v for k, v in settings.items() if k not in free}


def _adapt(model: Network, spec: AdapterSpec, statistics: Statistics | None) -> dict[str, Any]:
    """Put an adapter beside the weights, and return what it read off them."""
    reads = make_adapter(spec).reads
    controller = apply_adapter(model, spec, statistics=statistics if reads else None)
    assert isinstance(controller.method, Adapter) and model.recipe is not None
    return {"adapter": model.recipe.options["adapter"]} if controller.method.decided() else {}


def _refuse_untrained_head(model: Network) -> None:
    """Refuse a head that is drawn anew and never trained.

    Raises:
        ValueError: with what trains it.
    """
    if not any(p.requires_grad for p in model.get_classifier().parameters()):
        raise ValueError(
            "the data have other classes, so the head is started anew, and the adapter would leave "
            "it as it is drawn; set adapter.train_also=[head]"
        )


def gradients_of(splits: Splits) -> Statistics:
    """Return what reads the mean gradients of a model's targets off a few training samples."""

    def read(model: nn.Module, targets: Mapping[str, Target]) -> Mapping[str, Tensor]:
        count = min(SAMPLES, len(splits.train))
        order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))
        batch = splits.train.__getitems__([(0, int(place)) for place in order[:count]])
        measure, device = loss_for(model), next(model.parameters()).device

        def loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            inputs, labels = (part.to(device) for part in batch)
            return measure(net(inputs), labels, 0.0)

        return mean_gradients([batch], loss)(model, targets)

    return read


def _head(model: Network, source: Any, classes: Sequence[str] | None) -> tuple[bool, str | None]:
    """Give the source a head of the model's size.

    Returns:
        Whether the head is started anew, and what is to be said of it.
    """
    before, now = source.num_classes, model.num_classes
    # A language model's head is its vocabulary, and often its embedding.
    if before != now and models[str(model.recipe and model.recipe[0])].kind != "tokens":
        source.reset_classifier(now)
        return True, f"head: {before} -> {now} classes, started anew"
    names = getattr(source, "conventions", {}).get("label_names")
    if names is None or classes is None or list(names) == list(classes):
        return False, None
    return False, f"head: kept, though its classes were {_few(names)} and are {_few(classes)}"


def _few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


def _refuse_differences(name: str, options: Mapping[str, Any], model: Network, source: Any) -> None:
    """Refuse a source that is built otherwise than the model, but for rates of dropout.

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
