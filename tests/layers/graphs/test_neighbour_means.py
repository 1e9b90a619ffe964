"""Means of points over neighbourhoods: laws of the spaces, and the fast form against them."""

import functools

import pytest
import torch
from archzoo.layers.graphs import midpoints, neighbour_mean, neighbours_of, tangent_means
from archzoo.layers.graphs._fast.sparse_rows import prepared
from archzoo.layers.hyperbolic import space_points

from .test_adjacency import EDGES, NODES, dense, features

C = 0.7
TOL = {"rtol": 0.0, "atol": 1e-12}  # some thousand roundings of float64

normalised = pytest.mark.parametrize("normalise", ["row", "symmetric"])
MEANS = {
    "vectors": lambda h, neighbours, c: neighbour_mean(h, neighbours),
    "midpoints, space": functools.partial(midpoints, points_as="space"),
    "midpoints, tangent": functools.partial(midpoints, points_as="tangent"),
    "tangents, space": functools.partial(tangent_means, points_as="space"),
    "tangents, tangent": functools.partial(tangent_means, points_as="tangent"),
}
means = pytest.mark.parametrize("name", MEANS)


def table(edges=EDGES, nodes=NODES, normalise="row", dtype=torch.float64):
    return neighbours_of(edges, nodes, normalise, dtype)


def leaves(width=3):
    s = features(width=width).requires_grad_()
    return s, torch.tensor(C, dtype=torch.float64, requires_grad=True)


def centre(s, weights):
    """The centre of mass of all points, which loses no digits however far they lie."""
    return space_points.centroid(s, C, weights[:, None])


@normalised
def test_a_midpoint_is_the_centre_of_mass_of_a_row_divided_by_its_sum(normalise):
    s, a = features(), dense(EDGES, NODES, normalise)
    found = midpoints(s, table(normalise=normalise), C, "space")
    expected = torch.stack([centre(s, row) for row in a])
    torch.testing.assert_close(found, expected, **TOL)


def test_midpoints_are_the_same_in_both_coordinates():
    t = features()
    found = midpoints(t, table(), C, "tangent")
    s = midpoints(space_points.from_tangent(t, C), table(), C, "space")
    torch.testing.assert_close(space_points.from_tangent(found, C), s, **TOL)


def test_means_of_tangents_are_the_same_in_both_coordinates():
    t = features()
    found = tangent_means(t, table(), C, "tangent")
    s = tangent_means(space_points.from_tangent(t, C), table(), C, "space")
    torch.testing.assert_close(space_points.from_tangent(found, C), s, **TOL)


def test_midpoints_move_with_a_translation_and_means_of_tangents_do_not():
    s, by = features(), torch.tensor([0.5, -1.0, 0.3], dtype=torch.float64)
    moved = space_points.boost(s, by, C)
    found = midpoints(moved, table(), C, "space")
    torch.testing.assert_close(
        found, space_points.boost(midpoints(s, table(), C, "space"), by, C), **TOL
    )
    other = space_points.boost(tangent_means(s, table(), C, "space"), by, C)
    assert (tangent_means(moved, table(), C, "space") - other).abs().max() > 1e-2


@means
def test_means_turn_with_a_rotation(name):
    s, _ = leaves()
    turn = torch.linalg.qr(features(3))[0]
    torch.testing.assert_close(
        MEANS[name](s @ turn, table(), C), MEANS[name](s, table(), C) @ turn, **TOL
    )


@means
def test_numbers_of_nodes_do_not_matter(name):
    order, s = torch.tensor([3, 0, 5, 1, 4, 2]), features()
    moved = torch.empty_like(s)
    moved[order] = s
    found = MEANS[name](moved, prepared(table(order[EDGES]), NODES), C)
    torch.testing.assert_close(found[order], MEANS[name](s, prepared(table(), NODES), C), **TOL)


@means
@normalised
def test_a_node_alone_keeps_its_point_and_a_graph_without_edges_all(name, normalise):
    s = features()
    torch.testing.assert_close(MEANS[name](s, table(normalise=normalise), C)[5], s[5], **TOL)
    none = prepared(table(EDGES[:0], normalise=normalise), NODES)
    torch.testing.assert_close(MEANS[name](s, none, C), s, **TOL)


@means
@normalised
def test_one_edge_brings_its_ends_together(name, normalise):
    s, edge = features(nodes=2), torch.tensor([[0, 1]])
    found = MEANS[name](s, prepared(table(edge, 2, normalise), 2), C)
    torch.testing.assert_close(found[0], found[1], **TOL)


@means
def test_flat_space_is_the_limit(name):
    s = features()
    found = MEANS[name](s, table(), 1e-12)
    torch.testing.assert_close(found, dense(EDGES, NODES, "row") @ s, rtol=0.0, atol=1e-10)


@means
@normalised
def test_sorted_rows_give_the_same_and_the_same_gradients(name, normalise):
    plain, fast = table(normalise=normalise), prepared(table(normalise=normalise), NODES)
    upstream = features(width=3).flip(0)
    found = []
    for neighbours in (plain, fast):
        given = leaves()
        out = MEANS[name](*(given[0], neighbours, given[1]))
        (out * upstream).sum().backward()
        found.append((out, *(each.grad for each in given if each.grad is not None)))
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, **TOL)


@means
def test_gradients_of_sorted_rows_can_be_differentiated(name):
    fast = prepared(table(normalise="symmetric"), NODES)
    s, c = leaves(2)
    assert torch.autograd.gradcheck(lambda s, c: MEANS[name](s, fast, c), (s, c))
    assert torch.autograd.gradgradcheck(lambda s, c: MEANS[name](s, fast, c), (s, c))


@means
def test_transforms_of_functions_see_the_definition(name):
    fast, s = prepared(table(), NODES), features(width=2)
    jacobian = torch.func.jacfwd(lambda s: MEANS[name](s, fast, C))(s)
    backward = torch.autograd.functional.jacobian(
        lambda s: MEANS[name](s, fast, C), s, vectorize=True
    )
    torch.testing.assert_close(jacobian, backward, **TOL)


@pytest.mark.parametrize("scale", [0.0, 1e3])
@means
def test_the_range_ends_nowhere_with_nan(name, scale):
    fast = prepared(table(dtype=torch.float32), NODES)
    s = (scale * features(dtype=torch.float32)).requires_grad_()
    out = MEANS[name](s, fast, 1.0)
    out.sum().backward()
    assert out.isfinite().all() and s.grad.isfinite().all()


@means
def test_many_neighbours_are_summed_in_half_precision_too(name):
    star = torch.stack([torch.zeros(1000, dtype=torch.int64), torch.arange(1, 1001)], 1)
    h = torch.ones(1001, 2, dtype=torch.bfloat16)
    for neighbours in (table(star, 1001, dtype=torch.float32),):
        for each in (neighbours, prepared(neighbours, 1001)):
            found = MEANS[name](h, each, C)
            assert found.dtype == torch.bfloat16
            torch.testing.assert_close(found, h)


def test_a_curvature_that_is_none_is_refused():
    for mean in (midpoints, tangent_means):
        with pytest.raises(ValueError, match="curvature must be a positive number"):
            mean(features(), table(), 0.0, "space")
