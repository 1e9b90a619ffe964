"""Smaller embeddings in a trained model, by the frequency with which rows are looked up."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ...layers.lowrank import FactoredEmbedding, forward_batch, mimicked_table
from ...layers.lowrank.replace_module import replace_module
from ...layers.modes import evaluating
from ..network import Network
from ..recipe import forget

__all__ = ["mimic_embeddings"]

Model = TypeVar("Model", bound=nn.Module)


def mimic_embeddings(
    model: Model,
    ranks: Mapping[str, int],
    batches: Iterable[Any],
    *,
    forward: Callable[[nn.Module, Any], Any] = forward_batch,
) -> Model:
    """Return a copy of a model whose embeddings are factors with a bias (feature mimicking).

    A model of the zoo has no recipe then: keep its state dict, and call this again to load it.

    Args:
        model: Left as it is.
        ranks: Of `nn.Embedding` layers, by name.
        batches: Anything that `forward` takes.
        forward: Calls the model on a batch, on the right device.

    Raises:
        ValueError: no embedding of a name, one that is tied to another layer or renormalises, pads
            or scales its rows, a rank that makes it no smaller, no batches, or one that never ran.
    """
    result = copy.deepcopy(model)
    layers = {name: _layer(result, name, rank) for name, rank in ranks.items()}
    counts = {n: torch.zeros(len(e.weight), dtype=torch.float64) for n, e in layers.items()}

    def watch(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            found = args[0].detach().flatten().cpu()
            counts[name] += torch.bincount(found, minlength=len(counts[name]))

        return hook

    handles = [e.register_forward_pre_hook(watch(name)) for name, e in layers.items()]
    try:
        with evaluating(result), torch.no_grad():
            for batch in batches:
                forward(result, batch)
    finally:
        for handle in handles:
            handle.remove()
    for name, layer in layers.items():
        if not counts[name].any():
            raise ValueError(f"{name} was never looked up in batches=, so its rows have no shares")
        rows = layer.weight.detach()
        made = FactoredEmbedding(
            *mimicked_table(rows, counts[name].to(rows.device), ranks[name])[:3]
        )
        made.requires_grad_(layer.weight.requires_grad)
        replace_module(result, layer, made.train(layer.training))
    if isinstance(result, Network):
        forget(result, "mimic_embeddings made its embeddings smaller; save its state dict instead")
    return result


def _layer(model: nn.Module, name: str, rank: int) -> nn.Embedding:
    layer = dict(model.named_modules()).get(name)
    if type(layer) is not nn.Embedding:
        found = [n for n, m in model.named_modules() if type(m) is nn.Embedding]
        raise ValueError(
            f"{name!r} is no nn.Embedding of the model; it has {', '.join(found) or 'none'}"
        )
    names = [
        n for n, p in model.named_parameters(remove_duplicate=False) if p is layer.weight
    ]  # fmt: skip
    if len(names) > 1:
        raise ValueError(f"{name} is tied: {' and '.join(names)} are one tensor; untie it first")
    if layer.max_norm is not None or layer.padding_idx is not None or layer.sparse:
        raise ValueError(f"{name} has max_norm, padding_idx or sparse, which factors do not keep")
    size, width = layer.weight.shape
    if rank < 1 or rank * (size + width) + width >= size * width:
        raise ValueError(
            f"rank={rank} makes {name} ({size}x{width}) no smaller; a rank from 1 to "
            f"{(size * width - width - 1) // (size + width)} does"
        )
    return layer
