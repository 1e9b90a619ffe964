"""Libraries of compiled kernels: built once, loaded whole or not at all, switched off by a word."""

import subprocess
import sys

import pytest
from archzoo.layers import _kernels
from archzoo.layers._kernels import load_kernels

from ...train.command_line import environment

FAMILIES = ["attnres", "delta", "poincare"]
families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def load_anew(monkeypatch):
    """The loader, without what this process has loaded already."""
    monkeypatch.setattr(_kernels, "_provide", _kernels._provide.__wrapped__)
    return load_kernels.__wrapped__


@families
def test_kernels_can_be_switched_off(load_anew, monkeypatch, family):
    monkeypatch.setenv("ARCHZOO_KERNELS", "0")
    assert not load_anew(family)


@families
def test_a_failed_build_says_so_in_one_line_and_leaves_nothing(
    load_anew, monkeypatch, tmp_path, caplog, family
):
    def fail(*arguments, **options):
        raise RuntimeError("no compiler here\nand many more lines")

    monkeypatch.setenv("ARCHZOO_KERNELS", "1")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))  # an empty cache
    monkeypatch.setattr("torch.utils.cpp_extension.load", fail)
    assert not load_anew(family)
    (record,) = [r for r in caplog.records if r.name == "archzoo"]
    assert record.getMessage() == (
        f"no compiled {family} kernels, plain PyTorch runs instead: no compiler here"
    )
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_family_without_a_source_says_so_in_one_line(load_anew, monkeypatch, caplog):
    monkeypatch.setenv("ARCHZOO_KERNELS", "1")
    assert not load_anew("no_such_family")
    (record,) = [r for r in caplog.records if r.name == "archzoo"]
    assert "plain PyTorch runs instead: no C++ source in" in record.getMessage()


LOADS = """
from archzoo.layers._kernels import load_kernels

assert load_kernels("delta")
"""


@pytest.mark.processes
@pytest.mark.skipif(not load_kernels("delta"), reason="no compiler, and then no kernels")
@pytest.mark.slow
@pytest.mark.parametrize("damage", ["half", "flipped", "empty"])
def test_a_library_that_is_not_whole_is_built_anew_and_kills_nobody(tmp_path, damage):
    place = environment(tmp_path / "path") | {"TORCH_EXTENSIONS_DIR": str(tmp_path / "cache")}
    load = [sys.executable, "-c", LOADS]
    subprocess.run(load, env=place, check=True, timeout=250)
    (library,) = (tmp_path / "cache" / "archzoo").glob("*.so")
    whole = library.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    library.write_bytes({"half": whole[:middle], "flipped": flipped, "empty": b""}[damage])
    subprocess.run(load, env=place, check=True, timeout=250)
    assert any(path.stem.endswith(_kernels._digest(path)) for path in library.parent.glob("*.so"))
