"""Random blocks and the exact reference for the Lipschitz laws: the worst pattern of a ReLU net."""

from collections.abc import Callable

import torch
from archzoo.layers.lipschitz import LMIBlock, lmi_matrix
from archzoo.layers.lipschitz.ldlt.chain import (
    Free,
    dense_block,
    dense_inverse,
    feed_forward_block,
    feed_forward_inverse,
    residual_block,
    residual_inverse,
    taps_block,
    taps_inverse,
)
from archzoo.layers.lipschitz.ldlt.joint import joint_block, joint_inverse
from archzoo.layers.lipschitz.ldlt.skip import skip_block, skip_inverse
from torch import Tensor, nn

FORMS = {
    "joint": (joint_block, joint_inverse),
    "chain_first": (residual_block, residual_inverse),
    "skip_first": (skip_block, skip_inverse),
    "feed_forward": (feed_forward_block, feed_forward_inverse),
    "taps": (taps_block, taps_inverse),
    "dense": (dense_block, dense_inverse),
}


def normals(g: torch.Generator, *shape: int) -> Tensor:
    """Draw float64 normals."""
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def draw(form: str, g: torch.Generator, layers: int, gain: float, widest: int = 6) -> Free:
    """Draw the free matrices of a block with random rectangular shapes and multipliers.

    The joint form has two inner layers, whatever is asked for.
    """
    layers = 2 if form == "joint" else layers
    widths = [int(torch.randint(1, widest + 1, (), generator=g)) for _ in range(layers + 2)]
    *widths, out = widths
    columns = {"taps": sum(widths), "dense": sum(widths), "feed_forward": widths[-1]}
    inner = []
    for k in range(1, layers + 1):
        wide = sum(widths[:k]) if form == "dense" else widths[k - 1]
        inner.append(gain * normals(g, widths[k], wide))
    total = columns.get(form, widths[0] + widths[-1])
    multipliers = tuple((0.5 * normals(g, d)).exp() for d in widths[1:])
    return Free(tuple(inner), gain * normals(g, out, total), multipliers)


def smallest(block: LMIBlock, lipschitz: float) -> float:
    """Return the smallest eigenvalue of P(L)."""
    return float(torch.linalg.eigvalsh(lmi_matrix(block, lipschitz)).min())


def worst_pattern(block: LMIBlock, seed: int = 0, starts: int = 6) -> float:
    """Return a ReLU network's largest Jacobian norm found by flipping bits of its pattern.

    Any pattern is that of some input for some bias, so no bound that holds for all biases is lower.
    """
    g = torch.Generator().manual_seed(seed)
    widths = block.widths

    def norm(pattern: list[Tensor]) -> float:
        signals = [torch.eye(widths[0], dtype=block.skip.dtype)]
        out = block.skip.clone()
        for c, tap, bits in zip(block.inner, block.taps, pattern, strict=True):
            last = signals[-1] if c.shape[1] == signals[-1].shape[0] else torch.cat(signals)
            signals.append(bits[:, None] * (c @ last))
            if tap is not None:
                out = out + tap @ signals[-1]
        return float(torch.linalg.matrix_norm(out, 2))

    best = 0.0
    for start in range(starts):
        p = 1.0 if start == 0 else 0.5
        pattern = [(torch.rand(d, generator=g) <= p).to(block.skip.dtype) for d in widths[1:]]
        value, better = norm(pattern), True
        while better:
            better = False
            for bits in pattern:
                for i in range(len(bits)):
                    bits[i] = 1 - bits[i]
                    flipped = norm(pattern)
                    if flipped > value:
                        value, better = flipped, True
                    else:
                        bits[i] = 1 - bits[i]
        best = max(best, value)
    return best


def pair_ascent(f: Callable[[Tensor], Tensor], shape: tuple[int, ...], steps: int = 60) -> float:
    """Return the largest ‖f(x) − f(y)‖ / ‖x − y‖ that ascent on pairs finds: a lower bound."""
    g = torch.Generator().manual_seed(0)
    x = normals(g, 16, *shape)
    y = (x + 0.1 * normals(g, 16, *shape)).requires_grad_()
    x.requires_grad_()
    ascent = torch.optim.Adam([x, y], lr=0.03)
    best = 0.0
    for _ in range(steps):
        ratio = (f(x) - f(y)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
        best = max(best, float(ratio.detach().max()))
        ascent.zero_grad()
        (-ratio.log().sum()).backward()
        ascent.step()
    return best


def jacobian_norm(f: nn.Module, x: Tensor) -> float:
    """Return the largest singular value of the Jacobian at each sample, over the samples."""
    norms = []
    for sample in x:
        j = torch.autograd.functional.jacobian(lambda z: f(z[None])[0], sample)
        norms.append(torch.linalg.matrix_norm(j.reshape(-1, sample.numel()), 2))
    return float(torch.stack(norms).max())


def noisy(module: nn.Module, size: float = 0.5, seed: int = 0) -> nn.Module:
    """Add noise to every parameter, so that no law holds by a fresh zero."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p += size * torch.randn(p.shape, generator=g).to(p.dtype)
    return module


def deployed(block: LMIBlock, lipschitz: float) -> float:
    """Return the best smallest eigenvalue of P(L) over multipliers inflated towards the input.

    At its bound a rounded block is certified by slightly other multipliers than its own:
    λ_k (1 + δ)^{n−k+1}.
    """
    n = len(block.inner)
    values = []
    for delta in (0.0, 1e-7, 1e-6):
        inflated = tuple(
            m.double() * (1 + delta) ** (n - k) for k, m in enumerate(block.multipliers)
        )
        values.append(smallest(block._replace(multipliers=inflated), lipschitz))
    return max(values)
