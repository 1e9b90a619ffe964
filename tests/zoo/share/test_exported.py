"""What is exported computes what the model does, and needs nothing of this library."""

import importlib
import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from archzoo.layers.lipschitz import LipschitzLayer
from archzoo.layers.lowrank import structures
from archzoo.zoo import export_model, export_onnx, export_program, residuals
from archzoo.zoo.axes.lowrank import methods
from archzoo.zoo.share.export import deployed, onnx_file
from archzoo.zoo.share.export.parity import onnx_runner
from torch import nn

from ...close import assert_close_in_scale
from ...tiers import tiered
from ..small_models import KINDS, NANO, build, example, settled, trained

pytestmark = [pytest.mark.compiles, pytest.mark.long]

needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="the extra export is not installed"
)
TOKENS = {0: "batch", 1: "tokens"}
CONSTRUCTED = ("ldlt_mlp_nano", "sandwich_mlp_nano", "aol_mlp_nano")


def model_of(name: str, **options):
    """A model as if trained, with statistics of norms that fit, in training mode."""
    return settled(trained(build(name, **options)), example(name, 8, seed=1, **options))


def written(model: nn.Module, x: torch.Tensor, folder: Path, **how):
    """Export a model that is in training mode, and see that it still is."""
    tokens = model.recipe is not None and model.recipe.name.startswith("gpt")
    how = {"dynamic": TOKENS if tokens else {0: "batch"}, **how}
    found = export_model(model, x, folder, seconds=0.0, **how)
    assert all(module.training for module in model.modules())
    return found


@needs_onnx
@pytest.mark.parametrize("name", tiered(KINDS, ["ldlt_mlp_nano"]))
def test_every_kind_of_model_is_written_in_both_formats_and_computes_the_same(name, tmp_path):
    found = written(model_of(name), example(name, 4), tmp_path)
    assert found == json.loads((tmp_path / "export.json").read_text())
    assert {(row["runtime"], row["batch"]) for row in found["parity"]} >= {
        (runtime, batch) for runtime in ("pt2", "onnx") for batch in (1, 3, 4)
    }
    assert all(row["relative"] <= 1e-4 for row in found["parity"])
    assert {path.name for path in tmp_path.iterdir()} >= {"model.pt2", "model.onnx", "export.json"}


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(("name", "residual"), [*itertools.product(NANO, residuals.names())])
def test_every_residual_of_every_backbone_is_written(name, residual, tmp_path):
    try:
        model = model_of(name, residual=residual)
    except ValueError as refused:
        pytest.skip(str(refused))
    written(model, example(name, 4), tmp_path, decoder=False)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("method", methods.names())
@pytest.mark.parametrize("name", ["resnet_nano", "vit_nano", "ldlt_mlp_nano"])
def test_every_low_rank_method_is_written(name, method, tmp_path):
    spec = {"name": method, "rank": 2} if "rank" in methods[method].options else method
    try:
        model = model_of(name, lowrank=spec)
    except ValueError as refused:
        pytest.skip(str(refused))
    written(model, example(name, 4), tmp_path)


@pytest.mark.parametrize("name", tiered(CONSTRUCTED, ["sandwich_mlp_nano"]))
@pytest.mark.parametrize("lowrank", [None, "sltrain"])
def test_what_is_deployed_has_plain_weights_and_the_same_outputs(name, lowrank):
    model, x = model_of(name, lowrank=lowrank), example(name)
    trains = [p.requires_grad for p in model.parameters()]
    twin = deployed(model, x)
    assert not any(isinstance(part, LipschitzLayer) for part in twin.modules())
    assert not list(structures(twin)) and not any(p.requires_grad for p in twin.parameters())
    assert model.recipe is not None and [p.requires_grad for p in model.parameters()] == trains
    assert_close_in_scale(twin(x), model.eval()(x), 1e-5)  # float32, sums in another order


def test_outputs_that_differ_leave_nothing_and_say_by_how_much(tmp_path, monkeypatch):
    (tmp_path / "model.pt2").write_text("kept")
    whole = importlib.import_module("archzoo.zoo.share.export.export_model")
    loads = whole.pt2_runner
    monkeypatch.setattr(whole, "pt2_runner", lambda path: lambda x: (1.5 * loads(path)(x)[0],))
    with pytest.raises(ValueError, match=r"MLP as pt2 differs from the model by 0\.5 of its .*"):
        written(model_of("mlp_nano"), example("mlp_nano"), tmp_path, formats=["pt2"])
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    assert (tmp_path / "model.pt2").read_text() == "kept"


class Picky(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_a_module_that_stops_the_trace_is_named():
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Picky()))
    with pytest.raises(ValueError, match=r"torch.export stops at 1\.0, a Picky: "):
        export_program(model, torch.randn(2, 3))


def test_a_sample_of_one_leaves_the_batch_open():
    model = model_of("mlp_nano").eval()
    program = export_program(model, example("mlp_nano", 1)).module()
    for batch in (1, 2, 5):
        x = example("mlp_nano", batch)
        assert_close_in_scale(program(x), model(x), 1e-5)


@needs_onnx
@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_what_installs_it(name, monkeypatch, tmp_path):
    find = onnx_file.importlib.util.find_spec
    monkeypatch.setattr(
        onnx_file.importlib.util, "find_spec", lambda each: None if each == name else find(each)
    )
    with pytest.raises(ValueError, match=rf'ONNX needs {name}, .*pip install "archzoo\[export\]"'):
        export_onnx(model_of("mlp_nano"), example("mlp_nano"), tmp_path / "model.onnx")


def test_what_cannot_be_exported_is_refused_first(tmp_path):
    model, x = model_of("mlp_nano"), example("mlp_nano")
    with pytest.raises(ValueError, match="formats must name some of pt2, onnx, got .*'tflite'"):
        export_model(model, x, tmp_path, formats=["tflite"])
    with pytest.raises(ValueError, match="sample holds no inputs"):
        export_model(model, x[:0], tmp_path)


# With a cache.

CACHED = [
    *("add", "block_attnres", "scaled", "attnres", "delta_cc"),
    {"name": "delta_cc", "expand": "convolution", "compress": "tokens"},
]


@needs_onnx
@pytest.mark.parametrize("runtime", tiered(["pt2", "onnx"], ["pt2"]))
@pytest.mark.parametrize("window", tiered([None, 3], [None]))
@pytest.mark.parametrize("residual", tiered(CACHED, ["block_attnres"]))
def test_a_decoder_fed_piece_by_piece_says_what_the_model_says_of_the_whole(
    residual, window, runtime, tmp_path
):
    try:
        model = model_of("gpt_nano", residual=residual, short_window=window)
    except ValueError as refused:
        pytest.skip(str(refused))
    found = written(model, example("gpt_nano", 2), tmp_path, formats=[runtime])
    (row,) = [row for row in found["parity"] if row["runtime"] == f"{runtime} decoder"]
    assert row["relative"] <= 1e-5
    assert found["decoder"]["inputs"][:4] == ["tokens", "position", "key_0", "value_0"]


# Without this library.


@needs_onnx
@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("runtime", ["pt2", "onnx"])
def test_a_file_runs_in_a_process_that_has_no_archzoo(runtime, tmp_path):
    model, x = model_of("ldlt_mlp_nano"), example("ldlt_mlp_nano", 3)
    written(model, x, tmp_path, formats=[runtime])
    numpy = pytest.importorskip("numpy")
    numpy.savez(tmp_path / "data.npz", inputs=x, expected=model.eval()(x).detach())
    script = Path(__file__).parents[3] / "benchmarks" / "run_exported.py"
    words = [runtime, str(tmp_path / f"model.{runtime}"), str(tmp_path / "data.npz")]
    done = subprocess.run(
        [sys.executable, "-P", str(script), *words],
        cwd=tmp_path, input="", capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["archzoo"] == [] and found["torch"] is (runtime == "pt2")
    assert max(found["batches"].values()) <= 1e-4


@needs_onnx
def test_a_file_says_nothing_of_this_machine(tmp_path):
    model, x = model_of("mlp_nano"), example("mlp_nano")
    path = export_onnx(model, x, tmp_path / "model.onnx")
    assert str(Path.cwd()).encode() not in path.read_bytes()
    assert b"site-packages" not in path.read_bytes()
    assert_close_in_scale(onnx_runner(path)(x)[0], model.eval()(x).detach(), 1e-5)
    torch.export.save(export_program(model, x), tmp_path / "model.pt2")
    for name in (path.name, "model.pt2"):
        assert b".py" not in (tmp_path / name).read_bytes()
