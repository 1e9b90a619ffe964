"""Every file of docs/extend.md is short, and its commands run as they stand there."""

import contextlib
import csv
import importlib
import json
import logging
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from archzoo.train.callbacks import callbacks
from archzoo.train.data import data_sets
from archzoo.zoo import create_model, merge_lowrank, residuals, save_model
from archzoo.zoo.axes.lowrank import methods
from archzoo.zoo.certify.rules.layers import LAYERS
from archzoo.zoo.models import models

from .close import assert_close_in_scale

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extend.md").read_text()
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
FILES = dict(re.findall(r"^```python (my_\w+)\.py\n(.*?)^```$", PAGE, re.M | re.S))
LONGEST = 40
KINDS = {"my_residual", "my_backbone", "my_layer", "my_data", "my_method", "my_callback"}


def commands(name: str) -> list[list[str]]:
    """The commands under a file of the page, word by word."""
    after = PAGE.partition(f"```python {name}.py\n")[2]
    block = re.search(r"^```sh\n(.*?)^```$", after, re.M | re.S)
    assert block is not None
    return [shlex.split(line) for line in block[1].splitlines()]


@contextlib.contextmanager
def own_logging() -> Iterator[None]:
    """Let a command set up logging as it does in its own process, and take it back."""
    root = logging.getLogger()
    known = [one for one in root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    before = root.level, [*root.handlers], [(one, one.disabled) for one in known]
    try:
        yield
    finally:
        level, root.handlers[:], kept = before
        root.setLevel(level)
        for one, disabled in kept:
            one.disabled = disabled


@pytest.fixture
def written(request, tmp_path, monkeypatch):
    """The module of a file of the page, whose commands have run; forgotten afterwards."""
    name = request.param
    (tmp_path / f"{name}.py").write_text(FILES[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for registry in (models, residuals, methods, data_sets, callbacks):
        monkeypatch.setattr(registry, "_entries", {**registry._entries})
    rules = {**LAYERS}
    try:
        for words in commands(name):
            module, _, function = SCRIPTS[words[0]].partition(":")
            monkeypatch.setattr(sys, "argv", words)
            with own_logging():
                getattr(importlib.import_module(module), function)()
        yield sys.modules[name]
    finally:
        LAYERS.clear()
        LAYERS.update(rules)
        sys.modules.pop(name, None)


def of(name: str) -> pytest.MarkDecorator:
    """Name the file that a test is about."""
    return pytest.mark.parametrize("written", [name], indirect=True)


def certificate() -> dict[str, Any]:
    """What `archzoo certify` wrote."""
    return json.loads(Path("run", "certificate.json").read_text())


def test_the_page_has_a_file_for_each_thing_and_its_commands_name_it():
    assert FILES.keys() == KINDS
    for name in FILES:
        assert any(f"imports=[./{name}.py]" in words for words in commands(name))


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_page_is_short(name):
    lines = FILES[name].splitlines()
    assert len(lines) <= LONGEST
    assert max(map(len, lines)) <= 100


@of("my_residual")
def test_the_residual_joins_every_backbone_and_is_add_without_momentum(written):
    specs = ("add", {"name": "my_momentum", "gamma": 0.0}, "my_momentum")
    for name, given in {
        "mlp_nano": torch.randn(2, 64),
        "resnet_nano": torch.randn(2, 3, 16, 16),
        "vit_nano": torch.randn(2, 1, 8, 8),
        "gpt_nano": torch.randint(256, (2, 16)),
    }.items():
        outputs = []
        for spec in specs:
            torch.manual_seed(0)
            outputs.append(create_model(name, residual=spec).eval()(given))
        add, plain, own = outputs
        assert torch.equal(plain, add)
        assert not torch.equal(own, add)
    assert 0 < certificate()["lower_bound"] <= certificate()["lipschitz"] < 1e9


@of("my_backbone")
def test_the_backbone_takes_residuals_and_low_rank_and_comes_back_from_its_folder(written):
    images = torch.randn(2, 1, 8, 8)
    chosen = {
        "residual": ("attnres", "delta_cc", "muddformer", "mobius"),
        "lowrank": ("maestro", "sltrain", "cola"),
    }
    for options in [{axis: name} for axis, names in chosen.items() for name in names]:
        model = create_model("my_mixer", **options).eval()
        save_model(model, "saved")
        assert torch.equal(create_model("local-dir:saved").eval()(images), model(images))
    assert certificate()["lipschitz"] == "inf"
    assert all(reason.startswith("trunk: aten.") for reason in certificate()["reasons"])


@of("my_layer")
def test_the_layer_is_a_projection_and_its_rule_gives_a_finite_certificate(written):
    layer = written.IntoBall(2.0).double()
    x = 3 * torch.randn(40, 5, dtype=torch.float64)
    y = layer(x)
    assert (y.norm(dim=1) <= 2.0 + 1e-14).all()
    apart = [(v[:, None] - v).norm(dim=2) for v in (y, x)]
    assert (apart[0] <= apart[1] + 1e-14).all()
    assert certificate()["lipschitz"] < 1e9
    assert certificate()["reasons"] == []
    assert certificate()["lower_bound"] <= certificate()["lipschitz"]


@of("my_data")
def test_the_data_set_gives_its_facts_to_the_model_and_refuses_nonsense(written):
    model = create_model("local-dir:run")
    assert (model.in_features, model.num_classes) == (2, 2)
    assert model.default_cfg["label_names"] == ["inner", "outer"]
    assert len(json.loads(Path("run", "data.json").read_text())["sha256"]) == 3
    with pytest.raises(ValueError, match="size=1"):
        data_sets.build("my_rings", size=1)


@of("my_method")
def test_the_method_trains_one_factor_and_merges_into_dense_weights(written):
    model = create_model("local-dir:run").eval()
    structure = model.trunk.branches[0][0].structure
    assert structure.rank == 2
    trained = {name for name, p in structure.named_parameters() if p.requires_grad}
    assert trained == {"left"}
    assert structure.left.any()
    x = torch.randn(4, 64)
    with torch.no_grad():
        before = model(x)
        merge_lowrank(model)
        # Two sums of up to 64 products each, in float32.
        assert_close_in_scale(model(x), before, 1e-5)
    assert certificate()["lipschitz"] < 1e9


@of("my_callback")
def test_the_callback_logs_and_a_run_that_goes_on_has_it_and_its_state(written):
    with open(Path("run", "metrics.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    logged = {
        split: {int(row["step"]): row for row in rows if row["split"] == split}
        for split in ("train", "validation")
    }
    average = 0.0
    for step in (1, 2, 3, 4):  # the run was stopped after the second
        average = 0.5 * average + 0.5 * float(logged["train"][step]["loss"])
        told = float(logged["validation"][step]["smooth_loss"])
        assert told == pytest.approx(average / (1.0 - 0.5**step), rel=1e-6)
