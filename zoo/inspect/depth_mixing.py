"""Looking inside a model: which outputs each branch reads, and how large everything is.

Every residual is written as reads h_l = Σ_i M_{l,i} v_i over the sources v_0 (the embedding) and
v_1, …, v_L (branch outputs). `depth_mixing_matrix` measures M for any mechanism: it records one
forward pass, holds branch outputs, normed inputs and routing weights fixed, and moves one source
at a time.

Sources: the matrix view is that of Kimi Team 2026, arXiv:2603.15031, §6; that routing mass is not
causal importance is shown in arXiv:2606.13168.
Differs from them: M is measured by a derivative and not derived for each mechanism, as a number for
each token: the component of a source's contribution along the source itself.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ...layers.modes import evaluating
from ...layers.residual import Context, Read, Residual, Site, State, frozen_routing
from ...layers.residual.stream import working_dtype
from ..trunk import Trunk

__all__ = ["Trace", "depth_mixing_matrix", "shadowing", "trace"]

Lift = Callable[[Tensor], Tensor]


class Trace(NamedTuple):
    """Magnitudes of one pass, a number per branch, in the order of the sites.

    `read` is the root mean square of what a branch reads, before its norm (the mean over its
    views), `output` that of what it returns, `gradient` the L2 norm of the loss's gradient at that
    output.
    """

    sites: tuple[Site, ...]
    read: Tensor
    output: Tensor
    gradient: Tensor


class Record:
    """One trunk's pass: how its state began, and every write.

    `start` makes the state anew, with the first source mapped by the function that it is given.
    `given` tells that the first branch did not read from that state: a ResNet's stage opens at a
    new resolution, while its first branch reads at the old one.
    """

    def __init__(self, trunk: Trunk) -> None:
        """Wait for the pass."""
        self.trunk = trunk
        self.start: Callable[[Lift], State] | None = None
        self.given = True
        self.writes: list[tuple[int, Tensor, Context]] = []


def depth_mixing_matrix(
    model: nn.Module, x: Tensor, *, stage: int | None = None, view: str = "value"
) -> Tensor:
    """Measure how much of each source is in what each branch reads.

    Entry (l, i) is the mean over samples and tokens of ⟨J_{l,i} v_i, v_i⟩ / ⟨v_i, v_i⟩, where J is
    the derivative of the l-th read by the i-th source, through values only: what the mechanism
    marks with `routing` is constant, as are the statistics of a post-norm. A zero source is moved
    along ones instead.

    For `add` the lower triangle is one; for a softmax over depth it holds the softmax weights. A
    large entry is not evidence that the source matters: routing mass is not causal importance
    (arXiv:2606.13168).

    Args:
        model: Any model that runs a `Trunk`; measured in eval mode, and left as it was.
        x: Inputs of the model.
        stage: Which trunk, in a model with several; there, row 0 is (1, 0, …), because the first
            branch reads the stage's input before the shortcut.
        view: Which input of a branch to show where the residual gives it several: `query`, `key`,
            `value`, or what else its reads hold.

    Returns:
        A matrix (L + 1, L + 1): row l < L for branch l, the last for what closes the trunk;
        column 0 for the embedding, i for the output of branch i - 1. Zero above the diagonal.

    Raises:
        ValueError: no trunk, no such stage or view, or several trunks and no stage.
    """
    trunks = _trunks(model)
    if stage is None and len(trunks) > 1:
        raise ValueError(f"{type(model).__name__} has {len(trunks)} stages; give stage=0, 1, …")
    if stage is not None and not 0 <= stage < len(trunks):
        raise ValueError(f"stage must lie in 0, …, {len(trunks) - 1}, got {stage}")
    with torch.no_grad(), evaluating(model), _recording(trunks) as records:
        model(x)
    record = records[stage or 0]
    columns = []
    with torch.no_grad(), evaluating(model), frozen_routing(), _quiet():
        for source in range(len(record.writes) + 1):
            with forward_ad.dual_level():
                columns.append(_replay(record, source, view))
    return torch.stack(columns, dim=1)


def trace(model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor] = torch.sum) -> Trace:
    """Measure what branches read and return, and the gradient that reaches their outputs.

    Args:
        model: Any model that runs a `Trunk`; measured in eval mode, and left as it was.
        x: Inputs of the model.
        loss: A scalar of the logits, such as `lambda z: F.cross_entropy(z, target)`; the sum of the
            logits if not given.

    Returns:
        The magnitudes, on the CPU; stages one after another.

    Raises:
        ValueError: no trunk.
    """
    trunks = _trunks(model)
    with torch.enable_grad(), evaluating(model), _recording(trunks, lift=True) as records:
        value = loss(model(x))
    writes = [write for record in records for write in record.writes]
    outputs = [y for _, y, _ in writes]
    # Read by hooks, at once: what a backward pass returns, a mechanism may still be adding to.
    sizes = [torch.zeros((), dtype=y.dtype) for y in outputs]
    for site, y in enumerate(outputs):
        y.register_hook(lambda g, site=site: sizes.__setitem__(site, g.norm().cpu()))
    torch.autograd.grad(value, outputs, allow_unused=True)
    return Trace(
        tuple(site for trunk in trunks for site in trunk.residual.sites),
        torch.stack([_read_size(context.read) for _, _, context in writes]),
        torch.stack([_rms(y) for y in outputs]),
        torch.stack(sizes),
    )


def _trunks(model: nn.Module) -> list[Trunk]:
    trunks = [module for module in model.modules() if isinstance(module, Trunk)]
    if not trunks:
        raise ValueError(
            f"{type(model).__name__} runs no residual of archzoo; give a model of the zoo or one "
            f"converted by with_residual"
        )
    return trunks


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch's forward mode uses its own deprecated torch.jit.script when it is first needed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.script")
        yield


@contextlib.contextmanager
def _recording(trunks: list[Trunk], lift: bool = False) -> Iterator[list[Record]]:
    """Note what the residuals are asked; `lift` makes every branch output require a gradient."""
    records = [Record(trunk) for trunk in trunks]
    starts: list[Callable[[Lift], State]] = []  # the newest is what a stage began with
    with contextlib.ExitStack() as stack:
        for record in records:
            residual = record.trunk.residual
            note = _note_input(record)
            hook = record.trunk.register_forward_pre_hook(note, with_kwargs=True)
            stack.callback(hook.remove)
            stack.enter_context(shadowing(residual, "open", _noting_open(residual, starts)))
            stack.enter_context(shadowing(residual, "handoff", _noting_handoff(residual, starts)))
            stack.enter_context(shadowing(residual, "write", _noting_write(record, starts, lift)))
        yield records


@contextlib.contextmanager
def shadowing(residual: Residual, verb: str, by: Callable[..., Any]) -> Iterator[None]:
    """Replace one verb of one mechanism for a while."""
    residual.__dict__[verb] = by
    try:
        yield
    finally:
        del residual.__dict__[verb]


def _note_input(record: Record) -> Callable[..., None]:
    def note(trunk: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if "through" in named:
            return  # a stage starts from what it is handed beside its input
        record.start = lambda lift: record.trunk.residual.open(lift(inputs[0]))
        record.given = False

    return note


def _noting_open(residual: Residual, starts: list[Callable[[Lift], State]]) -> Callable[..., State]:
    original = residual.open

    def open_(x: Tensor, past: Any = None) -> State:
        state = original(x, past)
        starts.append(lambda lift: original(lift(x)))
        return state

    return open_


def _noting_handoff(
    residual: Residual, starts: list[Callable[[Lift], State]]
) -> Callable[..., State]:
    original = residual.handoff

    def handoff(
        state: State, fn: Callable[[Tensor], Tensor], closed: Tensor | None = None
    ) -> State:
        after = original(state, fn, closed)
        starts.append(lambda lift: original(state, lambda x: lift(fn(x)), closed))
        return after

    return handoff


def _noting_write(
    record: Record, starts: list[Callable[[Lift], State]], lift: bool
) -> Callable[..., State]:
    original = record.trunk.residual.write

    def write(state: State, site: int, y: Tensor, context: Context) -> State:
        if record.start is None:
            record.start = starts[-1]
        if lift and not y.requires_grad:
            y = y.requires_grad_()
        record.writes.append((site, y, context))
        return original(state, site, y, context)

    return write


def _replay(record: Record, source: int, view: str) -> Tensor:
    """Run the verbs again while one source moves; return its share of each read and of the close.

    Called inside a dual level.
    """
    residual, dim = record.trunk.residual, record.trunk.residual.channel_dim
    assert record.start is not None

    moved: list[Tensor] = []

    def move(v: Tensor) -> Tensor:
        still = v.square().sum(dim, keepdim=True) == 0
        direction = torch.where(still, torch.ones_like(v), v)
        moved.append(direction)
        return forward_ad.make_dual(v, direction)

    state = record.start(move if source == 0 else _as_it_is)
    if len(moved) > 1:  # a hand-off that carries several tensors: the source is what they close as
        whole = forward_ad.unpack_dual(residual.close(state)).tangent
        assert whole is not None
        moved[:] = [whole]
    shares = []
    for site, (_, y, context) in enumerate(record.writes):
        if site == 0 and record.given:
            read = context.read
            shares.append(torch.ones(()) if source == 0 else torch.zeros(()))
        else:
            state = _settle(record.trunk, state, site)
            read = residual.read(state, site)
            shares.append(_share(_pick(read, view), moved, dim))
        y = move(y) if source == site + 1 else y
        state = residual.write(state, site, y, Context(read, context.normed))
    shares.append(_share(residual.close(state), moved, dim))
    return torch.stack([share.cpu() for share in shares])


def _share(read: Tensor, moved: list[Tensor], dim: int) -> Tensor:
    """The mean over tokens of the read's derivative along a direction, in units of it."""
    tangent = forward_ad.unpack_dual(read).tangent
    if tangent is None:
        return torch.zeros((), dtype=read.dtype)
    direction = moved[0].to(working_dtype(read))
    return ((tangent * direction).sum(dim) / direction.square().sum(dim)).mean()


def _pick(read: Read, view: str) -> Tensor:
    if isinstance(read, Tensor):
        return read
    for name in (view, "input"):
        if name in read:
            return read[name]
    raise ValueError(f"no view {view!r} among {sorted(read)}")


def _settle(trunk: Trunk, state: State, site: int) -> State:
    """Do as `Trunk.settle`, with the norm's statistics held fixed."""
    if trunk.norm_position == "pre":
        return state
    norm = trunk.norms[site]
    return trunk.residual.handoff(state, lambda x: _norm_at_rest(norm, x))


def _norm_at_rest(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply a norm whose scale does not move with x; norms of other kinds move as they do."""
    if not isinstance(norm, nn.LayerNorm | nn.RMSNorm):
        return norm(x)
    dims = tuple(range(-len(norm.normalized_shape), 0))
    y = x - x.mean(dims, keepdim=True) if isinstance(norm, nn.LayerNorm) else x
    eps = torch.finfo(x.dtype).eps if norm.eps is None else norm.eps
    y = y * torch.rsqrt(y.detach().square().mean(dims, keepdim=True) + eps)
    y = y if norm.weight is None else y * norm.weight
    bias = getattr(norm, "bias", None)
    return y if bias is None else y + bias


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _rms(x: Tensor) -> Tensor:
    x = x.detach()
    return x.to(working_dtype(x)).square().mean().sqrt().cpu()


def _read_size(read: Read) -> Tensor:
    views = [read] if isinstance(read, Tensor) else list(read.values())
    return torch.stack([_rms(view) for view in views]).mean()
