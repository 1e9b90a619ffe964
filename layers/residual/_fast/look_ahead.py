"""The reads of Attention Residuals, mixed one site ahead.

Readers are known in advance, so a write already mixes what the next site reads. That lets the
gradient of a source grow in place from reader to reader, a finished source be scored against all
queries to come in one product, and, where no gradient is wanted, a block's first reader mix the
finished sources for all readers of the block.
"""

# Shape letters: D width, Q queries, S branches of a block, n sources.

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...autocast import without_autocast
from ..attnres.mix import compete, depth_logits
from ..attnres.sources import Reader, Sources
from .depth_kernel import fused_mix, fused_phase_one, fused_phase_two, public_mix
from .depth_scores import combine, push_scores
from .permission import kernel_reads, public_kernel_takes, records_references
from .two_phases import merge, phase_one

__all__ = ["look_ahead", "ready"]


class _Scored(NamedTuple):
    """Logits of the finished sources at a site, each under the queries still to come."""

    site: int
    logits: tuple[tuple[Tensor, ...], ...]


class _OfBlock(NamedTuple):
    """What a block's queries, from a site on, make of the finished sources (`two_phases`)."""

    site: int
    mixed: Sequence[Tensor] | Tensor
    level: Tensor
    queries: Tensor


class Ahead(NamedTuple):
    """The cache: what a site will read, and what its path goes on from at the next write."""

    site: int
    read: Tensor
    kept: _Scored | _OfBlock | None


def ready(cache: Ahead | None, site: int) -> Tensor | None:
    """What a site reads, or None where nobody has looked ahead to it."""
    return cache.read if cache is not None and cache.site == site else None


def look_ahead(reader: Reader, sources: Sources, site: int) -> Sources | None:
    """The state that knows what a site will read, or None where the definition must run.

    Args:
        reader: Whose queries and options are read with.
        sources: What was written before the site, with the cache of the state before that.
        site: The site, or the number of sites for the readout.
    """
    with without_autocast(sources.values[0]):
        return _look_ahead(reader, sources, site)


def _look_ahead(reader: Reader, sources: Sources, site: int) -> Sources | None:
    if reader.additive and site == len(reader.sites):
        return None
    if not records_references(reader.query, *sources.values):
        return None
    count = reader.readable(sources, site)
    values = passed = sources.values[:count]
    alive = sources.alive[:count]
    kept = None
    basic = reader.heads == 1 and reader.competition == "softmax" and reader.channel_dim == -1
    basic = basic and reader.query_weight is None
    kernel = basic and kernel_reads("attnres", *values)
    whole = basic and all(mask is None for mask in alive)
    # In two phases a block's later sites read what its first does: a window would move on.
    batched = reader.block_size > 1 and reader.window is None and not reader.additive
    if whole and batched and not torch.is_grad_enabled():
        mixed, kept = _two_phases(reader, sources, site, kernel)
    elif whole and public_kernel_takes(*values):
        mixed = public_mix(values, reader.query_at(site, values[-1]), reader.eps)
    elif kernel:
        mixed, passed = fused_mix(values, reader.query_at(site, values[-1]), reader.eps, alive)
    else:
        if reader.query_weight is None:
            kept = _scored(reader, sources, site)
        logits = _logits(reader, sources, site, count, kept)
        mixed, passed = combine(compete(logits, reader.competition), values, reader.channel_dim)
    if sources.stream is not None:
        mixed = sources.stream + mixed
    if site == len(reader.sites):
        passed = values  # nobody reads after the readout
    return sources._replace(
        values=(*passed, *sources.values[count:]), cache=Ahead(site, mixed, kept)
    )


def _kept(sources: Sources) -> _Scored | _OfBlock | None:
    cache: Ahead | None = sources.cache
    return None if cache is None else cache.kept


def _scored(reader: Reader, sources: Sources, site: int) -> _Scored:
    """Score every source that has been finished since against all queries to come."""
    size, last = reader.block_size, len(reader.sites) + 1
    finished = len(sources.values) - bool(site % size)
    before, logits = _kept(sources), ()
    if isinstance(before, _Scored):
        # A window has dropped the oldest block where one more is scored than is still held.
        held = finished - (site // size - before.site // size)
        logits = (*before.logits[:1], *before.logits[len(before.logits) - held + 1 :])
    fresh = sources.values[len(logits) : finished]
    return _Scored(site, (*logits, *(_scores(reader, value, site, last) for value in fresh)))


def _scores(reader: Reader, value: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
    """Return one source's logits under the queries of sites first, …, last − 1."""
    queries = _queries(reader, first, last)
    return push_scores(value, queries, reader.heads, reader.channel_dim, reader.eps)


def _queries(reader: Reader, first: int, last: int) -> Tensor:
    """Return γ ⊙ w (Q, D) of the sites first, …, last − 1."""
    rows: list[int] | slice = reader.row[first:last]
    if rows == [*range(rows[0], rows[0] + len(rows))]:
        rows = slice(rows[0], rows[-1] + 1)  # a view instead of a copy
    return reader.query[rows] if reader.gain is None else reader.query[rows] * reader.gain[rows]


def _logits(
    reader: Reader, sources: Sources, site: int, count: int, scored: _Scored | None
) -> Tensor:
    """Gather the logits (n, …) of a site's first `count` sources; an open sum is scored now."""
    values, alive = sources.values[:count], sources.alive[:count]
    if scored is None:
        return depth_logits(
            values,
            reader.query_at(site, sources.values[-1]),
            channel_dim=reader.channel_dim,
            eps=reader.eps,
            heads=reader.heads,
            alive=alive,
        )
    later = site - len(reader.sites) - 1  # from the end: the readout is the last query
    logits = [scores[later] for scores in scored.logits]
    logits += [_scores(reader, value, site, site + 1)[0] for value in values[len(logits) :]]
    pairs = zip(logits, alive, strict=True)
    return torch.stack(
        [s if mask is None else s.masked_fill(~mask, -torch.inf) for s, mask in pairs]
    )


def _two_phases(
    reader: Reader, sources: Sources, site: int, kernel: bool
) -> tuple[Tensor, _OfBlock]:
    """Mix for all queries of a block when it opens, and merge its running sum later."""
    begun = site % reader.block_size
    block = _kept(sources)
    if not begun or not isinstance(block, _OfBlock):
        # Nobody looked ahead from an embedding, so the first block is asked in its middle.
        last = min(site - begun + reader.block_size, len(reader.sites) + 1)
        finished = sources.values[: len(sources.values) - bool(begun)]
        queries = _queries(reader, site, last)
        if kernel:
            phase = fused_phase_one(finished, queries, reader.eps)
        else:
            logits = [torch.stack(_scores(reader, value, site, last)) for value in finished]
            phase = phase_one(finished, torch.stack(logits, 1))
        block = _OfBlock(site, *phase, queries)
    place, later = site - block.site, sources.values[-1]
    mixed, level = block.mixed[place], block.level[place]
    if begun and kernel:
        mixed = fused_phase_two(mixed, level, later, block.queries[place], reader.eps)
    elif begun:
        (logit,) = _scores(reader, later, site, site + 1)
        mixed = merge(mixed, level, later, logit)
    return mixed.to(sources.values[0].dtype), block
