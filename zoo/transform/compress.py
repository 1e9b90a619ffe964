"""Turn a trained model into one of fixed ranks, and leave dense what would not become smaller.

    small = decompose(model, energy=0.02)                    a share of every weight's energy goes
    small = decompose(model, ranks=search_ranks(...))        see `rank_search`
    reestimate_batch_norm(small, batches)                    its statistics are of the old layers
    save_model(small, "folder")                              create_model("local-dir:folder")

It works on dense models, by singular value decomposition, and on models that a low-rank method
trained. The result is a new model with factors of fixed ranks; the model itself is left as it is.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from ...layers.lowrank import (
    Controller,
    FactoredConv2d,
    Factors,
    FixedRanks,
    Maestro,
    Scheme,
    break_even,
    merge,
    rank_for_energy,
    reparametrize,
    structures,
)
from ..axes.lowrank import apply_lowrank, make_method, merge_lowrank
from ..network import Network

__all__ = ["decompose", "densified", "factorize", "fixed_ranks", "ranks_by", "structured"]

Model = TypeVar("Model", bound=nn.Module)


def decompose(
    model: Model,
    *,
    ranks: Mapping[str, int] | None = None,
    energy: float | None = None,
    threshold: float | None = None,
    scheme: Scheme | None = None,
    targets: Sequence[str] | None = None,
    ordered: bool | None = None,
) -> Model:
    """Return a copy of a model whose weights are factors of fixed ranks.

    A weight that two factors of its rank would make no smaller is dense in the copy, and so is one
    that `ranks` does not name.

    Args:
        model: Dense or factored; left as it is.
        ranks: Rank of each weight by name; or one of the next two.
        energy: Share of Σ σ² that each weight loses at most, in [0, 1).
        threshold: Smallest σ that is kept.
        scheme: Unfolding of kernels; None is that of the model's low-rank method, or channel.
        targets: Patterns on names, as in `reparametrize`; None is what the model's method works
            on, or what `reparametrize` would choose in a dense model.
        ordered: Whether the order of the model's own components is kept, which ordered dropout
            trained; else the components are those of the singular value decomposition. None is
            true after Maestro, if it ordered them.

    Raises:
        ValueError: not exactly one of ranks, energy and threshold; a rank or a name that does not
            fit; an activation between factors, which no fixed ranks stand for.
    """
    if (ranks is not None) + (energy is not None) + (threshold is not None) != 1:
        raise ValueError("give exactly one of ranks, energy and threshold")
    controller = factorize(model, scheme=scheme, targets=targets, ordered=ordered)
    if ranks is None:
        ranks = ranks_by(controller, energy=energy, threshold=threshold)
    return fixed_ranks(model, controller, ranks)


def factorize(
    model: nn.Module,
    *,
    scheme: Scheme | None = None,
    targets: Sequence[str] | None = None,
    ordered: bool | None = None,
) -> Controller:
    """Return a copy of a model, as `controller.model`, with all components of every weight.

    The components come most important first, so that a prefix of them is a truncation: set
    `controller.factors()[name].rank` to see what the model does at lower ranks.

    Args:
        model: Dense or factored; left as it is.
        scheme: As in `decompose`.
        targets: As in `decompose`.
        ordered: As in `decompose`.

    Raises:
        ValueError: an activation between factors, or a scheme other than the one whose components
            are to be kept.
    """
    work = copy.deepcopy(model)
    found = list(structures(work))
    controller = getattr(work, "lowrank", None)
    if controller is not None:
        scheme = scheme or controller.method.scheme
        targets = targets or list(controller.targets)
        if ordered is None:
            ordered = isinstance(controller.method, Maestro) and controller.method.orders
    targets = targets or [name for name, _, _ in found] or None
    trained: set[Scheme] = {
        layer.settings.unfolding.scheme
        for _, layer, _ in found
        if isinstance(layer, FactoredConv2d)
    }
    scheme = scheme or next(iter(trained), None) or "channel"
    if ordered and trained - {scheme}:
        raise ValueError(
            f"scheme={scheme!r}: the order of components is that of scheme={trained.pop()!r}, in "
            f"which the model was trained; leave scheme out, or give ordered=False"
        )
    plain = {
        name: structure
        for name, _, structure in found
        if isinstance(structure, Factors) and structure.extra is None and structure.is_matrix
    }
    _make_dense(work)
    controller = reparametrize(work, FixedRanks(scheme=scheme), targets)
    for name, factors in controller.factors().items():
        old = plain.get(name)
        if old is None or old.shape != factors.shape:
            continue
        factors.truncate(max(1, old.rank))  # the singular values after it are rounding
        if ordered and old.rank:
            _copy(factors, old)
    return controller


def ranks_by(
    controller: Controller, *, energy: float | None = None, threshold: float | None = None
) -> dict[str, int]:
    """Return the smallest rank of each weight that keeps a share of its energy, or all σ above one.

    Args:
        controller: From `factorize`.
        energy: Share of Σ σ² that may be lost, in [0, 1).
        threshold: Smallest σ that is kept; a weight keeps one component at least.

    Raises:
        ValueError: a value out of range.
    """
    if energy is not None and not 0.0 <= energy < 1.0:
        raise ValueError(f"energy must be a share in [0, 1) to discard, got {energy}")
    if threshold is not None and not threshold >= 0.0:
        raise ValueError(f"threshold must be at least 0, got {threshold}")
    chosen = {}
    for name, factors in controller.factors().items():
        values = factors.importance()
        if energy is not None:
            chosen[name] = rank_for_energy(values, energy)
        else:
            kept = torch.nonzero(values >= (threshold or 0.0))
            chosen[name] = int(kept[-1]) + 1 if len(kept) else 1
    return chosen


@torch.no_grad()
def fixed_ranks(model: Model, controller: Controller, ranks: Mapping[str, int]) -> Model:
    """Return a copy of a model with the first components that its factorized copy has.

    Args:
        model: The model that was factorized.
        controller: From `factorize`.
        ranks: Rank of each weight by name; a weight without one, or that would not become smaller,
            is dense.

    Raises:
        ValueError: an unknown name, or a rank that the weight does not have.
    """
    components = controller.factors()
    for name, rank in ranks.items():
        if name not in components:
            raise ValueError(f"ranks: {name!r} is no target; they are {', '.join(components)}")
        if not 1 <= rank <= components[name].allocated:
            raise ValueError(
                f"ranks: {name} has ranks from 1 to {components[name].allocated}, got {rank}"
            )
    small = {n: r for n, r in ranks.items() if r < break_even(components[n].shape)}
    if not small:
        return densified(model)
    scheme = controller.method.scheme
    result, made = structured(model, "fixed_ranks", ranks=small, scheme=scheme)
    for name, factors in made.items():
        _copy(factors, components[name])
    return result


def densified(model: Model) -> Model:
    """Return a copy of a model without factors, with the same outputs.

    Raises:
        ValueError: an activation between factors.
    """
    result = copy.deepcopy(model)
    _make_dense(result)
    return result


def structured(
    model: Model, method: str, *, ranks: Mapping[str, int], **settings: Any
) -> tuple[Model, dict[str, Factors]]:
    """Return a dense copy of a model in which a method gives some weights factors, and those.

    Args:
        model: Left as it is.
        method: Name of one that takes ranks, such as `fixed_ranks`.
        ranks: Rank of each weight by name; these are the targets.
        settings: Of the method beside them.

    Raises:
        ValueError: a weight that cannot have such factors.
    """
    result = densified(model)
    spec = {"name": method, "ranks": dict(ranks), **settings}
    if isinstance(result, Network):
        made = apply_lowrank(result, {**spec, "targets": list(ranks)})
    else:
        made = reparametrize(result, make_method(spec), list(ranks))
    return result, made.factors()


def _make_dense(model: nn.Module) -> None:
    if isinstance(model, Network):
        merge_lowrank(model)
    else:
        merge(model)


@torch.no_grad()
def _copy(factors: Factors, source: Factors) -> None:
    """Take the first components of another product, its scale in the left factor."""
    factors.left.copy_(source.scale * source.left[..., : factors.rank])
    factors.right.copy_(source.right[..., : factors.rank, :])
