"""A command imports what it needs and no more, and no library greets its user."""

import json
import sys

import pytest

from ...tiers import tiered
from ..command_line import call
from ..small_runs import TINY

pytestmark = pytest.mark.processes

SECONDS = {"timm", "torchvision", "geoopt", "matplotlib", "sklearn", "torchmetrics", "tensorboard"}
HEAVY = {
    "--help": {*SECONDS, "torch", "hydra", "numpy"},
    "--version": {*SECONDS, "torch", "hydra", "numpy"},
    "list": {*SECONDS, "hydra"},
    "list residuals --json": {*SECONDS, "hydra"},
    "info mlp_nano": {*SECONDS, "hydra"},
    "train model=vit_tinny": SECONDS,
    "train --help": SECONDS,
}
SCRIPT = """
import json, sys
from archzoo.train.commands.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print()
print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize("words", tiered(HEAVY, ["--help", "list", "train model=vit_tinny"]))
def test_a_command_does_not_import_what_takes_seconds(words, tmp_path):
    done = call([sys.executable, "-c", SCRIPT, *words.split()], tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "archzoo.train.commands" in loaded
    assert HEAVY[words] & loaded == set()


ORDINARY = {
    "list data": [],
    "train optim=riemannian_adam trainer.steps=2": TINY,
    "train model=poincare_embedding_nano data=tree optim=riemannian_sgd": ["trainer=debug"],
    "train model=vit_nano_block_attnres": ["trainer=debug"],
}


@pytest.mark.parametrize("words", tiered(ORDINARY, ["train model=vit_nano_block_attnres"]))
def test_no_library_says_anything_on_an_ordinary_command(words, tmp_path):
    name, *rest = words.split()
    more = ["run_dir=run"] if name == "train" else []
    command = [sys.executable, "-m", "archzoo.train.commands", name]
    done = call([*command, *ORDINARY[words], *rest, *more], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.slow
def test_a_sweep_as_json_is_the_folder_and_the_result_of_every_point(tmp_path):
    words = ["train", "-m", *TINY, "seed=0,1", "trainer.steps=2", "hydra.sweep.dir=sweep", "--json"]
    done = call([sys.executable, "-m", "archzoo.train.commands", *words], tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    points = [f"{seed}-seed={seed}" for seed in "01"]
    assert [one["folder"] for one in found] == [str(tmp_path / "sweep" / name) for name in points]
    for one in found:
        recorded = json.loads((tmp_path / one["folder"] / "result.json").read_text())
        assert one["test"] == recorded["test"]
    assert "sweep: 2 of 2 points ended" in done.stderr
