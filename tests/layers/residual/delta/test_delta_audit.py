"""The audit of Deep Delta Learning: what it records of every write."""

import pytest
import torch
from archzoo.layers.residual import Context, Delta
from torch import Tensor

from ..stacks import SITES, WIDTH, branch_weights, build, fill, normal, stack, trained
from .delta_parts import (
    BITWISE,
    MODES,
    PARAMETERISATIONS,
    M,
    readout,
)


def audited(residual: Delta, x: Tensor, ys: Tensor) -> list[dict[str, Tensor]]:
    with residual.audit() as records:
        fill(residual, x, ys)
    return records


@pytest.mark.parametrize("channel_dim", [-1, 1])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 1.7, 2.0])
@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_an_audit_sees_the_discrepancy_shrink_by_one_minus_beta(
    parameterisation, beta, channel_dim
):
    residual = trained(
        build(
            "delta",
            frozen_beta=beta,
            value_channels=3,
            parameterisation=parameterisation,
            channel_dim=channel_dim,
            eps=0.0,
        )
    )
    shape = (2, 4, 3, WIDTH) if channel_dim == -1 else (2, WIDTH, 4, 3)
    records = audited(residual, normal(*shape), normal(len(SITES), *shape, seed=1))
    assert len(records) == len(SITES)
    for record in records:
        assert record["beta"].item() == pytest.approx(beta, abs=1e-15)
        expected = abs(1 - beta) * record["discrepancy_before"]
        torch.testing.assert_close(record["discrepancy_after"], expected, rtol=1e-12, atol=1e-13)
        assert record["discrepancy_before"] > 0.1


@pytest.mark.parametrize("mode", MODES)
def test_an_audit_has_the_means_over_tokens(mode):
    residual = trained(build("delta", value_channels=3, mode=mode))
    x, y = normal(2, 3, WIDTH), normal(2, 3, WIDTH, seed=1)
    (record,) = audited(residual, x, y[None])
    state = residual.open(x)
    h = residual.read(state, 0)
    after = residual.write(state, 0, y, Context(h, h)).columns
    beta = 2 * torch.sigmoid(h @ residual.gate[0] + residual.gate_bias[0])
    target = 0.0 if mode == "erase_only" else h @ residual.value[0].T
    expected = {
        "beta": beta.mean(),
        "discrepancy_before": (readout(state.columns, y) - target).norm(dim=-1).mean(),
        "discrepancy_after": (readout(after, y) - target).norm(dim=-1).mean(),
        "branch_norm": y.norm(dim=-1).mean(),
    }
    assert record.keys() == expected.keys()
    for key, value in record.items():
        assert not value.requires_grad
        # ε² = 1e-10 beside a squared norm of about five.
        torch.testing.assert_close(value, expected[key].detach(), rtol=1e-9, atol=0.0)


def test_nothing_is_recorded_outside_an_audit():
    residual = build("delta")
    x, ys = normal(2, 3, WIDTH), normal(len(SITES), 2, 3, WIDTH, seed=1)
    records = audited(residual, x, ys)
    fill(residual, x, ys)
    assert len(records) == len(SITES)
    assert residual.records is None
    with pytest.raises(RuntimeError), residual.audit():
        raise RuntimeError
    assert residual.records is None


def test_of_two_audits_the_inner_one_collects():
    residual = build("delta")
    x, ys = normal(2, 3, WIDTH), normal(len(SITES), 2, 3, WIDTH, seed=1)
    with residual.audit() as outer:
        assert len(audited(residual, x, ys)) == len(SITES)
        assert outer == []
        fill(residual, x, ys)
    assert len(outer) == len(SITES)


def test_an_audit_changes_nothing():
    residual = trained(build("delta", value_channels=M))
    arguments = residual, normal(2, 3, WIDTH), branch_weights()
    with residual.audit():
        ours = stack(*arguments)
    torch.testing.assert_close(ours, stack(*arguments), **BITWISE)
