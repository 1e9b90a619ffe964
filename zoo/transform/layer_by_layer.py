"""Layers of a model made smaller one after the other, each by the data that it sees then."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...layers.lowrank import (
    Calibrated,
    FactoredConv2d,
    FactoredLinear,
    Factors,
    InputMoments,
    OutputMoments,
    RankCosts,
    allocate_ranks,
    break_even,
    calibrated_svd,
    collect_moments,
    weighted_svd,
)
from ...layers.lowrank.replace_module import replace_module
from .calibration_pass import check_enough, running_order
from .compress import densified, structured
from .distortion import distortion, ladder, output_curve, output_gains, outputs_of

__all__ = ["LayerByLayer"]

Forward = Callable[[nn.Module, Any], Any]


@dataclass
class LayerByLayer:
    """What every step of a compression by factors reads.

    Attributes:
        dense: The model without factors.
        names: Shapes of the targets' matrices, in the order of the modules.
        measured: By name, the distortion of the outputs at every rank that was measured.
    """

    case: str
    dense: nn.Module
    names: Mapping[str, tuple[int, ...]]
    data: list[Any]
    forward: Forward
    loss: Callable[[nn.Module, Any], Tensor]
    measured: dict[str, dict[int, float]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Collect the moments of all targets in the dense model."""
        self.moments = self.moments_in(self.dense, list(self.names)) if self.data else {}

    def matrix(self, name: str) -> Tensor:
        """Return W of a layer of the dense model."""
        weight: Any = self.dense.get_submodule(name).weight
        return weight.detach().reshape(self.names[name])

    def moments_in(
        self, model: nn.Module, names: Sequence[str]
    ) -> dict[str, InputMoments | OutputMoments]:
        """Collect the moments of dense layers, of the smaller side of each."""
        fisher = self.case == "fwsvd"
        wide = {n: self.matrix(n) for n in names if self.names[n][-2] < self.names[n][-1]}
        return collect_moments(
            model,
            self.data,
            names,
            forward=self.loss if fisher else self.forward,
            fisher=fisher,
            matrices=wide,
        )

    def decomposed(
        self, name: str, rank: int | None, moments: InputMoments | OutputMoments | None
    ) -> Calibrated:
        """Return the factors of a layer, and its bias."""
        matrix = self.matrix(name)
        bias: Any = self.dense.get_submodule(name).bias
        if moments is None or self.case == "svd":
            left, right, values = weighted_svd(matrix, rank)
            return Calibrated(left, right, bias, values)
        return calibrated_svd(matrix, rank, self.case, moments, bias=bias)

    def layer(self, name: str, found: Calibrated) -> nn.Module:
        """Return a factored layer in the place of a dense one."""
        return factored(
            self.dense.get_submodule(name), Factors(found.left, found.right), found.bias
        )

    def costs(
        self,
        sensitivity: str,
        loss: Callable[[nn.Module, Any], Tensor] | None,
        seed: int,
    ) -> dict[str, RankCosts]:
        """Return what the ranks of every layer cost."""
        gains = dict.fromkeys(self.names, 1.0)
        if sensitivity == "fisher":
            gains = output_gains(
                self.dense, self.data, list(self.names), forward=self.forward, loss=loss, seed=seed
            )
        expected = (
            outputs_of(self.dense, self.data, self.forward) if sensitivity == "output" else []
        )
        costs = {}
        for name, shape in self.names.items():
            found = self.decomposed(name, None, self.moments.get(name))
            size = math.prod(shape)
            errors = None
            if sensitivity == "output":
                errors = self._measured(name, found, expected)
            elif sensitivity == "fisher":
                errors = self.output_errors(name, found)
            costs[name] = RankCosts(
                found.singular_values, size / break_even(shape), size, gains[name], errors
            )
        return costs

    def output_errors(self, name: str, full: Calibrated) -> Tensor:
        """Return E ‖(W - X_r) x‖² of the ranks 0 to K, about the mean where the bias keeps that.

        All cases cut by X_r = P_r P_rᵀ W, where P is an orthonormal basis of the left factor, so
        the moment G of the outputs W x says it: tr G - Σ_{j≤r} p_jᵀ G p_j.
        """
        moments, wide = self.moments[name], self.matrix(name).double()
        about_mean = self.case == "feature_mimicking"
        moment = moments.covariance if about_mean else moments.second_moment
        if isinstance(moments, InputMoments):
            moment = wide @ moment @ wide.mT
        left = full.left.double()
        norms = torch.linalg.vector_norm(left, dim=-2, keepdim=True)
        basis = left / torch.where(norms > 0, norms, 1)
        kept = (basis * (moment @ basis)).sum(-2).reshape(-1, left.shape[-1]).sum(0)
        total = moment.diagonal(dim1=-2, dim2=-1).sum().reshape(1)
        # At the full rank nothing is left but roundings of either sign.
        return torch.cat([total, (total - kept.cumsum(0)).clamp_min(0)])

    def _measured(self, name: str, full: Calibrated, expected: list[Tensor]) -> Tensor:
        """Measure what ranks of one layer do to the outputs, the others being dense."""
        shape = self.names[name]
        most = min(full.left.shape[-1], max(1, math.ceil(break_even(shape)) - 1))
        work = copy.deepcopy(self.dense)
        seen: dict[int, float] = {}
        previous = work.get_submodule(name)
        for rank in ladder(most):
            cut = full._replace(left=full.left[..., :rank], right=full.right[..., :rank, :])
            if self.case == "feature_mimicking":
                cut = cut._replace(bias=self._corrected(name, cut))
            layer = self.layer(name, cut)
            replace_module(work, previous, layer)
            previous = layer
            seen[rank] = distortion(outputs_of(work, self.data, self.forward), expected)
        self.measured[name] = seen
        return output_curve(min(shape[-2:]), seen)

    def _corrected(self, name: str, cut: Calibrated) -> Tensor:
        """Return the bias that keeps the mean of the outputs at a rank."""
        bias: Any = self.dense.get_submodule(name).bias
        matrix = self.matrix(name)
        error = matrix.double() - cut.left.double() @ cut.right.double()
        shift = (error @ self.moments[name].mean.to(error)[..., None]).flatten().to(matrix.dtype)
        return shift if bias is None else bias.detach() + shift

    def ranks(
        self, costs: Mapping[str, RankCosts], budget: float, allocation: str
    ) -> dict[str, int]:
        """Spend a budget, a share of the whole model's parameters, on the ranks of the targets.

        Raises:
            ValueError: what is no target is larger than the budget, or rank 1 everywhere is.
        """
        total = sum(p.numel() for p in self.dense.parameters())
        rest = total - sum(cost.dense_size for cost in costs.values())
        # Every bias is paid for in advance, whether its layer gets factors or stays dense.
        rest += sum(math.prod(self.names[n][:-1]) for n in costs if self.biases(n))
        least = rest + sum(cost.size_per_rank for cost in costs.values())
        if budget >= 1.0:
            return {}
        try:
            ranks = allocate_ranks(costs, budget * total - rest, allocation)
        except ValueError as error:
            raise ValueError(
                f"budget={budget:g} cannot be met: rank 1 in every target leaves "
                f"{least / total:.3f} of the {total:,} parameters; name more targets= or raise it"
            ) from error
        return {name: rank for name, rank in ranks.items() if rank is not None}

    def made(self, model: Any, ranks: Mapping[str, int], sequential: bool) -> Any:
        """Return a copy of the model with factors, which are made in the order of the layers."""
        if not ranks:
            return densified(model)
        partly = copy.deepcopy(self.dense)
        order = running_order(partly, list(ranks), self.data, self.forward)
        biased = [n for n in order if self.biases(n)]
        result, factors = structured(model, "fixed_ranks", ranks=dict(ranks), biased=biased or None)
        for name in order:
            moments = self.moments.get(name)
            if sequential and self.data and self.case != "svd":
                moments = self.moments_in(partly, [name])[name]
            if moments is not None and self.case != "svd":
                check_enough(name, moments, ranks[name])
            found = self.decomposed(name, ranks[name], moments)
            replace_module(partly, partly.get_submodule(name), self.layer(name, found))
            with torch.no_grad():
                factors[name].left.copy_(found.left)
                factors[name].right.copy_(found.right)
                bias: Any = result.get_submodule(name).bias
                if bias is not None and found.bias is not None:
                    bias.copy_(found.bias)
        return result

    def biases(self, name: str) -> bool:
        """Whether the case makes a bias where a layer has none."""
        return self.case == "feature_mimicking" and self.dense.get_submodule(name).bias is None


def factored(layer: nn.Module, structure: Factors, bias: Tensor | None) -> nn.Module:
    """Return a factored layer that moves as a dense one does."""
    if isinstance(layer, nn.Conv2d):
        made: Any = FactoredConv2d.from_dense(layer, structure)
    else:
        assert isinstance(layer, nn.Linear)
        made = FactoredLinear.from_dense(layer, structure)
    made.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    return made
