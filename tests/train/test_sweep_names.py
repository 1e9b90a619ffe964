"""The folder of a sweep's point says what the point is."""

from archzoo.train.sweep import point_name


def test_a_point_is_named_by_its_number_and_what_varies():
    told = ["model=vit_nano", "model.residual=add", "seed=0"]
    assert point_name(3, told, {"model.residual", "seed"}) == "3-model.residual=add,seed=0"
    assert point_name(3, told) == "3-model=vit_nano,model.residual=add,seed=0"
    assert point_name(3, told, set()) == "3"


def test_a_name_is_one_folder_whatever_a_value_holds():
    told = ["data.path=/a/../b", "model.residual={name:delta,value_columns:4}", "x=é ü", "+y=1e-05"]
    assert (
        point_name(0, told)
        == "0-data.path=-a-..-b,model.residual=-name-delta,value_columns-4-,x=é-ü,y=1e-05"
    )
    long = point_name(12, [f"a.key={'v' * 300}"])
    assert len(long) == 120 and long.startswith("12-a.key=vvv")
