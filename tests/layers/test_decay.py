"""A parameter that weight decay must leave alone is marked once and stays marked."""

import copy

import pytest
import torch
from archzoo.layers.decay import decay_exclusions, exclude_from_decay
from torch import nn


class Owner(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(2, 3))
        self.query = nn.Parameter(torch.zeros(2, 3))
        self.linear = nn.Linear(3, 3)
        exclude_from_decay(self, "table")


def test_names_are_collected_with_their_prefix():
    model = nn.Sequential(Owner(), nn.ModuleDict({"inner": Owner()}))
    assert decay_exclusions(model) == {"0.table", "1.inner.table"}


def test_the_root_has_no_prefix():
    assert decay_exclusions(Owner()) == {"table"}


def test_marks_add_up():
    owner = Owner()
    exclude_from_decay(owner, "query")
    assert decay_exclusions(owner) == {"table", "query"}


def test_a_mark_belongs_to_one_module_and_not_to_its_class():
    marked, other = Owner(), Owner()
    exclude_from_decay(marked, "query")
    assert decay_exclusions(other) == {"table"}


def test_marks_survive_a_deep_copy_and_stay_apart_from_the_original():
    owner = Owner()
    twin = copy.deepcopy(owner)
    exclude_from_decay(owner, "query")
    assert decay_exclusions(twin) == {"table"}


def test_marks_survive_the_replacement_of_the_tensor():
    owner = Owner()
    owner.table = nn.Parameter(torch.ones(5, 5))
    owner.to(torch.bfloat16).to_empty(device="meta")
    assert decay_exclusions(owner) == {"table"}


def test_every_mark_names_a_parameter():
    model = nn.Sequential(Owner(), Owner())
    assert decay_exclusions(model) < dict(model.named_parameters()).keys()


@pytest.mark.parametrize("name", ["tabel", "linear", "linear.weight", ""])
def test_what_is_no_parameter_of_the_module_itself_is_refused(name):
    with pytest.raises(ValueError, match=f"Owner has no parameter {name!r}"):
        exclude_from_decay(Owner(), name)


def test_a_tied_parameter_has_its_first_name():
    model = nn.ModuleDict({"table": nn.Linear(3, 2, bias=False), "owner": Owner()})
    model["owner"].table = model["table"].weight
    assert decay_exclusions(model) == {"table.weight"}
