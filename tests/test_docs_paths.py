"""What the pages name is there: files, modules, links, and the arrows of the drawing."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOT_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = [*ROOT_PAGES, *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
FOLDERS = ("layers", "zoo", "train", "conf", "tests", "benchmarks", "docs")
PLACE = re.compile(rf"(?<![\w/.])(?:{'|'.join(FOLDERS)})/[\w/.*-]*|(?<![\w/.])[\w-]+/[\w/-]+\.py\b")
MODULE = re.compile(r"\barchzoo(?:\.\w+)+")
LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")
CODE = re.compile(r"^```.*?^```$", re.M | re.S)


def is_there(dotted: str) -> bool:
    """Whether a dotted name is a module of ours, or a word in the deepest one that it names."""
    place, parts = ROOT, dotted.split(".")[1:]
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    if parts and (place / f"{parts[0]}.py").is_file():
        place = place / f"{parts.pop(0)}.py"
    if place == ROOT:
        return False
    file = place / "__init__.py" if place.is_dir() else place
    words = set(re.findall(r"\w+", file.read_text()))
    return all(part in words for part in parts)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_exists(page):
    named = {place.rstrip(".") for place in PLACE.findall((ROOT / page).read_text())}
    assert [place for place in sorted(named) if not list(ROOT.glob(place))] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_module_that_a_page_names_exists(page):
    named = set(MODULE.findall((ROOT / page).read_text()))
    assert [name for name in sorted(named) if not is_there(name)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_within_the_pages_leads_somewhere(page):
    for target, anchor in LINK.findall((ROOT / page).read_text()):
        there = (ROOT / page).parent / target if target else ROOT / page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


def test_a_name_that_is_gone_is_found():
    assert PLACE.findall("`zoo/gone.py`, lib/gone.py, conf/gone/ and a/b") == [
        "zoo/gone.py",
        "lib/gone.py",
        "conf/gone/",
    ]
    assert is_there("archzoo.zoo.models.heads")
    assert not is_there("archzoo.zoo.model.heads")
    assert not is_there("archzoo.zoo.models.tails")
    assert not is_there("archzoo.gone")


def test_the_layout_lists_the_folders_that_there_are():
    page = (ROOT / "docs/architecture.md").read_text()
    layout = re.search(r"## Layout\n\n```\n(.*?)```", page, re.S)
    assert layout is not None
    told, inside = {}, ""
    for line in layout[1].splitlines():
        if not line.startswith(" "):
            inside = line.partition("/")[0]
            assert (ROOT / inside).is_dir()
        else:
            told[inside] = {name for name in re.findall(r"\b([a-z]\w*)/", line)}
    assert told == {
        top: {p.parent.name for p in ROOT.glob(f"{top}/[a-z]*/__init__.py")}
        for top in ("layers", "zoo", "train")
    }


def room(path: Path) -> str:
    """The folder of a file, two levels deep at most."""
    parts = path.relative_to(ROOT).parts
    return (
        "/".join(parts[:2]) if len(parts) > 1 and ROOT.joinpath(*parts[:2]).is_dir() else parts[0]
    )


def arrows() -> set[tuple[str, str]]:
    """Which folder imports which."""
    found = set()
    for path in (p for top in ("layers", "zoo", "train") for p in (ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                place = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                found.add((room(path.parent), room(place)))
    return found


def test_the_drawing_has_every_folder_and_no_arrow_without_an_import():
    drawing = re.search(r"```mermaid\n(.*?)```", (ROOT / "docs/architecture.md").read_text(), re.S)
    assert drawing is not None
    boxes = dict(re.findall(r'(\w+)\["([\w/]+)<br/>', drawing[1]))
    packages = [
        p.parent for top in ("layers", "zoo", "train") for p in ROOT.glob(f"{top}/**/__init__.py")
    ]
    assert sorted(boxes.values()) == sorted({room(p) for p in packages} | {"conf"})
    imported = arrows()
    for start, ends in re.findall(r"^  (\w+) --> (.*)$", drawing[1], re.M):
        for end in ends.split(" & "):
            assert (boxes[start], boxes[end]) in imported, f"{start} --> {end}"
