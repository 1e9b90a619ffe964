"""Plain modules that compute what a Lipschitz layer computes: its weights without their map."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["PlainBlock", "PlainShear", "Scale", "linear"]


class Scale(nn.Module):
    """Multiply by a number.

    Args:
        factor: The number.
    """

    def __init__(self, factor: float) -> None:
        """Keep the number."""
        super().__init__()
        self.factor = factor

    @property
    def lipschitz(self) -> float:
        """The size of the number."""
        return abs(self.factor)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        return x if self.factor == 1.0 else self.factor * x

    def extra_repr(self) -> str:
        """Show the number."""
        return f"factor={self.factor:g}"


class PlainBlock(nn.Module):
    """y = A x + Σ_k B_k w_k + b_y with w_k = σ(C_k w_{k-1} + b_k): linear layers and nothing else.

    Args:
        skip: A as a module, or None for no skip.
        inner: C_k and b_k, linear layers or convolutions. A linear one that is as wide as all
            earlier signals together reads them all.
        taps: B_k, or None where a layer does not reach the output; the last carries b_y.
        activation: σ.
    """

    def __init__(
        self,
        skip: nn.Module | None,
        inner: Sequence[nn.Module],
        taps: Sequence[nn.Module | None],
        activation: nn.Module,
    ) -> None:
        """Keep the parts."""
        super().__init__()
        self.skip = skip
        self.inner = nn.ModuleList(inner)
        self.taps = nn.ModuleList(nn.Identity() if t is None else t for t in taps)
        self.tapped = tuple(t is not None for t in taps)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        signals, out = [x], None if self.skip is None else self.skip(x)
        for linear, tap, tapped in zip(self.inner, self.taps, self.tapped, strict=True):
            last = signals[-1]
            if isinstance(linear, nn.Linear) and linear.in_features != last.shape[-1]:
                last = torch.cat(signals, dim=-1)
            signals.append(self.activation(linear(last)))
            if tapped:
                update = tap(signals[-1])
                out = update if out is None else out + update
        assert out is not None
        return out


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Return a linear layer that holds copies of these."""
    layer = nn.Linear(
        weight.shape[1], weight.shape[0], bias is not None, device=weight.device, dtype=weight.dtype
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


class PlainShear(nn.Module):
    """y = skip · x + outer(σ(inner(x))): the convolutional block in plain modules.

    Args:
        skip: The factor of the input.
        inner: The convolution of the branch, with its bias.
        outer: The transposed convolution back.
        activation: σ.
    """

    def __init__(
        self, skip: float, inner: nn.Conv2d, outer: nn.ConvTranspose2d, activation: nn.Module
    ) -> None:
        """Keep the parts."""
        super().__init__()
        self.scale = Scale(skip)
        self.inner, self.outer, self.activation = inner, outer, activation

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        return self.scale(x) + self.outer(self.activation(self.inner(x)))
