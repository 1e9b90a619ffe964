"""Curves are drawn from what a run logged."""

import pytest
from archzoo.train.commands.report import draw, read_metrics

from ..small_runs import train


@pytest.mark.long
def test_a_picture_is_drawn_from_the_log_of_each_run(tmp_path):
    pytest.importorskip("matplotlib")
    runs = [tmp_path / "one", tmp_path / "two"]
    for seed, run in enumerate(runs):
        train(run, f"seed={seed}")
    draw(runs, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [row["split"] for row in read_metrics(runs[0])].count("validation") == 2


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no metrics.csv"):
        read_metrics(tmp_path)
