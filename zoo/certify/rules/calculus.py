"""What a bound is, how bounds compose, and the registry of rules by type of module.

A network is a composition of maps. Of each map two numbers are kept: a Lipschitz constant L in the
L2 norm, and how far its float64 evaluation may be from the map itself on the samples seen. They
compose as

    f∘g:    L = L_f L_g,      error = error_f + L_f error_g
    f + g:  L = L_f + L_g,    error = error_f + error_g

with every operation rounded up. A module without a rule, or one that a rule cannot bound, has the
constant ∞, and the walk notes its name and why: there is no default number.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from torch import nn

from ....layers.lipschitz.proof.norms import gamma, product_up, sum_up

__all__ = ["RULES", "Bound", "Row", "Seen", "Value", "Walk", "rule"]


class Bound(NamedTuple):
    """Of a map: its Lipschitz constant, and the error of its evaluation."""

    lipschitz: float
    error: float = 0.0

    def after(self, inner: "Bound") -> "Bound":
        """Compose with what comes before."""
        carried = product_up(self.lipschitz, inner.error)
        return Bound(product_up(self.lipschitz, inner.lipschitz), sum_up(self.error, carried))


class Value(NamedTuple):
    """Of a tensor inside the network: its constant in the input, its error and its largest norm."""

    lipschitz: float
    error: float
    size: float

    def through(self, bound: Bound, size: float) -> "Value":
        """Return the value after a map, whose outputs were seen to be `size` long at most."""
        return Value(*bound.after(Bound(self.lipschitz, self.error)), size)

    def times(self, scale: float) -> "Value":
        """Return the value times a number."""
        s = abs(scale)
        lost = product_up(2 * gamma(2), s, self.size) if s not in (0.0, 1.0) else 0.0
        return Value(
            product_up(s, self.lipschitz),
            sum_up(product_up(s, self.error), lost),
            product_up(s, self.size),
        )

    def plus(self, other: "Value") -> "Value":
        """Return the sum of two values."""
        size = sum_up(self.size, other.size)
        error = sum_up(self.error, other.error, product_up(gamma(1), size))
        return Value(sum_up(self.lipschitz, other.lipschitz), error, size)


class Seen(NamedTuple):
    """What a module was seen to read and return: shapes without the batch, and largest norms."""

    inputs: frozenset[tuple[int, ...]]
    outputs: frozenset[tuple[int, ...]]
    read: float
    returned: float


class Row(NamedTuple):
    """One line of a certificate's table."""

    name: str
    lipschitz: float
    method: str
    verified: bool


class Walk:
    """A walk over one network: what was seen of its modules, and what has been found out.

    Args:
        seen: What each module read and returned, from a run of the network.
        method: `auto`, or `product` to leave the matrix inequality out.
        verify: Whether layers that are Lipschitz by construction are checked, or taken at their
            word.
        hooked: Modules with hooks of the user's, whose forward is not all that they do.

    Attributes:
        rows: The table so far.
        reasons: Why something has no finite constant.
    """

    def __init__(
        self,
        seen: Mapping[nn.Module, Seen],
        *,
        method: str = "auto",
        verify: bool = True,
        hooked: frozenset[nn.Module] = frozenset(),
    ) -> None:
        """Start with an empty table."""
        self.seen, self.method, self.verify, self.hooked = seen, method, verify, hooked
        self.rows: list[Row] = []
        self.reasons: list[str] = []

    def bound(self, module: nn.Module, name: str) -> Bound:
        """Apply the rule of a module's type."""
        found = self.rule_of(module, name)
        return self.refuse() if found is None else found(self, module, name)

    def rule_of(self, module: nn.Module, name: str) -> Callable[..., Bound] | None:
        """Return the rule of a module's type, or note why there is none."""
        kind = type(module)
        if module in self.hooked:
            self.because(name, f"{kind.__name__} has a hook, which may change what it computes")
            return None
        for base in kind.__mro__:
            found = RULES.get(base) or RULES.get(f"{base.__module__}.{base.__qualname__}")
            if found is not None:
                # A subclass or an instance with a forward of its own is another layer.
                forward = getattr(base, "forward", None)
                same = kind.forward is forward and "forward" not in vars(module)
                if same or base in TRUSTED:
                    return found
                break
        self.because(name, f"{kind.__name__} is a layer that the calculus has no rule for")
        return None

    def because(self, name: str, why: str) -> None:
        """Note why a module has no finite constant."""
        self.reasons.append(f"{name or 'the model'}: {why}")

    def refuse(self, name: str | None = None, why: str = "") -> Bound:
        """Return ∞, and note why if that has not been noted yet."""
        if name is not None:
            self.because(name, why)
        return Bound(math.inf)

    def sight(self, module: nn.Module) -> Seen:
        """Return what was seen of a module, or nothing at all where it was not called."""
        return self.seen.get(module, Seen(frozenset(), frozenset(), 0.0, 0.0))

    def note(self, name: str, lipschitz: float, method: str, verified: bool = True) -> None:
        """Add a line to the table."""
        method = method if lipschitz < math.inf else "none"
        self.rows.append(Row(name, lipschitz, method, verified and lipschitz < math.inf))


Rule = Callable[[Walk, Any, str], Bound]
Decorated = TypeVar("Decorated", bound=Rule)

RULES: dict[type[nn.Module] | str, Rule] = {}
TRUSTED: set[type[nn.Module]] = set()


def rule(
    *kinds: type[nn.Module] | str, subclasses: bool = False
) -> Callable[[Decorated], Decorated]:
    """Decorate the rule of some types: (walk, module, name) -> Bound.

    It also serves subclasses that keep the forward of the type, and with `subclasses` all of them,
    for a base class whose contract is what the rule reads. A type whose import takes seconds is
    given by the name it has there, `module.Class`, so that all rules stand once this is imported.
    """

    def decorate(function: Decorated) -> Decorated:
        for kind in kinds:
            RULES[kind] = function
            if subclasses and not isinstance(kind, str):
                TRUSTED.add(kind)
        return function

    return decorate
