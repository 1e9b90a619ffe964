"""What a certificate does not speak of, in sentences."""

import torch

from .graph import Graph

__all__ = ["limits_of"]


def limits_of(graph: Graph) -> tuple[str, ...]:
    """Return what the bound and the radii of a graph do not cover.

    The worst case of half precision's rounding is no use: a sum of n products in bfloat16 may be
    off by n/256 of their sizes.
    """
    found = []
    if torch.finfo(graph.coarsest).eps > torch.finfo(torch.float32).eps:
        found.append(
            f"the forward rounds activations to {str(graph.coarsest).removeprefix('torch.')}; the "
            f"bound and the radii are those of its weights in exact arithmetic"
        )
    if graph.kernels:
        found.append(
            f"the forward runs {', '.join(graph.kernels)}; what was certified in their place, "
            f"definitions and rules, agrees with them on the samples to rounding"
        )
    return tuple(found)
