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
from torch.nn.utils import parametrize

from ..autocast import without_autocast

__all__ = ["ConvWeight", "FrequencyWeight", "LinearWeight", "LipschitzLayer", "ShearWeight"]


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
    while no gradient to the parameters is asked for, and dropped by `train`, by a load, by a move
    and by any in-place change of a parameter (through `.data`, which PyTorch does not count as a
    change, only if the storage moves: call `forget` after it).

    Attributes:
        lipschitz: The constant that the construction gives in real arithmetic.
    """

    lipschitz: float = 1.0

    def __init__(self) -> None:
        """Start without cached weights."""
        super().__init__()
        self._cached: tuple[list[Any], tuple[Tensor, ...]] | None = None

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
        """
        # A cached layer is to cost no more than a plain one, so this is short where it is frequent.
        stored = self._stored()
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in stored)
        if self.training or learns or torch.compiler.is_compiling():
            return self._map(self._free_parameters())
        # What inference mode makes cannot serve a later backward pass.
        state: list[Any] = [key, torch.is_inference_mode_enabled()]
        for t in stored:
            state += (t.data_ptr(), t._version, t.dtype, t.device)
        if self._cached is None or self._cached[0] != state:
            self._cached = state, self._map(self._free_parameters())
        return self._cached[1]

    def forget(self) -> None:
        """Drop the cached weights."""
        self._cached = None

    def train(self, mode: bool = True) -> "LipschitzLayer":
        """Switch the mode and drop the cached weights."""
        self.forget()
        return super().train(mode)

    @property
    def matrix_parameters(self) -> tuple[str, ...]:
        """Names of the free matrices and kernels, for which a product of factors may stand."""
        return tuple(
            name for name, p in self._parameters.items() if p is not None and p.dim() in (2, 4)
        )

    def _free_parameters(self) -> dict[str, Tensor]:
        """Return the layer's own parameters, those with a parametrisation included."""
        own: dict[str, Tensor] = {n: p for n, p in self._parameters.items() if p is not None}
        if parametrize.is_parametrized(self):
            own |= {name: getattr(self, name) for name in self.parametrizations}  # type: ignore
        return own

    def _stored(self) -> list[Tensor]:
        """Return all that the weights follow from, down to the factors of a parameter."""
        own: list[Tensor] = [p for p in self._parameters.values() if p is not None]
        faces = self._modules.get("parametrizations")
        return own if faces is None else [*own, *faces.parameters(), *faces.buffers()]

    def _learns(self, own: Mapping[str, Tensor]) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in own.values())

    def _map(self, own: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        like = next(iter(own.values()))
        with without_autocast(like):
            # Tensors without data have no values to look at.
            plain = not (like.is_meta or torch.compiler.is_compiling())
            if plain:
                refuse_nan(type(self).__name__, own)
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
    """Refuse parameters that hold NaN or infinities.

    Raises:
        ValueError: naming the layer and the parameter.
    """
    for name, p in parameters.items():
        # A sum is finite only where its terms are, and float64 holds any sum of narrower numbers.
        sound = math.isfinite(float(p.detach().sum()))
        if not sound and not math.isfinite(float(p.detach().sum(dtype=torch.float64))):
            raise ValueError(
                f"{layer}: the parameter {name} holds NaN or infinite values, for which no weights "
                f"exist; load sound weights or train with a lower rate"
            )


def check_lipschitz(lipschitz: float) -> float:
    """Return the bound of a layer.

    Raises:
        ValueError: L ≤ 0, infinite or NaN.
    """
    if not 0 < lipschitz < math.inf:
        raise ValueError(f"lipschitz must be a positive number, got {lipschitz}")
    return float(lipschitz)
