"""The trunk: any branches over any residual. Every backbone runs through it."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..layers.residual import Context, Heads, Past, Read, Residual, State
from ..layers.units import Units, UnitTrace
from .branch import mixes_heads_of, output_weight_of, value_weights_of, views_of
from .recomputation import recomputed, recomputes

__all__ = ["Trunk", "drop_path_rates"]


def drop_path_rates(last: float, length: int) -> list[float]:
    """Stochastic depth that grows linearly from 0 at the first branch to `last` at the last.

    Raises:
        ValueError: `last` outside [0, 1).
    """
    if not 0.0 <= last < 1.0:
        raise ValueError(f"drop_path_rate must lie in [0, 1), got {last}")
    return [last * i / max(1, length - 1) for i in range(length)]


class Trunk(nn.Module):
    """Branches that read from and write to one residual state, each behind its own norm.

    Args:
        residual: The mechanism, with one site per branch.
        branches: The branches in order; called with the normed read and the site's extras. What
            they may declare of themselves stands in `branch`.
        norms: Their norms; a branch with several views gets a copy for each.
        drop_path: Probability, per branch, that a sample skips it in training.
        norm_position: `pre` norms what a branch reads, `post` the stream itself before it is read,
            where the norm may be any map of the stream, such as a ReLU; None is the residual's own.
        tokens: Whether the stream has an axis of tokens or pixels, and not one vector a sample.

    Shape:
        (B, …, D) -> (B, …, D), channels where the residual has them.

    Raises:
        ValueError: the lengths differ, the residual gives a branch views that it cannot take, or
            mixes heads that it does not hand out, looks along tokens that the stream does not have,
            or its history would end at every map of the stream.
    """

    def __init__(
        self,
        residual: Residual,
        branches: Sequence[nn.Module],
        norms: Sequence[nn.Module],
        drop_path: Sequence[float],
        *,
        norm_position: Literal["pre", "post"] | None = None,
        tokens: bool = True,
    ) -> None:
        """Keep the parts."""
        super().__init__()
        if residual.looks_along_tokens and not tokens:
            raise ValueError(
                f"{type(residual).__name__} with {residual.looks_along_tokens} looks along tokens, "
                f"and this model has one vector a sample; leave that option out"
            )
        self.tokens = tokens
        own = residual.norm_position
        self.norm_position = norm_position or own
        if self.norm_position != own and not residual.keeps_only_the_stream:
            raise ValueError(
                f"{type(residual).__name__} is a {own}-norm mechanism that keeps more than the "
                f"stream, so the norms cannot stand {norm_position}; choose '{own}'"
            )
        lengths = {len(residual.sites), len(branches), len(norms), len(drop_path)}
        if len(lengths) != 1:
            raise ValueError(f"sites, branches, norms, drop_path differ in length: {lengths}")
        self.residual = residual
        self.branches = nn.ModuleList(branches)
        self.norms = nn.ModuleList(self._norms(site, norm) for site, norm in enumerate(norms))
        self.drop_path = tuple(drop_path)
        self.grad_checkpointing = False
        for site, branch in enumerate(branches):
            if self._mixes_heads(site) and not mixes_heads_of(branch):
                raise ValueError(
                    f"{type(residual).__name__} mixes the keys and values of the attention at site "
                    f"{site}, which {type(branch).__name__} keeps to itself; choose another "
                    f"residual"
                )

    def _norms(self, site: int, norm: nn.Module) -> nn.Module:
        views = self.residual.views(site)
        if not views:
            return norm
        branch = self.branches[site]
        if views_of(branch) != views:
            raise ValueError(
                f"{type(self.residual).__name__} gives the branch at site {site} the views "
                f"{views}, but {type(branch).__name__} takes one tensor; choose another residual"
            )
        return nn.ModuleDict({view: copy.deepcopy(norm) for view in views})

    def step(self, state: State, site: int, extras: tuple[Any, ...] = ()) -> State:
        """Run one branch."""
        state = self.settle(state, site)
        h = self.residual.read(state, site)
        normed = self._normed(h, site)
        if not self._mixes_heads(site):
            y = self.branches[site](normed, *extras)
            return self.residual.write(state, site, y, Context(h, normed, self._keep(y, site)))
        own: list[Heads] = []

        def mix(key: Tensor, value: Tensor) -> Heads:
            own.append((key, value))
            return self.residual.mix_heads(state, site, key, value)

        y = self.branches[site](normed, *extras, mix=mix)
        context = Context(h, normed, self._keep(y, site), own[-1])
        return self.residual.write(state, site, y, context)

    def _mixes_heads(self, site: int) -> bool:
        return self.residual.mixes_heads and self.residual.sites[site].attends

    def enter(self, state: State, h: Tensor, carry: Callable[[Tensor], Tensor]) -> State:
        """Run the first branch of a stage, which reads h from before a change of shape.

        Args:
            state: The state after the change.
            h: What closed the stage before.
            carry: The linear map of the change; it brings what the write may look at along.
        """
        if recomputes(self):
            return self._recomputed(self._enter, 0, state, h, carry)
        return self._enter(state, h, carry)

    def _enter(self, state: State, h: Tensor, carry: Callable[[Tensor], Tensor]) -> State:
        normed = self._normed(h, 0)
        y = self.branches[0](normed)
        context = Context(h, normed, self._keep(y, 0))
        if self.residual.uses_context:
            assert not isinstance(normed, Mapping)
            context = context._replace(read=carry(h), normed=carry(normed))
        return self.residual.write(state, 0, y, context)

    def settle(self, state: State, site: int, closed: Tensor | None = None) -> State:
        """Norm the stream before a site reads it, where norms stand on the stream."""
        if self.norm_position == "pre":
            return state
        return self.residual.handoff(state, self.norms[site], closed)

    def _normed(self, h: Read, site: int) -> Read:
        norm = self.norms[site]
        # Not whether h is a tensor: where fx traces, a stand-in is no tensor either.
        if isinstance(norm, nn.ModuleDict) and isinstance(h, Mapping):
            return {view: one(h[view]) for view, one in norm.items()}
        x = h["input"] if isinstance(h, Mapping) else h
        return x if self.norm_position == "post" else norm(x)

    def follow_units(self, trace: UnitTrace, x: Units, before: Units | None = None) -> Units:
        """Follow the stream's units, which all branches read and write.

        Args:
            trace: Of the model.
            x: The units of the stream.
            before: Those of what the first branch reads, where a stage changes the stream.
        """
        x = self.residual.follow_units(trace, x)
        for site, (branch, norm) in enumerate(zip(self.branches, self.norms, strict=True)):
            read = x if site or before is None else before
            for one in norm.values() if isinstance(norm, nn.ModuleDict) else [norm]:
                trace.through(one, read)
            x.join(trace.through(branch, read))
        return x

    def run(
        self,
        state: State,
        start: int = 0,
        extras: Sequence[tuple[Any, ...]] | None = None,
    ) -> State:
        """Run the branches from `start` on, with one tuple of extra arguments for each site."""
        for site in range(start, len(self.branches)):
            state = self.recomputed_step(state, site, () if extras is None else extras[site])
        return state

    def recomputed_step(self, state: State, site: int, extras: tuple[Any, ...] = ()) -> State:
        """Run one branch, and again in the backward pass if `grad_checkpointing` asks for it."""
        if recomputes(self):
            return self._recomputed(self.step, site, state, site, extras)
        return self.step(state, site, extras)

    def _recomputed(self, function: Callable[..., State], site: int, *given: Any) -> State:
        return recomputed(function, (self.norms[site], self.branches[site]), *given)

    def forward(
        self,
        x: Tensor,
        extras: Sequence[tuple[Any, ...]] | None = None,
        past: Past | None = None,
        *,
        through: "Callable[[Trunk, Tensor], Tensor] | None" = None,
    ) -> Tensor:
        """Open, run every branch, close.

        Args:
            x: The embedding, or what closed the stage before.
            extras: Further arguments of each branch.
            past: A decoder's memory of earlier tokens.
            through: What runs a stage of several, which starts from more than x.

        Raises:
            ValueError: fx traces a residual that it cannot follow.
        """
        if isinstance(x, torch.fx.Proxy) and not self.residual.traces_in_fx:
            raise ValueError(
                f"torch.fx cannot trace {type(self.residual).__name__}; take features by forward "
                f"hooks instead, or trace with this trunk as a leaf module, or use torch.export"
            )
        if through is not None:
            return through(self, x)
        state = self.residual.open(x, past)
        return self.residual.close(self.run(state, extras=extras))

    def _keep(self, y: Tensor, site: int) -> Tensor | None:
        rate = self.drop_path[site]
        if rate == 0.0 or not self.training:
            return None
        return _keep_mask(y, rate)

    def apply_branch_gain(self) -> None:
        """Scale fresh branch weights by what the residual asks for; call once, after the init."""
        gain = self.residual.branch_gain
        if gain == 1.0:
            return
        with torch.no_grad():
            for weight in value_weights_of(self.branches):
                weight.mul_(gain)

    def check_branches(self) -> None:
        """Refuse branches that the residual cannot train; call once, after the init.

        Raises:
            ValueError: a branch ends in a weight of zeros and the residual needs its direction.
        """
        if not self.residual.needs_nonzero_branches:
            return
        for site, branch in enumerate(self.branches):
            weight = output_weight_of(branch)
            if weight is not None and not weight.is_meta and not weight.any():
                raise ValueError(
                    f"the branch at site {site} ends in a weight of zeros, and "
                    f"{type(self.residual).__name__} cannot train from there: it needs the "
                    f"direction of the branch output; initialise that weight to small normals"
                )


@torch.fx.wrap
def _keep_mask(y: Tensor, rate: float) -> Tensor:
    """Draw which samples keep their branch, (B, 1, …), scaled so that the mean stays."""
    shape = (y.shape[0], *[1] * (y.dim() - 1))
    return y.new_empty(shape).bernoulli_(1.0 - rate) / (1.0 - rate)
