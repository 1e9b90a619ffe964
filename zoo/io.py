"""Save and share a model as a folder of two files, and rebuild it. Nothing is ever unpickled.

`config.json` holds the registered name and the changed keywords, `model.safetensors` the weights.
Both are written under a temporary name and renamed, so a folder never holds half a file.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from .files import replacing
from .lowrank import saved_lowrank
from .models import build_model, models
from .network import Network
from .residuals import residual_config

__all__ = [
    "load_from_hub",
    "load_model",
    "load_weights",
    "push_to_hub",
    "save_model",
    "save_weights",
]

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a state dict as safetensors, tied tensors once, atomically.

    Raises:
        OSError: the disk refused; what was at `path` is untouched.
    """
    from safetensors.torch import save_model as write

    with replacing(path) as temporary:
        write(model, str(temporary))


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
        raise ValueError(f"no weights at {path}")
    try:
        missing, unexpected = read(model, str(path), strict=False)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
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


def save_model(model: Network, folder: str | Path) -> Path:
    """Write a model that `create_model` built as `config.json` and `model.safetensors`.

    Returns:
        The folder, made where it was missing.

    Raises:
        ValueError: the model has no recipe, a keyword that JSON cannot hold, or weights with a
            structure that the recipe does not know.
    """
    if model.recipe is None:
        raise ValueError("only a model made by create_model can be saved: its name is unknown")
    name, options = model.recipe
    config: dict[str, Any] = {"name": name, "options": dict(options)}
    if "residual" in options:
        config["options"]["residual"] = residual_config(options["residual"])
    lowrank = saved_lowrank(model, config["options"].pop("lowrank", None))
    if lowrank is not None:
        config["options"]["lowrank"] = lowrank
    try:
        text = json.dumps(config, indent=2) + "\n"
    except TypeError as error:
        raise ValueError(f"{name}: the keywords {dict(options)} are not JSON: {error}") from error
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder / WEIGHTS)
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(text)
    return folder


def load_model(folder: str | Path, overrides: Mapping[str, Any]) -> Network:
    """Rebuild a saved model; overrides change keywords that leave the weights' shapes alone.

    Raises:
        ValueError: the folder, its config or its weights are missing, damaged or of another model.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ValueError(f"no saved model in {folder}: {CONFIG} is missing")
    try:
        config = json.loads(path.read_text())
        name, options = config["name"], dict(config["options"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if name not in models:
        raise ValueError(f"{path} names the model {name!r}, which this version does not have")
    try:
        model = build_model(name, **{**options, **overrides})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    # The recipe beside the weights says where they lie, unless an override says otherwise.
    load_weights(model, Path(folder) / WEIGHTS, built_curvature="curvature" not in overrides)
    return model


def load_from_hub(repository: str, overrides: Mapping[str, Any]) -> Network:
    """Download `config.json` and `model.safetensors` of a hub repository and rebuild the model.

    Args:
        repository: `OWNER/NAME`, or `OWNER/NAME@REVISION`.
        overrides: As in `load_model`.
    """
    from huggingface_hub import snapshot_download

    name, _, revision = repository.partition("@")
    folder = snapshot_download(name, revision=revision or None, allow_patterns=[CONFIG, WEIGHTS])
    return load_model(folder, overrides)


def push_to_hub(model: Network, repository: str, *, private: bool = False) -> str:
    """Upload a model to the Hugging Face hub and return the commit's address.

    Args:
        model: A model that `create_model` built.
        repository: `OWNER/NAME`; made where it is missing.
        private: Whether a new repository is private.
    """
    import tempfile

    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, folder)
        commit = api.upload_folder(repo_id=repository, folder_path=folder)
    return str(commit)
