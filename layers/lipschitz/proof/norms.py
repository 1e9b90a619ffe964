"""Matrix and convolution norms that are never too small, in floating point.

A power iteration, a singular value from LAPACK and an optimiser all return estimates. Here a value
t from LAPACK is only a candidate: it is returned once t I − W Wᴴ − c I has a Cholesky
factorisation in float64, where c covers every rounding on the way, which proves t ≥ ‖W‖².

A convolution is a block of small matrices, one for each frequency of a grid:

    circular on n:              the grid n itself, exact
    zero padding p on n:        any grid N ≥ n + min(p, k − 1): a window that wraps around reads
                                zeros only, so the map is a compression of the circular one
    stride s:                   (1/√s) [K(f), K(f + N/s), …], the s aliases of an output frequency
    windows that do not overlap: the norm of the kernel as one matrix

Sources: Rump 2006, "Verification of positive definiteness", BIT 46; Higham 2002, "Accuracy and
Stability of Numerical Algorithms", theorems 3.5 and 10.5; Sedghi et al. 2019, arXiv:1805.10408
(circular); Delattre et al. 2023, arXiv:2305.16173 (Gram iteration).
Differs from them: complex matrices with generous constants; zero padding and strides by the grids
above, where the n × n grid of the image is no bound.
"""

# Shape letters: O outputs, I inputs, k kernel size, n image size, N grid size, T taps of a kernel.

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = [
    "UNIT",
    "conv_bound",
    "frequency_matrices",
    "gamma",
    "gram_bound",
    "is_positive_definite",
    "one_infinity_bound",
    "product_up",
    "root_up",
    "spectral_bound",
    "sum_up",
    "up",
    "wide",
]

UNIT = 2.0**-53  # half the distance from 1 to the next float64
CHUNK = 2_000_000  # entries of the matrices of one batch of frequencies


def gamma(roundings: int) -> float:
    """Return m u/(1 − m u), which bounds the relative error of m roundings of float64."""
    return up(roundings * UNIT / (1 - roundings * UNIT))


def up(x: float) -> float:
    """Return the next larger float64."""
    return math.nextafter(x, math.inf)


def product_up(*factors: float) -> float:
    """Multiply non-negative numbers, rounded up; 0 · ∞ is 0, since what is cut off cannot grow."""
    if any(factor == 0 for factor in factors):
        return 0.0
    total = 1.0
    for factor in factors:
        total = factor if total == 1.0 else total if factor == 1.0 else up(total * factor)
    return total


def sum_up(*terms: float) -> float:
    """Add non-negative numbers, rounded up."""
    total = 0.0
    for term in terms:
        total = term if total == 0.0 else total if term == 0.0 else up(total + term)
    return total


def root_up(x: float) -> float:
    """Return a square root, rounded up."""
    return up(math.sqrt(x))


def is_positive_definite(p: Tensor, error: float = 0.0) -> bool:
    """Prove that every Hermitian matrix within `error` of those given is positive definite.

    False says only that there is no proof.

    Args:
        p: Matrices (…, N, N) in float64 or complex128; the lower triangles are read.
        error: Bound of the spectral norm of what the true matrices differ by.
    """
    diagonal = p.diagonal(dim1=-2, dim2=-1).real
    if not bool((diagonal > 0).all()):
        return False
    g = 2 * gamma(4 * p.shape[-1] + 16)  # complex products count as four real ones
    shift = g * diagonal.sum(-1).max().item() + error
    shifted = p.clone()
    shifted.diagonal(dim1=-2, dim2=-1).sub_(up(shift))
    return not bool(torch.linalg.cholesky_ex(shifted).info.any())


def spectral_bound(weight: Tensor, *, error: float = 0.0, at_least: float = 0.0) -> float:
    """Return a bound of the spectral norm, above it by a relative 1e-9 at most where O is small.

    Args:
        weight: Matrices (…, O, I), real or complex, of any float type, taken exactly as stored; the
            bound holds for all of them.
        error: Bound of the spectral norm of what the true matrices differ by.
        at_least: A bound of other matrices: the larger of the two comes back, which saves work.

    Raises:
        ValueError: NaN or infinite entries.
    """
    w = wide(weight)
    if w.numel() == 0:
        return sum_up(at_least, error)
    largest = float(w.abs().max())
    if largest == 0.0:
        return max(at_least, error)
    scale = 2.0 ** math.frexp(largest)[1]  # a power of two divides exactly
    w = w / scale
    if w.shape[-2] > w.shape[-1]:
        w = w.mH
    gram = w @ w.mH
    square = float(w.abs().square().sum((-2, -1)).max())
    rounding = gamma(4 * w.shape[-1] + 8) * square * (1 + gamma(4 * w.shape[-2] * w.shape[-1]))

    def holds(t: float) -> bool:
        shifted = -gram
        shifted.diagonal(dim1=-2, dim2=-1).add_(t)
        return is_positive_definite(shifted, up(rounding + 4 * UNIT * (t + square)))

    old = max(at_least - error, 0.0) / scale
    if old > 0.0 and old * old < math.inf and holds(old * old * (1 - 8 * UNIT)):
        return at_least
    top = float(torch.linalg.eigvalsh(gram).max())
    # What the proof takes off, so that its first attempt is seldom in vain.
    order = gram.shape[-1]
    lost = rounding + 8 * UNIT * (top + square) + 2 * gamma(4 * order + 16) * order * top
    slack = max(1e-13, 1.25 * lost / top)
    while not holds(top * (1 + slack)):
        slack *= 2
    return sum_up(product_up(scale, root_up(top * (1 + 2 * slack))), error)


def gram_bound(weight: Tensor, iterations: int = 6) -> Tensor:
    """Return ‖G_t‖_F^(2^−t) with G_0 = W, G_{t+1} = G_tᴴ G_t: differentiable, for training.

    It exceeds the norm by a factor of rank^(2^−t−1) at most and is never below it in real
    arithmetic; a certificate takes `spectral_bound`.

    Args:
        weight: Matrices (…, O, I).
        iterations: t, at least 1.

    Returns:
        (…).
    """
    g = weight if weight.shape[-2] >= weight.shape[-1] else weight.mH
    logarithm = torch.zeros(weight.shape[:-2], dtype=weight.abs().dtype, device=weight.device)
    for step in range(iterations):
        size = torch.linalg.matrix_norm(g).clamp_min(torch.finfo(logarithm.dtype).tiny)
        logarithm = logarithm + size.log() * 0.5**step
        g = g / size[..., None, None]
        g = g.mH @ g
    size = torch.linalg.matrix_norm(g).clamp_min(torch.finfo(logarithm.dtype).tiny)
    return (logarithm + size.log() * 0.5**iterations).exp()


def one_infinity_bound(weight: Tensor) -> float:
    """Return √(‖W‖₁ ‖W‖_∞) of a matrix (O, I), rounded up: cheap, and a bound for |W| too."""
    w = wide(weight).abs()
    columns, rows = float(w.sum(0).max()), float(w.sum(1).max())
    return product_up(root_up(product_up(columns, rows)), 1 + gamma(sum(w.shape) + 4))


def conv_bound(
    weight: Tensor,
    size: Sequence[int],
    *,
    stride: Sequence[int] | None = None,
    padding: Sequence[int] | None = None,
    dilation: Sequence[int] | None = None,
    groups: int = 1,
    circular: bool = False,
    roundings: int = 0,
) -> float:
    """Return a bound of the norm of a convolution on images of one size.

    A transposed convolution has the norm of its adjoint: the same
    weight on images of its output's size.

    Args:
        weight: (O, I / groups, k, …), taken exactly as stored.
        size: n of each axis of the image that the convolution reads, without padding.
        stride: Of each axis; 1 if not given.
        padding: Zeros on either side of each axis, the larger number; any if not given.
        dilation: Of each axis; 1 if not given.
        groups: Divides O and I.
        circular: Whether the image is continued periodically, with at most as many outputs as
            pixels at stride 1.
        roundings: How many roundings of float64 the entries have gone through, such as the
            product with a folded batch norm.

    Raises:
        ValueError: NaN or infinite entries, or arguments of different lengths.
    """
    w = wide(weight)
    taps = tuple(w.shape[2:])
    steps = tuple(stride) if stride is not None else (1,) * len(taps)
    gaps = tuple(dilation) if dilation is not None else (1,) * len(taps)
    spans = tuple(d * (k - 1) for d, k in zip(gaps, taps, strict=False))
    zeros = (
        spans if padding is None else tuple(min(p, e) for p, e in zip(padding, spans, strict=False))
    )
    if {len(v) for v in (size, steps, gaps, zeros)} != {len(taps)}:
        raise ValueError(
            f"size={tuple(size)}, stride={steps}, padding={padding} and dilation={gaps} must have "
            f"an entry for each of the kernel's axes {taps}"
        )
    grouped = w.unflatten(0, (groups, -1))
    own = gamma(roundings) if roundings else 0.0
    if not circular and all(
        s >= d * (k - 1) + 1 for s, d, k in zip(steps, gaps, taps, strict=True)
    ):
        flat = grouped.flatten(2)
        return spectral_bound(flat, error=own * _frobenius(flat))
    grid = []
    for n, s, z in zip(size, steps, zeros, strict=True):
        grid.append(n if circular else -(-(n + z) // s) * s)
    if any(n % s for n, s in zip(grid, steps, strict=True)):
        steps = (1,) * len(taps)  # the strided map reads off some of the outputs
    # cos and sin of an exact angle are off by 26 u at most, each tap adds a product and a sum.
    count = math.prod(taps)
    relative = gamma(4 * count + 26 * len(taps) + 16) + own
    error = product_up(relative, _frobenius(grouped.abs().flatten(3).sum(3)), math.prod(steps))
    bound = 0.0
    for symbols in frequency_matrices(grouped, grid, steps, gaps):
        bound = spectral_bound(symbols, error=error, at_least=bound)
    return bound


def frequency_matrices(
    w: Tensor, grid: Sequence[int], steps: Sequence[int], gaps: Sequence[int]
) -> Iterator[Tensor]:
    """Yield batches of the matrices (…, O, I · aliases) of all frequencies of a real kernel."""
    taps = w.shape[3:]
    short = [n // s for n, s in zip(grid, steps, strict=True)]
    halves = [*short[:-1], short[-1] // 2 + 1]  # a real kernel repeats its conjugate
    frequencies = torch.cartesian_prod(*(torch.arange(n) for n in halves)).view(-1, len(grid))
    places = torch.cartesian_prod(*(torch.arange(k) for k in taps)).view(-1, len(grid))
    places = places * torch.tensor(gaps)
    aliases = list(itertools.product(*(range(s) for s in steps)))
    flat = w.flatten(3).to(torch.complex128)
    batch = max(1, CHUNK // (flat[..., 0].numel() * len(aliases)))
    sizes = torch.tensor(grid)
    for chosen in frequencies.split(batch):
        parts = []
        for alias in aliases:
            moved = chosen + torch.tensor(alias) * torch.tensor(short)
            turns = (moved[:, None, :] * places) % sizes
            angles = 2 * math.pi * turns.double() / sizes
            phases = torch.polar(torch.ones_like(angles), angles).prod(-1)
            parts.append(torch.einsum("goit,ft->fgoi", flat, phases))
        yield torch.cat(parts, dim=-1) / math.sqrt(len(aliases))


def _frobenius(w: Tensor) -> float:
    """The largest Frobenius norm of matrices (…, O, I), rounded up."""
    square = float(w.abs().square().sum((-2, -1)).max())
    return product_up(root_up(square), 1 + gamma(w.shape[-2] * w.shape[-1] + 4))


def wide(weight: Tensor) -> Tensor:
    """Return the same numbers in float64 or complex128, on the CPU.

    Raises:
        ValueError: NaN or infinite entries.
    """
    w = weight.detach().cpu()
    if not bool(w.isfinite().all()):
        raise ValueError("the weight holds NaN or infinite values, and has no norm")
    return w.to(torch.complex128 if w.is_complex() else torch.float64)
