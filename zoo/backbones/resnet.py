"""Pre-activation ResNet over any residual, in any geometry.

Source: He et al. 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027; the CIFAR
depths 6n + 2 are those of arXiv:1512.03385, §4.2.
Differs from it: residual and geometry are choices, and the shortcut across a stage is average
pooling and a 1×1 convolution of the raw stream. It is linear in the features of any geometry (in
the ball a Möbius matrix product), which is what lets every residual hand its state from stage to
stage and still start equal to the plain network.
"""

from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor, nn

from ...layers.residual import Site
from ...layers.sizes import check_rates, check_sizes
from ...layers.units import Units, UnitTrace
from ..axes.geometry import (
    Geometry,
    GeometryName,
    HeadName,
    choose_geometry,
    give_head,
)
from ..axes.residuals import ResidualSpec, make_residual
from ..models import register_model
from ..network import ImageSize
from ..staged_network import StagedNetwork
from ..stages import follow_stages, run_stages
from ..trunk import Trunk, drop_path_rates

__all__ = ["ResNet", "resnet20", "resnet_nano"]

BOTTLENECK = 4  # a bottleneck's output is four times as wide as its middle convolution


def norm_relu(space: Geometry, width: int) -> nn.Sequential:
    """Batch norm and ReLU: the pre-activation."""
    return nn.Sequential(space.image_norm(width), nn.ReLU())


def branch(
    space: Geometry, in_width: int, width: int, stride: int, bottleneck: bool
) -> nn.Sequential:
    """What follows the pre-activation: two 3×3 convolutions, or 1×1, 3×3, 1×1."""

    def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Module:
        return space.conv(inputs, outputs, size, stride, bias=False)

    if not bottleneck:
        return nn.Sequential(
            conv(in_width, width, 3, stride), norm_relu(space, width), conv(width, width, 3)
        )
    return nn.Sequential(
        conv(in_width, width, 1),
        norm_relu(space, width),
        conv(width, width, 3, stride),
        norm_relu(space, width),
        conv(width, BOTTLENECK * width, 1),
    )


def linear_shortcut(in_width: int, out_width: int, stride: int) -> nn.Module:
    """Average pooling and a 1×1 convolution, each only where the shape changes."""
    pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
    wider = in_width != out_width
    mix = nn.Conv2d(in_width, out_width, 1, bias=False) if wider else nn.Identity()
    return nn.Sequential(pool, mix)


class ResNet(StagedNetwork):
    """A stem, stages of residual branches, and a mean-pooled head.

    The first branch of a stage reads what closes the stage before, so the first site's query of an
    attention residual is never used.

    Args:
        num_classes: Length of the logits; 0 for features.
        in_chans: Image channels.
        img_size: Side of the images in pixels, or height and width; any size from 8 up runs, this
            one is reported.
        stem: `cifar` is a 3×3 convolution; `imagenet` a 7×7 of stride 2 and a max pool.
        widths: Channels of each stage (of the 3×3 convolutions in a bottleneck).
        depths: Branches in each stage.
        bottleneck: Whether a branch is 1×1, 3×3, 1×1.
        residual: The residual mechanism: a name, a mapping or a builder.
        geometry: The space of the pixels' features: `euclidean`, `poincare` or `lorentz`.
        curvature: c > 0, minus the sectional curvature; None is 0.1 in a curved space.
        learned_curvature: Whether c is learned, one for all layers.
        head: `linear`, `mlr` (distances to hyperplanes) or `distance` (to points); None is
            `linear` in flat space and `mlr` in a curved one.
        global_pool: `avg`, the centre of the pixels, or `""`, the feature map where there is no
            head.
        drop_rate: Dropout before the head, in [0, 1).
        drop_path_rate: Stochastic depth of the last branch, in [0, 1).

    Shape:
        (B, in_chans, H, W) -> (B, num_classes).

    Raises:
        ValueError: widths and depths of different lengths, an unknown stem, pool or residual, a
            residual or a head of another space, or a curvature that nothing has.
    """

    per_stage = ("stages", "shortcuts")

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: ImageSize = 224,
        stem: Literal["cifar", "imagenet"] = "imagenet",
        widths: tuple[int, ...] = (64, 128, 256, 512),
        depths: tuple[int, ...] = (2, 2, 2, 2),
        bottleneck: bool = False,
        residual: ResidualSpec = "add",
        geometry: GeometryName = "euclidean",
        curvature: float | None = None,
        learned_curvature: bool = False,
        head: HeadName | None = None,
        global_pool: Literal["avg", ""] = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        """Build the stem, the stages and the head."""
        check_sizes(1, **{"each of widths": min(widths, default=1)})
        check_rates(drop_rate=drop_rate)
        if not widths or len(widths) != len(depths) or min(depths) < 1:
            raise ValueError(
                f"widths={tuple(widths)} and depths={tuple(depths)} must name the same number of "
                f"stages, each at least 1 deep"
            )
        if stem not in ("cifar", "imagenet"):
            raise ValueError(f"stem must be 'cifar' or 'imagenet', got {stem!r}")
        space = choose_geometry(
            geometry,
            curvature=curvature,
            learned_curvature=learned_curvature,
            head=head,
            residual=residual,
        )
        rises = BOTTLENECK if bottleneck else 1
        # The stem of the large images is tapped before its pool, which no norm stands behind.
        before, after = (1, 1) if stem == "cifar" else (2, 4)
        super().__init__(
            in_chans,
            img_size,
            (widths[0], *(width * rises for width in widths)),
            (before, *(after * 2**i for i in range(len(widths)))),
            stem_end=0,
            num_classes=num_classes,
            global_pool=global_pool,
        )
        size, stride = (3, 1) if stem == "cifar" else (7, 2)
        parts = [space.conv(in_chans, widths[0], size, stride, bias=False)]
        if stem == "imagenet":
            parts.append(nn.MaxPool2d(3, stride=2, padding=1))
        self.stem = nn.Sequential(*parts)
        rates = drop_path_rates(drop_path_rate, sum(depths))
        stages, shortcuts, in_width = [], [], widths[0]
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            stride = 1 if i == 0 else 2
            out_width = width * rises
            shortcuts.append(linear_shortcut(in_width, out_width, stride))
            inputs = [in_width] + [out_width] * (depth - 1)
            branches = [
                branch(space, n, width, stride if j == 0 else 1, bottleneck)
                for j, n in enumerate(inputs)
            ]
            first = sum(depths[:i])
            sites = [Site("conv", first + j) for j in range(depth)]
            stages.append(
                Trunk(
                    make_residual(residual, out_width, sites, channel_dim=1, shared=space.shared),
                    branches,
                    [norm_relu(space, n) for n in inputs],
                    rates[first : first + depth],
                )
            )
            in_width = out_width
        self.shortcuts = nn.ModuleList(shortcuts)
        self.stages = nn.ModuleList(stages)
        self.norm = norm_relu(space, in_width)
        self.num_features = in_width
        self.head_drop = nn.Dropout(drop_rate)
        for layer in space.convolutions(self):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        for stage in stages:
            stage.apply_branch_gain()
        self.space = space
        self.num_classes = num_classes
        give_head(self, space, head)

    def closings(self, h: Tensor) -> Iterator[Tensor]:
        """Run the stages and yield what closes each."""
        return run_stages(h, self.shortcuts, self.stages)

    def follow_units(self, trace: UnitTrace, x: Units) -> Units:
        """A stream for each stage, with the shortcut that leads to it."""
        x = follow_stages(trace, trace.through(self.stem, x), self.shortcuts, self.stages)
        return trace.chain(x, self.norm, self.head)

    def pool(self, x: Tensor) -> Tensor:
        """Return the centre of the pixels (B, num_features)."""
        return self.head_drop(self.space.mean(x, over=(2, 3), dim=1))


@register_model(source="arXiv:1603.05027", kind="image", extends=ResNet)
def resnet20(
    num_classes: int = 10,
    img_size: ImageSize = 32,
    stem: Literal["cifar", "imagenet"] = "cifar",
    widths: tuple[int, ...] = (16, 32, 64),
    depths: tuple[int, ...] = (3, 3, 3),
    **options: Any,
) -> ResNet:
    """CIFAR ResNet of 20 layers, 0.27 M parameters."""
    shape = {"img_size": img_size, "stem": stem, "widths": widths, "depths": depths}
    return ResNet(num_classes=num_classes, **shape, **options)


@register_model(source="arXiv:1603.05027", kind="image", extends=resnet20)
def resnet_nano(
    widths: tuple[int, ...] = (8, 16), depths: tuple[int, ...] = (2, 2), **options: Any
) -> ResNet:
    """The smallest ResNet, for tests."""
    return resnet20(widths=widths, depths=depths, **options)


@register_model(source="arXiv:1603.05027", kind="image", extends=resnet20)
def resnet32(depths: tuple[int, ...] = (5, 5, 5), **options: Any) -> ResNet:
    """CIFAR ResNet of 32 layers, 0.46 M parameters."""
    return resnet20(depths=depths, **options)


@register_model(source="arXiv:1603.05027", kind="image", extends=resnet20)
def resnet56(depths: tuple[int, ...] = (9, 9, 9), **options: Any) -> ResNet:
    """CIFAR ResNet of 56 layers, 0.85 M parameters."""
    return resnet20(depths=depths, **options)


@register_model(source="arXiv:1603.05027", kind="image", extends=resnet20)
def resnet110(depths: tuple[int, ...] = (18, 18, 18), **options: Any) -> ResNet:
    """CIFAR ResNet of 110 layers, 1.7 M parameters."""
    return resnet20(depths=depths, **options)


@register_model(source="arXiv:1603.05027", kind="image", extends=ResNet)
def resnet_tiny(depths: tuple[int, ...] = (2, 2, 2, 2), **options: Any) -> ResNet:
    """Pre-activation ResNet-18, 11.7 M parameters."""
    return ResNet(depths=depths, **options)


@register_model(source="arXiv:1603.05027", kind="image", extends=ResNet)
def resnet_small(depths: tuple[int, ...] = (3, 4, 6, 3), **options: Any) -> ResNet:
    """Pre-activation ResNet-34, 21.8 M parameters."""
    return ResNet(depths=depths, **options)


@register_model(source="arXiv:1603.05027", kind="image", extends=ResNet)
def resnet_base(
    depths: tuple[int, ...] = (3, 4, 6, 3), bottleneck: bool = True, **options: Any
) -> ResNet:
    """Pre-activation ResNet-50, 25.5 M parameters."""
    return ResNet(depths=depths, bottleneck=bottleneck, **options)
