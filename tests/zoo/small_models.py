"""Models and inputs for the laws of the zoo, and which models a law runs on.

Every registered model is built (`ALL`). Laws run on the smallest of each kind (`KINDS`); those that
cost more, on the smallest of each class (`CLASSES`). A law that depth or width may break names the
further sizes it runs on in `make slow`.
"""

import functools
from typing import Any

import torch
from archzoo.layers.residual import Site
from archzoo.zoo import create_model, list_models, model_info
from archzoo.zoo.axes.residuals import make_residual, residuals
from archzoo.zoo.network import image_sides
from torch import Tensor, nn

# Token models run at this length: their context, of up to 1,024, would only cost time.
TOKENS = 12
CANDIDATES = 4  # of a node

ALL = list_models()
# What has branches over a residual, and what has a classifier; a table of points has neither.
BACKBONES = [name for name in ALL if "residual" in model_info(name).options]
HEADED = [name for name in ALL if "num_classes" in model_info(name).options]
NANO = [name for name in list_models("*_nano") if name in BACKBONES]
# Residuals that mix an attention's keys and values need one; all others run in every backbone.
EVERYWHERE = [
    name
    for name in residuals.names()
    if not make_residual(name, 8, [Site("attention", 0)]).mixes_heads
]


def fits(name: str, residual: str) -> bool:
    """Whether a model has the branches that a residual needs."""
    return residual in EVERYWHERE or "num_heads" in model_info(name).options


def fitting(names: list[str]) -> list[tuple[str, str]]:
    """Return every pair of a model and a residual that fits it."""
    return [(name, one) for name in names for one in residuals.names() if fits(name, one)]


def on_meta(name: str, **options: Any) -> Any:
    """Return a model without memory for weights."""
    with torch.device("meta"):
        return create_model(name, **options)


@functools.cache
def size_and_class(name: str) -> tuple[int, type]:
    """Return the number of parameters of a model, and its class."""
    model = on_meta(name)
    return sum(p.numel() for p in model.parameters()), type(model)


def _choices(name: str) -> tuple[str, ...]:
    """Return the choices by name that make a model: residual, geometry, block, …"""
    defaults = [option.default for option in model_info(name).options.values()]
    return tuple(default for default in defaults if isinstance(default, str))


SMALL = [name for name in ALL if size_and_class(name)[0] < 3_000_000]
_FALLING = sorted(SMALL, key=lambda name: size_and_class(name)[0], reverse=True)
KINDS = list({(size_and_class(name)[1], _choices(name)): name for name in _FALLING}.values())
CLASSES = list({size_and_class(name)[1]: name for name in _FALLING}.values())
# Those whose branches are added to a stream of vectors behind a norm of their own.
ADDITIVE = [name for name in NANO if model_info(name).options["residual"].default == "add"]

TINY: dict[str, dict[str, Any]] = {
    "mlp_nano": {"width": 8, "depth": 2},
    "vit_nano": {"width": 16, "depth": 2, "num_heads": 2},
    "gpt_nano": {"width": 16, "depth": 2, "num_heads": 2, "context_length": TOKENS},
    "encoder_nano": {"width": 16, "depth": 2, "num_heads": 2, "context_length": TOKENS},
    "resnet_nano": {"widths": (4, 6), "depths": (2, 2), "img_size": 12},
    "poincare_resnet_nano": {"widths": (4, 6), "depths": (2, 2), "img_size": 12},
}
"""Keywords that make some of the smallest smaller still, for laws of many cases."""


def build(name: str, seed: int = 0, **options: Any) -> Any:
    """Return a model whose parameters follow from the seed, and whose graph is a ring."""
    entry = model_info(name)
    if entry.kind == "graph":
        nodes = options.get("num_nodes", entry.options["num_nodes"].default)
        options = {"num_edges": nodes, **options}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = create_model(name, **options)
    if entry.kind == "graph":
        around = torch.arange(model.num_nodes)
        model.follow_graph(torch.stack([around, (around + 1) % model.num_nodes], 1))
    return model


def example_shape(name: str, **options: Any) -> tuple[int, ...]:
    """Return the shape of one sample, read off the options."""
    entry = model_info(name)
    value = {key: option.default for key, option in entry.options.items()} | options
    if entry.kind == "image":
        return (value["in_chans"], *image_sides(value["img_size"]))
    if entry.kind == "nodes":
        return (1 + CANDIDATES,)
    if entry.kind == "graph":
        return ()
    return (value["in_features"] if entry.kind == "features" else TOKENS,)


def example(
    name: str,
    batch: int = 2,
    *,
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Tensor:
    """Return inputs for a model built with these options: ids, or standard normals."""
    g = torch.Generator().manual_seed(seed)
    shape = (batch, *example_shape(name, **options))
    counts = {
        **dict.fromkeys(("tokens", "sequence"), "vocab_size"),
        **dict.fromkeys(("nodes", "graph"), "num_nodes"),
    }
    count = counts.get(model_info(name).kind)
    if count is not None:
        ids = options.get(count, model_info(name).options[count].default)
        return torch.randint(ids, shape, generator=g).to(device)
    return torch.randn(shape, generator=g).to(device, dtype)


def trained(model: nn.Module, seed: int = 0) -> nn.Module:
    """Add noise to every parameter and running mean, so that no law holds by a fresh zero."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=g).to(parameter.dtype)
            parameter += 0.1 * noise
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                mean = torch.randn(module.running_mean.shape, generator=g)
                module.running_mean += 0.1 * mean.to(module.running_mean.dtype)
    return model


def settled(model: nn.Module, x: Tensor) -> nn.Module:
    """Give the norms the running statistics of one batch, as training gives those of many.

    A deep network of other statistics runs into the range of its space, where all samples are one.
    """
    norms = [m for m in model.modules() if getattr(m, "running_mean", None) is not None]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return model


def loss_of(logits: Tensor) -> Tensor:
    """Return a scalar that depends on every logit and on no symmetry of them."""
    weights = torch.linspace(-1.0, 2.0, logits.numel(), dtype=torch.float64, device=logits.device)
    return (logits * weights.to(logits.dtype).view(logits.shape)).sum()
