"""The wheel carries every package of the tree, with its data."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ["layers", "zoo", "train", "conf"]
TABLE = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def homes() -> list[Path]:
    """Return every folder of the four that is a package."""
    return [p.parent for folder in FOLDERS for p in sorted((ROOT / folder).rglob("__init__.py"))]


def test_every_package_is_shipped_and_no_other():
    found = ["archzoo." + ".".join(home.relative_to(ROOT).parts) for home in homes()]
    assert sorted(TABLE["packages"]) == sorted(found)
    assert TABLE["package-dir"] == {"archzoo": "."}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_with_code_is_a_package(folder):
    with_code = {path.parent for path in (ROOT / folder).rglob("*.py")}
    assert with_code
    assert with_code <= set(homes())


def test_the_root_is_no_package():
    assert not (ROOT / "__init__.py").exists()


@pytest.mark.parametrize("folder", ["layers", "zoo", "train"])
def test_types_are_shipped(folder):
    assert (ROOT / folder / "py.typed").is_file()
    assert "py.typed" in TABLE["package-data"][f"archzoo.{folder}"]


def test_every_config_file_is_shipped():
    patterns = TABLE["package-data"]["archzoo.conf"]
    conf = ROOT / "conf"
    shipped = {path for pattern in patterns for path in conf.glob(pattern)}
    data = {p for p in conf.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert data and data <= shipped


def test_all_pretrained_weights_are_shipped():
    zoo = ROOT / "zoo"
    patterns = [one for one in TABLE["package-data"]["archzoo.zoo"] if "pretrained" in one]
    shipped = {path for pattern in patterns for path in zoo.glob(pattern)}
    assert shipped == {path for path in (zoo / "pretrained").rglob("*") if path.is_file()}
    assert shipped
