"""Loss terms that hold a model to a frozen teacher: features, logits and weights (PELA).

    L = L_task + α mean_b ‖f_b - f'_b‖²_mean + β ‖z - z'‖²_mean + γ mean_l max(0, p_l - ε)²

    f_b    what block b hands on            z    logits, of the same forward pass as the features
    p_l    max |B_l A_l - W'_l|, the largest entry by which factors differ from the teacher's weight

The teacher's, with a dash, is in evaluation and has no gradient. Both see one batch, as mixup left
it; each runs once.

Source: Guo et al. 2023, "PELA: Learning Parameter-Efficient Models with Low-Rank Approximation",
arXiv:2310.10700.
Differs from it: its code penalises (p_l - ε)², which drives weights away from the teacher's where
they are nearer than ε, and runs the student twice a step. Any structure that stands for a matrix
has a p_l, and factors may come from anywhere. Its scripts have α = 1, β = 0, and γ = 1 with ε = 0
for Swin alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers.lowrank import Target
from ...layers.lowrank.maths.decompose import at_least_float32
from ...zoo.depth import block_outputs
from ...zoo.network import Network
from ..config import TrainerConfig
from ..errors import RunError
from .beside_teacher import BesideTeacher, distillations
from .hooks import TrainingRun

__all__ = [
    "Distillation",
    "feature_distance",
    "largest_perturbation",
    "perturbation_penalty",
]


def feature_distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
    """Return the mean over blocks of the mean squared difference of their features."""
    return torch.stack([_distance(a, b) for a, b in zip(found, expected, strict=True)]).mean()


def largest_perturbation(target: Target, network: nn.Module) -> Tensor:
    """Return max |W - W'| of a factored weight W and the same weight W' of another network.

    Args:
        target: Of a model that is trained.
        network: With dense layers of the same names.
    """
    assert target.structure is not None
    weight = getattr(network.get_submodule(target.name.partition(":")[0]), target.parameter)
    matrix = weight if target.unfolding is None else target.unfolding.to_matrix(weight)
    return (at_least_float32(target.structure.dense()) - at_least_float32(matrix)).abs().amax()


def perturbation_penalty(largest: Tensor, slack: float) -> Tensor:
    """Return mean_l max(0, p_l - ε)² of p (L,), which has no gradient where all are below ε."""
    return (largest - slack).clamp_min(0).square().mean()


@distillations.register(name="pela", source="arXiv:2310.10700")
class Distillation(BesideTeacher):
    """Train beside a frozen teacher of the same architecture, whose weights are dense.

    Args:
        network: The teacher, frozen and in evaluation; None while settings are only checked.
        teacher: Where it is from: a run, the folder of a saved model, hf-hub:OWNER/NAME or
            pretrained:NAME.
        features: α ≥ 0.
        logits: β ≥ 0.
        perturbation: γ ≥ 0; needs factored weights.
        slack: ε ≥ 0.

    Raises:
        ValueError: no teacher, a setting out of range, or no term at all.
    """

    def __init__(
        self,
        network: Network | None,
        *,
        teacher: str | None = None,
        features: float = 1.0,
        logits: float = 1.0,
        perturbation: float = 0.0,
        slack: float = 1e-3,
    ) -> None:
        """Keep the settings."""
        super().__init__(network, teacher)
        settings = {"features": features, "logits": logits, "perturbation": perturbation}
        for name, value in {**settings, "slack": slack}.items():
            if value < 0.0:
                raise ValueError(f"distill.{name} must be at least 0, got {value}")
        if not any(settings.values()):
            raise ValueError(
                "distill.features, distill.logits and distill.perturbation are all 0, so the "
                "teacher would have no effect; raise one, or leave distill out"
            )
        self.slack, self.factors = slack, settings
        self.targets: list[Target] = []

    def check_trainer(self, config: TrainerConfig) -> None:
        """Refuse a run whose passes nobody can follow.

        Raises:
            ValueError: naming the setting and another.
        """
        super().check_trainer(config)
        if config.grad_checkpointing and self.factors["features"]:
            raise ValueError(
                "trainer.grad_checkpointing drops the features that distill= compares; set "
                "distill.features=0, or leave it off"
            )

    def start(self, run: TrainingRun) -> None:
        """Watch both models, and refuse what has no such term.

        Raises:
            RunError: no blocks, or no factored weights that a matrix equals.
        """
        if self.factors["features"] and not block_outputs(run.model):
            raise RunError(
                f"distill.features: {type(run.model).__name__} has no blocks whose features could "
                f"be compared; set distill.features=0"
            )
        if self.factors["perturbation"]:
            controller = run.model.lowrank
            found = [] if controller is None else list(controller.targets.values())
            self.targets = [t for t in found if t.structure is not None and t.structure.is_matrix]
            if not self.targets:
                raise RunError(
                    "distill.perturbation needs weights made of factors; choose them with "
                    "lowrank=, such as lowrank=low_rank, or set distill.perturbation=0"
                )
        self.watch(run, bool(self.factors["features"]))

    def loss(self, run: TrainingRun, loss: Tensor) -> Tensor:
        """Add the terms, of the pass that the loss is of."""
        found: dict[str, Tensor] = {}
        if self.factors["features"] or self.factors["logits"]:
            self.ask_teacher(run)
        if self.factors["features"]:
            found["features"] = feature_distance(self.mine.features, self.theirs.features)
        if self.factors["logits"]:
            assert self.mine.logits is not None and self.theirs.logits is not None
            found["logits"] = _distance(self.mine.logits, self.theirs.logits)
        if self.targets:
            assert self.network is not None
            largest = [largest_perturbation(each, self.network) for each in self.targets]
            found["perturbation"] = perturbation_penalty(torch.stack(largest), self.slack)
        self.keep_terms(found)
        return loss + sum(self.factors[name] * term for name, term in found.items())


def _distance(found: Tensor, expected: Tensor) -> Tensor:
    """Return the mean squared difference, in float32 where the tensors are of half precision."""
    return F.mse_loss(at_least_float32(found), at_least_float32(expected))
