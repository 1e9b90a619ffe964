"""Every geometry takes its first steps in every precision that the trainer has."""

import itertools

import pytest
import torch

from ..tiers import tiered
from .small_runs import train

SHORT = ["trainer.steps=2", "trainer.evaluate_every=2", "trainer.batch_size=16"]
GEOMETRIES = [
    ["model=poincare_mlp_nano"],
    ["model=poincare_mlp_nano", "model.learned_curvature=true"],
    ["model=poincare_mlp_nano", "model.head=linear", "model.curvature=10"],
    ["model=poincare_resnet_nano"],
    ["model=poincare_resnet_nano", "model.activation=pre", "model.residual=attnres"],
    ["model=hyperbolic_vit_head_nano"],
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "amp"),
    tiered(
        itertools.product(GEOMETRIES, ["off", "bf16", "fp16"]),
        lambda model, amp: amp == "bf16" or model == GEOMETRIES[0],
    ),
)
def test_a_ball_trains_in_every_precision(model, amp, tmp_path):
    train(tmp_path, *model, *SHORT, f"trainer.amp={amp}")
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert state["optimizer"]["state"]  # float16's scaler has not skipped every step
    assert all(torch.isfinite(value).all() for value in state["model"].values())
