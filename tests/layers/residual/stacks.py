"""Small pre-norm stacks in float64, for the laws of the residual mechanisms."""

import functools
from collections.abc import Callable

import torch
from archzoo.layers.residual import Context, Read, Residual, Site
from archzoo.zoo.axes.residuals import make_residual
from torch import Tensor
from torch.utils._pytree import tree_leaves

WIDTH = 5
SITES = [Site(kind, block) for block in range(3) for kind in ("attention", "mlp")]


def build(
    mechanism: str | Callable[..., Residual],
    *,
    sites: list[Site] = SITES,
    channel_dim: int = -1,
    width: int = WIDTH,
    **options,
) -> Residual:
    """Return a fresh mechanism in float64, the same at every call: a registered name or a class."""
    named = isinstance(mechanism, str)
    spec = {"name": mechanism, **options} if named else functools.partial(mechanism, **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_residual(spec, width, sites, channel_dim=channel_dim).double()


def trained(residual: Residual, seed: int = 0, scale: float = 1.0) -> Residual:
    """Return the mechanism with random parameters, as if it had been trained."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in residual.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=g, dtype=parameter.dtype)
    return residual


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normals in float64."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def branch_weights(length: int = len(SITES), width: int = WIDTH, seed: int = 1) -> Tensor:
    """Return one matrix for each branch."""
    return normal(length, width, width, seed=seed) * width**-0.5


def rms_norm(x: Tensor) -> Tensor:
    """Divide by the root mean square, with no epsilon: exactly scale-invariant."""
    return x / x.square().mean(-1, keepdim=True).sqrt()


def layer_norm(x: Tensor) -> Tensor:
    """Centre and divide by the deviation, with no epsilon."""
    return rms_norm(x - x.mean(-1, keepdim=True))


def look(residual: Residual, site: int, h: Read, norm) -> tuple[Read, Tensor]:
    """Return the normed read and the one tensor that these branches make of it.

    Views of different weight, so that no two of them can be exchanged unnoticed; equal views give
    what one tensor gives.
    """
    if isinstance(h, Tensor):
        return (norm(h),) * 2
    views = residual.views(site)
    if not views:
        return (norm(h["input"]),) * 2
    normed = {view: norm(h[view]) for view in views}
    query, key, value = normed.values()
    return normed, 0.5 * query + 0.3 * key + 0.2 * value


def states(
    residual: Residual, x: Tensor, weights: Tensor, norm=rms_norm, keep: Tensor | None = None
):
    """Yield the state after `open` and after every write of tanh(norm(read) W)."""
    post = residual.norm_position == "post"
    state = residual.open(x)
    yield state
    for site, weight in enumerate(weights):
        if post:
            state = residual.handoff(state, norm)
        h = residual.read(state, site)
        normed, seen = look(residual, site, h, (lambda t: t) if post else norm)
        mask = None if keep is None else keep[site]
        y, heads = seen @ weight, None
        if residual.mixes_heads and residual.sites[site].attends:
            heads = key, value = tuple(t[:, None] for t in (y.flip(-1), y))  # one head
            found, mixed = residual.mix_heads(state, site, key, value)
            y = (mixed + found - key).squeeze(1)
        state = residual.write(state, site, y.tanh(), Context(h, normed, mask, heads))
        yield state


def stack(residual: Residual, x: Tensor, weights: Tensor, norm=rms_norm, keep=None) -> Tensor:
    """Return what the whole stack closes with."""
    *_, last = states(residual, x, weights, norm, keep)
    return residual.close(last)


def fill(residual: Residual, x: Tensor, outputs: Tensor, keep: Tensor | None = None):
    """Return the state after branches that write given outputs, whatever they read."""
    state = residual.open(x)
    for site, y in enumerate(outputs):
        h = residual.read(state, site)
        mask = None if keep is None else keep[site]
        state = residual.write(state, site, y, Context(h, h, mask))
    return state


def tensors(state) -> list[Tensor]:
    """Return the tensors of a state, however nested."""
    return [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]
