"""Which units of a network move together when they change places, as its layers say themselves.

Hidden units have no order of their own: permute the rows of one layer and the columns of the next
alike, and the network is the same function. A layer declares, axis by axis, whose units its
parameters and buffers belong to:

    unit_axes = {"weight": ("out", "in"), "bias": ("out",)}

    in      the channels that it reads, which are also those that it returns unless it has `out`
    out     the channels that it returns
    stream  the channels of the stream, in a residual
    None    an axis that stays as it is, such as a kernel's side
    (…)     pieces side by side: numbers of entries that stay, and labels

Any other label is a hidden width of the layer's own. What has parts says in which order its units
pass through them, by a method `follow_units(trace, x)` that returns the units of what it gives, or
None for plain numbers. What cannot be permuted says why in `no_units`. Parameters without axes,
such as a temperature, need no declaration.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from .declared_units import CONVOLUTIONS, Label, computes_as, unit_axes_of

__all__ = ["Bond", "Label", "Piece", "UnitTrace", "Units"]


class Piece(NamedTuple):
    """A part of an axis: `size` entries, of some units or, for None, entries that stay."""

    units: "Units | None"
    size: int


class Units:
    """Channels of one tensor, and of every other whose channels move with them.

    Args:
        size: How many; None is not known yet.
        name: Of the layer that makes them.
        fixed: Whether they keep their places, as inputs and logits do.
    """

    def __init__(self, size: int | None, name: str, *, fixed: bool = False) -> None:
        """Start apart from all others."""
        self.size, self.name, self.fixed = size, name, fixed
        self.bond: Bond | None = None
        self._joined: Units | None = None

    def root(self) -> "Units":
        """The one that stands for all that were joined with these."""
        return self if self._joined is None else self._joined.root()

    def join(self, other: "Units") -> None:
        """Let these and others move together.

        Raises:
            ValueError: another number of units, or bonds of two kinds.
        """
        mine, theirs = self.root(), other.root()
        if mine is theirs:
            return
        sizes = {mine.size, theirs.size} - {None}
        if len(sizes) > 1:
            raise ValueError(
                f"the {mine.size} units of {mine.name!r} and the {theirs.size} of "
                f"{theirs.name!r} are added, and their numbers differ"
            )
        bonds = [bond for bond in (mine.bond, theirs.bond) if bond is not None]
        if len(bonds) == 2 and not bonds[0].binds_as(bonds[1]):
            raise ValueError(
                f"the units of {mine.name!r} and of {theirs.name!r} are bound to blocks of two "
                f"layers, which no permutation of both keeps"
            )
        theirs._joined = mine
        mine.size = mine.size if theirs.size is None else theirs.size
        mine.fixed = mine.fixed or theirs.fixed
        mine.bond = mine.bond or theirs.bond

    def bind_blocks(self, count: int) -> None:
        """Let units move with the other units of their block, of `count` blocks."""
        self.join(Bond(count, {Units(self.root().size, self.name): True}).only)


class Bond:
    """Blocks whose units change places as a whole, such as the heads of an attention.

    Args:
        count: Blocks.
        parts: Units of `count` blocks each, and whether units may also change places inside a
            block.
    """

    def __init__(self, count: int, parts: Mapping[Units, bool]) -> None:
        """Bind the units."""
        self.count, self.parts = count, dict(parts)
        for units in parts:
            units.root().bond = self

    @property
    def only(self) -> Units:
        """The units of a bond of one part."""
        (units,) = self.parts
        return units

    def binds_as(self, other: "Bond") -> bool:
        """Whether both bind one part alike."""
        return (self.count, list(self.parts.values())) == (
            other.count,
            list(other.parts.values()),
        ) and len(self.parts) == 1


class UnitTrace:
    """The units of a model on their way through its layers.

    Attributes:
        axes: For each parameter and buffer met, by its first name, the pieces of each axis.

    Args:
        model: Whose layers are followed.
    """

    def __init__(self, model: nn.Module) -> None:
        """Note the names."""
        self.axes: dict[str, tuple[tuple[Piece, ...], ...]] = {}
        self._modules = {id(module): name for name, module in model.named_modules()}
        self._names: dict[int, str] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self._names.setdefault(id(tensor), name)

    def fixed(self, size: int | None = None, name: str = "the input") -> Units:
        """Return units that keep their places."""
        return Units(size, name, fixed=True)

    def new(self, size: int, module: nn.Module) -> Units:
        """Return units that a module makes."""
        return Units(size, self.name_of(module))

    def name_of(self, module: nn.Module) -> str:
        """Return the path of a module."""
        return self._modules.get(id(module)) or type(module).__name__

    def through(
        self, module: nn.Module, x: Any = None, *, out: tuple[Units, ...] | None = None
    ) -> Any:
        """Follow units through a module.

        Args:
            module: A layer, or what has some.
            x: The units of what it reads.
            out: The pieces of what it returns, where those are more than one kind of units.

        Returns:
            The units of what it returns; None for numbers that are no channels.

        Raises:
            ValueError: a layer that declares no units, or cannot be permuted.
        """
        follow: Callable[..., Any] | None = getattr(module, "follow_units", None)
        if follow is not None:
            return follow(self, x)
        if isinstance(module, nn.Sequential) and computes_as(module, nn.Sequential):
            return self.chain(x, *module)
        found = self.parameters(module, **{"in": x}, **({} if out is None else {"out": out}))
        return found.get("out", x)

    def chain(self, x: Any, *modules: nn.Module) -> Any:
        """Follow units through modules, one after the other."""
        for module in modules:
            x = self.through(module, x)
        return x

    def parameters(self, module: nn.Module, **given: Any) -> dict[str, Any]:
        """Note the axes of the parameters and buffers that a module declares.

        Args:
            module: The module itself; what it is made of is followed apart.
            given: Units for labels, or a tuple of units side by side; other labels make new ones.

        Returns:
            The units of every label.

        Raises:
            ValueError: a module that cannot be permuted, or says nothing of a parameter of its own.
        """
        declared = self._declared(module)
        labels = {label: units for label, units in given.items() if units is not None}
        for name, axes in declared.items():
            tensor: Any = module
            for part in name.split("."):
                inside = isinstance(tensor, nn.ParameterDict)
                tensor = tensor[part] if inside else getattr(tensor, part, None)
            if isinstance(tensor, Tensor):
                self._note(module, tensor, axes, labels)
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        silent = [name for name, p in own if p.dim() and self._names[id(p)] not in self.axes]
        if silent:
            raise ValueError(
                f"{self.name_of(module)}: {type(module).__name__} does not say whose units belong "
                f"to its {', '.join(silent)}; declare `unit_axes` on its class"
            )
        return labels

    def _declared(self, module: nn.Module) -> Mapping[str, tuple[Label, ...]]:
        if isinstance(module, CONVOLUTIONS) and module.groups > 1:
            if module.groups == module.in_channels == module.out_channels:
                axes = (None,) * (module.weight.dim() - 1)
                return {"weight": ("in", *axes), "bias": ("in",)}
            raise ValueError(
                f"{self.name_of(module)} has groups={module.groups}, which tie channels to one "
                f"another; match networks without them"
            )
        # The layer that is the reason stands inside what declares nothing.
        for part in module.modules():
            reason = getattr(part, "no_units", None)
            if reason is not None:
                name = self.name_of(part)
                raise ValueError(f"{name} is a {type(part).__name__}, and {reason}")
        own = unit_axes_of(module)
        if own is None:
            raise ValueError(
                f"{self.name_of(module)}: {type(module).__name__} does not say what becomes of its "
                f"units; give its class `unit_axes` or `follow_units` (layers/units.py)"
            )
        return own

    def _note(
        self, module: nn.Module, tensor: Tensor, axes: tuple[Label, ...], labels: dict[str, Any]
    ) -> None:
        name = self._names.get(id(tensor))
        if name is None:
            raise ValueError(
                f"{self.name_of(module)}: a weight of {type(module).__name__} is computed from "
                f"other parameters; merge them first"
            )
        if len(axes) != tensor.dim():
            raise ValueError(f"{name} has {tensor.dim()} axes, and {len(axes)} are declared")
        found = []
        for label, size in zip(axes, tensor.shape, strict=True):
            found.append(tuple(self._pieces(module, name, label, size, labels)))
        before = self.axes.setdefault(name, tuple(found))
        # A tensor of two layers, such as a table that is its own head, has the units of both.
        for old, new in zip(before, found, strict=True):
            if [piece.size for piece in old] != [piece.size for piece in new]:
                raise ValueError(f"{name} is shared by two layers that part its axes differently")
            for one, other in zip(old, new, strict=True):
                if one.units is not None and other.units is not None:
                    one.units.join(other.units)
                elif one.units is not other.units:
                    (one.units or other.units).root().fixed = True  # type: ignore[union-attr]

    def _pieces(
        self, module: nn.Module, name: str, label: Label, size: int, labels: dict[str, Any]
    ) -> list[Piece]:
        if label is None:
            return [Piece(None, size)]
        parts = label if isinstance(label, tuple) else (label,)
        pieces: list[Piece] = []
        for part in parts:
            if isinstance(part, int):
                pieces.append(Piece(None, part))
                continue
            if part not in labels:
                known = sum(p for p in parts if isinstance(p, int))
                labels[part] = self.new(size - known, module)
            units = labels[part]
            for each in units if isinstance(units, tuple) else (units,):
                root = each.root()
                if root.size is None:
                    root.size = size - sum(p for p in parts if isinstance(p, int))
                pieces.append(Piece(each, root.size))
        if sum(piece.size for piece in pieces) != size:
            raise ValueError(
                f"{name} has {size} entries on an axis, where "
                f"{' + '.join(str(piece.size) for piece in pieces)} units are read; what stands "
                f"before {self.name_of(module)} spreads its channels"
            )
        return pieces
