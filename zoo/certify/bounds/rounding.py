"""How far the float64 evaluation of a graph may be from the function that it is.

A function of the forward that jumps a little counts as far from the graph's as its jump.

With e(v) the error of a node, |v| its largest norm on the samples seen and ‖|N|‖ the norm of the
matrix of absolute values,

    affine      e(v) ≤ Σ_i ‖N_i‖ e(u_i) + γ (‖|N_i|‖ |u_i| + |b| + |v|)
    others      e(s) ≤ L e(u) + share · (L |u| + |s|) + √n step
"""

# Shape letters: N samples.

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ....layers.lipschitz.proof.norms import gamma, product_up, root_up, sum_up
from ..graph import Affine, Elementwise, Graph, Joint
from ..maps import ConvMap, MatrixMap
from ..operators import Blocks, Operator
from .paths import slope

__all__ = ["evaluation_error", "measured", "stepped"]

SMALL = 512  # of a matrix whose norm is proved for the error too
NEGLIGIBLE = 1e-9  # of the largest output


def measured(graph: Graph, batches: Sequence[Tensor]) -> tuple[Tensor, list[float]]:
    """Return the outputs for samples, and the largest norm of each node."""
    size = [0.0] * len(graph.nodes)
    outputs = []
    with torch.no_grad():
        for batch in batches:
            for number, value in graph.each(batch):
                most = float(value.norm(dim=1).max()) * (1 + 1e-9) if value.numel() else 0.0
                size[number] = max(size[number], most)
                if number == graph.output:
                    outputs.append(value.reshape(len(batch), *graph.output_shape))
    return torch.cat(outputs), size


def evaluation_error(graph: Graph, size: Sequence[float]) -> float:
    """Bound the error of the outputs, from the norms of all nodes.

    Norms of absolute values, which are cheap, multiply to thousands of logits over a dozen
    convolutions; where they matter all norms are proved.
    """
    cheap = _error(graph, size, _cheap_norm)
    if cheap <= NEGLIGIBLE * size[graph.output]:
        return cheap
    return _error(graph, size, lambda operator: operator.norm)


def _error(graph: Graph, size: Sequence[float], norm: Callable[[Operator], float]) -> float:
    error: list[float] = []
    for node in graph.nodes:
        own = size[node.number]
        if isinstance(node, Affine):
            parts = [product_up(gamma(2 * len(node.terms) + 4), own)]
            if node.constant is not None:
                shift = float(node.constant.norm()) * (1 + 1e-6)
                parts.append(product_up(gamma(2 * len(node.terms) + 16), shift))
            for source, operator in node.terms:
                parts.append(product_up(norm(operator), error[source]))
                count = 2 * operator.roundings + 2 * len(node.terms) + 16
                parts.append(product_up(gamma(count), operator.loose, size[source]))
                base = operator.base if isinstance(operator, Blocks) else None
                if isinstance(base, MatrixMap):
                    parts.append(product_up(base.error, size[source]))
            error.append(sum_up(*parts))
        elif isinstance(node, Elementwise | Joint):
            constant = slope(node) if isinstance(node, Elementwise) else node.lipschitz
            most = max(1.0, constant)
            lost = product_up(node.rounding, sum_up(product_up(most, size[node.source]), own))
            error.append(sum_up(product_up(constant, error[node.source]), lost, stepped(node)))
        else:
            error.append(0.0)
    return error[graph.output]


def stepped(node: Elementwise | Joint) -> float:
    """Bound how far a node's value is from what the forward computes of the same input."""
    return product_up(node.step, root_up(node.size)) if isinstance(node, Elementwise) else 0.0


def _cheap_norm(operator: Operator) -> float:
    """Bound a norm: the proved one where it is known or cheap, or else that of |N|."""
    base = operator.base if isinstance(operator, Blocks) else None
    cheap = isinstance(base, MatrixMap) and max(base.weight.shape[-2:]) <= SMALL
    if base is None or cheap or (isinstance(base, ConvMap) and "norm" in vars(base)):
        return operator.norm
    return operator.loose
