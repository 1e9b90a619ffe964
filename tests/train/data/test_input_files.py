"""Files as people have them: images of every mode, and tables that spreadsheets wrote."""

import json
from pathlib import Path

import numpy as np
import pytest
from archzoo.train.data import data_sets
from archzoo.train.data.decode_image import decode_image
from archzoo.train.data.table_files import Table, read_csv
from PIL import Image

from ..small_runs import train

RAMP = np.linspace(0, 1, 256)[None].repeat(4, 0)
"""Grey from black to white, in columns."""


def ramp(mode: str) -> Image.Image:
    """The ramp in a mode of Pillow's."""
    grey = Image.fromarray((RAMP * 255).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray((RAMP * 65535).astype(np.uint16))
    if mode == "I":
        return Image.fromarray((RAMP * 2**30).astype(np.int32))
    if mode == "F":
        return Image.fromarray(RAMP.astype(np.float32))
    return grey.convert("RGB").convert(mode)


SAVED = [
    *((mode, "png") for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16")),
    *((mode, "tif") for mode in ("1", "L", "RGB", "RGBA", "CMYK", "I;16")),
    *((mode, "jpg") for mode in ("L", "RGB", "CMYK")),
    *((mode, "bmp") for mode in ("L", "RGB")),
    *((mode, "webp") for mode in ("RGB", "RGBA")),
    *((mode, "ppm") for mode in ("L", "RGB")),
]


@pytest.mark.parametrize(("mode", "suffix"), SAVED)
def test_an_image_keeps_its_contrast_in_every_mode(tmp_path, mode, suffix):
    path = tmp_path / f"a.{suffix}"
    ramp(mode).save(path)
    pixels = np.asarray(decode_image(path)).astype(float)[..., 0] / 255
    assert pixels.shape == RAMP.shape
    if mode == "1":  # dithered: right on average
        assert abs(pixels.mean() - 0.5) < 0.05
    else:  # a palette of six greys, dithered; JPEG's rounding
        assert abs(pixels - RAMP).max() < (0.2 if mode == "P" else 0.04)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_without_a_range_are_refused_by_name(tmp_path, mode):
    ramp(mode).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif holds .*, whose range nobody states; save it"):
        decode_image(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path, mode):
    black = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    if mode == "P":
        Image.new("P", (4, 4)).save(tmp_path / "a.png", transparency=0)
    else:
        black.convert(mode).save(tmp_path / "a.png")
    assert (np.asarray(decode_image(tmp_path / "a.png")) == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_half_transparent_is_half_white(tmp_path, mode):
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).convert(mode).save(tmp_path / "a.png")
    assert (np.asarray(decode_image(tmp_path / "a.png")) == 127).all()


def test_sixteen_bits_have_one_scale_whatever_the_order_of_bytes_and_the_image(tmp_path):
    for i, mark in enumerate("<>"):  # a dim image stays dim
        content = (RAMP * 4369).astype(f"{mark}u2")
        mode = "I;16" if mark == "<" else "I;16B"
        Image.frombytes(mode, content.shape[::-1], content.tobytes()).save(tmp_path / f"{i}.tif")
        assert np.asarray(decode_image(tmp_path / f"{i}.tif")).max() == 17


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_the_camera_is_applied(tmp_path, orientation):
    image = Image.fromarray((np.arange(6 * 4 * 3).reshape(6, 4, 3) * 3).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    turned = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)
    expected = image if turned is None else image.transpose(Image.Transpose(turned))
    assert np.array_equal(np.asarray(decode_image(tmp_path / "a.png")), np.asarray(expected))


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "gone"])
def test_a_damaged_image_is_named(tmp_path, damage):
    path = tmp_path / "a.png"
    ramp("RGB").save(path)
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_bytes({"cut": content[:60], "empty": b"", "text": b"no image"}[damage])
    with pytest.raises(ValueError, match=r"a\.png cannot be decoded: .*replace or remove the file"):
        decode_image(path)


def photographs(root: Path, *folders: str, count: int = 10) -> None:
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for i in range(count):
            ramp("RGB").resize((8, 8)).save(root / folder / f"{i}.png")


def folds(root: Path, **options) -> dict[str, int]:
    splits = data_sets.build("imagefolder", root=str(root), img_size=8, resize=8, **options)
    return splits.about["sizes"]


def test_a_folder_of_classes_alone_is_cut_by_us(tmp_path):
    photographs(tmp_path, "cat", "dog")
    assert folds(tmp_path, validation=0.25) == {"train": 12, "validation": 4, "test": 4}


HIDDEN = {
    "a class": ".cache/0.png",
    "an image of a Mac": "cat/._0.png",
    "an image": "cat/.0.png",
    "a folder of a class": "cat/.thumbs/0.png",
    "a file beside the classes": ".DS_Store",
}


@pytest.mark.parametrize("what", HIDDEN)
@pytest.mark.parametrize("parts", ["", "train"])
def test_what_begins_with_a_dot_is_no_class_and_no_sample(tmp_path, what, parts):
    places = ["train/cat", "train/dog", "val/cat", "val/dog"] if parts else ["cat", "dog"]
    photographs(tmp_path, *places)
    before = folds(tmp_path, validation=0.25)
    hidden = tmp_path / parts / HIDDEN[what]
    hidden.parent.mkdir(exist_ok=True)
    hidden.write_bytes(b"\0\5\26\7")
    assert folds(tmp_path, validation=0.25) == before


@pytest.mark.parametrize("hidden", ["._0.txt", ".git/0.txt", ".0.txt"])
def test_hidden_texts_are_no_texts(tmp_path, hidden):
    (tmp_path / "0.txt").write_bytes(bytes(range(200)) * 5)
    (tmp_path / hidden).parent.mkdir(exist_ok=True)
    (tmp_path / hidden).write_bytes(b"x" * 1000)
    about = data_sets.build("bytes", path=str(tmp_path), pattern="*", context_length=16).about
    assert about["files"] == 1 and sum(about["sizes"].values()) == 1000


@pytest.mark.parametrize("link", ["0.png", "val/cat/0.png"])
def test_a_link_to_nowhere_is_named_before_the_work(tmp_path, link):
    if "/" in link:
        photographs(tmp_path, "train/cat", "train/dog", "val/cat", "val/dog")
    else:
        photographs(tmp_path, "cat", "dog")
        link = f"cat/{link}"
    (tmp_path / link).unlink()
    (tmp_path / link).symlink_to("nowhere")
    with pytest.raises(ValueError, match=rf"{link} cannot be read: .*; replace or remove the file"):
        folds(tmp_path, validation=0.25)


def test_a_text_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "0.txt").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"0\.txt cannot be read: .*; mend or remove the file"):
        data_sets.build("bytes", path=str(tmp_path), pattern="*.txt", context_length=16)


@pytest.mark.parametrize("change", ["content", "exchange", "name"])
def test_images_that_changed_have_another_digest(tmp_path, change):
    photographs(tmp_path, "cat", "dog")
    facts = []
    for again in (False, True):
        if again and change == "content":
            ramp("RGB").resize((8, 8)).rotate(90).save(tmp_path / "cat" / "3.png")
        elif again and change == "exchange":
            (tmp_path / "cat" / "3.png").rename(tmp_path / "x")
            ramp("L").resize((8, 8)).save(tmp_path / "cat" / "3.png")
        elif again:
            (tmp_path / "cat" / "3.png").rename(tmp_path / "cat" / "10.png")
        options = {"root": str(tmp_path), "img_size": 8, "resize": 8, "validation": 0.25}
        facts.append(data_sets.build("imagefolder", **options).about["files sha256"])
    assert facts[0] != facts[1]


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_missing_part_shows_the_layout(tmp_path, missing):
    other = "train" if missing == "val" else "val"
    photographs(tmp_path, f"{other}/cat", f"{other}/dog")
    layout = rf"{missing}/ is missing; the layout is train/CLASS/\*.jpg and val/CLASS/\*.jpg"
    with pytest.raises(ValueError, match=layout):
        folds(tmp_path)


def test_the_sizes_of_the_folds_are_said_by_their_names(tmp_path, capsys):
    train(tmp_path / "run", "trainer.steps=1")
    said = capsys.readouterr().out
    assert "(1,257 to train, 180 to validate, 360 to test)" in said
    recorded = json.loads((tmp_path / "run" / "data.json").read_text())["sizes"]
    assert recorded == {"train": 1257, "validation": 180, "test": 360}


def test_a_share_too_small_to_validate_on_is_refused(tmp_path):
    photographs(tmp_path, "train/cat", "train/dog", "val/cat", "val/dog")
    with pytest.raises(ValueError, match="validation=0.02 of 20 images is 0, fewer than the 2"):
        folds(tmp_path)
    assert folds(tmp_path, validation=0.1)["validation"] == 2


# Tables.


def table(folder: Path, text: str | bytes, target: str | None = None) -> Table:
    content = text.encode() if isinstance(text, str) else text
    (folder / "t.csv").write_bytes(content)
    return read_csv(str(folder), "t", target)


@pytest.mark.parametrize("cell", ["NA", "n/a", "nan", "NaN", "?", "null", "inf", "-Infinity", ""])
def test_a_few_missing_cells_leave_a_column_of_numbers(tmp_path, caplog, cell):
    found = table(tmp_path, f"a,b,target\n1,x,p\n{cell},y,q\n3,z,p\n")
    assert found.columns == {"numeric": ["a"], "categorical": ["b"]}
    assert np.isnan(found.numeric[1, 0]) and found.numeric[2, 0] == 3
    notices = [r.getMessage() for r in caplog.records if r.name == "archzoo"]
    said = f"column 'a': {cell} are missing values"
    assert len(notices) == bool(cell) and all(notice.endswith(said) for notice in notices)


@pytest.mark.parametrize("cell", ["", "nan", "NA", "?"])
def test_a_row_without_a_target_is_refused(tmp_path, cell):
    with pytest.raises(ValueError, match=r"t\.csv: line 3 has no target"):
        table(tmp_path, f"a,target\n1,p\n2,{cell}\n")


def test_one_number_written_in_two_ways_is_one_class(tmp_path):
    assert table(tmp_path, "a,target\n1,1\n2,1.0\n3,2\n").classes == ["1", "2"]
    assert table(tmp_path, "a,target\n1,1.5\n2,2.5\n").classes == ["1.5", "2.5"]
    assert table(tmp_path, "a,target\n1,1\n2,x\n").classes == ["1", "x"]


@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_measurements_are_no_classes(tmp_path, scale):
    rows = "".join(f"{i},{i * scale}\n" for i in range(50))
    with pytest.raises(ValueError, match="different numbers in 50 rows: measurements and no cl"):
        table(tmp_path, f"a,price\n{rows}")


def test_a_table_names_its_target(tmp_path):
    text = "kind,a\nx,1\ny,2\n"
    assert table(tmp_path, text, "kind").classes == ["x", "y"]
    assert table(tmp_path, text).classes == ["1", "2"]  # the last one
    with pytest.raises(ValueError, match=r"no column data.target=kinds; did you mean 'kind'"):
        table(tmp_path, text, "kinds")
    with pytest.raises(ValueError, match="is the column 'target' or the last one, 'a', to be pred"):
        table(tmp_path, "target,a\nx,1\n")
    with pytest.raises(ValueError, match="names a column of a CSV file; give data.root"):
        data_sets.build("tabular", target="kind")


BAD = {
    "two columns named 'a'": b"a,a,target\n1,2,x\n",
    "two columns named 'b'": b"a, b,b ,target\n1,2,3,x\n",
    "two columns named 'target'": b"target,a,target\nx,1,y\n",
    "two columns named ''": b",,target\n1,2,x\n",
    "no header": b"",
    "line 2 has 3 cells, not 2": b"a,target\n1,2,x\n",
    "cannot be read as a table in UTF-8: 'utf-8' codec": b"a,target\n\xff\xfe,x\n",
    "cannot be read as a table in UTF-8: unexpected end of data": b'a,target\n"1,x\n2,y\n',
}


@pytest.mark.parametrize(("message", "content"), BAD.items())
def test_a_table_that_cannot_be_read_is_named(tmp_path, message, content):
    with pytest.raises(ValueError, match=rf"t\.csv.*{message}"):
        table(tmp_path, content)


@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_a_mark_of_the_byte_order_quotes_and_empty_lines_are_read(tmp_path, line):
    text = line.join(['\ufeff"a","target"', '"1","x"', "", '"2","y"', ""])
    found = table(tmp_path, text.encode())
    assert found.columns["numeric"] == ["a"] and found.classes == ["x", "y"]


def test_a_damaged_index_is_named(tmp_path):
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        table(tmp_path, "a,target\n1,x\n")


@pytest.mark.parametrize("count", [1, 3, 19])
def test_a_folder_of_few_texts_is_cut_by_bytes(tmp_path, count):
    for i in range(count):
        (tmp_path / f"{i}.txt").write_bytes(bytes(range(200)) * 5)
    splits = data_sets.build("bytes", path=str(tmp_path), pattern="*.txt", context_length=16)
    assert splits.about["sizes"] == {
        k: n * count for k, n in zip(("train", "validation", "test"), (900, 50, 50), strict=True)
    }
