"""Weight matching: the places of one network's units that bring its weights closest to another's.

    max over P   Σ_l ⟨W_l^a, P_l W_l^b P_{l−1}ᵀ⟩

by coordinate ascent: with all other permutations fixed, the best P of one group is a linear
assignment on M = Σ over all axes of all parameters that P touches of A Bᵀ, the axis first and the
rest flat. For groups of blocks, such as heads, the assignment of blocks is on the values of the
assignments inside each pair of blocks. Sums are in float64; running statistics of norms are moved
but have no vote.

Source: Ainsworth, Hayase & Srinivasa 2023, "Git Re-Basin", arXiv:2209.04836, algorithm 1.
Differs from it: blocks; where a group lies on two axes of one tensor, such as a gate from the
stream to the stream, a step is linear in one of them and is taken only if the sum itself grows.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .permutation_spec import Group, Permutations, PermutationSpec, permutation_spec

__all__ = ["Matching", "match"]

LEAST_GAIN = 1e-12  # of the sum, over its scale: below it no step is taken
MOST_SWEEPS = 100


class Matching(NamedTuple):
    """What `match` found.

    Attributes:
        permutations: Of b's groups: `permute(b, spec, permutations)` is b', the same function.
        before: Σ ⟨W^a, W^b⟩ over all parameters.
        after: The same of b'; never less.
        sweeps: Passes over all groups, the last of which gained nothing.
        spec: Of both.
    """

    permutations: Permutations
    before: float
    after: float
    sweeps: int
    spec: PermutationSpec


def match(
    a: nn.Module, b: nn.Module, *, seed: int = 0, start: Permutations | None = None
) -> Matching:
    """Find places for the units of b in which its weights are closest to those of a.

    From one start and one seed, `match(b, a)` is the inverse, up to ties.

    Args:
        a: A model of the zoo, which stays as it is.
        b: Another of the same architecture, which stays as it is too.
        seed: Of the order in which groups are visited.
        start: Permutations of b to start from; None is every unit at its place.

    Raises:
        ValueError: models of two architectures, a weight that is not finite, or a model that cannot
            be permuted; the message names the layer.
    """
    spec = permutation_spec(a)
    _check_alike(a, b, spec)
    ours, theirs = ({n: p.detach().double() for n, p in m.named_parameters()} for m in (a, b))
    for name, weights in (("a", ours), ("b", theirs)):
        broken = [key for key, weight in weights.items() if not weight.isfinite().all()]
        if broken:
            raise ValueError(f"{name} has weights that are not finite in {broken[0]}")
    identity = spec.identity()
    permutations = dict(identity if start is None else start)
    places = _places(spec, ours)
    least = LEAST_GAIN * sum(float(w.square().sum()) for w in ours.values())
    order, sweeps, gained = sorted(spec.groups), 0, True
    visits = random.Random(seed)
    while gained and sweeps < MOST_SWEEPS:
        sweeps, gained = sweeps + 1, False
        visits.shuffle(order)
        for name in order:
            touched = {key for key, _ in places[name]}
            before = _agreement(spec, ours, theirs, permutations, touched)
            costs = _products(spec, name, places[name], ours, theirs, permutations)
            tried = {**permutations, name: assign(spec.groups[name], costs)}
            if _agreement(spec, ours, theirs, tried, touched) > before + least:
                permutations, gained = tried, True
    return Matching(
        permutations,
        _agreement(spec, ours, theirs, identity, set(ours)),
        _agreement(spec, ours, theirs, permutations, set(ours)),
        sweeps,
        spec,
    )


def assign(group: Group, products: list[Tensor]) -> tuple[Tensor, ...]:
    """Return the permutation P of a group with the largest ⟨P, M⟩, the sum over its parts.

    Args:
        group: Of H blocks.
        products: M of each part, (H d, H d); rows are units of a, columns of b.
    """
    from scipy.optimize import linear_sum_assignment

    count = group.blocks
    values = torch.zeros(count, count, dtype=torch.float64)
    inside: list[Tensor] = []
    for part, product in zip(group.parts, products, strict=True):
        blocks = product.view(count, part.size, count, part.size).transpose(1, 2)
        order = torch.arange(part.size).expand(count, count, -1).clone()
        if part.free and part.size > 1:
            for i in range(count):
                for j in range(count):
                    order[i, j] = torch.as_tensor(
                        linear_sum_assignment(blocks[i, j].numpy(), maximize=True)[1]
                    )
        values += blocks.gather(3, order[..., None]).sum((2, 3))
        inside.append(order)
    chosen = torch.as_tensor(linear_sum_assignment(values.numpy(), maximize=True)[1])
    rows = torch.arange(count)
    return tuple(group.index(chosen, order[rows, chosen]) for order in inside)


def _places(spec: PermutationSpec, weights: dict[str, Tensor]) -> dict[str, list[tuple[str, int]]]:
    """Each parameter and axis that a group lies on."""
    found: dict[str, list[tuple[str, int]]] = {name: [] for name in spec.groups}
    for key in weights:
        for axis, segments in enumerate(spec.axes[key]):
            for name in {segment.group for segment in segments} - {None}:
                found[name].append((key, axis))
    return found


def _products(
    spec: PermutationSpec,
    name: str,
    places: list[tuple[str, int]],
    ours: dict[str, Tensor],
    theirs: dict[str, Tensor],
    permutations: Permutations,
) -> list[Tensor]:
    """M of each part of a group, with all other permutations, and those of other axes, fixed."""
    group = spec.groups[name]
    found = [torch.zeros([group.blocks * part.size] * 2).double() for part in group.parts]
    for key, axis in places:
        a = _rows(ours[key], axis)
        b = _rows(spec.apply(key, theirs[key], permutations, keep=axis), axis)
        start = 0
        for owner, part, size in spec.axes[key][axis]:
            if owner == name:
                rows = slice(start, start + size)
                found[part] += (a[rows] @ b[rows].T).cpu()
            start += size
    return found


def _rows(weight: Tensor, axis: int) -> Tensor:
    """Write a tensor as a matrix whose rows are the entries of an axis."""
    return weight.movedim(axis, 0).reshape(weight.shape[axis], -1)


def _agreement(
    spec: PermutationSpec,
    ours: dict[str, Tensor],
    theirs: dict[str, Tensor],
    permutations: Permutations,
    touched: set[str],
) -> float:
    """Σ ⟨W^a, P W^b Pᵀ⟩ over some parameters."""
    return sum(
        float((ours[key] * spec.apply(key, theirs[key], permutations)).sum())
        for key in sorted(touched)
    )


def _check_alike(a: nn.Module, b: nn.Module, spec: PermutationSpec) -> None:
    """Refuse models that differ in more than their numbers.

    Raises:
        ValueError: naming the first difference.
    """
    ours, theirs = (list(_shapes(model)) for model in (a, b))
    if type(a) is not type(b) or ours != theirs:
        gone = next((x for x in ours if x not in theirs), None)
        new = next((x for x in theirs if x not in ours), None)
        raise ValueError(
            f"only models of one architecture can be matched: a is a {type(a).__name__} with "
            f"{_told(gone)}, b a {type(b).__name__} with {_told(new)}"
        )
    if permutation_spec(b) != spec:
        raise ValueError(
            f"only models of one architecture can be matched: two {type(a).__name__} have the same "
            f"shapes, and options that tie other units together"
        )


def _shapes(model: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        yield name, tuple(tensor.shape)


def _told(found: tuple[str, tuple[int, ...]] | None) -> str:
    return "no tensor that the other lacks" if found is None else f"{found[0]} of shape {found[1]}"
