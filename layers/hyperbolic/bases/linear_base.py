"""The sizes, the curvature and the weight of linear layers in a curved space."""

# Shape letters: N inputs, M outputs.

import torch
from torch import nn

from ...sizes import check_sizes
from ..curvature import BallCurvature, curvature_of

__all__ = ["CurvedLinear", "HyperplaneRows"]


class CurvedLinear(nn.Module):
    """A layer with a weight (M, N) and a curvature; the weight is not drawn yet.

    Args:
        in_features: N, at least 1.
        out_features: M, at least 1.
        curvature: c, or a shared `BallCurvature`.

    Raises:
        ValueError: a size below 1, or a curvature that is not positive.
    """

    matrix_parameters = ("weight",)

    def __init__(
        self, in_features: int, out_features: int, curvature: float | BallCurvature
    ) -> None:
        """Make the weight."""
        super().__init__()
        check_sizes(1, in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        self.curvature = curvature_of(curvature)
        self.weight = nn.Parameter(torch.empty(out_features, in_features))

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class HyperplaneRows(CurvedLinear):
    """A layer whose M rows are normals of hyperplanes, with offsets (M,) from the origin.

    Args:
        in_features: N, at least 1.
        out_features: M, at least 1.
        curvature: c, or a shared `BallCurvature`.
        bias: Whether hyperplanes may leave the origin (the offset is learned).
    """

    def __init__(
        self, in_features: int, out_features: int, curvature: float | BallCurvature, bias: bool
    ) -> None:
        """Make normals and offsets."""
        super().__init__(in_features, out_features, curvature)
        self.offset = nn.Parameter(torch.empty(out_features)) if bias else None

    def reset_parameters(self) -> None:
        """Draw the normals z from N(0, 1/(2NM)), as HNN++ does, and put them at the origin."""
        nn.init.normal_(self.weight, std=(2 * self.in_features * self.out_features) ** -0.5)
        self.reset_offset()

    def reset_offset(self) -> None:
        """Put the hyperplanes at the origin."""
        if self.offset is not None:
            nn.init.zeros_(self.offset)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{super().extra_repr()}, bias={self.offset is not None}"
