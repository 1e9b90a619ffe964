"""The LDLᵀ block as a module: free parameters in, an L-Lipschitz residual block out.

    y = A x + Σ_k B_k w_k + b_y,   w_k = σ(C_k w_{k-1} + b_k),   w_0 = x

with weights from the maps of `chain` and `skip`, so that P(L) ≥ 0 whatever the parameters are.

Facts that decide its arguments. One inner layer allows A = L I, which is an SLL block. With two or
more, A = L I leaves nothing to the branch: P_00 = 0 forces C_1 = 0 and B = 0, so it is refused,
although Lipschitz blocks of that kind exist; a skip a I with a from 0.5 to 0.8 leaves most. Stacks
of many blocks should have one inner layer each. Multipliers change nothing for ReLU and LeakyReLU
(only the scale of biases) and are fixed at 1 there; elsewhere they are learned.

Source: Juston et al. 2025, arXiv:2512.05915; initialisation after our own figures.
Differs from it: see `chain`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layer import LipschitzLayer, check_lipschitz
from ..lipschitz_activation import is_homogeneous, make_activation
from ..plain_modules import PlainBlock, Scale, linear
from ..proof.inequality import LMIBlock
from .chain import Free
from .contraction import contraction, uncontract
from .float32_backward import single
from .forms import MAPS, Wiring, check_wiring, given_skip, same_block, unit_multipliers
from .joint import JOINT
from .skip import SKIP_ONE, given_skip_block, skip_block

__all__ = ["LDLTBlock"]

NARROW = {("joint", 2): JOINT, ("skip_first", 1): SKIP_ONE}
"""Maps of a wiring and a number of inner layers with a backward pass in float32."""


class LDLTBlock(LipschitzLayer):
    """A residual or feed-forward block that is L-Lipschitz by construction.

    Args:
        width: d_0, length of the input.
        hidden: d_1 … d_n, widths of the inner layers, at least one.
        out_width: d_y; None is `width`.
        lipschitz: L > 0.
        skip: `learned`; `identity`, A = L I, for one inner layer; `none`; or the matrix A
            (d_y, d_0) with ‖A‖ ≤ L, for one inner layer.
        wiring: Where the learned skip stands in the elimination (`skip_first`, `chain_first`, or
            `joint`, for two inner layers only: the same blocks, other parameters), or the other
            forms: `taps` (every inner layer reaches the output) and `dense` (every layer reads all
            before it). None is `joint` for two inner layers and `skip_first` for other numbers, or
            `feed_forward` where skip is `none`.
        activation: A name of `ACTIVATIONS`, or a module of such a class.
        bias: Whether b_k and b_y are learned.
        gain: Standard deviation of fresh K_k is gain/√columns; None is 0.3 for one inner layer
            (divide by √T in a stack of T blocks) and 1 for more.
        skip_gain: κ of a fresh learned skip, A = L κ/√(1 + κ²) I in the skip-first form, as which
            a joint one starts; None is 3 for one inner layer and 1.33 for more.

    Shape:
        (…, d_0) -> (…, d_y).

    Raises:
        ValueError: a size below 1, L ≤ 0, an activation with slopes outside [0, 1], an identity or
            given skip with two or more inner layers, a given skip of norm above L.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int],
        *,
        out_width: int | None = None,
        lipschitz: float = 1.0,
        skip: Literal["learned", "identity", "none"] | Tensor = "learned",
        wiring: Wiring | None = None,
        activation: str | nn.Module = "relu",
        bias: bool = True,
        gain: float | None = None,
        skip_gain: float | None = None,
    ) -> None:
        """Make the parameters."""
        super().__init__()
        out_width = width if out_width is None else out_width
        n = len(hidden)
        if n == 0 or min(width, out_width, *hidden) < 1:
            raise ValueError(
                f"width={width}, out_width={out_width} and hidden={tuple(hidden)} must name at "
                f"least one inner layer, and sizes of at least 1"
            )
        self.lipschitz = check_lipschitz(lipschitz)
        self.activation = make_activation(activation)
        self.widths, self.out_width = (width, *hidden), out_width
        self.wiring: Wiring = check_wiring(skip, wiring, n)
        self.gain = (0.3 if n == 1 else 1.0) if gain is None else gain
        self.skip_gain = (3.0 if n == 1 else 1.33) if skip_gain is None else skip_gain
        self.identity = isinstance(skip, str) and skip == "identity"
        self.given = isinstance(skip, Tensor)
        if self.identity and out_width != width:
            raise ValueError(
                f"skip='identity' needs out_width = width = {width}, got {out_width}; give a matrix"
            )
        kept: tuple[Tensor, ...] = ()
        if isinstance(skip, Tensor):
            kept = given_skip(skip, (out_width, width), self.lipschitz)
        for name, value in zip(("skip", "room"), (*kept, None, None), strict=False):
            self.register_buffer(name, value)
        for k in range(1, n + 1):
            columns = sum(self.widths[:k]) if self.wiring == "dense" else self.widths[k - 1]
            self.register_parameter(f"k{k}", nn.Parameter(torch.empty(self.widths[k], columns)))
        columns = self._out_columns(len(kept))
        self.out = nn.Parameter(torch.empty(out_width, columns)) if columns else None
        learns = not is_homogeneous(self.activation)
        for k in range(1, n + 1):
            for name, exists in ((f"log_multiplier{k}", learns), (f"bias{k}", bias)):
                value = nn.Parameter(torch.zeros(self.widths[k])) if exists else None
                self.register_parameter(name, value)
        self.out_bias = nn.Parameter(torch.zeros(out_width)) if bias else None
        self.reset_parameters()

    def _out_columns(self, kept: int) -> int:
        """Return the columns of what the output's contraction is made from; 0 for none."""
        if self.identity or self.given:
            return self.widths[-1] if kept == 2 else 0
        if self.wiring in ("taps", "dense"):
            return sum(self.widths)
        return self.widths[-1] + (0 if self.wiring == "feed_forward" else self.widths[0])

    def reset_parameters(self) -> None:
        """Draw the branch, set the skip to a multiple of the identity, and λ to 1."""
        for k in range(1, len(self.widths)):
            kernel = self.get_parameter(f"k{k}")
            nn.init.normal_(kernel, std=self.gain / math.sqrt(kernel.shape[1]))
            bias, log_multiplier = self._own(f"bias{k}"), self._own(f"log_multiplier{k}")
            if bias is not None:
                bound = 1 / math.sqrt(kernel.shape[1])
                nn.init.uniform_(bias, -bound, bound)
            if log_multiplier is not None:
                nn.init.zeros_(log_multiplier)
        if self.out is not None:
            nn.init.normal_(self.out, std=self.gain / math.sqrt(self.widths[-1]))
            if not self.given and self.wiring != "feed_forward":
                with torch.no_grad():
                    eye = torch.eye(self.out_width, self.widths[0])
                    self.out[:, : self.widths[0]] = self.skip_gain * eye
        if self.wiring == "joint" and not self.get_parameter("k1").is_meta:
            self._start_as_skip_first()
        if self.out_bias is not None:
            nn.init.zeros_(self.out_bias)

    @torch.no_grad()
    def _start_as_skip_first(self) -> None:
        """Take the block that the parameters are in the skip-first form: there the skip is a I."""
        own = {name: p.double() for name, p in self._parameters.items() if p is not None}
        try:
            self.load_block(skip_block(self._free(own), self.lipschitz))
        except ValueError as error:
            raise ValueError(
                f"gain={self.gain:g} and skip_gain={self.skip_gain:g} start a block so near its "
                f"bound that wiring='joint' loses it; lower them, or use wiring='skip_first'"
            ) from error

    def compute(self, parameters: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Map the parameters to A, C_1 … C_n, the taps and λ; for A = L I only to C and λ."""
        free = self._free(parameters)
        if self.identity:
            c = math.sqrt(2) * self.lipschitz * contraction(free.inner[0])[0]
            return c / free.multipliers[0].sqrt().unsqueeze(-1), free.multipliers[0]
        if self.given:
            skip, room = self._buffers["skip"], self._buffers["room"]
            assert skip is not None
            room = None if room is None else room.double()
            inner, multiplier = free.inner[0], free.multipliers[0]
            block = given_skip_block(
                skip.double(), room, inner, free.out, multiplier, self.lipschitz
            )
        else:
            block = MAPS[self.wiring][0](free, self.lipschitz)
        taps = (t for t in block.taps if t is not None)
        return (block.skip, *block.inner, *taps, *block.multipliers)

    def compute_narrow(self, parameters: Mapping[str, Tensor]) -> tuple[Tensor, ...] | None:
        """Map the parameters of one or two inner layers with fixed λ to the same weights."""
        learned = "out" in parameters and not self.given
        rule = NARROW.get((self.wiring, len(self.widths) - 1)) if learned else None
        if rule is None or "log_multiplier1" in parameters:
            return None
        kernels = [parameters[f"k{k}"] for k in range(1, len(self.widths))]
        weights = single(rule, self.lipschitz, parameters["out"], *kernels)
        return *weights, *(k.new_ones(len(k)) for k in kernels)

    def finish(self, weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Let B = −Cᵀ Λ/L follow from C after the cast: P_0n = 0 must be as exact as P_00 = 0."""
        if not self.identity:
            return weights
        c, multiplier = weights
        tap = -c.mT if self.lipschitz == 1 else c.mT / -self.lipschitz
        if self._own("log_multiplier1") is not None:
            tap = tap * multiplier
        return c, tap, multiplier

    def _split(
        self, whole: tuple[Tensor, ...]
    ) -> tuple[Tensor | None, tuple[Tensor, ...], tuple[Tensor | None, ...]]:
        """Return A (None for L I), C_1 … C_n and the taps out of all weights."""
        n, (first, *weights) = len(self.widths) - 1, whole
        if self.identity:
            return None, (first,), (weights[0],)
        taps = weights[n:-n]
        return first, tuple(weights[:n]), (*[None] * (n - len(taps)), *taps)

    @torch.no_grad()
    def effective(self) -> LMIBlock:
        """Return the weights that the forward uses right now."""
        weights = self.weights()
        skip, inner, taps = self._split(weights)
        if skip is None:
            like = inner[0]
            skip = self.lipschitz * torch.eye(self.widths[0], dtype=like.dtype, device=like.device)
        return LMIBlock(skip, inner, taps, weights[1 - len(self.widths) :])

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        skip, inner, taps = self._split(self.weights())
        read, signal, out, bias = x, x, None, self.out_bias
        if skip is not None and self.wiring != "feed_forward":
            out, bias = F.linear(x, skip, bias), None
        for k, (c, tap) in enumerate(zip(inner, taps, strict=True), start=1):
            if k > 1:
                read = torch.cat([read, signal], dim=-1) if self.wiring == "dense" else signal
            signal = self.activation(F.linear(read, c, self._own(f"bias{k}")))
            if tap is not None:
                update = F.linear(signal, tap, bias)
                out = update if out is None else out + update
        # In evaluation their memory is free for the sum: without it, it is an eighth slower.
        del read, signal
        assert out is not None
        if self.identity:
            out = out + (x if self.lipschitz == 1 else self.lipschitz * x)
        return out

    @torch.no_grad()
    def export(self) -> PlainBlock:
        """Return the block in plain linear layers, with equal outputs."""
        block, bias = self.effective(), self.out_bias
        skip: nn.Module | None = None
        if self.identity:
            skip = Scale(self.lipschitz)
        elif self.wiring != "feed_forward":
            skip, bias = linear(block.skip, bias), None
        inner = [linear(c, self._own(f"bias{k}")) for k, c in enumerate(block.inner, start=1)]
        *taps, last = block.taps
        assert last is not None
        plain = [None if tap is None else linear(tap) for tap in taps]
        return PlainBlock(skip, inner, [*plain, linear(last, bias)], self.activation)

    @torch.no_grad()
    def load_block(self, block: LMIBlock, biases: Sequence[Tensor] = ()) -> None:
        """Take the parameters of a plain block with P(L) > 0, such as a certified one.

        Args:
            block: The weights, with the multipliers of their certificate at this module's L.
            biases: b_1 … b_n, to load with them; none keeps the module's.

        Raises:
            ValueError: a block that is not strictly certified at L, or that this form cannot
                represent.
        """
        wide = LMIBlock(
            block.skip.double(),
            tuple(c.double() for c in block.inner),
            tuple(None if t is None else t.double() for t in block.taps),
            tuple(m.double() for m in block.multipliers),
        )
        if is_homogeneous(self.activation):
            wide, biases = unit_multipliers(wide, biases)
        if self.given:
            raise ValueError("a block with a given skip has no inverse map; use skip='learned'")
        if self.identity:
            q = wide.inner[0] * wide.multipliers[0].sqrt().unsqueeze(-1)
            kernel, _ = uncontract(q / (math.sqrt(2) * self.lipschitz), "the contraction of C_1")
            free = Free((kernel,), kernel.new_empty(0), wide.multipliers)
        else:
            free = MAPS[self.wiring][1](wide, self.lipschitz)
        for k, (kernel, multiplier) in enumerate(zip(free.inner, free.multipliers, strict=True), 1):
            self.get_parameter(f"k{k}").copy_(kernel)
            if (log_multiplier := self._own(f"log_multiplier{k}")) is not None:
                log_multiplier.copy_(multiplier.log())
        if self.out is not None:
            self.out.copy_(free.out)
        for k, value in enumerate(biases, start=1):
            self.get_parameter(f"bias{k}").copy_(value)
        # Half the digits of the parameters: what a block near its bound loses on the way.
        tolerance = math.sqrt(torch.finfo(self.get_parameter("k1").dtype).eps)
        off = same_block(self.effective(), wide)
        if not off <= tolerance * max(1.0, self.lipschitz):
            raise ValueError(
                f"this form ({self.extra_repr()}) cannot represent the block: its own weights "
                f"differ from those given by {off:.3g}"
            )

    def _own(self, name: str) -> Tensor | None:
        return self._parameters[name]

    def _free(self, parameters: dict[str, Tensor]) -> Free:
        kernels = [parameters[f"k{k}"] for k in range(1, len(self.widths))]
        multipliers = []
        for k, kernel in enumerate(kernels, start=1):
            log_multiplier = parameters.get(f"log_multiplier{k}")
            one = kernel.new_ones(kernel.shape[0])
            multipliers.append(one if log_multiplier is None else log_multiplier.exp())
        out = parameters.get("out", kernels[0].new_empty(0))
        return Free(tuple(kernels), out, tuple(multipliers))

    def extra_repr(self) -> str:
        """Show the sizes and the bound."""
        skip = "identity" if self.identity else "given" if self.given else self.wiring
        return (
            f"width={self.widths[0]}, hidden={self.widths[1:]}, out_width={self.out_width}, "
            f"lipschitz={self.lipschitz:g}, skip={skip}"
        )
