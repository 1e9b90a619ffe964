"""The residual contract: how a branch's output joins the stream, apart from what the branch is.

A backbone opens a state, lets every branch read from it and write to it, and closes it:

    state = residual.open(x)
    for site, branch in enumerate(branches):
        h = residual.read(state, site)
        y = branch(norm(h))
        state = residual.write(state, site, y, Context(h, norm(h), keep))
    out = residual.close(state)

The norm and the branch belong to the backbone; the residual never calls them. One module per
network, or per stage of a CNN, owns the parameters of all its sites. A state is an immutable
tuple of tensors: verbs return a new one, so recomputation under activation checkpointing, tracing
and decoding see the same history.
"""

# Shape letters: B batch, D width (axis `channel_dim`), T tokens, ... token or pixel axes.

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..sizes import check_sizes
from ..units import Label, Units, UnitTrace
from .tensor_checks import VERBS, checked

__all__ = [
    "Context",
    "Heads",
    "Past",
    "Read",
    "Residual",
    "Site",
    "State",
    "frozen_routing",
    "keep_branch",
    "preceded",
    "routing",
    "routing_is_frozen",
    "working_dtype",
]

State = tuple[Any, ...]
Read = Tensor | Mapping[str, Tensor]
Heads = tuple[Tensor, Tensor]


class Past(Protocol):
    """What a decoder remembers of earlier tokens, for mechanisms that look along the tokens."""

    def window(self, name: str, x: Tensor, length: int) -> Tensor:
        """Return x (B, T, …) after the `length` tokens last seen under a name, zeros at first."""
        ...


class Site(NamedTuple):
    """One place where a branch joins the stream; all static.

    `kind` names the branch (`attention`, `mlp`, `conv`, …), `block` counts the backbone's blocks.
    """

    kind: str
    block: int

    @property
    def attends(self) -> bool:
        """Whether the branch is an attention: its kind ends so, as that of `short_attention`."""
        return self.kind.endswith("attention")


class Context(NamedTuple):
    """What a write may look at besides the branch output.

    `read` is what the read returned, `normed` the same after the norm, as the branch saw it.
    `keep` is the drop-path mask (B, 1, …, 1) with entries 0 or 1 / keep probability, or None where
    nothing is dropped. `heads` are the keys and values (B, heads, T, d) that an attention made,
    before they were mixed, or None where the mechanism does not mix them.
    """

    read: Read
    normed: Read
    keep: Tensor | None = None
    heads: Heads | None = None


class Residual(nn.Module):
    """The five verbs of a residual mechanism.

    Args:
        width: Stream width D, at least 1.
        sites: The sites in order, at least one; verbs name a site by its index.
        channel_dim: The axis of D: -1 for tokens, 1 for images (B, D, H, W).

    Shape:
        `open` takes x (B, …, D); `read` and `close` return that shape; `write` takes it. At a site
        with `views`, `read` returns a mapping of such tensors.

    Raises:
        ValueError: width < 1, no sites, none that attends where heads are mixed, or a channel_dim
            other than -1 or 1. The verbs of every
            mechanism refuse a stream of another width, and a branch output that has not exactly the
            stream's shape or holds no real numbers (`tensor_checks`): nothing broadcasts.
    """

    equals_prenorm_at_init: bool = False
    """Whether a fresh network gives the logits of `add` with the same weights, up to rounding and
    the norm's epsilon. Tested for every mechanism that says so, and refuted for the others."""

    sees_every_source: bool = True
    """Whether each read and the close depend, at given branch outputs, on the embedding and on all
    outputs before. Tested, and refuted where it is False. An option `window` counts outputs, or the
    streams after them: one as long as there are branches leaves nothing out."""

    norm_position: Literal["pre", "post"] = "pre"
    """Where the backbone's norms go: before the branch only, or on the stream itself, which is then
    normed by `handoff` before a site reads it."""

    needs_nonzero_branches: bool = False
    """Whether a branch whose last weight starts at zero is refused, because it cannot train."""

    uses_context: bool = False
    """Whether a write looks at the read, so that a stage change must carry it along."""

    looks_along_tokens: str = ""
    """The options with which a token sees others before it, as a message names them, or nothing.
    They need a stream of tokens (B, T, D); a trunk whose stream is one vector a sample refuses."""

    keeps_only_the_stream: bool = False
    """Whether the state is the stream and nothing else, so that a map of the stream between two
    sites, such as a ReLU after every sum, leaves the mechanism what it is. A history would end
    there."""

    mixes_heads: bool = False
    """Whether the keys and values of every attention pass through `mix_heads` before it attends. A
    backbone without attention is refused."""

    traces_in_fx: bool = False
    """Whether `torch.fx.symbolic_trace` can follow the verbs: no branch depends on a shape or a
    value. A trunk refuses the others by name."""

    unit_axes: Mapping[str, tuple[Label, ...]] = {}
    """Which axes of the parameters run along the stream's channels; see `layers/units.py`."""

    branch_gain: float = 1.0
    """What the backbone multiplies its branches' fresh weights by, except the projections that
    make attention's queries and keys."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Let the verbs that a mechanism defines check what they are given."""
        super().__init_subclass__(**options)
        for verb in VERBS:
            if verb in vars(cls):
                setattr(cls, verb, checked(verb, vars(cls)[verb]))

    def __init__(self, width: int, sites: Sequence[Site], *, channel_dim: int = -1) -> None:
        """Keep the sizes; subclasses add parameters."""
        super().__init__()
        check_sizes(1, width=width)
        if not sites:
            raise ValueError("sites must name at least one branch, got none")
        if channel_dim not in (-1, 1):
            raise ValueError(f"channel_dim must be -1 (tokens) or 1 (images), got {channel_dim}")
        self.width = width
        self.sites = tuple(sites)
        self.channel_dim = channel_dim
        self.attentions = tuple(i for i, site in enumerate(self.sites) if site.attends)
        if self.mixes_heads and not self.attentions:
            kinds = ", ".join(sorted({site.kind for site in self.sites}))
            raise ValueError(
                f"{type(self).__name__} mixes the keys and values of attention, and the branches "
                f"here are {kinds} alone; choose another residual, or a network with attention, "
                f"such as a vit"
            )

    @property
    def num_blocks(self) -> int:
        """How many backbone blocks the sites belong to."""
        return len({site.block for site in self.sites})

    def views(self, site: int) -> tuple[str, ...]:
        """Name the views that the branch at a site takes in place of one tensor; () for one.

        An attention branch takes `query`, `key` and `value`, and declares so; the trunk refuses one
        that does not. A read may be a mapping with more than these, such as the base that a write
        adds to, which is neither normed nor given to the branch; a branch without views is given
        its entry `input`.
        """
        return ()

    def stream_shape(self, first: Tensor) -> torch.Size:
        """Return the stream's shape, given the first tensor of a state.

        It is that tensor's own, unless a mechanism whose states begin otherwise says so here.
        """
        return first.shape

    @functools.partial(checked, "open")
    def open(self, x: Tensor, past: Past | None = None) -> State:
        """Make the state from the embedding or stem output; a decoder also gives its past.

        A hand-off opens at the next stage's width, so the verbs that follow check the width.
        """
        return (x,)

    def read(self, state: State, site: int) -> Read:
        """Return what the branch at a site sees."""
        raise NotImplementedError

    @property
    def no_units(self) -> str | None:
        """Why channels cannot change places (`layers/units.py`), or None where they can."""
        if not self.mixes_heads:
            return None
        return (
            "it mixes what all attentions hold in their heads, which would have to move together; "
            "match networks with another residual"
        )

    def mix_heads(self, state: State, site: int, key: Tensor, value: Tensor) -> Heads:
        """Return what an attention attends to in place of its own keys and values.

        Called where `mixes_heads` says so, with the state that the branch has read: after the
        projections, before norms, rotations and a decoder's cache.

        Args:
            state: Before the branch.
            site: Of the attention.
            key: (B, heads, T, d), as the branch projected it.
            value: Likewise.
        """
        return key, value

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Return the state after the branch output y joined it."""
        raise NotImplementedError

    def close(self, state: State) -> Tensor:
        """Return the features, before the backbone's final norm."""
        raise NotImplementedError

    def handoff(
        self, state: State, fn: Callable[[Tensor], Tensor], closed: Tensor | None = None
    ) -> State:
        """Map the state across a stage change; the next stage's residual reads the result.

        Args:
            state: At the end of the stage.
            fn: Changes resolution or width; linear, for a fresh network to equal `add`.
            closed: What `close` gave, or what a hook has put in its place; None closes anew.
        """
        return self.open(fn(self.close(state) if closed is None else closed))

    def follow_units(self, trace: UnitTrace, x: Units) -> Units:
        """Return the stream's units, which are those of x, and note the parameters along them."""
        trace.parameters(self, stream=x)
        return x

    def along_channels(self, vector: Tensor, like: Tensor) -> Tensor:
        """Shape a vector (D,) so that it broadcasts over `like`."""
        return vector if self.channel_dim == -1 else _along_axis_1(vector, like)


@torch.fx.wrap
def _along_axis_1(vector: Tensor, like: Tensor) -> Tensor:
    return vector.view(-1, *[1] * (like.dim() - 2))


def preceded(x: Tensor, length: int, past: Past | None, name: str) -> Tensor:
    """Return x (B, T, …) after the `length` tokens before it: a decoder's past, or zeros."""
    if past is not None:
        return past.window(name, x, length)
    return F.pad(x, (*(0, 0) * (x.dim() - 2), length, 0))


_frozen: ContextVar[bool] = ContextVar("frozen_routing", default=False)


@contextlib.contextmanager
def frozen_routing(frozen: bool = True) -> Iterator[None]:
    """Differentiate through values only: what `routing` marks counts as constant inside.

    It holds for the thread, or the task, that enters it and for no other. A recomputation in a
    backward pass may run in a thread of autograd's own, which enters what the forward ran in.

    Args:
        frozen: False leaves an outer context for a while.
    """
    token = _frozen.set(frozen)
    try:
        yield
    finally:
        _frozen.reset(token)


def routing_is_frozen() -> bool:
    """Whether the code runs inside `frozen_routing`."""
    return _frozen.get()


def routing(weights: Tensor) -> Tensor:
    """Mark what decides how much of each source is mixed; values pass through unchanged."""
    return weights.detach() if _frozen.get() else weights


def keep_branch(y: Tensor, keep: Tensor | None) -> Tensor:
    """Apply a drop-path mask to a branch output; None keeps it as it is."""
    return y if keep is None else y * keep


def working_dtype(x: Tensor) -> torch.dtype:
    """The dtype for statistics: float32 for half precision, otherwise the tensor's own."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
