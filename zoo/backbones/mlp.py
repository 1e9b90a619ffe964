"""Residual multilayer perceptron for tables and flat images, over any residual, in any geometry.

Source: Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data",
arXiv:2106.11959, §3.2 (their "ResNet").
Differs from it: layer norm instead of batch norm, so that a sample's output never depends on its
batch, GELU instead of ReLU, and residual and geometry are choices.
"""

import math
from typing import Any

from torch import Tensor, nn

from ...layers.residual import Site
from ...layers.sizes import check_rates, check_sizes
from ...layers.units import Units, UnitTrace
from ..axes.geometry import GeometryName, HeadName, choose_geometry, give_head
from ..axes.residuals import ResidualSpec, make_residual
from ..models import register_model
from ..network import Network
from ..trunk import Trunk, drop_path_rates

__all__ = ["MLP", "mlp_small", "mlp_tiny"]


class MLP(Network):
    """A linear stem, pre-norm MLP branches and a linear head.

    Args:
        num_classes: Length of the logits; 0 for features.
        in_features: Number of inputs; an image counts all its values and is flattened.
        width: Width of the stream.
        depth: Branches.
        expansion: Hidden width of a branch over `width`.
        residual: The residual mechanism: a name, a mapping or a builder.
        geometry: The space of the features: `euclidean`, `poincare` or `lorentz`.
        curvature: c > 0, minus the sectional curvature; None is 0.1 in a curved space.
        learned_curvature: Whether c is learned, one for all layers.
        head: `linear`, `mlr` (distances to hyperplanes) or `distance` (to points); None is
            `linear` in flat space and `mlr` in a curved one.
        drop_rate: Dropout inside the branches, in [0, 1).
        drop_path_rate: Stochastic depth of the last branch, in [0, 1).

    Shape:
        (B, in_features) or (B, C, H, W) with C·H·W = in_features -> (B, num_classes).

    Raises:
        ValueError: a size below 1, an input of another size, a residual or a head of another space,
            or a curvature that nothing has.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_features: int = 64,
        width: int = 128,
        depth: int = 6,
        expansion: float = 2.0,
        residual: ResidualSpec = "add",
        geometry: GeometryName = "euclidean",
        curvature: float | None = None,
        learned_curvature: bool = False,
        head: HeadName | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        """Build the stem, the trunk and the head."""
        check_sizes(1, in_features=in_features, width=width, depth=depth)
        check_sizes(1, **{"expansion · width": int(expansion * width)})
        check_rates(drop_rate=drop_rate)
        space = choose_geometry(
            geometry,
            curvature=curvature,
            learned_curvature=learned_curvature,
            head=head,
            residual=residual,
        )
        super().__init__(input_size=(in_features,))
        self.in_features = in_features
        self.num_features = width
        self.stem = space.linear(in_features, width)
        hidden = int(width * expansion)
        branches = [
            nn.Sequential(
                space.linear(width, hidden),
                nn.GELU(),
                nn.Dropout(drop_rate),
                space.linear(hidden, width),
            )
            for _ in range(depth)
        ]
        sites = [Site("mlp", i) for i in range(depth)]
        self.trunk = Trunk(
            make_residual(residual, width, sites, shared=space.shared),
            branches,
            [space.layer_norm(width) for _ in branches],
            drop_path_rates(drop_path_rate, depth),
            tokens=False,
        )
        self.trunk.apply_branch_gain()
        self.norm = space.layer_norm(width)
        self.num_classes = num_classes
        give_head(self, space, head)

    def follow_units(self, trace: UnitTrace, x: Units) -> Units:
        """One stream from the stem to the head."""
        return trace.chain(x, self.stem, self.trunk, self.norm, self.head)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the normed features (B, width)."""
        if math.prod(x.shape[1:]) != self.in_features:
            raise ValueError(
                f"the model reads in_features={self.in_features} values a sample, "
                f"got shape {tuple(x.shape[1:])}"
            )
        return self.norm(self.trunk(self.stem(x.flatten(1))))


@register_model(source="arXiv:2106.11959", kind="features", extends=MLP)
def mlp_nano(width: int = 32, depth: int = 2, **options: Any) -> MLP:
    """The smallest residual MLP, for tests."""
    return MLP(width=width, depth=depth, **options)


@register_model(source="arXiv:2106.11959", kind="features", extends=MLP)
def mlp_tiny(width: int = 64, depth: int = 4, **options: Any) -> MLP:
    """A residual MLP of 4 branches, 64 wide."""
    return MLP(width=width, depth=depth, **options)


@register_model(source="arXiv:2106.11959", kind="features", extends=MLP)
def mlp_small(width: int = 128, depth: int = 6, **options: Any) -> MLP:
    """A residual MLP of 6 branches, 128 wide."""
    return MLP(width=width, depth=depth, **options)


@register_model(source="arXiv:2106.11959", kind="features", extends=MLP)
def mlp_base(width: int = 256, depth: int = 12, **options: Any) -> MLP:
    """A residual MLP of 12 branches, 256 wide."""
    return MLP(width=width, depth=depth, **options)
