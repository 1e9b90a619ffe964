"""What MkDocs is told beyond its configuration: pages from outside docs/, the API, the drawing.

The README is the home page; CONTRIBUTING.md and CHANGELOG.md are pages. A page of the API lists
what a package hands out; docstrings are read without importing. The drawing of the architecture
becomes a table, since a browser without a network has no Mermaid.
"""

import ast
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "build" / "site-source" / "archzoo"
OUTSIDE = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
# Links that leave docs/ and have no page.
ELSEWHERE = ("CITATION.cff",)
# What the theme would fetch to search pages that are read from a file, and what does it here.
FETCHED, OURS = "https://unpkg.com/iframe-worker/shim", "site/worker.js"


def on_startup(**_: Any) -> None:
    """Lay out the package under its import name, for the reader of docstrings."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for folder in ("layers", "zoo", "train"):
        shutil.copytree(
            ROOT / folder, SOURCE / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    (SOURCE / "__init__.py").write_text('"""A model zoo for architecture research."""\n')


def on_shutdown(**_: Any) -> None:
    """Take the layout away."""
    shutil.rmtree(SOURCE.parent, ignore_errors=True)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/, and those of the API."""
    for page, path in OUTSIDE.items():
        files.append(File.generated(config, page, content=within_site((ROOT / path).read_text())))
    shown: set[str] = set()
    for page in [name for name in titles(config.nav) if name.startswith("api/")]:
        package = page.removeprefix("api/").removesuffix(".md")
        files.append(File.generated(config, page, content=api_page(package, shown)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to pages by their titles, and draw the drawing."""
    for name, path in OUTSIDE.items():
        markdown = markdown.replace(f"](../{path}", f"]({name}")
    for name, title in titles(config.nav).items():
        named = rf"\[(docs/)?{re.escape(name)}\](?=\({re.escape(name)})"
        markdown = re.sub(named, f"[{title}]", markdown)
    return re.sub(r"```mermaid\n(.*?)```", lambda found: rooms(found[1]), markdown, flags=re.S)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Search without the network, on a page that is read from a file too."""
    up = "../" * page.url.count("/")
    return output.replace(FETCHED, up + OURS)


def titles(nav: Any) -> dict[str, str]:
    """The pages that the navigation names, with their titles there."""
    if isinstance(nav, Mapping):
        found = {page: title for title, page in nav.items() if isinstance(page, str)}
        return found | titles([part for part in nav.values() if not isinstance(part, str)])
    return {page: title for part in nav for page, title in titles(part).items()}


def within_site(markdown: str) -> str:
    """A page of the root as a page of docs/: its links begin there."""
    markdown = markdown.replace("](docs/", "](")
    for name, path in OUTSIDE.items():
        markdown = markdown.replace(f"]({path}", f"]({name}")
    for path in ELSEWHERE:
        markdown = markdown.replace(f"[{path}]({path})", f"`{path}`")
    return markdown


def handed_out(package: str) -> dict[str, str]:
    """What a package hands out, by name, with the path of the module that it comes from.

    That is its `__all__`, or the names that it imports as themselves where it has none.
    """
    body = ast.parse(Path(SOURCE, *package.split("."), "__init__.py").read_text()).body
    chosen, found = None, {}
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            chosen = set(ast.literal_eval(node.value))
        elif isinstance(node, ast.ImportFrom):
            place = ".".join(filter(None, ["archzoo", package, node.module]))
            for name in node.names:
                found[name.asname or name.name] = (f"{place}.{name.name}", node.module, name.asname)
    if chosen is None:
        chosen = {name for name, (_, module, given) in found.items() if module and given}
    return {name: found[name][0] for name in sorted(chosen, key=str.lower)}


def api_page(package: str, shown: set[str]) -> str:
    """The page of a package: its docstring, then what it hands out and no page before it shows."""
    tree = ast.parse(Path(SOURCE, *package.split("."), "__init__.py").read_text())
    parts = [f"# archzoo.{package}", ast.get_docstring(tree) or ""]
    for name, path in handed_out(package).items():
        if path not in shown:
            options = f"    options:\n      heading: {name}\n      toc_label: {name}"
            parts.append(f"::: {path}\n{options}")
    shown.update(handed_out(package).values())
    return "\n\n".join(parts) + "\n"


def rooms(drawing: str) -> str:
    """The drawing of the rooms as a table: each with what it is and what it takes from."""
    boxes = re.findall(r'(\w+)\["([\w/]+)<br/>([^"]*)"\]', drawing)
    place = {box: path for box, path, _ in boxes}
    takes = dict(re.findall(r"^  (\w+) -->\s+(.*)$", drawing, re.M))
    lines = ["| room | what is there | takes from |", "| --- | --- | --- |"]
    for box, path, what in boxes:
        ends = [f"`{place[end]}`" for end in takes.get(box, "").split(" & ") if end]
        lines.append(f"| `{path}/` | {what} | {', '.join(ends)} |")
    return "\n".join(lines)
