"""The command that compares mechanisms: its answer, its files and its refusals."""

import json

import pytest
from archzoo.train.commands.__main__ import main
from archzoo.train.commands.compare import compare
from archzoo.train.errors import RunError, UsageError


def test_a_comparison_is_a_table_and_two_files(tmp_path, capsys):
    words = ["model=[mlp_nano]", "residual=[add,delta,{name: delta, value_channels: 2}]"]
    main(["compare", *words, "batch_size=4", "seconds=0.01", f"out={tmp_path}"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == [
        "add", "delta", "delta(value_channels=2)",
    ]  # fmt: skip
    assert lines[-1] == str(tmp_path / "compare.csv")
    found = json.loads((tmp_path / "compare.json").read_text())
    assert found["environment"]["versions"]["torch"] and found["device"] == "cpu"


def test_json_is_all_of_the_answer(capsys):
    main(["compare", "model=[mlp_nano]", "batch_size=2", "seconds=0.01", "device=cpu", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["points"][0]["point"] == "mlp_nano"


def test_a_product_of_which_nothing_can_be_built_ends_with_code_one(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["compare", "model=[nothing]"])
    assert ended.value.code == 1
    assert "nothing: no model named 'nothing'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"train": 3}, UsageError, "train=3 needs data=NAME as well"),
        ({"train": 3, "data": "digits"}, UsageError, "train=3 needs out=DIR as well"),
        ({"optim": "adamw"}, UsageError, "optim=adamw is for runs; add train=STEPS"),
        ({"train": 0}, RunError, "train must be at least 1, got 0"),
        ({"batch_size": 0}, RunError, "batch_size must be at least 1, got 0"),
        ({"seconds": 0.0}, RunError, "seconds must be above 0, got 0.0"),
        ({"model": []}, RunError, "model names no model"),
    ],
)
def test_a_bad_argument_is_named_with_the_way_out(options, error, said):
    with pytest.raises(error, match=said):
        compare(**{"model": ["mlp_nano"], **options})


def test_settings_of_runs_are_refused_where_nothing_is_trained():
    with pytest.raises(UsageError, match=r"trainer.batch_size=8 is for runs; add train=STEPS"):
        compare("trainer.batch_size=8", model=["mlp_nano"])
