"""Linear and convolutional layers whose weight has a structure, and the face for raw matrices."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...autocast import without_autocast
from .factors import Factors
from .structure import ConvSettings, WeightStructure
from .unfolding import Scheme, Unfolding

__all__ = [
    "FactoredConv2d",
    "FactoredLinear",
    "FactoredParameter",
    "conv_settings",
    "remove_parametrization",
]


class FactoredLinear(nn.Module):
    """y = W x + b, where a structure stands for W (out_features, in_features).

    Args:
        structure: What W is made of.
        bias: b (out_features,), or None.

    Shape:
        (..., in_features) -> (..., out_features).
    """

    no_units = "its factors have inner channels of no order and no scale; merge them first"

    def __init__(self, structure: WeightStructure, bias: Tensor | None = None) -> None:
        """Take the structure and copy the bias."""
        super().__init__()
        self.out_features, self.in_features = structure.shape
        self.structure = structure
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    @classmethod
    def from_dense(cls, linear: nn.Linear, structure: WeightStructure) -> "FactoredLinear":
        """Put a structure in the place of a linear layer's weight; the bias is kept as it is."""
        layer = cls(structure)
        layer.bias = cast(nn.Parameter | None, linear.bias)
        return layer.train(linear.training)

    @property
    def is_matrix(self) -> bool:
        """Whether `weight` exists: no activation stands between two factors."""
        return self.structure.is_matrix

    @property
    def weight(self) -> Tensor:
        """W, formed anew at every access, for code that reads it off a linear layer.

        Raises:
            ValueError: no single matrix exists.
        """
        return self.structure.dense()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the structure."""
        return self.structure.linear(x, self.bias)

    @torch.no_grad()
    def to_dense(self) -> nn.Linear:
        """Return a plain linear layer with the same outputs."""
        linear = _linear(self.weight, self.bias, self.structure.trained)
        return linear.train(self.training)

    @torch.no_grad()
    def to_sequence(self) -> nn.Sequential:
        """Return plain layers that, one after the other, have the same outputs.

        Raises:
            ValueError: the structure is more than a chain of two factors.
        """
        first, between, second = _chain(self.structure)
        trained = self.structure.trained
        layers = _linear(first, None, trained), *between, _linear(second, self.bias, trained)
        return nn.Sequential(*layers).train(self.training)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class FactoredConv2d(nn.Module):
    """A convolution whose kernel, unfolded to a matrix, has a structure.

    Args:
        structure: What the matrix is made of, in the shape that the unfolding gives.
        settings: Unfolding, stride, padding, dilation and padding mode.
        bias: (out_channels,), or None.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, H', W').
    """

    no_units = "its factors have inner channels of no order and no scale; merge them first"

    def __init__(
        self, structure: WeightStructure, settings: ConvSettings, bias: Tensor | None = None
    ) -> None:
        """Take the structure and copy the bias."""
        super().__init__()
        self.structure, self.settings = structure, settings
        outputs, inputs, *kernel = settings.unfolding.kernel_shape
        self.out_channels, self.kernel_size = outputs, tuple(kernel)
        self.groups = settings.unfolding.groups
        self.in_channels = inputs * self.groups
        self.stride, self.padding = settings.stride, settings.padding
        self.dilation, self.padding_mode = settings.dilation, settings.padding_mode
        self.memory_format = torch.contiguous_format  # of the kernel, once it is dense again
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    @classmethod
    def from_dense(
        cls, conv: nn.Conv2d, structure: WeightStructure, scheme: Scheme = "channel"
    ) -> "FactoredConv2d":
        """Put a structure in the place of a convolution's kernel; the bias is kept as it is."""
        layer = cls(structure, conv_settings(conv, scheme))
        channels_last = conv.weight.is_contiguous(memory_format=torch.channels_last)
        if channels_last and not conv.weight.is_contiguous():
            layer.memory_format = torch.channels_last
        layer.bias = conv.bias
        return layer.train(conv.training)

    @property
    def weight(self) -> Tensor:
        """The kernel, formed anew at every access.

        Raises:
            ValueError: no single kernel exists.
        """
        return self.settings.unfolding.to_kernel(self.structure.dense())

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return self.structure.convolve(x, self.bias, self.settings)

    @torch.no_grad()
    def to_dense(self) -> nn.Conv2d:
        """Return a plain convolution with the same outputs."""
        how, trained = self.settings.arguments(), self.structure.trained
        conv = _conv(self.weight, self.bias, trained, self.groups, **how)
        return conv.to(memory_format=self.memory_format).train(self.training)

    @torch.no_grad()
    def to_sequence(self) -> nn.Sequential:
        """Return plain layers that, one after the other, have the same outputs.

        Raises:
            ValueError: the structure is more than a chain of two factors, or `padding="same"` of an
                even kernel, whose margins differ.
        """
        unfolding = self.settings.unfolding
        right, between, left = _chain(self.structure)
        first, second = unfolding.kernels(left, right)
        before, after = unfolding.movements(**self.settings.arguments())
        trained = self.structure.trained
        layers = (
            _conv(first, None, trained, self.groups, **before.arguments()),
            *between,
            _conv(second, self.bias, trained, unfolding.second_groups, **after.arguments()),
        )
        return nn.Sequential(*layers).train(self.training)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, scheme={self.settings.unfolding.scheme}, "
            f"bias={self.bias is not None}"
        )


class FactoredParameter(nn.Module):
    """The face for a layer that consumes a raw matrix: a parametrisation of that parameter.

    Everything that the layer does with its parameter stays as it is, and costs what it did; only
    what is stored and trained changes. Registered with
    `torch.nn.utils.parametrize.register_parametrization(module, name, face, unsafe=True)`; the
    tensor that PyTorch keeps as the original is then empty.

    Args:
        structure: What the matrix is made of.
        unfolding: How a kernel is that matrix, or None for a matrix.
    """

    def __init__(self, structure: WeightStructure, unfolding: Unfolding | None = None) -> None:
        """Take the structure."""
        super().__init__()
        self.structure, self.unfolding = structure, unfolding

    def forward(self, original: Tensor) -> Tensor:
        """Return the parameter in its own dtype, as a dense one is; the empty original is ignored.

        Autocast would send the products that make it up to half precision.
        """
        with without_autocast(original):
            dense = self.structure.dense()
        return dense if self.unfolding is None else self.unfolding.to_kernel(dense)

    def right_inverse(self, value: Tensor) -> Tensor:
        """Keep nothing of a value: the structure was made from it."""
        return value.new_empty(0)


def remove_parametrization(module: nn.Module, name: str) -> None:
    """Leave a parametrised parameter as a plain one of its present value.

    Copies of a module share the class that PyTorch made for it, and
    `torch.nn.utils.parametrize.remove_parametrizations` takes the property off that class, which
    would break the others; here the module gets a class of its own first. The parameter is then
    trained if anything of its structure was.
    """
    face = cast(Any, module.parametrizations)[name][0]
    kind = type(module)
    body = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
    module.__class__ = cast(Any, type(kind))(kind.__name__, kind.__bases__, body)
    parametrize.remove_parametrizations(module, name)
    if isinstance(face, FactoredParameter):
        cast(nn.Parameter, getattr(module, name)).requires_grad_(face.structure.trained)


def conv_settings(conv: nn.Conv2d, scheme: Scheme) -> ConvSettings:
    """Read off a convolution how it moves, for an unfolding of its kernel."""
    shape = cast(tuple[int, int, int, int], tuple(conv.weight.shape))
    return ConvSettings(
        Unfolding(scheme, shape, conv.groups),
        cast(tuple[int, int], conv.stride),
        cast(Any, conv.padding),
        cast(tuple[int, int], conv.dilation),
        conv.padding_mode,
    )


def _chain(structure: WeightStructure) -> tuple[Tensor, list[nn.Module], Tensor]:
    """Return the first matrix, what stands between, and the second matrix of a chain of factors."""
    if not isinstance(structure, Factors) or structure.extra is not None or structure.gate:
        raise ValueError(f"{type(structure).__name__} is not a chain of two factors")
    left, right = structure.prefix()
    between = structure.between
    if between is not None and not isinstance(between, nn.Module):
        raise ValueError(f"{between} between the factors is no module")
    return right, [] if between is None else [between], structure.scaling() * left


def _linear(weight: Tensor, bias: nn.Parameter | None, trained: bool) -> nn.Linear:
    like: Any = {"device": weight.device, "dtype": weight.dtype}
    linear = nn.utils.skip_init(nn.Linear, *weight.shape[::-1], bias is not None, **like)
    assert isinstance(linear, nn.Linear)
    linear.weight.copy_(weight).requires_grad_(trained)
    linear.register_parameter("bias", bias)
    return linear


def _conv(
    weight: Tensor, bias: nn.Parameter | None, trained: bool, groups: int, **arguments: Any
) -> nn.Conv2d:
    outputs, inputs, *kernel = weight.shape
    like: Any = {"device": weight.device, "dtype": weight.dtype}
    conv = nn.utils.skip_init(
        nn.Conv2d,
        inputs * groups,
        outputs,
        tuple(kernel),
        groups=groups,
        bias=bias is not None,
        **arguments,
        **like,
    )
    assert isinstance(conv, nn.Conv2d)
    conv.weight.copy_(weight).requires_grad_(trained)
    conv.register_parameter("bias", bias)
    return conv
