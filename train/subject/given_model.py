"""A model by where it is: a run, a saved model, the hub, pretrained weights, or a name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...zoo.models import build_model, models
from ...zoo.network import Network
from ...zoo.registry import nearest
from ...zoo.share.create import create_model
from ...zoo.share.pretrained import PRETRAINED, card_of
from ...zoo.share.save_load import CONFIG, WEIGHTS
from ...zoo.share.timm_weights import TIMM_TAG
from ...zoo.share.weights_card import WeightsCard
from ..check import data_facts
from ..data import Splits
from ..engine.saved.run_folder import RunFolder
from ..errors import RunError
from ..user_imports import import_parts

__all__ = ["DAMAGED", "ModelPlace", "find_model", "find_run"]

# What a config that someone edited or cut short makes a look-up raise.
DAMAGED = (ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class ModelPlace:
    """Where a model is.

    Args:
        text: What the command was given.
        address: What `create_model` takes.
        run: The folder of its run, if it is of one.
        config: The resolved config of that run.
        data: Name of the data set of that run, or of pretrained weights.
        data_options: Keywords of that data set.
        card: Of pretrained weights.
    """

    text: str
    address: str
    run: RunFolder | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    data_options: Mapping[str, Any] = field(default_factory=dict)
    card: WeightsCard | None = None

    @property
    def trained(self) -> bool:
        """Whether weights are stored there; a registered name has none."""
        return ":" in self.address

    @property
    def folder(self) -> Path | None:
        """The folder of the run or of the saved model; None where it is a name or on a hub."""
        saved = self.address.partition("local-dir:")[2]
        return Path(saved) if saved else None

    def load(self, **overrides: Any) -> Network:
        """Build the model with its weights, in eval mode on the CPU.

        Raises:
            RunError: it cannot be rebuilt, or the hub cannot be reached.
        """
        try:
            return create_model(self.address, **overrides).eval()
        except (ValueError, OSError) as error:
            raise RunError(f"{self.text}: {' '.join(str(error).split())}") from error

    def build(self, splits: Splits, seed: int = 0) -> Network:
        """Build a registered name for some data, with the weights that a seed draws.

        Raises:
            RunError: the model cannot be built for them.
        """
        facts = data_facts(
            splits.kind, splits.shape, splits.num_classes, splits.graph, splits.vocab_size
        )
        known = {k: v for k, v in facts.items() if k in models[self.address].options}
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = build_model(self.address, **known).eval()
        except ValueError as error:
            raise RunError(f"{self.text}: {error}") from error
        if splits.graph is not None:
            model.follow_graph(splits.graph.edges, splits.graph.features)
        model.follow_data(**splits.conventions())
        return model


def find_model(text: str, imports: Sequence[str] | None = None) -> ModelPlace:
    """Find out what a command was given as a model.

    Args:
        text: The folder of a run that has ended; the folder of a saved model, or one of its two
            files; `local-dir:FOLDER`; `hf-hub:OWNER/NAME`; `pretrained:NAME/TAG`, or
            `pretrained:NAME` for the first of its weights; or a registered name.
        imports: Modules with parts of the user's own; None is those that a run recorded.

    Raises:
        RunError: it is none of these, a run that has not ended, or a module is missing.
    """
    if text.startswith("hf-hub:"):
        import_parts(imports or ())
        return ModelPlace(text, text)
    if text.startswith(PRETRAINED):
        return _pretrained(text)
    path = Path(text.removeprefix("local-dir:"))
    if path.name in (CONFIG, WEIGHTS) and path.is_file():
        path = path.parent
    if (path / "config.yaml").is_file():
        return find_run(str(path), imports)
    import_parts(imports or ())
    if (path / CONFIG).is_file():
        return ModelPlace(text, f"local-dir:{path}")
    if text in models:
        return ModelPlace(text, text)
    if path.exists():
        raise RunError(
            f"{text} holds no run that began and no saved model; name a folder with config.yaml or "
            f"with {CONFIG} and {WEIGHTS}"
        )
    how = f"; there is no such folder, and no model of that name{nearest(text, models.names())}"
    raise RunError(f"{text} is no model{how}")


def _pretrained(text: str) -> ModelPlace:
    """Find pretrained weights, and the data that their card is of.

    Raises:
        RunError: there are none of that name.
    """
    name, _, tag = text.removeprefix(PRETRAINED).partition("/")
    if tag == TIMM_TAG:
        return ModelPlace(text, text)
    try:
        card = card_of(name, tag or True)
    except ValueError as error:
        raise RunError(f"{text}: {error}") from error
    options = dict(card.data)
    data = options.pop("name", None)
    return ModelPlace(text, f"{PRETRAINED}{card.name}", None, {}, data, options, card)


def find_run(run: str, imports: Sequence[str] | None = None) -> ModelPlace:
    """Read what a run that has ended recorded, and import the modules that it was trained with.

    Args:
        run: Its folder.
        imports: Modules with parts of the user's own; None is those that the run recorded.

    Raises:
        RunError: no run, one that has not ended, damaged files, or a module that is missing.
    """
    folder = RunFolder(Path(run))
    written = folder.read_config()
    if not folder.result.is_file():
        raise RunError(f"run={run} has not ended; finish it with resume={run}")
    try:
        options = dict(written["data"])
        data = str(options.pop("name"))
        recorded = [str(name) for name in written.get("imports") or ()]
    except DAMAGED as error:
        said = " ".join(str(error).split())
        raise RunError(f"{folder.config} is damaged: {said}; name another run") from error
    if imports is None:
        import_parts(recorded, f"run={run}")
    else:
        import_parts(imports)
    return ModelPlace(run, f"local-dir:{run}", folder, written, data, options)
