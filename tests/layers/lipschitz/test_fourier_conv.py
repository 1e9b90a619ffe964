"""A circular convolution by real matrix products is the convolution."""

import pytest
import torch
from archzoo.layers.lipschitz import FourierConv2d, through_fourier
from torch import nn


def circular(size: tuple[int, int], channels: int = 3, bias: bool = True) -> nn.Conv2d:
    """A circular convolution with a kernel of the image's size, in float64."""
    how = {"padding": "same", "padding_mode": "circular", "bias": bias}
    return nn.Conv2d(channels, 4, size, **how).double()


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (6, 9), (9, 6), (1, 5), (5, 1), (1, 1), (2, 2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch copies for an even kernel
def test_the_products_are_the_convolution(size, bias):
    conv = circular(size, bias=bias)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    # float64; some hundred products of numbers of order 1.
    torch.testing.assert_close(FourierConv2d(conv)(x), conv(x), rtol=0.0, atol=1e-13)


def test_only_what_takes_fewer_products_is_exchanged():
    small, large = circular((3, 3), channels=1), circular((16, 16), channels=8)
    net = through_fourier(nn.Sequential(small, nn.Sequential(large), nn.Conv2d(4, 4, 9)))
    assert [type(part) for part in (net[0], net[1][0], net[2])] == [
        nn.Conv2d, FourierConv2d, nn.Conv2d
    ]  # fmt: skip
