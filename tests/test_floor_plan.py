"""One subject a folder, one name a thing, and nothing taken that its owner does not hand out."""

from collections import Counter
from pathlib import Path

import pytest

from .import_graph import (
    FOLDERS,
    ROOT,
    arrows,
    clashes,
    past_all,
    returning,
    room_of,
    rooms_of,
    taken,
)

FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
ROOMS = rooms_of(ROOT)
MOST = 15  # files that a reader still takes in as one table of contents


def told(path: Path) -> str:
    """Return a path as a message names it."""
    return str(path.relative_to(ROOT))


def family(place: Path) -> tuple[str, ...]:
    """Return the family of layers that a path lies in, or the folder of another."""
    parts = place.relative_to(ROOT).parts
    return parts[:2] if parts[0] == "layers" else parts[:1]


def test_no_file_name_stands_in_two_folders():
    assert {name: [*map(told, found)] for name, found in clashes(ROOMS).items()} == {}


def test_a_folder_is_a_table_of_contents():
    sizes = Counter(told(path.parent) for path in ROOMS)
    assert {folder: size for folder, size in sizes.items() if size > MOST} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_taken_from_a_module_is_in_its_all(folder):
    files = [path for path in FILES if path.is_relative_to(ROOT / folder)]
    assert [f"{told(path)}:{line} takes {name}" for path, line, name in past_all(files)] == []


def test_what_is_there_for_speed_only_is_opened_by_its_own_family():
    strangers = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        for line, place, _ in taken(path)
        if "_fast" in place.parts and family(place) != family(path)
    ]
    assert strangers == []


def test_a_name_is_followed_through_the_doors_to_its_room():
    residual = ROOT / "layers" / "residual"
    assert room_of(residual, "AttnRes") == residual / "attnres" / "attnres.py"
    assert room_of(residual, "depth_mix") == residual / "attnres" / "mix.py"
    assert room_of(residual, "add") == residual / "add.py"
    assert room_of(ROOT / "zoo" / "registry", "Registry") == ROOT / "zoo" / "registry.py"
    assert room_of(residual, "nothing") is None


# From these folders no way leads to a folder that leads back.
ONE_WAY = [
    *("layers/lowrank/methods", "layers/residual/delta"),
    *("layers/residual/depth_mixing", "layers/residual/streams"),
    *("zoo/backbones", "zoo/inspect", "zoo/share", "zoo/transform", "train/data"),
]


def test_corridors_that_lead_one_way_stay_so():
    found = [
        f"{told(path)}:{line} takes from {told(room)}"
        for path, room, line in returning(arrows(ROOMS))
        if told(path.parent) in ONE_WAY
    ]
    assert found == []
