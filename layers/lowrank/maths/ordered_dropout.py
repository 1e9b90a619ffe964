"""Ordered dropout over ranks: which layers run at which prefix in a training step.

    pairs         all pairs (layer i, b in 1..r_i), shuffled, each served once, then shuffled anew:
                  one layer a step, chosen with a probability proportional to its rank
    uniform       one layer a step, all layers alike, and b uniform in 1..r_i
    independent   every layer a step, each with a b of its own, uniform in 1..r_i

A layer that is not drawn runs at its whole rank. Under `pairs`, component j of a layer is left out
of a step with probability (j - 1) / Σ r, which is small in a large network: ordering takes many
steps there, and `independent` orders faster at the price of noisier gradients.

Widths are whole numbers and belong to a layer's name. A share of the rank that is multiplied back
gives another width for 18,043 of the 524,800 pairs up to rank 1,024, the first (r, b) = (25, 7).

Source: Horváth et al. 2023, "Maestro: Uncovering Low-Rank Structures via Trainable Decomposition",
arXiv:2308.14929, whose released code serves `pairs`; ordered dropout: Horváth et al. 2021, "FjORD",
arXiv:2102.13451.
Differs from it: a draw follows from the seed and the step, so processes draw alike and a resumed
run goes on; `uniform` is another reading of the paper's text.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["SAMPLERS", "Sampler", "draw_independent", "draw_uniform", "pair_at", "serve_pairs"]

Sampler = Callable[
    [Mapping[str, int], dict[str, int], Callable[[str], torch.Generator]], dict[str, int]
]
"""(rank of every layer, state, generator for a name) -> prefix of every layer that was drawn."""


def serve_pairs(
    ranks: Mapping[str, int],
    state: dict[str, int],
    generator: Callable[[str], torch.Generator],
) -> dict[str, int]:
    """Serve the next pair of a layer and a prefix; a layer of rank 0 has none.

    Args:
        ranks: Rank of every layer, in a fixed order.
        state: Plain values that this function keeps: `pairs`, the length of the list, `position`
            of what was served last, `passes` begun and the `seed` of the order. Where the ranks add
            up to another length, a new list is begun.
        generator: Gives the generator of this step for a name.
    """
    pairs = sum(ranks.values())
    if not pairs:
        return {}
    if state.get("pairs") == pairs and state["position"] + 1 < pairs:
        state["position"] += 1
    else:
        seed = int(torch.randint(2**62, (), generator=generator("ordered dropout")))
        state.update(pairs=pairs, seed=seed, position=0, passes=state.get("passes", 0) + 1)
    name, width = pair_at(ranks, int(_order(state["seed"], pairs)[state["position"]]))
    return {name: width}


def draw_uniform(
    ranks: Mapping[str, int],
    state: dict[str, int],
    generator: Callable[[str], torch.Generator],
) -> dict[str, int]:
    """Draw one layer, all alike, and one of its prefixes; keeps no state."""
    names = [name for name, rank in ranks.items() if rank]
    if not names:
        return {}
    random = generator("ordered dropout")
    name = names[_below(len(names), random)]
    return {name: 1 + _below(ranks[name], random)}


def draw_independent(
    ranks: Mapping[str, int],
    state: dict[str, int],
    generator: Callable[[str], torch.Generator],
) -> dict[str, int]:
    """Draw a prefix for every layer from a generator of its own; keeps no state."""
    return {name: 1 + _below(rank, generator(name)) for name, rank in ranks.items() if rank}


SAMPLERS: dict[str, Sampler] = {
    "pairs": serve_pairs,
    "uniform": draw_uniform,
    "independent": draw_independent,
}


def pair_at(ranks: Mapping[str, int], index: int) -> tuple[str, int]:
    """Return the pair at a place of the list (i, 1), …, (i, r_i), (i + 1, 1), …

    Raises:
        ValueError: a place outside the list.
    """
    rest = index
    for name, rank in ranks.items():
        if 0 <= rest < rank:
            return name, rest + 1
        rest -= rank
    raise ValueError(f"index must lie in [0, {sum(ranks.values())}), got {index}")


@lru_cache(maxsize=4)
def _order(seed: int, size: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))
