"""A map from parameters to weights in float64 whose backward pass is in float32.

Parameters in float32 get gradients in float32, whatever precision these are computed in, and the
gradients of their weights come in it. So only the way to the weights, on which a certificate
stands, needs float64: it is that of the definition, number by number. The way back uses the same
factors, rounded once; its formulas are written out. A second derivative is the definition's own.

Source: none; the formulas are those of the maps that use it.
Differs from it: nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Rule", "single"]

Tensors = tuple[Tensor, ...]


class Rule(NamedTuple):
    """A map and its backward pass.

    Attributes:
        define: (float64 parameters, L) -> weights, with a graph.
        forward: (parameters, L) -> the same weights in float64, without a graph, and the factors.
        backward: (factors in float32, gradients of the weights, L) -> gradients of the parameters.
        factors: How many factors there are.
    """

    define: Callable[[Tensors, float], Tensors]
    forward: Callable[[Tensors, float], tuple[Tensors, Tensors]]
    backward: Callable[[Tensors, Tensors, float], Tensors]
    factors: int


class _Single(torch.autograd.Function):
    """Parameters -> factors, without gradients, and weights."""

    @staticmethod
    def forward(rule: Rule, lipschitz: float, *parameters: Tensor) -> Tensors:
        weights, factors = rule.forward(parameters, lipschitz)
        narrow = parameters[0].dtype
        wide = torch.promote_types(narrow, torch.float32)
        return *(f.to(wide) for f in factors), *(w.to(narrow) for w in weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.rule, ctx.lipschitz, *parameters = inputs
        factors, weights = output[: ctx.rule.factors], output[ctx.rule.factors :]
        ctx.shapes = [w.shape for w in weights]
        ctx.save_for_backward(*parameters, *factors)
        ctx.mark_non_differentiable(*factors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        count = len(ctx.saved_tensors) - ctx.rule.factors
        parameters, factors = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        of_weights = tuple(
            factors[0].new_zeros(shape) if grad is None else grad.to(factors[0].dtype)
            for shape, grad in zip(ctx.shapes, grads[ctx.rule.factors :], strict=True)
        )
        if torch.is_grad_enabled():
            weights = ctx.rule.define(tuple(p.double() for p in parameters), ctx.lipschitz)
            wide = [g.double() for g in of_weights]
            found = torch.autograd.grad(weights, parameters, wide, create_graph=True)
        else:
            found = ctx.rule.backward(factors, of_weights, ctx.lipschitz)
        return None, None, *(g.to(p.dtype) for g, p in zip(found, parameters, strict=True))


def single(rule: Rule, lipschitz: float, *parameters: Tensor) -> Tensors:
    """Return the weights of real parameters narrower than float64, in their dtype.

    Args:
        rule: The map.
        lipschitz: L.
        parameters: As the map orders them.
    """
    return _Single.apply(rule, lipschitz, *parameters)[rule.factors :]  # type: ignore[index]
