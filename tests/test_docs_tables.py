"""What the docs list by name is what is registered."""

import re
from pathlib import Path

import pytest
from archzoo.zoo import residuals
from archzoo.zoo.axes.lowrank import methods

from . import weights_page
from .reference import PAGE, ROOT, linked, page

TABLES = {
    "README.md": ("| `residual=` |", residuals),
    "docs/lowrank.md": ("| `lowrank=` |", methods),
}


def rows(path: Path, head: str) -> list[list[str]]:
    """The rows of the table that begins with a head."""
    lines = path.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(head)) + 2
    found = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_the_page_of_names_is_what_the_registries_say():
    assert PAGE.read_text() == page(), "write it anew with python -m tests.reference"


def test_the_page_of_weights_is_what_the_cards_say_and_was_found_again():
    told = weights_page.PAGE.read_text()
    assert told == weights_page.page(), "write it anew with python -m tests.weights_page"
    assert "not measured" not in told, "measure with python benchmarks/pretrained.py --keep"


@pytest.mark.parametrize("place", TABLES)
def test_a_table_has_a_row_for_every_name_and_for_nothing_else(place):
    head, registry = TABLES[place]
    named = [name for row in rows(ROOT / place, head) for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(named) == sorted(registry.names())


@pytest.mark.parametrize("place", TABLES)
def test_a_row_has_the_sources_of_what_it_names_and_no_others(place):
    head, registry = TABLES[place]
    for first, *_, told in rows(ROOT / place, head):
        for name in re.findall(r"`(\w+)`", first):
            assert linked(registry[name].source) in told, name
        sources = " ".join(registry[name].source for name in re.findall(r"`(\w+)`", first))
        assert {*re.findall(r"abs/([\d.]+)", told)} == {*re.findall(r"arXiv:([\d.]+)", sources)}
