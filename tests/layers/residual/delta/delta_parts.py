"""Inputs, forms and tolerances that the tests of Deep Delta Learning share."""

import pytest
import torch
from archzoo.layers._kernels import load_kernels
from torch import Tensor

from ..stacks import normal

D, M = 7, 4
BITWISE = {"rtol": 0.0, "atol": 0.0}
TOL = {"rtol": 0.0, "atol": 1e-13}  # some hundred roundings of float64 at unit scale
# A machine without a compiler has no kernels, and then there is one path less to test.
PATHS = ["plain", *(["kernel"] if load_kernels("delta") else [])]
MODES = ["full", "write_only", "erase_only"]
every_mode = pytest.mark.parametrize("mode", MODES)
every_m = pytest.mark.parametrize("m", [1, M])

FORMS = [
    {},
    {"value_channels": M},
    {"value_channels": 3, "cc_form": "repo"},
    {"value_channels": M, "cc_form": "repo", "expand": "convolution"},
    {"value_channels": M, "compress": "tokens"},
    {"value_channels": M, "compress": "tokens", "expand": "convolution"},
]
PARAMETERISATIONS = ["paper", "repo", "v1"]
VARIANTS = [
    *[{"parameterisation": p, **form} for p in PARAMETERISATIONS for form in FORMS],
    *[{"parameterisation": p, "gate_hidden": 3} for p in PARAMETERISATIONS],
    *[{"mode": mode, "value_channels": M} for mode in MODES[1:]],
    {"mode": "write_only", "parameterisation": "v1"},
    {"mode": "erase_only", "parameterisation": "repo", "gate_hidden": 3},
    {"frozen_beta": 1.7, "value_channels": M},
    {"frozen_beta": 0.0, "parameterisation": "repo"},
    {"initial_beta": 0.3, "eps": 0.1},
]
ALONG_TOKENS = [form for form in FORMS if {"convolution", "tokens"} & set(form.values())]
POINTWISE = [
    options for options in VARIANTS if not {"convolution", "tokens"} & set(options.values())
]
every_variant = pytest.mark.parametrize("options", VARIANTS, ids=str)
TAPS = 4


def tokens(m: int = M, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A state (2, 3, m, D), a branch output (2, 3, D), a gate in (0, 2) and a target (2, 3, m)."""
    gate = 2 * normal(2, 3, 1, seed=seed + 2).sigmoid()
    return normal(2, 3, m, D, seed=seed), normal(2, 3, D, seed=seed + 1), gate, normal(2, 3, m)


def assert_same(ours, theirs) -> None:
    """Compare lists of tensors to some thousand roundings of the largest entry of each."""
    for mine, their in zip(ours, theirs, strict=True):
        largest = their.detach().abs().max().item()
        torch.testing.assert_close(mine, their, rtol=0.0, atol=1e-12 * max(1.0, largest))


def unit(h: Tensor) -> Tensor:
    return h / h.norm(dim=-1, keepdim=True)


def readout(state: Tensor, h: Tensor) -> Tensor:
    """kᵀX (…, m)."""
    return torch.einsum("...d,...md->...m", unit(h), state)


def full(beta: float) -> Tensor:
    return torch.full((2, 3, 1), beta, dtype=torch.float64)
