"""How far the top singular vectors of two networks' weights point the same way, layer by layer.

    R = mean over j ≤ k of |⟨u_j^a, u_j^b⟩| · |⟨v_j^a, v_j^b⟩|

A permutation of units changes singular vectors and leaves singular values, so that R is what weight
matching can change of a layer's dominant directions.

Source: Ito, Yamada & Kumagai 2024, "Analysis of linear mode connectivity via permutation-based
weight matching", arXiv:2402.04051, §5.
Differs from it: a convolution is the matrix (outputs, inputs · kernel), and vectors of a singular
value of 0, which have no direction, are left out.
"""

import torch
from torch import Tensor, nn

from ...layers.declared_units import CONVOLUTIONS
from ...layers.residual import Residual
from .permutation_spec import Permutations, PermutationSpec

__all__ = ["singular_alignment"]


def singular_alignment(
    a: nn.Module,
    b: nn.Module,
    spec: PermutationSpec,
    permutations: Permutations | None = None,
    *,
    k: int = 5,
) -> dict[str, float]:
    """Return R of every weight matrix that a permutation moves, by the name of its layer.

    Layers whose weight is 0 in one network are left out.

    Args:
        a: A model.
        b: Another of the same architecture.
        spec: Of both.
        permutations: Of the units of b; None leaves them where they are.
        k: Vectors, at least 1; as many as the rank of the matrices, where that is smaller.

    Raises:
        ValueError: k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    inside = {
        id(p) for module in a.modules() if isinstance(module, Residual) for p in module.parameters()
    }
    matrices = {id(module.weight) for module in a.modules() if isinstance(module, CONVOLUTIONS)} | {
        id(p) for p in a.parameters() if p.dim() in (2, 4)
    }
    theirs = dict(b.named_parameters())
    moved = spec.identity() if permutations is None else permutations
    found = {}
    for name, weight in a.named_parameters():
        touched = any(segment.group for axis in spec.axes[name] for segment in axis)
        if touched and id(weight) in matrices - inside:
            other = spec.apply(name, theirs[name].detach(), moved)
            figure = _alignment(weight.detach(), other, k)
            found |= {} if figure is None else {name.removesuffix(".weight"): figure}
    return found


def _alignment(a: Tensor, b: Tensor, k: int) -> float | None:
    """R of two matrices; None where one is 0."""
    (u, s, v), (x, t, y) = (
        torch.linalg.svd(w.double().flatten(1), full_matrices=False) for w in (a, b)
    )
    k = min(k, _rank(s, a), _rank(t, b))
    if k == 0:
        return None
    left = (u[:, :k] * x[:, :k]).sum(0).abs()
    right = (v[:k] * y[:k]).sum(1).abs()
    return float((left * right).mean())


def _rank(values: Tensor, weight: Tensor) -> int:
    """The number of singular values beyond what rounding makes of 0."""
    rounding = torch.finfo(weight.dtype).eps * max(weight.flatten(1).shape)
    return int((values > rounding * values[0]).sum())
