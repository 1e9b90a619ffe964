"""Sequences of linear maps, batch norms and activations, bounded together.

A batch norm in evaluation is a diagonal scaling. It is folded into the linear map before it, or
else, through the activations in between, into the one behind it: with D the diagonal of slopes,
‖K D diag(s)‖ = ‖K diag(s) D‖ ≤ l ‖K diag(s)‖. What a dense chain with slopes in [0, 1] computes is
also bounded as a whole by the matrix inequality, alone or beside a skip.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ....layers.lipschitz.proof.multipliers import lmi_lipschitz
from ....layers.lipschitz.proof.norms import (
    conv_bound,
    gamma,
    one_infinity_bound,
    product_up,
    spectral_bound,
    sum_up,
)
from .calculus import Bound, Walk, rule
from .elementwise import Slopes, slopes

__all__ = ["WIDEST", "Chain", "chain_of"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LINEAR = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

ROUNDINGS = 8  # of a weight that two batch norms are folded into
WIDEST = 1024  # order of the matrix inequality that is still solved


@dataclass
class Linear:
    """A linear map with the scalings that are folded into it."""

    module: Any
    name: str
    before: Tensor | None = None
    after: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The folded weight in float64; of a transposed convolution that of its adjoint."""
        w = self.module.weight.detach().double()
        before, after = self.before, self.after
        if isinstance(self.module, TRANSPOSED):
            before, after = after, before
        if after is not None:
            w = w * after.view(-1, *[1] * (w.dim() - 1))
        if before is not None:
            groups = getattr(self.module, "groups", 1)
            if groups > 1:
                rows = before.view(groups, -1).repeat_interleave(len(w) // groups, 0)
                w = w * rows.view(*rows.shape, *[1] * (w.dim() - 2))
            else:
                w = w * before.view(1, -1, *[1] * (w.dim() - 2))
        return w

    @property
    def folded(self) -> bool:
        """Whether the weight is not the stored one."""
        return self.before is not None or self.after is not None


@dataclass
class Chain:
    """Pieces in order: `Linear`, `Slopes`, a scaling (a tensor), or a `Bound` of anything else."""

    pieces: list[Linear | Slopes | Tensor | Bound]
    error: float

    def product(self, walk: Walk) -> float:
        """Return the product of the pieces' constants."""
        factors = []
        for piece in self.pieces:
            if isinstance(piece, Linear):
                factors.append(linear_bound(walk, piece))
            elif isinstance(piece, Slopes):
                factors.append(piece.largest)
            elif isinstance(piece, Bound):
                factors.append(piece.lipschitz)
            else:
                factors.append(product_up(float(piece.abs().max()), 1 + gamma(8)))
            if factors[-1] == math.inf:
                return math.inf
        return product_up(*factors)

    def dense(self) -> tuple[list[Tensor], Tensor] | None:
        """Return C_1 … C_n and B where the chain is B σ(C_n … σ(C_1 x)) with slopes in [0, 1]."""
        weights: list[Tensor] = []
        scaling: Tensor | None = None
        for before, piece in itertools.pairwise([None, *self.pieces]):
            if isinstance(piece, Tensor) and before is None:
                scaling = piece
            elif isinstance(piece, Linear) and isinstance(piece.module, nn.Linear):
                if isinstance(before, Linear):
                    return None
                weights.append(piece.weight)
            elif isinstance(piece, Slopes) and piece.least >= 0.0 and piece.most <= 1.0:
                if isinstance(before, Slopes):
                    return None
                if not weights:
                    if scaling is None:
                        return None
                    weights.append(torch.diag(scaling))
            else:
                return None
        if weights and isinstance(self.pieces[-1], Slopes):
            weights.append(torch.eye(len(weights[-1]), dtype=torch.float64))
        if len(weights) < 2:
            return None
        order = weights[0].shape[1] + sum(len(w) for w in weights[:-1])
        return (weights[:-1], weights[-1]) if order <= WIDEST else None

    def bound(self, walk: Walk) -> tuple[float, str]:
        """Return the chain's constant and the method that gave it."""
        best = self.product(walk)
        dense = self.dense() if walk.method != "product" else None
        if dense is None or best == math.inf:
            return best, "product"
        inner, tap = dense
        skip = torch.zeros(len(tap), inner[0].shape[1], dtype=torch.float64)
        found = lmi_lipschitz(skip, inner, _last(inner, tap), roundings=ROUNDINGS)
        return (found, "lmi") if found < best else (best, "product")

    def beside(self, walk: Walk, skip: float, scale: float) -> tuple[float, str]:
        """Return the constant of x -> skip · x + scale · chain(x), and the method."""
        product = sum_up(skip, product_up(abs(scale), self.product(walk)))
        dense = self.dense() if walk.method != "product" else None
        if dense is None or product == math.inf:
            return product, "product"
        inner, tap = dense
        identity = skip * torch.eye(len(tap), inner[0].shape[1], dtype=torch.float64)
        found = lmi_lipschitz(identity, inner, _last(inner, scale * tap), roundings=ROUNDINGS)
        return (found, "lmi") if found < product else (product, "product")


def _last(inner: Sequence[Tensor], tap: Tensor) -> tuple[Tensor | None, ...]:
    """The taps of a chain: only its last layer reaches the output."""
    return (*(None for _ in inner[1:]), tap)


def chain_of(walk: Walk, parts: Sequence[tuple[str, nn.Module]]) -> Chain:
    """Flatten sequences and fold batch norms."""
    pieces: list[Linear | Slopes | Tensor | Bound] = []
    waiting: Tensor | None = None  # a scaling that the next linear map takes in
    error = 0.0
    for name, module in _leaves(walk, parts):
        found, loose, lost = _piece(walk, module, name)
        error = sum_up(product_up(loose, error), lost)
        if isinstance(found, Tensor):
            last = pieces[-1] if pieces else None
            fits = isinstance(last, Linear) and waiting is None and _fits(walk, last, found, False)
            if fits and isinstance(last, Linear):
                last.after = found if last.after is None else last.after * found
            else:
                waiting = found if waiting is None else waiting * found
        elif isinstance(found, Slopes):
            pieces.append(found)
        elif (
            isinstance(found, Linear) and waiting is not None and _fits(walk, found, waiting, True)
        ):
            first = all(isinstance(p, Slopes) for p in pieces)
            if first and pieces:
                # Kept apart, so that the inequality may read σ(diag(s) x) as a layer.
                pieces.insert(0, waiting)
            else:
                found.before = waiting
            pieces.append(found)
            waiting = None
        else:
            if waiting is not None:
                pieces.append(waiting)
                waiting = None
            if not (isinstance(found, Bound) and found == Bound(1.0)):
                pieces.append(found)
    if waiting is not None:
        pieces.append(waiting)
    return Chain(_absorbed(walk, pieces), error)


def _absorbed(walk: Walk, pieces: list[Any]) -> list[Any]:
    """Fold a leading scaling through activations, unless the inequality can use it as a layer."""
    chain = Chain(pieces, 0.0)
    if not (pieces and isinstance(pieces[0], Tensor)) or chain.dense() is not None:
        return pieces
    place = next((i for i, p in enumerate(pieces[1:], 1) if not isinstance(p, Slopes)), None)
    if place is None or not isinstance(pieces[place], Linear) or pieces[place].before is not None:
        return pieces
    if not _fits(walk, pieces[place], pieces[0], True):
        return pieces
    pieces[place].before = pieces[0]
    return pieces[1:]


def _fits(walk: Walk, piece: Linear, scaling: Tensor, before: bool) -> bool:
    """Whether a scaling per channel is one per row or column of a linear map."""
    module, sight = piece.module, walk.sight(piece.module)
    if isinstance(module, nn.Linear):
        if any(len(shape) != 1 for shape in sight.inputs):
            return False
        return len(scaling) == (module.in_features if before else module.out_features)
    return len(scaling) == (module.in_channels if before else module.out_channels)


def _leaves(walk: Walk, parts: Sequence[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    leaves = []
    for name, module in parts:
        plain = type(module).forward is nn.Sequential.forward and "forward" not in vars(module)
        if isinstance(module, nn.Sequential) and plain and module not in walk.hooked:
            inner = [(f"{name}.{key}" if name else key, m) for key, m in module.named_children()]
            leaves += _leaves(walk, inner)
        else:
            leaves.append((name, module))
    return leaves


def _piece(walk: Walk, module: Any, name: str) -> tuple[Any, float, float]:
    """Return a piece, a cheap constant of it and the error of its own evaluation."""
    if walk.rule_of(module, name) is None:
        return walk.refuse(), math.inf, 0.0
    if isinstance(module, LINEAR):
        why = _unknown(module)
        if why is not None:
            return walk.refuse(name, why), math.inf, 0.0
        cheap, lost = _linear_error(walk, module)
        return Linear(module, name), cheap, lost
    if isinstance(module, BATCH_NORMS):
        if module.running_var is None:
            why = "a batch norm without running statistics depends on the other samples"
            return walk.refuse(name, why), math.inf, 0.0
        scale = (module.running_var.double() + module.eps).rsqrt()
        if module.weight is not None:
            scale = scale * module.weight.detach().double()
        cheap = product_up(float(scale.abs().max()), 1 + gamma(8))
        mean = module.running_mean
        shift = 0.0 if mean is None else float(mean.double().abs().max())
        sight = walk.sight(module)
        size = max((math.prod(shape) for shape in sight.inputs), default=1)
        spread = sum_up(sight.read, product_up(shift, math.sqrt(size) + 1))
        return scale, cheap, product_up(gamma(16), sum_up(product_up(cheap, spread),
                                                          sight.returned))  # fmt: skip
    found = slopes(module)
    bound = walk.bound(module, name)
    return (bound if found is None else found), bound.lipschitz, bound.error


def _unknown(module: Any) -> str | None:
    """Say why a convolution has no rule, or None."""
    if isinstance(module, nn.Linear):
        return None
    if module.padding_mode not in ("zeros", "circular"):
        return f"padding_mode={module.padding_mode!r} has no rule; use 'zeros' or 'circular'"
    if module.padding_mode == "circular":
        if isinstance(module.padding, str):
            return None if module.padding == "same" else "circular padding of 'valid' has no rule"
        spans = zip(module.padding, module.kernel_size, module.dilation, strict=True)
        if any(2 * p > d * (k - 1) for p, k, d in spans):
            return "circular padding beyond the kernel repeats outputs and has no rule"
    return None


def _linear_error(walk: Walk, module: Any) -> tuple[float, float]:
    """Return a cheap constant of |W| and the error of W x + b in float64."""
    w = module.weight.detach().double()
    groups = getattr(module, "groups", 1)
    flat = w.abs() if w.dim() == 2 else w.abs().flatten(2).sum(2)
    grouped = flat.unflatten(0, (groups, -1))
    cheap = max(one_infinity_bound(g) for g in grouped)
    length = w[0].numel() if not isinstance(module, TRANSPOSED) else w[:, 0].numel()
    sight = walk.sight(module)
    bias = 0.0
    if module.bias is not None:
        b = module.bias.detach().double()
        copies = max((math.prod(s) // len(b) for s in sight.outputs if s), default=1)
        bias = float(b.norm()) * (math.sqrt(copies) + 1)
    return cheap, product_up(gamma(2 * length + 16), sum_up(product_up(cheap, sight.read), bias))


def linear_bound(walk: Walk, piece: Linear) -> float:
    """Bound a linear map or a convolution with what is folded into it."""
    module, weight = piece.module, piece.weight
    roundings = ROUNDINGS if piece.folded else 0
    if isinstance(module, nn.Linear):
        lost = product_up(gamma(roundings), float(weight.norm()) * (1 + 1e-6)) if roundings else 0.0
        return spectral_bound(weight, error=lost)
    sight = walk.sight(module)
    turned = isinstance(module, TRANSPOSED)
    sizes = {shape[1:] for shape in (sight.outputs if turned else sight.inputs)}
    if not sizes:
        return walk.refuse(
            piece.name, "the module was not called, so its image size is unknown"
        ).lipschitz
    return max(
        conv_bound(
            weight,
            size,
            stride=module.stride,
            padding=None if isinstance(module.padding, str) else module.padding,
            dilation=module.dilation,
            groups=module.groups,
            circular=module.padding_mode == "circular",
            roundings=roundings,
        )
        for size in sizes
    )


@rule(nn.Sequential, *LINEAR, *BATCH_NORMS)
def sequence(walk: Walk, module: nn.Module, name: str) -> Bound:
    """Bound a sequence, or a single linear map or batch norm, as a chain."""
    chain = chain_of(walk, [(name, module)])
    if len(chain.pieces) == 1 and isinstance(chain.pieces[0], Bound):
        return Bound(chain.pieces[0].lipschitz, chain.error)
    lipschitz, method = chain.bound(walk)
    if chain.pieces:
        walk.note(name, lipschitz, method)
    return Bound(lipschitz, chain.error)
