"""What a law is given, and how it looks at a mechanism."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from archzoo.layers.residual import Context, Residual
from archzoo.zoo.axes.residuals import residuals
from torch import Tensor
from torch.utils._pytree import tree_map

from ..stacks import SITES, WIDTH, normal

Make = functools.partial[Residual]
Law = Callable[[Make], None]

BITWISE = {"rtol": 0.0, "atol": 0.0}
TOL = {"rtol": 0.0, "atol": 1e-12}  # some thousand roundings of float64 at unit scale
# Relative, too: with trained gates a rewritten state reaches some thousands.
BOTH = {"rtol": 1e-12, "atol": 1e-12}


def embedding() -> Tensor:
    """x (2, 3, D), anew for each law: a mechanism under test may change it."""
    return normal(2, 3, WIDTH)


def outputs() -> Tensor:
    """What six branches may have computed (6, 2, 3, D)."""
    return normal(len(SITES), 2, 3, WIDTH, seed=1)


def takes(make: Make, option: str) -> bool:
    """Whether the builder of a mechanism has an option."""
    (mechanism,) = make.args
    builder = residuals[mechanism].build if isinstance(mechanism, str) else mechanism
    return option in inspect.signature(builder).parameters


def views(read) -> list[Tensor]:
    """The tensors of a read."""
    return [read] if isinstance(read, Tensor) else [*read.values()]


def answers(residual: Residual) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """What every site and the close return, as one number, with the sources until then."""
    x, *ys = sources = [t.clone().requires_grad_() for t in (embedding(), *outputs())]
    state = residual.open(x)
    for site, y in enumerate(ys):
        h = residual.read(state, site)
        yield _number(h), sources[: site + 1]
        state = residual.write(state, site, y, Context(h, h))
    yield _number(residual.close(state)), sources


def steps(residual: Residual) -> Iterator[Tensor]:
    """The same numbers, where all that was before the last write is held constant."""
    state = residual.open(embedding())
    for site, y in enumerate(outputs()):
        h = residual.read(state, site)
        yield _number(h)
        state, h = tree_map(_constant, (state, h))
        state = residual.write(state, site, y, Context(h, h))
    yield _number(residual.close(state))


def _constant(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def _number(read) -> Tensor:
    """A sum that no symmetry sends to a constant."""
    return torch.stack(
        [(v * normal(*v.shape, seed=i)).sum() for i, v in enumerate(views(read))]
    ).sum()


def reached(out: Tensor, inputs: list[Tensor]) -> list[bool]:
    """Whether an output has a gradient at each of the inputs."""
    if not out.requires_grad:
        return [False] * len(inputs)
    found = torch.autograd.grad(out, inputs, retain_graph=True, allow_unused=True)
    return [g is not None and bool(g.abs().max() > 0) for g in found]
