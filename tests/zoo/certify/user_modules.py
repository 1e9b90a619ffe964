"""Modules as users write them: functional code, hooks, sharing, subclasses, wrappers."""

import types
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Made = tuple[nn.Module, tuple[int, ...]]
MODULES: dict[str, Callable[[], Made]] = {}


class Call(nn.Module):
    """A function with some layers beside it."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


def made(name: str, shape: tuple[int, ...]) -> Callable[[Callable[[], nn.Module]], None]:
    """Decorate a factory of a module that reads samples of a shape."""

    def decorate(factory: Callable[[], nn.Module]) -> None:
        MODULES[name] = lambda: (factory(), shape)

    return decorate


def of(name: str, shape: tuple[int, ...], factory: Callable[[], nn.Module]) -> None:
    made(name, shape)(factory)


def dense(*sizes: int) -> list[nn.Module]:
    return [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]


V, IMAGE = (6,), (2, 6, 6)

# Functional code on vectors.
of("two layers", V, lambda: Call(lambda x, a, b: b(F.relu(a(x))), *dense(6, 8, 3)))
of("residual", V, lambda: Call(lambda x, a, b: x + b(F.gelu(a(x))), *dense(6, 8, 6)))
of(
    "dense connections",
    V,
    lambda: Call(
        lambda x, a, b: b(torch.cat([x, F.relu(a(x))], 1)), nn.Linear(6, 4), nn.Linear(10, 3)
    ),
)
of(
    "gates of constants",
    V,
    lambda: Call(lambda x, a: torch.sigmoid(a.bias) * a(x), nn.Linear(6, 6)),
)
of("matmul", V, lambda: Call(lambda x, a: x @ a.weight.T @ a.weight, nn.Linear(6, 6)))
of("einsum", V, lambda: Call(lambda x, a: torch.einsum("bi,oi->bo", x, a.weight), nn.Linear(6, 4)))
of(
    "bilinear with a constant",
    V,
    lambda: Call(lambda x, a: (x[:, None] @ a.weight[None])[:, 0], nn.Linear(4, 6)),
)
of("slices", V, lambda: Call(lambda x: torch.cat([x[:, ::2].relu(), x[:, 1::2].tanh()], 1)))
of("chunks", V, lambda: Call(lambda x: sum(c.relu() * i for i, c in enumerate(x.chunk(3, 1), 1))))
of(
    "stack and mean",
    V,
    lambda: Call(
        lambda x, a, b: torch.stack([a(x), b(x), x[:, :4]]).mean(0),
        nn.Linear(6, 4),
        nn.Linear(6, 4),
    ),
)
of("tokens", V, lambda: Call(lambda x, a: a(x.view(-1, 3, 2)).relu().flatten(1), nn.Linear(2, 5)))
of(
    "mixing tokens",
    V,
    lambda: Call(lambda x, a: a(x.view(-1, 3, 2).mT).relu().mT.mean(1), nn.Linear(3, 3)),
)
of("recurrent by hand", V, lambda: Call(lambda x, a: rolled(x, a), nn.Linear(5, 4)))
of("loop over a list", V, lambda: Call(lambda x, *ls: looped(x, ls), *dense(6, 6, 6, 6)))
of("in place", V, lambda: Call(lambda x, a: a(x).mul_(2).add_(1).relu_(), nn.Linear(6, 5)))
of("masked", V, lambda: Call(lambda x: x.masked_fill(torch.arange(6) > 3, 0.0) + x.roll(1, 1)))
of("where", V, lambda: Call(lambda x: torch.where(torch.arange(6) % 2 == 0, x, x.abs())))
of("index", V, lambda: Call(lambda x: x[:, torch.tensor([0, 0, 5, 2])] * 0.5))
of("gather", V, lambda: Call(lambda x: x.gather(1, torch.tensor([[3, 1, 1]]).expand(len(x), -1))))
of("cumulative sums", V, lambda: Call(lambda x: x.cumsum(1).relu()))
of("outer loop of slices", V, lambda: Call(lambda x: filled(x)))
of("norm", V, lambda: Call(lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True) + x))
of("log sum exp", V, lambda: Call(lambda x: x.logsumexp(1, keepdim=True).expand(-1, 2)))
of("softmax", V, lambda: Call(lambda x, a: a(x).softmax(-1), nn.Linear(6, 4)))
of("log softmax", V, lambda: Call(lambda x, a: F.log_softmax(a(x), 1), nn.Linear(6, 4)))
of("sorted", V, lambda: Call(lambda x: x.sort(1, descending=True).values[:, :3]))
of("top k", V, lambda: Call(lambda x: x.topk(2, 1).values))
of(
    "largest and smallest",
    V,
    lambda: Call(lambda x: torch.stack([x.amax(1), x.min(1).values, x.max(1).values], 1)),
)
of("clamped", V, lambda: Call(lambda x: x.clamp(min=-0.5) - x.clip(-1, 1) + F.hardtanh(x, -2, 2)))
of(
    "maximum of branches",
    V,
    lambda: Call(lambda x, a, b: torch.maximum(a(x), b(x)), nn.Linear(6, 4), nn.Linear(6, 4)),
)
of("swish", V, lambda: Call(lambda x, a: swish(a(x)), nn.Linear(6, 4)))
of(
    "sine features",
    V,
    lambda: Call(lambda x, a: torch.cat([a(x).sin(), a(x).cos()], 1), nn.Linear(6, 4)),
)
of("layer norm", V, lambda: Call(lambda x, a: F.layer_norm(a(x), (4,), eps=0.1), nn.Linear(6, 4)))
of("lerp", V, lambda: Call(lambda x, a: torch.lerp(x, a(x).relu(), 0.3), nn.Linear(6, 6)))
of("double precision inside", V, lambda: Call(lambda x, a: a(x).double().tanh().float() * 2,
                                              nn.Linear(6, 3)))  # fmt: skip
of("vmap", V, lambda: Call(lambda x: torch.func.vmap(lambda v: (v * 2).relu())(x)))

# Images.
of(
    "convolutions",
    IMAGE,
    lambda: Call(
        lambda x, a, b: b(F.relu(a(x))).mean((2, 3)),
        nn.Conv2d(2, 4, 3, padding=1),
        nn.Conv2d(4, 3, 3),
    ),
)
of(
    "functional convolution",
    IMAGE,
    lambda: Call(
        lambda x, a: F.conv2d(x, a.weight * 0.5, stride=2, padding=1).flatten(1), nn.Conv2d(2, 3, 3)
    ),
)
of(
    "separable",
    IMAGE,
    lambda: Call(
        lambda x, a, b: b(a(x)).amax((2, 3)), nn.Conv2d(2, 2, 3, groups=2), nn.Conv2d(2, 4, 1)
    ),
)
of(
    "pooled pyramid",
    IMAGE,
    lambda: Call(
        lambda x: torch.cat(
            [F.avg_pool2d(x, 2).flatten(1), F.adaptive_avg_pool2d(x, 1).flatten(1)], 1
        )
    ),
)
of(
    "upsampled",
    IMAGE,
    lambda: Call(lambda x: F.interpolate(F.max_pool2d(x, 2), scale_factor=2) + x),
)
of(
    "bilinear upsampling",
    IMAGE,
    lambda: Call(lambda x: F.interpolate(x, (5, 7), mode="bilinear").flatten(1)),
)
of(
    "padded by reflection",
    IMAGE,
    lambda: Call(lambda x, a: a(F.pad(x, (1, 1, 1, 1), mode="reflect")), nn.Conv2d(2, 2, 3)),
)
of(
    "patches",
    IMAGE,
    lambda: Call(lambda x, a: a(F.unfold(x, 3, stride=3).mT).relu().sum(1), nn.Linear(18, 4)),
)
of(
    "pixel shuffle",
    IMAGE,
    lambda: Call(lambda x, a: a(F.pixel_unshuffle(x, 2)).abs(), nn.Conv2d(8, 3, 1)),
)
of(
    "squeeze of constants",
    IMAGE,
    lambda: Call(lambda x, a: x * a.bias.sigmoid().view(1, -1, 1, 1), nn.Linear(1, 2)),
)
of("group norm", IMAGE, lambda: Call(lambda x: F.group_norm(x, 2, eps=0.1)))
of(
    "inception",
    IMAGE,
    lambda: Call(
        lambda x, a, b, c: F.relu(torch.cat([a(x), b(x), F.max_pool2d(c(x), 3, 1, 1)], 1)),
        nn.Conv2d(2, 2, 1),
        nn.Conv2d(2, 2, 3, padding=1),
        nn.Conv2d(2, 1, 1),
    ),
)
of(
    "channels last",
    IMAGE,
    lambda: Call(
        lambda x, a: a(x.to(memory_format=torch.channels_last)).permute(0, 2, 3, 1).flatten(1),
        nn.Conv2d(2, 3, 3),
    ),
)


# Classes, hooks, sharing.
@made("a subclass of linear", V)
def subclass() -> nn.Module:
    class Twice(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(super().forward(input))

    return nn.Sequential(Twice(6, 6), nn.ReLU(), nn.Linear(6, 2))


@made("tied weights", V)
def tied() -> nn.Module:
    return Call(lambda x, a: F.linear(F.relu(a(x)), a.weight.T), nn.Linear(6, 9))


@made("hooks", V)
def hooks() -> nn.Module:
    model = nn.Sequential(*dense(6, 4), nn.ReLU(), *dense(4, 3))
    model[0].register_forward_hook(lambda module, inputs, output: output * -3)
    model[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    model.register_forward_hook(lambda module, inputs, output: output[:, :2])
    return model


@made("a forward of an instance", V)
def instance() -> nn.Module:
    layer = nn.Linear(6, 3)
    own = types.MethodType(lambda self, x: nn.Linear.forward(self, x.relu()) * 2, layer)
    layer.forward = own  # pyright: ignore[reportAttributeAccessIssue]
    return layer


@made("a shared block", V)
def shared() -> nn.Module:
    block = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    return nn.Sequential(block, block, nn.Linear(6, 2), nn.Softplus())


@made("a replaced convolution", IMAGE)
def replaced() -> nn.Module:
    class Standardised(nn.Conv2d):
        def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            weight = weight - weight.mean((1, 2, 3), keepdim=True)
            return super()._conv_forward(input, weight, bias)

    return nn.Sequential(Standardised(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())


@made("parametrised", V)
def parametrised() -> nn.Module:
    layer = nn.utils.parametrizations.orthogonal(nn.Linear(6, 6))
    return nn.Sequential(layer, nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)))


@made("module dict", V)
def choices() -> nn.Module:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleDict({"a": nn.Linear(6, 4), "b": nn.Linear(4, 2)})

        def forward(self, x: Tensor) -> Tensor:
            for name in ("a", "b"):
                x = self.layers[name](x).tanh()
            return x

    return Chosen()


@made("custom gradient", V)
def custom() -> nn.Module:
    class Straight(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clamp(-1, 1)

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    return Call(lambda x, a: Straight.apply(a(x)), nn.Linear(6, 3))


@made("checkpointed", V)
def checkpointed() -> nn.Module:
    from torch.utils.checkpoint import checkpoint

    return Call(lambda x, a: checkpoint(a, x, use_reentrant=False).relu(), nn.Linear(6, 3))


@made("scripted", V)
def scripted() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU6(), nn.Dropout(0.3), nn.Linear(5, 2))


def rolled(x: Tensor, layer: nn.Module) -> Tensor:
    state = torch.zeros(len(x), 4)
    for column in x.unbind(1):
        state = torch.tanh(layer(torch.cat([state, column[:, None]], 1)))
    return state


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def looped(x: Tensor, layers: tuple[nn.Module, ...]) -> Tensor:
    kept = [x]
    for layer in layers:
        kept.append(F.elu(layer(torch.stack(kept).sum(0))))
    return kept[-1]


def filled(x: Tensor) -> Tensor:
    out = x.new_zeros(len(x), 8)
    for i in range(3):
        out[:, 2 * i : 2 * i + 4] += x[:, i : i + 4].relu()
    return out
