"""Depth in a network: its blocks, what each hands on, and which of them a parameter belongs to.

A block is what the sites of a residual count as one (`Site.block`). A parameter belongs to the
block whose branches or norms hold it. One that serves several blocks, such as a residual's table of
queries, a learned curvature or a tied embedding, belongs to the last of them, so that layer-wise
learning rates slow nothing down that a late block needs.
"""

import itertools
from collections.abc import Callable, Container, Iterator, Mapping, Sequence

from torch import Tensor, nn

from ..layers.residual import Read
from .trunk import Trunk

__all__ = ["block_ends", "block_outputs", "blocks_of", "handed_on", "layer_order"]

Blocks = list[list[nn.Module]]
"""The modules of each block, in order."""


def block_ends(trunk: Trunk) -> list[int]:
    """The site after each block's last."""
    sites = trunk.residual.sites
    new = [i for i in range(1, len(sites)) if sites[i].block != sites[i - 1].block]
    return [*new, len(sites)]


def blocks_of(trunk: Trunk) -> Blocks:
    """The branches and norms of each block; the residual stands with the last."""
    spans = itertools.pairwise([0, *block_ends(trunk)])
    found: Blocks = [[*trunk.branches[i:j], *trunk.norms[i:j]] for i, j in spans]
    found[-1].append(trunk.residual)
    return found


def block_outputs(model: nn.Module) -> list[tuple[nn.Module, bool]]:
    """Return where a hook sees what each block of a network hands on, in order (`handed_on`).

    Args:
        model: Whose trunks are looked at.

    Returns:
        A module for each block, and whether it is its first input that is handed on: the norm of
        the next block's first branch, or for the last block of a trunk the trunk, by its output.
    """
    found: list[tuple[nn.Module, bool]] = []
    for trunk in model.modules():
        if not isinstance(trunk, Trunk):
            continue
        for end in block_ends(trunk)[:-1]:
            norm = trunk.norms[end]
            if isinstance(norm, nn.ModuleDict):
                norm = norm["value" if "value" in norm else "input"]
            found.append((norm, True))
        found.append((trunk, False))
    return found


def handed_on(trunk: Trunk, x: Tensor, taken: Container[int]) -> Iterator[tuple[int, Tensor]]:
    """Run a trunk, and yield what blocks hand on, each with its number.

    A block hands on what the residual lets the next block's first branch read, before its norm; the
    last one hands on what closes the trunk. Where a read has several views, it is the values': the
    others decide only where the branch looks.

    Args:
        trunk: Any.
        x: The embedding.
        taken: Numbers of the blocks that are asked for; those of the others cost nothing.
    """
    state, start = trunk.residual.open(x), 0
    for block, end in enumerate(block_ends(trunk)):
        for site in range(start, end):
            state = trunk.recomputed_step(state, site)
        start = end
        if block in taken:
            last = end == len(trunk.residual.sites)
            yield block, trunk.residual.close(state) if last else values(trunk, state, end)


def values(trunk: Trunk, state: tuple[object, ...], site: int) -> Tensor:
    """What the values at a site are made of, of what it would read."""
    read: Read = trunk.residual.read(state, site)
    if isinstance(read, Mapping):
        return read["value" if "value" in trunk.residual.views(site) else "input"]
    return read


def layer_order(
    model: nn.Module,
    stages: Sequence[Blocks],
    head: str | tuple[str, ...],
    *,
    coarse: bool = False,
) -> Callable[[str], tuple[float, ...]]:
    """Order the parameters of a network by depth, as timm's `group_matcher` does.

    (0,) is all before the first block, (1, stage, block) a block, with what follows the last block
    and is no head, and (2,) the head.

    Args:
        model: The network.
        stages: The blocks of its stages, in order.
        head: Name of the classifier, or of several.
        coarse: Whether a stage is one group, and not each of its blocks.

    Returns:
        A function of the name of a parameter, or of a module.

    Raises:
        ValueError: from the function, for a name that the network does not have.
    """
    heads = (head,) if isinstance(head, str) else head
    places: dict[nn.Module, tuple[float, ...]] = {}
    for i, blocks in enumerate(stages):
        for j, block in enumerate(blocks):
            places |= dict.fromkeys(block, (1.0, float(i)) if coarse else (1.0, float(i), float(j)))
    order: dict[str, tuple[float, ...]] = {}
    before: tuple[float, ...] = (0.0,)
    for name, child in model.named_children():
        inside = [places[module] for module in child.modules() if module in places]
        for path, module in child.named_modules(prefix=name, remove_duplicate=False):
            above = order.get(path.rpartition(".")[0], before)
            order[path] = (2.0,) if name in heads else places.get(module, above)
        before = max([before, *inside])
    held: dict[int, list[str]] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        order[path] = order.get(path.rpartition(".")[0], (0.0,))
        held.setdefault(id(parameter), []).append(path)
    for paths in held.values():
        order |= dict.fromkeys(paths, max(order[path] for path in paths))

    def place(name: str) -> tuple[float, ...]:
        if name not in order:
            raise ValueError(f"{type(model).__name__} has no parameter or module {name!r}")
        return order[name]

    return place
