"""The folder of a sweep's point says what the point is."""

import pytest
from archzoo.train.sweep import point_name


def test_a_point_is_named_by_its_number_and_what_varies():
    told = ["model=vit_nano", "model.residual=add", "seed=0"]
    assert point_name(3, told, {"model.residual", "seed"}) == "3-model.residual=add,seed=0"
    assert point_name(3, told) == "3-model=vit_nano,model.residual=add,seed=0"
    assert point_name(3, told, set()) == "3"


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("data.path=/a/../b", "data.path=a_.._b"),
        (
            "model.residual={name:delta,value_channels:4}",
            "model.residual=name_delta,value_channels_4",
        ),
        ("optim.lr=-1", "optim.lr=-1"),
        ("x='a b'", "x=a_b"),
        ("+y=1e-05", "y=1e-05"),
        ("z=é", "z=é"),
    ],
)
def test_a_name_is_one_folder_whatever_a_value_holds(told, name):
    assert point_name(0, [told]) == f"0-{name}"


@pytest.mark.parametrize("letter", "aé雪")
def test_a_long_name_is_cut_to_what_a_file_system_takes(letter, tmp_path):
    name = point_name(12, [f"a.key={300 * letter}"])
    assert len(name.encode()) <= 120 and name.startswith(f"12-a.key={letter}")
    (tmp_path / name).mkdir()
