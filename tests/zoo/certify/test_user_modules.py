"""Whatever a user writes is certified by running it, and no point is steeper than its bound."""

import copy
import math

import pytest
import torch
from archzoo.zoo import certify
from torch import nn

from ...tiers import tiered
from .random_networks import steepest
from .user_modules import MODULES


def test_there_are_fifty():
    assert len(MODULES) >= 50


@pytest.mark.parametrize("name", tiered(MODULES, [*MODULES][::3]))
def test_no_point_of_a_user_s_module_is_steeper_than_its_bound(name):
    torch.manual_seed(0)
    model, shape = MODULES[name]()
    model.eval()
    x = torch.randn(6, *shape)
    before = x.clone()
    flat = nn.Sequential(model, nn.Flatten())  # radii need logits
    certificate = certify(flat, x, attack_steps=5)
    assert certificate.lipschitz < math.inf, certificate.reasons
    assert torch.equal(x, before)
    assert certificate.attack_violations == 0 and certificate.refuted is None
    wide = copy.deepcopy(model).double()
    true = steepest(nn.Sequential(wide, nn.Flatten()), shape, 1)
    # Rounding of a forward and a backward pass.
    assert true <= certificate.lipschitz * (1 + 1e-6)
