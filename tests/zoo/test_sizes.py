"""Sizes that no network can have are refused by name."""

import pytest
from archzoo.zoo import create_model

BAD = [
    ("vit_nano", "num_heads", 0), ("vit_nano", "patch_size", 0), ("vit_nano", "registers", -1),
    ("vit_nano", "in_chans", 0), ("vit_nano", "depth", 0), ("vit_nano", "mlp_ratio", 0.0),
    ("gpt_nano", "num_heads", 0), ("gpt_nano", "context_length", 0), ("gpt_nano", "vocab_size", 0),
    ("gpt_nano", "depth", -1), ("resnet_nano", "img_size", 0), ("resnet_nano", "in_chans", 0),
    ("mlp_nano", "in_features", 0), ("mlp_nano", "expansion", -1.0), ("mlp_nano", "depth", 0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "keyword", "value"), BAD)
def test_a_size_that_cannot_be_is_refused_by_name(name, keyword, value):
    with pytest.raises(ValueError, match=f"{keyword}.* must be at least"):
        create_model(name, **{keyword: value})
