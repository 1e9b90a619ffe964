"""Convolutional residual networks that are L-Lipschitz by construction, whatever their weights.

A stem (a convolution, then pixels moved into channels at half the resolution), stages of residual
blocks, a change of resolution between stages, √(H W) times the mean of the image, and a head. Each
part has norm or constant 1 but the one that holds L. `block` chooses the blocks:

* ldlt: LDLᵀ blocks, exact at every frequency of the image with zeros around it, arXiv:2512.05915;
* sll: the scalable form with a diagonal bound, for which no transform is taken, arXiv:2303.03169;
* orthogonal: block-reflector convolutions with MaxMin between them, arXiv:2505.15174;
* aol: rescaled convolutions with MaxMin between them, arXiv:2208.03160.

As in `lipschitz_mlp`, the skip belongs to the block, so there is no `residual=`, and nothing that
breaks a bound in training. Inputs are pixels in whatever units the data come in: dividing pixels by
a standard deviation s before the network multiplies its constant by 1/s.

Sources: the papers above.
Differs from them: one backbone for all; an LDLᵀ block's skip and branch are bounded together.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from ....layers.lipschitz import (
    AOLConv2d,
    ContractionConv1x1,
    GlobalScaledPool,
    LDLTCircularConv2d,
    MaxMin,
    OrthogonalConv2d,
    PadChannels,
    ScaledAvgPool2d,
    SLLConv2d,
    SpaceToDepth,
)
from ....layers.sizes import check_sizes
from ...models import register_model
from ...network import ImageSize
from ...recomputation import RecomputedSequential
from ...staged_network import StagedNetwork
from .lipschitz_mlp import WEIGHTS, LipschitzHead, Split, lipschitz_head, product, shares

__all__ = ["LipschitzResNet"]

ConvBlockName = Literal["ldlt", "sll", "orthogonal", "aol"]
Downsample = Literal["unshuffle", "pool"]
STEM = 2  # the stem's factor of resolution


class LipschitzResNet(StagedNetwork):
    """A stem, stages of blocks, pooling and a head with a known Lipschitz constant.

    Args:
        num_classes: Length of the logits; 0 for features.
        in_chans: Image channels.
        img_size: Side of the images in pixels, or height and width; other sizes run too.
        widths: Channels of each stage; the first a multiple of 4, all even for `orthogonal` and
            `aol`, and none less than the one before.
        depths: Blocks in each stage.
        block: What a block is made of, see above.
        lipschitz: L of everything before the head.
        split: Where L goes: all into the stem (`first`), or the same share into the stem and each
            block (`even`; `ldlt`, `sll` and `aol`).
        hidden_depth: Inner layers n of an `ldlt` block; above 1 its skip is a learned convolution.
        expansion: Inner channels over the stage's, for `ldlt` and `sll`.
        downsample: Between stages: `unshuffle` moves pixels into channels and mixes them by a 1×1
            convolution of norm below 1, `pool` takes twice the mean and adds zero channels.
        activation: Inside the blocks: slopes in [0, 1].
        head: `bounded`, a linear layer of norm below 1, or `lln`, rows of norm 1.
        global_pool: `avg`, √(H W) times the mean over pixels, or `""`, the feature map where there
            is no head.

    Shape:
        (B, in_chans, H, W) -> (B, num_classes).

    Raises:
        ValueError: widths and depths of different lengths, widths that do not fit, L ≤ 0, an
            unknown choice, an option that the block does not have, or an activation that no bound
            allows.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: ImageSize = 32,
        widths: tuple[int, ...] = (32, 64, 128),
        depths: tuple[int, ...] = (3, 3, 3),
        block: ConvBlockName = "ldlt",
        lipschitz: float = 1.0,
        split: Split = "first",
        hidden_depth: int = 1,
        expansion: float = 1.0,
        downsample: Downsample = "unshuffle",
        activation: str = "relu",
        head: LipschitzHead = "bounded",
        global_pool: Literal["avg", ""] = "avg",
    ) -> None:
        """Build the stem, the stages and the head."""
        check_sizes(1, hidden_depth=hidden_depth)
        check_stages(tuple(widths), tuple(depths))
        if block not in BLOCKS:
            raise ValueError(f"block must be one of {', '.join(BLOCKS)}, got {block!r}")
        if downsample not in ("unshuffle", "pool"):
            raise ValueError(f"downsample must be 'unshuffle' or 'pool', got {downsample!r}")
        changed = {"hidden_depth": hidden_depth != 1, "expansion": expansion != 1.0}
        changed["activation"] = activation != "relu"
        changed["split"] = split != "first"
        for name in sorted(set(changed) - TAKES[block]):
            if changed[name]:
                raise ValueError(f"block={block!r} takes no {name}; leave it at its default")
        super().__init__(
            in_chans,
            img_size,
            (widths[0], *widths),
            (STEM, *(STEM * 2**i for i in range(len(widths)))),
            num_classes=num_classes,
            global_pool=global_pool,
        )
        total = sum(depths)
        first, *others = shares(lipschitz, split, total + 1)
        self.stem = nn.Sequential(
            AOLConv2d(in_chans, widths[0] // STEM**2, lipschitz=first), SpaceToDepth(STEM)
        )
        settings = {"n": hidden_depth, "expansion": expansion, "activation": activation}
        stages, before, used = [], widths[0], 0
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            parts: list[nn.Module] = [] if i == 0 else change(downsample, before, width)
            for share in others[used : used + depth]:
                parts.append(BLOCKS[block](width, lipschitz=share, total=total, **settings))
            stages.append(RecomputedSequential(*parts))
            before, used = width, used + depth
        self.stages = nn.Sequential(*stages)
        self.norm = nn.Identity()
        self.global_pool = GlobalScaledPool()
        self.num_features = before
        self.num_classes = num_classes
        self.use_head(lipschitz_head(head))

    @property
    def body_lipschitz(self) -> float:
        """The constant of the pooled features, in real arithmetic."""
        return product(self.stem) * product(self.stages) * product(self.global_pool)

    @property
    def lipschitz(self) -> float:
        """The constant of the logit vector (with head `lln`, √K times that of one logit)."""
        return self.body_lipschitz * product(self.head)

    def pool(self, x: Tensor) -> Tensor:
        """Return √(H' W') times the mean over pixels (B, num_features)."""
        return self.global_pool(x)


def check_stages(widths: tuple[int, ...], depths: tuple[int, ...]) -> None:
    """Refuse stages that do not fit one another.

    Raises:
        ValueError: naming the widths or depths.
    """
    if not widths or len(widths) != len(depths) or min(depths) < 1:
        raise ValueError(
            f"widths={widths} and depths={depths} must name the same number of stages, each at "
            f"least 1 deep"
        )
    if widths[0] < 1 or widths[0] % STEM**2:
        raise ValueError(f"the first of widths must be a multiple of {STEM**2}, got {widths[0]}")
    if list(widths) != sorted(widths):
        raise ValueError(f"widths must not fall from stage to stage, got {widths}")


def change(downsample: Downsample, before: int, width: int) -> list[nn.Module]:
    """Halve the resolution and change the channels, at norm 1 or below."""
    if downsample == "pool":
        return [ScaledAvgPool2d(2), PadChannels(width - before)]
    return [SpaceToDepth(2), ContractionConv1x1(4 * before, width)]


def ldlt(
    width: int, *, lipschitz: float, total: int, n: int, expansion: float, activation: str
) -> LDLTCircularConv2d:
    """Make one of `total` LDLᵀ blocks, with the start that suits a stack of them."""
    return LDLTCircularConv2d(
        width,
        (int(width * expansion),) * n,
        padding=1,
        lipschitz=lipschitz,
        skip="identity" if n == 1 else "learned",
        activation=activation,
        gain=0.3 / math.sqrt(total) if n == 1 else None,
    )


def sll(width: int, *, lipschitz: float, expansion: float, activation: str, **_: Any) -> SLLConv2d:
    """Make an SLL block."""
    hidden = int(width * expansion)
    return SLLConv2d(width, hidden, lipschitz=lipschitz, activation=activation)


def orthogonal(width: int, **_: Any) -> nn.Sequential:
    """Make MaxMin and an orthogonal convolution."""
    return nn.Sequential(MaxMin(), OrthogonalConv2d(width))


def aol(width: int, *, lipschitz: float, **_: Any) -> nn.Sequential:
    """Make MaxMin and an AOL convolution."""
    return nn.Sequential(MaxMin(), AOLConv2d(width, width, lipschitz=lipschitz))


BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "ldlt": ldlt,
    "sll": sll,
    "orthogonal": orthogonal,
    "aol": aol,
}
TAKES = {
    "ldlt": {"hidden_depth", "expansion", "activation", "split"},
    "sll": {"expansion", "activation", "split"},
    "orthogonal": set(),
    "aol": {"split"},
}
"""The options that each block has beside its width."""

LDLT, SLL = "arXiv:2512.05915", "arXiv:2303.03169"


@register_model(source=LDLT, kind="image", weights=WEIGHTS, extends=LipschitzResNet)
def ldlt_resnet_small(
    widths: tuple[int, ...] = (32, 64, 128), depths: tuple[int, ...] = (3, 3, 3), **options: Any
) -> LipschitzResNet:
    """LDLᵀ residual network of 9 blocks, for 32×32 images in colour."""
    return LipschitzResNet(widths=widths, depths=depths, **options)


@register_model(source=LDLT, kind="image", weights=WEIGHTS, extends=LipschitzResNet)
def ldlt_resnet_tiny(
    in_chans: int = 1,
    img_size: ImageSize = 28,
    widths: tuple[int, ...] = (16, 32, 64),
    depths: tuple[int, ...] = (2, 2, 2),
    **options: Any,
) -> LipschitzResNet:
    """LDLᵀ residual network of 6 blocks, for 28×28 images of one channel."""
    shape = {"in_chans": in_chans, "img_size": img_size, "widths": widths, "depths": depths}
    return LipschitzResNet(**shape, **options)


@register_model(source=LDLT, kind="image", weights=WEIGHTS, extends=LipschitzResNet)
def ldlt_resnet_nano(
    img_size: ImageSize = 16,
    widths: tuple[int, ...] = (8, 16),
    depths: tuple[int, ...] = (1, 1),
    **options: Any,
) -> LipschitzResNet:
    """The smallest LDLᵀ residual network, for tests."""
    return LipschitzResNet(img_size=img_size, widths=widths, depths=depths, **options)


@register_model(source=SLL, kind="image", weights=WEIGHTS, extends=ldlt_resnet_small)
def sll_resnet_small(block: ConvBlockName = "sll", **options: Any) -> LipschitzResNet:
    """SLL residual network of 9 blocks, for 32×32 images in colour."""
    return ldlt_resnet_small(block=block, **options)


@register_model(source=SLL, kind="image", weights=WEIGHTS, extends=ldlt_resnet_tiny)
def sll_resnet_tiny(block: ConvBlockName = "sll", **options: Any) -> LipschitzResNet:
    """SLL residual network of 6 blocks, for 28×28 images of one channel."""
    return ldlt_resnet_tiny(block=block, **options)


@register_model(source=SLL, kind="image", weights=WEIGHTS, extends=ldlt_resnet_nano)
def sll_resnet_nano(block: ConvBlockName = "sll", **options: Any) -> LipschitzResNet:
    """The smallest SLL residual network, for tests."""
    return ldlt_resnet_nano(block=block, **options)
