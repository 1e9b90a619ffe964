"""Sandwich layers: feed-forward layers that use the whole matrix inequality.

    y = √2 Aᵀ Ψ σ(√2 L Ψ⁻¹ B x + b),   A Aᵀ + B Bᵀ = I,   Ψ = diag(exp ψ)

[A, B]ᵀ has orthonormal columns, from a Cayley transform of a free matrix: with [U; V] = α X/‖X‖_F
and Z = U − Uᵀ + Vᵀ V,

    Aᵀ = (I + Z)⁻¹ (I − Z),   Bᵀ = −2 V (I + Z)⁻¹.

In the terms of P(L): C = √2 L Ψ⁻¹ B, B_1 = √2 Aᵀ Ψ, Λ = Ψ², and P(L) is singular: every layer is
at its bound.

Source: Wang and Manchester 2023, "Direct parameterization of Lipschitz-bounded deep networks",
arXiv:2301.11526, theorem 3.2 (`SandwichFc` of their code).
Differs from it: L may stand at any layer; the map is computed in float64. The feed-forward
`LDLTBlock` covers the same layers with a Cholesky factor in place of the Cayley transform.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..sizes import check_sizes
from .layer import LipschitzLayer, check_lipschitz
from .lipschitz_activation import make_activation
from .plain_modules import PlainBlock, linear
from .proof.inequality import LMIBlock

__all__ = ["SandwichLayer", "cayley"]


def cayley(x: Tensor) -> Tensor:
    """Return a matrix with orthonormal columns from any tall matrix.

    Args:
        x: [U; V] (M, N), M ≥ N.

    Returns:
        (M, N) with QᵀQ = I.
    """
    n = x.shape[1]
    u, v = x[:n], x[n:]
    eye = torch.eye(n, dtype=x.dtype, device=x.device)
    z = u - u.mT + v.mT @ v
    inverse = torch.linalg.inv(eye + z)
    return torch.cat([inverse @ (eye - z), -2 * v @ inverse])


class SandwichLayer(LipschitzLayer):
    """A dense layer with its activation inside, L-Lipschitz by construction.

    Args:
        in_features: Inputs, at least 1.
        out_features: Outputs, and length of the inner layer, at least 1.
        lipschitz: L > 0.
        activation: A name of `ACTIVATIONS`, or a module of such a class.

    Shape:
        (…, in_features) -> (…, out_features).

    Raises:
        ValueError: a size below 1, L ≤ 0, or an activation with slopes outside [0, 1].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        lipschitz: float = 1.0,
        activation: str | nn.Module = "relu",
    ) -> None:
        """Make X, α, ψ and b."""
        super().__init__()
        check_sizes(1, in_features=in_features, out_features=out_features)
        self.lipschitz = check_lipschitz(lipschitz)
        self.activation = make_activation(activation)
        self.weight = nn.Parameter(torch.empty(out_features + in_features, out_features))
        self.alpha = nn.Parameter(torch.empty(()))
        self.log_psi = nn.Parameter(torch.empty(out_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw X as Xavier does, start at α = ‖X‖, and zero ψ and b."""
        nn.init.xavier_normal_(self.weight)
        with torch.no_grad():
            self.alpha.copy_(self.weight.norm())
        nn.init.zeros_(self.log_psi)
        nn.init.zeros_(self.bias)

    def compute(self, parameters: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Map X, α and ψ to C, B and Λ."""
        x, psi = parameters["weight"], parameters["log_psi"].exp()
        q = cayley(parameters["alpha"] / x.norm() * x)
        n = len(psi)
        c = math.sqrt(2) * self.lipschitz * q[n:].mT / psi.unsqueeze(-1)
        return c, math.sqrt(2) * q[:n] * psi, psi.square()

    @torch.no_grad()
    def effective(self) -> LMIBlock:
        """Return the weights that the forward uses right now."""
        c, tap, multiplier = self.weights()
        return LMIBlock(tap.new_zeros(tap.shape[0], c.shape[1]), (c,), (tap,), (multiplier,))

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer."""
        c, tap, _ = self.weights()
        return F.linear(self.activation(F.linear(x, c, self.bias)), tap)

    @torch.no_grad()
    def export(self) -> PlainBlock:
        """Return plain linear layers with equal outputs."""
        c, tap, _ = self.weights()
        return PlainBlock(None, [linear(c, self.bias)], [linear(tap)], self.activation)

    def extra_repr(self) -> str:
        """Show the sizes and the bound."""
        n = len(self.bias)
        return (
            f"in_features={self.weight.shape[0] - n}, out_features={n}, "
            f"lipschitz={self.lipschitz:g}"
        )
