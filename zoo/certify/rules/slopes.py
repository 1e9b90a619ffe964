"""Functions of one number: the interval that all their slopes lie in.

A function with slopes in [m, l] acts on a difference as a diagonal matrix with entries in [m, l].
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..tape import Argument, Curve, Groups, Piece
from .call import Call, operation, stop

__all__ = ["FIXED"]

STEP = 2.0**-24  # what a function may drop by, as a share of its value: a rounding of float32
SMOOTH = 2.0**-46  # rounding of a transcendental function, as a share of its input and output

# Extremes that are not closed forms are rounded outwards in the last digit given.
FIXED: dict[str, tuple[float, float]] = {
    "aten.relu": (0.0, 1.0),
    "aten.hardtanh": (0.0, 1.0),
    "aten.relu6": (0.0, 1.0),
    "aten.tanh": (0.0, 1.0),
    "aten.sigmoid": (0.0, 0.25),
    "aten.softshrink": (0.0, 1.0),
    "aten.log_sigmoid_forward": (0.0, 1.0),
    "aten.log_sigmoid": (0.0, 1.0),
    "aten.hardsigmoid": (0.0, 0.16666666666666669),
    "aten.gelu": (-0.1291, 1.1291),  # the tanh form included
    "aten.silu": (-0.0999, 1.0999),
    "aten.mish": (-0.1126, 1.0886),
    "aten.hardswish": (-0.5, 1.5),
    "aten.abs": (-1.0, 1.0),
    "aten.sin": (-1.0, 1.0),
    "aten.cos": (-1.0, 1.0),
    "aten.atan": (0.0, 1.0),
    "aten.erf": (0.0, 1.1283791670955128),
    "aten.asinh": (0.0, 1.0),
}
EXACT = {"aten.relu", "aten.hardtanh", "aten.relu6", "aten.abs"}


@operation(*FIXED)
def fixed(call: Call) -> Piece:
    """Slopes that no option changes."""
    name = str(call.func).rpartition(".")[0]
    return curve(call, *FIXED[name], rounding=0.0 if name in EXACT else SMOOTH)


@operation("aten.leaky_relu")
def leaky(call: Call) -> Piece:
    """1 above zero, a number below."""
    slope = float(call["negative_slope"])
    return curve(call, min(1.0, slope), max(1.0, slope), rounding=2.0**-52)


@operation("aten.elu")
def exponential(call: Call) -> Piece:
    """λ above zero, λ α β exp(β x) below."""
    scale, alpha, inner = (float(call[n]) for n in ("scale", "alpha", "input_scale"))
    if inner < 0:
        return stop("has a negative input_scale, and slopes without bound")
    steepest = scale * alpha * inner * (1 + 2.0**-50)
    low, high = min(0.0, scale, steepest), max(0.0, scale, steepest)
    return curve(call, low, high, rounding=SMOOTH * max(1.0, abs(steepest)))


@operation("aten.celu")
def continuous_exponential(call: Call) -> Piece:
    """1 above zero, exp(x / α) below."""
    if not float(call["alpha"]) > 0:
        return stop(f"with alpha={call['alpha']} has slopes without bound")
    return curve(call, 0.0, 1.0, rounding=SMOOTH)


@operation(
    "aten.pow", "aten.rsqrt", "aten.reciprocal", "aten.sqrt", "aten.log", "aten.log1p", "aten.exp",
    "aten.expm1", "aten.sinh", "aten.cosh", "aten.tan", "aten.acosh", "aten.atanh", "aten.acos",
    "aten.asin", "aten.square", "aten.log2", "aten.log10", "aten.exp2",
)  # fmt: skip
def unbounded(call: Call) -> Piece:
    """Say that slopes grow without bound."""
    return stop("has slopes without bound somewhere; no bound holds for all inputs")


@operation(
    "aten.gt", "aten.ge", "aten.lt", "aten.le", "aten.eq", "aten.ne", "aten.sign", "aten.round",
    "aten.floor", "aten.ceil", "aten.trunc", "aten.argmax", "aten.argmin", "aten.argsort",
    "aten.isnan", "aten.isfinite", "aten.heaviside", "aten.logical_not", "aten.hardshrink",
)  # fmt: skip
def step(call: Call) -> Piece:
    """Say that a decision jumps."""
    return stop("is a decision or a step: its result jumps, and no bound holds across a jump")


@operation("aten._prelu_kernel")
def parametric(call: Call) -> Piece:
    """1 above zero, a learned number for each channel below."""
    if not call.are("self"):
        return stop("has slopes that depend on the samples")
    x = call["self"]
    slope = call["weight"].expand(x.shape)
    return curve(call, slope.clamp_max(1.0), slope.clamp_min(1.0), rounding=2.0**-52)


@operation("aten.softplus")
def softplus(call: Call) -> Piece:
    """log(1 + exp(β x))/β, with the slopes of a logistic function.

    Above its threshold torch returns x, which is a step down. The graph has the function without
    the step, and the step counts as an error of it.
    """
    beta, threshold = float(call["beta"]), float(call["threshold"])
    drop = math.log1p(math.exp(-threshold)) if threshold > 0 else math.inf
    if not (beta > 0 and drop <= STEP * threshold):
        return stop(
            f"with beta={beta:g} and threshold={threshold:g} is no continuous function; give beta "
            f"above 0 and a threshold of at least 14"
        )

    def function(u: Tensor, operands: Mapping[str, Tensor]) -> Tensor:
        return torch.logaddexp(beta * u, torch.zeros_like(u)) / beta

    found = curve(call, 0.0, 1.0, rounding=SMOOTH)
    return replace(found, function=function, step=drop / beta * (1 + 2.0**-50))


@operation("aten.threshold")
def threshold(call: Call) -> Piece:
    """The identity above a threshold, and the threshold below."""
    if float(call["threshold"]) != float(call["value"]):
        return stop("jumps at its threshold; no bound holds across a jump")
    return curve(call, 0.0, 1.0)


@operation("aten.clamp", "aten.clamp_min", "aten.clamp_max", "aten.maximum", "aten.minimum")
def clamped(call: Call) -> Piece:
    """A fixed floor and ceiling; the larger or smaller of two values."""
    recorded = call.recorded
    if len(recorded) == 2 and str(call.func).split(".")[1] in ("maximum", "minimum"):
        return larger(call)
    if len(recorded) != 1:
        return stop("clamps between values that depend on the samples")
    (x,) = recorded
    others = [torch.as_tensor(v) for n, v in call.values.items()
              if v is not None and not isinstance(v, Argument)]  # fmt: skip
    if torch.broadcast_shapes(x.shape, *(o.shape for o in others)) != x.shape:
        return stop("broadcasts the values between fixed bounds; expand them first")
    return curve(call, 0.0, 1.0)


def larger(call: Call) -> Piece:
    """One of two values in each place: a choice never moves farther than the pair."""
    first, second = call.recorded
    shape = torch.broadcast_shapes(first.shape, second.shape)
    one = torch.arange(first.places.numel()).view(first.shape).expand(shape).reshape(-1)
    two = torch.arange(second.places.numel()).view(second.shape).expand(shape).reshape(-1)
    inputs = torch.stack([one, two + first.places.numel()], dim=1)
    # Values that are spread over several places count each time: `inputs` repeats them.
    most = "maximum" in str(call.func)
    return Groups(
        [first, second],
        inputs,
        torch.arange(len(inputs)).view(shape),
        1.0,
        lambda g: g.amax(-1, keepdim=True) if most else g.amin(-1, keepdim=True),
        parameters=(most,),
    )


def curve(call: Call, low: float | Tensor, high: float | Tensor, *, rounding: float = 0.0) -> Curve:
    """Return an operation as a function of each element of its one recorded operand."""
    (x,) = call.recorded
    operands = {n: v.expand(x.shape) for n, v in call.values.items() if isinstance(v, Tensor)}

    def function(u: Tensor, operands: Mapping[str, Tensor]) -> Tensor:
        found = call.run(lambda a: u, **operands)
        return found[0] if isinstance(found, tuple) else found

    options = tuple(
        repr(v) for n, v in call.values.items() if not isinstance(v, (Tensor, Argument))
    )
    parameters = (str(call.func), *options)
    return Curve(x, low, high, function, operands, rounding, parameters)
