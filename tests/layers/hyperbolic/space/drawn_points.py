"""What the tests of space parts share: drawn points, isometries, and gradients."""

import torch
from archzoo.layers.hyperbolic import space_points as points
from torch import Tensor

LAW = {"rtol": 1e-11, "atol": 1e-11}
CURVATURES = [1e-3, 0.3, 1e3]


def draw(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    """Draw float64 normals."""
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(*shape, generator=generator, dtype=torch.float64)


def spread(*shape: int, c: float, seed: int = 0, radii: float = 1.5) -> Tensor:
    """Draw space parts up to some two radii from the origin, whatever the curvature."""
    return draw(*shape, seed=seed, size=radii / (c * shape[-1]) ** 0.5)


def rotated(s: Tensor, seed: int = 5) -> Tensor:
    """Rotate points (…, D)."""
    q, _ = torch.linalg.qr(draw(s.shape[-1], s.shape[-1], seed=seed))
    return s @ q.mT


def moved(s: Tensor, c: float | Tensor, seed: int = 6) -> Tensor:
    """Move points (…, D) by a Lorentz transformation: a boost after a rotation."""
    by = draw(s.shape[-1], seed=seed, size=0.5 / float(c) ** 0.5)
    return points.boost(rotated(s, seed), by, c)


def grads(out: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Pull back a fixed random covector."""
    return torch.autograd.grad((out * draw(*out.shape, seed=9).to(out)).sum(), inputs)


def leaf(x: Tensor | float) -> Tensor:
    """Copy a tensor or a number as a leaf that wants a gradient, in float64."""
    return torch.as_tensor(x, dtype=torch.float64).detach().clone().requires_grad_()
