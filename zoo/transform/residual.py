"""Give a trained model another residual: the branches and norms keep their weights.

A mechanism that equals `add` at its start feeds every norm with the plain stream times a constant:
for attention residuals with zero queries the mean of n sources in place of their sum. A norm that
divides by the stream's scale undoes this, so the outputs stay as they were, up to the norm's
epsilon, which counts n² times as much. Batch norm does so in training only; its running statistics
are therefore moved to the new scale.
"""

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from ...layers.residual import Add, Context, Residual
from ..axes.residuals import ResidualSpec, make_residual
from ..backbones.timm_vit import Converted, TimmTrunk, install, timm_trunk
from ..network import Network
from ..recipe import record
from ..trunk import Trunk

__all__ = ["with_residual"]


def with_residual(
    model: nn.Module, residual: ResidualSpec, *, allow_change: bool = False, **options: Any
) -> Any:
    """Copy a model and let its branches join the stream in another way.

    Accepted are models of the zoo whose residual is `add`, and timm's `VisionTransformer` (its
    `vit_*` and `deit*`) with pre-norm blocks, whose LayerScale becomes part of the branch. Drop
    path, dtype, device and mode are kept. A converted timm model keeps timm's methods, but has one
    entry in `blocks` where it had one for each block; its intermediate features are what the next
    block reads. Its state dict has other names: load weights first and convert then.

    Args:
        model: The model; it is copied and left as it was.
        residual: The mechanism: a name, a mapping with a name and options, or a builder.
        allow_change: Whether to convert although the outputs will not be the same, because the
            mechanism does not start equal to `add`, or a norm is not scale-invariant.
        options: Options of the mechanism.

    Returns:
        A model of the same class, or for timm's of a subclass, with fresh parameters for the
        mechanism only. One that `create_model`, the zoo's or timm's, built can be saved by
        `save_model`.

    Raises:
        ValueError: a model of another kind, one whose residual is not `add`, or outputs that would
            change without allow_change.
    """
    spec = _with_options(residual, options)
    model = copy.deepcopy(model)
    trunks = [module for module in model.modules() if isinstance(module, Trunk)]
    for trunk in trunks:
        if type(trunk.residual) is not Add:
            raise ValueError(
                f"{type(model).__name__} already has the residual {type(trunk.residual).__name__}; "
                f"only a model whose residual is 'add' can be converted"
            )
        if trunk.norm_position == "post":
            raise ValueError(
                f"{type(model).__name__} maps the stream after every sum; only a model with norms "
                f"before the branches can be converted (activation='pre')"
            )
    if not trunks:
        trunks = [timm_trunk(model)]
    like = next(model.parameters())
    new = []
    for trunk in trunks:
        sites, dim = trunk.residual.sites, trunk.residual.channel_dim
        shared = model.shared if isinstance(model, Network) else None
        made = make_residual(spec, trunk.residual.width, sites, channel_dim=dim, shared=shared)
        if not made.equals_prenorm_at_init and not allow_change:
            raise ValueError(
                f"residual={_name(spec, made)!r} does not start equal to 'add', so the outputs "
                f"would change; pass allow_change=True to convert all the same"
            )
        new.append(_swapped(trunk, made))
    if all(trunk.residual.equals_prenorm_at_init for trunk in new):
        _keep_scales(model, new, allow_change)
    for old, trunk in zip(trunks, new, strict=True):
        trunk.residual.to(like.device, like.dtype)
        trunk.check_branches()
        if isinstance(trunk, TimmTrunk):
            install(model, trunk, spec)
        else:
            _replace(model, old, trunk)
    if not isinstance(model, Converted):
        record(model, residual=spec)
    return model


def _with_options(spec: ResidualSpec, options: Mapping[str, Any]) -> ResidualSpec:
    """Put the options of a call into the spec."""
    if not options:
        return spec
    if isinstance(spec, str):
        return {"name": spec, **options}
    if isinstance(spec, Mapping):
        return {**spec, **options}
    return functools.partial(spec, **options) if callable(spec) else spec


def _name(spec: ResidualSpec, made: Residual) -> str:
    if isinstance(spec, Mapping):
        return str(spec["name"])
    return spec if isinstance(spec, str) else type(made).__name__


def _swapped(trunk: Trunk, residual: Residual) -> Trunk:
    """Make a trunk of the same branches and norms over another residual."""
    parts = list(trunk.branches), list(trunk.norms), trunk.drop_path
    new = type(trunk)(residual, *parts, tokens=trunk.tokens)
    new.grad_checkpointing = trunk.grad_checkpointing
    return new.train(trunk.training)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if child is old:
                setattr(module, name, new)


# The scale of what is read.


def _keep_scales(model: nn.Module, trunks: Sequence[Trunk], allow_change: bool) -> None:
    """Make every norm return what it did, now that it is fed a multiple of the plain stream."""
    closed = 1.0
    fed: list[tuple[nn.Module, float]] = []
    for trunk in trunks:
        *reads, last = _scales(trunk.residual)
        # The first branch of a ResNet's stage reads what closes the stage before.
        for norm, scale in zip(trunk.norms, [closed, *reads[1:]], strict=True):
            views = norm.values() if isinstance(norm, nn.ModuleDict) else [norm]
            fed += [(one, scale) for one in views]
        closed = last
    for norm, scale in [*fed, (_final_norm(model), closed)]:
        if abs(scale - 1.0) < 1e-9:
            continue
        batch_norms = [m for m in norm.modules() if isinstance(m, BatchNorm)]
        if batch_norms:
            _rescale(batch_norms[0], scale)
        elif not allow_change and not _ignores_scale(norm, trunks[0].residual.width, scale):
            raise ValueError(
                f"{type(trunks[0].residual).__name__} feeds the norms a multiple of the plain "
                f"stream, and a {type(norm).__name__} in {type(model).__name__} does not divide "
                f"by its scale, so the outputs would change; pass allow_change=True to convert "
                f"all the same"
            )


def _scales(residual: Residual) -> list[float]:
    """Return read / plain stream at every site, and for the close, of a fresh mechanism."""
    residual = copy.deepcopy(residual).to("cpu", torch.float64).eval()
    g = torch.Generator().manual_seed(0)
    shape = (2, residual.width, 1, 1) if residual.channel_dim == 1 else (1, 2, residual.width)

    def ratio(read: Tensor) -> float:
        scale = (read * plain).sum() / plain.square().sum()
        assert torch.allclose(read, scale * plain), "no multiple of the plain stream"
        return scale.item()

    scales = []
    with torch.no_grad():
        plain = torch.randn(shape, generator=g, dtype=torch.float64)
        state = residual.open(plain)
        for site in range(len(residual.sites)):
            read = residual.read(state, site)
            views = residual.views(site) or ("input",)
            seen = [read] if isinstance(read, Tensor) else [read[view] for view in views]
            scales.append([ratio(one) for one in seen][0])
            y = torch.randn(shape, generator=g, dtype=torch.float64)
            state = residual.write(state, site, y, Context(read, read))
            plain = plain + y
        scales.append(ratio(residual.close(state)))
    return scales


def _rescale(norm: BatchNorm, scale: float) -> None:
    """Move running statistics to inputs that are `scale` times as large."""
    if norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean.mul_(scale)
        norm.running_var.mul_(scale**2)


def _ignores_scale(norm: nn.Module, width: int, scale: float) -> bool:
    """Whether a norm of normals, large beside its epsilon, hardly changes."""
    norm = copy.deepcopy(norm).to("cpu", torch.float64).eval()
    g = torch.Generator().manual_seed(0)
    x = 30.0 * torch.randn(4, width, generator=g, dtype=torch.float64)
    with torch.no_grad():
        return torch.allclose(norm(scale * x), norm(x), rtol=0.02, atol=0.02)


def _final_norm(model: nn.Module) -> nn.Module:
    """The norm after the trunk: `norm`, or timm's `fc_norm` behind the pool."""
    for name in ("norm", "fc_norm"):
        norm = getattr(model, name, None)
        if norm is not None and not isinstance(norm, nn.Identity):
            return norm
    return nn.Identity()
