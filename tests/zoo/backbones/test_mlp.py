"""The MLP reads tables and flattened images of the size it was told."""

import pytest
import torch
from archzoo.zoo import create_model

from ..small_models import build, on_meta


def test_an_image_is_read_as_its_values():
    model = build("mlp_nano", in_features=48).eval()
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(images), model(images.flatten(1)), rtol=0.0, atol=0.0)


def test_an_input_of_another_size_is_refused_by_name():
    message = r"reads in_features=48 values a sample, got shape \(3, 4, 5\)"
    with pytest.raises(ValueError, match=message):
        build("mlp_nano", in_features=48)(torch.zeros(2, 3, 4, 5))


@pytest.mark.parametrize(("expansion", "hidden"), [(2.0, 64), (1.5, 48), (3, 96)])
def test_a_branch_is_as_wide_as_the_expansion_says(expansion, hidden):
    model = on_meta("mlp_nano", width=32, expansion=expansion)
    assert all(branch[0].out_features == hidden for branch in model.trunk.branches)


def test_dropout_acts_in_training_only():
    model, x = build("mlp_nano", drop_rate=0.5), torch.ones(2, 64)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_no_inputs_and_no_branches_are_refused():
    with pytest.raises(ValueError, match="in_features must be at least 1, got 0"):
        create_model("mlp_nano", in_features=0)
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        create_model("mlp_nano", depth=0)
