"""The parts of a run are made in an order in which a mistake is seen as early as it can be."""

import pytest
import torch
from archzoo.train.assemble import assemble
from archzoo.train.data import data_sets
from archzoo.train.engine.process import World
from archzoo.train.engine.saved.run_folder import RunFolder
from archzoo.train.errors import RunError

from .small_runs import configure


def test_a_batch_that_the_processes_cannot_share_is_refused_before_data_are_read(
    tmp_path, monkeypatch
):
    def read(*_, **options):
        raise AssertionError("data were read")

    monkeypatch.setattr(type(data_sets), "build", read)
    config, world = configure("trainer.batch_size=32"), World(0, 3, torch.device("cpu"))
    said = "trainer.batch_size=32 cannot be shared by 3 processes equally; give a multiple of 3"
    with pytest.raises(RunError, match=said):
        assemble(config, RunFolder(tmp_path), world)
