"""Laws of single presets whose ranks stay: what their start is, and what their change can be."""

import pytest
import torch
from archzoo.layers.lowrank.adapters.adapter import adapt
from archzoo.layers.lowrank.adapters.bone import BlockAffine, Bone
from archzoo.layers.lowrank.adapters.dora import DoRA
from archzoo.layers.lowrank.adapters.lora import FFALoRA, LoRA, RsLoRA
from archzoo.layers.lowrank.adapters.lora_xs import LoRASB, LoRAXS, mean_gradients
from archzoo.layers.lowrank.adapters.miss import MiSS, SharedSlices
from archzoo.layers.lowrank.adapters.nystrom import IntTune, NLoRA, NystromFactors, pivots
from archzoo.layers.lowrank.adapters.randlora import RandLoRA, RandomBases, random_bases
from archzoo.layers.lowrank.adapters.svfit import SVFit
from torch import nn

from .adapter_networks import adapted, example, network, train

CLOSE = {"rtol": 0.0, "atol": 1e-12}  # float64 at unit scale


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(preset, weight):
    return preset.structure("a weight", weight, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_the_scale_of_rslora_falls_with_the_root_of_the_rank(rank):
    assert LoRA(alpha=8).scale_of(rank) == 8 / rank
    assert RsLoRA(alpha=8).scale_of(rank) == pytest.approx(8 / rank**0.5, abs=0)


def test_dora_keeps_the_lengths_of_rows_that_it_was_given_whatever_the_factors_are():
    structure = made(DoRA(rank=2), drawn(6, 5))
    with torch.no_grad():
        structure.left.normal_(generator=torch.Generator().manual_seed(1))
        structure.magnitude.copy_(torch.arange(1.0, 7.0))
    norms = structure.dense().norm(dim=-1)
    torch.testing.assert_close(norms, torch.arange(1.0, 7.0, dtype=torch.float64), **CLOSE)


def test_a_row_of_zeros_stays_zero_at_the_start_of_dora_and_can_be_trained():
    weight = drawn(4, 5)
    weight[1] = 0
    structure = made(DoRA(rank=2), weight)
    assert torch.equal(structure.dense(), weight)
    structure.linear(drawn(3, 5), None).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in (structure.left, structure.magnitude))


def test_the_change_of_svfit_is_diagonal_between_the_singular_vectors():
    weight = drawn(7, 5)
    structure = made(SVFit(rank=3), weight)
    with torch.no_grad():
        structure.core.copy_(torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64))
    left, _, right = torch.linalg.svd(weight, full_matrices=False)
    change = left.T @ (structure.dense() - weight) @ right.T
    expected = torch.diag(torch.tensor([0.5, -0.2, 0.1, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(change, expected, **CLOSE)


def test_the_start_of_lora_sb_is_the_best_approximation_to_a_first_full_step():
    weight, gradient = drawn(8, 6), drawn(8, 6, seed=1)
    preset = LoRASB(rank=2, alpha=3.0, step=0.01)
    preset.observe({"a weight": gradient})
    moved = made(preset, weight).dense() - weight
    step = -0.01 * gradient.sign()
    values = torch.linalg.svdvals(step)
    error = (step - moved).square().sum()
    torch.testing.assert_close(error, values[2:].square().sum(), **CLOSE)
    assert torch.linalg.matrix_rank(moved, rtol=1e-10) == 2


def test_a_step_on_the_core_of_lora_sb_is_an_orthogonal_projection_of_the_gradient():
    preset = LoRASB(rank=2)
    preset.observe({"a weight": drawn(8, 6, seed=1)})
    structure, gradient = made(preset, drawn(8, 6)), drawn(8, 6, seed=2)
    left, right = structure.left.detach(), structure.right.detach()
    once = left @ left.T @ gradient @ right.T @ right
    torch.testing.assert_close(left @ left.T @ once @ right.T @ right, once, **CLOSE)
    torch.testing.assert_close((once * (gradient - once)).sum(), gradient.new_zeros(()), **CLOSE)


def test_lora_sb_without_gradients_says_what_to_give():
    with pytest.raises(ValueError, match="0 has none; give adapt statistics=mean_gradients"):
        adapt(network("linear"), LoRASB(rank=2), ["0"])
    with pytest.raises(ValueError, match="LoRA reads no statistics; leave statistics= out"):
        adapt(network("linear"), LoRA(rank=2), ["0"], statistics=lambda model, targets: {})
    with pytest.raises(ValueError, match="batches is empty"):
        empty = mean_gradients([], lambda model, x: model(x).sum())
        adapt(network("linear"), LoRASB(rank=2), ["0"], statistics=empty)


def test_mean_gradients_are_those_of_a_backward_pass_and_leave_the_model_as_it_was():
    model = network("linear").requires_grad_(False)
    found = {}
    statistics = mean_gradients([example("linear")], lambda net, x: net(x).square().sum())

    def read(net, targets):
        found.update(statistics(net, targets))
        return found

    adapt(model, LoRASB(rank=2), ["0"], statistics=read)
    plain = network("linear")
    plain(example("linear")).square().sum().backward()
    torch.testing.assert_close(found["0"], plain[0].weight.grad, **CLOSE)
    assert model.training


@pytest.mark.parametrize("columns", [8, 9, 11])
def test_miss_is_lora_with_rows_of_identities(columns):
    weight, left = drawn(6, columns), drawn(6, 4, seed=1)
    right = torch.eye(4, dtype=torch.float64).repeat(1, 3)[:, :columns]
    structure, x = SharedSlices(weight, left), drawn(3, columns, seed=2)
    torch.testing.assert_close(structure.dense(), weight + left @ right, **CLOSE)
    torch.testing.assert_close(structure.linear(x, None), x @ structure.dense().T, **CLOSE)


def test_the_change_of_bone_has_a_higher_rank_than_its_blocks_and_follows_their_formula():
    weight = drawn(24, 24)
    structure = BlockAffine(weight, 4)
    with torch.no_grad():
        structure.blocks.normal_(generator=torch.Generator().manual_seed(1))
    change = structure.dense().detach() - weight
    assert torch.linalg.matrix_rank(change) == 24
    block = weight[4:8, 8:12] @ structure.blocks[1] + structure.blocks[1]
    torch.testing.assert_close(change[4:8, 8:12], block.detach(), **CLOSE)
    with pytest.raises(ValueError, match="rank=5 does not divide both sides of a weight"):
        made(Bone(rank=5), weight)


def test_randlora_reaches_the_full_rank_with_a_part_of_the_numbers():
    weight, preset = drawn(32, 24), RandLoRA(rank=6)
    structure = made(preset, weight)
    with torch.no_grad():
        structure.weights.normal_(generator=torch.Generator().manual_seed(1))
        structure.gains.normal_(generator=torch.Generator().manual_seed(2))
    change = structure.dense().detach() - weight
    assert torch.linalg.matrix_rank(change) == 24
    assert preset.numbers((32, 24)) == 4 * (6 + 24) < weight.numel() // 4
    terms = sum(
        structure.left[:, 6 * n : 6 * n + 6] * structure.weights[n]
        @ (structure.right * structure.gains[n])
        for n in range(4)
    )  # fmt: skip
    torch.testing.assert_close(change, preset.scale_of(6) * terms.detach(), rtol=0, atol=1e-9)


def test_random_matrices_are_shared_among_weights_of_a_shape_and_follow_from_the_seed_alone():
    preset = RandLoRA(rank=2)
    one, two = made(preset, drawn(8, 6)), made(preset, drawn(6, 8))
    assert one.left.data_ptr() == two.left.data_ptr()
    again = random_bases((8, 6), 2, 0, drawn(1))
    assert torch.equal(one.left, again[0]) and torch.equal(one.right, again[1])
    assert not torch.equal(one.left, random_bases((8, 6), 2, 1, drawn(1))[0])
    assert "left" not in one.state_dict() and "right" not in one.state_dict()


def test_numbers_that_scale_other_random_matrices_are_refused():
    one = made(RandLoRA(rank=2), drawn(8, 6))
    other = made(RandLoRA(rank=2, basis_seed=1), drawn(8, 6))
    assert isinstance(other, RandomBases)
    with pytest.raises(RuntimeError, match="trained with other random matrices"):
        other.load_state_dict(one.state_dict())


@pytest.mark.parametrize("rank", [2, 4])
def test_rows_and_columns_reproduce_a_weight_of_their_rank(rank):
    weight = drawn(9, rank) @ drawn(rank, 7, seed=1)
    structure = made(NLoRA(rank=rank), weight)
    assert isinstance(structure, NystromFactors)
    product = structure.left @ structure.core @ structure.right
    torch.testing.assert_close(product.detach(), weight, rtol=0, atol=1e-11)


def test_what_is_left_of_a_weight_vanishes_on_the_chosen_rows_and_columns():
    weight = drawn(9, 7)
    structure = made(IntTune(rank=3), weight)
    left, right = structure.prefix()
    rest = (weight - left @ right).detach()
    torch.testing.assert_close(rest[structure.row_places], torch.zeros(3, 7).double(), **CLOSE)
    torch.testing.assert_close(
        rest[:, structure.column_places], torch.zeros(9, 3).double(), **CLOSE
    )


def test_chosen_blocks_are_better_conditioned_than_the_first_ones():
    worse, cond = [], torch.linalg.cond
    for seed in range(20):
        weight = drawn(64, 64, seed=seed)
        columns = pivots(weight, 8)
        rows = pivots(weight[:, columns].T, 8)
        worse.append(cond(weight[:8, :8]) / cond(weight[rows][:, columns]))
    assert torch.stack(worse).median() > 2


def test_the_frozen_factor_of_ffa_lora_is_shared_and_a_mean_of_adapters_is_exact():
    models = []
    for seed in (1, 2):
        model, controller = adapted("ffa_lora", "linear")
        train(controller, "linear", steps=2, lr=0.01 * seed)
        models.append(model.eval())
    first, second = (model[0].structure for model in models)
    assert torch.equal(first.right, second.right)
    assert not torch.equal(first.left, second.left)
    mean, _ = adapted("ffa_lora", "linear")
    with torch.no_grad():
        mean[0].structure.left.copy_((first.left + second.left) / 2)
    x = example("linear")
    outputs = [model[0](x) for model in models]
    torch.testing.assert_close(mean[0](x), sum(outputs) / 2, **CLOSE)


def test_one_seed_draws_one_adapter_and_another_seed_another():
    models = [nn.Sequential(nn.Linear(6, 5)) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        adapt(model, FFALoRA(rank=2), seed=seed)
    one, two, other = (model[0].structure.right for model in models)
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_lora_xs_projects_a_change_on_the_largest_singular_vectors():
    weight = drawn(8, 6)
    structure = made(LoRAXS(rank=2, alpha=2.0), weight)
    with torch.no_grad():
        structure.core.copy_(drawn(2, 2, seed=1))
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    inside = left[:, :2].T @ (structure.dense() - weight) @ right[:2].T
    expected = structure.core * values[:2]  # B R S V, so columns of R meet σ
    torch.testing.assert_close(inside, expected.detach(), **CLOSE)


def test_miss_of_a_rank_above_the_full_one_is_refused():
    with pytest.raises(ValueError, match="rank=9 exceeds the full rank 6 of a weight"):
        made(MiSS(rank=9), drawn(8, 6))
