"""Layers with compiled kernels under inputs that nobody hands them on purpose.

A case is a layer, the layout and shape of its input, dtypes of input and parameters, the layout of
the parameters, train or eval mode, and the layout of the gradient that comes back. Its law: the
process lives; with kernels and without, in any layout, outputs, buffers and gradients are those of
a contiguous input without kernels, and finite; or all refuse with the same error, a `ValueError`
where the shape is wrong.

`LAYERS` is the list: a new layer with kernels, or a residual over one, is one entry of it.

As a program, `kernel_fuzz.py FIRST STEP` runs cases FIRST, FIRST + STEP, …: it prints the name of
each before it runs, and FAILED with the reason where the law does not hold.
"""

import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from archzoo.layers import fast_path, hyperbolic
from archzoo.layers._kernels import load_kernels
from archzoo.layers.residual import Context, Site
from archzoo.zoo.axes.residuals import make_residual, residuals
from torch import Tensor, nn

__all__ = ["LAYERS", "Case", "Subject", "cases", "failure"]


class Subject(NamedTuple):
    """A layer of one input, built in float64, and an input that it takes."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    channels: int = 1
    """Axis of the channels."""
    knows_its_width: bool = True
    """Whether another number of channels must be refused."""
    strict: bool = True
    """Whether wrong shapes end in `ValueError`, or may end in an error of torch's own."""


class Case(NamedTuple):
    """What is varied; names of the tables below."""

    layer: str
    layout: str = "contiguous"
    shape: str = "right"
    dtypes: str = "float64"
    weights: str = "plain"
    training: bool = True
    gradient: str = "dense"

    def __str__(self) -> str:
        mode = "train" if self.training else "eval"
        return "/".join([*self[:5], mode, self.gradient]).replace(" ", "-")


class Sum(nn.Module):
    """Möbius addition of what enters and a function of it."""

    def __init__(self, other: Callable[[Tensor], Tensor], dim: int = 1) -> None:
        super().__init__()
        self.curvature = hyperbolic.BallCurvature(0.3, learned=True)
        self.other, self.dim = other, dim

    def forward(self, t: Tensor) -> Tensor:
        return hyperbolic.mobius_add_tangents(t, self.other(t), self.curvature(), dim=self.dim)


class Stack(nn.Module):
    """Four branches over a residual, which read and write; given is the stream or one output."""

    def __init__(self, name: str, width: int, dim: int, given: str = "stream", **options: Any):
        super().__init__()
        sites = [Site(kind, block) for block in range(2) for kind in ("attention", "mlp")]
        spec = {"name": name, **options}
        self.residual = make_residual(spec, width, sites, channel_dim=dim)
        self.given = given
        shape = (2, 3, width) if dim == -1 else (2, width, 3, 5)
        self.register_buffer("fixed", torch.randn(4, *shape), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        residual, fixed = self.residual, self.fixed
        assert isinstance(fixed, Tensor)
        state = residual.open(t if self.given == "stream" else fixed[0])
        for site in range(4):
            if residual.norm_position == "post":
                state = residual.handoff(state, torch.tanh)
            h = residual.read(state, site)
            seen = h if isinstance(h, Tensor) else next(iter(h.values()))
            y = t if self.given == "branch" and site == 1 else seen.sin()
            state = residual.write(state, site, y, Context(h, seen))
        return residual.close(state)


def conv(width: int = 4, out: int = 6, size: int = 3, **options: Any) -> nn.Module:
    options = {"curvature": ball(), "init": "normal", "padding": size // 2, **options}
    return hyperbolic.PoincareConv2d(width, out, size, **options)


def linear(**options: Any) -> nn.Module:
    return hyperbolic.PoincareLinear(8, 6, curvature=ball(), init="normal", **options)


def norm(**options: Any) -> nn.Module:
    # One point has no spread: eps then decides how rounding is magnified.
    return hyperbolic.MidpointBatchNorm(4, curvature=ball(), eps=1e-2, **options)


class Points(nn.Module):
    """A function of space parts, or of the tokens of one head, and of a learned curvature."""

    def __init__(self, of: Callable[..., Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.curvature = ball()
        self.of, self.layer = of, layer

    def forward(self, t: Tensor) -> Tensor:
        return self.of(self, t)


def attending(module: Points, t: Tensor) -> Tensor:
    heads = t.unsqueeze(1)
    assert module.layer is not None
    return module.layer(heads, 0.3 * heads, heads.flip(-2)).squeeze(1)


def decoding(module: Points, t: Tensor) -> Tensor:
    """Attend from the last token, and map it, as a decoder does; neither has a gradient."""
    attend, linear = module.layer.children()  # type: ignore[union-attr]
    heads = t.unsqueeze(1)
    with torch.no_grad():
        step = attend(heads[..., -1:, :], *attend.kept(heads, heads.flip(-2)))
        mapped = linear(step[:1]).mean()
    return t + mapped


def lorentz_linear() -> nn.Module:
    layer = hyperbolic.LorentzLinear(8, 6, curvature=ball())
    nn.init.normal_(layer.time_weight)
    return layer


def lorentz_conv(**options: Any) -> nn.Module:
    layer = hyperbolic.LorentzConv2d(4, 6, 3, curvature=ball(), **options)
    nn.init.normal_(layer.time_weight)
    return layer


def attention() -> nn.Module:
    return hyperbolic.HyperbolicAttention(1, curvature=ball())


def ball() -> hyperbolic.BallCurvature:
    return hyperbolic.BallCurvature(0.3, learned=True)


def conv_and_norm() -> nn.Module:
    both = {"curvature": ball()}
    return nn.Sequential(
        hyperbolic.PoincareConv2d(4, 6, 3, stride=2, output="velocity", init="normal", **both),
        hyperbolic.MidpointBatchNorm(6, input="velocity", eps=1e-2, **both),
    )


IMAGE, ROWS, TOKENS = (3, 4, 6, 5), (5, 8), (2, 3, 8)
LAYERS: dict[str, Subject] = {
    "linear": Subject(linear, ROWS, -1),
    "linear of tokens": Subject(linear, TOKENS, -1),
    "linear without offset": Subject(lambda: linear(bias=False), ROWS, -1),
    "linear to velocities": Subject(lambda: linear(output="velocity"), ROWS, -1),
    "linear to space parts": Subject(lambda: linear(output="space"), ROWS, -1),
    "linear with a cap": Subject(lambda: linear(largest=6.0), ROWS, -1),
    "conv": Subject(conv, IMAGE),
    "conv 1x1": Subject(lambda: conv(size=1), IMAGE),
    "conv of one channel": Subject(lambda: conv(1, 1), (3, 1, 6, 5)),
    "conv with stride": Subject(
        lambda: conv(size=2, stride=(2, 1), padding=(0, 1), bias=False), IMAGE
    ),
    "conv with dilation": Subject(lambda: conv(dilation=2, output="velocity"), IMAGE),
    "conv with groups": Subject(lambda: conv(groups=2), IMAGE),
    "norm": Subject(norm, IMAGE),
    "norm of velocities": Subject(lambda: norm(input="velocity"), IMAGE),
    "norm of rows": Subject(norm, (5, 4)),
    "norm on the last axis": Subject(lambda: norm(dim=-1), (2, 3, 4), -1),
    "norm without statistics": Subject(lambda: norm(track_running_stats=False), IMAGE),
    "conv and norm": Subject(conv_and_norm, IMAGE),
    "sum with itself": Subject(lambda: Sum(lambda t: t), IMAGE, 1, False),
    "sum with another layout": Subject(
        lambda: Sum(lambda t: (0.6 * t).transpose(0, -1).contiguous().transpose(0, -1)),
        *(IMAGE, 1, False),
    ),
    "sum with one image": Subject(
        lambda: Sum(lambda t: 0.6 * t[:1] if t.dim() else t), IMAGE, 1, False
    ),
    "sum of rows": Subject(lambda: Sum(lambda t: 0.6 * t.flip(0), -1), TOKENS, -1, False),
    "pool": Subject(lambda: hyperbolic.MidpointPool(curvature=ball()), IMAGE, 1, False),
    "linear of the hyperboloid": Subject(lorentz_linear, ROWS, -1),
    "conv of the hyperboloid": Subject(lambda: lorentz_conv(padding=1), IMAGE),
    "conv of the hyperboloid with stride": Subject(lambda: lorentz_conv(stride=2), IMAGE),
    "tangents of space parts": Subject(
        lambda: Points(lambda m, t: hyperbolic.space_points.to_tangent(t, m.curvature())),
        *(ROWS, -1, False, False),
    ),
    "norm of tangents": Subject(lambda: hyperbolic.TangentNorm(8, curvature=ball()), TOKENS, -1),
    "attention": Subject(lambda: Points(attending, attention()), TOKENS, -1, False, False),
    "decoder": Subject(
        lambda: Points(decoding, nn.Sequential(attention(), lorentz_linear())),
        *(TOKENS, -1, False, False),
    ),
    "classifier": Subject(lambda: hyperbolic.PoincareMLR(8, 6, curvature=ball()), ROWS, -1),
}


def stack(name: str, shape: tuple[int, ...], given: str, **options: Any) -> Subject:
    """Return a residual under its stream, or under one branch output."""
    dim = -1 if shape == TOKENS else 1
    return Subject(lambda: Stack(name, shape[dim], dim, given, **options), shape, dim)


PIXELS = (2, 8, 3, 5)
# Residuals with kernels or gradients of their own, in all forms; the others share one rule.
RESIDUALS = {
    "attnres": [{}, {"heads": 2}, {"competition": "sigmoid"}, {"window": 1}, {"additive": True}],
    "block_attnres": [{"block_size": 2}, {"block_size": 3, "input_dependent_query": True}],
    "delta": [{}, {"mode": "erase_only"}, {"parameterisation": "v1"}],
    "delta_cc": [{}, {"parameterisation": "repo", "mode": "write_only"}],
    # A small curvature: far out in the ball float32 has few digits left.
    "gyro_attnres": [{"curvature": 0.02}],
    "gyro_block_attnres": [{"curvature": 0.02}],
    "mobius": [{"curvature": 0.02}],
}
for name, forms in RESIDUALS.items():
    for options in forms:
        for given in ("stream", "branch"):
            label = " ".join([name, *map(str, options.values()), given])
            LAYERS[label] = stack(name, TOKENS, given, **options)
            LAYERS[f"{label} of images"] = stack(name, PIXELS, given, **options)
for name in sorted({*residuals.names()} - {*RESIDUALS}):
    LAYERS[f"{name} stream"] = stack(name, TOKENS, "stream")
    LAYERS[f"{name} branch of images"] = stack(name, PIXELS, "branch")


def _strided(x: Tensor) -> Tensor:
    """Return the values with every other place of the memory between them."""
    wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1])
    return wide[..., ::2].copy_(x)


def _offset(x: Tensor) -> Tensor:
    return x.new_zeros(x.numel() + 3)[3:].view(x.shape).copy_(x)


def _negative(x: Tensor) -> Tensor:
    """Return the values as a view that negates what it reads."""
    if x.dtype not in (torch.float32, torch.float64):
        return x
    return torch.complex(torch.zeros_like(x), -x).conj().imag


def _reversed(x: Tensor) -> Tensor:
    return x.permute(list(reversed(range(x.dim()))))


def _odd_strides(x: Tensor) -> Tensor:
    """Give axes of size 1 strides that say nothing."""
    strides = [1 if n == 1 else s for n, s in zip(x.shape, x.stride(), strict=True)]
    return x.as_strided(x.shape, strides)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.mT.contiguous().mT,
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "reversed axes": lambda x: _reversed(_reversed(x).contiguous()),
    "every other": _strided,
    "every other image": lambda x: x.repeat_interleave(2, 0)[::2],
    "offset": _offset,
    "negative view": _negative,
    "odd strides": _odd_strides,
    "expanded": lambda x: x[:1].expand(x.shape),
    "expanded pixels": lambda x: x[..., :1].expand(x.shape),
}
CHANGES_VALUES = ("expanded", "expanded pixels")


def _with(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    changed = list(shape)
    changed[axis] = size
    return tuple(changed)


SHAPES: dict[str, Callable[[tuple[int, ...], int], tuple[int, ...]]] = {
    "right": lambda s, c: s,
    "one": lambda s, c: _with(s, 0, 1),
    "one pixel": lambda s, c: tuple(n if i in (0, c % len(s)) else 1 for i, n in enumerate(s)),
    "empty batch": lambda s, c: _with(s, 0, 0),
    "wider": lambda s, c: _with(s, c, s[c] + 3),
    "twice as wide": lambda s, c: _with(s, c, 2 * s[c]),
    "half as wide": lambda s, c: _with(s, c, s[c] // 2),
    "no channels": lambda s, c: _with(s, c, 0),
    "no batch axis": lambda s, c: s[1:],
    "another axis": lambda s, c: (1, *s),
    "channels elsewhere": lambda s, c: (*s[1:], s[0]),
    "empty pixels": lambda s, c: _with(s, -1 if c == 1 else 0, 0),
    "one number": lambda s, c: (1,),
    "no axis": lambda s, c: (),
}
OTHER_WIDTHS = ("wider", "twice as wide", "half as wide", "no channels")

DTYPES = {
    "float64": (torch.float64, torch.float64),
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "float16": (torch.float16, torch.float16),
    "float32 of float64": (torch.float32, torch.float64),
    "float64 of float32": (torch.float64, torch.float32),
    "bfloat16 of float32": (torch.bfloat16, torch.float32),
    "float32 of float16": (torch.float32, torch.float16),
}
# Kernels and plain operations sum in another order; half precision is rounded at the end.
TOLERANCES = {
    torch.float64: 1e-9,
    torch.float32: 3e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 6e-2,
}

GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda g: g,
    "expanded": lambda g: g.new_ones(()).expand(g.shape),
    "transposed": lambda g: g.transpose(0, -1).contiguous().transpose(0, -1),
    "negative view": _negative,
}
MODES = [True, False]
WEIGHTS = ["plain", "strided"]


def cases() -> Iterator[Case]:
    """Yield each layer with every layout and shape, and with every layout and pair of dtypes."""
    for layer in LAYERS:
        for layout in LAYOUTS:
            draw = random.Random(f"{layer} {layout}")
            for shape in SHAPES:
                yield _drawn(draw, layer, layout, shape, draw.choice(["float64", "float32"]))
            for dtypes in DTYPES:
                yield _drawn(draw, layer, layout, "right", dtypes)


def _drawn(draw: random.Random, layer: str, layout: str, shape: str, dtypes: str) -> Case:
    gradient = draw.choice(["none", *GRADIENTS])
    return Case(layer, layout, shape, dtypes, draw.choice(WEIGHTS), draw.choice(MODES), gradient)


def failure(case: Case) -> str:
    """Return how a case breaks the law; nothing where it holds."""
    subject = LAYERS[case.layer]
    values = _values(case, subject)
    try:
        given = LAYOUTS[case.layout](values)
    except (IndexError, RuntimeError):
        return ""  # such a shape has no such layout
    plain = case._replace(weights="plain")
    gradient = GRADIENTS.get(case.gradient)
    copy = None if gradient is None else lambda g: gradient(g).contiguous()
    expected = _results(plain, subject, given.contiguous().resolve_neg(), copy, kernels=False)
    for kernels in (True, False):
        found = _results(case, subject, given, gradient, kernels=kernels)
        reason = _difference(found, expected, case, subject)
        if reason:
            return f"{'with' if kernels else 'without'} kernels: {reason}"
    return ""


def _values(case: Case, subject: Subject) -> Tensor:
    shape = SHAPES[case.shape](subject.shape, subject.channels)
    generator = torch.Generator().manual_seed(len(str(case)))
    dtype = DTYPES[case.dtypes][0]
    return (0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def _module(case: Case, subject: Subject) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = subject.build().double()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
    module.to(DTYPES[case.dtypes][1]).train(case.training)
    if case.weights == "strided":
        for parameter in module.parameters():
            x = parameter.data
            if x.dim():
                parameter.data = _strided(x) if x.dim() < 2 else x.mT.contiguous().mT
    return module


def _results(
    case: Case,
    subject: Subject,
    values: Tensor,
    gradient: Callable[[Tensor], Tensor] | None,
    *,
    kernels: bool,
) -> dict[str, Tensor | None] | Exception:
    """Return output, buffers and gradients, or the error."""
    module = _module(case, subject)
    fast_path.load_kernels = load_kernels if kernels else lambda family: False
    t = values.detach()
    try:
        if gradient is None:
            with torch.no_grad():
                return {"output": module(t), **dict(module.named_buffers())}
        t.requires_grad_()
        out = module(t)
        found: dict[str, Tensor | None] = {"output": out.detach(), **dict(module.named_buffers())}
        generator = torch.Generator().manual_seed(1)
        covector = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
        names = {"t": t, **dict(module.named_parameters())}
        gradients = torch.autograd.grad(
            out, list(names.values()), gradient(covector), allow_unused=True
        )
        return found | {f"d {name}": x for name, x in zip(names, gradients, strict=True)}
    except Exception as error:  # every kind of refusal is compared
        return error
    finally:
        fast_path.load_kernels = load_kernels


def _difference(
    found: dict[str, Tensor | None] | Exception,
    expected: dict[str, Tensor | None] | Exception,
    case: Case,
    subject: Subject,
) -> str:
    if isinstance(found, Exception) or isinstance(expected, Exception):
        return _refusal(found, expected, case, subject)
    if case.shape in OTHER_WIDTHS and subject.knows_its_width:
        return "an answer to another number of channels"
    tol = max(TOLERANCES[dtype] for dtype in DTYPES[case.dtypes])
    sizes = [x.abs().max().item() for x in expected.values() if x is not None and x.numel()]
    for name, one in found.items():
        other = expected[name]
        if one is None or other is None:
            if one is not other:
                return f"{name} is None on one side"
            continue
        if one.shape != other.shape or one.dtype != other.dtype:
            return f"{name} is {one.dtype} {tuple(one.shape)}, expected {tuple(other.shape)}"
        if not one.isfinite().all():
            return f"{name} is not finite"
        error = (one.double() - other.double()).abs().max().item() if one.numel() else 0.0
        if error > tol * max([1.0, *sizes]):
            return f"{name} is off by {error:.2g}"
    return ""


def _refusal(found: Any, expected: Any, case: Case, subject: Subject) -> str:
    if not (isinstance(found, Exception) and isinstance(expected, Exception)):
        return f"{_shown(found)}, expected {_shown(expected)}"
    ours = type(expected) is ValueError  # torch words one refusal differently for other layouts
    if type(found) is not type(expected) or (ours and str(found) != str(expected)):
        return f"{_shown(found)}, expected {_shown(expected)}"
    if case.shape == "right" and len(set(DTYPES[case.dtypes])) == 1:
        return "" if case.dtypes == "float16" and type(found) is ValueError else _shown(found)
    if type(found) is ValueError:
        return ""
    # torch's own word on dtypes that differ.
    own = isinstance(found, RuntimeError | IndexError | NotImplementedError)
    if own and (not subject.strict or len(set(DTYPES[case.dtypes])) == 2):
        return ""
    return _shown(found)


def _shown(result: Any) -> str:
    if not isinstance(result, Exception):
        return "an answer"
    line = str(result).strip().partition("\n")[0]
    return f"{type(result).__name__}: {line}"


def main(first: int, step: int) -> None:
    """Run cases and say what they are before they run."""
    torch.set_num_threads(1)
    for number, case in enumerate(cases()):
        if number >= first and (number - first) % step == 0:
            print(number, case, flush=True)
            if reason := failure(case):
                print("FAILED", number, case, reason, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
