"""Optimisers by name: timm's, geoopt's Riemannian ones, and ours."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...layers.decay import decay_exclusions
from ...layers.learning_rate import give_learning_rates
from ...layers.lowrank.optim.matrix_groups import matrix_groups
from ...layers.lowrank.optim.projected_adamw import ProjectedAdamW
from ...layers.lowrank.optim.step_adamw import StepAdamW
from ...layers.lowrank.optim.trion import Trion
from ...zoo.registry import nearest
from ..config import OptimConfig

__all__ = ["check_optimizer", "check_sharing", "make_optimizer", "without_names"]

RIEMANNIAN = {"riemannian_adam": "RiemannianAdam", "riemannian_sgd": "RiemannianSGD"}
PROJECTED = {"projected_adamw": ProjectedAdamW, "trion": Trion}


def check_optimizer(config: OptimConfig) -> None:
    """Refuse an unknown name, one that the loop cannot serve, or numbers out of range.

    Raises:
        ValueError: naming the key, its value and what is allowed.
    """
    from timm.optim import get_optimizer_info, list_optimizers

    known = [*RIEMANNIAN, *PROJECTED, "step_adamw", *list_optimizers()]
    if config.name not in known:
        raise ValueError(f"optim.name: no optimiser {config.name!r}{nearest(config.name, known)}")
    if config.name in list_optimizers() and get_optimizer_info(config.name).second_order:
        raise ValueError(
            f"optim.name={config.name} needs second derivatives, which the trainer does not take; "
            f"choose another, such as adamw"
        )
    if not config.lr > 0:
        raise ValueError(f"optim.lr must be above 0, got {config.lr}")
    if config.weight_decay < 0:
        raise ValueError(f"optim.weight_decay must be at least 0, got {config.weight_decay}")


def check_sharing(config: OptimConfig, parallel: str) -> None:
    """Refuse an optimiser of whole matrices where the processes share out their rows.

    Raises:
        ValueError: naming both and what works.
    """
    if config.name in PROJECTED and parallel == "fsdp":
        raise ValueError(
            f"optim.name={config.name} projects whole matrices, which trainer.parallel=fsdp cuts "
            f"into pieces; use trainer.parallel=ddp, or optim=adamw"
        )


def without_names(config: OptimConfig) -> OptimConfig:
    """Return the config without what names the parameters of one model."""
    options = {key: value for key, value in config.options.items() if key != "unprojected"}
    return dataclasses.replace(config, options=options)


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimiser, without weight decay on vectors and on what a layer marks so.

    What a layer marks with a learning rate of its own gets it.

    Every group keeps its `initial_lr`, the base that a schedule scales.

    Raises:
        ValueError: an option that the optimiser does not take, parameters on a manifold, which it
            would leave without a word, or factors where it projects matrices.
    """
    from timm.optim import create_optimizer_v2, param_groups_weight_decay

    options: dict[str, Any] = dict(config.options)
    manifolds = [name for name, p in model.named_parameters() if hasattr(p, "manifold")]
    if manifolds and config.name not in RIEMANNIAN:
        raise ValueError(
            f"optim.name={config.name} would take {manifolds[0]} off its manifold; use "
            f"optim=riemannian_adam or optim=riemannian_sgd"
        )
    projected: list[dict[str, Any]] = []
    if config.name in PROJECTED:
        left = options.pop("unprojected", None)
        left = [left] if isinstance(left, str) else left
        projected = matrix_groups(model, config.weight_decay, left)
    try:
        if config.name in PROJECTED:
            optimizer = PROJECTED[config.name](projected, lr=config.lr, **options)
        elif config.name in RIEMANNIAN or config.name == "step_adamw":
            groups = param_groups_weight_decay(
                model, config.weight_decay, no_weight_decay_list=decay_exclusions(model)
            )
            build = StepAdamW if config.name == "step_adamw" else _riemannian(config.name)
            optimizer = build(groups, lr=config.lr, **options)
        else:
            optimizer = create_optimizer_v2(
                model, config.name, lr=config.lr, weight_decay=config.weight_decay, **options
            )
    except TypeError as error:
        raise ValueError(f"optim.options: {config.name} does not take them: {error}") from error
    except ValueError as error:
        raise ValueError(f"optim.options of {config.name}: {error}; leave it out") from error
    except (AssertionError, ImportError) as error:  # of another package, or of CUDA
        raise ValueError(
            f"optim.name={config.name} cannot be used here: {error}; choose another, such as adamw"
        ) from error
    give_learning_rates(optimizer, model)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return optimizer


def _riemannian(name: str) -> Callable[..., torch.optim.Optimizer]:
    """Return geoopt's optimiser, with a count of steps that loading does not round."""
    from ...layers.hyperbolic.geoopt_bridge.quiet_geoopt import geoopt

    if name != "riemannian_adam":
        return getattr(geoopt.optim, RIEMANNIAN[name])

    class RiemannianAdam(geoopt.optim.RiemannianAdam):
        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict(state_dict)
            for state in self.state.values():
                # torch's Adam makes it a float32 tensor, and a resumed run would differ in bits.
                state["step"] = int(state["step"])

    return RiemannianAdam
