"""A saved model is two files that rebuild it exactly; nothing is unpickled or half-written."""

import ast
import functools
import json
import resource
from pathlib import Path

import pytest
import torch
from archzoo.layers.residual import BlockAttnRes, Scaled, rezero
from archzoo.zoo import create_model, push_to_hub, save_model
from archzoo.zoo.share.save_load import load_weights, save_weights

from ..small_models import build, example, trained

ROOT = Path(__file__).parents[3]
FILES = ["config.json", "model.safetensors"]


def same(one, two):
    assert one.state_dict().keys() == two.state_dict().keys()
    for key, value in one.state_dict().items():
        assert torch.equal(two.state_dict()[key], value), key


def round_trip(model, folder):
    loaded = create_model(f"local-dir:{save_model(model, folder)}")
    same(model, loaded)
    return loaded


@pytest.fixture
def saved(tmp_path):
    """Return a folder with a saved model."""
    return save_model(trained(build("mlp_nano")), tmp_path / "saved")


# What comes back.


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp_nano", {}),
        ("mlp_nano", {"depth": 3, "width": 20, "num_classes": 3, "expansion": 1.5}),
        ("mlp_nano", {"drop_path_rate": 0.25, "num_classes": 0}),
        ("resnet_nano", {"widths": (8, 12, 16), "depths": (1, 2, 1), "residual": "attnres"}),
        ("vit_nano", {"registers": 2, "global_pool": "avg", "qk_norm": True}),
        ("gpt_nano_block_attnres", {"residual": "add", "num_classes": None}),
        ("mlp_nano", {"residual": {"name": "block_attnres", "block_size": 2}}),
        ("mlp_nano", {"residual": {"name": "layer_scale", "initial": None}}),
        ("mlp_nano", {"residual": functools.partial(BlockAttnRes, num_blocks=2)}),
        ("mlp_nano", {"residual": functools.partial(Scaled, learned=True, count="blocks")}),
        ("mlp_nano", {"residual": rezero}),
    ],
)
def test_changed_keywords_come_back(name, options, tmp_path):
    model = trained(build(name, **options))
    loaded = round_trip(model, tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == FILES
    x = example(name)
    torch.testing.assert_close(loaded.eval()(x), model.eval()(x), rtol=0.0, atol=0.0)
    assert repr(loaded) == repr(model)


def test_the_config_holds_the_name_and_what_was_changed_and_nothing_else(tmp_path):
    residual = functools.partial(BlockAttnRes, num_blocks=2)
    save_model(build("mlp_nano", depth=2, width=16, residual=residual), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert len(config.pop("model.safetensors")) == 64  # the digest of the weights
    assert config == {
        "name": "mlp_nano",
        "options": {"width": 16, "residual": {"name": "block_attnres", "num_blocks": 2}},
    }


@pytest.mark.parametrize("num_classes", [0, 7])
@pytest.mark.parametrize("name", ["mlp_nano", "gpt_nano", "resnet_nano", "vit_nano"])
def test_a_replaced_head_comes_back(name, num_classes, tmp_path):
    model = build(name)
    model.reset_classifier(num_classes)
    assert round_trip(model, tmp_path).num_classes == num_classes


def test_a_changed_pool_comes_back(tmp_path):
    model = build("vit_nano")
    model.reset_classifier(3, "avg")
    assert round_trip(model, tmp_path).global_pool == "avg"
    with pytest.raises(ValueError, match="global_pool must be one of 'token', 'avg', '', got"):
        model.reset_classifier(3, "max")
    with pytest.raises(ValueError, match="MLP has no choice of global_pool, got 'avg'"):
        build("mlp_nano").reset_classifier(3, "avg")


def test_a_loaded_model_can_be_saved_again(saved, tmp_path):
    again = save_model(create_model(f"local-dir:{saved}"), tmp_path / "again")
    for name in FILES:
        assert (again / name).read_bytes() == (saved / name).read_bytes()


def test_keywords_that_leave_the_weights_alone_may_change_on_loading(saved):
    loaded = create_model(f"local-dir:{saved}", drop_rate=0.5)
    assert loaded.recipe == ("mlp_nano", {"drop_rate": 0.5})
    same(loaded, create_model(f"local-dir:{saved}"))


def test_a_save_replaces_an_older_one(saved):
    other = trained(build("mlp_nano", depth=3), seed=1)
    same(create_model(f"local-dir:{save_model(other, saved)}"), other)
    assert sorted(path.name for path in saved.iterdir()) == FILES


# What is refused.


def test_a_model_without_a_recipe_is_refused(tmp_path):
    from archzoo.zoo.backbones.mlp import MLP

    with pytest.raises(ValueError, match="only a model made by create_model can be saved"):
        save_model(MLP(), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_residual_without_a_name_is_refused(tmp_path):
    class Mine(Scaled):
        pass

    model = build("mlp_nano", residual=Mine)
    with pytest.raises(ValueError, match="Mine.*not a registered mechanism"):
        save_model(model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_missing_folder_or_file_is_named(saved):
    with pytest.raises(ValueError, match="no saved model in .*nowhere: config.json is missing"):
        create_model(f"local-dir:{saved.parent / 'nowhere'}")
    (saved / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no weights at .*saved/model.safetensors"):
        create_model(f"local-dir:{saved}")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[1, 2]",
        b"null",
        b'"mlp_nano"',
        b"{}",
        b'{"name": "mlp_nano"}',
        b'{"name": "mlp_nano", "options": null}',
        b'{"name": "mlp_nano", "options": 3}',
        b'{"name": ["mlp_nano"], "options": {}}',
        b'{"name": "mlp_nano", "options": {"depht": 3}}',
        b'{"name": "mlp_nano", "options": {"depth": "three"}}',
        b'{"name": "mlp_nano", "options": {"residual": {"name": "ad"}}}',
        b'{"name": "mlp_nano", "options": {"residual": {"name": []}}}',
    ],
    ids=str,
)
def test_a_damaged_config_is_named(saved, content):
    (saved / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"saved/config\.json"):
        create_model(f"local-dir:{saved}")


def test_a_model_of_another_version_is_named(saved):
    (saved / "config.json").write_text('{"name": "mlp_huge", "options": {}}')
    with pytest.raises(ValueError, match="saved/config.json names the model 'mlp_huge'"):
        create_model(f"local-dir:{saved}")


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_weights_are_named(saved, size):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"saved/model\.safetensors is damaged"):
        create_model(f"local-dir:{saved}")


@pytest.mark.parametrize("options", [{"width": 16}, {"depth": 3}, {"residual": "attnres"}], ids=str)
def test_weights_of_another_architecture_are_named(saved, options):
    with pytest.raises(ValueError, match=r"saved/model\.safetensors holds weights of another"):
        create_model(f"local-dir:{saved}", **options)


@pytest.mark.parametrize("path", ["./vit_tiny", "runs/best", "/absolute/path", "owner/name"])
def test_a_bare_path_is_refused_with_both_ways_to_write_it(path):
    with pytest.raises(ValueError) as error:
        create_model(path)
    assert f"local-dir:{path}" in str(error.value)
    assert f"hf-hub:{path}" in str(error.value)


# Writing that fails.


def fail(part):
    """Return a writer that leaves some bytes and then finds the disk full."""

    def write(model, filename, *_, **__):
        Path(filename).write_bytes(part)
        raise OSError(28, "No space left on device")

    return write


def test_a_full_disk_leaves_the_old_weights_and_no_other_file(saved, monkeypatch):
    before = {name: (saved / name).read_bytes() for name in FILES}
    monkeypatch.setattr("safetensors.torch.save_model", fail(before["model.safetensors"][:50]))
    with pytest.raises(OSError, match="No space left"):
        save_model(build("mlp_nano", depth=3), saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_disk_that_fills_up_at_the_config_leaves_the_old_weights_too(saved, monkeypatch):
    before = {name: (saved / name).read_bytes() for name in FILES}

    def full(self, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(build("mlp_nano", depth=3), saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_full_disk_leaves_nothing_where_nothing_was(tmp_path, monkeypatch):
    monkeypatch.setattr("safetensors.torch.save_model", fail(b"half"))
    with pytest.raises(OSError, match="No space left"):
        save_weights(build("mlp_nano"), tmp_path / "weights.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    from archzoo.zoo.share.atomic_write import replacing

    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("ne")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and path.read_text() == "new"


def test_weights_come_back_into_a_model_of_the_same_shape(tmp_path):
    one, two = trained(build("gpt_nano")), build("gpt_nano", seed=1)
    save_weights(one, tmp_path / "weights.safetensors")
    load_weights(two, tmp_path / "weights.safetensors")
    same(one, two)
    assert two.head.weight is two.embedding.weight


# The hub, without a network.


@pytest.mark.parametrize(
    ("place", "revision"), [("someone/thing", None), ("someone/thing@v2", "v2")]
)
def test_a_hub_model_is_downloaded_and_rebuilt(saved, monkeypatch, place, revision):
    asked = []

    def snapshot_download(repo_id, **options):
        asked.append((repo_id, options))
        return str(saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    same(create_model(f"hf-hub:{place}"), create_model(f"local-dir:{saved}"))
    assert asked == [("someone/thing", {"revision": revision, "allow_patterns": FILES})]


def test_pushing_uploads_the_two_files_and_a_card(monkeypatch):
    model, calls = trained(build("mlp_nano", depth=3)), []

    class Api:
        def create_repo(self, repo_id, **options):
            calls.append(("create", repo_id, options))

        def file_exists(self, repo_id, name):
            return False

        def upload_folder(self, *, repo_id, folder_path):
            files = sorted(path.name for path in Path(folder_path).iterdir())
            same(create_model(f"local-dir:{folder_path}"), model)
            calls.append(("upload", repo_id, files))
            return "commit address"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert push_to_hub(model, "someone/thing", private=True) == "commit address"
    assert calls == [
        ("create", "someone/thing", {"private": True, "exist_ok": True}),
        ("upload", "someone/thing", ["README.md", *FILES]),
    ]


def test_a_model_that_is_refused_leaves_no_repository(monkeypatch):
    class Api:
        def create_repo(self, repo_id, **options):
            raise AssertionError("nothing is made on the hub")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    model = build("mlp_nano")
    model.head = torch.nn.Linear(32, 7)
    with pytest.raises(ValueError, match="head.out_features is 7 where the recipe has 10"):
        push_to_hub(model, "someone/thing")


def unpicklers(tree):
    """Return what a source could unpickle with: modules, `torch.load`, `torch.save`."""
    banned = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in banned]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found += [node.module] if node.module.split(".")[0] in banned else []
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            call = f"{node.value.id}.{node.attr}"
            found += [call] if call in ("torch.load", "torch.save") else []
    return found


@pytest.mark.parametrize("folder", ["layers", "zoo"])
def test_nothing_is_ever_unpickled(folder):
    paths = list((ROOT / folder).rglob("*.py"))
    assert paths
    assert {
        path.name: found for path in paths if (found := unpicklers(ast.parse(path.read_text())))
    } == {}


def test_the_search_for_unpicklers_finds_them():
    source = "import pickle\nfrom joblib import load\nimport torch\ntorch.load('x')"
    assert unpicklers(ast.parse(source)) == ["pickle", "joblib", "torch.load"]


@pytest.mark.parametrize("learned", [False, True])
def test_a_saved_model_keeps_its_curvature_and_an_old_folder_that_of_its_recipe(tmp_path, learned):
    from safetensors.torch import load_file, save_file

    ball = {"curvature": 0.1157, "learned_curvature": learned}
    model = create_model("poincare_mlp_nano", **ball)
    save_model(model, tmp_path)
    again = create_model(f"local-dir:{tmp_path}", curvature=0.7)
    assert again.head.curvature.initial == 0.1157
    weights = load_file(tmp_path / "model.safetensors")
    old = {k: v for k, v in weights.items() if not k.endswith("_extra_state")}
    assert len(old) < len(weights)
    save_file(old, tmp_path / "model.safetensors")
    assert create_model(f"local-dir:{tmp_path}").head.curvature.initial == 0.1157
    with pytest.raises(ValueError, match="does not say in which ball its weights lie"):
        create_model(f"local-dir:{tmp_path}", curvature=0.7)


def test_a_model_whose_layers_do_not_fit_is_neither_built_nor_certified(monkeypatch):
    from types import SimpleNamespace

    from archzoo.layers.hyperbolic import PoincareLinear
    from archzoo.zoo import certify
    from torch import nn

    mine = nn.Sequential(PoincareLinear(4, 4, output="velocity"), nn.ReLU(), PoincareLinear(4, 4))
    entry = SimpleNamespace(check=lambda _: None, build=lambda: mine, options={})
    monkeypatch.setattr("archzoo.zoo.models.models", {"mine": entry})
    for refused in (lambda: create_model("mine"), lambda: certify(mine, torch.randn(2, 4))):
        with pytest.raises(ValueError, match="reads input='tangent', but '0' before it returns"):
            refused()


def test_a_flipped_bit_of_a_saved_weight_is_noticed(tmp_path):
    model = create_model("mlp_nano")
    with torch.no_grad():
        model.head.bias.fill_(1.5)
    save_model(model, tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    place = content.index(model.head.bias.detach().numpy().tobytes())
    (tmp_path / "model.safetensors").write_bytes(content[:place] + b"\x01" + content[place + 1 :])
    with pytest.raises(ValueError, match="is damaged: its weights are not those that"):
        create_model(f"local-dir:{tmp_path}")


def test_weights_without_a_digest_are_those_of_an_earlier_version(tmp_path):
    from safetensors.torch import save_model as write

    model = create_model("gpt_nano")
    save_model(model, tmp_path)
    write(model, str(tmp_path / "model.safetensors"))
    again = create_model(f"local-dir:{tmp_path}")
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


def test_a_disk_that_refuses_weights_is_an_error_of_the_disk(tmp_path):
    save_model(create_model("mlp_nano"), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError):
            save_model(create_model("mlp_nano"), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "model.safetensors").read_bytes() == before
