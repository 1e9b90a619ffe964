"""A file is written whole or not at all, and a new one never in place of another."""

from pathlib import Path

import pytest
from archzoo.zoo.share.atomic_write import replacing


def test_a_new_file_has_all_that_was_written_and_nothing_beside_it(tmp_path: Path):
    path = tmp_path / "file"
    with replacing(path, new=True) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new" and path.stat().st_nlink == 1
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("link", [False, True])
def test_a_new_file_never_takes_the_place_of_one_that_came_meanwhile(tmp_path: Path, link: bool):
    path = tmp_path / "file"
    with pytest.raises(FileExistsError), replacing(path, new=True) as temporary:
        temporary.write_text("new")
        if link:
            path.symlink_to(tmp_path / "nowhere")
        else:
            path.write_text("of another")
    assert [*tmp_path.iterdir()] == [path]
    assert path.is_symlink() if link else path.read_text() == "of another"
