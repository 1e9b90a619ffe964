"""Save and share a model as a folder of two files, and rebuild it. Nothing is ever unpickled.

`config.json` holds the registered name and the changed keywords, `model.safetensors` the weights.
Both are written under temporary names and renamed, so a folder never holds half a file, and a model
that would not come back as it is is refused before the first byte.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..axes.adapters import saved_adapter
from ..axes.lowrank import saved_lowrank
from ..axes.residuals import residual_config
from ..backbones.timm_vit import TIMM, build_converted
from ..models import build_model, models
from ..network import Network
from ..recipe import Recipe, first_difference
from ..user_modules import missing_modules, modules_of
from .atomic_write import replacing
from .content_digest import DIGEST, content_digest
from .model_card import README, hub_readme, plain_card
from .transfer_weights import take_weights
from .weights_card import WeightsCard

__all__ = [
    "CONFIG",
    "COPY",
    "RESHAPING",
    "WEIGHTS",
    "build_empty",
    "hub_folder",
    "load_from_hub",
    "load_model",
    "load_weights",
    "push_to_hub",
    "read_about",
    "save_model",
    "save_weights",
]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
COPY = "bring a copy of it back"
ABOUT = "archzoo"
"""Under which key a file of weights says what it is; earlier versions had the digest alone."""

RESHAPING = {"num_classes": ("label_names",), "in_chans": ("input_size", "mean", "std")}
"""Keywords that change the shapes of weights, and what conventions go with each."""

logger = logging.getLogger(__name__)


def save_weights(model: nn.Module, path: Path, about: Mapping[str, str] | None = None) -> None:
    """Write a state dict as safetensors, tied tensors once, atomically.

    Args:
        model: Whose weights.
        path: The file.
        about: What else the file says, which `read_about` returns.

    Raises:
        OSError: the disk refused; what was at `path` is untouched.
    """
    with replacing(path) as temporary:
        _write(model, temporary, about or {})


def _write(model: nn.Module, path: Path, about: Mapping[str, str]) -> None:
    """Write weights with a digest of them.

    Raises:
        OSError: the disk refused.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_model as write

    digest = _weights_digest(model.state_dict().values())
    # Under one key: safetensors writes several in an order of chance, and files would differ.
    metadata = {ABOUT: json.dumps({**about, DIGEST: digest})}
    try:
        write(model, str(path), metadata=metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def read_about(path: Path) -> dict[str, str]:
    """Read what a file of weights says beside them.

    Raises:
        ValueError: the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"no weights at {path}; {COPY}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
        return dict(json.loads(metadata[ABOUT])) if ABOUT in metadata else metadata
    except (SafetensorError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}; {COPY}") from error


def _weights_digest(tensors: Iterable[Tensor]) -> str:
    """A digest of tensors, each once, in any order: which names share one is not the file's."""
    own = {(t.untyped_storage().data_ptr(), t.storage_offset(), t.shape): t for t in tensors}
    return content_digest(sorted(content_digest(t) for t in own.values() if t.numel()))


def load_weights(model: nn.Module, path: Path, *, built_curvature: bool = False) -> None:
    """Read weights that `save_weights` wrote.

    Args:
        model: What they belong to.
        path: The file.
        built_curvature: Whether a file of a version that did not record curvatures is read in the
            ball that the model was built with, where the caller knows that it is the right one.

    Raises:
        ValueError: the file is missing, damaged, or of another architecture, or does not say in
            which ball its weights lie.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model as read

    if not path.is_file():
        raise ValueError(f"no weights at {path}; {COPY}")
    try:
        _check_digest(path)
        missing, unexpected = read(model, str(path), strict=False)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}; {COPY}") from error
    except RuntimeError as error:
        raise ValueError(f"{path} holds weights of another model: {error}") from error
    unknown = [key for key in missing if key.endswith("curvature._extra_state")]
    other = sorted({*missing, *unexpected} - set(unknown))
    if other:
        raise ValueError(f"{path} holds weights of another model: {', '.join(other)} differ")
    if unknown and not built_curvature:
        raise ValueError(
            f"{path} does not say in which ball its weights lie: it is of a version that did not "
            f"record curvatures ({unknown[0]}); build the model with the curvature it was trained "
            f"from and pass built_curvature=True"
        )


def _check_digest(path: Path) -> None:
    """Refuse weights that are not those that were written; earlier versions wrote no digest.

    Raises:
        ValueError: they differ.
        SafetensorError: the file is damaged so far that it cannot be read.
    """
    from safetensors import safe_open

    digest = read_about(path).get(DIGEST)
    with safe_open(str(path), framework="pt") as file:
        if digest and digest != _weights_digest([file.get_tensor(key) for key in file.keys()]):  # noqa: SIM118
            raise ValueError(
                f"{path} is damaged: its weights are not those that were written; {COPY}"
            )


def save_model(model: nn.Module, folder: str | Path) -> Path:
    """Write a model that `create_model` built as `config.json` and `model.safetensors`.

    Before anything is written, the model is built again from that config, without memory for
    weights, and compared; both files are written in full before either takes its place.

    Args:
        model: Of the zoo, or a timm model that `with_residual` converted.
        folder: Made where it is missing.

    Returns:
        The folder.

    Raises:
        ValueError: the model has no recipe, a keyword that JSON cannot hold, or anything that its
            recipe does not rebuild; the message names the first difference.
        OSError: the disk refused; what was in the folder is untouched.
    """
    written = _checked_config(model)
    # Each names the other, so that neither is taken for that of another model.
    about = {CONFIG: content_digest(written)}
    text = json.dumps({**written, WEIGHTS: _weights_digest(model.state_dict().values())}, indent=2)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS) as weights, replacing(folder / CONFIG) as config:
        _write(model, weights, about)
        config.write_text(text + "\n")
    return folder


def _checked_config(model: nn.Module) -> dict[str, Any]:
    """Write a model's recipe as JSON holds it, after a look at what is built from it.

    Raises:
        ValueError: as `save_model`.
    """
    recipe: Recipe | None = getattr(model, "recipe", None)
    if recipe is None:
        because = getattr(model, "lost_recipe", None) or "its name is unknown"
        raise ValueError(f"only a model made by create_model can be saved: {because}")
    name, options = recipe.name, dict(recipe.options)
    if "residual" in options:
        options["residual"] = residual_config(options["residual"])
    lowrank, adapter = options.pop("lowrank", None), options.pop("adapter", None)
    if adapter is not None and isinstance(model, Network):
        adapter = saved_adapter(model, adapter)
    else:
        lowrank = saved_lowrank(model, lowrank)
    if adapter is not None:
        options["adapter"] = adapter
    if lowrank is not None:
        options["lowrank"] = lowrank
    written: dict[str, Any] = {"name": name, "options": options}
    if conventions := getattr(model, "conventions", None):
        written["data"] = conventions
    if imports := modules_of(name, options):
        written["imports"] = imports
    try:
        config = json.loads(json.dumps(written))
    except TypeError as error:
        raise ValueError(f"{name}: the keywords {options} are not JSON: {error}") from error
    for place, tensor in model.state_dict().items():
        if tensor.is_meta:
            raise ValueError(f"{name}: {place} is on the meta device and has no values to save")
    try:
        difference = first_difference(model, build_empty(config["name"], config["options"]))
    except ValueError as error:
        difference = str(error)
    if difference is not None:
        raise ValueError(
            f"this {name} cannot be saved, because its recipe does not rebuild it: {difference}. "
            f"Change models by their own functions (reset_classifier, set_global_pool, "
            f"use_hyperbolic_head, with_residual, apply_lowrank), or register a model of your own"
        )
    return config


def _build(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Build what a config names.

    Raises:
        ValueError: an unknown name or keyword, or a value out of range.
    """
    if name.startswith(TIMM):
        return build_converted(name, options)
    return build_model(name, **options)


def build_empty(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Build a model without memory for weights, and without touching the random state."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return _build(name, options)
        except (NotImplementedError, RuntimeError):
            return _build(name, options)  # a builder that looks at numbers needs some


def load_model(folder: str | Path, **overrides: Any) -> Any:
    """Rebuild a saved model; overrides change keywords, of which two may change weights' shapes.

    Another `num_classes` leaves the classifier fresh. With another `in_chans` the first layer takes
    its weights over, if it is a plain convolution: their sum for one channel, else repeated and
    scaled, as timm does; another kind of first layer stays fresh. What stays fresh is logged.

    Nothing from outside this package is imported: a module that registers what the model is made
    of must have been.

    Args:
        folder: That `save_model` wrote.
        overrides: Keywords of the builder.

    Raises:
        ValueError: the folder, its config or its weights are missing, damaged or of another model.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ValueError(f"no saved model in {folder}: {CONFIG} is missing; {COPY}")
    try:
        config = json.loads(path.read_text())
        name, options = config["name"], dict(config["options"])
        conventions = dict(config.get("data", {}))
        missing = missing_modules(config.get("imports", ()))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}; {COPY}") from error
    needs = (
        f"{path} was made with imports=[{', '.join(missing)}]: put it on PYTHONPATH and import it"
    )
    if name not in models and not str(name).startswith(TIMM):
        unknown = f"{path} names the model {name!r}, which this version does not have"
        raise ValueError(needs if missing else unknown)
    try:
        model = _build(name, {**options, **overrides})
        changed = [key for key in RESHAPING if _changes(name, options, overrides, key)]
        source = _build(name, options) if changed else model
    except ValueError as error:
        raise ValueError(f"{needs} ({error})" if missing else f"{path}: {error}") from error
    _check_pair(Path(folder), config)
    # The recipe beside the weights says where they lie, unless an override says otherwise.
    load_weights(source, Path(folder) / WEIGHTS, built_curvature="curvature" not in overrides)
    if changed:
        try:
            head, stem = (key in changed for key in RESHAPING)
            fresh = take_weights(model, source, head=head, stem=stem)
        except ValueError as error:
            raise ValueError(f"{Path(folder) / WEIGHTS} {error}") from error
        for part in fresh:
            logger.warning(
                "%s: %s is fresh, because %s changed", folder, part, " and ".join(changed)
            )
    if isinstance(model, Network):
        of_others = {fact for key in changed for fact in RESHAPING[key]}
        model.follow_data(**{k: v for k, v in conventions.items() if k not in of_others})
    return model


def _check_pair(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a config and weights that were not written together; earlier versions did not say.

    Raises:
        ValueError: one of them is damaged or of another model.
    """
    recipe = dict(config)
    weights, about = recipe.pop(WEIGHTS, None), read_about(folder / WEIGHTS)
    if weights is None or DIGEST not in about:
        return
    if (weights, content_digest(recipe)) != (about.get(DIGEST), about.get(CONFIG)):
        raise ValueError(
            f"{folder / CONFIG} and {WEIGHTS} beside it were not written together: one is damaged, "
            f"changed or of another model; bring both from one place, or take the line {WEIGHTS!r} "
            f"out of {CONFIG} to use them so"
        )


def _changes(name: str, options: Mapping[str, Any], overrides: Mapping[str, Any], key: str) -> bool:
    if key not in overrides:
        return False
    default = models[name].options[key].default if name in models else None
    return overrides[key] != options.get(key, default)


def load_from_hub(repository: str, **overrides: Any) -> Any:
    """Download `config.json` and `model.safetensors` of a hub repository and rebuild the model.

    Args:
        repository: `OWNER/NAME`, or `OWNER/NAME@REVISION`.
        overrides: As in `load_model`.
    """
    return load_model(hub_folder(repository), **overrides)


def hub_folder(repository: str) -> Path:
    """Download what `save_model` wrote from a hub repository, and return the folder.

    Args:
        repository: `OWNER/NAME`, or `OWNER/NAME@REVISION`.

    Raises:
        OSError: the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    name, _, revision = repository.partition("@")
    revised = revision or None
    return Path(snapshot_download(name, revision=revised, allow_patterns=[CONFIG, WEIGHTS]))


def push_to_hub(
    model: nn.Module, repository: str, *, private: bool = False, card: WeightsCard | None = None
) -> str:
    """Upload a model with a model card to the Hugging Face hub; return the commit's address.

    Args:
        model: As in `save_model`.
        repository: `OWNER/NAME`; made where it is missing.
        private: Whether a new repository is private.
        card: Facts of its training, as `archzoo.train.subject.run_card` reads them off a run; None
            writes what the model says of itself, and leaves a README.md that is there as it is.

    Raises:
        ValueError: as `save_model`; nothing is made on the hub then.
    """
    import tempfile

    from huggingface_hub import HfApi

    api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, folder)  # first, so that a refusal leaves no empty repository behind
        text = hub_readme(card or plain_card(model), repository)
        api.create_repo(repository, private=private, exist_ok=True)
        if card is not None or not api.file_exists(repository, README):
            Path(folder, README).write_text(text)
        commit = api.upload_folder(repo_id=repository, folder_path=folder)
    return str(commit)
