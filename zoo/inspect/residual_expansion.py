"""The orders of a model: what paths of few branches give, and what they leave out.

`layers.residual.analysis.orders` has the equations and what can be concluded: the orders are for
analysis only, and a large one does not show that its paths matter. Logits are those of partial
sums, not of single terms, because the final norm is not linear in the stream.

Source: Dherin & Munn 2025, "On residual network depth", arXiv:2510.03470 (withdrawn submission).
Differs from it: exact Möbius orders, in a float64 copy, of networks with norms and attention.
"""

import contextlib
import copy
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...layers.residual import Expansion, Parallel, as_parallel, mobius_orders, taylor_orders
from ..transform.parallel import trunks_of
from ..trunk import Trunk

__all__ = ["ModelExpansion", "residual_expansion"]


class ModelExpansion(NamedTuple):
    """The orders of a model's stream, and the logits of their partial sums.

    `stream` holds E_0, …, E_K between the embedding and the final norm, `logits` (K + 1, …) what
    the head makes of E_0 + … + E_k, `output` the logits of the whole model.
    """

    stream: Expansion
    logits: Tensor
    output: Tensor


def residual_expansion(
    model: nn.Module,
    x: Tensor,
    *,
    orders: int | None = None,
    mode: Literal["subset", "taylor"] = "subset",
    samples: int | None = None,
    generator: torch.Generator | None = None,
) -> ModelExpansion:
    """Expand a model by the number of branches on a path, in eval mode and float64.

    Over `add` and `scaled` a branch is one site: an attention or an MLP. Over `parallel` it is the
    sum of a group, so one group of all has two orders, E_0 and E_1.

    Args:
        model: A model with one trunk and an additive residual; it is copied.
        x: Inputs of the model.
        orders: The last order K; None is all, in mode `subset` only.
        mode: `subset` counts branches (exact), `taylor` powers of a factor of all branches.
        samples: Subsets of each size to draw in mode `subset`; None is all.
        generator: Source of randomness of the samples.

    Raises:
        ValueError: another residual, several stages, more than 100,000 branch calls, an unknown
            mode, or `taylor` without orders or with samples.
    """
    if mode not in ("subset", "taylor"):
        raise ValueError(f"mode must be 'subset' or 'taylor', got {mode!r}")
    if mode == "taylor" and (orders is None or samples is not None):
        raise ValueError("mode='taylor' needs orders=, and takes no samples=")
    stages = len(trunks_of(model))
    if stages > 1:
        raise ValueError(
            f"{type(model).__name__} has {stages} stages, and branches of different stages do not "
            f"share a stream; give a model with one trunk"
        )
    model = copy.deepcopy(model).double().eval()
    (trunk,) = trunks_of(model)
    old = trunk.residual
    trunk.residual = as_parallel(old, old.group if isinstance(old, Parallel) else 1)
    x = x.double() if x.is_floating_point() else x
    with torch.no_grad(), contextlib.ExitStack() as stack:
        seen: list[tuple[Any, ...]] = []
        with trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs)):
            output = model(x)
        h, extras, *_ = (*seen[0], None)
        branches = [_branch(trunk, group, extras) for group in trunk.residual.groups()]
        if mode == "subset":
            stream = mobius_orders(branches, h, orders=orders, samples=samples, generator=generator)
        else:
            assert orders is not None
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            _write_out(model)
            stream = taylor_orders(branches, h, orders=orders)
        logits = []
        for partial in stream.partial_sums:
            with trunk.register_forward_hook(lambda *_, partial=partial: partial):
                logits.append(model(x))
    return ModelExpansion(stream, torch.stack(logits), output)


def _branch(trunk: Trunk, group: range, extras: Any) -> Any:
    """Return x -> Σ λ_i F_i(norm_i(x)) over a group of sites."""

    def branch(x: Tensor) -> Tensor:
        state = (x, torch.zeros_like(x))
        for site in group:
            state = trunk.step(state, site, () if extras is None else extras[site])
        return state[1]

    return branch


class _WrittenOut(nn.Module):
    """Layer norm in operations that are differentiated again and again; see `taylor_orders`."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        dims = tuple(range(-len(self.norm.normalized_shape), 0))
        y = x - x.mean(dims, keepdim=True)
        y = y * (y.square().mean(dims, keepdim=True) + self.norm.eps).rsqrt()
        y = y if self.norm.weight is None else y * self.norm.weight
        return y if self.norm.bias is None else y + self.norm.bias


def _write_out(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.LayerNorm):
                setattr(module, name, _WrittenOut(child))
