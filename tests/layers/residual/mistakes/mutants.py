"""Nine mistakes, each made in the trial and in mechanisms of the registry."""

from typing import Any

import torch
from archzoo.layers.residual import (
    Add,
    AttnRes,
    BlockAttnRes,
    DeepCrossAttention,
    DeepNorm,
    Delta,
    DenseFormer,
    DepthSWA,
    ElcBert,
    GyroAttnRes,
    Highway,
    HyperConnections,
    Mobius,
    MuddFormer,
    Parallel,
    Residual,
    Scaled,
)
from archzoo.layers.residual.depth_mixing.denseformer import DenseState
from archzoo.layers.residual.depth_mixing.muddformer import MuddState

from .changes import (
    along_the_last_axis,
    closing,
    early_group,
    filled,
    forgetting,
    ignoring_the_mask,
    in_place,
    minus_one,
    no_ahead,
    of_site,
    one_less,
    only_in_rows,
    plus_one,
    setting,
    turned_over,
    unmarked,
    with_verbs,
    without_an_embedding,
    without_the_first,
    without_the_first_output,
    without_the_oldest_state,
    without_the_stack_s_first,
)
from .trial import Trial

__all__ = ["MUTANTS"]

LAYERED = {"learned": True, "per_channel": True}
Mutant = tuple[str | None, dict[str, Any], type[Residual]]

# The mistake, and where it is made: the name whose formula should hold, options, and the class.
MUTANTS: dict[str, list[Mutant]] = {
    "window off by one": [
        (None, {}, setting(Trial, window=minus_one)),
        (None, {}, setting(Trial, window=plus_one)),
        ("attnres", {"window": 2}, setting(AttnRes, window=plus_one)),
        ("attnres", {"window": 2}, setting(AttnRes, window=minus_one)),
        ("block_attnres", {"window": 1, "block_size": 2}, setting(BlockAttnRes, window=plus_one)),
        ("gyro_attnres", {"window": 2}, setting(GyroAttnRes, window=plus_one)),
        ("depth_swa", {}, setting(DepthSWA, window=plus_one)),
        ("dca", {"keep": 2}, with_verbs(DeepCrossAttention, write=one_less)),
        ("parallel", {"group": 3}, with_verbs(Parallel, write=early_group)),
    ],
    "gate order": [
        (None, {}, of_site(Trial, "mixture", 1)),
        ("attnres", {}, turned_over(AttnRes)),
        ("scaled", LAYERED, turned_over(Scaled)),
        ("highway", {}, of_site(Highway, "gate", 1)),
        ("delta", {}, of_site(Delta, "_heads", 1)),
        ("hyper_connections", {}, of_site(HyperConnections, "mixing", 1)),
        (
            "highway",
            {},
            with_verbs(Highway, gate=lambda self, x, site: 1.0 - Highway.gate(self, x, site)),
        ),
    ],
    "close without gates": [
        (None, {}, closing(Trial, lambda state: sum(state))),
        ("attnres", {}, closing(AttnRes, lambda s: torch.stack(s.values).mean(0))),
        ("block_attnres", {}, closing(BlockAttnRes, lambda s: torch.stack(s.values).mean(0))),
        ("delta", {"value_channels": 4}, closing(Delta, lambda s: s.columns.mean(-2))),
        ("muddformer", {}, closing(MuddFormer, lambda s: s.x)),
        ("dca", {}, closing(DeepCrossAttention, lambda s: sum(s.sources))),
        ("elc_bert", {"flavour": "weighted_output"}, closing(ElcBert, lambda s: s.outputs[-1])),
    ],
    "dropped drop-path": [
        (f, {}, ignoring_the_mask(base))
        for f, base in [
            (None, Trial),
            ("add", Add),
            ("attnres", AttnRes),
            ("block_attnres", BlockAttnRes),
            ("delta", Delta),
            ("highway", Highway),
            ("hyper_connections", HyperConnections),
            ("mobius", Mobius),
        ]
    ],
    "in-place write": [
        (None, {}, in_place(Trial, lambda state: state[-1])),
        ("add", {}, in_place(Add, lambda state: state[0])),
        ("scaled", {}, in_place(Scaled, lambda state: state[0])),
        ("highway", {}, in_place(Highway, lambda state: state[0])),
        ("delta", {}, in_place(Delta, lambda state: state.columns)),
        (
            "block_attnres",
            {},
            with_verbs(BlockAttnRes, join=lambda self, total, y: total.add_(y)),
        ),
        (
            "hyper_connections",
            {},
            with_verbs(
                HyperConnections,
                write=lambda self, s, i, y, c: HyperConnections.write(
                    self, s, i, y if c.keep is None else y.mul_(c.keep), c._replace(keep=None)
                ),
            ),
        ),
    ],
    "channels-last only": [
        (None, {}, along_the_last_axis(Trial)),
        ("scaled", LAYERED, along_the_last_axis(Scaled)),
        ("attnres", {}, with_verbs(along_the_last_axis(AttnRes), **no_ahead)),
        ("highway", {}, along_the_last_axis(Highway)),
        *[
            (f, {}, only_in_rows(base))
            for f, base in [(None, Trial), ("add", Add), ("delta", Delta), ("attnres", AttnRes)]
        ],
    ],
    "wrong decay": [
        (None, {}, unmarked(Trial)),
        ("scaled", LAYERED, unmarked(Scaled)),
        ("hyper_connections", {}, unmarked(HyperConnections)),
        ("scaled", {}, setting(Scaled, initial=lambda value: value**2)),
        ("deepnorm", {}, setting(DeepNorm, alpha=lambda value: value**2)),
        ("parallel", {"exponent": 0.5}, setting(Parallel, initial=lambda value: value**2)),
        ("delta", {}, setting(Delta, eps=lambda eps: 0.1)),
        (
            "highway",
            {},
            with_verbs(Highway, gate=lambda self, x, site: 0.5 * Highway.gate(self, x, site)),
        ),
    ],
    "lost oldest source": [
        (None, {}, with_verbs(Trial, mixture=without_the_first)),
        ("attnres", {}, with_verbs(AttnRes, mixture=forgetting, **no_ahead)),
        ("block_attnres", {}, with_verbs(BlockAttnRes, mixture=forgetting, **no_ahead)),
        ("depth_swa", {"window": None}, with_verbs(DepthSWA, read=without_the_oldest_state)),
        ("dca", {}, with_verbs(DeepCrossAttention, read=without_the_stack_s_first)),
        ("muddformer", {}, with_verbs(MuddFormer, open=without_an_embedding(MuddState))),
        ("denseformer", {}, with_verbs(DenseFormer, open=without_an_embedding(DenseState))),
        ("elc_bert", {}, with_verbs(ElcBert, _mixture=without_the_first_output)),
    ],
    "wrong start": [
        (None, {}, filled(Trial, gate=lambda p: torch.linspace(0.5, 1.5, p.shape[-1]))),
        ("attnres", {}, filled(AttnRes, query=lambda p: 1.0)),
        ("attnres", {}, filled(AttnRes, gain=lambda p: 0.5)),
        ("scaled", LAYERED, filled(Scaled, scale=lambda p: 1.0)),
        ("highway", {}, filled(Highway, bias=lambda p: 2.0)),
        ("delta", {}, filled(Delta, gate_bias=lambda p: 1.0)),
        ("hyper_connections", {}, filled(HyperConnections, static=lambda p: p.roll(1, 0))),
        ("hyper_connections", {}, filled(HyperConnections, static=lambda p: 0.25)),
    ],
}
