"""Poincaré ResNet: the residual network whose every layer lies in the ball, and its flat twin.

A block is ReLU((BN ∘ conv ∘ ReLU ∘ BN ∘ conv)(x) ⊕ x) with convolutions and midpoint norms of the
ball and ⊕ Möbius addition; the first block of a later stage halves the resolution and its shortcut
is a 1×1 convolution of stride 2. With `geometry="euclidean"` the same backbone has ordinary layers
and plain addition: the twin that a comparison needs.

Source: van Spengler et al. 2023, "Poincaré ResNet", arXiv:2303.14027.
Differs from it: one ball for all layers; evaluation uses running statistics; pooling is the
midpoint and the head the distances to hyperplanes (`averaging="tangent"`, `head="linear"` and
`init="identity"` are the released code's); the residual is a choice, and one that keeps a history
is fed by pre-activated branches, since a ReLU of the stream would end it."""

from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor, nn

from ...layers.hyperbolic import keep_one_ball
from ...layers.residual import Site
from ...layers.sizes import check_rates, check_sizes
from ...layers.units import Units, UnitTrace
from ..axes.geometry import Geometry, GeometryName, HeadName, Init, make_geometry
from ..axes.residuals import ResidualSpec, make_residual
from ..models import register_model
from ..network import ImageSize
from ..staged_network import StagedNetwork
from ..stages import follow_stages, run_stages, strided
from ..trunk import Trunk, drop_path_rates

__all__ = ["BALL", "PoincareResNet", "poincare_resnet20"]


class PoincareResNet(StagedNetwork):
    """A stem, stages of residual branches, global pooling and a head, all in one geometry.

    Args:
        num_classes: Length of the logits; 0 for features.
        in_chans: Image channels; a pixel is a tangent at the origin.
        img_size: Side of the images in pixels, or height and width; other sizes run too.
        widths: Channels of each stage.
        depths: Branches in each stage.
        geometry: `poincare`, `lorentz`, or `euclidean` for the flat twin.
        curvature: c > 0 of the ball (the sectional curvature is −c).
        learned_curvature: Whether c is learned, one for all layers.
        init: `normal`, `identity` or `dirac`, as in `PoincareConv2d`.
        averaging: `midpoint` or `tangent`: how the ball pools pixels.
        head: `mlr` (distances to hyperplanes of the ball) or `linear` (a linear layer of the
            geometry). `mlr` over `euclidean` is a flat network with a hyperbolic head only.
        activation: `post` puts a ReLU on the stream after every sum, as published, `pre` only
        before
            a branch; None is `post` where the residual keeps only the stream.
        residual: The residual mechanism: a name, a mapping or a builder.
        global_pool: `avg`, what `averaging` says, or `""`, the feature map where there is no head.
        drop_rate: Dropout before the head, in [0, 1).
        drop_path_rate: Stochastic depth of the last branch, in [0, 1).

    Shape:
        (B, in_chans, H, W) -> (B, num_classes).

    Raises:
        ValueError: widths and depths of different lengths, an unknown choice, a curvature that is
            not positive, or a residual in another ball than the layers.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: ImageSize = 32,
        widths: tuple[int, ...] = (8, 16, 32),
        depths: tuple[int, ...] = (3, 3, 3),
        geometry: GeometryName = "poincare",
        curvature: float = 0.1,
        learned_curvature: bool = False,
        init: Init = "normal",
        averaging: Literal["midpoint", "tangent"] = "midpoint",
        head: HeadName = "mlr",
        activation: Literal["post", "pre"] | None = None,
        residual: ResidualSpec = "mobius",
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
        space = make_geometry(
            geometry,
            curvature=curvature,
            learned_curvature=learned_curvature,
            init=init,
            averaging=averaging,
        )
        super().__init__(
            in_chans,
            img_size,
            (widths[0], *widths),
            (1, *(2**i for i in range(len(widths)))),
            num_classes=num_classes,
            global_pool=global_pool,
        )
        self.shared = space.shared
        self.stem = space.normed_conv(in_chans, widths[0], 3)
        rates = drop_path_rates(drop_path_rate, sum(depths))
        stages, shortcuts, in_width = [], [], widths[0]
        self.strides = [1] + [2] * (len(widths) - 1)
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            stride = self.strides[i]
            changes = stride > 1 or width != in_width
            # Of stride 1: it is given the pixels that one with a stride would read.
            shortcuts.append(space.conv(in_width, width, 1) if changes else nn.Identity())
            first = sum(depths[:i])
            sites = [Site("conv", first + j) for j in range(depth)]
            mechanism = make_residual(residual, width, sites, channel_dim=1, shared=space.shared)
            position = activation or ("post" if mechanism.keeps_only_the_stream else None)
            branches = [branch(space, in_width, width, stride)]
            branches += [branch(space, width, width, 1) for _ in range(depth - 1)]
            stages.append(
                Trunk(
                    mechanism,
                    branches,
                    [nn.ReLU() for _ in branches],
                    rates[first : first + depth],
                    norm_position=position,
                )
            )
            in_width = width
        self.shortcuts = nn.ModuleList(shortcuts)
        self.stages = nn.ModuleList(stages)
        self.norm = nn.ReLU()
        self.global_pool = space.pool()
        self.num_features = in_width
        self.head_drop = nn.Dropout(drop_rate)
        for stage in stages:
            stage.apply_branch_gain()
        self.num_classes = num_classes
        self.use_head(space.head(head))
        keep_one_ball(self)

    def closings(self, h: Tensor) -> Iterator[Tensor]:
        """Run the stages and yield what closes each, tangents in the ball."""
        carries = [strided(*pair) for pair in zip(self.shortcuts, self.strides, strict=True)]
        return run_stages(h, carries, self.stages)

    def follow_units(self, trace: UnitTrace, x: Units) -> Units:
        """A stream for each stage, with the shortcut that leads to it."""
        x = follow_stages(trace, trace.through(self.stem, x), self.shortcuts, self.stages)
        return trace.chain(x, self.norm, self.head)

    def pool(self, x: Tensor) -> Tensor:
        """Return one point for each image (B, num_features), as its tangent."""
        return self.head_drop(self.global_pool(x))


def branch(space: Geometry, in_width: int, width: int, stride: int) -> nn.Sequential:
    """Two normed 3×3 convolutions with a ReLU between them."""
    return nn.Sequential(
        space.normed_conv(in_width, width, 3, stride), nn.ReLU(), space.normed_conv(width, width, 3)
    )


PAPER = "arXiv:2303.14027"
BALL = "Poincaré ball"


@register_model(source=PAPER, kind="image", geometry=BALL, extends=PoincareResNet)
def poincare_resnet20(depths: tuple[int, ...] = (3, 3, 3), **options: Any) -> PoincareResNet:
    """Poincaré ResNet of 20 layers, widths 8, 16 and 32, 69 k parameters."""
    return PoincareResNet(depths=depths, **options)


@register_model(source=PAPER, kind="image", geometry=BALL, extends=PoincareResNet)
def poincare_resnet32(depths: tuple[int, ...] = (5, 5, 5), **options: Any) -> PoincareResNet:
    """Poincaré ResNet of 32 layers, widths 8, 16 and 32."""
    return PoincareResNet(depths=depths, **options)


@register_model(source=PAPER, kind="image", geometry=BALL, extends=PoincareResNet)
def poincare_resnet56(depths: tuple[int, ...] = (9, 9, 9), **options: Any) -> PoincareResNet:
    """Poincaré ResNet of 56 layers, widths 8, 16 and 32."""
    return PoincareResNet(depths=depths, **options)


@register_model(source=PAPER, kind="image", geometry=BALL, extends=PoincareResNet)
def poincare_resnet_tiny(
    in_chans: int = 1,
    img_size: ImageSize = 28,
    widths: tuple[int, ...] = (8, 16, 32),
    depths: tuple[int, ...] = (1, 1, 1),
    **options: Any,
) -> PoincareResNet:
    """Poincaré ResNet of 8 layers for 28×28 images of one channel."""
    shape = {"in_chans": in_chans, "img_size": img_size, "widths": widths, "depths": depths}
    return PoincareResNet(**shape, **options)


@register_model(source=PAPER, kind="image", geometry=BALL, extends=PoincareResNet)
def poincare_resnet_nano(
    img_size: ImageSize = 16,
    widths: tuple[int, ...] = (4, 8),
    depths: tuple[int, ...] = (2, 1),
    **options: Any,
) -> PoincareResNet:
    """The smallest Poincaré ResNet, for tests."""
    return PoincareResNet(img_size=img_size, widths=widths, depths=depths, **options)


@register_model(source=PAPER, kind="image", extends=poincare_resnet20)
def euclidean_resnet20(
    geometry: GeometryName = "euclidean",
    head: HeadName = "linear",
    residual: ResidualSpec = "add",
    **options: Any,
) -> PoincareResNet:
    """The flat twin of poincare_resnet20: the same backbone with ordinary layers."""
    return poincare_resnet20(geometry=geometry, head=head, residual=residual, **options)


@register_model(source=PAPER, kind="image", extends=poincare_resnet_tiny)
def euclidean_resnet_tiny(
    geometry: GeometryName = "euclidean",
    head: HeadName = "linear",
    residual: ResidualSpec = "add",
    **options: Any,
) -> PoincareResNet:
    """The flat twin of poincare_resnet_tiny."""
    return poincare_resnet_tiny(geometry=geometry, head=head, residual=residual, **options)


@register_model(
    source=PAPER,
    kind="image",
    geometry="Euclidean, head in the Poincaré ball",
    extends=euclidean_resnet20,
)
def euclidean_resnet20_poincare_head(
    head: HeadName = "mlr", learned_curvature: bool = True, **options: Any
) -> PoincareResNet:
    """The flat twin of poincare_resnet20 with a hyperbolic head only."""
    return euclidean_resnet20(head=head, learned_curvature=learned_curvature, **options)


@register_model(
    source=PAPER,
    kind="image",
    geometry="Euclidean, head in the Poincaré ball",
    extends=euclidean_resnet_tiny,
)
def euclidean_resnet_tiny_poincare_head(
    head: HeadName = "mlr", learned_curvature: bool = True, **options: Any
) -> PoincareResNet:
    """The flat twin of poincare_resnet_tiny with a hyperbolic head only."""
    return euclidean_resnet_tiny(head=head, learned_curvature=learned_curvature, **options)
