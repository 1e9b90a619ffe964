"""Trunks and stages: the walk over the residual contract."""

import math
from collections.abc import Iterable
from typing import cast

from torch import nn

from ...trunk import Trunk
from .calculus import Bound, Value, Walk
from .linear_chain import chain_of
from .residual_joins import ResidualRule, residual_rule

__all__ = ["through_stages", "through_trunk"]


def through_trunk(walk: Walk, trunk: Trunk, name: str, x: Value) -> Value:
    """Return what a trunk makes of a value."""
    rule = _rule(walk, trunk, name)
    state = rule.open(x)
    for site in range(len(trunk.branches)):
        state = _step(walk, trunk, name, rule, state, site)
    return rule.close(state)


def through_stages(
    walk: Walk, shortcuts: Iterable[nn.Module], stages: Iterable[nn.Module], x: Value
) -> Value:
    """Return what stages make of a value, as `zoo.stages.run_stages` runs them."""
    rule: ResidualRule | None = None
    state: tuple[Value, ...] = ()
    pairs = zip(shortcuts, cast(Iterable[Trunk], stages), strict=True)
    for index, (shortcut, stage) in enumerate(pairs):
        name = f"stages.{index}"
        h = handed = x if rule is None else rule.close(state)
        if rule is not None:
            handed = rule.handed(state)
        if stage.norm_position == "post":
            h = handed = _norm(walk, stage, name, 0, h)
        rule = _rule(walk, stage, name)
        carry = walk.bound(shortcut, f"shortcuts.{index}")
        state = rule.open(handed.through(carry, walk.sight(shortcut).returned))
        parts = [(f"{name}.branches.0", stage.branches[0])]
        if stage.norm_position == "pre":
            parts.insert(0, (f"{name}.norms.0", stage.norms[0]))
        chain = chain_of(walk, parts)
        factor, method = chain.bound(walk)
        walk.note(f"{name}.branches.0", factor, method)
        returned = walk.sight(stage.branches[0]).returned
        state = rule.write(state, 0, h.through(Bound(factor, chain.error), returned))
        for site in range(1, len(stage.branches)):
            state = _step(walk, stage, name, rule, state, site)
    assert rule is not None
    return rule.close(state)


def _rule(walk: Walk, trunk: Trunk, name: str) -> ResidualRule:
    parts = {name: trunk, f"{name}.residual": trunk.residual}
    found = residual_rule(trunk.residual)
    for place, part in parts.items():
        if part in walk.hooked:
            walk.because(place, f"{type(part).__name__} has a hook, which may change what it does")
            return _Unbounded(trunk.residual)
    if type(trunk) is not Trunk:
        found = f"{type(trunk).__name__} is a trunk that the calculus has no rule for"
    if isinstance(found, ResidualRule):
        return found
    walk.because(f"{name}.residual", found)
    return _Unbounded(trunk.residual)


class _Unbounded(ResidualRule):
    """A mechanism without a finite constant: every write is infinite."""

    @property
    def alone(self) -> bool:
        """A site is not a map of the stream that could be bounded."""
        return False

    def write(self, state: tuple[Value, ...], site: int, y: Value) -> tuple[Value, ...]:
        """Return ∞, whatever was written."""
        return (Value(math.inf, math.inf, math.inf),)


def _norm(walk: Walk, trunk: Trunk, name: str, site: int, x: Value) -> Value:
    norm = trunk.norms[site]
    return x.through(walk.bound(norm, f"{name}.norms.{site}"), walk.sight(norm).returned)


def _step(
    walk: Walk, trunk: Trunk, name: str, rule: ResidualRule, state: tuple[Value, ...], site: int
) -> tuple[Value, ...]:
    """Bound one site; where it maps the whole state, the branch and its skip together."""
    place = f"{name}.branches.{site}"
    parts = [(place, trunk.branches[site])]
    if trunk.norm_position == "post":
        state = rule.open(_norm(walk, trunk, name, site, rule.handed(state)))
    elif isinstance(trunk.norms[site], nn.ModuleDict):
        # Several views go in, which no branch with a finite constant takes.
        pass
    else:
        parts.insert(0, (f"{name}.norms.{site}", trunk.norms[site]))
    chain = chain_of(walk, parts)
    returned = walk.sight(trunk.branches[site]).returned
    h = rule.read(state, site)
    if not rule.alone:
        factor, method = chain.bound(walk)
        walk.note(place, factor, method)
        return rule.write(state, site, h.through(Bound(factor, chain.error), returned))
    skip, scale = rule.skip, rule.scale(site)
    factor, method = chain.beside(walk, skip, scale)
    walk.note(place, factor, method)
    # Errors and sizes as for a sum, with the constant of the whole.
    y = Value(0.0, chain.error, returned).times(scale)
    whole = Value(h.lipschitz, h.error, h.size).through(Bound(factor), skip * h.size)
    added = Value(0.0, 0.0, h.size).times(skip).plus(y)
    return (Value(whole.lipschitz, whole.error + added.error, added.size),)
