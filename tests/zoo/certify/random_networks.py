"""Random small networks from a grammar, and the steepest Jacobian that points show of them."""

import math
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.Hardswish, nn.Softplus, nn.Softsign,
    lambda: nn.LeakyReLU(0.2), lambda: nn.LeakyReLU(-0.5), nn.PReLU, nn.Hardtanh,
)  # fmt: skip


class Skip(nn.Module):
    """x -> a x + b · branch(x), a and b numbers or one for each channel."""

    def __init__(self, branch: nn.Module, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.branch, self.a, self.b = branch, nn.Parameter(a), nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        return self.a.view(shape) * x + self.b.view(shape) * self.branch(x)


class Both(nn.Module):
    """Two maps of one input side by side."""

    def __init__(self, one: nn.Module, two: nn.Module) -> None:
        super().__init__()
        self.one, self.two = one, two

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.two(x)], 1)


class Functional(nn.Module):
    """Code of a user's own: slices, writes in place, functional calls."""

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        if self.kind == 0:
            out = torch.zeros_like(x)
            out[:, :half] = F.relu(x[:, :half]) * 2
            out[:, half:] = x[:, half:] - 0.5
            return out
        if self.kind == 1:
            return torch.where(torch.arange(x.shape[1]).view(-1, *[1] * (x.dim() - 2)) > 0, x, -x)
        if self.kind == 2:
            y = x.clone()
            y[:, 0] += 3 * y[:, -1]
            return y.relu_()
        return x.flip(1).abs() - x.roll(1, 1).clamp(-1, 1)


class MaxMin(nn.Module):
    """The larger and the smaller of each pair of channels."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            return x.sort(1).values
        one, two = x.chunk(2, 1)
        return torch.cat([torch.maximum(one, two), torch.minimum(one, two)], 1)


class Grammar:
    """One random network.

    Args:
        seed: Of everything.
    """

    activations = ACTIVATIONS

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def number(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def network(self) -> tuple[nn.Module, tuple[int, ...]]:
        """Return a network and the shape of a sample."""
        shape, layers = self.start(), []
        start = shape
        for _ in range(self.random.randint(2, 5)):
            layer, shape = self.layer(shape, 2)
            layers.append(layer)
        if len(shape) > 1:
            layers.append(nn.Flatten())
            shape = (math.prod(shape),)
        layers.append(nn.Linear(shape[0], 3))
        model = nn.Sequential(*layers)
        self.weights(model)
        return model.eval(), start

    def start(self) -> tuple[int, ...]:
        """Return the shape of a sample."""
        return (3,) if self.random.random() < 0.5 else (2, self.random.choice((3, 4)), 4)

    def weights(self, model: nn.Module) -> None:
        with torch.no_grad():
            for p in model.parameters():
                fan = p[0].numel() if p.dim() > 1 else 1
                p.copy_(self.number(*p.shape) * (1.0 if p.dim() < 2 else 1.2 / fan**0.5))
            for name, b in model.named_buffers():
                if name.endswith("running_var"):
                    b.copy_(self.number(*b.shape).abs() + 0.1)
                elif name.endswith("running_mean"):
                    b.copy_(self.number(*b.shape))

    def layer(self, shape: tuple[int, ...], depth: int) -> tuple[nn.Module, tuple[int, ...]]:
        """Return a layer and the shape that it returns."""
        choices: list[Any] = [self.activation, self.linear, self.norm, self.nothing, self.own]
        choices += [self.linear, self.activation]
        if depth:
            choices += [self.skip, self.both, self.shared, self.hooked]
        if len(shape) == 3:
            choices += [self.pool, self.moved]
        return self.random.choice(choices)(shape, depth)

    def activation(self, shape: tuple[int, ...], depth: int) -> tuple[nn.Module, tuple[int, ...]]:
        if self.random.random() < 0.15:
            return MaxMin(), shape
        return self.random.choice(self.activations)(), shape

    def linear(self, shape: tuple[int, ...], depth: int) -> tuple[nn.Module, tuple[int, ...]]:
        if len(shape) == 1:
            out = self.random.randint(1, 5)
            return nn.Linear(shape[0], out), (out,)
        out = self.random.choice((2, 4))
        kernel = self.random.choice((1, 2, 3))
        options = {
            "stride": self.random.choice((1, 1, 2)),
            "padding": self.random.choice((0, 1, kernel // 2)),
            "padding_mode": self.random.choice(("zeros", "zeros", "circular", "reflect")),
            "groups": self.random.choice((1, 1, 2)) if shape[0] % 2 == 0 else 1,
            "bias": self.random.random() < 0.7,
        }
        kernel = min(kernel, shape[1], shape[2])
        options["padding"] = min(options["padding"], shape[1] - 1, shape[2] - 1)
        if self.random.random() < 0.2:
            conv: nn.Module = nn.ConvTranspose2d(shape[0], out, kernel, options["stride"])
        else:
            conv = nn.Conv2d(shape[0], out, kernel, **options)
        with torch.no_grad():
            return conv, tuple(conv(torch.zeros(1, *shape)).shape[1:])

    def norm(self, shape: tuple[int, ...], depth: int) -> tuple[nn.Module, tuple[int, ...]]:
        if len(shape) == 1:
            return self.random.choice(
                (nn.BatchNorm1d(shape[0]), nn.LayerNorm(shape[0], 0.1))
            ), shape
        return self.random.choice((nn.BatchNorm2d(shape[0]), nn.GroupNorm(1, shape[0], 0.1))), shape

    def nothing(self, shape: tuple[int, ...], depth: int) -> tuple[nn.Module, tuple[int, ...]]:
        return self.random.choice((nn.Identity(), nn.Dropout(0.5))), shape

    def own(self, shape: tuple[int, ...], depth: int) -> tuple[nn.Module, tuple[int, ...]]:
        return Functional(self.random.randrange(4)), shape

    def same(self, shape: tuple[int, ...]) -> nn.Module:
        """A branch that keeps the shape."""
        if len(shape) == 1:
            layer: nn.Module = nn.Linear(shape[0], shape[0])
        else:
            layer = nn.Conv2d(shape[0], shape[0], 3, padding=1)
        return nn.Sequential(layer, self.random.choice(self.activations)())

    def skip(self, shape: tuple[int, ...], depth: int) -> tuple[nn.Module, tuple[int, ...]]:
        count = self.random.choice((1, shape[0]))
        return Skip(self.same(shape), self.number(count), self.number(count)), shape

    def both(self, shape: tuple[int, ...], depth: int) -> tuple[nn.Module, tuple[int, ...]]:
        one, two = self.same(shape), self.random.choice((nn.Identity(), self.same(shape)))
        return Both(one, two), (2 * shape[0], *shape[1:])

    def shared(self, shape: tuple[int, ...], depth: int) -> tuple[nn.Module, tuple[int, ...]]:
        block = self.same(shape)
        return nn.Sequential(*[block] * self.random.randint(2, 3)), shape

    def hooked(self, shape: tuple[int, ...], depth: int) -> tuple[nn.Module, tuple[int, ...]]:
        layer, after = self.layer(shape, depth - 1)
        if self.random.random() < 0.5:
            layer.register_forward_hook(lambda module, inputs, output: -2.0 * output)
        else:
            layer.register_forward_pre_hook(lambda module, inputs: (inputs[0] / 0.5,))
        return layer, after

    def pool(self, shape: tuple[int, ...], depth: int) -> tuple[nn.Module, tuple[int, ...]]:
        size = min(2, shape[1], shape[2])
        pool: nn.Module = self.random.choice(
            (nn.MaxPool2d(size, 1), nn.AvgPool2d(size, 1), nn.AvgPool2d(size, 2, ceil_mode=True),
             nn.MaxPool2d(size), nn.AdaptiveAvgPool2d(2), nn.Upsample(scale_factor=2))
        )  # fmt: skip
        return pool, tuple(pool(torch.zeros(1, *shape)).shape[1:])

    def moved(self, shape: tuple[int, ...], depth: int) -> tuple[nn.Module, tuple[int, ...]]:
        if self.random.random() < 0.5 and shape[0] % 2 == 0:
            return nn.ChannelShuffle(2), shape
        inner, after = self.layer((math.prod(shape),), 0)
        return nn.Sequential(nn.Flatten(), inner), after


class BentGrammar(Grammar):
    """Networks of vectors whose functions are linear on either side of zero."""

    activations = (
        nn.ReLU, nn.ReLU, nn.PReLU, lambda: nn.LeakyReLU(0.2), lambda: nn.LeakyReLU(-0.5)
    )  # fmt: skip

    def start(self) -> tuple[int, ...]:
        return (3,)

    def activation(self, shape: tuple[int, ...], depth: int) -> tuple[nn.Module, tuple[int, ...]]:
        return self.random.choice(self.activations)(), shape

    def norm(self, shape: tuple[int, ...], depth: int) -> tuple[nn.Module, tuple[int, ...]]:
        return nn.BatchNorm1d(shape[0]), shape

    def own(self, shape: tuple[int, ...], depth: int) -> tuple[nn.Module, tuple[int, ...]]:
        return Functional(self.random.randrange(3)), shape


def steepest(model: nn.Module, shape: tuple[int, ...], seed: int, points: int = 24) -> float:
    """Return the largest norm of a Jacobian in float64, at points of several sizes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(points, *shape, generator=generator, dtype=torch.float64)
    x = x * torch.logspace(-1, 1, points, dtype=torch.float64).view(-1, *[1] * len(shape))
    return float(steepness(model, x).max())


def steepness(model: nn.Module, x: Tensor) -> Tensor:
    """Return the norm of the Jacobian at each point."""
    x = x.detach().requires_grad_()
    outputs = model(x)
    rows = [
        torch.autograd.grad(outputs[:, k].sum(), x, retain_graph=True)[0].flatten(1)
        for k in range(outputs.shape[1])
    ]
    return torch.linalg.matrix_norm(torch.stack(rows, 1), 2)
