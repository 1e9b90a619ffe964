"""Parts of a page between `<!-- begin NAME -->` and `<!-- end NAME -->`, which a script writes."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ..reference import ROOT

__all__ = ["marked_pages", "parts_of", "with_parts"]

PART = re.compile(r"<!-- begin (\w+) -->\n(.*?)<!-- end \1 -->\n", re.S)


def marked_pages() -> Iterable[Path]:
    """Every page that holds a written part."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [page for page in pages if PART.search(page.read_text())]


def parts_of(page: Path) -> list[str]:
    """The names of the written parts of a page."""
    return [name for name, _ in PART.findall(page.read_text())]


def with_parts(page: Path, written: Mapping[str, Callable[[], str]]) -> str:
    """The text of a page with every part written anew.

    Raises:
        KeyError: the page names a part that nothing writes.
    """

    def anew(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- begin {name} -->\n\n{written[name]()}\n\n<!-- end {name} -->\n"

    return PART.sub(anew, page.read_text())
