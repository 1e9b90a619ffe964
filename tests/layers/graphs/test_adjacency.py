"""Neighbourhoods against dense matrices."""

import pytest
import torch
from archzoo.layers.graphs import neighbour_mean, neighbours_of

TOL = {"rtol": 0.0, "atol": 1e-6}  # weights are float32

EDGES = torch.tensor([[0, 1], [1, 2], [0, 3], [3, 4], [1, 3]])
NODES = 6  # node 5 stands alone


def dense(edges, nodes, normalise):
    """Return Â of its definition."""
    a = torch.eye(nodes, dtype=torch.float64)
    for u, v in edges.tolist():
        if u != v:
            a[u, v] = a[v, u] = 1
    d = a.sum(1)
    if normalise == "row":
        return a / d[:, None]
    return a / (d[:, None] * d).sqrt()


def features(nodes=NODES, width=3, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    return torch.randn(nodes, width, generator=g, dtype=dtype)


@pytest.mark.parametrize("normalise", ["row", "symmetric"])
def test_the_mean_is_that_of_the_normalised_matrix(normalise):
    h = features()
    found = neighbour_mean(h, neighbours_of(EDGES, NODES, normalise))
    torch.testing.assert_close(found, dense(EDGES, NODES, normalise) @ h, **TOL)


@pytest.mark.parametrize("normalise", ["row", "symmetric"])
def test_the_gradient_goes_back_through_the_transposed_matrix(normalise):
    h = features().requires_grad_()
    upstream = features(width=3).flip(0)
    neighbour_mean(h, neighbours_of(EDGES, NODES, normalise)).backward(upstream)
    torch.testing.assert_close(h.grad, dense(EDGES, NODES, normalise).T @ upstream, **TOL)


def test_rows_sum_to_one_so_that_a_constant_stays():
    h = torch.full((NODES, 2), 3.0)
    torch.testing.assert_close(neighbour_mean(h, neighbours_of(EDGES, NODES, "row")), h)


def test_a_node_alone_keeps_its_features_and_a_graph_without_edges_all():
    h = features()
    for normalise in ("row", "symmetric"):
        alone = neighbour_mean(h, neighbours_of(EDGES, NODES, normalise))[5]
        assert torch.equal(alone, h[5])
        none = neighbours_of(torch.zeros(0, 2, dtype=torch.int64), NODES, normalise)
        assert torch.equal(neighbour_mean(h, none), h)


def test_a_loop_counts_as_no_edge():
    loops = torch.tensor([[0, 0], [2, 2]])
    h = features()
    plain = neighbour_mean(h, neighbours_of(EDGES, NODES, "symmetric"))
    more = neighbour_mean(h, neighbours_of(torch.cat([EDGES, loops]), NODES, "symmetric"))
    torch.testing.assert_close(more, plain, rtol=0.0, atol=0.0)


def test_numbers_of_nodes_do_not_matter():
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    h = features()
    moved = torch.empty_like(h)
    moved[order] = h
    plain = neighbour_mean(h, neighbours_of(EDGES, NODES, "symmetric"))
    found = neighbour_mean(moved, neighbours_of(order[EDGES], NODES, "symmetric"))
    torch.testing.assert_close(found[order], plain, **TOL)


def test_many_neighbours_are_counted_in_half_precision_too():
    star = torch.stack([torch.zeros(1000, dtype=torch.int64), torch.arange(1, 1001)], 1)
    neighbours = neighbours_of(star, 1001, "row")
    assert float(neighbours.weight[neighbours.target == 0].sum()) == pytest.approx(1, abs=1e-5)
    h = torch.ones(1001, 2, dtype=torch.bfloat16)
    assert neighbour_mean(h, neighbours).dtype == torch.bfloat16


def test_another_normalisation_is_refused():
    with pytest.raises(ValueError, match="normalise must be 'row' or 'symmetric', got 'column'"):
        neighbours_of(EDGES, NODES, "column")
