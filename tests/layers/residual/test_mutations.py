"""Every mistake of a list, made in several mechanisms, breaks a law of the contract or a formula.

`Trial` is a mechanism of no paper that has all that can be mistaken. No formula is written of it,
as of a new file that joins the checkout, so its mistakes are noticed by the contract alone.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from archzoo.layers.decay import exclude_from_decay
from archzoo.layers.residual import (
    Add,
    AttnRes,
    BlockAttnRes,
    Context,
    DeepCrossAttention,
    DeepNorm,
    Delta,
    DenseFormer,
    DepthSWA,
    ElcBert,
    GyroAttnRes,
    Highway,
    HyperConnections,
    Mobius,
    MuddFormer,
    Parallel,
    Residual,
    Scaled,
    Site,
    State,
)
from archzoo.layers.residual.denseformer import DenseState
from archzoo.layers.residual.muddformer import MuddState
from archzoo.layers.residual.stream import keep_branch
from torch import Tensor, nn

from .laws import LAWS, Make
from .stacks import build
from .test_formulas import a_fresh_parameter_is_where_it_starts, a_stack_is_the_formula

Change = Callable[[Any], None]


class Trial(Residual):
    """Decayed sums of the embedding and the newest outputs, behind a gate for each channel.

    h_l = g_l ⊙ (v_0 + Σ γ^age v_i)        over the last w outputs, the newest of age 0
    """

    equals_prenorm_at_init = False

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        window: int = 100,
        gamma: float = 0.9,
    ) -> None:
        super().__init__(width, sites, channel_dim=channel_dim)
        self.window, self.gamma = window, gamma
        self.sees_every_source = window >= len(self.sites)
        self.gate = nn.Parameter(torch.empty(len(self.sites) + 1, width))
        exclude_from_decay(self, "gate")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.gate)

    def ages(self, count: int) -> list[float]:
        return [self.gamma**age for age in range(count)]

    def mixture(self, state: State, site: int) -> Tensor:
        first, *rest = state
        newest = rest[::-1][: self.window]
        total = sum((a * v for a, v in zip(self.ages(len(newest)), newest, strict=True)), first)
        return self.along_channels(self.gate[site], first) * total

    def read(self, state: State, site: int) -> Tensor:
        return self.mixture(state, site)

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        return (*state, keep_branch(y, context.keep))

    def close(self, state: State) -> Tensor:
        return self.mixture(state, len(self.sites))


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
LAYERED = {"learned": True, "per_channel": True}
Mutant = tuple[str | None, dict[str, Any], type[Residual]]

# The mistake, and where it is made: the name whose formula should hold, options, and the class.
MUTANTS: dict[str, list[Mutant]] = {
    "window off by one": [
        (None, {}, setting(Trial, window=minus_one)),
        (None, {}, setting(Trial, window=plus_one)),
        ("attnres", {"window": 2}, setting(AttnRes, window=plus_one)),
        ("attnres", {"window": 2}, setting(AttnRes, window=minus_one)),
        ("block_attnres", {"window": 1, "block_size": 2}, setting(BlockAttnRes, window=plus_one)),
        ("gyro_attnres", {"window": 2}, setting(GyroAttnRes, window=plus_one)),
        ("depth_swa", {}, setting(DepthSWA, window=plus_one)),
        ("dca", {"keep": 2}, with_verbs(DeepCrossAttention, write=one_less)),
        ("parallel", {"group": 3}, with_verbs(Parallel, write=early_group)),
    ],
    "gate order": [
        (None, {}, of_site(Trial, "mixture", 1)),
        ("attnres", {}, turned_over(AttnRes)),
        ("scaled", LAYERED, turned_over(Scaled)),
        ("highway", {}, of_site(Highway, "gate", 1)),
        ("delta", {}, of_site(Delta, "_heads", 1)),
        ("hyper_connections", {}, of_site(HyperConnections, "mixing", 1)),
        (
            "highway",
            {},
            with_verbs(Highway, gate=lambda self, x, site: 1.0 - Highway.gate(self, x, site)),
        ),
    ],
    "close without gates": [
        (None, {}, closing(Trial, lambda state: sum(state))),
        ("attnres", {}, closing(AttnRes, lambda s: torch.stack(s.values).mean(0))),
        ("block_attnres", {}, closing(BlockAttnRes, lambda s: torch.stack(s.values).mean(0))),
        ("delta", {"value_channels": 4}, closing(Delta, lambda s: s.columns.mean(-2))),
        ("muddformer", {}, closing(MuddFormer, lambda s: s.x)),
        ("dca", {}, closing(DeepCrossAttention, lambda s: sum(s.sources))),
        ("elc_bert", {"flavour": "weighted_output"}, closing(ElcBert, lambda s: s.outputs[-1])),
    ],
    "dropped drop-path": [
        (f, {}, ignoring_the_mask(base))
        for f, base in [
            (None, Trial),
            ("add", Add),
            ("attnres", AttnRes),
            ("block_attnres", BlockAttnRes),
            ("delta", Delta),
            ("highway", Highway),
            ("hyper_connections", HyperConnections),
            ("mobius", Mobius),
        ]
    ],
    "in-place write": [
        (None, {}, in_place(Trial, lambda state: state[-1])),
        ("add", {}, in_place(Add, lambda state: state[0])),
        ("scaled", {}, in_place(Scaled, lambda state: state[0])),
        ("highway", {}, in_place(Highway, lambda state: state[0])),
        ("delta", {}, in_place(Delta, lambda state: state.columns)),
        (
            "block_attnres",
            {},
            with_verbs(BlockAttnRes, join=lambda self, total, y: total.add_(y)),
        ),
        (
            "hyper_connections",
            {},
            with_verbs(
                HyperConnections,
                write=lambda self, s, i, y, c: HyperConnections.write(
                    self, s, i, y if c.keep is None else y.mul_(c.keep), c._replace(keep=None)
                ),
            ),
        ),
    ],
    "channels-last only": [
        (None, {}, along_the_last_axis(Trial)),
        ("scaled", LAYERED, along_the_last_axis(Scaled)),
        ("attnres", {}, with_verbs(along_the_last_axis(AttnRes), **no_ahead)),
        ("highway", {}, along_the_last_axis(Highway)),
        *[
            (f, {}, only_in_rows(base))
            for f, base in [(None, Trial), ("add", Add), ("delta", Delta), ("attnres", AttnRes)]
        ],
    ],
    "wrong decay": [
        (None, {}, unmarked(Trial)),
        ("scaled", LAYERED, unmarked(Scaled)),
        ("hyper_connections", {}, unmarked(HyperConnections)),
        ("scaled", {}, setting(Scaled, initial=lambda value: value**2)),
        ("deepnorm", {}, setting(DeepNorm, alpha=lambda value: value**2)),
        ("parallel", {"exponent": 0.5}, setting(Parallel, initial=lambda value: value**2)),
        ("delta", {}, setting(Delta, eps=lambda eps: 0.1)),
        (
            "highway",
            {},
            with_verbs(Highway, gate=lambda self, x, site: 0.5 * Highway.gate(self, x, site)),
        ),
    ],
    "lost oldest source": [
        (None, {}, with_verbs(Trial, mixture=without_the_first)),
        ("attnres", {}, with_verbs(AttnRes, mixture=forgetting, **no_ahead)),
        ("block_attnres", {}, with_verbs(BlockAttnRes, mixture=forgetting, **no_ahead)),
        ("depth_swa", {"window": None}, with_verbs(DepthSWA, read=without_the_oldest_state)),
        ("dca", {}, with_verbs(DeepCrossAttention, read=without_the_stack_s_first)),
        ("muddformer", {}, with_verbs(MuddFormer, open=without_an_embedding(MuddState))),
        ("denseformer", {}, with_verbs(DenseFormer, open=without_an_embedding(DenseState))),
        ("elc_bert", {}, with_verbs(ElcBert, _mixture=without_the_first_output)),
    ],
    "wrong start": [
        (None, {}, filled(Trial, gate=lambda p: torch.linspace(0.5, 1.5, p.shape[-1]))),
        ("attnres", {}, filled(AttnRes, query=lambda p: 1.0)),
        ("attnres", {}, filled(AttnRes, gain=lambda p: 0.5)),
        ("scaled", LAYERED, filled(Scaled, scale=lambda p: 1.0)),
        ("highway", {}, filled(Highway, bias=lambda p: 2.0)),
        ("delta", {}, filled(Delta, gate_bias=lambda p: 1.0)),
        ("hyper_connections", {}, filled(HyperConnections, static=lambda p: p.roll(1, 0))),
        ("hyper_connections", {}, filled(HyperConnections, static=lambda p: 0.25)),
    ],
}

CASES = [(mistake, *mutant) for mistake, mutants in MUTANTS.items() for mutant in mutants]
ORIGINALS = {
    (name, mutant.__mro__[1], tuple(options.items())): options
    for mutants in MUTANTS.values()
    for name, options, mutant in mutants
}


def failed(law: Callable[..., None], *given: Any) -> bool:
    """Whether a law does not hold."""
    try:
        law(*given)
    except (AssertionError, RuntimeError, ValueError):
        return True
    return False


def broken(make: Make, name: str | None, options: dict[str, Any]) -> list[str]:
    """The laws of the contract that a mechanism breaks, and those of its formula."""
    found = [law.__name__ for law in LAWS if failed(law, make)]
    if name is not None and failed(a_stack_is_the_formula, make, name, options):
        found.append("a_stack_is_the_formula")
    if (
        name is not None
        and not options
        and failed(a_fresh_parameter_is_where_it_starts, make, name)
    ):
        found.append("a_fresh_parameter_is_where_it_starts")
    return found


@pytest.mark.parametrize(
    ("name", "base", "options"), [(n, b, o) for (n, b, _), o in ORIGINALS.items()], ids=str
)
def test_a_mechanism_with_no_mistake_breaks_no_law(name, base, options):
    assert broken(functools.partial(build, with_verbs(base), **options), name, options) == []


@pytest.mark.parametrize(("mistake", "name", "options", "mutant"), CASES, ids=str)
def test_a_mistake_breaks_a_law(mistake, name, options, mutant):
    assert broken(functools.partial(build, mutant, **options), name, options) != []


def test_every_mistake_is_made_in_the_trial_and_in_three_mechanisms_more():
    assert len(MUTANTS) == 9
    for mistake, mutants in MUTANTS.items():
        names = {name for name, _, _ in mutants}
        assert None in names and len(names) > 3, mistake


def test_a_wrong_factor_is_noticed_by_a_formula_alone():
    def ages(self, count):
        return [self.gamma ** (age + 1) for age in range(count)]

    assert broken(functools.partial(build, with_verbs(Trial, ages=ages)), None, {}) == []
