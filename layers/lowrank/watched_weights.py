"""The weights that a low-rank method works on, and what is remembered and drawn about them.

Every random choice follows from the seed, the target's name and the step, so all processes draw
alike and a resumed run draws what it would have drawn.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .target import Target
from .weights.factors import Factors
from .weights.structure import WeightStructure

__all__ = ["WatchedWeights"]


class WatchedWeights:
    """All that a method may read and do in its events; the controller calls these.

    Attributes:
        model: The model whose weights are watched.
        targets: The weights, by name.
        step: Optimiser steps so far.
        state: What the method must remember, tensors and plain values.
        scratch: What it remembers within a step; no checkpoint holds it.
        gradient_scale: What multiplies all gradients in `before_step`, where a fused optimiser is
            to divide by it, or None.
        learning_rate_ratio: Multiplies the learning rate of the targets at every step.
        optimizers: The optimiser that trains the weights, once it is attached.
        twins: Copies of the model, such as an average of its weights, whose ranks follow.
        held_out: (number) -> the loss of the model on that batch of data that no step trains on,
            with its graph; or None where nothing asks for it. One process of several may read its
            share of a batch.
        resized: Counts the changes of a parameter's size; after one, DDP must be built anew.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Mapping[str, Target],
        *,
        seed: int = 0,
        learning_rate_ratio: float = 1.0,
    ) -> None:
        """Stand before the first step."""
        if not learning_rate_ratio > 0:
            raise ValueError(f"learning_rate_ratio must be above 0, got {learning_rate_ratio}")
        self.model, self.targets = model, dict(targets)
        self.seed, self.learning_rate_ratio = seed, learning_rate_ratio
        self.step = 0
        self.state: dict[str, Any] = {}
        self.scratch: dict[Any, Any] = {}
        self.gradient_scale: Tensor | None = None
        self.optimizers: list[torch.optim.Optimizer] = []
        self.twins: list[nn.Module] = []
        self.held_out: Callable[[int], Tensor] | None = None
        self.resized = 0
        self._own: set[int] = set()  # targets' parameters in the optimiser, by id

    def structures(self, *, frozen: bool = True) -> Iterator[tuple[str, WeightStructure]]:
        """Iterate over the targets that have a structure.

        Args:
            frozen: Whether those are among them that are frozen, which events must leave alone.
        """
        for name, target in self.targets.items():
            if target.structure is not None and (frozen or not target.frozen):
                yield name, target.structure

    def factors(self, *, frozen: bool = True) -> dict[str, Factors]:
        """Return the targets whose structure is a product of two factors.

        Args:
            frozen: As in `structures`.
        """
        return {n: s for n, s in self.structures(frozen=frozen) if isinstance(s, Factors)}

    def fixed(self) -> dict[str, nn.Parameter]:
        """Return what structures are made of and never train, such as what ReLoRA merges into."""
        return {n: p for target in self.targets.values() for n, p in target.fixed().items()}

    def holds_targets(self, group: Mapping[str, Any]) -> bool:
        """Whether a group of the optimiser is one of targets, with their learning rate."""
        return bool(group["params"]) and id(group["params"][0]) in self._own

    def as_gradient(self, value: Tensor) -> Tensor:
        """Return what a gradient is to be added to as it is stored now, in `before_step`."""
        if self.gradient_scale is None:
            return value
        return value * torch.as_tensor(self.gradient_scale).to(value.device)

    def generator(self, name: str = "") -> torch.Generator:
        """Return a generator for one target at this step, the same on every process."""
        text = f"{self.seed}/{name}/{self.step}".encode()
        digest = hashlib.blake2b(text, digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)

    def twins_of(self, name: str) -> Iterator[WeightStructure]:
        """Iterate over what a target is made of in all twins."""
        for twin in self.twins:
            yield self._find(twin, name)

    def truncate(self, name: str, rank: int) -> None:
        """Remove components of a target for good, with its optimiser state and in all twins."""
        self.factors()[name].truncate(rank, self.optimizers)
        for structure in self.twins_of(name):
            assert isinstance(structure, Factors)
            structure.truncate(rank)
        self.resized += 1

    def select(self, name: str, components: Tensor) -> None:
        """Keep some components of a target for good, as `truncate` keeps the first ones."""
        self.factors()[name].select(components, self.optimizers)
        for structure in self.twins_of(name):
            assert isinstance(structure, Factors)
            structure.select(components)
        self.resized += 1

    def grow(self, name: str, left: Tensor, right: Tensor, core: Tensor | None = None) -> None:
        """Append components to a target, in all twins too; see `Factors.grow`."""
        self.factors()[name].grow(left, right, self.optimizers, core=core)
        for structure in self.twins_of(name):
            assert isinstance(structure, Factors)
            structure.grow(left, right, core=core)
        self.resized += 1

    @staticmethod
    def _find(model: nn.Module, name: str) -> WeightStructure:
        path, _, parameter = name.partition(":")
        module = model.get_submodule(path)
        if parameter:
            module = module.parametrizations[parameter][0]  # type: ignore[index, union-attr]
        structure = getattr(module, "structure", None)
        assert isinstance(structure, WeightStructure)
        return structure
