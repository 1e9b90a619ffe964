"""Orthogonal convolutions by block reflectors, one at every frequency.

    W(ω) = I − 2 V(ω) (V(ω)ᴴ V(ω))⁻¹ V(ω)ᴴ

V is the transform of a real kernel with fewer outputs than channels (the rank): W reflects the
image's spectrum at V's span, so a circular convolution with W keeps norms exactly. With `padding`
zeros surround the image before and the border is cropped after, which can only lower norms.

Source: Lai et al. 2025, "Enhancing certified robustness via block reflector orthogonal layers and
logit annealing loss", arXiv:2505.15174, §4.
Differs from it: equal numbers of input and output channels only (change them by an isometry); Vᴴ V
carries a multiple of rounding on its diagonal, under which W stays a contraction.
"""

import torch
from torch import Tensor, nn

from ..sizes import check_sizes
from .layer import FrequencyWeight, LipschitzLayer
from .ldlt.circular import (
    Bordered,
    apply_frequencies,
    circular_conv,
    crop,
    kernel_frequencies,
    pad,
)
from .ldlt.contraction import solve_left
from .sll import check_kernel

__all__ = ["OrthogonalConv2d", "block_reflector"]


def block_reflector(v: Tensor) -> Tensor:
    """Return I − 2 V (Vᴴ V)⁻¹ Vᴴ, Hermitian and orthogonal.

    Args:
        v: V (…, D, R), R ≤ D, of full rank or not.

    Returns:
        (…, D, D) with eigenvalues in [−1, 1].
    """
    gram = v.mH @ v
    size = torch.real(gram.detach().diagonal(dim1=-2, dim2=-1)).sum(-1)[..., None, None]
    tiny = torch.finfo(gram.dtype)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor = torch.linalg.cholesky(gram + (sum(v.shape[-2:]) * tiny.eps * size + tiny.tiny) * eye)
    x = solve_left(factor, v.mH)
    return torch.eye(v.shape[-2], dtype=v.dtype, device=v.device) - 2 * x.mH @ x


class OrthogonalConv2d(LipschitzLayer):
    """An orthogonal convolution of as many outputs as inputs.

    The weights belong to an image size, the one given or that of the last input.

    Args:
        channels: Channels, at least 2.
        kernel_size: Odd side of the free kernel.
        rank: Rows that V spans, in [1, channels); None is channels // 2.
        padding: Zeros around the image, cropped after; 0 is circular and exactly orthogonal.
        image_size: (H, W), known before the first input; None takes it from there.
        bias: Whether b is learned.

    Shape:
        (B, channels, H, W) -> the same.

    Raises:
        ValueError: a size out of range, an even kernel, or at the call an image smaller than it.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        *,
        rank: int | None = None,
        padding: int | None = None,
        image_size: tuple[int, int] | None = None,
        bias: bool = True,
    ) -> None:
        """Make V and b."""
        super().__init__()
        check_sizes(1, channels=channels)
        check_kernel(kernel_size)
        rank = channels // 2 if rank is None else rank
        if not 1 <= rank < channels:
            raise ValueError(f"rank must lie in [1, {channels}), got {rank}")
        self.channels, self.kernel_size, self.rank = channels, kernel_size, rank
        self.padding = kernel_size // 2 if padding is None else padding
        if self.padding < 0:
            raise ValueError(f"padding must be at least 0, got {padding}")
        self._seen = image_size
        self.weight = nn.Parameter(torch.empty(channels, rank, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw V, and zero b."""
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def compute(self, parameters: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Map V to W at every frequency."""
        assert self._seen is not None
        grid = (self._seen[0] + 2 * self.padding, self._seen[1] + 2 * self.padding)
        return (block_reflector(kernel_frequencies(parameters["weight"], grid)),)

    @torch.no_grad()
    def effective(self) -> FrequencyWeight:
        """Return the transfer matrices that the forward uses right now.

        Raises:
            ValueError: no image size is known yet.
        """
        return FrequencyWeight(self.weights(self._size())[0], self.padding)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        self._seen = (x.shape[-2], x.shape[-1])
        y = apply_frequencies(self.weights(self._seen)[0], pad(x, self.padding))
        y = crop(y, self.padding)
        return y if self.bias is None else y + self.bias[:, None, None]

    @torch.no_grad()
    def export(self) -> nn.Module:
        """Return a plain circular convolution for the image size known, with equal outputs.

        Raises:
            ValueError: no image size is known yet.
        """
        weight, (rows, columns) = self.effective().weight, self._size()
        grid = (rows + 2 * self.padding, columns + 2 * self.padding)
        conv = circular_conv(weight, self.bias, grid)
        return Bordered(conv, self.padding) if self.padding else conv

    def _size(self) -> tuple[int, int]:
        if self._seen is None:
            raise ValueError(
                "the weights belong to an image size: set image_size, or run the layer once"
            )
        return self._seen

    def extra_repr(self) -> str:
        """Show the sizes."""
        return (
            f"channels={self.channels}, kernel_size={self.kernel_size}, rank={self.rank}, "
            f"padding={self.padding}"
        )
