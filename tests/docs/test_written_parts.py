"""The tables of the pages are what the registries, the docstrings and the kept results say."""

import json

import pytest

from ..reference import ROOT
from .kept import RESULTS
from .marked import marked_pages, parts_of, with_parts
from .written import PARTS

PAGES = [str(page.relative_to(ROOT)) for page in marked_pages()]


@pytest.mark.parametrize("page", PAGES)
def test_every_written_part_of_a_page_is_what_the_script_writes(page):
    path = ROOT / page
    assert path.read_text() == with_parts(path, PARTS), "write it anew: python -m tests.reference"


def test_every_part_that_can_be_written_stands_on_a_page():
    assert {name for page in PAGES for name in parts_of(ROOT / page)} == PARTS.keys()


def test_every_finding_of_the_log_names_a_script_and_a_result_that_are_there():
    text = PARTS["negative_results"]()
    findings = text.split("### ")[1:]
    assert len(findings) >= 15
    for finding in findings:
        script, kept = finding.rpartition("(`python ")[2].split("`; kept in `")
        assert (ROOT / script).is_file()
        record = json.loads((ROOT / kept.partition("`")[0]).read_text())
        assert not record["quick"]
        assert (ROOT / kept.partition("`")[0]).parent == RESULTS
        assert finding.partition("\n\n")[2].startswith("2026-")
