"""The laws of the delta write, in float64."""

import pytest
import torch
from torch import Tensor

from ..stacks import normal
from .delta_parts import (
    BITWISE,
    TOL,
    D,
    M,
    every_m,
    every_mode,
    full,
    readout,
    tokens,
    unit,
)


def test_a_closed_gate_leaves_the_state(write):
    x, h, _, v = tokens()
    torch.testing.assert_close(write(x, h, full(0.0), v), x, **BITWISE)


def test_beta_one_reads_back_what_it_wrote(write):
    x, h, _, v = tokens()
    torch.testing.assert_close(readout(write(x, h, full(1.0), v, eps=0.0), h), v, **TOL)


@pytest.mark.parametrize("eps", [0.0, 1e-5, 1.0])
def test_the_discrepancy_shrinks_by_one_minus_beta(write, eps):
    x, h, beta, v = tokens()
    # The guard makes k shorter than one, which weakens the gate by its square; r is read along k.
    square = h.square().sum(-1, keepdim=True)
    length = square / (square + eps**2)
    r, after = (length.sqrt() * readout(s, h) for s in (x, write(x, h, beta, v, eps=eps)))
    torch.testing.assert_close(after - v, (1 - beta * length) * (r - v), **TOL)


def test_what_is_orthogonal_to_the_direction_stays(write):
    x, h, beta, v = tokens()
    u = normal(2, 3, D, seed=9)
    u = u - (u * unit(h)).sum(-1, keepdim=True) * unit(h)
    torch.testing.assert_close(readout(write(x, h, beta, v), u), readout(x, u), **TOL)


def shortcut(write, beta: float) -> Tensor:
    """Return A (6, D, D) of six tokens, as what a write without a target does to the identity."""
    h = normal(6, D, seed=1)
    identity = torch.eye(D).double().expand(6, D, D).contiguous()
    gate = torch.full((6, 1), beta, dtype=torch.float64)
    return write(identity, h, gate, torch.zeros(6, D).double(), eps=0.0).mT


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 1.6, 2.0])
def test_the_shortcut_has_eigenvalue_one_minus_beta_once_and_else_one(write, beta):
    a = shortcut(write, beta)
    torch.testing.assert_close(a, a.mT, **TOL)
    expected = torch.ones(6, D).double()
    expected[:, 0] = 1 - beta
    torch.testing.assert_close(torch.linalg.eigvalsh(a), expected, **TOL)
    torch.testing.assert_close(torch.linalg.det(a), expected[:, 0], **TOL)
    norms = torch.linalg.matrix_norm(a, 2)
    torch.testing.assert_close(norms, torch.ones_like(norms), **TOL)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 1.6, 2.0])
def test_the_shortcut_is_orthogonal_at_zero_and_two_only_and_a_projector_at_zero_and_one(
    write, beta
):
    a, identity = shortcut(write, beta), torch.eye(D).double()
    defects = (a @ a.mT - identity).abs().amax((1, 2)), (a @ a - a).abs().amax((1, 2))
    for defect, holds in zip(defects, (beta in (0.0, 2.0), beta in (0.0, 1.0)), strict=True):
        assert (defect < 1e-13).all() if holds else (defect > 0.05).all()


def test_beta_two_without_a_target_is_a_reflection(write):
    x, h, _, v = tokens()
    once = write(x, h, full(2.0), torch.zeros_like(v), eps=0.0)
    torch.testing.assert_close(once.norm(dim=-1), x.norm(dim=-1), **TOL)
    twice = write(once, h, full(2.0), torch.zeros_like(v), eps=0.0)
    torch.testing.assert_close(twice, x, **TOL)
    assert (once - x).abs().max() > 1.0


def test_erasing_loses_the_norm_of_what_was_read(write):
    x, h, beta, v = tokens()
    erased = write(x, h, beta, v, mode="erase_only", eps=0.0)
    expected = x.square().sum((-1, -2)) - (beta * (2 - beta) * readout(x, h).square()).sum(-1)
    torch.testing.assert_close(erased.square().sum((-1, -2)), expected, rtol=0.0, atol=1e-12)


def test_the_norm_after_a_write_is_known_and_grows_by_beta_times_the_target_at_most(write):
    x, h, beta, v = tokens()
    r = readout(x, h)
    after = write(x, h, beta, v, eps=0.0).square().sum((-1, -2))
    change = ((1 - beta) * r + beta * v).square().sum(-1) - r.square().sum(-1)
    torch.testing.assert_close(after, x.square().sum((-1, -2)) + change, rtol=0.0, atol=1e-12)
    bound = x.norm(dim=(-1, -2)) + beta[..., 0] * v.norm(dim=-1)
    assert (after.sqrt() <= bound + 1e-13).all()


@every_mode
def test_a_write_changes_the_state_by_a_matrix_of_rank_one(write, mode):
    x, h, beta, v = tokens()
    change = write(x, h, beta, v, mode=mode) - x
    values = torch.linalg.svdvals(change)
    assert (values[..., 1] <= 1e-14 * values[..., 0].clamp(min=1)).all()
    assert (values[..., 0] > 0.01).all()


@every_mode
def test_columns_are_written_one_by_one_with_a_shared_direction_and_gate(write, mode):
    x, h, beta, v = tokens()
    alone = [
        write(x[..., j : j + 1, :].contiguous(), h, beta, v[..., j : j + 1], mode=mode)
        for j in range(M)
    ]
    torch.testing.assert_close(torch.cat(alone, -2), write(x, h, beta, v, mode=mode), **BITWISE)


@every_m
def test_the_sign_of_direction_and_target_together_does_not_matter(write, m):
    x, h, beta, v = tokens(m)
    torch.testing.assert_close(write(x, -h, beta, -v), write(x, h, beta, v), **BITWISE)


@pytest.mark.parametrize("factor", [1e-3, 0.7, 3.0, 1e3])
def test_the_size_of_a_branch_output_does_not_matter(write, factor):
    x, h, beta, v = tokens()
    ours = write(x, factor * h, beta, v, eps=0.0)
    torch.testing.assert_close(ours, write(x, h, beta, v, eps=0.0), **TOL)


def test_two_writes_of_one_target_are_one_with_the_combined_gate(write):
    x, h, beta, v = tokens()
    other = 2 * normal(2, 3, 1, seed=7).sigmoid()
    twice = write(write(x, h, beta, v, eps=0.0), h, other, v, eps=0.0)
    once = write(x, h, 1 - (1 - beta) * (1 - other), v, eps=0.0)
    torch.testing.assert_close(twice, once, **TOL)


def test_a_target_exists_that_makes_the_write_an_addition(write):
    x, h, beta, _ = tokens(1)
    v = readout(x, h) + h.norm(dim=-1, keepdim=True) / beta
    torch.testing.assert_close(write(x, h, beta, v, eps=0.0), x + h.unsqueeze(-2), **TOL)


def test_a_full_write_is_a_write_without_erasure_minus_what_was_read(write):
    x, h, beta, v = tokens()
    k = unit(h)
    difference = write(x, h, beta, v, eps=0.0) - write(x, h, beta, v, mode="write_only", eps=0.0)
    erased = -torch.einsum("...o,...d,...m->...md", beta, k, readout(x, h))
    torch.testing.assert_close(difference, erased, **TOL)
    only = write(x, h, beta, v, mode="erase_only", eps=0.0)
    torch.testing.assert_close(only, x + erased, **TOL)


def test_a_stack_of_writes_is_the_delta_rule_over_depth(write):
    length = 5
    h, v = normal(length, 2, 3, D, seed=1), normal(length, 2, 3, M, seed=2)
    beta = 2 * normal(length, 2, 3, 1, seed=3).sigmoid()
    x = normal(2, 3, M, D)
    s = x.mT  # the recurrence of DeltaNet, with S (D, m) and depth for time
    for k, target, gate in zip(unit(h), v, beta, strict=True):
        outer = gate[..., None] * k[..., :, None]
        s = (torch.eye(D).double() - outer * k[..., None, :]) @ s + outer * target[..., None, :]
    for step in range(length):
        x = write(x, h[step], beta[step], v[step], eps=0.0)
    torch.testing.assert_close(x.mT, s, **TOL)


def test_orthonormal_directions_at_beta_one_store_every_target(write):
    keys = torch.linalg.qr(normal(2, 3, D, D))[0].mT.contiguous()
    v = normal(5, 2, 3, M, seed=2)
    x = torch.zeros(2, 3, M, D).double()
    for step in range(5):
        x = write(x, keys[..., step, :].contiguous(), full(1.0), v[step], eps=0.0)
    torch.testing.assert_close(x, torch.einsum("btld,lbtm->btmd", keys[..., :5, :], v), **TOL)
    for step in range(5):
        torch.testing.assert_close(readout(x, keys[..., step, :]), v[step], **TOL)


def test_the_shortcut_of_a_diagonal_state_has_a_closed_form(write):
    lam, h = normal(2, 3, D, seed=4), normal(2, 3, D, seed=1)
    k, beta = unit(h), tokens()[2]
    x = torch.diag_embed(lam)
    after = write(x, h, beta, torch.zeros(2, 3, D).double(), eps=0.0).mT
    expected = x - beta[..., None] * lam[..., None, :] * k[..., :, None] * k[..., None, :]
    torch.testing.assert_close(after, expected, **TOL)
