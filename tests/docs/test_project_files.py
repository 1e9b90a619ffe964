"""The citation, the changelog and the list of pages say what the project says elsewhere."""

import re
import tomllib
from typing import Any

import yaml

from ..reference import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# The keys of version 1.2.0 of the Citation File Format that a file of software may have.
KEYS = {
    *("abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi"),
    *("identifiers", "keywords", "license", "license-url", "message", "preferred-citation"),
    *("references", "repository", "repository-artifact", "repository-code", "title", "type"),
    *("url", "version"),
}
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def test_the_citation_is_valid_and_of_this_version():
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert found.keys() <= KEYS
    assert found["cff-version"] == "1.2.0"
    assert found["type"] == "software"
    assert found["message"] and found["title"] == PROJECT["name"]
    assert found["version"] == PROJECT["version"]
    assert found["license"] == PROJECT["license"]
    assert found["authors"]
    for author in found["authors"]:
        assert {"name"} <= author.keys() or {"family-names", "given-names"} <= author.keys()
    assert all(isinstance(word, str) for word in found["keywords"])


def test_the_changelog_has_the_form_of_keep_a_changelog_and_this_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert text.startswith("# Changelog\n")
    versions = re.findall(r"^## (.*)$", text, re.M)
    assert versions[0] == "[Unreleased]"
    for version in versions[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version)
    assert PROJECT["version"] in text
    assert set(re.findall(r"^### (.*)$", text, re.M)) <= set(KINDS)


def pages_in(nav: Any) -> set[str]:
    """The pages that a navigation names."""
    if isinstance(nav, str):
        return {nav}
    parts = nav.values() if isinstance(nav, dict) else nav
    return {page for part in parts for page in pages_in(part)}


def test_the_site_has_every_page():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    named = pages_in(site["nav"])
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= named
    folders = {page.removeprefix("api/").removesuffix(".md") for page in named if "/" in page}
    assert {f"layers.{p.parent.name}" for p in ROOT.glob("layers/[a-z]*/__init__.py")} <= folders


def test_the_readme_can_be_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
