"""How each residual mechanism joins branch outputs to the stream, as a calculus of constants.

A rule mirrors the verbs of the contract on `Value`s: what a read, a write and a close do to the
constants of the tensors in the state. Mechanisms with fixed weights are linear in stream and branch
outputs, so their constants follow. Where the weights depend on the data, products of two unbounded
functions of the input appear, and no finite constant exists.
"""

from typing import Any

from ....layers import residual as mechanisms
from ....layers.lipschitz.proof.norms import gamma, product_up, sum_up
from ....layers.residual import Residual
from .calculus import Value

__all__ = ["UNBOUNDED", "ResidualRule", "residual_rule"]

State = tuple[Any, ...]


class ResidualRule:
    """The verbs for a stream alone: x <- skip · x + scale · y.

    Args:
        residual: The mechanism.
    """

    def __init__(self, residual: Any) -> None:
        """Keep the mechanism, whose parameters are read."""
        self.residual = residual

    def open(self, x: Value) -> State:
        """Make the state."""
        return (x,)

    def read(self, state: State, site: int) -> Value:
        """Return what a branch sees."""
        return state[0]

    def write(self, state: State, site: int, y: Value) -> State:
        """Join a branch output."""
        return (state[0].times(self.skip).plus(y.times(self.scale(site))),)

    def close(self, state: State) -> Value:
        """Return the features."""
        return state[0]

    def handed(self, state: State) -> Value:
        """Return what a stage change maps."""
        return self.close(state)

    @property
    def alone(self) -> bool:
        """Whether a site is the map x -> skip · x + scale · F(x) of the whole state."""
        return True

    @property
    def skip(self) -> float:
        """The factor of the stream."""
        return 1.0

    def scale(self, site: int) -> float:
        """The factor of a branch output."""
        return 1.0


class ScaledRule(ResidualRule):
    """A fixed or learned λ; of one per channel the largest."""

    def scale(self, site: int) -> float:
        """Return max |λ|."""
        residual = self.residual
        if residual.scale is None:
            return abs(residual.initial)
        return float(residual.scale[residual.row[site]].detach().double().abs().max())


class DeepNormRule(ResidualRule):
    """α x + y; the norm of the stream belongs to the trunk."""

    @property
    def skip(self) -> float:
        """Return α."""
        return self.residual.alpha


class ParallelRule(ScaledRule):
    """Groups of branches that read one base."""

    @property
    def alone(self) -> bool:
        """Whether every group is one branch."""
        return False

    def open(self, x: Value) -> State:
        """Start with the embedding as the base."""
        return (x, x)

    def write(self, state: State, site: int, y: Value) -> State:
        """Add to the sum, and commit at the end of a group."""
        base, total = state
        total = total.plus(y.times(self.scale(site)))
        return (total if (site + 1) % self.residual.group == 0 else base, total)

    def close(self, state: State) -> Value:
        """Return the sum."""
        return state[1]


class DenseFormerRule(ResidualRule):
    """Averages of block states with fixed weights."""

    @property
    def alone(self) -> bool:
        """The history is more than the stream."""
        return False

    def open(self, x: Value) -> State:
        """Start the history."""
        return ((x,), x)

    def read(self, state: State, site: int) -> Value:
        """Return the stream."""
        return state[1]

    def write(self, state: State, site: int, y: Value) -> State:
        """Add, and average after the last branch of a block."""
        history, x = state
        x, residual = x.plus(y), self.residual
        if not residual.ending[site]:
            return (history, x)
        history, block = (*history, x), residual.ordinal[site] + 1
        if block % residual.period == 0:
            weights = residual.alpha[str(block)].detach().double().tolist()
            x = mixture(weights, history[block % residual.dilation :: residual.dilation])
        return (history, x)

    def close(self, state: State) -> Value:
        """Return the stream."""
        return state[1]


class ElcBertRule(ResidualRule):
    """Softmax mixtures of block outputs with fixed logits."""

    @property
    def alone(self) -> bool:
        """The history is more than the stream."""
        return False

    def open(self, x: Value) -> State:
        """Start the history."""
        return ((x,), None, None)

    def read(self, state: State, site: int) -> Value:
        """Return the mixture, or inside a block its input and the branches so far."""
        outputs, entry, partial = state
        if partial is None:
            return self._mixture(outputs[: self.residual.ordinal[site] + 1])
        return partial if self.residual.flavour == "base" else entry.plus(partial)

    def write(self, state: State, site: int, y: Value) -> State:
        """Add to the block, and the block to the history when it ends."""
        outputs, entry, partial = state
        if partial is None:
            entry = self._mixture(outputs[: self.residual.ordinal[site] + 1])
            partial = y
        else:
            partial = partial.plus(y)
        if not self.residual.ending[site]:
            return (outputs, entry, partial)
        if self.residual.flavour == "normalized":
            gain = product_up(self.residual.eps**-0.5, 1 + gamma(8))
            error = sum_up(product_up(gain, partial.error), product_up(gamma(4096), gain,
                                                                       partial.size))  # fmt: skip
            partial = Value(product_up(gain, partial.lipschitz), error, gain * partial.size)
        return ((*outputs, partial), None, None)

    def close(self, state: State) -> Value:
        """Return the last output, or the mixture of all."""
        outputs = state[0]
        whole = self.residual.flavour == "weighted_output"
        if whole and len(outputs) > self.residual.ordinal[-1] + 1:
            return self._mixture(outputs)
        return outputs[-1]

    def _mixture(self, outputs: tuple[Value, ...]) -> Value:
        if len(outputs) == 1:
            return outputs[0]
        weights = self.residual.weights(len(outputs)).detach().double()
        # Computed here in the dtype of the logits; in float64 a softmax is off by few roundings.
        return mixture((weights * (1 + 1e-12)).tolist(), outputs)


class HyperConnectionsRule(ResidualRule):
    """n streams with fixed reads, writes and mixing."""

    @property
    def alone(self) -> bool:
        """There are n streams."""
        return False

    def open(self, x: Value) -> State:
        """Copy the embedding."""
        return (x,) * self.residual.streams

    def read(self, state: State, site: int) -> Value:
        """Mix the streams."""
        return mixture(self._weights(site)[:, 0].tolist(), state)

    def write(self, state: State, site: int, y: Value) -> State:
        """Mix the streams and add the branch output to each."""
        weights = self._weights(site)
        mixing, gains = weights[:, 1:-1].mT, weights[:, -1].tolist()
        return tuple(
            mixture(row, state).plus(y.times(gain))
            for row, gain in zip(mixing.tolist(), gains, strict=True)
        )

    def close(self, state: State) -> Value:
        """Return the sum of the streams."""
        return mixture([1.0] * len(state), state)

    def handed(self, state: State) -> Value:
        """Return the mean of the streams."""
        return self.close(state).times(1 / len(state))

    def _weights(self, site: int) -> Any:
        return self.residual.static[site].detach().double()


def mixture(weights: list[float], values: tuple[Value, ...]) -> Value:
    """Return Σ w_i v_i."""
    total = None
    for weight, value in zip(weights, values, strict=True):
        if weight != 0.0:
            part = value.times(weight)
            total = part if total is None else total.plus(part)
    return Value(0.0, 0.0, 0.0) if total is None else total


LINEAR: dict[type[Residual], type[ResidualRule]] = {
    mechanisms.Add: ResidualRule,
    mechanisms.Scaled: ScaledRule,
    mechanisms.DeepNorm: DeepNormRule,
    mechanisms.Parallel: ParallelRule,
    mechanisms.DenseFormer: DenseFormerRule,
    mechanisms.ElcBert: ElcBertRule,
    mechanisms.HyperConnections: HyperConnectionsRule,
}

BY_DATA = "mixes by weights that it computes from the data; their product with the stream has no "
BY_DATA += "finite constant"
DEPTH = (
    "weighs the sources by a softmax (or sigmoid) of the sources themselves, and a small source "
)
DEPTH += "can decide over a large one: no finite constant"

UNBOUNDED: dict[type[Residual], str] = {
    mechanisms.AttnRes: DEPTH,
    mechanisms.BlockAttnRes: DEPTH,
    mechanisms.GyroAttnRes: DEPTH,
    mechanisms.GyroBlockAttnRes: DEPTH,
    mechanisms.DepthSWA: "attends over depth: dot-product attention has no finite constant",
    mechanisms.Delta: "erases along a direction taken from the data, a product of functions of it",
    mechanisms.Highway: "multiplies stream and branch by a gate that reads the stream",
    mechanisms.MuddFormer: BY_DATA,
    mechanisms.DeepCrossAttention: BY_DATA,
    mechanisms.MHC: BY_DATA,
    mechanisms.MHCLite: BY_DATA,
    mechanisms.Mobius: "adds points of the ball and takes logarithms, with no clip of the radius",
}


def residual_rule(residual: Residual) -> ResidualRule | str:
    """Return the rule of a mechanism, or why there is none."""
    kind = type(residual)
    if isinstance(residual, mechanisms.HyperConnections) and residual.dynamic:
        return f"{kind.__name__} {BY_DATA}"
    if kind in LINEAR:
        return LINEAR[kind](residual)
    if kind in UNBOUNDED:
        return f"{kind.__name__} {UNBOUNDED[kind]}"
    return f"{kind.__name__} is a residual mechanism that the calculus has no rule for"
