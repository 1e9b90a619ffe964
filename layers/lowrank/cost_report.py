"""What weights are made of and what they cost: ranks, parameters, multiplications and bytes."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..modes import evaluating
from ..saved_bytes import saved_bytes
from .maths.decompose import refuse_infinite
from .method import break_even
from .reparametrize import structures
from .weights.factored_layers import FactoredConv2d
from .weights.factors import Factors
from .weights.structure import WeightStructure

__all__ = ["MemoryReport", "WeightReport", "lowrank_report", "memory_report", "spectra"]


@dataclass(frozen=True)
class WeightReport:
    """One weight.

    Attributes:
        name: Of its layer, or `module:parameter`.
        structure: Class of the structure, or `dense`.
        shape: (..., rows, columns) of the matrix.
        scheme: Unfolding of a kernel; empty for a matrix.
        rank: Active components, or None where that is no property of the structure.
        full_rank: min(rows, columns).
        break_even: Rank below which two factors are smaller than the matrix.
        parameters: Numbers stored, trained or not, without indices and bias.
        trained: Those of them that are trained.
        indices: Integers stored.
        dense_parameters: Numbers of the matrix.
        macs: Multiply-accumulates of the layer on the sample, or None without one.
        dense_macs: Those of the layer with the matrix itself.
    """

    name: str
    structure: str
    shape: tuple[int, ...]
    scheme: str
    rank: int | None
    full_rank: int
    break_even: float
    parameters: int
    trained: int
    indices: int
    dense_parameters: int
    macs: int | None
    dense_macs: int | None


@dataclass(frozen=True)
class MemoryReport:
    """Numbers that a model stores for a training step, and their bytes.

    Attributes:
        parameters: All stored numbers, tied ones once.
        trained: Those with a gradient.
        indices: Integers that structures store.
        weight_bytes: Of all parameters.
        gradient_bytes: Of the gradients, in the dtype of the weights.
        optimizer_bytes: Of the optimiser's state.
        index_bytes: Of the indices.
        activation_bytes: What autograd keeps for the backward pass of the sample, without the
            parameters; None without a sample.
    """

    parameters: int
    trained: int
    indices: int
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    index_bytes: int
    activation_bytes: int | None

    @property
    def estimate(self) -> int:
        """Weights, optimiser and indices: what the literature calls estimated memory."""
        return self.weight_bytes + self.optimizer_bytes + self.index_bytes


def lowrank_report(model: nn.Module, sample: Tensor | None = None) -> list[WeightReport]:
    """Report every weight of a model that has a structure, in the order of its modules.

    Args:
        model: Reparametrised; its mode is restored, its buffers are not touched.
        sample: An input of the model; with it, multiply-accumulates are counted on a forward pass.
    """
    found = list(structures(model))
    macs: dict[str, int] = {}
    dense_macs: dict[str, int] = {}
    if sample is not None:
        macs, dense_macs = _macs(model, sample)
    rows = []
    for name, module, structure in found:
        path = name.partition(":")[0]
        shape = structure.shape
        scheme = module.settings.unfolding.scheme if isinstance(module, FactoredConv2d) else ""
        rows.append(
            WeightReport(
                name,
                type(structure).__name__,
                shape,
                scheme,
                structure.rank if isinstance(structure, Factors) else None,
                min(shape[-2:]),
                break_even(shape),
                structure.parameter_count(),
                sum(p.numel() for p in structure.parameters() if p.requires_grad),
                _indices(structure),
                torch.Size(shape).numel(),
                macs.get(path),
                dense_macs.get(path),
            )
        )
    return rows


def memory_report(
    model: nn.Module,
    sample: Tensor | None = None,
    *,
    weight_bytes: int | None = None,
    moment_bytes: int | None = None,
    moments: int = 2,
    index_bytes: int | None = None,
    projected_rank: int | None = None,
    projected: Sequence[str] = (),
) -> MemoryReport:
    """Count what a training step of a model stores.

    The literature's estimate takes bfloat16 everywhere and int64 indices (`weight_bytes=2,
    moment_bytes=2, index_bytes=8`); by default tensors count as they are, and moments as weights.

    Args:
        model: Any, also on `meta`.
        sample: An input; with it, the activations that autograd keeps are measured.
        weight_bytes: Bytes of a number; None is that of each tensor's dtype.
        moment_bytes: Bytes of a number of the optimiser; None is that of its parameter.
        moments: Numbers that the optimiser keeps for each trained one: 2 for Adam, 1 for momentum.
        index_bytes: Bytes of an index; None is that of each tensor's dtype.
        projected_rank: Counts the optimiser as GaLore's: for each matrix (m, n) named in
            `projected`, `moments` numbers for each of r · max(m, n) and a projector r · min(m, n).
        projected: Full names of these matrices.

    Source: the accounting of Zhao et al. 2024, "GaLore", arXiv:2403.03507, Table 1, and of Han et
    al. 2024, "SLTrain", arXiv:2406.02214; embeddings and head are counted as they are.
    """
    parameters = dict(model.named_parameters())
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    optimizer = 0
    for name, p in trained.items():
        numbers = moments * p.numel()
        if projected_rank is not None and name in projected:
            small, large = sorted(p.shape[-2:])
            rank = min(projected_rank, small)
            numbers = moments * rank * large + rank * small
        optimizer += numbers * (moment_bytes or p.element_size())
    indices = [t for _, _, s in structures(model) for t in _index_tensors(s)]
    kept = None if sample is None else saved_bytes(lambda: model(sample), (*model.parameters(),))
    return MemoryReport(
        parameters=sum(p.numel() for p in parameters.values()),
        trained=sum(p.numel() for p in trained.values()),
        indices=sum(t.numel() for t in indices),
        weight_bytes=sum(
            p.numel() * (weight_bytes or p.element_size()) for p in parameters.values()
        ),
        gradient_bytes=sum(
            p.numel() * (weight_bytes or p.element_size()) for p in trained.values()
        ),
        optimizer_bytes=optimizer,
        index_bytes=sum(t.numel() * (index_bytes or t.element_size()) for t in indices),
        activation_bytes=kept,
    )


def spectra(model: nn.Module) -> dict[str, Tensor]:
    """Return the singular values of every weight with a structure that stands for a matrix.

    Those of a batch of matrices, one a group of a convolution, are sorted into one row.

    Raises:
        ValueError: NaN or infinite values, with the name of the weight.
    """
    values = {}
    with torch.no_grad():
        for name, _, structure in structures(model):
            for p in structure.parameters():
                refuse_infinite(p, name)
            if isinstance(structure, Factors) and structure.extra is None and structure.is_matrix:
                found = structure.singular_values()
            elif structure.is_matrix:
                found = torch.linalg.svdvals(structure.dense().float())
            else:
                continue
            values[name] = found.flatten().sort(descending=True).values
    return values


def _index_tensors(structure: WeightStructure) -> list[Tensor]:
    """Integers that say where numbers belong; the count of active components is none."""
    return [b for b in structure.buffers() if not b.is_floating_point() and b.dim() > 0]


def _indices(structure: WeightStructure) -> int:
    return sum(t.numel() for t in _index_tensors(structure))


def _macs(model: nn.Module, sample: Tensor) -> tuple[dict[str, int], dict[str, int]]:
    """Multiply-accumulates on one forward pass in evaluation, and what dense layers would take.

    The second follow from the sizes that pass through a layer, for layers and not for raw matrices.
    """
    from torch.utils.flop_counter import FlopCounterMode

    dense: dict[str, int] = defaultdict(int)
    handles = []

    def count(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, FactoredConv2d):
                inputs_each = torch.Size(module.settings.unfolding.kernel_shape[1:]).numel()
            else:
                inputs_each = inputs[0].shape[-1]
            dense[name] += output.numel() * inputs_each

        return hook

    for name, module, _ in structures(model):
        if ":" not in name:
            handles.append(module.register_forward_hook(count(name)))
    try:
        with evaluating(model), FlopCounterMode(display=False) as counter, torch.no_grad():
            model(sample)
    finally:
        for handle in handles:
            handle.remove()
    root = f"{type(model).__name__}."
    counted = {
        name.removeprefix(root): sum(counts.values()) // 2
        for name, counts in counter.get_flop_counts().items()
    }
    return counted, dict(dense)
