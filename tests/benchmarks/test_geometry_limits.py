"""Whole models of a curved space: where curvature vanishes, far out, decoded, in half precision."""

import itertools

import pytest

from ..tiers import tiered

MODELS = ["mlp_nano", "vit_nano", "gpt_nano", "resnet_nano"]
CASES = list(itertools.product(MODELS, ["lorentz", "poincare"]))
every = pytest.mark.parametrize(("name", "geometry"), CASES)


@every
def test_a_model_computes_what_its_flat_twin_does_where_curvature_vanishes(script, name, geometry):
    limits = script("geometry_limits")
    assert limits.flat_limit(name, geometry, 0) < limits.CURVED[geometry]


@pytest.mark.parametrize("curvature", tiered([0.01, 0.1, 1.0, 10.0], [0.1, 10.0]))
@every
def test_logits_and_gradients_of_zeros_and_of_large_inputs_are_numbers(
    script, name, geometry, curvature
):
    finite = script("geometry_limits").stays_finite
    assert finite(name, geometry, curvature, 0.0) and finite(name, geometry, curvature, 1e3)


@pytest.mark.parametrize("geometry", ["lorentz", "poincare"])
def test_decoding_token_by_token_is_decoding_at_once_in_every_precision(script, geometry):
    found = script("geometry_limits").decoding(geometry, 0)
    assert found["float64"] < 1e-12 and found["float32"] < 1e-5
    assert found["bfloat16"] < 2e-2  # of the largest logit; the flat model's is 3e-3


@every
def test_half_precision_costs_no_more_digits_than_in_flat_space(script, name, geometry):
    error = script("geometry_limits").half_precision
    # Twice, since what is rounded differs.
    assert error(name, geometry, 0) < 2 * error(name, "euclidean", 0)
