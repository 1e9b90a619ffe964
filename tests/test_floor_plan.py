"""One subject a folder, one name a thing, and nothing taken that its owner does not hand out."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ["layers", "zoo", "train"]
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
MODULES = [path for path in FILES if path.name not in ("__init__.py", "__main__.py")]
MOST = 15  # files that a reader still takes in as one table of contents


def handed_out(path: Path) -> set[str]:
    """Return the names of a file's `__all__`, or those that a package imports as themselves."""
    body = ast.parse(path.read_text()).body
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    names = [name for node in body if isinstance(node, ast.ImportFrom) for name in node.names]
    return {name.name for name in names if name.asname == name.name}


def taken(path: Path) -> list[tuple[int, Path, str]]:
    """Return line, file or folder, and name of everything a file takes from others of ours."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            place = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            found += [(node.lineno, place, name.name) for name in node.names]
    return found


def family(place: Path) -> tuple[str, ...]:
    """Return the family of layers that a path lies in, or the folder of another."""
    parts = place.relative_to(ROOT).parts
    return parts[:2] if parts[0] == "layers" else parts[:1]


def test_no_file_name_stands_in_two_folders():
    places = defaultdict(list)
    for path in MODULES:
        places[path.name].append(str(path.parent.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_a_folder_is_a_table_of_contents():
    sizes = defaultdict(int)
    for path in MODULES:
        sizes[str(path.parent.relative_to(ROOT))] += 1
    assert {folder: size for folder, size in sizes.items() if size > MOST} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_taken_from_a_module_is_in_its_all(folder):
    past = []
    for path in FILES:
        if not path.is_relative_to(ROOT / folder):
            continue
        for line, place, name in taken(path):
            module = place.with_suffix(".py")
            source = module if module.is_file() else place / "__init__.py"
            a_module = (place / name).with_suffix(".py").is_file() or (place / name).is_dir()
            if not a_module and (not source.is_file() or name not in handed_out(source)):
                past.append(f"{path.relative_to(ROOT)}:{line} takes {name}")
    assert past == []


def test_what_is_there_for_speed_only_is_opened_by_its_own_family():
    strangers = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        for line, place, _ in taken(path)
        if "_fast" in place.parts and family(place) != family(path)
    ]
    assert strangers == []
