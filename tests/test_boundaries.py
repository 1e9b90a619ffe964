"""Which folder may import which, and what an import costs."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"layers", "zoo", "train", "conf"}
ALLOWED = {
    "layers": {"layers"},
    "zoo": {"zoo", "layers"},
    "train": {"train", "zoo", "layers"},
    "conf": set(),
}
# What a folder may import from outside, beside the standard library. None: whatever it needs.
OUTSIDE = {
    # The last two on CUDA only, where they are installed.
    "layers": {"torch", "einops", "geoopt", "fla", "triton"},
    "zoo": {"torch", "einops", "timm", "safetensors", "huggingface_hub", "matplotlib", "scipy"},
    "train": None,
    "conf": set(),
}


def imports(source: str, home: tuple[str, ...]) -> list[tuple[int, tuple[str, ...], bool]]:
    """Return line, dotted target and whether it is one of ours, for every import of a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, tuple(a.name.split(".")), False) for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = home[: len(home) - node.level + 1]
            target = (*base, *(node.module or "").split("."))
            # `from .. import zoo` names the folder only in what it imports.
            names = [node.module] if node.module else [a.name for a in node.names]
            targets = [target] if node.module else [(*base, name) for name in names]
            found += [(node.lineno, t, True) for t in targets]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, tuple(node.module.split(".")), False))
    return found


def files(folder: str) -> list[tuple[Path, list[tuple[int, tuple[str, ...], bool]]]]:
    """Return every file of a folder with its imports."""
    return [
        (path, imports(path.read_text(), path.relative_to(ROOT).parent.parts))
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def test_an_import_is_found_in_every_way_of_writing_it():
    source = (
        "import a.b\nfrom c.d import e\nfrom .f import g\nfrom ..zoo import h\nfrom .. import i"
    )
    assert imports(source, ("layers", "residual")) == [
        (1, ("a", "b"), False),
        (2, ("c", "d"), False),
        (3, ("layers", "residual", "f"), True),
        (4, ("layers", "zoo"), True),
        (5, ("layers", "i"), True),
    ]
    assert imports("from ...zoo import h", ("layers", "residual")) == [(1, ("zoo",), True)]
    assert imports("from ... import zoo", ("layers", "residual")) == [(1, ("zoo",), True)]


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_imports_only_what_it_may_of_ours(folder):
    assert files(folder)
    for path, found in files(folder):
        for line, target, ours in found:
            if ours:
                assert target[0] in ALLOWED[folder], f"{path.name}:{line} imports {target[0]}"


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_names_its_neighbours_relatively(folder):
    for path, found in files(folder):
        for line, target, ours in found:
            assert ours or target[0] not in OURS | {"archzoo", "tests"}, f"{path.name}:{line}"


@pytest.mark.parametrize("folder", [name for name, known in OUTSIDE.items() if known is not None])
def test_a_folder_imports_only_what_it_may_of_others(folder):
    known = OUTSIDE[folder] | sys.stdlib_module_names
    for path, found in files(folder):
        for line, target, ours in found:
            assert ours or target[0] in known, f"{path.name}:{line} imports {target[0]}"


def test_layers_use_geoopt_in_the_hyperbolic_folder_only():
    for path, found in files("layers"):
        users = [line for line, target, _ in found if target[0] == "geoopt"]
        assert not users or "hyperbolic" in path.parts, f"{path.name}:{users[0]}"


# What is written for speed: gradients by hand, and compiled code that is asked for or called.
BY_HAND = ("autograd.Function", "torch.ops.", "kernel_takes", "load_kernels", "through_definition")


@pytest.mark.parametrize("family", ["hyperbolic", "residual"])
def test_what_is_written_for_speed_stands_in_a_room_of_its_own(family):
    written = {
        path: any(word in path.read_text() for word in BY_HAND)
        for path in (ROOT / "layers" / family).rglob("*.py")
    }
    assert {
        path.name for path, by_hand in written.items() if by_hand and "_fast" not in path.parts
    } == set()
    assert sum(written.values()) > 2


def run(code: str, **options) -> subprocess.CompletedProcess:
    """Run a line of Python in a process of its own."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.processes
@pytest.mark.parametrize("folder", ["zoo", "train"])
def test_a_plain_import_from_the_checkout_says_what_to_import_instead(folder):
    result = run(f"import {folder}", cwd=ROOT)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError:") and f"import archzoo.{folder}, not {folder}" in last


# A checkout that is not installed is importable in these processes as it is in the suite.
SETUP = f"""
import importlib.util, json, sys, types
if importlib.util.find_spec("archzoo") is None:
    archzoo = types.ModuleType("archzoo")
    archzoo.__path__ = [{str(ROOT)!r}]
    sys.modules["archzoo"] = archzoo
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("archzoo.layers.residual", {"timm", "torchvision", "geoopt", "archzoo.zoo"}),
        (
            "archzoo.zoo",
            {"timm", "torchvision", "geoopt", "hydra", "huggingface_hub", "matplotlib"},
        ),
    ],
)
def test_an_import_does_not_load_what_takes_seconds(module, heavy, tmp_path):
    code = f"{SETUP}\nimport {module}\nprint(json.dumps(sorted(sys.modules)))"
    result = run(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    loaded = set(json.loads(result.stdout))
    assert module in loaded
    assert heavy & loaded == set()
