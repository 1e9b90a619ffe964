"""Mixed precision of a run, and the convolutions whose gradient a CPU gets wrong in it.

Where a kernel strides over an image so small that some of its entries meet padding alone, the
gradient of these entries is zero. In bfloat16 oneDNN does not write it: the memory keeps what it
held, often NaN, and clipping by the norm spreads that to every weight.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...layers.modes import evaluating

__all__ = ["autocast", "meets_padding_alone", "refuse_unset_gradients"]

HALF = (torch.bfloat16, torch.float16)


def autocast(device: str, amp: str) -> torch.autocast:
    """The precision of a forward pass, by its name in a config: off, bf16 or fp16."""
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device, dtype, enabled=amp != "off")


def refuse_unset_gradients(model: nn.Module, image: Tensor, amp: str) -> None:
    """Run a model once and refuse it where a convolution's gradient would be left unset.

    Args:
        model: On a CPU; left as it was.
        image: One input (1, C, H, W).
        amp: The precision's name.

    Raises:
        ValueError: a strided kernel in half precision has entries that meet padding alone.
    """
    if amp == "off":
        return
    with evaluating(model), torch.no_grad(), autocast("cpu", amp), _Convolutions():
        model(image)


def meets_padding_alone(size: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    """Whether an entry of a kernel meets no pixel along an axis of an image."""
    places = range((size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)
    return any(
        all(not 0 <= entry * dilation - padding + stride * place < size for place in places)
        for entry in range(kernel)
    )


class _Convolutions(TorchDispatchMode):
    """Looks at every convolution that runs, whoever calls it."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten.convolution.default:
            image, weight, _, stride, padding, dilation, transposed = args[:7]
            axes = zip(image.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
            unset = any(each[2] > 1 and meets_padding_alone(*each) for each in axes)
            if unset and not transposed and image.dtype in HALF:
                raise ValueError(
                    f"a {weight.shape[2]}×{weight.shape[3]} kernel of stride "
                    f"{max(stride)} over an image of {image.shape[2]}×{image.shape[3]} has entries "
                    f"that meet padding alone, and a CPU may leave their gradient unset in half "
                    f"precision; set trainer.amp=off, or take larger images or fewer stages"
                )
        return func(*args, **(kwargs or {}))
