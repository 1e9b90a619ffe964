"""Carries a low-rank method through training, on the hooks of the optimiser's step.

    controller = reparametrize(model, SST(rank=32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    controller.attach(optimizer)                # events then happen inside optimizer.step()

Only steps that the optimiser takes count: neither accumulated micro-batches nor steps that a
gradient scaler skips. Every random choice follows from the seed, the target's name and the step, so
all processes draw alike and a resumed run draws what it would have drawn.
"""

import copy
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .factors import Factors
from .method import Method, unfold
from .resize import drop_misfitting_state
from .structure import WeightStructure, assign, stored_in
from .unfolding import Unfolding

__all__ = ["Controller", "Target"]


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
        return unfold(stored_in(self.weight), self.unfolding)

    def assign(self, matrix: Tensor) -> None:
        """Write the matrix of a dense target."""
        assert self.weight is not None
        assign(self.weight, matrix if self.unfolding is None else self.unfolding.to_kernel(matrix))

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained of the weight, without the layer's bias."""
        if self.structure is None:
            return [self.weight] if self.weight is not None else []
        return [p for p in self.structure.parameters() if p.requires_grad]


class Controller:
    """Owns the events of a method on a model: its step count, its state and its random draws.

    Made by `reparametrize`.

    Attributes:
        model: The model whose weights it watches.
        method: What happens.
        targets: The weights, by name.
        skipped: Candidates that were left out, by name, with the reason.
        step: Optimiser steps so far.
        state: What the method must remember, tensors and plain values.
        learning_rate_ratio: Multiplies the learning rate of the targets at every step.
        twins: Copies of the model, such as an average of its weights, whose ranks follow.
        resized: Counts the changes of a parameter's size; after one, DDP must be built anew.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        targets: Mapping[str, Target],
        skipped: Mapping[str, str],
        *,
        seed: int = 0,
        learning_rate_ratio: float = 1.0,
    ) -> None:
        """Watch a model; nothing happens before `attach`."""
        if not learning_rate_ratio > 0:
            raise ValueError(f"learning_rate_ratio must be above 0, got {learning_rate_ratio}")
        self.model, self.method = model, method
        self.targets, self.skipped = dict(targets), dict(skipped)
        self.seed, self.learning_rate_ratio = seed, learning_rate_ratio
        self.step = 0
        self.state: dict[str, Any] = {}
        self.optimizers: list[torch.optim.Optimizer] = []
        self.twins: list[nn.Module] = []
        self.resized = 0
        self._rates: list[float] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "Controller":
        """Watch the copy of the model; the optimiser and the twins stay with the original."""
        copied = object.__new__(type(self))
        memo[id(self)] = copied
        for name, value in vars(self).items():
            left = name in ("optimizers", "twins")
            setattr(copied, name, [] if left else copy.deepcopy(value, memo))
        return copied

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Act around every step of an optimiser from now on.

        Groups that hold both targets and other parameters are split in two, so that the targets can
        have a learning rate of their own; make a learning-rate scheduler after this.

        Raises:
            ValueError: an optimiser that the method cannot work with, or a second one.
        """
        if self.optimizers:
            raise ValueError("the controller is attached already; make one optimiser for the model")
        self.method.check_optimizer(optimizer)
        for target in self.targets.values():
            if target.weight is not None:  # sharding replaces parameters
                target.weight = target.module._parameters[target.parameter]
        _split_groups(optimizer, {id(p) for t in self.targets.values() for p in t.parameters()})
        self.optimizers.append(optimizer)
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)
        self.method.start(self)

    def penalty(self) -> Tensor | None:
        """Return what the method adds to the loss, or None."""
        return self.method.penalty(self)

    def structures(self) -> Iterator[tuple[str, WeightStructure]]:
        """Iterate over the targets that have a structure."""
        for name, target in self.targets.items():
            if target.structure is not None:
                yield name, target.structure

    def factors(self) -> dict[str, Factors]:
        """Return the targets whose structure is a product of two factors."""
        return {name: s for name, s in self.structures() if isinstance(s, Factors)}

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

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep beside the model and the optimiser."""
        return {
            "method": type(self.method).__name__,
            "settings": self.method.settings(),
            "targets": list(self.targets),
            "step": self.step,
            "seed": self.seed,
            "state": dict(self.state),
        }

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Refuse what `load_state_dict` would refuse, before the model is loaded.

        Raises:
            ValueError: it is of another method, or of other settings or targets.
        """
        name = type(self.method).__name__
        if state["method"] != name:
            raise ValueError(
                f"the checkpoint was trained with {state['method']}, this run uses {name}; resume "
                f"with the same method, or start a new run from its weights"
            )
        mine = self.method.settings()
        for key, value in state["settings"].items():
            if mine.get(key) != value:
                raise ValueError(
                    f"the checkpoint was trained with {name}({key}={value}), this run has "
                    f"{key}={mine.get(key)}; resume with the same settings"
                )
        if differing := set(state["targets"]) ^ set(self.targets):
            raise ValueError(
                f"the checkpoint and this run disagree on whether {min(differing)} is a target of "
                f"{name}; resume with the same targets"
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned; the model is loaded before.

        Raises:
            ValueError: as `check_state_dict`.
        """
        self.check_state_dict(state)
        self.step, self.seed = state["step"], state["seed"]
        self.state = dict(state["state"])
        self.resized += 1  # loading may have changed ranks
        self.method.resumed(self)

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for factors in self.factors().values():
            drop_misfitting_state(optimizer, factors.left)
            drop_misfitting_state(optimizer, factors.right)
        self._rates = [group["lr"] for group in optimizer.param_groups]
        factor = self.learning_rate_ratio * self.method.learning_rate_factor(self)
        for group in optimizer.param_groups:
            if group["lowrank"]:
                group["lr"] = group["lr"] * factor
        self.method.before_step(self, optimizer)

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # What a scheduler or a trainer set must be found again by it, so the factor is undone.
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
        self.step += 1
        self.method.after_step(self, optimizer)

    @staticmethod
    def _find(model: nn.Module, name: str) -> WeightStructure:
        path, _, parameter = name.partition(":")
        module = model.get_submodule(path)
        if parameter:
            module = module.parametrizations[parameter][0]  # type: ignore[index, union-attr]
        structure = getattr(module, "structure", None)
        assert isinstance(structure, WeightStructure)
        return structure


def _split_groups(optimizer: torch.optim.Optimizer, targets: set[int]) -> None:
    """Give the targets groups of their own, marked `lowrank`."""
    for group in list(optimizer.param_groups):
        inside = [p for p in group["params"] if id(p) in targets]
        group["lowrank"] = bool(inside)
        if inside and len(inside) < len(group["params"]):
            rest = [p for p in group["params"] if id(p) not in targets]
            group["params"] = inside
            optimizer.param_groups.append({**group, "params": rest, "lowrank": False})
