"""The zoo's backbones: how each is composed of a stem, trunks, pools and a norm, up to its head."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from ....layers.lipschitz.proof.norms import gamma
from ...backbones.gpt import GPT
from ...backbones.lipschitz_mlp import LipschitzMLP
from ...backbones.lipschitz_resnet import LipschitzResNet
from ...backbones.mlp import MLP
from ...backbones.poincare_embedding import NodeEmbedding
from ...backbones.poincare_mlp import PoincareMLP
from ...backbones.poincare_resnet import PoincareResNet
from ...backbones.resnet import ResNet
from ...backbones.self_attention import CausalAttention, SelfAttention
from ...backbones.vit import VisionTransformer
from ...network import Network
from .calculus import Bound, Value, Walk, rule
from .elementwise import slopes
from .linear_chain import chain_of
from .pools import mean_bound
from .trunk_walk import through_stages, through_trunk

__all__ = ["BACKBONES", "Backbone", "backbone", "body_and_head", "whole_chain"]

Backbone = Callable[[Walk, Any, Value], Value]
"""(walk, network, input) -> what the head reads."""

BACKBONES: dict[type[Network], Backbone] = {}
METHODS = ("forward", "forward_features", "forward_head", "pool")

ATTENTION = (
    "dot-product attention has no finite Lipschitz constant on all inputs (Kim et al. 2021, "
)
ATTENTION += "arXiv:2006.04710), and the calculus does not track what range they lie in"
LOOK_UP = "reads indices, between which there is no distance to be Lipschitz in"


def backbone(*kinds: type[Network]) -> Callable[[Backbone], Backbone]:
    """Decorate the rule of some backbones; it also serves subclasses that compute the same."""

    def decorate(function: Backbone) -> Backbone:
        for kind in kinds:
            BACKBONES[kind] = function
        return function

    return decorate


def body_and_head(walk: Walk, model: nn.Module, x: Value) -> tuple[Value, nn.Module | None, str]:
    """Bound a network up to its head.

    Returns:
        What the head reads, the head (None where the model has no last layer of its own), its name.
    """
    if isinstance(model, Network):
        return _network(walk, model, x), model.head, "head"
    if type(model).forward is nn.Sequential.forward and isinstance(model, nn.Sequential):
        parts = list(model.named_children())
        if len(parts) > 1:
            name, head = parts[-1]
            return _chain(walk, parts[:-1], x), head, name
    return x, model, ""


def whole_chain(walk: Walk, model: nn.Module) -> float:
    """Bound a plain dense network in one piece, by the matrix inequality; ∞ for another."""
    plain = type(model).forward is nn.Sequential.forward and "forward" not in vars(model)
    layers = [m for m in model.modules() if not isinstance(m, nn.Sequential)]
    simple = all(type(m) is nn.Linear or slopes(m) is not None for m in layers)
    if not (plain and simple) or walk.method == "product" or walk.hooked:
        return math.inf
    chain = chain_of(walk, [("", model)])
    return math.inf if chain.dense() is None else chain.bound(walk)[0]


def _network(walk: Walk, model: Network, x: Value) -> Value:
    kind = type(model)
    for base in kind.__mro__:
        if base in BACKBONES:
            same = all(getattr(kind, m) is getattr(base, m) for m in METHODS)
            if same and not set(METHODS) & set(vars(model)) and model not in walk.hooked:
                return BACKBONES[base](walk, model, x)
            break
    why = f"{kind.__name__} is a network that the calculus has no rule for"
    return x.through(walk.refuse("the model", why), math.inf)


def _chain(walk: Walk, parts: list[tuple[str, nn.Module]], x: Value) -> Value:
    """Bound parts in order; runs of layers that fold into one another are bounded together."""
    chain = chain_of(walk, parts)
    if not chain.pieces:
        return x
    lipschitz, method = chain.bound(walk)
    if any(not isinstance(piece, Bound) for piece in chain.pieces):
        walk.note(parts[0][0] if len(parts) == 1 else f"{parts[0][0]} … {parts[-1][0]}",
                  lipschitz, method)  # fmt: skip
    returned = max(walk.sight(parts[-1][1]).returned, 0.0)
    return x.through(Bound(lipschitz, chain.error), returned)


def _mean(walk: Walk, norm: nn.Module, x: Value, skipped: int = 0, channels_last: bool = False):
    """Bound the mean over all places of a feature map."""
    shapes = walk.sight(norm).outputs
    if not shapes:
        return x
    count = min((shape[0] - skipped) if channels_last else math.prod(shape[1:]) for shape in shapes)
    bound = mean_bound(count)
    return x.through(Bound(bound, gamma(2 * count + 8) * x.size), x.size)


@backbone(MLP, PoincareMLP)
def mlp(walk: Walk, model: Any, x: Value) -> Value:
    """Stem, trunk, norm."""
    x = _chain(walk, [("stem", model.stem)], x)
    x = through_trunk(walk, model.trunk, "trunk", x)
    return _chain(walk, [("norm", model.norm)], x)


@backbone(LipschitzMLP)
def lipschitz_mlp(walk: Walk, model: LipschitzMLP, x: Value) -> Value:
    """Stem and blocks, each with a constant of its own."""
    return _chain(walk, [("stem", model.stem), ("blocks", model.blocks)], x)


@backbone(LipschitzResNet)
def lipschitz_resnet(walk: Walk, model: LipschitzResNet, x: Value) -> Value:
    """Stem, stages and pool, each with a constant of its own."""
    parts = [("stem", model.stem), ("stages", model.stages), ("global_pool", model.global_pool)]
    return _chain(walk, parts, x)


@backbone(ResNet)
def resnet(walk: Walk, model: ResNet, x: Value) -> Value:
    """Stem, stages, norm and the mean over pixels."""
    x = _chain(walk, [("stem", model.stem)], x)
    x = through_stages(walk, model.shortcuts, model.stages, x)
    x = _chain(walk, [("norm", model.norm)], x)
    return _mean(walk, model.norm, x)


@backbone(PoincareResNet)
def poincare_resnet(walk: Walk, model: PoincareResNet, x: Value) -> Value:
    """Stem, stages, activation and pool, of either geometry."""
    x = _chain(walk, [("stem", model.stem)], x)
    x = through_stages(walk, model.shortcuts, model.stages, x)
    return _chain(walk, [("norm", model.norm), ("global_pool", model.global_pool)], x)


@rule("timm.layers.mlp.Mlp")
def timm_mlp(walk: Walk, module: Any, name: str) -> Bound:
    """Bound the layers that timm's forward runs, in its order."""
    names = ("fc1", "act", "drop1", "norm", "fc2", "drop2")
    chain = chain_of(walk, [(f"{name}.{n}", getattr(module, n)) for n in names])
    return Bound(chain.bound(walk)[0], chain.error)


@backbone(VisionTransformer)
def vision_transformer(walk: Walk, model: VisionTransformer, x: Value) -> Value:
    """Patches, trunk, norm and pool; positions and the class token are constants."""
    x = _chain(walk, [("patch_embed.proj", model.patch_embed.proj)], x)
    x = through_trunk(walk, model.trunk, "trunk", x)
    x = _chain(walk, [("norm", model.norm)], x)
    if model.global_pool == "token":
        return x
    return _mean(walk, model.norm, x, model.prefix.shape[1], channels_last=True)


@backbone(GPT)
def gpt(walk: Walk, model: GPT, x: Value) -> Value:
    """Refuse: its input is a sequence of token ids."""
    return x.through(walk.refuse("embedding", f"Embedding {LOOK_UP}"), math.inf)


@backbone(NodeEmbedding)
def nodes(walk: Walk, model: NodeEmbedding, x: Value) -> Value:
    """Refuse: its input is a list of nodes."""
    kind = type(model.embedding).__name__
    return x.through(walk.refuse("embedding", f"{kind} {LOOK_UP}"), math.inf)


@rule(SelfAttention, CausalAttention)
def attention(walk: Walk, module: nn.Module, name: str) -> Bound:
    """Refuse."""
    return walk.refuse(name, ATTENTION)


@rule(nn.MultiheadAttention)
def torch_attention(walk: Walk, module: nn.Module, name: str) -> Bound:
    """Refuse."""
    return walk.refuse(name, ATTENTION)


@rule(nn.Embedding)
def embedding(walk: Walk, module: nn.Module, name: str) -> Bound:
    """Refuse."""
    return walk.refuse(name, f"Embedding {LOOK_UP}")
