"""The import graph of layers, zoo and train: `python -m tests.import_graph [--cycles] [REVISION]`.

A room is a module, an arrow one room that takes something from another, a floor one step of the
longest chain of arrows inside a folder. A package's `__init__.py` is a door and no room: what is
taken through it is followed to the room it comes from. An arrow returns when it leads to a folder
from which arrows lead back.
"""

import argparse
import ast
import functools
import subprocess
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("layers", "zoo", "train")

Arrows = dict[Path, dict[Path, list[int]]]


@functools.cache
def parsed(path: Path) -> ast.Module:
    """The tree of a file."""
    return ast.parse(path.read_text())


def handed_out(path: Path) -> set[str]:
    """Return the names of a file's `__all__`, or those that a package imports as themselves."""
    body = parsed(path).body
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    names = [name for node in body if isinstance(node, ast.ImportFrom) for name in node.names]
    return {name.name for name in names if name.asname == name.name}


def taken(path: Path) -> list[tuple[int, Path, str]]:
    """Return line, file or folder, and name of everything a file takes from others of ours."""
    found = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            place = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            found += [(node.lineno, place, name.name) for name in node.names]
    return found


def past_all(files: Iterable[Path]) -> list[tuple[Path, int, str]]:
    """Return file, line and name of what is taken from a module that does not hand it out."""
    past = []
    for path in files:
        for line, place, name in taken(path):
            module = place.with_suffix(".py")
            source = module if module.is_file() else place / "__init__.py"
            a_module = (place / name).with_suffix(".py").is_file() or (place / name).is_dir()
            if not a_module and (not source.is_file() or name not in handed_out(source)):
                past.append((path, line, name))
    return past


def clashes(rooms: Iterable[Path]) -> dict[str, list[Path]]:
    """Return the file names that stand in several folders."""
    places = defaultdict(list)
    for path in rooms:
        places[path.name].append(path.parent)
    return {name: found for name, found in places.items() if len(found) > 1}


def room_of(place: Path, name: str) -> Path | None:
    """Return the room that a name comes from, followed through the doors."""
    module = place.with_suffix(".py")
    if module.is_file():
        return module
    if (place / name).with_suffix(".py").is_file():
        return (place / name).with_suffix(".py")
    door = place / "__init__.py"
    if not door.is_file():
        return None
    for node in parsed(door).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            for given in node.names:
                if (given.asname or given.name) == name:
                    inner = door.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                    return room_of(inner, given.name)
    return None


def arrows(rooms: Iterable[Path]) -> Arrows:
    """Return, for each room, the rooms that it takes from, with the lines."""
    found: Arrows = {}
    for path in rooms:
        targets: dict[Path, list[int]] = {}
        for line, place, name in taken(path):
            room = room_of(place, name)
            if room is not None and room != path:
                targets.setdefault(room, []).append(line)
        found[path] = targets
    return found


def reached(graph: dict[Path, set[Path]], start: Path) -> set[Path]:
    """Return all that arrows lead to from a node."""
    seen: set[Path] = set()
    waiting = [*graph.get(start, ())]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += graph.get(node, ())
    return seen


def between_folders(of: Arrows) -> dict[Path, set[Path]]:
    """Return the folders that each folder takes from."""
    graph: dict[Path, set[Path]] = defaultdict(set)
    for path, targets in of.items():
        graph[path.parent] |= {room.parent for room in targets} - {path.parent}
    return graph


def returning(of: Arrows) -> Iterator[tuple[Path, Path, int]]:
    """Yield from, to and line of every arrow to a folder from which arrows lead back."""
    graph = between_folders(of)
    back = {folder: reached(graph, folder) for folder in graph}
    for path, targets in of.items():
        for room, (line, *_) in targets.items():
            if room.parent != path.parent and path.parent in back.get(room.parent, ()):
                yield path, room, line


def floors(of: Arrows, folder: Path) -> int:
    """Count the floors of a folder: rooms that take from each other share one."""
    inside = {
        path: {room for room in targets if room.parent == folder}
        for path, targets in of.items()
        if path.parent == folder
    }
    below = {path: reached(inside, path) for path in inside}

    @functools.cache
    def height(path: Path) -> int:
        lower = [room for room in below[path] if room in below and path not in below[room]]
        return 1 + max(map(height, lower), default=0)

    return max(map(height, inside), default=0)


def rooms_of(root: Path) -> list[Path]:
    """Return all modules but doors."""
    files = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    return [path for path in files if path.name not in ("__init__.py", "__main__.py")]


def report(root: Path, cycles: bool) -> None:
    """Print a row for every folder, and all that returns."""
    rooms = rooms_of(root)
    of = arrows(rooms)
    sizes = Counter(path.parent for path in rooms)
    leaving = Counter({path.parent: 0 for path in rooms})
    for path, targets in of.items():
        leaving[path.parent] += len(targets)
    back = [*returning(of)]
    turning = Counter(path.parent for path, _, _ in back)
    print("| folder | rooms | floors | arrows | returning |\n|---|---|---|---|---|")
    for folder, count in sorted(sizes.items()):
        name = folder.relative_to(root)
        print(
            f"| {name} | {count} | {floors(of, folder)} | {leaving[folder]} | {turning[folder]} |"
        )
    total = sum(map(len, of.values()))
    files = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    print(f"| all | {len(rooms)} | | {total} | {len(back)} |\n")
    print(f"folders that take from each other: {len(turning)}")
    print(f"file names in several folders: {len(clashes(rooms))}")
    print(f"imports past __all__: {len(past_all(files))}")
    for path, room, line in sorted(back) if cycles else ():
        print(f"{path.relative_to(root)}:{line} -> {room.relative_to(root)}")


def main() -> None:
    """Print the graph of the tree, or of a revision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision", nargs="?", help="a commit; none is the tree as it is")
    parser.add_argument("--cycles", action="store_true", help="list every arrow that returns")
    options = parser.parse_args()
    if options.revision is None:
        report(ROOT, options.cycles)
        return
    command = ["git", "archive", options.revision, *FOLDERS]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        report(Path(folder), options.cycles)


if __name__ == "__main__":
    main()
