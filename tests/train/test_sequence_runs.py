"""Runs on sequences: hidden tokens first, then classes by a new head, and what is asked of them."""

import json

import pytest
import torch
from archzoo.train.check import check_run
from archzoo.train.commands.certify import certify
from archzoo.train.commands.eval import eval_
from archzoo.train.errors import RunError
from archzoo.train.subject.exported_files import random_inputs, whole_model
from archzoo.train.subject.given_data import model_on_data
from archzoo.train.subject.given_model import find_model
from archzoo.train.subject.prediction import predict
from archzoo.train.subject.run_card import run_card
from archzoo.zoo import create_model

from .data.sequences.protein_families import families
from .small_runs import configure, train

MODEL = ("model=encoder_nano", "model.width=16", "model.num_heads=2", "trainer.batch_size=16")
SHORT = ("data.context_length=40", "data.crop=24", "data.k=2", "trainer.steps=6")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A FASTA file of families, a run that named its hidden tokens, and one of its classes."""
    place = tmp_path_factory.mktemp("sequences")
    given = [(i % 3, letters) for i, each in enumerate(families(45, 2)) for letters in each]
    names = ("ape", "bee", "cat")
    text = "".join(f">s{i} {names[kind]}\n{each}\n" for i, (kind, each) in enumerate(given))
    (place / "a.fasta").write_text(text)
    root = f"data.root={place / 'a.fasta'}"
    train(place / "masked", *MODEL, "data=masked_sequences", root, *SHORT)
    started = f"init={place / 'masked'}"
    train(place / "classes", *MODEL, "data=sequences", root, *SHORT, started)
    return place


@pytest.mark.long
def test_tokens_are_named_first_and_classes_told_by_a_new_head(place):
    masked, classes = (create_model(f"local-dir:{place / n}") for n in ("masked", "classes"))
    assert masked.names_tokens and masked.num_classes == masked.vocab_size == 403
    assert not classes.names_tokens and classes.num_classes == 3
    told = json.loads((place / "classes" / "init.json").read_text())
    assert told["head"] == "head: 403 -> 3 classes, started anew"
    assert classes.default_cfg["label_names"] == ["ape", "bee", "cat"]
    assert classes.default_cfg["tokeniser"]["k"] == 2
    for name in ("masked", "classes"):
        result = json.loads((place / name / "result.json").read_text())
        assert result["test"].keys() == {"loss", "accuracy"}
        found = eval_(str(place / name)).found
        for key in ("accuracy",):
            assert found[key] == pytest.approx(result["test"][key], abs=1e-6)
    assert [row["class"] for row in eval_(str(place / "classes")).found["classes"]] == [
        *("ape", "bee", "cat")
    ]


@pytest.mark.long
def test_a_head_of_as_many_classes_as_tokens_is_new_all_the_same(place, tmp_path):
    masked = create_model(f"local-dir:{place / 'masked'}")
    from archzoo.train.initial.initial_weights import build_from, initial_place

    options = {"vocab_size": 403, "context_length": 40, "width": 16, "num_heads": 2}
    given = initial_place(str(place / "masked"))
    model, facts = build_from(given, "encoder_nano", {**options, "num_classes": 403})
    assert facts["head"] == "head: 403 -> 403 classes, started anew"
    assert torch.equal(model.embedding.weight, masked.embedding.weight)
    assert model.head.weight is not model.embedding.weight
    with pytest.raises(RunError, match="is another than model=encoder_nano"):
        build_from(initial_place(str(place / "classes")), "encoder_nano", options)


@pytest.mark.long
def test_sequences_of_a_file_are_predicted_as_they_are_evaluated(place, tmp_path):
    subject = model_on_data(find_model(str(place / "classes")))
    fold = subject.splits.test
    letters = dict(
        record.split("\n")[:2][::-1] for record in (place / "a.fasta").read_text().split(">")[1:]
    )
    found = list(predict(subject.model, [str(place / "a.fasta")], top=3, batch_size=7))
    assert len(found) == len(letters) == 90
    inputs, _ = fold.__getitems__([(0, i) for i in range(len(fold))])
    with torch.no_grad():
        expected = subject.model(inputs).double().softmax(-1)
    shares = {tuple(round(p, 5) for p in sorted(row.tolist(), reverse=True)) for row in expected}
    told = {tuple(round(each["probability"], 5) for each in row["classes"]) for row in found}
    assert shares <= told
    mixed = tmp_path / "b.fasta"
    mixed.write_text(">good\nMKVLLAAA\n>gap\nMK-V\n>short\nM\n")
    good, gap, short = predict(subject.model, [str(mixed)])
    assert good["input"] == f"{mixed}: good" and len(good["classes"]) == 3
    assert "has a gap" in gap["error"] and "less than k=2" in short["error"]
    (none,) = predict(subject.model, [str(tmp_path / "none.fasta")])
    assert "sequences was not found" in none["error"]
    with pytest.raises(RunError, match="names hidden tokens and has no classes; train one"):
        list(predict(create_model(f"local-dir:{place / 'masked'}"), [str(mixed)]))


@pytest.mark.long
def test_weights_that_learned_of_other_tokens_are_refused(place, tmp_path):
    own = (*MODEL, "data=sequences", f"data.root={place / 'a.fasta'}", *SHORT, "data.buckets=300")
    train(tmp_path / "run", *own)  # 20² words in 300 buckets; 20³ are hashed to as many
    with pytest.raises(RunError, match=r'init=.* learned of other tokens: .*"k": 2.*"k": 3'):
        train(tmp_path / "next", *own, "data.k=3", f"init={tmp_path / 'run'}")
    with pytest.raises(RunError, match='other tokens than the model .*"k": 2.*"k": 3'):
        eval_(str(tmp_path / "run"), data={"name": "sequences", "k": 3})
    # What a tokeniser refuses is no other token.
    train(tmp_path / "loose", *own, "data.gaps=remove", f"init={tmp_path / 'run'}")


@pytest.mark.long
def test_weights_that_may_have_learned_of_what_is_tested_are_said(place, tmp_path, caplog):
    own = (*MODEL, "data=sequences", f"data.root={place / 'a.fasta'}", *SHORT)
    with caplog.at_level("WARNING", "archzoo"):
        train(tmp_path / "same", *own, f"init={place / 'masked'}")
        assert not caplog.messages
        train(tmp_path / "other", *own, "data.split=1", f"init={place / 'masked'}")
    (told,) = caplog.messages
    assert "the training fold there is another, and may hold test sequences of this run" in told


@pytest.mark.long
def test_an_empty_record_costs_no_other_and_advice_is_what_a_model_takes(place, tmp_path):
    text = (place / "a.fasta").read_text().replace(" ape", "").replace(" bee", "")
    table = "seq,kind\n" + "".join(
        f"{record.split()[-1]},{'ab'[i % 2]}\n" for i, record in enumerate(text.split(">")[1:])
    )
    (tmp_path / "a.csv").write_text(table)
    own = (*MODEL, "data=sequences", f"data.root={tmp_path / 'a.csv'}", *SHORT)
    train(tmp_path / "run", *own, "data.column=seq")
    model = create_model(f"local-dir:{tmp_path / 'run'}")
    new = tmp_path / "new.csv"
    new.write_text("id,seq\n1,MKVLLAAA\n2,\n3,MK-V\n4,MK5V\n5,M\n6,MKV,x\n7,MKVLLA\n")
    rows = list(predict(model, [str(new)]))
    assert ["error" in row for row in rows] == [False, *[True] * 5, False]
    assert not any("data." in row.get("error", "") for row in rows)
    new.write_text("id,sequence\n1,MKVLLAAA\n")
    (row,) = predict(model, [str(new)])
    assert "has no column 'seq'" in row["error"] and "data." not in row["error"]
    fasta = tmp_path / "new.fasta"
    fasta.write_text(">one\nMKVLLA\n>two\n>three\nMKVLLAAA\n")
    one, two, three = predict(model, [str(fasta)])
    assert "classes" in one and "classes" in three and "two has no letters" in two["error"]
    (none,) = predict(model, [str(tmp_path / "none.csv")])
    assert "was not found" in none["error"] and "data." not in none["error"]


@pytest.mark.long
def test_sequences_have_no_radius_and_so_no_certificate(place):
    with pytest.raises(RunError, match="samples of kind sequence have no radius to move in"):
        certify(model=str(place / "classes"))


@pytest.mark.long
def test_a_run_gives_inputs_to_export_and_a_card(place):
    how = {"samples": 3, "seed": 0, "other_data": False, "imports": None}
    model, inputs, told = whole_model(str(place / "classes"), data=None, **how)
    # Batches share a fold evenly, so that the first may have one less.
    assert 2 <= len(inputs) <= 3 and model(inputs).shape == (len(inputs), 3)
    assert told == {"samples": "test fold of sequences"}
    assert random_inputs(create_model("encoder_nano"), 2).shape == (2, 64)
    card = run_card(str(place / "classes"))
    assert card.model == "encoder_nano" and "accuracy" in card.metrics


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("model=gpt_nano", "data=sequences"),
            "model=gpt_nano reads tokens, but data=sequences",
        ),
        (("model=encoder_nano", "data=bytes"), "encoder_nano reads sequence, but data=bytes"),
        ((*MODEL, "data=sequences", "trainer.mixup=0.2"), "trainer.mixup cannot mix sequence"),
        ((*MODEL, "data=masked_sequences", "trainer.mixup=0.2"), "trainer.mixup cannot mix masked"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_one_line(words, message):
    with pytest.raises(RunError, match=message):
        check_run(configure(*words))
