"""The gate of Deep Delta Learning, and the start of what makes it."""

import pytest
import torch
from archzoo.layers.decay import decay_exclusions
from archzoo.layers.residual import Context, Delta
from torch import Tensor

from ..stacks import WIDTH, build, normal, trained
from .delta_parts import (
    PARAMETERISATIONS,
    VARIANTS,
    M,
)


def beta_of(residual: Delta, normed: Tensor) -> float:
    """Return the gate of the first site, read off an audit."""
    state = residual.open(torch.zeros_like(normed))
    with residual.audit() as records:
        residual.write(state, 0, torch.ones_like(normed), Context(normed, normed))
    return records[0]["beta"].item()


@pytest.mark.parametrize("hidden", [None, 3])
@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
@pytest.mark.parametrize("beta", [0.05, 0.5, 1.0, 1.95])
def test_a_fresh_gate_is_at_its_initial_value_where_the_context_is_zero(
    beta, parameterisation, hidden
):
    residual = build(
        "delta", initial_beta=beta, parameterisation=parameterisation, gate_hidden=hidden
    )
    # The bias was rounded to float32.
    assert beta_of(residual, torch.zeros(1, 2, WIDTH).double()) == pytest.approx(beta, rel=1e-6)


def test_a_gate_lies_between_zero_and_two():
    residual = trained(build("delta"))
    along = residual.gate[0].detach().expand(1, 2, WIDTH)
    assert 0.0 < beta_of(residual, -3 * along) < 0.1
    assert 1.9 < beta_of(residual, 3 * along) < 2.0


def test_a_frozen_gate_has_no_parameters_and_ignores_the_context():
    residual = trained(build("delta", frozen_beta=1.3))
    assert residual.gate is residual.gate_bias is residual.gate_hidden is None
    for seed in range(3):
        beta = beta_of(residual, normal(1, 2, WIDTH, seed=seed))
        assert beta == pytest.approx(1.3, rel=1e-15)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_resetting_returns_to_the_start(options):
    fresh = build("delta", **options)
    residual = trained(build("delta", **options)).float()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        residual.reset_parameters()
    for ours, parameter in zip(residual.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(ours.double(), parameter)


def test_fresh_heads_are_small_normals():
    residual = build("delta", width=512, parameterisation="repo", gate_hidden=256)
    for name, fan_in in (("value", 512), ("gate_hidden", 512), ("gate", 256)):
        std = getattr(residual, name).std().item()
        # 1,536 normals and more give their deviation to 2 %; allow three of these.
        assert std == pytest.approx(0.5 * fan_in**-0.5, rel=0.06)
    assert residual.value_bias.abs().max() <= 512**-0.5
    assert residual.gate_bias.eq(0).all()


def test_only_the_matrices_of_a_head_are_decayed():
    options = {"value_channels": M, "compress": "tokens", "expand": "convolution"}
    residual = build("delta", parameterisation="v1", gate_hidden=3, **options)
    decayed = dict(residual.named_parameters()).keys() - decay_exclusions(residual)
    assert decayed == {"gate_hidden", "direction_in", "direction_out"}
