"""Which units of a model may change places, and what moves with them.

    y = W₂ σ(W₁ x)  =  (W₂ P⁻¹) σ((P W₁) x)

Units that must move together are a group: those of a residual stream, with all that write to it and
read from it; those of each hidden width of a branch; the heads of an attention, which move as a
whole. The layers of a model say so themselves (`layers/units.py`), and this is what follows.

Source: Ainsworth, Hayase & Srinivasa 2023, "Git Re-Basin", arXiv:2209.04836, §3; heads: Verma &
Elbayad 2024, "Merging text transformer models from different initializations", arXiv:2403.00986.
Differs from them: values of an attention also move inside their head, and so do queries and keys,
alike, where no norm, angle or bias of the places in a head holds them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...layers.units import Units, UnitTrace
from .architecture import tensors_of

__all__ = [
    "Group",
    "Part",
    "PermutationSpec",
    "Permutations",
    "Segment",
    "permutation_spec",
    "permute",
]

Permutations = dict[str, tuple[Tensor, ...]]
"""For each group, an int64 index vector for each of its parts: new unit i is old unit index[i]."""


class Part(NamedTuple):
    """Units of a group that lie on one kind of axis: `size` in each block.

    `free` says whether they may change places inside a block.
    """

    size: int
    free: bool


class Group(NamedTuple):
    """Blocks that change places, one permutation for all parts.

    A stream or a hidden width of n units is n blocks with one part of one unit.
    """

    blocks: int
    parts: tuple[Part, ...]

    @property
    def is_plain(self) -> bool:
        """Whether a block is one unit."""
        return len(self.parts) == 1 and self.parts[0].size == 1

    def identity(self) -> tuple[Tensor, ...]:
        """Every unit at its place."""
        return tuple(torch.arange(self.blocks * part.size) for part in self.parts)

    def random(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return a permutation that a generator draws."""
        order = torch.randperm(self.blocks, generator=generator)
        found = []
        for part in self.parts:
            inside = [
                torch.randperm(part.size, generator=generator)
                if part.free
                else torch.arange(part.size)
                for _ in range(self.blocks)
            ]
            found.append(self.places(order, torch.stack(inside)))
        return tuple(found)

    def holds(self, indices: Sequence[Tensor]) -> bool:
        """Whether index vectors permute blocks as a whole, and inside them where that is free."""
        if len(indices) != len(self.parts):
            return False
        orders = []
        for index, (size, free) in zip(indices, self.parts, strict=True):
            if not torch.equal(index.sort().values, torch.arange(self.blocks * size)):
                return False
            rows = index.view(self.blocks, size)
            orders.append(rows[:, :1] // size)
            together = (rows // size == orders[0]).all()
            if not together or not (free or (rows % size == torch.arange(size)).all()):
                return False
        return True

    @staticmethod
    def places(order: Tensor, inside: Tensor) -> Tensor:
        """Return the index vector of blocks in an order (H,), with one inside each (H, d)."""
        return (order[:, None] * inside.shape[1] + inside).flatten()


class Segment(NamedTuple):
    """A stretch of an axis: the units of one part of a group, or for None entries that stay."""

    group: str | None
    part: int
    size: int


class PermutationSpec(NamedTuple):
    """Groups by name, and the segments of each axis of every tensor that has some.

    A group has the name of the layer that makes its units.
    """

    groups: Mapping[str, Group]
    axes: Mapping[str, tuple[tuple[Segment, ...], ...]]

    def identity(self) -> Permutations:
        """Every unit at its place."""
        return {name: group.identity() for name, group in self.groups.items()}

    def random(self, seed: int = 0) -> Permutations:
        """Return permutations that a seed draws."""
        generator = torch.Generator().manual_seed(seed)
        return {name: group.random(generator) for name, group in self.groups.items()}

    def inverse(self, permutations: Permutations) -> Permutations:
        """Return what undoes permutations."""
        return {
            name: tuple(index.argsort() for index in parts) for name, parts in permutations.items()
        }

    def index_of(self, segments: Sequence[Segment], permutations: Permutations) -> Tensor | None:
        """Return the index vector of an axis, or None where all of it stays."""
        if all(segment.group is None for segment in segments):
            return None
        found, start = [], 0
        for group, part, size in segments:
            own = torch.arange(size) if group is None else permutations[group][part]
            found.append(own + start)
            start += size
        return torch.cat(found)

    def apply(
        self, name: str, tensor: Tensor, permutations: Permutations, *, keep: int | None = None
    ) -> Tensor:
        """Return a tensor with its axes permuted; one without axes, or all but one, if asked.

        Args:
            name: Of the tensor.
            tensor: A parameter, a buffer, or whatever has its shape.
            permutations: Of all groups.
            keep: An axis to leave as it is.
        """
        for axis, segments in enumerate(self.axes.get(name, ())):
            index = None if axis == keep else self.index_of(segments, permutations)
            if index is not None:
                tensor = tensor.index_select(axis, index.to(tensor.device))
        return tensor


def permutation_spec(model: nn.Module) -> PermutationSpec:
    """Ask the layers of a model which of their units may change places together.

    Every axis of every parameter is covered once; axes that no group covers stay as they are.

    Args:
        model: A model of the zoo, or any module that declares itself (`layers/units.py`).

    Raises:
        ValueError: a layer that cannot be permuted, or does not say what moves; the message names
            it.
    """
    trace = UnitTrace(model)
    for units in _units_in(trace.through(model, trace.fixed())):
        units.root().fixed = True
    missing = [name for name, p in model.named_parameters() if p.dim() and name not in trace.axes]
    if missing:
        raise ValueError(
            f"{type(model).__name__} follows its units past {', '.join(missing[:3])}"
            f"{' and others' if len(missing) > 3 else ''}; `follow_units` must meet every layer"
        )
    roots: dict[Units, tuple[str, int]] = {}
    groups: dict[str, Group] = {}
    axes = {}
    for name, tensor in tensors_of(model):
        if name not in trace.axes:
            axes[name] = tuple((Segment(None, 0, size),) for size in tensor.shape)
            continue
        axes[name] = tuple(
            tuple(_segment(piece.units, piece.size, roots, groups) for piece in axis)
            for axis in trace.axes[name]
        )
    return PermutationSpec(groups, axes)


def permute(model: nn.Module, spec: PermutationSpec, permutations: Permutations) -> nn.Module:
    """Put the units of a model in other places: the same function.

    Args:
        model: Changed in place.
        spec: Of the model.
        permutations: Of all of its groups.

    Returns:
        The model.

    Raises:
        ValueError: a spec of another model, permutations of other groups or that part a block, or
            two tensors over one memory, which would be permuted twice; the model stays as it is.
    """
    tensors = dict(tensors_of(model))
    of_spec = {
        name: tuple(sum(s.size for s in axis) for axis in spec.axes[name]) for name in spec.axes
    }
    if of_spec != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
        raise ValueError("spec is of another model; take permutation_spec of this one")
    if permutations.keys() != spec.groups.keys():
        named = min(permutations.keys() ^ spec.groups.keys())
        raise ValueError(f"permutations must be of all groups of the spec, and differ in {named}")
    for name, group in spec.groups.items():
        if not group.holds(permutations[name]):
            raise ValueError(f"permutations[{name!r}] does not permute the {group}")
    places: dict[int, str] = {}
    for name, tensor in tensors.items():
        first = places.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
        if first != name:
            raise ValueError(f"{name} lies in the memory of {first}; make them one parameter")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(spec.apply(name, tensor, permutations))
    return model


def _units_in(out: Any) -> Iterator[Units]:
    """Yield the units of what a model returns.

    Raises:
        ValueError: something else, whose channels would not be known to stay.
    """
    if isinstance(out, Units):
        yield out
    elif isinstance(out, Mapping):
        for part in out.values():
            yield from _units_in(part)
    elif isinstance(out, tuple | list):
        for part in out:
            yield from _units_in(part)
    elif out is not None:
        raise ValueError(f"follow_units must return units or None, got a {type(out).__name__}")


def _segment(
    units: Units | None, size: int, roots: dict[Units, tuple[str, int]], groups: dict[str, Group]
) -> Segment:
    """Find the group of units, or make it the first time they are met."""
    root = None if units is None else units.root()
    if root is None or (root.fixed and root.bond is None):
        return Segment(None, 0, size)
    if root not in roots:
        bond = root.bond
        together = [root] if bond is None else [part.root() for part in bond.parts]
        if any(part.fixed for part in together):
            return Segment(None, 0, size)
        name = root.name
        while name in groups:
            name += "'"
        if bond is None:
            groups[name] = Group(size, (Part(1, True),))
        else:
            sizes = [(part.root().size or 0) // bond.count for part in bond.parts]
            free = bond.parts.values()
            parts = tuple(Part(*pair) for pair in zip(sizes, free, strict=True))
            groups[name] = Group(bond.count, parts)
        roots.update({part: (name, i) for i, part in enumerate(together)})
    return Segment(*roots[root], size)
