"""Turn a built model into its parallel form, and melt branches of one base into a wide one.

`to_parallel` lets groups of g consecutive branches read one base; weights are shared with the given
model. `fuse_parallel` computes a group of MLPs at once, each behind a norm n with gain γ_i and bias
β_i that fold into its first layer:

    Σ_i λ_i [B_i s(A_i (γ_i ⊙ n(x) + β_i) + a_i) + b_i] = B s(A n(x) + a) + b
    A = [A_i diag γ_i]_i,  a = [a_i + A_i β_i]_i,  B = [λ_i B_i]_i,  b = Σ_i λ_i b_i

with the A_i stacked by rows and the B_i by columns, exactly.

Source: Bermeitinger, Hrycej & Handschuh 2023, "Make Deep Networks Shallow Again", arXiv:2309.08414.
Differs from it: any group size, and branches behind norms. The paper trains the parallel form from
scratch; trained sequential weights make another function in it, equal to first order only.
"""

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ...layers.residual import Add, Parallel, Site, as_parallel
from ..axes.residuals import residual_config
from ..models import model_info
from ..network import Network
from ..recipe import Recipe, forget, record
from ..trunk import Trunk

__all__ = ["fuse_parallel", "to_parallel", "trunks_of"]

Module = TypeVar("Module", bound=nn.Module)

ELEMENTWISE = (nn.GELU, nn.ReLU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.Softplus, nn.Identity)

# The registered additive residuals as options of `parallel`.
FORMS: dict[str, dict[str, Any]] = {
    "add": {},
    "scaled": {"exponent": 0.5},
    "skip_init": {"coefficient": 0.0, "learned": True},
    "rezero": {"coefficient": 0.0, "learned": True, "shared": True},
    "layer_scale": {"learned": True, "per_channel": True},
    "parallel": {},
}


def trunks_of(model: nn.Module) -> list[Trunk]:
    """Return the trunks of a model, or the model if it is one.

    Raises:
        ValueError: none.
    """
    trunks = [module for module in model.modules() if isinstance(module, Trunk)]
    if not trunks:
        raise ValueError(f"{type(model).__name__} runs no Trunk; give a model of the zoo")
    return trunks


def to_parallel(model: Module, group: int | None) -> Module:
    """Return the model with groups of branches that read the same base; weights are shared.

    Nothing is copied but the containers around the residuals, so training one trains the other, and
    `to_parallel(…, 1)` leads back to the sequential function. In a CNN a stage change is a barrier:
    groups are counted within each stage.

    Args:
        model: A model of the zoo, or a `Trunk`, whose residual is `Add`, `Scaled` or `Parallel`.
        group: Branches of a group, at least 1; None is all of a network or stage.

    Returns:
        A model of the same class. One that `create_model` built over a registered residual can be
        saved by `save_model`.

    Raises:
        ValueError: another residual, no trunk, norms on the stream itself, or group < 1.
    """
    trunks = trunks_of(model)
    residuals = [trunk.residual for trunk in trunks]
    memo: dict[int, Any] = {id(old): as_parallel(old, group) for old in residuals}
    if any(trunk.norm_position == "post" for trunk in trunks):
        raise ValueError(
            f"{type(model).__name__} maps the stream after every sum, so no two branches read one "
            f"base; build it with norms before the branches (activation='pre')"
        )
    changed = set(memo)
    for module in list(model.modules()):
        if not changed.intersection(map(id, module.modules())):
            memo[id(module)] = module
    memo |= {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    made = copy.deepcopy(model, memo)
    if isinstance(made, Network) and made.recipe is not None:
        spec = _spec(made.recipe, group, residuals[0])
        if spec is None:
            forget(made, "to_parallel grouped the branches of a residual without a name")
        else:
            record(made, residual=spec)
    return made


def _spec(recipe: Recipe, group: int | None, residual: nn.Module) -> dict[str, Any] | None:
    """Write the residual of a recipe as options of `parallel`; None where it is not registered."""
    name, changed = recipe
    try:
        config = residual_config(
            changed.get("residual", model_info(name).options["residual"].default)
        )
    except ValueError:
        return None
    given = {} if isinstance(config, str) else dict(config)
    kind = config if isinstance(config, str) else given.pop("name")
    if kind not in FORMS:
        return None
    options = {**FORMS[kind], **given}
    if kind == "layer_scale":  # its start is called otherwise, and follows from the depth
        options.pop("initial", None)
        options["coefficient"] = residual.initial
    return {"name": "parallel", **options, "group": group}


def fuse_parallel(model: Module) -> Module:
    """Return the model with one wide branch for each group of MLPs that read the same base.

    For inference: the weights are new tensors, the result is in eval mode, and dropout and drop
    path are left out. Its residual is `Add`, its depth the number of groups.

    Args:
        model: A model of the zoo, or a `Trunk`, with an additive residual and branches
            `Sequential(Linear, activation, [Dropout,] Linear)` behind LayerNorm or RMSNorm, such
            as an `MLP`; with `Parallel` over several branches there is something to gain.

    Raises:
        ValueError: another residual, branch, activation or norm, or a group whose norms or
            activations differ.
    """
    memo: dict[int, Any] = {id(trunk): _fused_trunk(trunk) for trunk in trunks_of(model)}
    made = copy.deepcopy(model, memo).eval()
    if isinstance(made, Network):
        forget(made, "fuse_parallel made its weights; save what was fused, and fuse after loading")
    return made


@torch.no_grad()
def _fused_trunk(trunk: Trunk) -> Trunk:
    old = trunk.residual
    residual = as_parallel(old, old.group if isinstance(old, Parallel) else 1)
    groups = residual.groups()
    norms = [_plain_norm([(i, trunk.norms[i]) for i in group]) for group in groups]
    branches = [_fused_branch(trunk, residual, group) for group in groups]
    sites: list[Site] = [residual.sites[group[0]] for group in groups]
    fused = Add(residual.width, sites, channel_dim=residual.channel_dim)
    return Trunk(fused, branches, norms, [0.0] * len(groups)).eval()


def _plain_norm(norms: Sequence[tuple[int, nn.Module]]) -> nn.Module:
    """Return the norm of a group without gain and bias."""
    made = []
    for site, norm in norms:
        if type(norm) not in (nn.LayerNorm, nn.RMSNorm):
            raise ValueError(
                f"the norm at site {site} is a {type(norm).__name__}, which does not fold into a "
                f"linear layer; only LayerNorm and RMSNorm do"
            )
        made.append(type(norm)(norm.normalized_shape, norm.eps, elementwise_affine=False))
    _check_alike(norms[0][0], "norms", made)
    return made[0]


def _fused_branch(trunk: Trunk, residual: Parallel, group: Sequence[int]) -> nn.Module:
    rows, row_biases, columns, activations, last = [], [], [], [], 0.0
    for site in group:
        first, activation, second = _parts(trunk.branches[site], site)
        norm: Any = trunk.norms[site]
        gain = 1.0 if norm.weight is None else norm.weight
        shift = getattr(norm, "bias", None)
        scale: Any = residual.initial if residual.scale is None else _row(residual, site)
        rows.append(first.weight * gain)
        row_biases.append(_bias(first) + (0.0 if shift is None else first.weight @ shift))
        columns.append((scale * second.weight.T).T)
        last = last + scale * _bias(second)
        activations.append(activation)
    _check_alike(group[0], "activations", activations)
    return nn.Sequential(
        _linear(torch.cat(rows), torch.cat(row_biases)),
        copy.deepcopy(activations[0]),
        _linear(torch.cat(columns, dim=1), last + torch.zeros_like(columns[0][:, 0])),
    )


def _parts(branch: nn.Module, site: int) -> tuple[nn.Linear, nn.Module, nn.Linear]:
    """Take an MLP apart."""
    parts = list(branch) if isinstance(branch, nn.Sequential) else [branch]
    match [part for part in parts if not isinstance(part, nn.Dropout)]:
        case [nn.Linear() as first, activation, nn.Linear() as second] if isinstance(
            activation, ELEMENTWISE
        ):
            return first, activation, second
    raise ValueError(
        f"the branch at site {site} is {' · '.join(type(part).__name__ for part in parts)}, and "
        f"only Sequential(Linear, activation, Linear) with an elementwise activation fuses"
    )


def _check_alike(site: int, what: str, modules: Sequence[nn.Module]) -> None:
    kinds = sorted({repr(module) for module in modules})
    if len(kinds) > 1:
        raise ValueError(f"the group at site {site} has different {what}: {', '.join(kinds)}")


def _row(residual: Parallel, site: int) -> Tensor:
    assert residual.scale is not None
    return residual.scale[residual.row[site]]


def _bias(linear: nn.Linear) -> Tensor:
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    made.weight, made.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return made
