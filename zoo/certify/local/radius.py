"""The largest ball around a sample in which linear relaxation proves that its class stays.

    r = max {ε : min over ‖x − z‖ ≤ ε of f_y(z) − f_j(z) > 0 for all j ≠ y},

found by bisection, all samples at once; every ε that is kept has been proved.
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
from .perturbation import Ball

__all__ = ["local_radii", "margins", "with_local_radii"]

STEPS = 16  # at most
FINE = 0.02  # share of a radius that is not looked for any further
CHUNK = 64  # samples at once
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
    found = []
    for rows in torch.arange(len(x)).split(CHUNK):
        part, labels = x[rows], classes[rows]
        known = at_least[rows].double().nan_to_num(posinf=0.0)
        low, high = torch.zeros_like(known), _first(graph, part, labels, norm)
        high = torch.maximum(high, 2 * known)
        grown = torch.ones(len(rows), dtype=torch.bool)
        for _ in range(STEPS):
            start = torch.maximum(low, known)
            left = ((start < high * (1 - FINE)) | grown).nonzero().squeeze(1)
            if not len(left):
                break
            # A ball that is proved at its first size is doubled until one is not; where none has
            # been proved, a straight line along the gradient may have led far too far.
            middle = torch.where(start > 0, (start + high) / 2, high / 4)
            size = torch.where(grown, high, middle)[left]
            lower = margins(graph, part[left], labels[left], size, norm=norm, widest=widest)
            proved = lower.amin(1) > 0
            low[left] = torch.where(proved, size, low[left])
            high[left] = torch.where(proved, high[left] * (1.0 + grown[left]), size)
            grown[left] &= proved
        found.append(low)
    return torch.cat(found) if found else at_least.new_zeros(0)


def _first(graph: Graph, x: Tensor, classes: Tensor, norm: Norm) -> Tensor:
    """Return where a straight line along the gradient would meet the other class."""
    z = x.double().clone().requires_grad_()
    with torch.enable_grad():
        margin = -margin_loss(graph(z), classes)
        (slope,) = torch.autograd.grad(margin.sum(), z)
    flat = slope.flatten(1)
    steep = flat.norm(dim=1) if norm == "l2" else flat.abs().sum(1)
    most = FAR * (1 + x.double().abs().flatten(1).amax(1))
    reach = (margin.detach() / steep).nan_to_num(torch.inf, torch.inf, 0.0)
    return reach.clamp_min(1e-12).minimum(most)
