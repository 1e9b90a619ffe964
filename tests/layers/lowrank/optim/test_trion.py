"""Laws of Trion; those that it shares stand in `test_projected_adamw.py`."""

import pytest
import torch
from archzoo.layers.lowrank import Trion
from archzoo.layers.lowrank.maths.orthogonalize import orthogonalize
from archzoo.layers.lowrank.maths.subspace import cosine_basis, strongest_columns
from torch import nn

from .test_projected_adamw import gradient, parameters, resumed, step, tall


@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_a_step_is_the_orthogonalised_momentum_and_the_rest_of_it_stays(shape) -> None:
    (p,) = parameters(shape)
    w, momentum = tall(p).clone(), torch.zeros_like(tall(p))
    optimizer = Trion([p], lr=0.1, rank=2, weight_decay=0.1, momentum=0.8)
    table = cosine_basis(4, p)
    for number in range(5):
        step(optimizer, number)
        momentum = momentum + tall(gradient(shape, number))
        chosen = table[:, strongest_columns(momentum @ table, 2)]
        seen = momentum @ chosen
        momentum = momentum - 0.2 * seen @ chosen.mT
        w = (1 - 0.01) * w - 0.1 * 0.2 * 7**0.5 * orthogonalize(seen) @ chosen.mT
    torch.testing.assert_close(tall(p), w, rtol=0, atol=1e-12)
    torch.testing.assert_close(optimizer.state[p]["momentum"], momentum, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("scaling", "wide", "high"),
    [("match_rms_adamw", 0.6, 0.6), ("original", 1.0, 3.0), ("dion", 1 / 3, 3.0)],
)
def test_an_update_has_singular_values_near_its_scale(scaling, wide, high) -> None:
    for shape, scale in (((1, 9), wide), ((9, 1), high)):
        assert scale > 0
        several = parameters((2 * shape[0], 2 * shape[1]))
        before = several[0].detach().clone()
        step(Trion(several, lr=1.0, rank=1, weight_decay=0.0, scaling=scaling), 0)
        largest = torch.linalg.svdvals(several[0].detach() - before)[0]
        # √18 for √9 in the rule that looks at the longer side.
        factor = 2**0.5 if scaling == "match_rms_adamw" else 1.0
        assert 0.68 < float(largest) / (scale * factor) < 1.14


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_of_it_that_goes_on_equals_one_that_never_stopped(dtype) -> None:
    assert resumed(Trion, {}, dtype)


@pytest.mark.parametrize(
    ("said", "settings"),
    [
        ("momentum must lie in", {"momentum": 1.0}),
        ("ranking must be one of", {"ranking": "l3"}),
        ("scaling must be one of", {"scaling": "kimi"}),
    ],
)
def test_settings_of_it_that_are_out_of_range_are_refused(said, settings) -> None:
    with pytest.raises(ValueError, match=said):
        Trion([nn.Parameter(torch.ones(4, 3))], **settings)
