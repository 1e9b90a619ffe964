"""Laws of the steps of Newton and Schulz."""

import pytest
import torch
from archzoo.layers.lowrank.maths.orthogonalize import COEFFICIENTS, orthogonalize


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (5, 5), (6, 1)])
def test_singular_values_go_through_the_polynomial_and_the_vectors_stay(shape) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(*shape, generator=generator, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.square().sum().sqrt()
    a, b, c = COEFFICIENTS
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    expected = left @ torch.diag(values) @ right
    torch.testing.assert_close(orthogonalize(matrix), expected, rtol=0, atol=1e-12)
    assert float(values.min()) > 0.68 and float(values.max()) < 1.14
    torch.testing.assert_close(orthogonalize(matrix.mT), expected.mT, rtol=0, atol=1e-12)


def test_length_does_not_matter_and_zeros_stay() -> None:
    matrix = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(
        orthogonalize(1e-20 * matrix), orthogonalize(matrix), rtol=0, atol=1e-12
    )
    assert bool((orthogonalize(torch.zeros(4, 2)) == 0).all())
    assert orthogonalize(matrix.bfloat16()).dtype == torch.bfloat16
