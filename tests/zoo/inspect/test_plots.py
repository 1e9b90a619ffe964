"""Pictures show what was measured, warn of what it is not, and need matplotlib only when drawn."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from archzoo.layers.residual import Site
from archzoo.zoo import depth_mixing_matrix, plot_depth_mixing, plot_magnitudes, trace

from ..small_models import build, example

matplotlib = pytest.importorskip("matplotlib")


def looked_into(residual):
    model, x = build("gpt_nano", residual=residual), example("gpt_nano")
    return depth_mixing_matrix(model, x), trace(model, x)


def test_a_heat_map_shows_the_matrix_and_leaves_the_unreadable_blank(tmp_path):
    matrix, found = looked_into("attnres")
    figure = plot_depth_mixing(matrix, found.sites)
    shown = figure.axes[0].images[0].get_array()
    lower = np.tril_indices(len(matrix))
    np.testing.assert_allclose(np.ma.getdata(shown)[lower], matrix.numpy()[lower])
    assert np.ma.getmaskarray(shown)[np.triu_indices(len(matrix), 1)].all()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["attention", "mlp", "attention", "mlp", "close"]
    figure.savefig(tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 1000


def test_a_heat_map_says_that_routing_is_not_importance():
    figure = plot_depth_mixing(torch.ones(3, 3))
    assert figure.get_supxlabel() == "Routing mass is not causal importance (arXiv:2606.13168)."


def test_heat_maps_share_one_scale_and_negative_entries_are_told_apart():
    figure = plot_depth_mixing({"one": torch.eye(3), "two": -4.0 * torch.eye(2)})
    assert [axes.get_title() for axes in figure.axes[:2]] == ["one", "two"]
    assert {axes.images[0].get_clim() for axes in figure.axes[:2]} == {(-4.0, 4.0)}
    assert plot_depth_mixing(torch.eye(3)).axes[0].images[0].get_clim() == (0.0, 1.0)


def test_magnitudes_are_overlaid_by_name(tmp_path):
    traces = {name: looked_into(name)[1] for name in ("add", "attnres")}
    figure = plot_magnitudes(traces)
    outputs, gradients = figure.axes
    for axes, field in ((outputs, "output"), (gradients, "gradient")):
        assert [line.get_label() for line in axes.lines] == ["add", "attnres"]
        for line, found in zip(axes.lines, traces.values(), strict=True):
            np.testing.assert_allclose(line.get_ydata(), getattr(found, field).tolist())
    figure.savefig(tmp_path / "curves.svg")


def test_a_figure_of_the_caller_is_drawn_into():
    from matplotlib.figure import Figure

    given = Figure()
    assert plot_depth_mixing(torch.ones(2, 2), figure=given) is given
    assert given.axes


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="give at least one matrix"):
        plot_depth_mixing({})
    with pytest.raises(ValueError, match="give at least one trace"):
        plot_magnitudes({})
    with pytest.raises(ValueError, match=r"a matrix must be 3 × 3, got \(2, 2\)"):
        plot_depth_mixing(torch.ones(2, 2), [Site("mlp", 0), Site("mlp", 1)])


def test_a_missing_matplotlib_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "archzoo\[plot\]"'):
        plot_depth_mixing(torch.ones(2, 2))


@pytest.mark.slow
@pytest.mark.processes
def test_drawing_leaves_the_backend_of_the_process_alone():
    code = (
        "import sys, torch; from archzoo.zoo import plot_depth_mixing;"
        "plot_depth_mixing(torch.ones(2, 2)); assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
