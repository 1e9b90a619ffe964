"""FastRP against powers of a dense random walk."""

import pytest
import torch
from archzoo.layers.graphs import fastrp, fastrp_table, very_sparse_projection

TOL = {"rtol": 0.0, "atol": 1e-13}  # sums of some ten float64 of unit size
EDGES = torch.tensor([[0, 1], [1, 2], [0, 3], [3, 4], [1, 3]])
NODES = 6  # node 5 stands alone


def projection(dim=5, nodes=NODES):
    g = torch.Generator().manual_seed(0)
    return very_sparse_projection(nodes, dim, generator=g, dtype=torch.float64)


def walk():
    """Return D and P, dense, with a row of zeros for the node alone."""
    a = torch.zeros(NODES, NODES, dtype=torch.float64)
    for u, v in EDGES.tolist():
        a[u, v] = a[v, u] = 1
    degree = a.sum(1)
    return degree, a / degree.clamp(min=1)[:, None]


@pytest.mark.parametrize("alpha", [0.0, -0.5, -1.0])
def test_without_normed_rows_it_is_a_polynomial_of_the_random_walk(alpha):
    weights, r = (0.5, -1.0, 2.0), projection()
    degree, p = walk()
    scaled = torch.where(degree > 0, degree.clamp(min=1) ** alpha, 0.0)[:, None] * r
    expected = sum(w * torch.linalg.matrix_power(p, k) @ scaled for k, w in enumerate(weights, 1))
    found = fastrp(EDGES, r, weights=weights, alpha=alpha, normalise=False)
    torch.testing.assert_close(found, expected, **TOL)


@pytest.mark.parametrize("normalise", [False, True])
def test_it_is_linear_in_its_weights(normalise):
    r, one, two = projection(), (1.0, 0.0, 3.0), (0.0, 2.0, -1.0)

    def embed(weights):
        return fastrp(EDGES, r, weights=weights, normalise=normalise)

    both = embed([a + 2 * b for a, b in zip(one, two, strict=True)])
    torch.testing.assert_close(both, embed(one) + 2 * embed(two), **TOL)


def test_normed_rows_of_one_power_have_length_one():
    found = fastrp(EDGES, projection(40), weights=(1.0,))
    lengths = found.norm(dim=1)
    assert lengths[5] == 0
    torch.testing.assert_close(lengths[:5], torch.ones(5, dtype=torch.float64), **TOL)


def test_other_numbers_of_the_nodes_are_other_numbers_of_the_rows():
    r, order = projection(), torch.tensor([3, 0, 5, 1, 4, 2])
    moved = torch.empty_like(r)
    moved[order] = r
    torch.testing.assert_close(fastrp(order[EDGES], moved)[order], fastrp(EDGES, r), **TOL)


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_a_node_alone_and_a_graph_without_edges_are_zero(alpha):
    assert not fastrp(EDGES, projection(), alpha=alpha)[5].any()
    assert not fastrp(torch.zeros(0, 2, dtype=torch.int64), projection(), alpha=alpha).any()


def test_a_loop_counts_as_no_edge():
    loops = torch.cat([EDGES, torch.tensor([[2, 2], [5, 5]])])
    assert torch.equal(fastrp(loops, projection()), fastrp(EDGES, projection()))


def test_a_projection_has_three_values_and_unit_variance():
    g = torch.Generator().manual_seed(1)
    r = very_sparse_projection(2000, 50, sparsity=9.0, generator=g)
    assert r.unique().tolist() == [-3, 0, 3]
    # Standard errors of a hundred thousand entries: .003 of the mean, .009 of the variance.
    assert abs(float(r.mean())) < 0.015 and abs(float(r.var()) - 1) < 0.045


def test_a_seed_means_the_same_projection_everywhere():
    signs = (projection(8, 4) / 3**0.5).round().int()
    assert signs.nonzero().tolist() == [[0, 0], [0, 3], [2, 6]]
    assert signs[signs != 0].tolist() == [-1, -1, 1]


def test_a_start_has_rows_of_mean_square_length_one():
    torch.manual_seed(0)
    table = fastrp_table(EDGES, NODES, 4)
    torch.testing.assert_close(table.square().sum(1).mean(), torch.tensor(1.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: very_sparse_projection(4, 0), "at least 1, got 0 and 3.0"),
        (lambda: very_sparse_projection(4, 2, sparsity=0.5), "at least 1, got 2 and 0.5"),
        (lambda: fastrp(EDGES, projection(), weights=()), "at least one; got none"),
    ],
)
def test_numbers_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
