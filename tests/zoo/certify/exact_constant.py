"""The exact Lipschitz constant of a small network whose functions bend at zero, piece by piece.

Where every function stays on one side of its bend the network is affine. The walk goes through the
functions of the recorded graph one by one, cuts each cell {x : A x ≤ b} in two, and keeps what
holds a ball. A part that holds the point that its cell was found by does; for the others the
largest ball is a linear program. The constant is the largest norm of a Jacobian over the cells that
are left, taken from the model itself at these points.
"""

# Shape letters: C cells, d inputs, n the size of a node.

from dataclasses import dataclass

import numpy as np
import torch
from archzoo.zoo.certify.graph import Affine, Elementwise, Graph, Input
from scipy.optimize import linprog
from torch import Tensor, nn

from .random_networks import steepness

BENT = {"aten.relu", "aten.leaky_relu", "aten._prelu_kernel", "aten.abs"}
FLAT = 1e-9  # radius of the ball that a cell must hold: below it rounding decides
CLEAR = 1e-6  # distance from a new plane at which the centre of a cell is in the part beside it


@dataclass(frozen=True)
class Cell:
    """A x ≤ b with rows of length 1, and a point inside, some way off each plane."""

    a: np.ndarray
    b: np.ndarray
    centre: np.ndarray

    def side(self, row: np.ndarray) -> "Cell | None":
        """Return the part where row · (x, 1) ≤ 0, or None where that holds no ball."""
        size = float(np.linalg.norm(row[:-1]))
        a = np.vstack([self.a, row[:-1] / size])
        b = np.append(self.b, -row[-1] / size)
        d = a.shape[1]
        if float(a[-1] @ self.centre) < b[-1] - CLEAR:
            return Cell(a, b, self.centre)
        # With radii below zero allowed every program has a solution.
        found = linprog(
            [0.0] * d + [-1.0], np.hstack([a, np.ones((len(a), 1))]), b,
            bounds=[(None, None)] * d + [(None, 1.0)],
        )  # fmt: skip
        assert found.status == 0, found.message
        return Cell(a, b, found.x[:d]) if found.x[-1] > FLAT else None

    def cut(self, row: np.ndarray) -> list[tuple["Cell", bool]]:
        """Return the parts on the two sides of row · (x, 1) = 0, and whether it is above zero."""
        size = float(np.linalg.norm(row[:-1]))
        if size < 1e-12 * (1.0 + abs(row[-1])):  # the function reads a constant
            return [(self, row[-1] > 0)]
        sides = (self.side(row), False), (self.side(-row), True)
        return [(cell, above) for cell, above in sides if cell is not None]


def bends(graph: Graph) -> int | None:
    """Return how many functions bend, or None where one is of another kind."""
    count = 0
    for node in graph.nodes:
        if isinstance(node, Elementwise) and node.kind in BENT:
            count += node.size
        elif not isinstance(node, Affine | Input):
            return None
    return count


def cells(graph: Graph) -> list[Cell]:
    """Return the cells on which the network is affine."""
    d = graph.nodes[0].size
    found = [Cell(np.zeros((0, d)), np.zeros(0), np.zeros(d))]
    values: dict[int, Tensor] = {}  # (C, n, d + 1): the rows of each node on each cell
    for node in graph.nodes:
        if isinstance(node, Affine):
            total = torch.zeros(len(found), node.size, d + 1, dtype=torch.float64)
            for source, operator in node.terms:
                columns = values[source].transpose(0, 1).flatten(1)
                total += operator.apply(columns).unflatten(1, (-1, d + 1)).transpose(0, 1)
            if node.constant is not None:
                total[..., -1] += node.constant
            values[node.number] = total
        elif isinstance(node, Elementwise):
            ones = torch.ones(node.size, dtype=torch.float64)
            slopes = torch.stack([-node.function(-ones), node.function(ones)])
            reads = values[node.source]
            values[node.number] = reads
            for unit in range(node.size):
                made, origin, chosen = [], [], []
                for number, cell in enumerate(found):
                    for part, above in cell.cut(reads[number, unit].numpy()):
                        made.append(part)
                        origin.append(number)
                        chosen.append(int(above))
                found = made
                values = {key: value[origin] for key, value in values.items()}
                reads = values[node.source]
                after = values[node.number].clone()
                after[:, unit] *= slopes[chosen, unit][:, None]
                values[node.number] = after
        else:
            eye = torch.eye(d, d + 1, dtype=torch.float64)
            values[node.number] = eye.expand(len(found), d, d + 1)
    return found


def exact_lipschitz(model: nn.Module, graph: Graph) -> float:
    """Return the largest norm of a Jacobian of a model in float64."""
    centres = np.stack([cell.centre for cell in cells(graph)])
    return float(steepness(model, torch.tensor(centres).view(-1, *graph.input_shape)).max())
