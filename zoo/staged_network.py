"""Networks of stages: a stem, stages at falling resolution, a norm, a mean over pixels, a head."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from .depth import blocks_of
from .image_network import ImageNetwork
from .network import ImageSize
from .trunk import Trunk

__all__ = ["StagedNetwork"]


class StagedNetwork(ImageNetwork):
    """An image network whose depths are the stem and what closes each stage.

    A subclass sets `stem`, `stages` and `norm`, and implements `closings` and `pool`.

    Args:
        in_chans: Image channels.
        img_size: Side of the images in pixels, or height and width; other sizes run too.
        widths: Channels of the stem and of each stage.
        reductions: By how much the stem and each stage have lowered the resolution.
        stem_end: Which part of the stem gives depth 0.
        options: Those of `ImageNetwork`.
    """

    stem: nn.Module
    stages: nn.ModuleList | nn.Sequential
    per_stage: tuple[str, ...] = ("stages",)
    """Attributes with an entry for each stage."""

    def __init__(
        self,
        in_chans: int,
        img_size: ImageSize,
        widths: Sequence[int],
        reductions: Sequence[int],
        *,
        stem_end: int = -1,
        **options: Any,
    ) -> None:
        """Describe the depths; sides are halved upwards."""
        super().__init__(in_chans, img_size, "stem.0", fixed_input_size=False, **options)
        sides = self.default_cfg["input_size"][1:]
        self.default_cfg["pool_size"] = tuple(-(-side // reductions[-1]) for side in sides)
        self.stem_end = stem_end
        names = ["stem" if stem_end == -1 else f"stem.{stem_end}"]
        names += [f"stages.{i}" for i in range(len(widths) - 1)]
        self._info = [
            {"num_chs": width, "reduction": reduction, "module": name}
            for width, reduction, name in zip(widths, reductions, names, strict=True)
        ]

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """The stem and each stage."""
        return [dict(one) for one in self._info]

    def closings(self, h: Tensor) -> Iterator[Tensor]:
        """Run the stages from what the stem gave, and yield what closes each (B, D, H, W)."""
        for stage in self.stages:
            h = stage(h)
            yield h

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (B, num_features, H', W')."""
        h = self.stem(x)
        for h in self.closings(h):  # noqa: B007, B020
            pass
        return self.norm(h)

    def depths(self, x: Tensor, taken: set[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield what the stem and the stages give."""
        parts, h = list(self.stem.children()), x
        for i, part in enumerate(parts):
            h = part(h)
            if i == self.stem_end % len(parts) and 0 in taken:
                yield 0, h
        for depth, closed in enumerate(self.closings(h), 1):
            if depth in taken:
                yield depth, closed

    def normed(self, h: Tensor, depth: int) -> Tensor:
        """Apply the final norm where it fits, to what closes the last stage."""
        return self.norm(h) if depth == len(self._info) - 1 else h

    def drop_behind(self, depth: int) -> bool:
        """Drop the stages behind a depth."""
        if depth == len(self._info) - 1:
            return False
        for name in self.per_stage:
            setattr(self, name, getattr(self, name)[:depth])
        self._info = self._info[: depth + 1]
        return True

    def stages_of_blocks(self) -> list[list[list[nn.Module]]]:
        """The modules of each block of each stage; a shortcut stands with its stage's first."""
        found = [
            blocks_of(stage) if isinstance(stage, Trunk) else [[part] for part in stage.children()]
            for stage in self.stages
        ]
        for blocks, shortcut in zip(found, getattr(self, "shortcuts", ()), strict=False):
            blocks[0].append(shortcut)
        return found
