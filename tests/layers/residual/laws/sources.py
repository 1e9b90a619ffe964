"""Laws of what reads and the close depend on, sources and parameters."""

import re

import torch
from archzoo.layers.decay import decay_exclusions
from torch import Tensor

from ..stacks import (
    SITES,
    WIDTH,
    branch_weights,
    normal,
    stack,
    trained,
)
from .given import TOL, Make, answers, embedding, reached, steps, takes

__all__ = [
    "a_window_of_as_many_branches_as_there_are_is_none_and_one_less_is_one",
    "every_entry_of_a_parameter_takes_part",
    "parameters_act_in_the_order_of_the_sites",
    "reads_and_the_close_see_every_source_if_it_says_so_and_only_then",
    "weight_decay_shuts_no_source_out",
]


# Sources are the embedding and the branch outputs.


def reads_and_the_close_see_every_source_if_it_says_so_and_only_then(make: Make) -> None:
    residual = trained(make())
    seen = [all(reached(out, sources)) for out, sources in answers(residual)]
    assert all(seen) == residual.sees_every_source, seen


def weight_decay_shuts_no_source_out(make: Make) -> None:
    before, after = make(), make()
    kept = decay_exclusions(after)
    with torch.no_grad():
        for key, parameter in after.named_parameters():
            if key not in kept:
                parameter.zero_()
    pairs = zip(answers(before), answers(after), strict=True)
    for (one, sources), (two, others) in pairs:
        pair = zip(reached(one, sources), reached(two, others), strict=True)
        assert not any(once and not still for once, still in pair)


def a_window_of_as_many_branches_as_there_are_is_none_and_one_less_is_one(make: Make) -> None:
    if not takes(make, "window"):
        return
    size = {"block_size": 1} if takes(make, "block_size") else {}
    closed = {
        window: stack(trained(make(window=window, **size)), embedding(), branch_weights())
        for window in (len(SITES) - 1, len(SITES), 10 * len(SITES))
    }
    torch.testing.assert_close(closed[len(SITES)], closed[10 * len(SITES)], **TOL)
    assert (closed[len(SITES) - 1] - closed[len(SITES)]).abs().max() > 1e-6


# Parameters.


def every_entry_of_a_parameter_takes_part(make: Make) -> None:
    acts: dict[str, Tensor] = {}
    for seed in range(3):  # a hidden unit may rest for one draw
        residual = trained(make(), seed)
        loss = stack(residual, normal(2, 6, WIDTH), branch_weights()).square().sum()
        for key, parameter in residual.named_parameters():
            found = torch.atleast_1d(_gradient(loss, parameter)).ne(0)
            acts[key] = acts.get(key, False) | found
    for key, entries in acts.items():
        # The first site has one source, so there may be nothing that its own row decides.
        by_site = len(entries) in (len(SITES), len(SITES) + 1)
        assert entries[by_site:].all() and entries.any(), key


def _gradient(out: Tensor, parameter: Tensor) -> Tensor:
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    return torch.autograd.grad(out, parameter, **options)[0]


def parameters_act_in_the_order_of_the_sites(make: Make) -> None:
    residual = trained(make())
    acting: dict[str, list[list[int]]] = {}
    for place, out in enumerate(steps(residual)):
        for key, parameter in residual.named_parameters():
            rows = acting.setdefault(key, [[] for _ in torch.atleast_1d(parameter)])
            if out.requires_grad:
                found = torch.atleast_1d(_gradient(out, parameter))
                for row, part in zip(rows, found, strict=True):
                    row += [place] * bool(part.abs().max() > 0)
    tables: dict[str, list[list[int]]] = {}
    for key, rows in acting.items():  # `gate.0`, `gate.1`, … of a list are one after another
        tables.setdefault(re.sub(r"\.\d+", ".*", key), []).extend(row for row in rows if row)
    for key, table in tables.items():
        # Rows that all act at the close belong to sources, whose order is free, not to sites.
        if any(places[-1] != len(SITES) for places in table):
            first = [places[0] for places in table]
            assert first == sorted(first), (key, first)
