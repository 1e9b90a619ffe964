"""timm's Vision Transformer with another residual: its blocks become one trunk."""

import copy
import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...layers.decay import decay_exclusions
from ...layers.residual import Add, Site, State
from ..axes.residuals import ResidualSpec, make_residual
from ..branch import output_weight_of
from ..depth import blocks_of, layer_order
from ..recipe import Recipe
from ..trunk import Trunk

__all__ = ["TIMM", "Converted", "TimmTrunk", "build_converted", "install", "timm_trunk"]

TIMM = "timm/"
"""What the name of a converted model begins with in a recipe; timm's name of it follows."""


class ScaledBranch(nn.Module):
    """A branch and the LayerScale behind it."""

    def __init__(self, branch: nn.Module, scale: Any) -> None:
        """Keep both."""
        super().__init__()
        self.branch = branch
        self.scale = scale

    @property
    def output_weight(self) -> Tensor | None:
        """The branch's, every row times its scale."""
        weight = output_weight_of(self.branch)
        return None if weight is None else self.scale.gamma[:, None] * weight

    def forward(self, x: Tensor, *extras: Any) -> Tensor:
        """Scale what the branch returns."""
        return self.scale(self.branch(x, *extras))


class TimmTrunk(Trunk):
    """A trunk that is called as timm calls a block."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Run all branches, with timm's mask in the attentions."""
        if attn_mask is None and not is_causal:
            return super().forward(x)
        extras = [(attn_mask, is_causal) if i % 2 == 0 else () for i in range(len(self.branches))]
        return super().forward(x, extras)


class Block(nn.Module):
    """One pass through a trunk, two branches at a time, as timm's loop over blocks makes it.

    What a block returns is what the next one reads, and in the end what closes the trunk; for the
    plain residual both are the stream. What else the residual keeps goes on behind timm's back.
    """

    def __init__(self, trunk: TimmTrunk, block: int, states: list[State]) -> None:
        """Take the trunk, which block this is, and where the pass keeps its newest state."""
        super().__init__()
        self.trunk, self.block, self.states = trunk, block, states

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Run an attention and an MLP."""
        trunk, first = self.trunk, 2 * self.block
        state = trunk.residual.open(x) if first == 0 else self.states.pop()
        masked = attn_mask is not None or is_causal
        extras = {first: (attn_mask, is_causal)} if masked else {}
        for site in (first, first + 1):
            state = trunk.recomputed_step(state, site, extras.get(site, ()))
        self.states.append(state)
        if first + 2 == len(trunk.branches):
            return trunk.residual.close(state)
        read = trunk.residual.read(state, first + 2)
        assert not isinstance(read, Mapping)  # timm's attentions take one tensor, and no views
        return read


class Converted:
    """What a converted timm model does otherwise than its class."""

    residual_spec: ResidualSpec

    @property
    def recipe(self: Any) -> Recipe | None:
        """The keywords that timm would build it with now, and the residual; None without a name."""
        from timm.models import get_model_args

        name = getattr(self, "pretrained_cfg", {}).get("architecture")
        if name is None:
            return None
        (trunk,) = self.blocks
        first = trunk.branches[0]
        attention: Any = first.branch if isinstance(first, ScaledBranch) else first
        rates = {
            "drop_rate": self.head_drop.p,
            "pos_drop_rate": self.pos_drop.p,
            "attn_drop_rate": attention.attn_drop.p,
            "proj_drop_rate": attention.proj_drop.p,
            "drop_path_rate": trunk.drop_path[-1],
        }
        rates = {key: rate for key, rate in rates.items() if rate}
        options = {**get_model_args(self), **rates, "residual": self.residual_spec}
        return Recipe(f"{TIMM}{name}", options)

    def forward_intermediates(self: Any, *args: Any, **keywords: Any) -> Any:
        """As timm's: block i gives what block i + 1 reads, the last what closes the trunk."""
        (trunk,) = self.blocks
        states: list[State] = []
        view = copy.copy(self)
        view.__dict__["_modules"] = dict(self._modules)
        blocks = range(len(trunk.branches) // 2)
        view.blocks = nn.ModuleList([Block(trunk, block, states) for block in blocks])
        return super(Converted, view).forward_intermediates(*args, **keywords)  # pyright: ignore

    def prune_intermediate_layers(
        self: Any, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """As timm's, but no block goes: a residual is made for all of its sites."""
        from timm.models._features import feature_take_indices

        taken, _ = feature_take_indices(len(self.blocks[0].branches) // 2, indices)
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.fc_norm = nn.Identity()
            self.reset_classifier(0, "")
        return taken

    def no_weight_decay(self: Any) -> set[str]:
        """Timm's names and those that the residual excludes."""
        return set(super().no_weight_decay()) | decay_exclusions(self)  # pyright: ignore

    def set_grad_checkpointing(self: Any, enable: bool = True) -> None:
        """Recompute each branch in the backward pass, and not the trunk as a whole."""
        super().set_grad_checkpointing(enable)  # pyright: ignore
        self.grad_checkpointing = False
        self.blocks[0].grad_checkpointing = enable

    def group_matcher(self: Any, coarse: bool = False) -> Any:
        """Order parameters as in the unconverted model; the residual stands with its last block."""
        head = self.pretrained_cfg.get("classifier") or "head"
        return layer_order(self, [blocks_of(self.blocks[0])], head, coarse=coarse)

    def __reduce__(self) -> Any:
        """Pickle and copy by the class that was converted: the subclass is made at run time."""
        return _empty, (type(self).__mro__[2],), self.__dict__


@functools.cache
def _converted(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (Converted, kind), {"__module__": kind.__module__})


def _empty(kind: type[nn.Module]) -> nn.Module:
    made = _converted(kind)
    return made.__new__(made)


def timm_trunk(model: nn.Module) -> TimmTrunk:
    """Take the branches and norms out of a timm model's blocks.

    Raises:
        ValueError: it is no pre-norm Vision Transformer of timm's.
    """
    from timm.models.vision_transformer import Block as TimmBlock
    from timm.models.vision_transformer import VisionTransformer

    kind = type(model).__name__
    accepted = (
        "with_residual takes a model of archzoo, or a timm VisionTransformer (vit_*, deit*) whose "
        "blocks are its pre-norm Block"
    )
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"{kind} cannot be converted: {accepted}")
    odd = [type(block).__name__ for block in model.blocks if type(block) is not TimmBlock]
    if odd or not len(model.blocks):
        found = f"has blocks of type {odd[0]}" if odd else "has no blocks"
        raise ValueError(f"this {kind} {found} and cannot be converted: {accepted}")
    sites, branches, norms, rates = [], [], [], []
    for i, block in enumerate(model.blocks):
        assert isinstance(block, TimmBlock)
        for site, branch, scale, norm, drop in (
            (Site("attention", i), block.attn, block.ls1, block.norm1, block.drop_path1),
            (Site("mlp", i), block.mlp, block.ls2, block.norm2, block.drop_path2),
        ):
            plain = isinstance(scale, nn.Identity)
            sites.append(site)
            branches.append(branch if plain else ScaledBranch(branch, scale))
            norms.append(norm)
            rates.append(float(getattr(drop, "drop_prob", None) or 0.0))
    trunk = TimmTrunk(Add(model.embed_dim, sites), branches, norms, rates)
    trunk.grad_checkpointing = model.grad_checkpointing
    return trunk.train(model.training)


def install(model: Any, trunk: TimmTrunk, spec: ResidualSpec) -> None:
    """Put the trunk, with the residual of a spec, where the blocks were."""
    # What block i gives is what enters the norm before the next block.
    info = [
        {**one, "module": f"blocks.0.norms.{2 * i + 2}", "hook_type": "forward_pre"}
        for i, one in enumerate(model.feature_info[:-1])
    ]
    model.blocks = nn.Sequential(trunk).train(model.training)
    model.feature_info = [*info, {**model.feature_info[-1], "module": "blocks.0"}]
    model.grad_checkpointing = False
    if not isinstance(model, Converted):
        model.__class__ = _converted(type(model))
    model.residual_spec = spec


def build_converted(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Build what the recipe of a converted model names, with fresh weights.

    Args:
        name: `timm/`, and timm's name.
        options: timm's keywords, and `residual`.

    Raises:
        ValueError: a name or keyword that timm does not know, or an unknown residual.
    """
    import timm

    keywords = dict(options)
    spec = keywords.pop("residual", "add")
    try:
        model = timm.create_model(name.removeprefix(TIMM), **keywords)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"timm cannot build {name} with {keywords}: {error}") from error
    old = timm_trunk(model)
    residual = make_residual(spec, old.residual.width, old.residual.sites)
    install(model, TimmTrunk(residual, [*old.branches], [*old.norms], old.drop_path), spec)
    return model
