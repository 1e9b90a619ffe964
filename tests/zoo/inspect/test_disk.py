"""Pictures of the disk keep what they claim: radii, geodesics, labels."""

import sys

import numpy as np
import pytest
import torch
from archzoo.layers.hyperbolic import poincare
from archzoo.zoo import plot_disk, plot_tree
from archzoo.zoo.inspect.disk import geodesic_arc, project_to_disk

matplotlib = pytest.importorskip("matplotlib")


def points(count=40, dimension=2, c=1.0, size=1.0, seed=0):
    """Points of the ball of curvature −c."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.randn(count, dimension, dtype=torch.float64, generator=generator)
    return poincare.expmap0(size * t, c)


@pytest.mark.parametrize("dimension", [2, 3, 16])
@pytest.mark.parametrize("c", [0.1, 1.0, 4.0])
def test_points_keep_their_distance_from_the_origin(dimension, c):
    x = points(dimension=dimension, c=c)
    flat = project_to_disk(x, c)
    torch.testing.assert_close(flat.norm(dim=1), c**0.5 * x.norm(dim=1), rtol=1e-12, atol=0)
    # Distances of the unit disk are √c times those of the ball. The farthest point, 20 away, has
    # e^20 times the rounding of its coordinates.
    torch.testing.assert_close(
        poincare.distance0(flat, 1.0), c**0.5 * poincare.distance0(x, c), rtol=1e-7, atol=0
    )


def test_two_dimensions_are_drawn_as_they_are():
    x = points(c=0.25)
    torch.testing.assert_close(project_to_disk(x, 0.25), 0.5 * x, rtol=0, atol=0)


def test_points_of_a_plane_through_the_origin_keep_all_distances():
    flat = points()
    turn = torch.linalg.qr(points(5, 5, seed=1)).Q[:2]
    found = project_to_disk(flat @ turn, 1.0)
    rows, columns = torch.triu_indices(40, 40, 1)
    torch.testing.assert_close(
        poincare.distance(found[rows], found[columns], 1.0),
        poincare.distance(flat[rows], flat[columns], 1.0),
        rtol=1e-9,
        atol=1e-9,
    )


def test_the_projection_does_not_depend_on_the_signs_of_its_directions():
    x = points(dimension=6)
    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(40, generator=generator)
    torch.testing.assert_close(
        project_to_disk(x[order], 1.0), project_to_disk(x, 1.0)[order], rtol=1e-9, atol=1e-9
    )


def test_a_single_point_and_the_origin_have_a_place():
    x = torch.zeros(3, 4, dtype=torch.float64)
    assert torch.equal(project_to_disk(x), torch.zeros(3, 2, dtype=torch.float64))
    x[0, 2] = -0.5
    assert project_to_disk(x[:1]).tolist() == [[-0.5, 0.0]]


@pytest.mark.parametrize("size", [0.01, 0.5, 3.0])
def test_every_point_of_an_arc_lies_on_the_geodesic(size):
    p, q = points(size=size), points(size=size, seed=1)
    arcs = geodesic_arc(p, q, 17)
    torch.testing.assert_close(arcs[:, 0], p, rtol=0, atol=1e-10)
    torch.testing.assert_close(arcs[:, -1], q, rtol=0, atol=1e-10)
    whole = poincare.distance(p, q, 1.0)
    for middle in arcs.unbind(1)[1:-1]:
        parts = poincare.distance(p, middle, 1.0) + poincare.distance(middle, q, 1.0)
        # Near the rim (3.0) the metric magnifies the rounding of a point.
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-7)


def test_arcs_meet_the_rim_at_right_angles():
    arcs = geodesic_arc(points(size=0.7), points(size=0.7, seed=1), 3)
    a, b, c = arcs.unbind(1)
    # The circle through three points; two are orthogonal where ‖m‖² = 1 + r².
    matrix = 2 * torch.stack([b - a, c - a], 1)
    right = torch.stack([(v.square() - a.square()).sum(-1) for v in (b, c)], 1)
    middle = torch.linalg.solve(matrix, right)
    radius = (middle - a).norm(dim=1)
    torch.testing.assert_close(middle.square().sum(-1), 1 + radius**2, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-9, 1e-7, 1e-5])
def test_chords_through_the_origin_and_almost_are_smooth(angle):
    p = torch.tensor([[-0.5, 0.0]], dtype=torch.float64)
    q = torch.tensor([[0.8, 0.8 * angle]], dtype=torch.float64)
    (arc,) = geodesic_arc(p, q, 9)
    assert arc.isfinite().all()
    assert arc[:, 1].abs().max() <= angle + 1e-9
    steps = (arc[1:] - arc[:-1]).norm(dim=1)
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-4, atol=0)


def test_a_drawing_shows_every_point_under_its_label(tmp_path):
    x, labels = points(dimension=5, c=0.5), torch.arange(40) % 3
    figure = plot_disk(x, labels, 0.5)
    (axes,) = figure.axes
    assert [c.get_label() for c in axes.collections] == ["0", "1", "2"]
    for kind, drawn in enumerate(axes.collections):
        radii = np.linalg.norm(drawn.get_offsets(), axis=1)
        np.testing.assert_allclose(radii, 0.5**0.5 * x[labels == kind].norm(dim=1), rtol=1e-9)
    assert figure.get_supxlabel() == "5 dimensions: radii are kept, directions projected on two"
    figure.savefig(tmp_path / "disk.png")
    assert (tmp_path / "disk.png").stat().st_size > 1000
    assert plot_disk(x[:, :2], curvature=0.5).get_supxlabel() == ""


def test_labels_may_be_words_and_many():
    figure = plot_disk(points(), [f"word {i % 13}" for i in range(40)])
    labels = {text.get_text() for text in figure.axes[0].get_legend().get_texts()}
    assert labels == {f"word {i}" for i in range(13)}


def test_a_tree_is_drawn_edge_by_edge(tmp_path):
    x = points(5)
    edges = [(0, 1), (0, 2), (2, 3), (2, 4)]
    figure = plot_tree(x, edges, {0: "root", 4: "leaf"})
    lines, nodes = figure.axes[0].collections
    for (a, b), arc in zip(edges, lines.get_segments(), strict=True):
        np.testing.assert_allclose(arc[0], x[a], atol=1e-10)
        np.testing.assert_allclose(arc[-1], x[b], atol=1e-10)
    np.testing.assert_allclose(nodes.get_offsets(), x)
    assert [text.get_text() for text in figure.axes[0].texts] == ["root", "leaf"]
    figure.savefig(tmp_path / "tree.svg")
    assert len(plot_tree(x, torch.tensor(edges), list("abcde")).axes[0].texts) == 5
    assert len(plot_tree(x, []).axes[0].collections[0].get_segments()) == 0


def test_a_figure_of_the_caller_is_drawn_into():
    from matplotlib.figure import Figure

    given = Figure()
    assert plot_disk(points(), figure=given) is given
    assert given.axes


BAD = {
    r"points must be \(N, D\) with D of at least 2, got \(3, 1\)": (torch.zeros(3, 1), 1.0),
    r"got \(0, 2\)": (torch.zeros(0, 2), 1.0),
    "points lie outside the ball": (torch.ones(3, 2), 1.0),
    "hold NaN": (torch.full((3, 2), torch.nan), 1.0),
    "curvature must be a positive number": (torch.zeros(3, 2), 0.0),
}


@pytest.mark.parametrize(("message", "given"), BAD.items())
def test_what_lies_in_no_ball_is_refused(message, given):
    x, c = given
    with pytest.raises(ValueError, match=message):
        plot_disk(x, curvature=c)
    with pytest.raises(ValueError, match=message):
        plot_tree(x, [], curvature=c)


def test_labels_and_edges_must_fit_the_points():
    x = points(5)
    with pytest.raises(ValueError, match="labels must be as many as points, 5, got 2"):
        plot_disk(x, [0, 1])
    with pytest.raises(ValueError, match="labels must be as many as points, 5, got 1"):
        plot_tree(x, [], ["a"])
    with pytest.raises(ValueError, match="edges must join rows 0, …, 4, got 0 to 5"):
        plot_tree(x, [(0, 5)])
    with pytest.raises(ValueError, match="labels name row 7"):
        plot_tree(x, [], {7: "a"})


def test_a_missing_matplotlib_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "archzoo\[plot\]"'):
        plot_disk(points())
