"""Ways to make a mistake in any mechanism, and those of single ones."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from archzoo.layers.residual import (
    AttnRes,
    DeepCrossAttention,
    DepthSWA,
    ElcBert,
    Residual,
    Scaled,
    State,
)
from torch import Tensor

from .trial import Trial

Change = Callable[[Any], None]


def with_verbs(base: type[Residual], **verbs: Any) -> type[Residual]:
    """A mechanism that does something of its own."""
    return type(base.__name__, (base,), verbs)


def built(base: type[Residual], change: Change) -> type[Residual]:
    """A mechanism that is changed after it was built."""

    @functools.wraps(base.__init__)
    def build_and_change(self, *args: Any, **options: Any) -> None:
        base.__init__(self, *args, **options)
        change(self)

    return with_verbs(base, __init__=build_and_change)


def setting(base: type[Residual], **values: Callable[[Any], Any]) -> type[Residual]:
    """A mechanism of which some attributes are other than they were."""

    def change(self) -> None:
        for name, value in values.items():
            setattr(self, name, value(getattr(self, name)))

    return built(base, change)


def filled(base: type[Residual], **values: Callable[[Tensor], Any]) -> type[Residual]:
    """A mechanism whose parameters start elsewhere, after a reset too."""

    def reset_parameters(self) -> None:
        base.reset_parameters(self)
        with torch.no_grad():
            for name, value in values.items():
                parameter = self.get_parameter(name)
                parameter.copy_(torch.as_tensor(value(parameter)).expand_as(parameter))

    return with_verbs(base, reset_parameters=reset_parameters)


def of_site(base: type[Residual], verb: str, place: int) -> type[Residual]:
    """A mechanism that takes the gates of the last site at the first, and so on."""

    def turned(self, *args: Any) -> Any:
        given = [*args]
        given[place] = len(self.sites) - 1 - given[place]
        return getattr(base, verb)(self, *given)

    return with_verbs(base, **{verb: turned})


def ignoring_the_mask(base: type[Residual]) -> type[Residual]:
    return with_verbs(
        base, write=lambda self, s, i, y, c: base.write(self, s, i, y, c._replace(keep=None))
    )


def in_place(base: type[Residual], of: Callable[[State], Tensor]) -> type[Residual]:
    """A mechanism whose write leaves the newest sum in a tensor of the state before."""

    def write(self, state, site, y, context):
        after = base.write(self, state, site, y, context)
        of(state).copy_(of(after))
        return after

    return with_verbs(base, write=write)


def along_the_last_axis(base: type[Residual]) -> type[Residual]:
    return with_verbs(base, along_channels=lambda self, vector, like: vector)


def only_in_rows(base: type[Residual]) -> type[Residual]:
    """A mechanism that views a branch output, which must lie in memory row by row."""
    return with_verbs(
        base,
        write=lambda self, s, i, y, c: base.write(self, s, i, y.view(-1).view(y.shape), c),
    )


def closing(base: type[Residual], close: Callable[[Any], Tensor]) -> type[Residual]:
    return with_verbs(base, close=lambda self, state: close(state))


def unmarked(base: type[Residual]) -> type[Residual]:
    """A mechanism whose gates decay with the weights."""
    return built(base, lambda self: self.__dict__.pop("_no_decay"))


def without_the_first(self, state, site):
    return Trial.mixture(self, state[1:] if len(state) > 1 else state, site)


def without_the_oldest_state(self, state, site):
    return DepthSWA.read(self, state[1:] if len(state) > 1 else state, site)


def without_the_stack_s_first(self, state, site):
    if self.mixes(site):
        first, *rest = state.sources
        state = state._replace(sources=(torch.zeros_like(first), *rest))
    return DeepCrossAttention.read(self, state, site)


def without_the_first_output(self, outputs):
    first, *rest = outputs
    return ElcBert._mixture(self, (torch.zeros_like(first), *rest) if rest else outputs)


def without_an_embedding(state: Callable[..., State]) -> Callable[..., State]:
    """An `open` whose history begins with nothing."""
    return lambda self, x, past=None: state((torch.zeros_like(x),), x)


def reversed_rows(self) -> None:
    self.row = self.row[::-1]


def turned_over(base: type[Residual]) -> type[Residual]:
    return built(base, reversed_rows)


def forgetting(self, sources, site):
    """Attention residuals that forget the embedding as soon as there is something else."""
    if len(sources.values) > 1:
        sources = sources._replace(values=sources.values[1:], alive=sources.alive[1:])
    return AttnRes.mixture(self, sources, site)


def one_less(self, state, site, y, context):
    """Deep cross attention that pools one source too early."""
    state = DeepCrossAttention.write(self, state, site, y, context)
    if self.keep is not None and len(state.sources) == 2 * self.keep:
        sources = (*state.sources[: self.keep - 1], *state.sources[self.keep :])
        state = state._replace(sources=(sources[0], *sources))
    return state


def early_group(self, state, site, y, context):
    """Parallel branches whose groups end one branch early."""
    base, acc = state
    (acc,) = Scaled.write(self, (acc,), site, y, context)
    return (acc if (site + 2) % self.group == 0 else base, acc)


def plus_one(x):
    return x + 1


def minus_one(x):
    return x - 1


no_ahead = {"look_ahead": lambda self, sources, site: None}
