"""Residual multilayer perceptron whose every layer lies in the Poincaré ball.

Branches are linear, ReLU, linear in the ball, each behind a midpoint batch norm, joined by Möbius
addition; the head is the distances to hyperplanes.

Source: the layers are Shimizu et al. 2021, "Hyperbolic neural networks++", arXiv:2006.08210, and
van Spengler et al. 2023, arXiv:2303.14027.
Differs from them: neither has a residual MLP; the arrangement is that of `mlp`.
"""

import math
from typing import Any

from torch import Tensor, nn

from ...layers.hyperbolic import keep_one_ball
from ...layers.residual import Site
from ...layers.sizes import check_rates, check_sizes
from ...layers.units import Units, UnitTrace
from ..axes.geometry import GeometryName, HeadName, Init, make_geometry
from ..axes.residuals import ResidualSpec, make_residual
from ..models import register_model
from ..network import Network
from ..trunk import Trunk, drop_path_rates
from .poincare_resnet import BALL

__all__ = ["PoincareMLP"]


class PoincareMLP(Network):
    """A linear stem, pre-norm branches of two linear layers and a head, all in one geometry.

    Args:
        num_classes: Length of the logits; 0 for features.
        in_features: Number of inputs; an image counts all its values and is flattened.
        width: Width of the stream.
        depth: Branches.
        expansion: Hidden width of a branch over `width`.
        geometry: `poincare`, `lorentz`, or `euclidean` for the flat twin (both with ordinary batch
            norms).
        curvature: c > 0 of the ball (the sectional curvature is −c).
        learned_curvature: Whether c is learned, one for all layers.
        init: `normal` or `identity`, as in `PoincareLinear`.
        head: `mlr` (distances to hyperplanes of the ball) or `linear`.
        residual: The residual mechanism: a name, a mapping or a builder.
        drop_rate: Dropout inside the branches, in [0, 1).
        drop_path_rate: Stochastic depth of the last branch, in [0, 1).

    Shape:
        (B, in_features) or (B, C, H, W) with C·H·W = in_features -> (B, num_classes).

    Raises:
        ValueError: a size below 1, an unknown choice, a curvature that is not positive, a residual
            in another ball, or an input of another size.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_features: int = 64,
        width: int = 128,
        depth: int = 6,
        expansion: float = 2.0,
        geometry: GeometryName = "poincare",
        curvature: float = 0.1,
        learned_curvature: bool = False,
        init: Init = "normal",
        head: HeadName = "mlr",
        residual: ResidualSpec = "mobius",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        """Build the stem, the trunk and the head."""
        hidden = int(width * expansion)
        check_sizes(1, in_features=in_features, width=width, depth=depth)
        check_sizes(1, **{"expansion · width": hidden})
        check_rates(drop_rate=drop_rate)
        space = make_geometry(
            geometry, curvature=curvature, learned_curvature=learned_curvature, init=init
        )
        super().__init__(input_size=(in_features,))
        self.shared = space.shared
        self.in_features = in_features
        self.num_features = width
        self.stem = space.linear(in_features, width)
        branches = [
            nn.Sequential(
                space.linear(width, hidden),
                nn.ReLU(),
                nn.Dropout(drop_rate),
                space.linear(hidden, width),
            )
            for _ in range(depth)
        ]
        sites = [Site("mlp", i) for i in range(depth)]
        self.trunk = Trunk(
            make_residual(residual, width, sites, shared=space.shared),
            branches,
            [space.batch_norm(width) for _ in branches],
            drop_path_rates(drop_path_rate, depth),
            tokens=False,
        )
        self.trunk.apply_branch_gain()
        self.norm = space.batch_norm(width)
        self.num_classes = num_classes
        self.use_head(space.head(head))
        keep_one_ball(self)

    def follow_units(self, trace: UnitTrace, x: Units) -> Units:
        """One stream from the stem to the head."""
        return trace.chain(x, self.stem, self.trunk, self.norm, self.head)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the normed features (B, width), tangents in the ball."""
        if math.prod(x.shape[1:]) != self.in_features:
            raise ValueError(
                f"the model reads in_features={self.in_features} values a sample, "
                f"got shape {tuple(x.shape[1:])}"
            )
        return self.norm(self.trunk(self.stem(x.flatten(1))))


@register_model(source="arXiv:2006.08210", kind="features", geometry=BALL, extends=PoincareMLP)
def poincare_mlp(width: int = 128, depth: int = 6, **options: Any) -> PoincareMLP:
    """A residual MLP of the ball of 6 branches, 128 wide."""
    return PoincareMLP(width=width, depth=depth, **options)


@register_model(source="arXiv:2006.08210", kind="features", geometry=BALL, extends=PoincareMLP)
def poincare_mlp_tiny(width: int = 64, depth: int = 4, **options: Any) -> PoincareMLP:
    """A residual MLP of the ball of 4 branches, 64 wide."""
    return PoincareMLP(width=width, depth=depth, **options)


@register_model(source="arXiv:2006.08210", kind="features", geometry=BALL, extends=PoincareMLP)
def poincare_mlp_nano(width: int = 32, depth: int = 2, **options: Any) -> PoincareMLP:
    """The smallest residual MLP of the ball, for tests."""
    return PoincareMLP(width=width, depth=depth, **options)
