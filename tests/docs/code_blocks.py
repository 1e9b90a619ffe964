"""The fenced blocks of a page, with what stands above them."""

import ast
import builtins
import re
from dataclasses import dataclass
from pathlib import Path

from ..reference import ROOT

__all__ = ["PAGES", "Block", "blocks", "unresolved"]

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n\n)?^```(?P<kind>[^\n]*)\n(?P<text>.*?)^```$",
    re.M | re.S,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        page: Where it stands.
        line: The line of its first character.
        kind: What stands behind the fence, such as `python`.
        text: What it holds.
        reason: Why it is not run, or None.
    """

    page: Path
    line: int
    kind: str
    text: str
    reason: str | None

    @property
    def place(self) -> str:
        """The page and the line, as a traceback names them."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, kind: str) -> list[Block]:
    """The blocks of one kind on a page, in order."""
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        found.append(Block(page, line, match["kind"], match["text"], match["reason"]))
    return [block for block in found if block.kind == kind]


def unresolved(source: str) -> set[str]:
    """The names that a piece of code reads and neither binds, imports nor finds among builtins."""
    read, bound = set(), set(dir(builtins))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
    return read - bound
