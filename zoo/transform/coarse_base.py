"""Compressed weights and the low-rank paths that compensate them, layer by layer (EoRA).

base            what stands for W
prune:SHARE     without the share of its entries nearest to zero
prune:2:4       with the two largest of every four entries of a row
quant:BITS      at evenly spaced levels of blocks of 64; quant:BITS:BLOCK for other blocks
ranks:SHARE     the truncated SVD at a share of the full rank
a module        whatever its layer of the same name has as a weight, with its bias
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...layers.lowrank import (
    FactoredConv2d,
    FactoredLinear,
    Factors,
    collect_moments,
    compensate,
    structures,
    weighted_svd,
)
from ...layers.lowrank.maths.coarse_weights import (
    block_quantised,
    magnitude_pruned,
    two_of_four,
)
from .calibration_pass import check_enough
from .compress import densified, structured

__all__ = ["coarse_weight", "compensated"]

HELP = (
    "give prune:SHARE, prune:2:4, quant:BITS, quant:BITS:BLOCK, ranks:SHARE, or a compressed model"
)


def coarse_weight(matrix: Tensor, base: str) -> Tensor:
    """Return what a base makes of a matrix (..., rows, columns).

    Raises:
        ValueError: a base that is not one, or a number out of its range.
    """
    kind, _, rest = base.partition(":")
    try:
        if base == "prune:2:4":
            return two_of_four(matrix)
        if kind == "prune":
            return magnitude_pruned(matrix, float(rest))
        if kind == "quant":
            return block_quantised(matrix, *(int(part) for part in rest.split(":", 1)))
        if kind == "ranks":
            left, right = _truncated(matrix, rest)
            return left @ right
    except ValueError as error:
        raise ValueError(f"base={base!r}: {error}; {HELP}") from error
    raise ValueError(f"base={base!r} is none: {HELP}")


def compensated(
    model: nn.Module,
    dense: nn.Module,
    base: str | nn.Module,
    names: Mapping[str, tuple[int, ...]],
    rank: int,
    data: list[Any],
    forward: Callable[[nn.Module, Any], Any],
    order: list[str],
    *,
    plain: bool,
) -> tuple[Any, dict[str, int]]:
    """Return a copy of a model with coarse weights and a low-rank path beside each.

    Paths beside factors join them, and the result has factors of fixed ranks; others are factors
    over a frozen weight, beside dense layers. A path makes up for what the layers before it left,
    paths included.

    Args:
        model: With a recipe, if it is of the zoo.
        dense: The same without factors; left as it is.
        base: As in `coarse_base`.
        names: Shapes of the targets' matrices.
        rank: Of each path, or what is left of a layer's full rank.
        data: Batches.
        forward: As in `collect_moments`.
        order: Targets in the order in which they run.
        plain: Whether the path is the SVD of what the base took, without data.

    Returns:
        The copy, and by name how many inputs of a layer its path was decided by.

    Raises:
        ValueError: a base that is none, or a model without the layers of the given one.
    """
    source = base if isinstance(base, nn.Module) else model
    partly = densified(source)
    whole = {n: _matrix(dense, n, names[n]) for n in order}
    chains = {n: chain for n in order if (chain := _chain(base, n, whole[n])) is not None}
    paths: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    inputs: dict[str, int] = {}
    for name in order:
        matrix = whole[name]
        coarse = _coarse(base, partly, name, matrix)
        weight: Any = partly.get_submodule(name).weight
        left_out = matrix - coarse
        if not left_out.any():
            continue
        with torch.no_grad():
            weight.copy_(coarse.view(weight.shape))
        full = min(matrix.shape[-2:])
        path = min(rank, full - (chains[name][0].shape[-1] if name in chains else 0))
        if path < 1:
            continue
        if plain:
            left, right, _ = weighted_svd(left_out, path)
        else:
            wide = {name: left_out} if matrix.shape[-2] < matrix.shape[-1] else {}
            moments = collect_moments(partly, data, [name], forward=forward, matrices=wide)
            check_enough(name, moments[name], path)
            inputs[name] = moments[name].count
            left, right, _ = compensate(matrix, coarse, moments[name], path)
        with torch.no_grad():
            weight.add_((left @ right).view(weight.shape))
        paths[name] = coarse, left, right
    if not paths:
        raise ValueError("base= left every target as it was, so there is nothing to compensate")
    if paths.keys() <= chains.keys():
        if isinstance(base, nn.Module):  # what is no target keeps its factors
            more = {n: _chain(base, n, s.dense().detach()) for n, _, s in structures(base)}
            chains = {n: chain for n, chain in more.items() if chain is not None} | chains
        return _joined(source, chains, paths), inputs
    ranks = {name: left.shape[-1] for name, (_, left, _) in paths.items()}
    result, made = structured(source, "compensated", ranks=ranks)
    for name, (coarse, left, right) in paths.items():
        extra: Any = made[name].extra
        _write((extra.weight, coarse), (made[name].left, left), (made[name].right, right))
    return result, inputs


def _joined(
    source: nn.Module,
    chains: Mapping[str, tuple[Tensor, Tensor]],
    paths: Mapping[str, tuple[Tensor, Tensor, Tensor]],
) -> nn.Module:
    """Return a model whose factors are those of the base followed by those of the paths."""
    found = {}
    for name, (left, right) in chains.items():
        if name in paths:
            _, more, below = paths[name]
            left, right = torch.cat([left, more], -1), torch.cat([right, below], -2)
        found[name] = left, right
    ranks = {name: left.shape[-1] for name, (left, _) in found.items()}
    result, made = structured(source, "fixed_ranks", ranks=ranks)
    for name, (left, right) in found.items():
        _write((made[name].left, left), (made[name].right, right))
    return result


def _coarse(base: str | nn.Module, partly: nn.Module, name: str, matrix: Tensor) -> Tensor:
    if isinstance(base, str):
        return coarse_weight(matrix, base)
    return _matrix(partly, name, tuple(matrix.shape))


def _chain(base: str | nn.Module, name: str, matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the factors that a base has for a layer, if it is nothing but two factors."""
    if isinstance(base, str):
        kind, _, share = base.partition(":")
        return _truncated(matrix, share) if kind == "ranks" else None
    layer = dict(base.named_modules()).get(name)
    if not isinstance(layer, (FactoredLinear, FactoredConv2d)):
        return None
    structure = layer.structure
    if not isinstance(structure, Factors) or structure.extra is not None:
        return None
    left, right = structure.prefix()
    if left.shape[:-1] != matrix.shape[:-1] or right.shape[-1] != matrix.shape[-1]:
        return None  # another scheme, whose factors are no map of patches
    return structure.scale * left.detach(), right.detach()


def _truncated(matrix: Tensor, share: str) -> tuple[Tensor, Tensor]:
    if not 0.0 < float(share) <= 1.0:
        raise ValueError(f"the share of the rank must lie in (0, 1], got {share}")
    left, right, _ = weighted_svd(matrix, max(1, round(float(share) * min(matrix.shape[-2:]))))
    return left, right


def _matrix(model: nn.Module, name: str, shape: tuple[int, ...]) -> Tensor:
    layer = dict(model.named_modules()).get(name)
    weight: Any = getattr(layer, "weight", None)
    if weight is None or weight.numel() != torch.Size(shape).numel():
        raise ValueError(f"base= has no layer {name!r} with a weight of {tuple(shape)}")
    return weight.detach().reshape(shape).clone()


@torch.no_grad()
def _write(*pairs: tuple[Tensor, Tensor]) -> None:
    for parameter, value in pairs:
        parameter.copy_(value)
