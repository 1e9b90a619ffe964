"""The margin loss changes what is trained on and nothing else."""

import csv
import math

import pytest
import torch
from archzoo.train.callbacks import MarginLoss
from torch.nn import functional as F

from ..small_runs import equal_weights, train

LDLT = ["model=ldlt_mlp_nano", "optim.lr=0.01"]
MARGIN = ["callbacks=[margin_loss]"]


def losses(folder, split: str = "train") -> list[float]:
    with open(folder / "metrics.csv", newline="") as file:
        return [float(r["loss"]) for r in csv.DictReader(file) if r["split"] == split]


def test_the_loss_is_the_cross_entropy_of_shifted_logits():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 3, 1, 2, 2])
    shifted = MarginLoss(0.3, 0.5).logits(None, logits, targets)
    by_hand = logits.clone()
    by_hand[range(5), targets] -= math.sqrt(2) * 0.3
    expected = F.cross_entropy(by_hand / 0.5, targets)
    torch.testing.assert_close(F.cross_entropy(shifted, targets), expected)


@pytest.mark.long
def test_no_offset_at_temperature_one_is_the_plain_loss(tmp_path):
    train(tmp_path / "plain", *LDLT)
    off = ["callbacks.margin_loss.offset=0", "callbacks.margin_loss.temperature=1"]
    train(tmp_path / "margin", *LDLT, *MARGIN, *off)
    assert equal_weights(tmp_path / "plain", tmp_path / "margin")


@pytest.mark.long
def test_a_larger_offset_leaves_larger_margins(tmp_path):
    validation = {}
    for offset in (0, 3):
        folder = tmp_path / str(offset)
        train(folder, *LDLT, *MARGIN, f"callbacks.margin_loss.offset={offset}", "trainer.steps=60")
        validation[offset] = losses(folder, "validation")[-1]
    # Evaluation has neither offset nor temperature: its cross-entropy falls where margins grow.
    assert validation[3] < validation[0] - 0.05


def test_mixed_targets_are_shifted_by_their_shares(tmp_path):
    train(tmp_path, *LDLT, *MARGIN, "trainer.mixup=0.4")
    assert all(math.isfinite(loss) for loss in losses(tmp_path))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"offset": -0.1}, "callbacks.margin_loss.offset must be at least 0, got -0.1"),
        ({"temperature": 0.0}, "callbacks.margin_loss.temperature must be positive, got 0.0"),
    ],
)
def test_a_setting_out_of_range_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        MarginLoss(**setting)
