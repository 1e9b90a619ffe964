"""What is seen of the best model of a run."""

import pytest
import torch
from archzoo.train.report.model_views import look_inside
from archzoo.train.report.run_record import read_run
from archzoo.zoo import create_model

from ..small_runs import train

pytestmark = pytest.mark.long


def test_an_additive_stream_is_read_whole_and_has_no_gates(tmp_path):
    train(tmp_path, "model=mlp_nano", "model.residual=add", "trainer.steps=2")
    view = look_inside(read_run(tmp_path))
    model = create_model(f"local-dir:{tmp_path}")
    assert view.parameters == sum(p.numel() for p in model.parameters())
    assert view.macs > 0 and view.gates == [] and view.disk is None
    (mixing,) = view.mixing
    matrix = torch.tensor(mixing.matrix)
    torch.testing.assert_close(matrix, torch.ones_like(matrix).tril())
    assert mixing.rows[-1] == "close" and len(mixing.rows) == len(matrix)


def test_a_delta_residual_shows_each_write_and_a_ball_its_features(tmp_path):
    train(tmp_path / "delta", "model.residual=delta", "trainer.steps=2")
    gates = look_inside(read_run(tmp_path / "delta")).gates
    assert gates and all(0.0 <= gate.beta <= 2.0 for gate in gates)
    train(tmp_path / "ball", "model=poincare_mlp_nano", "trainer.steps=2")
    disk = look_inside(read_run(tmp_path / "ball")).disk
    assert disk is not None and disk.labels is not None
    assert len(disk.points) == len(disk.labels) == 360 and len(disk.names) == 10
    assert all(x * x + y * y < 1 for x, y in disk.points)


def test_the_nodes_of_a_tree_are_shown_where_they_lie(tmp_path):
    train(
        tmp_path, "model=poincare_embedding_nano", "data=tree", "optim=riemannian_sgd",
        "trainer.batch_size=4", "trainer.steps=2", "model.dim=3",
    )  # fmt: skip
    view = look_inside(read_run(tmp_path))
    assert view.mixing == [] and view.disk is not None and view.disk.labels is None
    points = create_model(f"local-dir:{tmp_path}").points
    assert len(view.disk.points) == len(points)
    radii = [(x * x + y * y) ** 0.5 for x, y in view.disk.points]
    torch.testing.assert_close(torch.tensor(radii), points.detach().norm(dim=1), rtol=1e-5, atol=0)
