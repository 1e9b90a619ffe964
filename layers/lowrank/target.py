"""One weight that a low-rank method works on, and what was written into weights that stay dense."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .weights.structure import WeightStructure, assign, stored_in
from .weights.unfolding import Unfolding

__all__ = ["DenseWeights", "Target"]


@dataclass
class Target:
    """One weight that a method works on.

    Attributes:
        name: Of its module, or `module:parameter` for a raw matrix.
        module: The layer that holds it.
        structure: What it is made of, or None where it is dense.
        weight: The dense parameter, or None where it has a structure.
        unfolding: How a kernel is a matrix, or None for a matrix.
    """

    name: str
    module: nn.Module
    structure: WeightStructure | None
    weight: nn.Parameter | None
    unfolding: Unfolding | None

    @property
    def parameter(self) -> str:
        """Name of the dense parameter in its module."""
        return self.name.partition(":")[2] or "weight"

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., rows, columns) of the matrix."""
        if self.structure is not None:
            return self.structure.shape
        return tuple(self.matrix().shape)

    def matrix(self) -> Tensor:
        """Return the matrix of a dense target, gathered where it is sharded, without a graph."""
        assert self.weight is not None
        stored = stored_in(self.weight)
        return stored if self.unfolding is None else self.unfolding.to_matrix(stored)

    def assign(self, matrix: Tensor) -> None:
        """Write the matrix of a dense target."""
        assert self.weight is not None
        assign(self.weight, matrix if self.unfolding is None else self.unfolding.to_kernel(matrix))

    @property
    def frozen(self) -> bool:
        """Whether nothing of the weight is trained now."""
        if self.structure is None:
            return self.weight is None or not self.weight.requires_grad
        return not self.structure.trained

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained of the weight, without the layer's bias; all where it is frozen.

        A frozen one may be trained later, in the same optimiser.
        """
        if self.structure is None:
            return [self.weight] if self.weight is not None else []
        every = list(self.structure.parameters())
        return [p for p in every if p.requires_grad] or every

    def fixed(self) -> dict[str, nn.Parameter]:
        """Return by full name what a structure is made of and never trains."""
        return {
            ".".join(part for part in (self.name, path, name) if part): module._parameters[name]
            for path, module in ([] if self.structure is None else self.structure.named_modules())
            if isinstance(module, WeightStructure)
            for name in module.fixed
        }  # type: ignore[return-value]


class DenseWeights:
    """The dense ones among some targets, as they are now, to take a change back.

    Args:
        targets: By name; what has a structure is left out.
    """

    def __init__(self, targets: Mapping[str, Target]) -> None:
        """Copy the values that this process holds."""
        weights = [t.weight for t in targets.values() if t.weight is not None]
        self.before = [(w, _local(w).clone()) for w in weights if not w.is_meta]
        self.changed: list[tuple[nn.Parameter, Tensor, int, Tensor]] = []

    def note_changes(self) -> None:
        """Keep what was changed since, before and after, and nothing else."""
        self.changed = [
            (weight, old, weight._version, _local(weight).clone())
            for weight, old in self.before
            if not torch.equal(_local(weight), old)
        ]
        self.before = []

    @torch.no_grad()
    def take_back(self) -> None:
        """Undo the changes, where no other values came into a weight since.

        Values decide as well as the count of writes, which one through `.data` does not raise.
        """
        for weight, old, version, new in self.changed:
            if weight._version == version and torch.equal(_local(weight), new):
                _local(weight).copy_(old)


def _local(tensor: Tensor) -> Tensor:
    """Return the values that this process holds of a tensor, in the same memory."""
    part = getattr(tensor, "to_local", None)
    return tensor.detach() if part is None else part().detach()
