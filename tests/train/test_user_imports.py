"""A file outside the checkout brings parts of its own to every command, and nothing else does."""

import json
import sys
from pathlib import Path

import pytest
from archzoo.train.callbacks import callbacks
from archzoo.train.data import data_sets
from archzoo.train.errors import RunError
from archzoo.train.run import run
from archzoo.train.user_imports import import_given
from archzoo.zoo import create_model, residuals, save_model
from archzoo.zoo.axes.lowrank import methods
from archzoo.zoo.models import heads, models
from archzoo.zoo.user_modules import import_modules, modules_of

from .command_line import call
from .small_runs import configure, train

DATA = '''
import torch
from archzoo.train.data import ArrayFold, Splits, data_sets


@data_sets.register(kind="features", source="drawn here")
def half_planes(size: int = 64) -> Splits:
    """Points of the plane, on one side of a line or on the other."""

    def fold(seed: int) -> ArrayFold:
        x = torch.randn(size, 2, generator=torch.Generator().manual_seed(seed))
        return ArrayFold(x, (x.sum(1) > 0).long())

    return Splits("features", (2,), 2, fold(0), fold(1), fold(2))
'''
CALLBACK = '''
from archzoo.train.callbacks import Callback, callbacks


@callbacks.register(name="count_steps")
class CountSteps(Callback):
    """Writes the number of the last step, times a factor.

    Args:
        factor: What it is multiplied by.
    """

    def __init__(self, factor: int = 1) -> None:
        self.factor = factor

    def end(self, run, model) -> None:
        run.write_text("steps.txt", str(run.step * self.factor))
'''
MODEL = '''
from archzoo.layers.lowrank import LowRank
from archzoo.layers.residual import Add
from archzoo.zoo import register_model, residuals
from archzoo.zoo.axes.lowrank import methods
from archzoo.zoo.backbones.mlp import MLP, mlp_nano


@residuals.register(name="halved", source="https://example.org/halved")
class Halved(Add):
    """The sum of the stream and half of each branch output."""

    equals_prenorm_at_init = False

    def write(self, state, site, y, context):
        return super().write(state, site, y / 2, context)


@methods.register(name="rank_two", source="A. Author (1983)")
class RankTwo(LowRank):
    """Two components in every weight."""

    def __init__(self, *, rank: int = 2) -> None:
        super().__init__(rank=rank, total_steps=100)


@register_model(source="B. Author (1983)", kind="features", extends=mlp_nano)
def mlp_of_mine(depth: int = 3, **options) -> MLP:
    """A residual MLP of three branches."""
    return mlp_nano(depth=depth, **options)
'''
REGISTRIES = (models, heads, residuals, methods, data_sets, callbacks)


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder with a module of each kind, which this process forgets afterwards."""
    for name, text in {"my_data": DATA, "my_callback": CALLBACK, "my_model": MODEL}.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_entries", {**registry._entries})
    yield tmp_path
    for name in ("my_data", "my_callback", "my_model", "needs", "broken", "taken"):
        sys.modules.pop(name, None)


def test_a_data_set_costs_one_file(outside):
    import_modules(["./my_data.py"])
    train(outside / "run", "data=half_planes", "data.size=40", "imports=[./my_data.py]")
    assert json.loads((outside / "run" / "result.json").read_text())["test"]["accuracy"] > 0.5
    with pytest.raises(RunError, match="data.size: value 'many'"):
        from archzoo.train.override_errors import explain_overrides

        explain_overrides(["data=half_planes", "data.size=many"])


def test_a_folder_of_the_same_name_hides_no_file(outside):
    (outside / "runs" / "my_data").mkdir(parents=True)
    sys.path.insert(0, str(outside / "runs"))
    assert import_modules(["./my_data.py"]) == [str(outside / "my_data.py")]
    assert "half_planes" in data_sets


def test_a_callback_costs_one_file(outside):
    import_modules(["./my_callback.py"])
    chosen = ["callbacks=[count_steps]", "callbacks.count_steps.factor=3"]
    train(outside / "run", *chosen, "imports=[./my_callback.py]")
    assert (outside / "run" / "steps.txt").read_text() == "36"


def test_a_model_names_the_modules_that_it_cannot_be_built_without(outside):
    assert modules_of("mlp_nano", {"residual": "attnres", "lowrank": "trp"}) == []
    import_modules(["./my_model.py"])
    for name, options in {
        "mlp_of_mine": {},
        "mlp_nano": {"residual": {"name": "halved"}},
        "mlp_small": {"lowrank": "rank_two"},
    }.items():
        assert modules_of(name, options) == ["my_model"]
        save_model(create_model(name, **options), name)
        assert json.loads(Path(name, "config.json").read_text())["imports"] == ["my_model"]
        assert create_model(f"local-dir:{name}").recipe.name == name


def test_loading_imports_nothing_and_says_what_is_missing(outside, monkeypatch):
    import_modules(["./my_model.py"])
    save_model(create_model("mlp_of_mine"), "saved")
    save_model(create_model("mlp_nano", residual="halved"), "halved")
    monkeypatch.delitem(sys.modules, "my_model")
    monkeypatch.delitem(models._entries, "mlp_of_mine")
    monkeypatch.delitem(residuals._entries, "halved")
    for name in ("saved", "halved"):
        with pytest.raises(ValueError, match=r"was made with imports=\[my_model\]: put it on") as e:
            create_model(f"local-dir:{name}")
        assert "\n" not in str(e.value)
    assert "my_model" not in sys.modules


def test_a_module_is_imported_once_however_it_is_named(outside):
    whole = str(outside / "my_data.py")
    assert import_modules(["./my_data.py", whole, "my_data"]) == [whole, whole, "my_data"]
    assert "half_planes" in data_sets


REFUSED = {
    "my_dta": r"imports=\[my_dta\]: there is no module my_dta: put it on PYTHONPATH",
    "my_data": r"there is no module my_data: write imports=\[./my_data.py\]",
    "./gone.py": r"imports=\[./gone.py\]: there is no file .*gone.py: put it back, or name it",
    "./random.py": "another module is called random: rename the file",
    "./my-data.py": "my-data is no name that Python can import: rename the file",
    "./needs.py": "No module named 'not_installed'",
    "./broken.py": "broken.py, line 1",
    "./taken.py": "the residual name 'add' is taken by archzoo.layers.residual.add; choose another",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_module_that_cannot_be_imported_is_named_in_one_line(name, outside):
    for other in ("random", "my-data"):
        (outside / f"{other}.py").write_text("")
    (outside / "needs.py").write_text("import not_installed")
    (outside / "broken.py").write_text("def")
    taken = "from archzoo.zoo import residuals\nresiduals.register(name='add')(type('A', (), {}))"
    (outside / "taken.py").write_text(taken)
    with pytest.raises(RunError, match=REFUSED[name]) as caught:
        import_given([f"imports=[{name}]"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["imports=my_data", "imports=my_data,other", "imports=[", "imports="]
)
def test_imports_is_a_list(text):
    with pytest.raises(RunError, match=r"imports is a list, such as imports=\[my_module"):
        import_given(["model=mlp_nano", text])


def test_a_run_remembers_its_modules_and_says_which_is_missing(outside):
    folder = outside / "run"
    import_modules(["./my_data.py"])
    train(folder, "data=half_planes", "imports=[./my_data.py]")
    recorded = configure(f"resume={folder}", folder=folder)
    (outside / "my_data.py").rename(outside / "moved.py")
    said = rf"{folder} was trained with imports=\[.*my_data.py\]: there is no file"
    with pytest.raises(RunError, match=said):
        run(recorded, given=["resume"])


SCRIPT = """
from archzoo.train.commands.__main__ import main
from archzoo.zoo import create_model

try:
    create_model("local-dir:../run")
except ValueError as error:
    print(error)
few = ["steps=2", "samples=8"]
for words in [
    ["certify", "../run", "plot=false", *few],
    ["robustness", "../run", "out=[]", "device=cpu", *few],
    ["export", "../run", "exported", "parameters=0.9", "search=spectrum"],
    ["train", "resume=../run", "trainer.steps=6"],
    ["info", "mlp_of_mine", "imports=[../my_parts.py]"],
]:
    main(words)
"""
PARTS = [
    *("model=mlp_of_mine", "model.residual=halved", "lowrank=rank_two", "lowrank.rank=1"),
    *("data=half_planes", "callbacks=[ema,count_steps]", "~recipe"),
    *("trainer.epochs=null", "trainer.steps=4", "trainer.batch_size=16", "optim=adamw"),
    *("trainer.device=cpu", "logger=[csv]", "run_dir=run"),
]


@pytest.mark.slow
@pytest.mark.processes
def test_every_command_finds_the_parts_of_a_run_again(tmp_path):
    (tmp_path / "my_parts.py").write_text(DATA + CALLBACK + MODEL)
    trainer = [sys.executable, "-m", "archzoo.train"]
    done = call([*trainer, *PARTS, "imports=[./my_parts.py]"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "steps.txt").read_text() == "4"

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "commands.py").write_text(SCRIPT)
    done = call([sys.executable, "commands.py"], elsewhere)
    assert done.returncode == 0, done.stderr
    assert "was made with imports=[my_parts]: put it on PYTHONPATH and import it" in done.stdout
    for place in ("run/certificate.json", "run/robustness.json", "elsewhere/exported/export.json"):
        assert (tmp_path / place).is_file()
    assert (tmp_path / "run" / "steps.txt").read_text() == "6"
    assert "B. Author (1983)" in done.stdout
