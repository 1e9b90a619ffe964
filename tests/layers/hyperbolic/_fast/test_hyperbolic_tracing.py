"""Whatever traces a hyperbolic layer sees its definition: traced layers compute what layers do."""

import pytest
import torch
from archzoo.layers import hyperbolic
from torch import Tensor, nn

from ...residual._fast.test_residual_tracing import TRACERS

CHEAP = ["jit_traced", "fx_traced"]


class Sum(nn.Module):
    """Möbius addition of tangents and a part of them."""

    def forward(self, t: Tensor) -> Tensor:
        return hyperbolic.mobius_add_tangents(t, 0.5 * t.flip(0), 0.3)


LAYERS = {
    "linear": (lambda: hyperbolic.PoincareLinear(8, 6, curvature=0.3), (5, 8)),
    "linear without offset": (
        lambda: hyperbolic.PoincareLinear(8, 6, curvature=0.3, bias=False),
        (5, 8),
    ),
    "conv": (lambda: hyperbolic.PoincareConv2d(4, 6, 3, padding=1, curvature=0.3), (3, 4, 6, 5)),
    "norm": (lambda: hyperbolic.MidpointBatchNorm(4, curvature=0.3), (3, 4, 6, 5)),
    "classifier": (lambda: hyperbolic.PoincareMLR(8, 6, curvature=0.3), (5, 8)),
    "pool": (lambda: hyperbolic.MidpointPool(curvature=0.3), (3, 4, 6, 5)),
    "sum": (Sum, (3, 4, 6, 5)),
}


@pytest.mark.parametrize(
    "tracer",
    [t if t in CHEAP else pytest.param(t, marks=pytest.mark.slow) for t in TRACERS],
)
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_a_traced_layer_is_the_layer(name, grad, tracer):
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    model = build().double().eval()
    x, other = torch.randn(2, *shape, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        traced = TRACERS[tracer](model, x)
        torch.testing.assert_close(traced(other), model(other), rtol=1e-9, atol=1e-9)
