"""Quantised weights with factors beside them: levels, errors, budgets."""

import itertools
import math

import numpy as np
import pytest
import torch
from archzoo.layers.lowrank.adapters.adapter import adapt
from archzoo.layers.lowrank.adapters.lq_lora import (
    LQLoRA,
    quantised_plus_low_rank,
    undominated_formats,
)
from archzoo.layers.lowrank.maths.allocate import allocate
from archzoo.layers.lowrank.weights.quantised import (
    FORMATS,
    BlockFormat,
    Quantised,
    normal_levels,
)
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_eight_bits_lose_less_than_a_hundredth_and_zeros_stay_zeros(dtype):
    weight = drawn(64, 64).to(dtype)
    found = Quantised(weight, 8).dense()
    assert found.dtype == dtype
    assert (found - weight).double().norm() < 0.01 * weight.double().norm()
    assert not Quantised(torch.zeros(5, 7), 3).dense().any()


def packed_bytes(codes, bits):
    """Length of codes in a stream of so many bits each."""
    low = np.unpackbits(codes.flatten().numpy()[:, None], axis=1)[:, 8 - bits :]
    return len(np.packbits(low))


@pytest.mark.parametrize("how", [BlockFormat(3, 4, "fp32", 16, 8), *FORMATS[::37]], ids=str)
def test_the_stored_bits_are_those_of_packed_codes_and_of_the_ends(how):
    structure = Quantised(drawn(40, 50), how)
    blocks = math.ceil(2000 / how.block)
    groups = math.ceil(blocks / how.scale_block)
    assert structure.codes.shape == (blocks, how.block) and structure.ends.shape == (groups, 2)
    parts = [
        packed_bytes(structure.codes.flatten()[:2000], how.bits),
        packed_bytes(structure.scale_codes.flatten()[:blocks], how.scale_bits),
        structure.ends.numel() * structure.ends.element_size(),
    ]
    # A stream ends at a whole byte.
    assert 0 <= 8 * sum(parts) - structure.storage_bits() < 16
    dense = structure.dense()
    assert int(structure.scale_codes.max()) < 2**how.scale_bits and dense.isfinite().all()
    flat = torch.nn.functional.pad(dense.flatten(), (0, -dense.numel() % how.block))
    apart = flat.view(-1, how.block, 1) / structure._scales()[..., None] - normal_levels(how.bits)
    assert apart.abs().amin(-1).max() < 1e-12


def test_there_are_432_formats_each_of_which_is_written_and_read():
    assert len(set(FORMATS)) == 432
    assert all(BlockFormat.read(str(how)) == how for how in FORMATS)
    assert BlockFormat.read(3) == BlockFormat.read("3") == BlockFormat(3)  # of earlier models
    with pytest.raises(ValueError, match="no format 'three', such as 3 or 3/8/fp32/64/256"):
        BlockFormat.read("three")
    for text, message in {
        "9": "bits must lie in",
        "3/8/fp8/64/256": "ends must be one of bf16, fp16, fp32, got 'fp8'",
        "3/8/fp32/0/256": "blocks must be at least 1",
    }.items():
        with pytest.raises(ValueError, match=message):
            BlockFormat.read(text)


def test_the_best_round_is_returned_and_not_the_one_after_the_rise():
    risen = 0
    for seed in range(4):
        weight = drawn(48, 48, seed=seed)
        found = quantised_plus_low_rank(weight, 6, 3)
        rest = (weight - found.base.dense() - found.left @ found.right).norm()
        assert float(rest) == pytest.approx(found.error, rel=1e-12)
        assert found.error < min(found.errors)  # the factors are fitted once more
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


def three_layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 16), nn.Linear(16, 16), nn.Linear(16, 24)).double()
    with torch.no_grad():
        model[1].weight *= 20
    return model, {name: model.get_submodule(name).weight.detach().clone() for name in "012"}


def table(weight, formats, rounds=2):
    pairs = [quantised_plus_low_rank(weight, 2, how, rounds=rounds) for how in formats]
    return [pair.error**2 for pair in pairs], [p.base.storage_bits() for p in pairs]


def test_formats_are_shared_out_as_all_combinations_tell():
    model, weights = three_layers()
    preset = LQLoRA(rank=2, mean_bits=3.0, rounds=3)
    adapt(model, preset, list("012"))
    size = sum(w.numel() for w in weights.values())
    formats = [undominated_formats(weight) for weight in weights.values()]
    tables = [table(w, each) for w, each in zip(weights.values(), formats, strict=True)]
    best = None
    for places in itertools.product(*(range(len(each)) for each in formats)):
        bits = sum(sizes[place] for (_, sizes), place in zip(tables, places, strict=True))
        cost = sum(costs[place] for (costs, _), place in zip(tables, places, strict=True))
        if bits <= 3.0 * size and (best is None or cost < best[0]):
            best = cost, [str(each[place]) for each, place in zip(formats, places, strict=True)]
    assert list(preset.chosen.values()) == best[1] and preset.decided() == {"chosen": preset.chosen}
    read = {name: BlockFormat.read(text) for name, text in preset.chosen.items()}
    assert read["1"].bits > read["0"].bits
    assert sum(layer.structure.extra.storage_bits() for layer in model) <= 3.0 * size
    assert [layer.structure.extra.how for layer in model] == list(read.values())
    with pytest.raises(ValueError, match="mean_bits=2 is below what two bits a weight"):
        adapt(nn.Sequential(nn.Linear(8, 8)), LQLoRA(rank=2, mean_bits=2.0))


@pytest.mark.slow
@pytest.mark.parametrize("mean_bits", [2.5, 3.0, 4.25])
def test_formats_that_lose_to_smaller_ones_when_rounded_are_hardly_missed(mean_bits):
    _, weights = three_layers()
    budget = mean_bits * sum(w.numel() for w in weights.values())
    least = []
    for formats in ([FORMATS] * 3, [undominated_formats(w) for w in weights.values()]):
        tables = [table(w, each) for w, each in zip(weights.values(), formats, strict=True)]
        costs, sizes = ([row[part] for row in tables] for part in (0, 1))
        places = allocate(costs, sizes, budget)
        least.append(sum(row[place] for row, place in zip(costs, places, strict=True)))
    # Squared errors; what a format loses before the factors says nearly what it loses after them.
    assert least[0] <= least[1] <= 1.1 * least[0]


def test_an_adapter_of_a_quantised_weight_is_saved_with_its_model_only(tmp_path):
    controller = apply_adapter(nn.Sequential(nn.Linear(8, 8)), {"name": "lq_lora", "rank": 2})
    with pytest.raises(ValueError, match="LQLoRA changes the weight .*; save the model"):
        save_adapter(controller, tmp_path / "a")
    assert BlockFormat(3).storage_bits(64) == 64 * 3 + 8 + 64
