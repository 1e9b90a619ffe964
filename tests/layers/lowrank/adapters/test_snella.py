"""Laws of SNELLA: the change of a kernel, zero at first, with as many entries as its budget."""

import pytest
import torch
from archzoo.layers.lowrank.adapters.adapter import adapt
from archzoo.layers.lowrank.adapters.scheduled.snella import (
    SNELLA,
    SparseKernel,
    distance_kernel,
    largest_entries,
    shared_out,
)
from torch import nn

from .adapter_networks import network

CLOSE = {"rtol": 0.0, "atol": 1e-12}  # float64 at unit scale


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved(m=24, n=24, rank=2):
    structure = SparseKernel(drawn(m, n), rank, torch.Generator().manual_seed(0))
    with torch.no_grad():
        structure.rows += 0.3 * drawn(2, m, rank, seed=1)
        structure.columns += 0.3 * drawn(2, n, rank, seed=2)
    return structure


def test_the_kernel_is_signed_distances_and_shares_of_each_column():
    rows, columns = drawn(2, 5, 3), drawn(2, 4, 3, seed=1)
    apart = (rows[:, :, None] - columns[:, None]).norm(dim=-1)
    total = 0.1 * apart[0] - 0.1 * apart[1]
    expected = total + total.exp() / total.exp().sum(0)
    torch.testing.assert_close(distance_kernel(rows, columns), expected, **CLOSE)


def test_the_gradient_is_that_of_finite_differences_and_zero_where_points_coincide():
    rows, columns = drawn(2, 5, 3).requires_grad_(), drawn(2, 4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(distance_kernel, (rows, columns))
    same = torch.zeros(2, 30, 3, dtype=torch.float64).requires_grad_()  # above 25 cdist multiplies
    distance_kernel(same, torch.zeros(2, 30, 3, dtype=torch.float64)).square().sum().backward()
    assert same.grad.abs().max() == 0


def test_the_change_has_a_higher_rank_than_its_points_have_coordinates():
    change = moved().change()
    assert torch.linalg.matrix_rank(change) == 24 > 4
    assert sum(p.numel() for p in (moved().rows, moved().columns)) == 2 * 2 * 48


@pytest.mark.parametrize("count", [0, 1, 57, 576])
def test_as_many_entries_as_are_kept_differ_and_they_are_the_largest(count):
    structure = moved()
    whole = structure.change()
    structure.kept.fill_(count)
    change = structure.change()
    assert int((change != 0).sum()) == count
    assert torch.equal(change[change != 0], whole[change != 0])
    if 0 < count < 576:
        assert change[change != 0].abs().min() >= whole[change == 0].abs().max()


@pytest.mark.slow
def test_a_quantile_of_more_than_sixteen_million_entries_is_found():
    change = torch.arange(4100.0**2, dtype=torch.float64).view(4100, 4100) + 1
    assert int((largest_entries(change, 1000) != 0).sum()) == 1000


@pytest.mark.parametrize(
    ("total", "scores", "caps", "expected"),
    [
        (10, [1.0, 1.0], [8, 8], [5, 5]),
        (10, [9.0, 1.0], [6, 8], [6, 4]),
        (12, [0.0, 0.0], [8, 16], [4, 8]),
        (9, [1.0, 0.0], [4, 8], [4, 5]),
        (0, [1.0, 2.0], [4, 8], [0, 0]),
        (12, [1e-300, 3.0], [4, 8], [4, 8]),
    ],
)
def test_a_budget_is_shared_in_proportion_to_scores_up_to_caps(total, scores, caps, expected):
    assert shared_out(total, scores, caps) == expected


def test_shares_are_whole_and_add_up_to_the_budget():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        count = int(torch.randint(1, 7, (), generator=generator))
        caps = torch.randint(0, 50, (count,), generator=generator).tolist()
        scores = torch.rand(count, generator=generator, dtype=torch.float64).pow(9).tolist()
        total = int(torch.randint(0, sum(caps) + 1, (), generator=generator))
        found = shared_out(total, scores, caps)
        assert sum(found) == total
        assert all(0 <= share <= cap for share, cap in zip(found, caps, strict=True))
    with pytest.raises(ValueError, match="total=3 is above the sum of caps, 2"):
        shared_out(3, [1.0], [2])


def test_the_budget_falls_from_all_to_its_end_on_a_cubic_curve():
    preset = SNELLA(kept=0.2, warmup=10, settle=30, total_steps=100)
    assert preset.share_at(0) == preset.share_at(10) == 1.0
    assert preset.share_at(40) == pytest.approx(0.2 + 0.8 / 8)
    assert preset.share_at(70) == preset.share_at(100) == 0.2


def test_a_run_ends_with_as_many_entries_as_its_budget_and_more_where_the_loss_feels_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).double()
    preset = SNELLA(rank=2, kept=0.25, warmup=1, settle=2, every=2, total_steps=10)
    controller = adapt(model, preset, ["*"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    controller.attach(optimizer)
    for step in range(10):
        optimizer.zero_grad()
        (model(drawn(16, 8, seed=step)) - 1).square().sum().backward()
        optimizer.step()
    counts = [int((s.change() != 0).sum()) for _, s in controller.structures()]
    assert sum(counts) == 32
    scores = list(controller.state["scores"].values())
    assert (counts[0] > counts[1]) == (scores[0] > scores[1]) and counts[0] != counts[1]


def test_a_run_that_is_too_short_for_its_budget_and_settings_out_of_range_are_refused():
    def attach(**settings):
        controller = adapt(network("linear"), SNELLA(rank=2, **settings), ["0"])
        controller.attach(torch.optim.SGD(controller.model.parameters(), lr=0.1))

    with pytest.raises(ValueError, match="the budget of SNELLA needs the length of the run"):
        attach()
    with pytest.raises(ValueError, match="warmup=5 and settle=5 leave nothing of the 10 steps"):
        attach(warmup=5, settle=5, total_steps=10)
    with pytest.raises(ValueError, match=r"kept must be a share in \(0, 1\], got 0"):
        SNELLA(kept=0)
