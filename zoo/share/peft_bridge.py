"""Adapters to and from the files of Hugging Face's peft: `adapter_config.json` and its weights.

peft knows LoRA, with DoRA and rsLoRA as its variants, and MiSS, on `nn.Linear` and ungrouped
`nn.Conv2d`. Whatever is one product of two factors becomes a LoRA: A = right, B = left core, and
α = r s. What reads the input, what is no product and what stands beside a raw matrix is refused by
name; `merge_lowrank` and a plain model are then the way to other libraries.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...layers.lowrank import Controller, FactoredConv2d, Factors, WeightStructure
from ...layers.lowrank.adapters.dora import DirectedFactors
from ...layers.lowrank.adapters.miss import SharedSlices
from ..axes.adapters import apply_adapter
from .adapter_files import remove_adapter
from .atomic_write import replacing

__all__ = ["from_peft", "load_peft", "save_peft", "to_peft"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


def to_peft(controller: Controller) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the config and the state dict under which peft knows an adapter.

    Args:
        controller: Of the adapter; what stays trained beside it has no place in them.

    Raises:
        ValueError: something that peft does not know, by the name of its weight.
    """
    tensors: dict[str, Tensor] = {}
    ranks, alphas = {}, {}
    kinds = {type(structure) for _, structure in controller.structures()}
    if len(kinds) != 1:
        raise ValueError(f"peft knows one kind of adapter at a time, and here are {len(kinds)}")
    for name, target in controller.targets.items():
        structure = target.structure
        assert structure is not None
        for key, tensor in _parts(name, target.module, structure).items():
            tensors[f"{PREFIX}{name}.{key}"] = tensor.detach().cpu().clone().contiguous()
        if isinstance(structure, Factors):
            ranks[name] = structure.rank
            alphas[name] = structure.rank * structure.scaling()
        else:
            assert isinstance(structure, SharedSlices)
            ranks[name] = structure.rank
    kind = kinds.pop()
    most = max(set(ranks.values()), key=list(ranks.values()).count)
    config: dict[str, Any] = {
        "peft_type": "MISS" if kind is SharedSlices else "LORA",
        "r": most,
        "target_modules": sorted(ranks),
        "bias": "none",
        "inference_mode": True,
        "modules_to_save": None,
        "base_model_name_or_path": None,
    }
    if kind is SharedSlices:
        if len(set(ranks.values())) > 1:
            raise ValueError("peft has one rank for all weights of MiSS; give a whole number")
        return {**config, "miss_dropout": 0.0, "init_weights": True}, tensors
    alpha = next(alphas[name] for name, rank in ranks.items() if rank == most)
    config |= {
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "use_dora": kind is DirectedFactors,
        "use_rslora": False,
        "init_lora_weights": True,
        "rank_pattern": {_pattern(n): r for n, r in ranks.items() if r != most},
        "alpha_pattern": {_pattern(n): a for n, a in alphas.items() if a != alpha},
    }
    return config, tensors


def from_peft(
    model: nn.Module, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Controller:
    """Freeze a model and put an adapter of peft beside its weights, in place.

    Args:
        model: With the weights that the adapter was trained beside.
        config: What `adapter_config.json` holds.
        tensors: What `adapter_model.safetensors` holds.

    Raises:
        ValueError: a kind or a setting that this package does not have, a weight that is not
            there, or numbers of other sizes. The model is then as it was.
    """
    name, settings = _spec(config)
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        place, _, part = key.removeprefix(PREFIX).partition(".lora_")
        if not part:
            place, _, part = key.removeprefix(PREFIX).partition(".miss_")
        if not part:
            raise ValueError(f"{key} belongs to no adapter of {config['peft_type']}")
        parts.setdefault(place, {})[part.removesuffix(".weight")] = tensor
    if not parts:
        raise ValueError("the adapter has no weights")
    if name != "miss":
        settings |= _of_single_weights(config, list(parts))
    controller = apply_adapter(model, {"name": name, **settings, "targets": list(parts)})
    try:
        for place, structure in controller.structures():
            _fill(place, structure, parts[place])
    except ValueError:
        remove_adapter(model)
        raise
    return controller


def save_peft(controller: Controller, folder: str | Path) -> Path:
    """Write a folder that `peft.PeftModel.from_pretrained` reads.

    Raises:
        ValueError: as `to_peft`.
        OSError: the disk refused; what was in the folder is untouched.
    """
    from safetensors.torch import save_file

    config, tensors = to_peft(controller)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS) as weights, replacing(folder / CONFIG) as text:
        save_file(tensors, str(weights), metadata={"format": "pt"})
        text.write_text(json.dumps(config, indent=2) + "\n")
    return folder


def load_peft(model: nn.Module, folder: str | Path) -> Controller:
    """Put an adapter that peft saved beside the weights of a model, in place.

    Raises:
        ValueError: a file is missing or damaged; as `from_peft`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise ValueError(f"no adapter of peft in {folder}: {file} is missing")
    try:
        config = json.loads((folder / CONFIG).read_text())
        tensors = load_file(str(folder / WEIGHTS))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{folder} is damaged: {error}") from error
    return from_peft(model, config, tensors)


def _parts(name: str, module: nn.Module, structure: WeightStructure) -> dict[str, Tensor]:
    """Return what peft keeps of a weight, under the last parts of its names."""
    kind = type(structure)
    if ":" in name:
        raise ValueError(f"{name} is a raw matrix, which peft cannot adapt; merge the model")
    if isinstance(module, FactoredConv2d) and module.groups > 1:
        raise ValueError(f"{name} is a grouped convolution, which peft shares otherwise; merge it")
    if isinstance(structure, SharedSlices) and not isinstance(module, FactoredConv2d):
        return {"miss_block": structure.left.mT}
    known = kind.linear in (Factors.linear, DirectedFactors.linear)
    if not isinstance(structure, Factors) or not structure.is_matrix or not known:
        raise ValueError(f"{name}: peft does not know {kind.__name__}; merge the model instead")
    left, right = structure.prefix()
    if isinstance(module, FactoredConv2d):
        right, left = module.settings.unfolding.kernels(left, right)
    found = {"lora_A.weight": right, "lora_B.weight": left}
    if isinstance(structure, DirectedFactors):
        length = structure.magnitude
        found["lora_magnitude_vector"] = (
            length.view(1, -1, 1, 1) if isinstance(module, FactoredConv2d) else length
        )
    return found


@torch.no_grad()
def _fill(name: str, structure: WeightStructure, parts: Mapping[str, Tensor]) -> None:
    """Write what peft kept of a weight."""
    if isinstance(structure, SharedSlices):
        parts = {key: tensor.mT for key, tensor in parts.items()}
        wanted: dict[str, Tensor] = {"block": structure.left}
    else:
        assert isinstance(structure, Factors)
        wanted = {"A": structure.right, "B": structure.left}
        if isinstance(structure, DirectedFactors):
            wanted["magnitude_vector"] = structure.magnitude
    if wanted.keys() != parts.keys():
        differing = min(wanted.keys() ^ parts.keys())
        raise ValueError(f"{name}: the adapter and its config disagree on {differing}")
    for key, parameter in wanted.items():
        # The kernels of a convolution have the numbers of its factors, in the same order.
        if parts[key].numel() != parameter.numel():
            raise ValueError(
                f"{name}: {key} is {tuple(parts[key].shape)} in the adapter, and the weight takes "
                f"{tuple(parameter.shape)}; load the model that it was trained beside"
            )
        parameter.copy_(parts[key].reshape(parameter.shape))


def _spec(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the preset and the settings that a config means."""
    kind = config.get("peft_type")
    unknown = {
        "bias": ("none", None),
        "modules_to_save": (None, []),
        "fan_in_fan_out": (False, None),
        "lora_bias": (False, None),
        "use_qalora": (False, None),
        "alora_invocation_tokens": (None,),
        "target_parameters": (None, []),
        "layer_replication": (None,),
    }
    for key, allowed in unknown.items():
        if key in config and config[key] not in allowed:
            raise ValueError(
                f"adapter_config.json: {key}={config[key]!r} is not supported; it must be "
                f"{allowed[0]!r}"
            )
    if kind == "MISS":
        if config.get("init_weights") in ("bat", "mini"):
            raise ValueError(f"MiSS with init_weights={config['init_weights']!r} is not supported")
        if config.get("rank_pattern"):
            raise ValueError("MiSS has one rank for all weights here; rank_pattern must be {}")
        return "miss", {"rank": config["r"]}
    if kind != "LORA":
        raise ValueError(f"adapter_config.json: peft_type={kind!r} is none of LORA and MISS")
    if config.get("use_dora") and config.get("use_rslora"):
        raise ValueError("adapter_config.json: use_dora with use_rslora is not supported")
    name = "dora" if config.get("use_dora") else "rslora" if config.get("use_rslora") else "lora"
    return name, {"rank": config["r"], "alpha": float(config["lora_alpha"])}


def _of_single_weights(config: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Return the ranks and scales of the weights that a pattern of peft's matches, by name."""
    found: dict[str, Any] = {}
    for key, ours in (("rank_pattern", "ranks"), ("alpha_pattern", "alphas")):
        patterns = config.get(key) or {}
        matches = {
            name: [v for pattern, v in patterns.items() if re.match(rf"(.*\.)?({pattern})$", name)]
            for name in names
        }
        given = {name: values[0] for name, values in matches.items() if values}  # as peft does
        if given:
            found[ours] = given
    return found


def _pattern(name: str) -> str:
    return name.replace(".", "\\.")
