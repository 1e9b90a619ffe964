"""The largest ball around a sample in which linear relaxation proves that its class stays.

    r = max {ε : min over ‖x − z‖ ≤ ε of f_y(z) − f_j(z) > 0 for all j ≠ y},

looked for by `bracket`, many samples at once; every ε that is kept has been proved.
"""

# Shape letters: N samples, K classes.

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ....layers.lipschitz.proof.norms import UNIT
from ..graph import Graph
from ..pgd import margin_loss
from ..projected_ascent import Norm
from .backward import WIDEST, LocalBounds
from .bracket import Brackets
from .perturbation import Ball

__all__ = ["local_radii", "margins", "with_local_radii"]

STEPS = 16  # at most
CHUNK = 32  # samples at once
PILOT = 2  # samples whose radii tell where to begin with others
FAR = 1e6  # times the size of a sample: nothing is looked for beyond


def margins(
    graph: Graph,
    x: Tensor,
    classes: Tensor,
    radius: Tensor,
    *,
    norm: Norm,
    widest: int = WIDEST,
) -> Tensor:
    """Return lower bounds of f_y − f_j in balls (N, K), infinity for j = y.

    Args:
        graph: As recorded, with logits (K,).
        x: Centres (N, …).
        classes: y (N,).
        radius: Of the balls (N,).
        norm: `l2` or `linf`.
        widest: Values of a node up to which it is bounded by a walk of its own.
    """
    count = graph.nodes[graph.output].size
    eye = torch.eye(count, dtype=torch.float64)
    rows = eye[classes][:, None] - eye
    ball = Ball(x.double().flatten(1), radius.double(), norm)
    lower = LocalBounds(graph, ball, widest=widest).lower(rows)
    return lower.scatter(1, classes[:, None], torch.inf)


def with_local_radii(
    graph: Graph, x: Tensor, facts: Mapping[str, Any], norm: Norm
) -> dict[str, Any]:
    """Return the larger of the radii of a certificate and the local ones, and which are local.

    Args:
        graph: As recorded, with logits (K,).
        x: Samples (N, …).
        facts: Of the certificate: L2 radii and predicted classes.
        norm: Of the radii that are returned.
    """
    radius = facts["radius"]
    if norm == "linf":
        # A cube of this radius lies in the ball.
        radius = radius / math.sqrt(max(1, x[0].numel())) * (1 - 8 * UNIT)
    found = radius
    if graph.nodes[graph.output].size > 1:
        found = local_radii(graph, x, facts["predicted"], norm=norm, at_least=radius)
    return {"radius": torch.maximum(radius, found), "relaxed": found > radius}


def local_radii(
    graph: Graph,
    x: Tensor,
    classes: Tensor,
    *,
    norm: Norm,
    at_least: Tensor,
    widest: int = WIDEST,
) -> Tensor:
    """Return a radius for each sample (N,), 0 where nothing is proved.

    Args:
        graph: As recorded, with logits (K,).
        x: Samples (N, …).
        classes: What each sample is predicted as (N,).
        norm: `l2` or `linf`.
        at_least: Radii that are known otherwise (N,): smaller ones are not looked for.
        widest: Values of a node up to which it is bounded by a walk of its own.
    """
    found: list[Tensor] = []
    numbers = torch.arange(len(x))
    for rows in (numbers[:PILOT], *numbers[PILOT:].split(CHUNK)):
        if not len(rows):
            continue
        part, labels = x[rows], classes[rows]
        known = at_least[rows].double().nan_to_num(posinf=0.0)
        straight, margin = _straight(graph, part, labels, norm)
        start = straight / 2
        if found:
            start = start.minimum(torch.cat(found).median())
        brackets = Brackets(straight, margin, known, torch.where(start > 0, start, straight / 2))
        for _ in range(STEPS):
            left = brackets.left()
            if not len(left):
                break
            size = brackets.next[left]
            lower = margins(graph, part[left], labels[left], size, norm=norm, widest=widest)
            brackets.put(left, lower.amin(1))
        found.append(brackets.low)
    return torch.cat(found) if found else at_least.new_zeros(0)


def _straight(graph: Graph, x: Tensor, classes: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Return where a line along the gradient would meet the other class, and the margin."""
    z = x.double().clone().requires_grad_()
    with torch.enable_grad():
        margin = -margin_loss(graph(z), classes)
        (slope,) = torch.autograd.grad(margin.sum(), z)
    flat = slope.flatten(1)
    steep = flat.norm(dim=1) if norm == "l2" else flat.abs().sum(1)
    most = FAR * (1 + x.double().abs().flatten(1).amax(1))
    reach = (margin.detach() / steep).nan_to_num(torch.inf, torch.inf, 0.0)
    return reach.clamp_min(1e-12).minimum(most), margin.detach()
