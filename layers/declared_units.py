"""Whose units the parameters of a layer belong to: its own word, or what is known of torch's."""

from collections.abc import Mapping

from torch import nn

__all__ = ["CONVOLUTIONS", "Label", "computes_as", "unit_axes_of"]

Label = None | str | tuple[int | str, ...]
"""Of an axis; see `units`."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Of these, none tells channels apart; a flattened map of pixels does not fit what comes after it.
PASSING = (
    *(nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.MaxPool2d, nn.AvgPool2d),
    *(nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU),
    *(nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Hardswish, nn.Hardtanh),
)
TORCH: dict[type[nn.Module], dict[str, tuple[Label, ...]]] = {
    nn.Linear: {"weight": ("out", "in"), "bias": ("out",)},
    nn.Embedding: {"weight": (None, "out")},
    nn.LayerNorm: {"weight": ("in",), "bias": ("in",)},
    nn.RMSNorm: {"weight": ("in",)},
    **{kind: {} for kind in PASSING},
    **{
        norm: {name: ("in",) for name in ("weight", "bias", "running_mean", "running_var")}
        for norm in BATCH_NORMS
    },
    **{
        conv: {"weight": ("out", "in", *[None] * axes), "bias": ("out",)}
        for axes, conv in enumerate(CONVOLUTIONS, 1)
    },
}
"""What layers of torch would declare."""


def unit_axes_of(module: nn.Module) -> Mapping[str, tuple[Label, ...]] | None:
    """Return the labels of each axis of a layer's parameters and buffers; None where it says none.

    Args:
        module: Its class has `unit_axes`, or is one of torch's, or of such a one's that computes
            the same.
    """
    known = (
        TORCH[kind] for kind in type(module).__mro__ if kind in TORCH and computes_as(module, kind)
    )
    return getattr(module, "unit_axes", next(known, None))


def computes_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module of a kind has its forward pass, and not one of its own."""
    return type(module).forward is kind.forward
