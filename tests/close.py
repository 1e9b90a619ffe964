"""Comparison of float32 results that two orders of the same sums produced."""

from torch import Tensor

__all__ = ["assert_close_in_scale"]


def assert_close_in_scale(
    actual: Tensor, expected: Tensor, tolerance: float, name: str = "result"
) -> None:
    """Require every entry to agree within a share of the largest expected entry.

    A sum is rounded on the scale of its terms, so that an entry near zero has no correct digits of
    its own: a tolerance relative to each entry would fail with the processor's order of summing.
    """
    assert actual.shape == expected.shape and actual.dtype == expected.dtype, name
    largest = float(expected.detach().abs().max())
    error = float((actual.detach() - expected.detach()).abs().max())
    assert error <= tolerance * largest, (
        f"{name}: off by {error:.2e}, {error / largest:.1e} of the largest entry {largest:.2e}; "
        f"allowed {tolerance:.0e} of it"
    )
