"""A smaller model out of a trained one, by decompositions that look at data.

    small = compress(model, "feature_mimicking", budget=0.5, batches=batches)
    small = compress(model, "eora", base="prune:2:4", rank=16, batches=batches)

Ranks are chosen once, for a budget of parameters. Factors are then made layer by layer in the order
in which the layers run. With `sequential` the moments of a layer are those of what it sees behind
the layers that were made smaller before it, as in EoRA and SVD-LLM. Kernels unfold by `channel`,
the one scheme that is a linear map of patches.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from ...layers.lowrank import (
    ALLOCATIONS,
    CASES,
    Controller,
    forward_batch,
    reestimate_batch_norm,
    structures,
)
from .calibration_pass import Directions, running_order
from .coarse_base import coarse_weight, compensated
from .compress import densified, factorize
from .compression_report import CompressionReport
from .layer_by_layer import LayerByLayer

__all__ = ["compress"]

Model = TypeVar("Model", bound=nn.Module)
Forward = Callable[[nn.Module, Any], Any]
Sensitivity = Literal["local", "output", "fisher"]
SENSITIVITIES: tuple[Sensitivity, ...] = get_args(Sensitivity)
COSTED = ("dp", "threshold")  # the allocations that compare errors of different layers


def compress(
    model: Model,
    case: str = "feature_mimicking",
    *,
    budget: float | None = None,
    allocation: str = "dp",
    batches: Iterable[Any] | None = None,
    sequential: bool = True,
    sensitivity: Sensitivity | None = None,
    targets: Sequence[str] | None = None,
    base: str | nn.Module | None = None,
    rank: int | None = None,
    batch_norm: bool = True,
    forward: Forward = forward_batch,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    seed: int = 0,
    report: Callable[[CompressionReport], object] | None = None,
) -> Model:
    """Return a smaller copy of a model: factors of fixed ranks, or low-rank paths beside a base.

    Args:
        model: Of the zoo, of timm, or any other; dense or factored, and left as it is.
        case: A key of `CASES`; or "eora" with a base, where "svd" is the compensation without data.
        budget: Parameters of the result over those of the dense model, in (0, 1].
        allocation: A key of `ALLOCATIONS`.
        batches: Some hundred samples, as `forward` takes them; only "svd" does without.
        sequential: Whether a layer's moments are taken behind the layers that are smaller already.
        sensitivity: What the errors of different layers are compared by, for "dp" and "threshold".
            "local": the squared error of each layer's outputs, or of its weight in the case "svd";
            "output": that of the model's outputs, measured at up to 24 ranks of each layer;
            "fisher": the first order of it, from the error of each layer's outputs and a backward
            pass a batch. None is "fisher" where there are batches, else "local".
        targets: Patterns on names of layers, as in `reparametrize`; None takes all that become
            smaller but the first and the last.
        base: What "eora" compensates: "prune:SHARE", "prune:2:4", "quant:BITS" (or
            "quant:BITS:BLOCK"), "ranks:SHARE" of each full rank; or a compressed copy of the model
            with layers of the same names.
        rank: Of each path beside the base; a layer of a lower full rank gets that.
        batch_norm: Whether running statistics are estimated anew over the batches, which counts
            every batch alike.
        forward: Calls the model on a batch, on the right device.
        loss: Returns the loss of a batch for "fwsvd" and "fisher"; None takes random directions of
            the outputs, whose squared gradients are the Fisher information of outputs with noise.
        seed: Of these directions.
        report: Called with what was found on the way.

    Returns:
        A model that `save_model` writes, if the given one is of the zoo.

    Raises:
        ValueError: a setting out of its range or without effect, no batches, a budget that no ranks
            meet, targets that are tied or absent.
    """
    data = list(batches) if batches is not None else []
    if sensitivity is None:
        sensitivity = "fisher" if data and allocation in COSTED and base is None else "local"
    _check(case, budget, allocation, sensitivity, base, rank)
    if not data and (case != "svd" or sensitivity != "local"):
        raise ValueError(
            f"case={case!r} with sensitivity={sensitivity!r} needs batches=, some hundred samples "
            f"in a list; only 'svd' with 'local' does without"
        )
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and not weight.is_floating_point():
            raise ValueError(
                f"{name} holds {weight.dtype}, which has no factors; compress the model before it "
                f"is quantised"
            )
    controller = factorize(model, scheme="channel", targets=targets, ordered=False)
    names = _layers_of(controller, case, targets)
    dense = densified(model)
    directions = Directions(forward, seed) if loss is None else loss
    if base is not None:
        assert rank is not None
        order = running_order(dense, list(names), data, forward)
        plain = case == "svd"
        result, inputs = compensated(
            model, dense, base, names, rank, data, forward, order, plain=plain
        )
        curves = {}
    else:
        assert budget is not None
        work = LayerByLayer(case, dense, names, data, forward, directions)
        ranks = work.ranks(work.costs(sensitivity, loss, seed), budget, allocation)
        result = work.made(model, ranks, sequential)
        inputs = {name: moments.count for name, moments in work.moments.items()}
        curves = work.measured
    if batch_norm and data and any(structures(result)):
        reestimate_batch_norm(result, data, forward=forward)
    if report is not None:
        full = {name: min(shape[-2:]) for name, shape in names.items()}
        report(CompressionReport(sensitivity, full, inputs, curves))
    return result


def _check(
    case: str,
    budget: float | None,
    allocation: str,
    sensitivity: str,
    base: str | nn.Module | None,
    rank: int | None,
) -> None:
    cases = ["svd", "eora"] if base is not None else sorted(CASES)
    if case == "eora" and base is None:
        raise ValueError(
            "case='eora' compensates a compressed model: give base=, such as 'prune:2:4', and rank="
        )
    if case not in cases:
        beside = " beside base=" if base is not None else ""
        raise ValueError(f"case must be one of {cases}{beside}, got {case!r}")
    if allocation not in ALLOCATIONS:
        raise ValueError(f"allocation must be one of {sorted(ALLOCATIONS)}, got {allocation!r}")
    if sensitivity not in SENSITIVITIES:
        raise ValueError(f"sensitivity must be one of {SENSITIVITIES}, got {sensitivity!r}")
    if base is not None:
        if isinstance(base, str):
            coarse_weight(torch.eye(4), base)  # refuses what is no base before anything is computed
        if budget is not None:
            raise ValueError(f"budget={budget:g} chooses ranks, and a base has rank=; leave it out")
        if rank is None or isinstance(rank, bool) or rank < 1:
            raise ValueError(f"rank must be at least 1 beside base=, got {rank}")
        return
    if rank is not None:
        raise ValueError(f"rank={rank} is that of paths beside base=; give budget= instead")
    if budget is None or not 0.0 < budget <= 1.0:
        raise ValueError(f"budget must be a share of the parameters in (0, 1], got {budget}")
    if sensitivity != "local" and allocation not in COSTED:
        raise ValueError(
            f"allocation={allocation!r} compares no errors, so sensitivity={sensitivity!r} would "
            f"have no effect; use one of {COSTED}, or sensitivity='local'"
        )


def _layers_of(
    controller: Controller, case: str, targets: Sequence[str] | None
) -> dict[str, tuple[int, ...]]:
    """Name the layers that get factors, with the shapes of their matrices.

    Raises:
        ValueError: a raw matrix that is a target by name, or no layer at all.
    """
    factors = controller.factors()
    for name in factors:
        if ":" in name and name in (targets or ()):
            raise ValueError(
                f"{name} is a raw matrix, whose inputs nobody sees; name layers as targets, or use "
                f"decompose"
            )
    found = {name: f.shape for name, f in factors.items() if ":" not in name}
    if not found:
        raise ValueError(
            f"no linear layer or convolution of {type(controller.model).__name__} can become "
            f"smaller in the case {case!r}"
        )
    return found
