"""Undirected graphs from text files: a list of edges, and beside it labels and features of nodes.

An edge list holds two node numbers a line, apart by blanks, a tab or a comma, plain or gzipped.
Nodes are numbered from 0. Lines that begin with # or % are comments; one that says `# 34 nodes`
tells how many nodes there are. A file NAME.tsv.gz may have beside it NAME.labels.txt, a label a
line, and NAME.features.tsv, a row of numbers a line, both in the order of the nodes. In a folder of
its own a graph is edges.tsv, labels.txt and features.tsv. Each may end in .tsv, .csv or .txt, and
in .gz after that.
"""

# Shape letters: N nodes, E edges, F features.

import gzip
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["GraphFiles", "GraphText", "find_files", "read_edges", "read_graph", "read_labels"]

ENDINGS = tuple(kind + packed for kind in (".tsv", ".csv", ".txt") for packed in ("", ".gz"))
SIZE = re.compile(r"[#%]\s*(\d+) nodes\b")
CLEAN = "mend the file, or say data.simplify=true to leave out loops and repetitions"


class GraphFiles(NamedTuple):
    """Where a graph lies: its edges and, where they exist, labels and features of its nodes."""

    edges: Path
    labels: Path | None
    features: Path | None


class GraphText(NamedTuple):
    """What the files of a graph hold.

    Edges are (E, 2), sorted, each once with the smaller node first; labels name the class of each
    node; features are (N, F). `left_out` counts loops and repetitions that were left out.
    """

    edges: Tensor
    num_nodes: int
    labels: list[str] | None
    features: Tensor | None
    left_out: int


def find_files(path: Path) -> GraphFiles:
    """Find the files of a graph, given that of its edges or its folder.

    Raises:
        ValueError: there is no edge list, or several in a folder of one graph.
    """
    if path.is_dir():
        found = [path / f"edges{end}" for end in ENDINGS if (path / f"edges{end}").is_file()]
        if len(found) != 1:
            raise ValueError(
                f"data.path={path} holds {len(found)} edge lists named edges.tsv, edges.csv or "
                f"edges.txt; keep one, or name a file: data.path=FILE"
            )
        return GraphFiles(found[0], _beside(path / "labels"), _beside(path / "features"))
    if not path.is_file():
        raise ValueError(f"data.path={path} is no file and no folder; give that of an edge list")
    stem = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    return GraphFiles(
        path, _beside(path.with_name(f"{stem}.labels")), _beside(path.with_name(f"{stem}.features"))
    )


def _beside(stem: Path) -> Path | None:
    places = (stem.with_name(stem.name + end) for end in ENDINGS)
    return next((place for place in places if place.is_file()), None)


def read_graph(path: str, *, num_nodes: int | None = None, simplify: bool = False) -> GraphText:
    """Read a graph from its edge list, or from its folder.

    Args:
        path: The edge list, or the folder.
        num_nodes: N; None is what a comment says, or as many as there are labels or features, or
            the highest number of an edge and one.
        simplify: Whether loops and repeated edges are left out, and not refused.

    Raises:
        ValueError: in one line, what is wrong in which line of which file.
    """
    files = find_files(Path(path))
    labels = None if files.labels is None else read_labels(files.labels)
    features = None if files.features is None else _read_features(files.features)
    told = {
        files.labels: None if labels is None else len(labels),
        files.features: None if features is None else len(features),
    }
    counts = {str(file): count for file, count in told.items() if count is not None}
    size = num_nodes if num_nodes is not None else next(iter(counts.values()), None)
    edges, size, left_out = read_edges(files.edges, size, simplify=simplify)
    for file, count in counts.items():
        if count != size:
            raise ValueError(
                f"{file} has {count} lines, but there are {size} nodes; give a line for each node"
            )
    return GraphText(edges, size, labels, features, left_out)


def read_edges(
    path: Path, num_nodes: int | None = None, *, simplify: bool = False
) -> tuple[Tensor, int, int]:
    """Read an edge list.

    Args:
        path: The file.
        num_nodes: N; None is what a comment says, or the highest number and one, with no gap.
        simplify: Whether loops and repetitions are left out, and not refused.

    Returns:
        The edges (E, 2), sorted, each once with the smaller node first, N, and how many lines were
        left out.

    Raises:
        ValueError: a line that is no edge, a loop, a repetition, a node beyond N, or a gap.
    """
    seen: dict[tuple[int, int], int] = {}
    left_out, told = 0, None
    for line, text in _lines(path):
        if text[0] in "#%":
            size = SIZE.match(text)
            told = told if size is None else int(size[1])
            continue
        fields = text.replace(",", " ").split()
        if len(fields) != 2 or not all(field.isdecimal() for field in fields):
            raise ValueError(
                f"{path}, line {line}: {text[:40]!r} is no edge; write two node numbers from 0 on, "
                f"and nothing else"
            )
        u, v = sorted(map(int, fields))
        if u == v or (u, v) in seen:
            if not simplify:
                what = "a loop" if u == v else f"in line {seen[u, v]} already"
                raise ValueError(f"{path}, line {line}: the edge {u} {v} is {what}; {CLEAN}")
            left_out += 1
            continue
        seen[u, v] = line
    if not seen:
        raise ValueError(f"{path} holds no edge; write two node numbers a line")
    size = told if num_nodes is None else num_nodes
    edges = torch.tensor(sorted(seen), dtype=torch.int64)
    highest = int(edges.max())
    if size is None:
        size = highest + 1
        gaps = (edges.flatten().bincount(minlength=size) == 0).nonzero().flatten().tolist()
        if gaps:
            more = f" and {len(gaps) - 1} more" if len(gaps) > 1 else ""
            raise ValueError(
                f"{path}: node {gaps[0]}{more} below the highest, {highest}, has no edge; number "
                f"nodes from 0 without gaps, or say data.num_nodes={size} if they stand alone"
            )
    if highest >= size:
        line = next(line for edge, line in seen.items() if highest in edge)
        raise ValueError(
            f"{path}, line {line}: node {highest} is not below the number of nodes, {size}; "
            f"number nodes from 0, or say data.num_nodes"
        )
    return edges, size, left_out


def read_labels(path: Path) -> list[str]:
    """Read the label of each node, a line each.

    Raises:
        ValueError: an empty line: a node of no known class.
    """
    labels = [text.strip() for _, text in _lines(path, blank=True)]
    if "" in labels:
        raise ValueError(
            f"{path}, line {labels.index('') + 1} holds no label; give every node a class, such as "
            f"'unknown'"
        )
    return labels


def _read_features(path: Path) -> Tensor:
    """Read a row of numbers for each node.

    Raises:
        ValueError: a line with something else, or of another length.
    """
    rows: list[list[float]] = []
    for line, text in _lines(path, blank=True):
        try:
            rows.append([float(field) for field in text.replace(",", " ").split()])
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}; write numbers only") from error
        if not rows[-1] or len(rows[-1]) != len(rows[0]) or not all(map(math.isfinite, rows[-1])):
            raise ValueError(
                f"{path}, line {line} must hold as many finite numbers as the first, "
                f"{len(rows[0])}, got {text[:40]!r}"
            )
    return torch.tensor(rows, dtype=torch.float32)


def _lines(path: Path, *, blank: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the number and text of every line, without its end.

    Raises:
        ValueError: the file is no text, or cut short.
    """
    opened = gzip.open if path.name.endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                line = str(text).strip()
                if line or blank:
                    yield number, line
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged: {error}; take it anew") from error
