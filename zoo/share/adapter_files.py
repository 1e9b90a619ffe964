"""Adapters saved alone, a few kilobytes each, and loaded beside the weights they were trained on.

A file is safetensors: what stands beside each target, what else was trained or is a buffer, such as
a head or running statistics, and a line that says how the adapter is made and the digest of the
weights that it was trained beside. It is loaded onto no others.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...layers.lowrank import Controller, WeightStructure, structures
from ...layers.lowrank.adapters.adapter import Adapter
from ...layers.lowrank.adapters.remove import base_of, remove_adapters
from ..axes.adapters import apply_adapter
from ..network import Network
from ..recipe import record
from .atomic_write import replacing
from .content_digest import DIGEST, content_digest

__all__ = [
    "AdapterFile",
    "fill",
    "load_adapter",
    "remove_adapter",
    "save_adapter",
    "write_beside",
]

ABOUT = "archzoo_adapter"
COPY = "bring a copy of it back"


@dataclass(frozen=True)
class AdapterFile:
    """What an adapter's file holds.

    Args:
        spec: How it is made: a mapping with `name` and settings.
        targets: Names of the weights it stands beside.
        trained: Names of parameters that were trained beside them.
        base: Digest of all other parameters.
        inside: Tensors of each target's structure, by target and name.
        beside: Parameters and buffers outside of the targets, by full name.
    """

    spec: dict[str, Any]
    targets: list[str]
    trained: list[str]
    base: str
    inside: dict[str, dict[str, Tensor]]
    beside: dict[str, Tensor]

    @classmethod
    def read(cls, path: str | Path) -> "AdapterFile":
        """Read a file that `save_adapter` wrote.

        Raises:
            ValueError: it is missing, damaged, or holds no adapter.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise ValueError(f"no adapter at {path}; {COPY}")
        try:
            with safe_open(str(path), framework="pt") as file:
                about = json.loads((file.metadata() or {}).get(ABOUT, "null"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}; {COPY}") from error
        if about is None:
            raise ValueError(f"{path} holds no adapter of archzoo; name a file of save_adapter")
        if about[DIGEST] != _digest(tensors):
            raise ValueError(f"{path} is damaged: it holds other numbers than were written; {COPY}")
        inside: dict[str, dict[str, Tensor]] = {name: {} for name in about["targets"]}
        beside = {}
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            if kind == "beside":
                beside[name] = tensor
            else:
                target, _, part = name.rpartition("/")
                inside[target][part] = tensor
        return cls(
            about["adapter"], about["targets"], about["trained"], about["base"], inside, beside
        )

    def check_base(self, model: nn.Module, what: str) -> None:
        """Refuse a model whose weights are not those that the adapter was trained beside.

        Args:
            model: Dense, or with adapters.
            what: How the message calls the file.

        Raises:
            ValueError: they differ, or a name is missing.
        """
        known = base_parameters(model)
        missing = [name for name in (*self.trained, *self.beside) if not _has(model, name)]
        names = [name for name in known if name not in self.trained]
        if missing:
            raise ValueError(f"{what} is an adapter of another model: this one has no {missing[0]}")
        for name, tensor in self.beside.items():
            own = _tensor(model, name)
            if own.shape != tensor.shape:
                raise ValueError(
                    f"{what} is an adapter of another model: {name} is {tuple(tensor.shape)} "
                    f"there and {tuple(own.shape)} here"
                )
        if content_digest({name: known[name] for name in names}) != self.base:
            raise ValueError(
                f"{what} is an adapter of other weights, or of these in another precision; load "
                f"the model that it was trained beside"
            )


def base_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that a model has without its adapters, by name, in order of names.

    Raises:
        ValueError: a structure that keeps no weight.
    """
    found: dict[str, Tensor] = {}
    inside: set[int] = set()
    for name, module, structure in structures(model):
        path, _, parameter = name.partition(":")
        matrix = base_of(structure).dense()
        face = module.parametrizations[parameter][0] if parameter else module  # type: ignore
        how = getattr(face, "unfolding", None) or getattr(
            getattr(face, "settings", None), "unfolding", None
        )
        key = f"{path}.{parameter or 'weight'}"
        found[key] = matrix if how is None else how.to_kernel(matrix)
        inside.update(id(p) for p in structure.parameters())
        if parameter:
            inside.add(id(module.parametrizations[parameter].original))  # type: ignore
    for name, parameter in model.named_parameters():
        if id(parameter) not in inside:
            found[name] = parameter
    return {name: found[name].detach() for name in sorted(found)}


def state_beside(model: nn.Module) -> dict[str, Tensor]:
    """Return what is no frozen weight and no adapter: trained parameters and saved buffers."""
    own = {id(t) for _, _, s in structures(model) for t in (*s.parameters(), *s.buffers())}
    kept = model.state_dict()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    buffers = {n: b for n, b in model.named_buffers() if n in kept}
    return {n: t.detach() for n, t in {**trained, **buffers}.items() if id(t) not in own}


def save_adapter(controller: Controller, path: str | Path) -> Path:
    """Write an adapter without the weights that it stands beside, atomically.

    Args:
        controller: What `adapt` or `apply_adapter` returned; `model.lowrank` of a model of the zoo.
        path: The file, such as `adapter.safetensors`.

    Returns:
        The file.

    Raises:
        ValueError: no adapter that was made by name, or one whose base is not what it was.
        OSError: the disk refused; what was at `path` is untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    method = controller.method
    if not isinstance(method, Adapter) or controller.spec is None:
        raise ValueError(
            f"{type(method).__name__} was not made by apply_adapter or adapt by name, so no file "
            f"can say how to make it; save the model"
        )
    if not method.kept_whole:
        raise ValueError(
            f"{type(method).__name__} changes the weight that it stands beside; save the model"
        )
    model, spec = controller.model, controller.spec
    settings: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    found = {name: structure for name, structure in controller.structures()}
    settings["targets"] = list(found)  # of patterns those that have the adapter
    beside = state_beside(model)
    trained = [n for n, p in model.named_parameters() if p.requires_grad and n in beside]
    base = {n: t for n, t in base_parameters(model).items() if n not in trained}
    tensors = {f"beside/{name}": tensor for name, tensor in beside.items()}
    for name, structure in found.items():
        for part, tensor in _own(structure).items():
            tensors[f"inside/{name}/{part}"] = tensor
    # Each in memory of its own: safetensors refuses views of one storage.
    tensors = {key: t.detach().cpu().clone().contiguous() for key, t in tensors.items()}
    about = {
        "adapter": settings,
        "targets": list(found),
        "trained": trained,
        "base": content_digest(base),
        DIGEST: _digest(tensors),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        try:
            save_file(tensors, str(temporary), metadata={ABOUT: json.dumps(about)})
        except SafetensorError as error:
            raise OSError(str(error)) from error
    return path


def load_adapter(model: nn.Module, path: str | Path) -> Controller:
    """Freeze a model and put a saved adapter beside its weights, in place.

    Args:
        model: With the weights that the adapter was trained beside.
        path: A file of `save_adapter`.

    Returns:
        The controller, with which the adapter can be trained on.

    Raises:
        ValueError: the file is missing, damaged, or of other weights; the model has an adapter
            already. The model is then as it was.
    """
    held = AdapterFile.read(path)
    if there := next((name for name, _, _ in structures(model)), None):
        raise ValueError(
            f"{there} has an adapter or factors already; call remove_adapter(model) or merge the "
            f"model first, or hold several adapters in an AdapterSet"
        )
    held.check_base(model, str(path))
    settings = {**held.spec, "targets": held.targets}
    controller = apply_adapter(model, settings)
    try:
        for name, structure in controller.structures():
            fill(structure, held.inside[name], f"{path}: {name}")
    except ValueError:
        remove_adapter(model)
        raise
    write_beside(model, held.beside)
    return controller


def remove_adapter(model: nn.Module) -> list[str]:
    """Take the adapter off a model, in place; its weights are again what they were, bit by bit.

    They stay frozen, and what was trained besides, such as a head, stays as it is.

    Returns:
        Names of the weights.

    Raises:
        ValueError: a weight that keeps no base. The model is then as it was.
    """
    names = remove_adapters(model)
    if isinstance(model, Network):
        model.lowrank = None
        record(model, drop=("adapter",))
    return names


def fill(structure: WeightStructure, tensors: Mapping[str, Tensor], what: str) -> None:
    """Load what stands beside a weight, strictly.

    Raises:
        ValueError: the tensors are not those of the structure.
    """
    own = structure.state_dict()
    kept = {part: tensor for part, tensor in own.items() if part not in _own(structure)}
    try:
        structure.load_state_dict({**kept, **tensors})
    except RuntimeError as error:
        raise ValueError(f"{what}: {' '.join(str(error).split())}") from error


@torch.no_grad()
def write_beside(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Write parameters and buffers outside of targets, all of which are there."""
    for name, tensor in tensors.items():
        _tensor(model, name).copy_(tensor)


def _own(structure: WeightStructure) -> dict[str, Tensor]:
    """Return what a structure keeps beside its frozen weight."""
    return {k: t for k, t in structure.state_dict().items() if not k.startswith("extra.")}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return content_digest({name: tensors[name] for name in sorted(tensors)})


def _has(model: nn.Module, name: str) -> bool:
    try:
        _tensor(model, name)
    except AttributeError:
        return False
    return True


def _tensor(model: nn.Module, name: str) -> Tensor:
    path, _, last = name.rpartition(".")
    return getattr(model.get_submodule(path), last)
