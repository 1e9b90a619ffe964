"""Whatever traces a residual sees its definition: traced, exported, compiled stacks are right."""

import io
import itertools
import warnings

import pytest
import torch
from archzoo.layers.residual import Context
from archzoo.zoo.axes.residuals import residuals
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from ....tiers import tiered
from ..stacks import SITES, WIDTH, branch_weights, build, normal, trained

NAMES = residuals.names()
VARIANTS = [(name, {}) for name in NAMES] + [
    ("block_attnres", {"block_size": 2}),
    ("attnres", {"heads": 5, "competition": "sigmoid"}),
    ("attnres", {"input_dependent_query": True, "window": 2}),
    ("block_attnres", {"block_size": 2, "additive": True}),
    ("delta", {"mode": "write_only"}),
    ("delta_cc", {"expand": "convolution"}),
]
TOL = {"rtol": 1e-9, "atol": 1e-9}
# Those with code that must not be traced; the others are plain PyTorch.
BY_HAND = ["attnres", "block_attnres", "delta", "delta_cc", "gyro_attnres", "mobius"]
every_variant = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)


class Stack(nn.Module):
    """tanh(read W) branches over a residual."""

    def __init__(self, name: str, options: dict) -> None:
        super().__init__()
        self.residual = trained(build(name, **options), scale=0.2)
        self.register_buffer("weights", branch_weights())

    def forward(self, x: Tensor) -> Tensor:
        residual = self.residual
        state = residual.open(x)
        for site in range(len(SITES)):
            if residual.norm_position == "post":
                state = residual.handoff(state, torch.tanh)
            h = residual.read(state, site)
            seen = h if isinstance(h, Tensor) else next(iter(h.values()))
            y = (seen @ self.weights[site]).tanh()
            state = residual.write(state, site, y, Context(h, seen))
        return residual.close(state)


def jit_traced(model, x):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.trace", FutureWarning)
        # The number of sources is read off tensors, and is as fixed as the network.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return torch.jit.trace(model, x)


def exported(model, x):
    return torch.export.export(model, (x,)).module()


def compiled(model, x):
    torch._dynamo.reset()
    return torch.compile(model, backend="eager", fullgraph=True)


def fx_traced(model, x):
    return make_fx(model)(x)


def fx_symbolic(model, x):
    return make_fx(model, tracing_mode="symbolic", _allow_non_fake_inputs=True)(x)


TRACERS = {f.__name__: f for f in (jit_traced, exported, compiled, fx_traced, fx_symbolic)}


def traced_cases():
    """Yield every variant under every tracer; usual are the cheap ones of what has kernels.

    One of them follows what runs with gradients and the other what runs without.
    """
    for (name, options), grad, tracer in itertools.product(VARIANTS, (True, False), TRACERS):
        usual = name in BY_HAND and tracer == ("jit_traced" if grad else "fx_traced")
        marks = [] if usual else [pytest.mark.slow]
        label = " ".join([name, *map(str, options.values()), tracer, *(["grad"] if grad else [])])
        yield pytest.param(name, options, grad, tracer, marks=marks, id=label)


@pytest.mark.parametrize(("name", "options", "grad", "tracer"), [*traced_cases()])
def test_a_traced_stack_is_the_stack(name, options, grad, tracer):
    model = Stack(name, options).eval()
    x, other = normal(2, 3, WIDTH), normal(2, 3, WIDTH, seed=1)
    with torch.set_grad_enabled(grad):
        traced = TRACERS[tracer](model, x)
        torch.testing.assert_close(traced(other), model(other), **TOL)


@pytest.mark.parametrize("grad", tiered([True, False], [False]))
@every_variant
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the older export, as a whole
def test_the_older_onnx_export_writes_the_stack(name, options, grad):
    pytest.importorskip("onnx")
    import torch.onnx.errors

    runtime = pytest.importorskip("onnxruntime")
    model, file = Stack(name, options).eval().float(), io.BytesIO()
    x = normal(2, 3, WIDTH).float()
    with torch.set_grad_enabled(grad), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(model, (x,), file, dynamo=False, input_names=["x"])
        except torch.onnx.errors.UnsupportedOperatorError as error:
            pytest.skip(f"refused by name: {error}")
        expected = model(x).detach()
    (found,) = runtime.InferenceSession(file.getvalue()).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
