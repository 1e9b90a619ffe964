"""A file is predicted as the same sample is evaluated; one that cannot be read stops no other."""

import math

import numpy as np
import pytest
import torch
from archzoo.train.data.augment import Normalize
from archzoo.train.data.evaluation_transform import read_image
from archzoo.train.data.stratified_split import held_out
from archzoo.train.errors import RunError
from archzoo.train.subject.evaluation import fold_figures
from archzoo.train.subject.given_data import model_on_data
from archzoo.train.subject.given_model import find_model
from archzoo.train.subject.prediction import predict
from archzoo.zoo import create_model
from PIL import Image

from .conftest import everything

pytestmark = pytest.mark.long


def evaluated(run):
    """Probabilities and names of the test fold's samples, in its order."""
    given = model_on_data(find_model(str(run)))
    with torch.no_grad():
        logits = given.model(everything(given.splits.test)[0])
    return given, logits.double().softmax(-1)


def test_images_of_the_test_fold_are_predicted_as_they_are_evaluated(pictures, place):
    given, p = evaluated(pictures)
    fold = given.splits.test
    files = [str(fold.root / name.decode()) for name in fold.paths]
    found = list(predict(given.model, files, top=3, batch_size=4))
    assert [row["input"] for row in found] == files
    for row, expected in zip(found, p, strict=True):
        shares = {each["class"]: each["probability"] for each in row["classes"]}
        told = dict(zip(("ape", "bee", "cat"), expected.tolist(), strict=True))
        assert shares == pytest.approx(told, rel=1e-5)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_digits_written_as_grey_files_are_predicted_as_they_are_evaluated(digits, tmp_path):
    given, p = evaluated(digits)
    files = []
    for i, image in enumerate(given.splits.test.inputs[:40]):
        # 16 is the brightest of these scans, 255 that of a file: off by half a grey level.
        pixels = (image[0].double() * 255 / 16).round().byte().numpy()
        files.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(pixels).save(files[-1])
    for row, expected in zip(predict(given.model, files, top=1), p[:40], strict=True):
        (best,) = row["classes"]
        assert best["class"] == str(int(expected.argmax()))
        assert best["probability"] == pytest.approx(float(expected.max()), abs=0.01)


def test_a_grey_file_is_read_as_a_data_set_of_grey_arrays_reads_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    facts = {"input_size": (1, 9, 9), "mean": [0.1307], "std": [0.3081]}
    expected = Normalize((0.1307,), (0.3081,))(torch.from_numpy(pixels)[None, None])[0]
    found = read_image(tmp_path / "one.png", facts)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_an_image_of_another_shape_is_resized_and_cut_at_its_centre(tmp_path):
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, 10:30] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    facts = {"input_size": (3, 10, 10), "mean": [0.0] * 3, "std": [1.0] * 3}
    found = read_image(tmp_path / "wide.png", facts)
    assert torch.equal(found[:, :, 2:-2], torch.ones(3, 10, 6))  # its edges are mixed with black
    tall = read_image(tmp_path / "wide.png", {**facts, "input_size": (3, 20, 10)})
    assert tall.shape == (3, 20, 10)
    with pytest.raises(ValueError, match="images of 2 channels with crop_mode=center"):
        read_image(tmp_path / "wide.png", {**facts, "input_size": (2, 10, 10)})


def test_rows_of_the_test_fold_are_predicted_as_they_are_evaluated(rows, place):
    given, p = evaluated(rows)
    found = list(predict(given.model, [str(place / "t.csv")], top=2, batch_size=7))
    assert len(found) == 90
    assert [row["input"] for row in found[:2]] == [f"{place / 't.csv'}:{n}" for n in (2, 3)]
    shares = torch.tensor(
        [
            [{e["class"]: e["probability"] for e in row["classes"]}[name] for name in "xy"]
            for row in found
        ],
        dtype=torch.float64,
    )
    # The fold holds its rows in the order of the file.
    _, test = held_out(torch.tensor([int(i % 3 == 0) for i in range(90)]), 0)
    torch.testing.assert_close(shares[test], p, rtol=1e-5, atol=1e-7)


def test_a_row_or_a_file_that_cannot_be_read_is_named_and_the_others_are_predicted(rows, tmp_path):
    (tmp_path / "new.csv").write_text(
        "colour, size ,more\nred,1.5,a\nblue,big,b\nred,2\n\npurple,?,c\n", encoding="utf-8-sig"
    )
    (tmp_path / "lacks.csv").write_text("size\n1\n")
    (tmp_path / "twice.csv").write_text("size,size\n1,2\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "bytes.csv").write_bytes(b"size,colour\n\xff\xfe,red\n")
    names = ["new.csv", "lacks.csv", "twice.csv", "empty.csv", "bytes.csv", "none.csv"]
    model = find_model(str(rows)).load()
    found = list(predict(model, [str(tmp_path / name) for name in names]))
    told = {row["input"].removeprefix(f"{tmp_path}/"): row.get("error", "") for row in found}
    assert {name for name, error in told.items() if not error} == {"new.csv:2", "new.csv:6"}
    expected = {
        "new.csv:3": "column 'size' holds numbers, got 'big'",
        "new.csv:4": "2 cells, not 3",
        "lacks.csv:2": "a row lacks the column 'colour'",
        "twice.csv": "two columns named 'size'",
        "empty.csv": "no header",
        "bytes.csv": "cannot be read as a table in UTF-8",
        "none.csv": "No such file",
    }
    assert expected.keys() == {name for name, error in told.items() if error}
    assert all(part in told[name] and "\n" not in told[name] for name, part in expected.items())


def test_an_image_that_cannot_be_read_is_named_in_its_place(pictures, place, tmp_path):
    (tmp_path / "cut.png").write_bytes((place / "images/test/ape/0.png").read_bytes()[:60])
    good = str(place / "images" / "test" / "cat" / "1.png")
    files = [str(tmp_path / "cut.png"), good, str(tmp_path / "none.png"), good]
    found = list(predict(find_model(str(pictures)).load(), files))
    assert ["error" in row for row in found] == [True, False, True, False]
    assert "cut.png cannot be decoded" in found[0]["error"]
    assert found[1]["classes"] == found[3]["classes"]


def test_the_likelihood_of_a_text_is_that_of_the_evaluation(text, place, tmp_path):
    given = model_on_data(find_model(str(text)))
    content = bytes(given.splits.test.tokens[1:].tolist())
    (tmp_path / "text.txt").write_bytes(content)
    (row,) = predict(given.model, [str(tmp_path / "text.txt")], top=256)
    figures, _ = fold_figures(
        given, "test", batch_size=8, device=torch.device("cpu"), dtype=torch.float32
    )
    assert row["bytes"] == len(content) == figures["samples"]
    assert row["log_likelihood"] == pytest.approx(-len(content) * figures["nll"], rel=1e-5)
    assert row["bits_per_byte"] == pytest.approx(figures["bits_per_byte"], rel=1e-5)
    shares = [each["probability"] for each in row["classes"]]
    assert math.fsum(shares) == pytest.approx(1.0)
    with torch.no_grad():
        last = torch.tensor([list(content[-16:])])
        next_byte = given.model(last)[0, -1].double().softmax(-1)
    assert shares[0] == pytest.approx(float(next_byte.max()), rel=1e-5)


def test_a_text_of_a_byte_has_a_likelihood_and_an_empty_one_is_named(text, tmp_path):
    for name, content in (("one", b"x"), ("none", b"")):
        (tmp_path / name).write_bytes(content)
    files = [str(tmp_path / name) for name in ("none", "one", "gone")]
    none, one, gone = predict(find_model(str(text)).load(), files)
    assert "holds no text" in none["error"] and "cannot be read" in gone["error"]
    assert one["bytes"] == 1 and one["bits_per_byte"] > 0


UNFIT = {
    "a vocabulary of 300; text is read as bytes": ("gpt_nano", {"vocab_size": 300}),
    "the model reads nodes and does not keep how a file becomes one": (
        "poincare_embedding_nano",
        {},
    ),
    "the model reads features and does not keep how": ("mlp_nano", {}),
}


@pytest.mark.parametrize(("message", "case"), UNFIT.items())
def test_a_model_that_reads_no_files_says_so(message, case, tmp_path):
    name, options = case
    with pytest.raises(RunError, match=message):
        list(predict(create_model(name, **options).eval(), [str(tmp_path)]))


def test_a_model_without_names_numbers_its_classes(tmp_path):
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    model = create_model("resnet_nano", num_classes=4).to(torch.bfloat16)
    (row,) = predict(model, [str(tmp_path / "a.png")], top=9)
    assert {each["class"] for each in row["classes"]} == {"0", "1", "2", "3"}
    assert model.training  # as it was given
    model.head.bias.data.fill_(torch.nan)
    (row,) = predict(model, [str(tmp_path / "a.png")])
    assert row["error"] == "the model's probabilities are no numbers"
