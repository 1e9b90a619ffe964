"""Weight matching: the places of one network's units that bring its weights closest to another's.

    max over P   Σ_l ⟨W_l^a, P_l W_l^b P_{l−1}ᵀ⟩

by coordinate ascent: with all other permutations fixed, the best P of one group is a linear
assignment on M = Σ over all axes of all parameters that P touches of A Bᵀ, the axis first and the
rest flat. For groups of blocks, such as heads, the assignment of blocks is on the values of the
assignments inside each pair of blocks. Sums are in float64; running statistics of norms are moved
but have no vote.

Source: Ainsworth, Hayase & Srinivasa 2023, "Git Re-Basin", arXiv:2209.04836, algorithm 1.
Differs from it: the ascent begins twice, and the better end is taken. It begins with every unit at
its place; and with groups placed one after the other, each by those of its weights whose other axes
stand already, since weights between units without a place vote for the places that they happen to
have. There are blocks. Where a group lies on two axes of one tensor, such as a gate from the stream
to the stream, a step is linear in one of them and is taken only if the sum itself grows.
"""

import random
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .architecture import check_one_architecture
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


def match(a: nn.Module, b: nn.Module, *, seed: int = 0) -> Matching:
    """Find places for the units of b in which its weights are closest to those of a.

    With one seed, `match(b, a)` is the inverse, up to ties.

    Args:
        a: A model of the zoo, which stays as it is.
        b: Another of the same architecture, which stays as it is too.
        seed: Of the order in which groups are visited.

    Raises:
        ValueError: models of two architectures, a weight that is not finite, or a model that cannot
            be permuted; the message names the layer.
    """
    check_one_architecture(a, b)
    spec = permutation_spec(a)
    if permutation_spec(b) != spec:
        raise ValueError(
            f"a and b must be of one architecture, and two {type(a).__name__} of the same tensors "
            f"tie other units together"
        )
    ours, theirs = ({n: p.detach().double() for n, p in m.named_parameters()} for m in (a, b))
    for name, weights in (("a", ours), ("b", theirs)):
        broken = [key for key, weight in weights.items() if not weight.isfinite().all()]
        if broken:
            raise ValueError(f"{name} has weights that are not finite in {broken[0]}")
    pair = _Pair(spec, ours, theirs)
    before = pair.agreement(spec.identity())
    ends = [pair.ascend(start, seed) for start in (pair.inwards(), spec.identity())]
    permutations, sweeps = max(ends, key=lambda end: pair.agreement(end[0]))
    return Matching(permutations, before, pair.agreement(permutations), sweeps, spec)


class _Pair:
    """The weights of two networks, and what of them each group lies on.

    Args:
        spec: Of both.
        ours: Parameters of a, in float64.
        theirs: Those of b.
    """

    def __init__(
        self, spec: PermutationSpec, ours: dict[str, Tensor], theirs: dict[str, Tensor]
    ) -> None:
        """List the parameters and axes of each group."""
        self.spec, self.ours, self.theirs = spec, ours, theirs
        self.places: dict[str, list[tuple[str, int]]] = {name: [] for name in spec.groups}
        for key in ours:
            for axis in range(len(spec.axes[key])):
                for name in self._on(key, axis):
                    self.places[name].append((key, axis))

    def ascend(self, permutations: Permutations, seed: int) -> tuple[Permutations, int]:
        """Return the end of the ascent from some permutations, and the number of its sweeps."""
        least = LEAST_GAIN * sum(float(w.square().sum()) for w in self.ours.values())
        order, sweeps, gained = sorted(self.spec.groups), 0, True
        visits = random.Random(seed)
        while gained and sweeps < MOST_SWEEPS:
            sweeps, gained = sweeps + 1, False
            visits.shuffle(order)
            for name in order:
                touched = {key for key, _ in self.places[name]}
                tried = self._placed(name, self.places[name], permutations)
                gain = self.agreement(tried, touched) - self.agreement(permutations, touched)
                if gain > least:
                    permutations, gained = tried, True
        return permutations, sweeps

    def inwards(self) -> Permutations:
        """Place one group after the other by what stands already, the best supported next."""
        permutations, standing = self.spec.identity(), set[str]()
        size = {key: float(w.norm() * self.theirs[key].norm()) for key, w in self.ours.items()}
        while len(standing) < len(permutations):
            known = {
                name: [place for place in self.places[name] if self._others(*place) <= standing]
                for name in sorted(permutations.keys() - standing)
            }
            shares = {
                name: sum(size[key] for key, _ in places)
                / (sum(size[key] for key, _ in self.places[name]) or 1.0)
                for name, places in known.items()
            }
            name = max(shares, key=lambda each: shares[each])
            permutations = self._placed(name, known[name], permutations)
            standing.add(name)
        return permutations

    def agreement(self, permutations: Permutations, touched: set[str] | None = None) -> float:
        """Σ ⟨W^a, P W^b Pᵀ⟩ over some parameters, or all."""
        return sum(
            float((weight * self.spec.apply(key, self.theirs[key], permutations)).sum())
            for key, weight in self.ours.items()
            if touched is None or key in touched
        )

    def _placed(
        self, name: str, places: list[tuple[str, int]], permutations: Permutations
    ) -> Permutations:
        """Return permutations with the best of one group, all others fixed, by some places."""
        group = self.spec.groups[name]
        found = [torch.zeros([group.blocks * part.size] * 2).double() for part in group.parts]
        for key, axis in places:
            a = _rows(self.ours[key], axis)
            other = self.spec.apply(key, self.theirs[key], permutations, keep=axis)
            b, start = _rows(other, axis), 0
            for owner, part, size in self.spec.axes[key][axis]:
                if owner == name:
                    rows = slice(start, start + size)
                    found[part] += (a[rows] @ b[rows].T).cpu()
                start += size
        return {**permutations, name: assign(group, found)}

    def _on(self, key: str, axis: int) -> set[str]:
        """The groups on an axis."""
        return {s.group for s in self.spec.axes[key][axis] if s.group is not None}

    def _others(self, key: str, axis: int) -> set[str]:
        """The groups on the other axes of a parameter."""
        others = (i for i in range(len(self.spec.axes[key])) if i != axis)
        return {name for i in others for name in self._on(key, i)}


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
    return tuple(group.places(chosen, order[rows, chosen]) for order in inside)


def _rows(weight: Tensor, axis: int) -> Tensor:
    """Write a tensor as a matrix whose rows are the entries of an axis."""
    return weight.movedim(axis, 0).reshape(weight.shape[axis], -1)
