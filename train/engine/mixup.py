"""Mixup and CutMix, through torchvision."""

from collections.abc import Callable

from torch import Tensor

__all__ = ["make_mixing"]

Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def make_mixing(mixup: float, cutmix: float, num_classes: int) -> Mixing:
    """Return a function of a batch that mixes samples and gives each target as shares of classes.

    Args:
        mixup: Alpha of mixup's Beta distribution; 0 is off.
        cutmix: The same for CutMix; where both are on, each batch draws one of them.
        num_classes: Length of the shares.

    Sources: Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899.
    """
    if not mixup and not cutmix:
        return lambda inputs, targets: (inputs, targets)
    from torchvision.transforms import v2

    mixings = []
    if mixup:
        mixings.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
    if cutmix:
        mixings.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))
    mix = v2.RandomChoice(mixings) if len(mixings) > 1 else mixings[0]

    def mix_any(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        # torchvision mixes images; rows of a table are images of one pixel.
        shape = inputs.shape
        images = inputs if inputs.dim() == 4 else inputs[..., None, None]
        mixed, shares = mix(images, targets)
        return mixed.view(shape), shares

    return mix_any
