"""A command imports what it needs and no more, and no library greets its user."""

import json
import sys

import pytest

from ..command_line import call
from ..small_runs import TINY

pytestmark = pytest.mark.processes

SECONDS = {"timm", "torchvision", "geoopt", "matplotlib", "sklearn", "torchmetrics", "tensorboard"}
HEAVY = {
    ("--help",): {*SECONDS, "torch", "hydra", "numpy"},
    ("--version",): {*SECONDS, "torch", "hydra", "numpy"},
    ("list",): {*SECONDS, "hydra"},
    ("list", "residuals", "--json"): {*SECONDS, "hydra"},
    ("info", "vit_nano"): {*SECONDS, "hydra"},
    ("train", "model=vit_tinny"): SECONDS,
    ("train", "--help"): SECONDS,
}


@pytest.mark.parametrize("words", HEAVY, ids=" ".join)
def test_a_command_does_not_import_what_takes_seconds(words, tmp_path):
    code = (
        "import sys\nfrom archzoo.train.commands.__main__ import main\ntry:\n"
        f"    main({list(words)!r})\n"
        "except SystemExit:\n    pass\n"
        "import json\nprint()\nprint(json.dumps(sorted(sys.modules)))"
    )
    done = call([sys.executable, "-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "archzoo.train.commands" in loaded
    assert HEAVY[words] & loaded == set()


ORDINARY = [
    ["list", "data"],
    ["train", *TINY, "run_dir=run", "trainer.steps=2", "optim=riemannian_adam"],
    ["train", "model=poincare_embedding_nano", "data=tree", "trainer=debug", "run_dir=tree"],
    ["train", "model=vit_nano_block_attnres", "trainer=debug", "run_dir=vit"],
]


@pytest.mark.parametrize("words", ORDINARY, ids=lambda words: " ".join(words[:2]))
def test_no_library_says_anything_on_an_ordinary_command(words, tmp_path):
    done = call([sys.executable, "-m", "archzoo.train.commands", *words], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
