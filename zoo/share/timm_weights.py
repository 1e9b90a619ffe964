"""Start a Vision Transformer from timm's weights: its own names, shapes and residual.

timm's class token has a position of its own, which is folded into ours; everything else has the
same shape under another name. The model is built with the residual `add`, takes the weights, and
gets its mechanism by `with_residual`, so its outputs are timm's where the mechanism starts equal to
`add`.

A model of the hyperboloid takes the weights too: its time columns stay the zeros that they start
as, so that all its layers but attention, the norms of queries and keys, and the head are timm's. A
head that is not linear stays fresh.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..models import build_model, model_info
from ..recipe import record
from ..transform.residual import with_residual

__all__ = ["TIMM_NAMES", "TIMM_TAG", "load_from_timm"]

TIMM_TAG = "timm"
TIMM_NAMES = {
    f"vit_{size}{variant}": f"vit_{size}_patch16_224"
    for size in ("tiny", "small", "base")
    for variant in ("", "_block_attnres")
}
"""Our models that timm has weights for, and timm's names of them."""

RESAMPLED = ("num_classes", "in_chans", "img_size")
"""Keywords that timm adapts its weights to."""

KEPT = ("mean", "std", "crop_pct", "crop_mode", "interpolation")

OF_CURVED = re.compile(r"\.(time_weight|log_gain|log_ratio|curvature\._extra_state)$|\.[qk]_norm\.")
"""What a model of the hyperboloid has beside the parameters of its flat twin."""


def load_from_timm(name: str, **overrides: Any) -> Any:
    """Build a model with the weights of timm's model of its size.

    Args:
        name: One of `TIMM_NAMES`.
        overrides: Keywords of the builder; timm adapts its weights to `num_classes`, `in_chans`
            and `img_size`.

    Raises:
        ValueError: timm has no such model, the overrides change shapes, or the residual does not
            start equal to `add`.
        OSError: the weights cannot be fetched.
    """
    entry = model_info(name)
    if name not in TIMM_NAMES:
        raise ValueError(
            f"timm has no weights for {name}; pretrained='timm' is for {', '.join(TIMM_NAMES)}"
        )
    import timm

    for key in ("lowrank", "adapter", "classifier"):
        if overrides.pop(key, None) is not None:
            raise ValueError(
                f"{name}, pretrained='timm': {key} would replace weights; leave it out, and use "
                f"apply_lowrank, apply_adapter or use_named_head on the model"
            )
    default = entry.options["residual"].default
    spec = overrides.pop("residual", default)
    model: Any = build_model(name, residual="add", **overrides)
    keywords = {key: overrides[key] for key in RESAMPLED if key in overrides}
    try:
        theirs: Any = timm.create_model(TIMM_NAMES[name], pretrained=True, **keywords)
    except RuntimeError as error:
        raise ValueError(f"timm cannot give {TIMM_NAMES[name]} its weights: {error}") from error
    _take(model, _translated(theirs.state_dict()), name, overrides)
    facts = theirs.pretrained_cfg
    model.follow_data(**{key: facts[key] for key in KEPT if facts.get(key) is not None})
    if spec == "add":
        return model
    try:
        model = with_residual(model, spec)
    except ValueError as error:
        raise ValueError(
            f"{name}, pretrained='timm': {error}; that is with_residual of a model made with "
            f"residual='add'"
        ) from error
    if spec == default:
        record(model, drop=("residual",))
    return model


def _translated(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give timm's weights our names."""
    taken = dict(state)
    token, position = taken.pop("cls_token"), taken.pop("pos_embed")
    ours = {"prefix": token + position[:, :1], "pos_embed": position[:, 1:]}
    for key, value in taken.items():
        block = re.match(r"blocks\.(\d+)\.(norm|attn|mlp)([12]?)\.(.*)", key)
        if block is None:
            ours[key] = value
            continue
        number, part, which, rest = block.groups()
        second = part == "mlp" or which == "2"
        room = "norms" if part == "norm" else "branches"
        ours[f"trunk.{room}.{2 * int(number) + second}.{rest}"] = value
    return ours


def _take(model: Any, state: dict[str, Tensor], name: str, overrides: Mapping[str, Any]) -> None:
    """Load weights into a model whose extra prefix tokens, its registers, stay fresh.

    Raises:
        ValueError: a weight is in one of the two only, or has another shape.
    """
    own, first = model.state_dict(), state.pop("prefix")
    registers = own.pop("prefix")[:, 1:]
    if model.shared.get("coordinates") == "space":
        own = {key: value for key, value in own.items() if not OF_CURVED.search(key)}
        if not isinstance(model.head, nn.Linear):
            own, state = (
                {key: value for key, value in weights.items() if not key.startswith("head.")}
                for weights in (own, state)
            )
    odd = sorted(own.keys() ^ state.keys())
    odd += [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if odd:
        raise ValueError(
            f"{TIMM_NAMES[name]} of timm has another {odd[0]} than {name} with "
            f"{dict(overrides)}; leave out what changes shapes"
        )
    # What is in one of the two only was refused above, or stays fresh.
    taken = {**state, "prefix": torch.cat([first, registers], 1)}
    model.load_state_dict(taken, strict=False)
