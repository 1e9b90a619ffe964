"""The feed-forward branches of transformers: with one hidden layer, and gated.

    plain   W₂ gelu(W₁ x)
    gated   W₂ (silu(G x) ⊙ W₁ x)

Parts and parameters have the names of timm's `Mlp` and `SwiGLU`.

Source: Vaswani et al. 2017, arXiv:1706.03762, §3.3; SwiGLU, Shazeer 2020, arXiv:2002.05202.
Differs from them: the linear layers are those of a geometry; activation and gate act on features.
"""

from torch import Tensor, nn

from ..axes.geometries.contract import Geometry

__all__ = ["FeedForward", "GatedFeedForward"]


class FeedForward(nn.Module):
    """Linear, GELU, linear, with biases and dropout behind both.

    Args:
        width: D.
        hidden: Width between the layers.
        drop_rate: Dropout, in [0, 1).
        space: The geometry of the features.

    Shape:
        (…, D) -> (…, D).
    """

    def __init__(self, width: int, hidden: int, drop_rate: float, *, space: Geometry) -> None:
        """Build the layers."""
        super().__init__()
        self.fc1 = space.linear(width, hidden)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(drop_rate)
        self.fc2 = space.linear(hidden, width)
        self.drop2 = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map features."""
        return self.drop2(self.fc2(self.drop1(self.act(self.fc1(x)))))


class GatedFeedForward(nn.Module):
    """SwiGLU without biases.

    Args:
        width: D.
        hidden: Width between the layers.
        space: The geometry of the features.

    Shape:
        (…, D) -> (…, D).
    """

    def __init__(self, width: int, hidden: int, *, space: Geometry) -> None:
        """Build the layers."""
        super().__init__()
        self.fc1_g = space.linear(width, hidden, bias=False)
        self.fc1_x = space.linear(width, hidden, bias=False)
        self.act = nn.SiLU()
        self.fc2 = space.linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map features."""
        return self.fc2(self.act(self.fc1_g(x)) * self.fc1_x(x))
