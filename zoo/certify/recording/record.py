"""Recording of a model's own, unchanged forward.

A recorded tensor is a subclass with real memory full of NaN: what reads past the dispatcher reads
NaN. The dispatcher shows every operation to `Recorder`, a mode, which looks up where the operands
lie in memory, and writes on a `Tape` how the numbers of the result follow from those of the
operands. Memory is the identity of a value: views read other places of it, and in-place operations
write a new value into it, so neither needs a rule, and plain tensors that a recorded one was
written into are recorded from then on.

What does not depend on the samples is executed as it is, in its own precision, and its numbers are
widened exactly to float64. Everything that no rule is known for becomes a value without a bound.
"""

# Shape letters: B samples of the recording, n numbers of a storage.

import contextlib
import copy
import functools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

from ....layers.lipschitz import LipschitzLayer
from ..operators import Gather
from ..rules.call import Call, rule_of
from ..rules.layers import Answer, layer_rules
from ..tape import Argument, Groups, Linear, Piece, Source, Stop, Tape
from .apart import ATTENTION, NO_ATTENTION, RESHAPED, SHAPES, VALUES
from .memory import Recorded, RecordingError, Store, address_of, plain_of, tensors_of

__all__ = ["Mark", "Recorder"]

LAYER = 2.0**-38  # rounding of a layer in float64, as a share of what it reads and returns


class Mark(NamedTuple):
    """What a layer that is Lipschitz by construction read and returned."""

    name: str
    layer: LipschitzLayer
    read: Argument
    returned: Argument


class Recorder(TorchDispatchMode):
    """A recording of one forward.

    Args:
        samples: B.
    """

    def __init__(self, samples: int) -> None:
        """Start with an empty tape."""
        super().__init__()
        self.tape = Tape(samples)
        self.stores: dict[int, Store] = {}
        self.refused: list[str] = []
        self.modules: list[str] = []
        self.marks: list[Mark] = []
        self.coarsest = torch.float64

    @property
    def place(self) -> str:
        """The path of the module that runs."""
        return self.modules[-1] if self.modules else ""

    def input(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return the recorded samples (B, …)."""
        value = self.tape.add(Source(math.prod(shape)))
        return self._fresh(torch.empty(*shape, dtype=dtype), value)

    def refuse(self, reason: str) -> RecordingError:
        """Note a refusal, so that it counts even where the forward catches it."""
        self.refused.append(f"{self.place or 'the model'}: {reason}")
        return RecordingError(reason)

    def read(self, tensor: Tensor) -> Argument | None:
        """Return what a tensor holds, or None where no sample has reached its memory."""
        store = self.stores.get(address_of(tensor))
        if store is None:
            return None
        count = tensor.untyped_storage().nbytes() // tensor.element_size()
        places = torch.arange(count) if store.order is None else store.order
        size, stride, offset = tensor.size(), tensor.stride(), tensor.storage_offset()
        if store.order is None and tensor.is_contiguous() and tensor.numel() == count:
            return Argument(store.value, places.view(size), tensor.dtype, whole=True)
        return Argument(store.value, torch.as_strided(places, size, stride, offset), tensor.dtype)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Execute what no sample reaches, and write the rest on the tape."""
        kwargs = kwargs or {}
        if not torch.is_inference_mode_enabled():
            return self._dispatched(func, args, kwargs)
        with torch.inference_mode(False):  # no gradient is taken through tensors made inside
            return self._dispatched(func, args, kwargs)

    def _dispatched(self, func: Any, args: Any, kwargs: Any) -> Any:
        if not isinstance(func, OpOverload):
            raise self.refuse(f"{func} is an operation of higher order, which has no rule")
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        tracked = any(address_of(t) in self.stores for t in tensors)
        random = torch.Tag.nondeterministic_seeded in func.tags
        if not tracked and not random:
            return func(*args, **kwargs)
        plain_args, plain_kwargs = tree_map(plain_of, (args, kwargs))
        packet = func.name().split(".")[0]
        if any(name in packet for name in ATTENTION):
            return self._stopped(func, plain_args, plain_kwargs, NO_ATTENTION)
        if random:
            reason = f"{func} draws random numbers in evaluation mode; take it out of the forward"
            return self._stopped(func, plain_args, plain_kwargs, reason)
        if packet in VALUES:
            raise self.refuse(
                f"{func} takes a number or a decision from the values, which a bound for all "
                f"inputs cannot follow; use torch.where or a layer instead"
            )
        if packet in SHAPES:
            return func(*plain_args, **plain_kwargs)
        returns = func._schema.returns
        if any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments):
            return self._in_place(func, args, kwargs, plain_args, plain_kwargs)
        if any(r.alias_info is not None for r in returns):
            found = func(*plain_args, **plain_kwargs)
            return tree_map(lambda t: self._view(func, tensors[0], t), found)
        return self._new(func, args, kwargs, plain_args, plain_kwargs)

    def _view(self, func: OpOverload, base: Tensor, view: Any) -> Any:
        if not isinstance(view, Tensor):
            return view
        if view.dtype != base.dtype or view.is_conj() or view.is_neg():
            raise self.refuse(f"{func} reads numbers as another type, which has no rule")
        return view.as_subclass(Recorded) if address_of(view) in self.stores else view

    def _new(self, func: OpOverload, args: Any, kwargs: Any, plain: Any, named: Any) -> Any:
        """Record an operation that makes new tensors."""
        found = self._run(func, plain, named)
        pieces = self._pieces(func, args, kwargs, found)
        if not isinstance(found, (tuple, list)):
            return self._record(func, pieces[0], found, args, kwargs)
        made = [self._record(func, p, f, args, kwargs) for p, f in zip(pieces, found, strict=True)]
        return type(found)(made) if isinstance(found, list) else tuple(made)

    def _record(self, func: OpOverload, piece: Piece, found: Any, args: Any, kwargs: Any) -> Any:
        if not isinstance(found, Tensor):
            return found
        value = self._put(func, piece, found.numel(), args, kwargs)
        return self._fresh(found, value)

    def _put(self, func: OpOverload, piece: Piece, size: int, args: Any, kwargs: Any) -> int:
        reads = [a.value for a in map(self.read, tensors_of(args, kwargs)) if a is not None]
        return self.tape.put(piece, size, str(func), self.place, list(dict.fromkeys(reads)))

    def _pieces(self, func: OpOverload, args: Any, kwargs: Any, found: Any) -> Sequence[Piece]:
        """Apply the rule of an operation; one piece for each tensor that it returns."""
        count = len(found) if isinstance(found, (tuple, list)) else 1
        start = f"{self.place or 'the model'}: {func}"
        stop = Stop(
            f"{start} is an operation that no rule is known for; write it with others, or "
            f"register a rule"
        )
        rule = rule_of(func)
        if rule is None:
            return [stop] * count
        call = Call.of(func, args, kwargs, self.read, self.tape)
        unusable = call.unusable()
        if unusable is not None:
            return [Stop(f"{start} {unusable}")] * count
        found_pieces = rule(call)
        pieces = list(found_pieces) if isinstance(found_pieces, Sequence) else [found_pieces]
        pieces = [
            replace(p, reason=f"{start} {p.reason}") if isinstance(p, Stop) else p for p in pieces
        ]
        return pieces + [stop] * (count - len(pieces))

    def _in_place(self, func: OpOverload, args: Any, kwargs: Any, plain: Any, named: Any) -> Any:
        """Record an operation that writes into its first operand."""
        written = [a for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
        packet, overload = func._schema.name.removeprefix("aten::"), func._overloadname
        target = args[0] if args else None
        if packet in RESHAPED:
            with torch._C._DisableTorchDispatch():  # the memory stays, and is read in another shape
                func(*args, **kwargs)
            return target
        functional = getattr(torch.ops.aten, packet.removesuffix("_"), None)
        form = getattr(functional, overload, None) if packet.endswith("_") else None
        known = len(written) == 1 and written[0].name == "self" and isinstance(target, Tensor)
        if form is None or not known or not isinstance(target, Tensor):
            raise self.refuse(f"{func} writes into tensors in a way that has no rule")
        if not target.dtype.is_floating_point:
            raise self.refuse(f"{func} writes into a tensor of {target.dtype}, which has no rule")
        size, stride, offset = target.size(), target.stride(), target.storage_offset()
        piece = self._pieces(form, args, kwargs, target)[0]
        value = self._put(form, piece, target.numel(), args, kwargs)
        store = self.stores.get(address_of(target)) or self._taint(target)
        count = target.untyped_storage().nbytes() // target.element_size()
        places = torch.as_strided(torch.arange(count), size, stride, offset).reshape(-1)
        before = torch.arange(count) if store.order is None else store.order
        over = torch.full((count,), -1)
        over[places] = torch.arange(len(places))
        old = torch.where(over < 0, before, -1)
        parts = [
            (Argument(store.value, torch.arange(self.tape.size(store.value)), target.dtype),
             Gather(old, None, self.tape.size(store.value))),
            (Argument(value, torch.arange(len(places)), target.dtype),
             Gather(over, None, len(places))),
        ]  # fmt: skip
        if not bool((over < 0).any()):
            parts = parts[1:]
        store.value = self.tape.put(Linear(parts, (count,)), count, str(func), self.place)
        store.order = None
        self._run(func, plain, named)
        return target

    def _run(self, func: OpOverload, plain: Any, named: Any) -> Any:
        try:
            return func(*plain, **named)
        except RuntimeError as error:  # such as a factorisation of NaN
            raise self.refuse(f"{func} cannot be recorded: {str(error).splitlines()[0]}") from error

    def _stopped(self, func: OpOverload, plain: Any, named: Any, reason: str) -> Any:
        """Execute an operation whose results have no bound."""
        if any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments):
            raise self.refuse(reason)
        found = func(*plain, **named)
        stop = Stop(f"{self.place or 'the model'}: {reason}")
        return tree_map(
            lambda t: self._record(func, stop, t, (), {}) if isinstance(t, Tensor) else t, found
        )

    def _taint(self, tensor: Tensor) -> Store:
        """Follow the memory of a plain tensor from now on."""
        count = tensor.untyped_storage().nbytes() // tensor.element_size()
        numbers = torch.as_strided(tensor.detach(), (count,), (1,), 0).to(torch.float64, copy=True)
        store = Store(self.tape.add(Source(count, numbers)), None, tensor)
        self.stores[address_of(tensor)] = store
        return store

    def _fresh(self, like: Tensor, value: int) -> Tensor:
        """Return a recorded tensor with memory of its own, of the shape of a plain one."""
        raw = torch.empty_like(like)
        if raw.is_floating_point():
            types = (self.coarsest, raw.dtype)
            self.coarsest = max(types, key=lambda dtype: torch.finfo(dtype).eps)
        if raw.dtype.is_floating_point or raw.dtype.is_complex:
            raw.fill_(math.nan)
        else:
            raw.zero_()
        order = None
        if not raw.is_contiguous():
            order = torch.empty(raw.untyped_storage().nbytes() // raw.element_size()).long()
            torch.as_strided(order, raw.size(), raw.stride()).copy_(
                torch.arange(raw.numel()).view(raw.size())
            )
        self.stores[address_of(raw)] = Store(value, order, raw)
        return raw.as_subclass(Recorded)

    @contextlib.contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        """Record inside, with the paths of the modules of a model."""
        names: dict[nn.Module, str] = {}
        for name, module in model.named_modules():
            names.setdefault(module, name)

        def enter(module: nn.Module, inputs: Any) -> None:
            self.modules.append(names.get(module, self.place))

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            self.modules.pop()
            given = inputs[0] if inputs else None
            if not isinstance(given, Tensor) or not isinstance(output, Tensor):
                return
            if isinstance(module, LipschitzLayer):
                ends = self.read(given), self.read(output)
                if ends[0] is not None and ends[1] is not None:
                    self.marks.append(Mark(names.get(module, ""), module, ends[0], ends[1]))

        handles = [
            torch_module.register_module_forward_pre_hook(enter),
            torch_module.register_module_forward_hook(leave, always_call=True),
        ]
        rules = {module: rule for module in names if (rule := layer_rules(module)) is not None}
        wide = {module: copy.deepcopy(module).double() for module in rules}
        for module, rule in rules.items():
            own = functools.partial(self._layer, module, wide[module], rule)
            vars(module)["forward"] = own
        try:
            with (
                torch.no_grad(),
                torch.compiler.set_stance("force_eager"),
                warnings.catch_warnings(),
                self,
            ):
                # Compiled modules warn of hooks that they would not see; they run eagerly here.
                warnings.filterwarnings("ignore", "Using `torch.compile")
                yield
        finally:
            for handle in handles:
                handle.remove()
            for module in rules:
                del vars(module)["forward"]

    def _layer(
        self, module: nn.Module, wide: nn.Module, rule: Answer, *args: Any, **kwargs: Any
    ) -> Any:
        """Record a layer that has a rule of its own as one map."""
        whole = type(module).forward
        x = args[0] if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) else None
        argument = None if x is None else self.read(x)
        if x is None or argument is None:
            return whole(module, *args, **kwargs)
        answer = rule(module)
        with _disable_current_modes():
            like = whole(module, torch.zeros(x.shape, dtype=x.dtype))
        name, samples = type(module).__name__, self.tape.samples
        if isinstance(answer, str):
            piece: Piece = Stop(f"{self.place or 'the model'}: {name} {answer}")
        elif len(like) != samples:
            return whole(module, x)
        else:
            shape = x.shape[1:]

            def function(g: Tensor) -> Tensor:
                found = whole(wide, g.reshape(-1, *shape))
                return found.reshape(*g.shape[:-1], -1)

            piece = Groups(
                [argument], torch.arange(x.numel()).view(samples, -1),
                torch.arange(like.numel()).view(like.shape), answer, function, LAYER, (name,),
            )  # fmt: skip
        value = self.tape.put(piece, like.numel(), name, self.place, [argument.value])
        return self._fresh(like, value)
