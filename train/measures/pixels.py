"""Images as pixels in [0, 1], with the normalisation of their data set behind the pixels.

Folds give a network what it was trained on, (pixel − mean)/std. An attack, a certificate or a
foreign image is stated in pixels.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..data import Fold

__all__ = ["FromPixels", "pixel_batches"]


class FromPixels(nn.Module):
    """The normalisation of a fold and the model that was trained behind it.

    Args:
        model: Reads (pixel − mean)/std.
        mean: Per channel, of pixels in [0, 1]; None for samples that were not normalised.
        std: The same, above 0.

    Shape:
        (N, C, H, W) in [0, 1], in the dtype of the model -> logits (N, K).
    """

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        """Keep the parts."""
        super().__init__()
        if (mean is None) != (std is None):
            raise ValueError(f"give mean and std or neither, got mean={mean}, std={std}")
        self.model, self.mean, self.std = model, mean, std

    def normalize(self, x: Tensor) -> Tensor:
        """Return what the model reads."""
        if self.mean is None or self.std is None:
            return x
        mean, std = (x.new_tensor(list(v))[:, None, None] for v in (self.mean, self.std))
        return (x - mean) / std

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and classify."""
        return self.model(self.normalize(x))


def pixel_batches(
    fold: Fold,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    *,
    samples: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a fold as pixels in [0, 1] and classes, batch by batch, in the order of the fold.

    Pixels are recovered from the normalised images and held in [0, 1], so they are right to the
    rounding of float32. Samples that were not normalised come as they are.

    Args:
        fold: Whose samples to yield.
        mean: Per channel, that was subtracted; None where nothing was.
        std: Per channel, that was divided by.
        samples: How many, drawn without replacement; None or too many is all.
        batch_size: Samples in a batch.
        seed: Of that draw.
        device: Where to put them.
        dtype: Of the pixels.
    """
    order = torch.arange(len(fold))
    if samples is not None and samples < len(fold):
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(fold), generator=generator)[:samples].sort().values
    for rows in order.split(batch_size):
        inputs, targets = fold.__getitems__([(0, index) for index in rows.tolist()])
        inputs = inputs.to(dtype)
        if mean is not None and std is not None:
            scale, shift = (inputs.new_tensor(list(v))[:, None, None] for v in (std, mean))
            inputs = (inputs * scale + shift).clamp(0.0, 1.0)
        yield inputs.to(device), targets.to(device)
