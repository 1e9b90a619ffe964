"""Strided 1×1 convolutions of few channels, which oneDNN cannot differentiate everywhere."""

import os
import subprocess
import sys

import pytest
import torch
from archzoo.layers.hyperbolic import PoincareConv2d
from archzoo.layers.lowrank import FactoredConv2d, Factors
from archzoo.layers.subsample import BLOCK, pixels_first, subsample
from torch import nn
from torch.nn import functional as F

LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.mT.contiguous().mT,
}
layouts = pytest.mark.parametrize("lay", LAYOUTS.values(), ids=LAYOUTS)


def draw(*shape, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)


@layouts
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1), (4, 5)], ids=str)
@pytest.mark.parametrize("size", [(6, 6), (7, 4), (1, 1)], ids=str)
def test_a_strided_convolution_is_one_of_the_pixels_it_reads(lay, stride, size):
    image, weight = draw(2, 3, *size), draw(5, 3, 1, 1)
    found = []
    for first in (False, True):
        x, w = lay(image).detach().requires_grad_(), weight.clone().requires_grad_()
        read, left = pixels_first(x, (1, 1), stride, (0, 0)) if first else (x, stride)
        assert not first or left == (1, 1)
        y = F.conv2d(read, w, None, left)
        found.append((y, *torch.autograd.grad((y * draw(*y.shape)).sum(), [x, w])))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=0.0, atol=1e-12)


def test_channels_last_pixels_are_channels_last():
    x = draw(2, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    assert subsample(x, (2, 2)).is_contiguous(memory_format=torch.channels_last)
    assert subsample(x, (1, 1)) is x


@pytest.mark.parametrize(
    ("channels", "kernel", "padding"),
    [(3, (3, 3), (0, 0)), (3, (1, 3), (0, 0)), (3, (1, 1), (1, 0)), (BLOCK, (1, 1), (0, 0))],
)
def test_other_convolutions_are_left_as_they_are(channels, kernel, padding):
    x = draw(1, channels, 4, 4)
    read, stride = pixels_first(x, kernel, (2, 2), padding)
    assert read is x and stride == (2, 2)


def factored(scheme, channels=4, rank=4):
    conv = nn.Conv2d(channels, 8, 1, stride=2)
    sizes = {"channel": (8, channels), "input": (channels, 8)}[scheme]
    return FactoredConv2d.from_dense(
        conv, Factors(draw(sizes[0], rank), draw(rank, sizes[1])).float(), scheme
    )


LAYERS = {
    "poincare": lambda: PoincareConv2d(4, 8, 1, stride=2, init="normal"),
    "poincare, angle": lambda: PoincareConv2d(4, 8, 1, stride=2, init="normal", scale="angle"),
    "channel": lambda: factored("channel"),
    "input": lambda: factored("input", channels=24),
}


@layouts
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_our_layers_do_not_depend_on_the_layout(make, lay):
    layer = make()
    channels = layer.in_channels
    found = []
    for x in (draw(3, channels, 7, 6, dtype=torch.float32), None):
        x = found[0][0] if x is None else x
        x = (lay if found else torch.Tensor.contiguous)(x.detach()).requires_grad_()
        y = layer(x)
        loss = (y * draw(*y.shape, dtype=torch.float32)).sum()
        found.append((x, y, *torch.autograd.grad(loss, [x, *layer.parameters()])))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


# In a process of its own, which dies where the workspace is overrun; torch and oneDNN are kept to
# the instructions of a CPU without AVX-512.
TRAINED = """
import torch
from tests.layers.test_subsample import LAYERS
from tests.zoo.small_models import build, example, loss_of

torch.set_num_threads(1)
last = lambda x: x.contiguous(memory_format=torch.channels_last)
models = [(make(), torch.randn(8, make().in_channels, 16, 16)) for make in LAYERS.values()]
for name, residual in CASES:
    options = {} if residual is None else {"residual": residual}
    if name.startswith("euclidean"):
        options |= {"widths": (4, 6, 8), "in_chans": 3}
    models.append((build(name, **options), example(name, 8, **options)))
for model, x in models:
    gradients = []
    for lay in (torch.Tensor.contiguous, last, last):
        model.zero_grad()
        loss_of(model(lay(x))).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        overwritten = [torch.full((n,), float("nan")) for n in range(1, 4000, 7)]
    for found in gradients[1:]:
        # Another layout sums in another order: a ReLU of a deep network may fall the other way.
        assert (found - gradients[0]).norm() < 0.05 * gradients[0].norm(), type(model)
print("alive")
"""
OVERRUN = [("poincare_resnet_nano", name) for name in ("hyper_connections", "mhc", "mhc_lite")]
OTHERS = [("poincare_resnet_nano", None), ("euclidean_resnet_tiny", None)]


def survives(cases):
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    code = TRAINED.replace("CASES", repr(cases))
    return subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True
    )


@pytest.mark.processes
def test_models_of_few_channels_train_without_avx512():
    run = survives([*OVERRUN, *OTHERS])
    assert run.returncode == 0 and run.stdout.strip() == "alive", (run.returncode, run.stderr)


@pytest.mark.processes
@pytest.mark.slow
def test_every_model_of_images_trains_on_channels_last_without_avx512():
    from tests.zoo.small_models import SMALL, model_info

    run = survives([(name, None) for name in SMALL if model_info(name).kind == "image"])
    assert run.returncode == 0 and run.stdout.strip() == "alive", (run.returncode, run.stderr)
