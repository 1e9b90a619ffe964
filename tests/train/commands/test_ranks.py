"""Ranks and spectra are drawn from what a run with a low-rank method noted."""

import pytest
from archzoo.train.commands.ranks import ranks
from archzoo.train.report.rank_rows import read_ranks

from ..small_runs import train


@pytest.mark.long
def test_a_picture_is_drawn_from_the_ranks_of_a_run(tmp_path):
    pytest.importorskip("matplotlib")
    train(tmp_path / "run", "lowrank=low_rank", "lowrank.rank=0.25")
    rows = read_ranks(tmp_path / "run")
    assert len(rows) == 2 and rows[0]["ranks"] == rows[1]["ranks"] != {}
    assert all(values == sorted(values)[::-1] for values in rows[1]["spectra"].values())
    ranks(str(tmp_path / "run"), out=str(tmp_path / "ranks.png"))
    assert (tmp_path / "ranks.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_of_a_dense_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no ranks.jsonl.*lowrank="):
        read_ranks(tmp_path)
