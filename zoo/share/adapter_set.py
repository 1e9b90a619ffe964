"""Several saved adapters on one model, each switched on and off, alone or together.

    adapters = AdapterSet(model)
    adapters.add("novel", "novel.safetensors")
    adapters.add("letters", "letters.safetensors")
    adapters.use("novel")              # or ("novel", "letters"), or nothing
    adapters.fold()                    # one weight in the place of the parts; unfold() goes back

The weights of the model are kept once and never written, so `use()` gives the outputs of the base
bit by bit, before, between and after. What an adapter trained besides, such as a head, comes and
goes with it.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...layers.lowrank import Factors, WeightStructure, reparametrize, structures
from ...layers.lowrank.adapters.adapter import Adapter
from ...layers.lowrank.adapters.remove import base_of, remove_adapters
from ...layers.lowrank.weights.adapter_stack import AdapterStack
from ..axes.adapters import apply_adapter, make_adapter
from .adapter_files import AdapterFile, fill, save_adapter, write_beside
from .merge_adapters import MergeMethod, merged_factors

__all__ = ["AdapterSet"]


class _Stacked(Adapter):
    """Frozen weights with room for several adapters."""

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> AdapterStack:
        """Begin without adapters."""
        return AdapterStack(weight)


class AdapterSet:
    """Several saved adapters on one model.

    Args:
        model: With the weights that the adapters were trained beside; frozen and changed in place
            by the first adapter. Neither compiled nor wrapped before.

    Attributes:
        active: Names of the adapters that are on.

    Raises:
        ValueError: the model has an adapter or factored weights already.
    """

    def __init__(self, model: nn.Module) -> None:
        """Begin without adapters."""
        found = [name for name, _, _ in structures(model)]
        if found:
            raise ValueError(
                f"{found[0]} has a structure already; save its adapter with save_adapter and call "
                f"remove_adapter, or merge the model"
            )
        self.model = model
        self.active: tuple[str, ...] = ()
        self._beside: dict[str, dict[str, Tensor]] = {}
        self._plain: dict[str, Tensor] = {}
        self._merged: set[str] = set()

    @property
    def names(self) -> list[str]:
        """Names of all adapters."""
        return list(self._beside)

    def add(self, name: str, path: str | Path) -> None:
        """Load an adapter, off at first.

        Raises:
            ValueError: a name that is taken or holds a dot, a file that is missing, damaged or of
                other weights. The set is then as it was.
        """
        self._check_new(name)
        held = AdapterFile.read(path)
        active = self.active
        self.use()
        try:
            held.check_base(self.model, str(path))
            self._take(name, held, str(path))
        finally:
            self.use(*active)

    def use(self, *names: str) -> None:
        """Switch some adapters on, and all others off.

        Raises:
            ValueError: an unknown name, or adapters of which each has its own head or statistics.
        """
        for name in names:
            if name not in self._beside:
                known = ", ".join(self.names) or "none"
                raise ValueError(f"no adapter {name!r}; there are {known}")
        if len(set(names)) < len(names):
            raise ValueError(f"{names} names an adapter twice, which would add it once")
        wanted: dict[str, Tensor] = {}
        for name in names:
            for key, tensor in self._beside[name].items():
                if key in wanted and not torch.equal(wanted[key], tensor):
                    raise ValueError(
                        f"{' and '.join(names)} have each their own {key}, of which one can be "
                        f"there; switch one of them on"
                    )
                wanted[key] = tensor
        for stack in self._stacks():
            stack.use(names)
        write_beside(self.model, {**self._plain, **wanted})
        self.active = names

    def fold(self) -> None:
        """Compute with one weight in the place of the parts that are on.

        Raises:
            ValueError: half precision, whose rounding would swallow small changes; a gate, which
                no weight equals.
        """
        stacks = list(self._stacks())
        for stack in stacks:
            dtype = stack.base.weight.dtype
            if dtype in (torch.float16, torch.bfloat16):
                raise ValueError(
                    f"a weight in {dtype} would round away what the adapter changes; call "
                    f"model.float() first, or leave the adapter unfolded"
                )
            if not stack.is_matrix:
                raise ValueError(
                    f"{', '.join(stack.active)}: a gate that reads the input stands between the "
                    f"factors, which no weight equals; leave it unfolded"
                )
        for stack in stacks:
            stack.fold(True)

    def unfold(self) -> None:
        """Compute with the parts again; the weights of the model were never written."""
        for stack in self._stacks():
            stack.fold(False)

    def merge(
        self,
        name: str,
        names: Sequence[str],
        method: MergeMethod = "truncate",
        *,
        rank: int | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        """Add an adapter that does what several do together, off at first.

        It is a plain LoRA. Statistics and heads of the several, if any, are averaged.

        Args:
            name: Of the new adapter.
            names: Of those that it is made of.
            method: `cat`, `truncate`, `average` or `lego`; see `merge_adapters`.
            rank: Of the result, for `truncate` and `lego`; None is the largest of the several.
            weights: One for each, above 0; None is their mean, and ones are their sum.

        Raises:
            ValueError: an unknown or taken name, or what `merged_factors` refuses.
        """
        self._check_new(name)
        for each in names:
            if each not in self._beside:
                raise ValueError(f"no adapter {each!r}; there are {', '.join(self.names)}")
        shares = [1 / len(names)] * len(names) if weights is None else list(weights)
        if not names or len(shares) != len(names):
            raise ValueError(f"{len(shares)} weights do not fit {len(names)} adapters")
        made: dict[str, tuple[AdapterStack, Factors]] = {}
        for place, _, stack in structures(self.model):
            assert isinstance(stack, AdapterStack)
            found = [(n, w) for n, w in zip(names, shares, strict=True) if n in stack.members]
            if not found:
                continue
            members: Any = [stack.members[n] for n, _ in found]
            try:
                left, right = merged_factors(members, method, [w for _, w in found], rank)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
            made[place] = stack, Factors(left, right, extra=stack.base)
        self._beside[name] = self._averaged(names, shares)
        self._merged.add(name)
        for stack, factors in made.values():
            stack.add(name, factors.train(self.model.training))

    def save(self, name: str, path: str | Path) -> Path:
        """Write a merged adapter to a file of its own, which `load_adapter` and `add` read.

        Its components are those of the weight that has most; others get components of zeros.

        Raises:
            ValueError: an adapter that was not merged here, which has its file, or a weight that
                cannot have as many components.
        """
        if name not in self._merged:
            raise ValueError(f"{name!r} was not merged here; copy the file that it came from")
        stacks = {p: s for p, _, s in structures(self.model) if name in _members(s)}
        factors = {place: _members(stack)[name] for place, stack in stacks.items()}
        most = max(f.allocated for f in factors.values() if isinstance(f, Factors))
        active = self.active
        self.use()
        try:
            plain = copy.deepcopy(self.model)
        finally:
            self.use(*active)
        remove_adapters(plain)
        spec = {"name": "lora", "rank": most, "alpha": float(most), "targets": list(factors)}
        controller = apply_adapter(plain, spec)
        for place, whole in controller.factors().items():
            own = factors[place]
            assert isinstance(own, Factors)
            with torch.no_grad():
                whole.right.zero_()
                whole.left[..., : own.allocated] = own.left
                whole.right[..., : own.allocated, :] = own.right
        write_beside(plain, self._beside[name])
        trained = [key for key in self._beside[name] if key in dict(plain.named_parameters())]
        for key in trained:
            plain.get_parameter(key).requires_grad_(True)
        return save_adapter(controller, path)

    def _averaged(self, names: Sequence[str], shares: Sequence[float]) -> dict[str, Tensor]:
        """Return the weighted means of heads and statistics; whole numbers are the first's."""
        found: dict[str, Tensor] = {}
        total = sum(shares)
        for key in {key: None for name in names for key in self._beside[name]}:
            own = [self._beside[name].get(key, self._plain[key]) for name in names]
            found[key] = own[0].clone()
            if own[0].is_floating_point():
                parts = [w / total * t.to(own[0]) for w, t in zip(shares, own, strict=True)]
                found[key] = torch.stack(parts).sum(0)
        return found

    def _check_new(self, name: str) -> None:
        if name in self._beside or not name or "." in name:
            raise ValueError(f"the name {name!r} is taken, or no name; give another, without a dot")

    def _take(self, name: str, held: AdapterFile, what: str) -> None:
        preset = make_adapter(held.spec)
        present = {place: s for place, _, s in structures(self.model)}
        fresh = [target for target in held.targets if target not in present]
        if fresh:
            reparametrize(self.model, _Stacked(), fresh)
            present = {place: s for place, _, s in structures(self.model)}
        made = {}
        for target in held.targets:
            matrix = base_of(present[target]).dense().detach()
            made[target] = preset.structure(target, matrix, torch.Generator().manual_seed(0))
            fill(made[target], held.inside[target], f"{what}: {target}")
        for key in held.beside:
            if key not in self._plain:
                path, _, last = key.rpartition(".")
                own = getattr(self.model.get_submodule(path), last)
                self._plain[key] = own.detach().clone()
        self._beside[name] = held.beside
        for target, structure in made.items():
            stack = present[target]
            assert isinstance(stack, AdapterStack)
            structure.to(stack.base.weight.device).train(self.model.training)
            stack.add(name, structure)

    def _stacks(self) -> Iterator[AdapterStack]:
        for _, _, structure in structures(self.model):
            assert isinstance(structure, AdapterStack)
            yield structure


def _members(structure: WeightStructure) -> Mapping[str, WeightStructure]:
    """Return the adapters of a weight by name."""
    assert isinstance(structure, AdapterStack)
    return cast(Mapping[str, WeightStructure], structure.members._modules)
