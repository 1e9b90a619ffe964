"""A model as it is deployed: in evaluation mode, made of plain layers whose weights are there.

What a library of inference would compute again in every pass, or cannot compute at all, is computed
once: the maps from free parameters to the weights of Lipschitz layers (Cholesky factors, inverses,
Fourier transforms), matrices that a low-rank method forms anew at each use, and raw parameters with
a parametrisation. Factors that multiply one after the other stay two layers.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn

from ....layers.lipschitz import export_plain, through_fourier
from ....layers.lowrank import SparseFactors, WeightStructure, is_economic, merge, structures
from ....layers.modes import evaluating
from ...transform.plain_layers import plain_layers

__all__ = ["deployed"]

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def deployed(model: Model, *inputs: Tensor) -> Model:
    """Return a copy with the outputs of evaluation, frozen, that no parametrisation is left in.

    Args:
        model: Left as it is.
        inputs: What it is called with once, since a layer of the frequency domain has weights for
            one size of images.
    """
    with evaluating(model):
        model(*inputs)
    plain = plain_layers(model)
    formed = [name for name, _, structure in structures(plain) if _is_formed(name, structure)]
    if formed:
        merge(plain, names=formed)
    for module in plain.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.dtype == torch.int32:  # ONNX scatters by indices of 64 bits alone
                setattr(module, name, buffer.long())
    return export_plain(plain, through_fourier).eval().requires_grad_(False)  # type: ignore[return-value]


def _is_formed(name: str, structure: WeightStructure) -> bool:
    """Whether the matrix of a weight is what its layer multiplies by, or is no larger."""
    if not structure.is_matrix:
        return False
    raw = ":" in name
    return raw or isinstance(structure, SparseFactors) or not _saves(structure)


def _saves(structure: WeightStructure) -> bool:
    return structure.parameter_count() > 0 and is_economic(structure)
