"""The function that a certificate speaks of: the stored weights, evaluated in float64.

Weights are taken exactly as they are stored. A layer that computes its weights from parameters
keeps the weights that it uses in its own precision; they are widened, not computed anew.
"""

import copy
import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...layers.lipschitz import LipschitzLayer
from ...layers.lowrank import Factors, merge, remove_parametrization, structures
from ...layers.lowrank.replace_module import replace_module
from .rules import Seen

__all__ = ["Scaled", "deployed", "hooked_modules", "look", "refuse_nan"]


class Scaled(nn.Module):
    """A model behind a division by std, so that it reads inputs in the units of ε.

    Args:
        model: Reads x = (pixel − mean)/std.
        std: Per channel, above 0.

    Shape:
        x · std, (N, C, …) -> what the model returns.
    """

    def __init__(self, model: nn.Module, std: Tensor) -> None:
        """Keep the parts."""
        super().__init__()
        self.model = model
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        """Divide and run the model."""
        std: Any = self.std
        return self.model(x / std.view(-1, *[1] * (x.dim() - 2)))


def deployed(model: nn.Module) -> nn.Module:
    """Return a copy on the CPU in float64 and evaluation that computes with the stored weights.

    A weight made of factors becomes their product: of widened factors where the layer applies them
    one after the other, and in their own precision where the layer consumes the product.
    """
    wide = copy.deepcopy(model).cpu().eval()
    for parameter in wide.parameters():
        parameter.requires_grad_(False)
    for module in wide.modules():
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                remove_parametrization(module, name)
    layers = [module for module in wide.modules() if isinstance(module, LipschitzLayer)]
    stored = [next(layer.parameters()).dtype for layer in layers]
    wide.double()
    merge(wide, strict=False)
    for _, module, structure in list(structures(wide)):
        # What is left has an activation between its factors; a mere chain is plain layers.
        if isinstance(structure, Factors) and structure.extra is None:
            replace_module(wide, module, module.to_sequence())  # type: ignore[operator]
    for layer, dtype in zip(layers, stored, strict=True):
        layer.forget()
        vars(layer)["_map"] = functools.partial(_stored_weights, layer, dtype)
    return wide


def _stored_weights(
    layer: LipschitzLayer, dtype: torch.dtype, own: dict[str, Tensor]
) -> tuple[Tensor, ...]:
    """Return a layer's weights as `LipschitzLayer` rounds them to a dtype, in float64."""
    weights = type(layer)._map(layer, own)
    # As there: complex numbers have no half precision.
    spectral = torch.promote_types(dtype, torch.float32).to_complex()
    return tuple(w.to(spectral if w.is_complex() else dtype).to(w.dtype) for w in weights)


def hooked_modules(model: nn.Module) -> frozenset[nn.Module]:
    """Return the modules with hooks that may change what they read or return."""
    return frozenset(m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks)


def refuse_nan(model: nn.Module) -> None:
    """Refuse weights that are no numbers.

    Raises:
        ValueError: naming the first.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(
                f"{name} holds NaN or infinite values, so nothing can be certified; train "
                f"again, or load weights that are finite"
            )


def look(
    model: nn.Module, batches: Iterable[Tensor], *, every: bool
) -> tuple[list[Tensor], dict[nn.Module, Seen]]:
    """Run a model and note what each module reads and returns.

    Args:
        model: In evaluation.
        batches: What it reads.
        every: Whether to run all batches, or only the first, for the shapes.
    """
    notes: dict[nn.Module, list[Any]] = {}

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        note = notes.setdefault(module, [set(), set(), 0.0, 0.0])
        for place, value in ((0, inputs[0] if inputs else None), (1, output)):
            if isinstance(value, Tensor) and value.dim() > 1:
                note[place].add(tuple(value.shape[1:]))
                if value.is_floating_point():
                    size = float(value.flatten(1).norm(dim=1).max()) * (1 + 1e-9)
                    note[place + 2] = max(note[place + 2], size)

    handles = [module.register_forward_hook(hook) for module in model.modules()]
    outputs = []
    try:
        with torch.no_grad():
            for batch in batches:
                outputs.append(model(batch))
                if not every:
                    break
    finally:
        for handle in handles:
            handle.remove()
    seen = {m: Seen(frozenset(n[0]), frozenset(n[1]), n[2], n[3]) for m, n in notes.items()}
    return outputs, seen
