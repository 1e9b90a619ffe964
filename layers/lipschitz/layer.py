"""What every layer with a Lipschitz constant by construction answers, and its cached weights.

A layer owns free parameters; a map, computed in float64 with autocast off, turns them into the
plain weights that its forward multiplies by, cast back once to the dtype of the parameters. The
constant is a statement about these *effective* weights, so a certificate reads `effective()` and
never the parameters or `lipschitz`.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx._symbolic_trace import is_fx_symbolic_tracing
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from ..autocast import without_autocast
from ..fast_path import is_transformed
from .weight_cache import Kept, numbers, readable, untraced

__all__ = [
    "ConvWeight",
    "FrequencyWeight",
    "LinearWeight",
    "LipschitzLayer",
    "ShearWeight",
    "check_lipschitz",
]


class LinearWeight(NamedTuple):
    """x -> weight @ x + bias, weight (out, in)."""

    weight: Tensor


class ConvWeight(NamedTuple):
    """A convolution with weight (out, in, k, k), zero padding `padding` and stride 1."""

    weight: Tensor
    padding: int


class FrequencyWeight(NamedTuple):
    """A circular convolution on a grid: weight (H, W // 2 + 1, out, in), complex, of its real FFT.

    `padding` zeros surround the image before it and are cropped after.
    """

    weight: Tensor
    padding: int


class ShearWeight(NamedTuple):
    """The block x -> skip · x + outer(σ(inner(x) + b)) of two zero-padded convolutions.

    `inner` (hidden, channels, k, k) is the weight of `conv2d`, `outer`, of the same shape, that of
    `conv_transpose2d`, both with zero padding `padding`; λ (hidden,) are multipliers per channel.
    """

    skip: float
    inner: Tensor
    outer: Tensor
    multipliers: Tensor
    padding: int


class LipschitzLayer(nn.Module):
    """A layer whose weights come from a map of its parameters, cached in evaluation.

    A subclass implements `compute`, which receives its parameters in float64 by name and returns a
    tuple of weights; `weights` returns these in the parameters' dtype. In evaluation they are kept
    while no gradient to the parameters is asked for, and never serve other parameters than those
    they were computed from: each call compares the numbers, so that a load, a move and any change
    in place, through `.data` too, count. `train` drops them; copies and pickles do not hold them.

    Attributes:
        lipschitz: The constant that the construction gives in real arithmetic.
    """

    lipschitz: float = 1.0

    def __init__(self) -> None:
        """Start without cached weights."""
        super().__init__()
        self._kept: Kept | None = None

    def compute(self, parameters: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Map float64 parameters to weights."""
        raise NotImplementedError

    def compute_narrow(self, parameters: Mapping[str, Tensor]) -> tuple[Tensor, ...] | None:
        """Return the weights that `compute` gives, from parameters narrower than float64.

        For a map with a backward pass of its own, in single precision; it is asked in eager mode
        where gradients are wanted. None, the default, leaves it to `compute`.
        """
        return None

    def finish(self, weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Complete the weights after the cast, by what must follow from the cast ones exactly."""
        return weights

    def effective(self) -> Any:
        """Return the plain weights that the forward uses right now, after every cast.

        An `LMIBlock` for a block with an activation inside, `LinearWeight`, `ConvWeight`,
        `FrequencyWeight` or `ShearWeight` for the others.
        """
        raise NotImplementedError

    def export(self) -> nn.Module:
        """Return plain PyTorch modules with the same outputs and no parametrisation."""
        raise NotImplementedError

    def weights(self, key: Any = None) -> tuple[Tensor, ...]:
        """Return the weights of the current parameters.

        Args:
            key: Whatever else the map depends on, such as the image size.

        Raises:
            ValueError: a layer in training mode that `torch.fx` traces, which would take its
                weights for constants: parameters that are trained, and change nothing.
        """
        # `make_fx`, whose mode this is, records the map; `torch.fx` runs it.
        if self.training and is_fx_symbolic_tracing() and get_proxy_mode() is None:
            raise ValueError(
                f"torch.fx takes the weights of {type(self).__name__} for constants, so that they "
                f"would not train; trace in evaluation mode, or use torch.export"
            )
        if not self.training and torch.jit.is_tracing():
            with untraced():
                return self.weights(key)
        # A layer with kept weights is to cost no more than a plain one.
        own = self._free_parameters()
        if self.training or torch.compiler.is_compiling() or self._learns(own):
            return self._map(own)
        sources = own | {n: b for n, b in self._buffers.items() if b is not None}
        if not readable(sources):
            return self._map(own)
        # What inference mode makes cannot serve a later backward pass.
        whole = key, self.lipschitz, torch.is_inference_mode_enabled()
        kept = self._kept
        if kept is None or not kept.serves(whole, sources):
            self._kept = kept = Kept(whole, sources, self._map(own))
        return kept.weights

    def forget(self) -> None:
        """Drop the cached weights."""
        self._kept = None

    def train(self, mode: bool = True) -> "LipschitzLayer":
        """Switch the mode and drop the cached weights."""
        self.forget()
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the kept weights out of copies and pickles: a copy makes its own."""
        return self.__dict__ | {"_kept": None}

    @property
    def matrix_parameters(self) -> tuple[str, ...]:
        """Names of the free matrices and kernels, for which a product of factors may stand."""
        return tuple(
            name for name, p in self._parameters.items() if p is not None and p.dim() in (2, 4)
        )

    def _free_parameters(self) -> dict[str, Tensor]:
        """Return the layer's own parameters, those with a parametrisation included."""
        own: dict[str, Tensor] = {n: p for n, p in self._parameters.items() if p is not None}
        if "parametrizations" in self._modules:
            own |= {name: getattr(self, name) for name in self.parametrizations}  # type: ignore
        return own

    def _learns(self, own: Mapping[str, Tensor]) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in own.values())

    def _map(self, own: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        like = next(iter(own.values()))
        with without_autocast(like):
            # Tensors without data have no values to look at.
            plain = not (like.is_meta or torch.compiler.is_compiling())
            if plain:
                refuse_nan(type(self).__name__, own)
            # Transforms of torch.func differentiate and vectorise the definition.
            plain = plain and not is_transformed()
            if plain and like.dtype != torch.float64 and self._learns(own):
                narrow = self.compute_narrow(own)
                if narrow is not None:
                    return self.finish(narrow)
            doubled = {name: p.double() for name, p in own.items()}
            # No transform is taken in half precision, so complex weights have none either.
            pairs = torch.complex128 if like.dtype == torch.float64 else torch.complex64
            weights = self.compute(doubled)
            return self.finish(
                tuple(w.to(pairs if w.is_complex() else like.dtype) for w in weights)
            )


def refuse_nan(layer: str, parameters: Mapping[str, Tensor]) -> None:
    """Refuse parameters that hold NaN or infinities, inside transforms of `torch.func` too.

    Raises:
        ValueError: naming the layer and the parameter.
    """
    with torch._C._DisableFuncTorch():
        for name, p in parameters.items():
            value = numbers(p)
            # A sum is finite only where its terms are, and float64 holds any of narrower numbers.
            if value is None or math.isfinite(float(value.sum())):
                continue
            if not math.isfinite(float(value.sum(dtype=torch.float64))):
                raise ValueError(
                    f"{layer}: the parameter {name} holds NaN or infinite values, for which no "
                    f"weights exist; load sound weights or train with a lower rate"
                )


def check_lipschitz(lipschitz: float) -> float:
    """Return the bound of a layer.

    Raises:
        ValueError: L ≤ 0, infinite or NaN.
    """
    if not 0 < lipschitz < math.inf:
        raise ValueError(f"lipschitz must be a positive number, got {lipschitz}")
    return float(lipschitz)
