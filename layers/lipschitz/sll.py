"""SLL blocks: residual blocks with one inner layer whose bound is a diagonal matrix.

    y = L x − 2 Wᵀ T⁻¹ σ(L W x + b),   T = diag(Σ_j |W Wᵀ|_ij q_j / q_i) ≥ W Wᵀ,   q > 0 learned

T ≥ W Wᵀ by diagonal dominance, tight only where the rows of W are orthogonal. For convolutions the
sum also runs over the taps of the kernel's correlation with itself, so the weights fit any image
size: with zero padding W Wᵀ is at most that of the whole plane. This is the scalable form of an
LDLᵀ block with the skip L I: in the terms of P(L), C = L W, Λ = 2 T⁻¹, B = −Cᵀ Λ / L.

Source: Araujo et al. 2023, "A unified algebraic perspective on Lipschitz neural networks",
arXiv:2303.03169, theorem 3 (SDP-based Lipschitz layers).
Differs from it: any L, any activation with slopes in [0, 1], q is the exponential of a free
parameter, and a floor of 1e-12 under T keeps a zero row finite (a larger T keeps the bound).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..sizes import check_sizes
from .layer import LipschitzLayer, ShearWeight, check_lipschitz
from .lipschitz_activation import make_activation
from .plain_modules import PlainBlock, PlainShear, Scale, linear
from .proof.inequality import LMIBlock

__all__ = ["SLLBlock", "SLLConv2d", "check_kernel", "diagonal_bound", "kernel_gram"]

FLOOR = 1e-12


def diagonal_bound(gram: Tensor, log_q: Tensor) -> Tensor:
    """Return T_i = Σ_j |G_ij| q_j / q_i, with diag(T) ≥ G, plus a floor.

    Args:
        gram: |G| summed over everything but its two channel axes (R, R), or G itself.
        log_q: log q (R,).
    """
    q = log_q.exp()
    return gram.abs() @ q / q + FLOOR


def kernel_gram(kernel: Tensor) -> Tensor:
    """Return Σ over shifts of |kernel correlated with itself|, (out, out).

    Args:
        kernel: (out, in, k, k).
    """
    rows, columns = kernel.shape[-2:]
    return F.conv2d(kernel, kernel, padding=(rows - 1, columns - 1)).abs().sum((-2, -1))


class _SLL(LipschitzLayer):
    """What the dense and the convolutional block share."""

    def __init__(
        self, shape: tuple[int, ...], lipschitz: float, activation: str | nn.Module
    ) -> None:
        super().__init__()
        self.lipschitz = check_lipschitz(lipschitz)
        self.activation = make_activation(activation)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape[0]))
        self.log_q = nn.Parameter(torch.empty(shape[0]))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw W as Xavier does, zero b, and set q to 1."""
        nn.init.xavier_normal_(self.weight)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.log_q)

    def compute(self, parameters: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Map W and q to C = L W and Λ = 2 T⁻¹."""
        w = parameters["weight"]
        gram = w @ w.mT if w.dim() == 2 else kernel_gram(w)
        return self.lipschitz * w, 2 / diagonal_bound(gram, parameters["log_q"])

    def finish(self, weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Add −Λ C / L, whose transpose is B, made from C after the cast."""
        c, multiplier = weights
        scale = -multiplier / self.lipschitz
        return c, scale.view(-1, *[1] * (c.dim() - 1)) * c, multiplier


class SLLBlock(_SLL):
    """A dense SLL block.

    Args:
        width: Length of input and output.
        hidden: Length of the inner layer; None is `width`.
        lipschitz: L > 0.
        activation: A name of `ACTIVATIONS`, or a module of such a class.

    Shape:
        (…, width) -> (…, width).

    Raises:
        ValueError: a size below 1, L ≤ 0, or an activation with slopes outside [0, 1].
    """

    def __init__(
        self,
        width: int,
        hidden: int | None = None,
        *,
        lipschitz: float = 1.0,
        activation: str | nn.Module = "relu",
    ) -> None:
        """Make W, b and q."""
        hidden = width if hidden is None else hidden
        check_sizes(1, width=width, hidden=hidden)
        super().__init__((hidden, width), lipschitz, activation)

    @torch.no_grad()
    def effective(self) -> LMIBlock:
        """Return the weights that the forward uses right now."""
        c, outer, multiplier = self.weights()
        eye = torch.eye(c.shape[1], dtype=c.dtype, device=c.device)
        return LMIBlock(self.lipschitz * eye, (c,), (outer.mT,), (multiplier,))

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        c, outer, _ = self.weights()
        w = self.activation(F.linear(x, c, self.bias))
        update = F.linear(w, outer.mT)
        return update + (x if self.lipschitz == 1 else self.lipschitz * x)

    @torch.no_grad()
    def export(self) -> PlainBlock:
        """Return plain linear layers with equal outputs."""
        block = self.effective()
        inner, tap = linear(block.inner[0], self.bias), block.taps[0]
        assert tap is not None
        return PlainBlock(Scale(self.lipschitz), [inner], [linear(tap)], self.activation)

    def extra_repr(self) -> str:
        """Show the sizes and the bound."""
        hidden, width = self.weight.shape
        return f"width={width}, hidden={hidden}, lipschitz={self.lipschitz:g}"


class SLLConv2d(_SLL):
    """A zero-padded convolutional SLL block of stride 1, for images of any size.

    Args:
        channels: Channels of input and output.
        hidden: Channels of the inner layer; None is `channels`.
        kernel_size: Odd side of the kernel.
        lipschitz: L > 0.
        activation: A name of `ACTIVATIONS`, or a module of such a class.

    Shape:
        (B, channels, H, W) -> the same.

    Raises:
        ValueError: a size below 1, an even kernel, L ≤ 0, or an activation with slopes outside
            [0, 1].
    """

    def __init__(
        self,
        channels: int,
        hidden: int | None = None,
        kernel_size: int = 3,
        *,
        lipschitz: float = 1.0,
        activation: str | nn.Module = "relu",
    ) -> None:
        """Make the kernel, b and q."""
        hidden = channels if hidden is None else hidden
        check_sizes(1, channels=channels, hidden=hidden)
        check_kernel(kernel_size)
        super().__init__((hidden, channels, kernel_size, kernel_size), lipschitz, activation)
        self.padding = kernel_size // 2

    @torch.no_grad()
    def effective(self) -> ShearWeight:
        """Return the weights that the forward uses right now."""
        c, outer, multiplier = self.weights()
        return ShearWeight(self.lipschitz, c, outer, multiplier, self.padding)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        c, outer, _ = self.weights()
        w = self.activation(F.conv2d(x, c, self.bias, padding=self.padding))
        update = F.conv_transpose2d(w, outer, padding=self.padding)
        return update + (x if self.lipschitz == 1 else self.lipschitz * x)

    @torch.no_grad()
    def export(self) -> PlainShear:
        """Return plain convolutions with equal outputs."""
        weight = self.effective()
        hidden, channels, side, _ = weight.inner.shape
        make = {"padding": self.padding, "device": self.weight.device, "dtype": self.weight.dtype}
        inner = nn.Conv2d(channels, hidden, side, **make)
        outer = nn.ConvTranspose2d(hidden, channels, side, bias=False, **make)
        inner.weight.copy_(weight.inner)
        outer.weight.copy_(weight.outer)
        if inner.bias is not None:
            inner.bias.copy_(self.bias)
        return PlainShear(self.lipschitz, inner, outer, self.activation)

    def extra_repr(self) -> str:
        """Show the sizes and the bound."""
        hidden, channels, side, _ = self.weight.shape
        return (
            f"channels={channels}, hidden={hidden}, kernel_size={side}, "
            f"lipschitz={self.lipschitz:g}"
        )


def check_kernel(kernel_size: int) -> None:
    """Refuse a kernel without a middle.

    Raises:
        ValueError: an even side, or one below 1.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and at least 1, got {kernel_size}")
