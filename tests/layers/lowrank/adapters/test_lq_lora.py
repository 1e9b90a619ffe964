"""Quantised weights with factors beside them: levels, errors, budgets."""

import itertools

import pytest
import torch
from archzoo.layers.lowrank.adapters.adapter import adapt
from archzoo.layers.lowrank.adapters.lq_lora import LQLoRA, quantised_plus_low_rank
from archzoo.layers.lowrank.weights.quantised import Quantised, normal_levels, storage_bits
from archzoo.zoo.axes.adapters import apply_adapter
from archzoo.zoo.share.adapter_files import save_adapter
from torch import nn


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_there_are_two_to_the_bits_levels_and_zero_is_one(bits):
    levels = normal_levels(bits)
    assert len(levels.unique()) == 2**bits and 0 in levels
    assert levels.min() >= -1 and levels.max() == 1


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(16, 64), (7, 13)])
def test_rounded_weights_lie_on_the_levels_of_their_block_and_stay_there(bits, shape):
    weight = drawn(*shape)
    structure = Quantised(weight, bits)
    dense = structure.dense()
    flat = torch.nn.functional.pad(dense.flatten(), (0, -dense.numel() % 64)).view(-1, 64)
    levels = normal_levels(bits)
    scale = structure._scales()
    apart = (flat[..., None] / scale[..., None] - levels).abs().amin(-1)
    assert apart.max() < 1e-12
    torch.testing.assert_close(Quantised(dense, bits).dense(), dense, rtol=0, atol=1e-12)


def test_eight_bits_lose_less_than_a_hundredth_and_zeros_stay_zeros():
    weight = drawn(64, 64)
    assert (Quantised(weight, 8).dense() - weight).norm() < 0.01 * weight.norm()
    assert not Quantised(torch.zeros(5, 7), 3).dense().any()


def test_the_stored_bits_are_those_of_what_is_stored():
    structure = Quantised(drawn(40, 50), 3, block=16, scale_bits=4, scale_block=8)
    blocks = -(-2000 // 16)
    groups = -(-blocks // 8)
    assert structure.codes.shape == (blocks, 16) and structure.ends.shape == (groups, 2)
    assert structure.storage_bits() == 3 * 2000 + 4 * blocks + 64 * groups
    assert structure.codes.max() < 8 and structure.scale_codes.max() < 16


def test_the_best_round_is_returned_and_not_the_one_after_the_rise():
    risen = 0
    for seed in range(4):
        weight = drawn(48, 48, seed=seed)
        found = quantised_plus_low_rank(weight, 6, 3)
        rest = (weight - found.base.dense() - found.left @ found.right).norm()
        assert float(rest) == pytest.approx(min(found.errors), rel=1e-12)
        risen += found.errors[-1] > min(found.errors)
        plain = (weight - Quantised(weight, 3).dense()).norm()
        assert rest < 0.75 * plain and min(found.errors) < found.errors[0]
    assert risen


def test_squared_gradients_weight_the_error_and_rows_without_any_are_no_trouble():
    weight, fisher = drawn(32, 32), drawn(32, 32, seed=1).square()
    fisher[:16] *= 100
    fisher[3] = 0

    def error(pair):
        rest = weight - pair.base.dense() - pair.left @ pair.right
        return float((rest.square() * fisher).sum())

    aware = quantised_plus_low_rank(weight, 4, 3, fisher=fisher)
    assert aware.left.isfinite().all()
    assert error(aware) < error(quantised_plus_low_rank(weight, 4, 3))


def test_bits_are_shared_out_as_all_combinations_tell():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 16), nn.Linear(16, 16), nn.Linear(16, 24)).double()
    with torch.no_grad():
        model[1].weight *= 20
    weights = [layer.weight.detach().clone() for layer in model]
    preset = LQLoRA(rank=2, mean_bits=4.0, rounds=3)
    adapt(model, preset, ["0", "1", "2"])
    size = sum(w.numel() for w in weights)
    best = None
    for chosen in itertools.product((2, 3, 4, 8), repeat=3):
        pairs = [
            quantised_plus_low_rank(w, 2, b, rounds=3) for w, b in zip(weights, chosen, strict=True)
        ]
        bits = sum(pair.base.storage_bits() for pair in pairs)
        cost = sum(min(pair.errors) ** 2 for pair in pairs)
        if bits <= 4.0 * size and (best is None or cost < best[0]):
            best = cost, dict(zip("012", chosen, strict=True))
    assert preset.chosen == best[1] and preset.chosen["1"] > preset.chosen["0"]
    assert sum(layer.structure.extra.storage_bits() for layer in model) <= 4.0 * size
    with pytest.raises(ValueError, match="mean_bits=2 is below what two bits a weight"):
        adapt(nn.Sequential(nn.Linear(8, 8)), LQLoRA(rank=2, mean_bits=2.0))


def test_an_adapter_of_a_quantised_weight_is_saved_with_its_model_only(tmp_path):
    controller = apply_adapter(nn.Sequential(nn.Linear(8, 8)), {"name": "lq_lora", "rank": 2})
    with pytest.raises(ValueError, match="LQLoRA changes the weight .*; save the model"):
        save_adapter(controller, tmp_path / "a")
    assert storage_bits(64, 3, 64, 8, 256) == 64 * 3 + 8 + 64
