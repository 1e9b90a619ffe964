"""Optimisers by name: timm's, and geoopt's Riemannian ones."""

from typing import Any

import torch
from torch import nn

from ..layers.decay import decay_exclusions
from ..zoo.registry import nearest
from .config import OptimConfig

__all__ = ["check_optimizer", "make_optimizer"]

RIEMANNIAN = {"riemannian_adam": "RiemannianAdam", "riemannian_sgd": "RiemannianSGD"}


def check_optimizer(config: OptimConfig) -> None:
    """Refuse an unknown name or numbers out of range.

    Raises:
        ValueError: naming the key, its value and what is allowed.
    """
    from timm.optim import list_optimizers

    known = [*RIEMANNIAN, *list_optimizers()]
    if config.name not in known:
        raise ValueError(f"optim.name: no optimiser {config.name!r}{nearest(config.name, known)}")
    if not config.lr > 0:
        raise ValueError(f"optim.lr must be above 0, got {config.lr}")
    if config.weight_decay < 0:
        raise ValueError(f"optim.weight_decay must be at least 0, got {config.weight_decay}")


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimiser, without weight decay on vectors and on what a layer marks.

    Every group keeps its `initial_lr`, the base that a schedule scales.

    Raises:
        ValueError: an option that the optimiser does not take.
    """
    from timm.optim import create_optimizer_v2, param_groups_weight_decay

    options: dict[str, Any] = dict(config.options)
    try:
        if config.name in RIEMANNIAN:
            import geoopt

            groups = param_groups_weight_decay(
                model, config.weight_decay, no_weight_decay_list=decay_exclusions(model)
            )
            build = getattr(geoopt.optim, RIEMANNIAN[config.name])
            optimizer = build(groups, lr=config.lr, **options)
        else:
            optimizer = create_optimizer_v2(
                model, config.name, lr=config.lr, weight_decay=config.weight_decay, **options
            )
    except TypeError as error:
        raise ValueError(f"optim.options: {config.name} does not take them: {error}") from error
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return optimizer
