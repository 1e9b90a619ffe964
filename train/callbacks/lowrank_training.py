"""Let a low-rank method act around the steps of the trainer's optimiser, and log the ranks."""

from __future__ import annotations

import json
import statistics
import time
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...layers.lowrank import Controller, Factors, Target, refuse_diverged
from ...layers.lowrank.adapters.adapter import Adapter
from ...zoo.network import Network
from ...zoo.share.adapter_files import save_adapter
from ..engine.process import is_sharded
from ..errors import RunError
from .held_out_loss import held_out_loss
from .hooks import Callback, TrainingRun

__all__ = ["RANKS", "LowRankTraining", "ranks_of", "spectra_of"]

TIMED = 1001
"""Moments at which the last steps ended, whose distances have a median."""

RANKS = "ranks.jsonl"
ALONE = "adapter.safetensors"


def ranks_of(controller: Controller) -> dict[str, int]:
    """Return the rank of every target by name; one whose method knows no ranks is left out."""
    known = controller.state.get("ranks", {})
    ranks = {}
    for name, target in controller.targets.items():
        rank = getattr(target.structure, "rank", known.get(name))
        if rank is not None:
            ranks[name] = int(rank)
    return ranks


@torch.no_grad()
def spectra_of(controller: Controller, count: int = 3) -> dict[str, list[float]]:
    """Return the singular values, to four digits, of evenly spread targets that are matrices.

    Those of a batch of matrices, one a group of a convolution, are sorted into one list.

    Raises:
        ValueError: a weight that training has ruined.
    """
    matrices = {
        name: target
        for name, target in controller.targets.items()
        if target.structure is None or target.structure.is_matrix
    }
    names = list(matrices)
    last = len(names) - 1
    chosen = sorted({i * last // max(1, count - 1) for i in range(count)}) if names else []
    found = {}
    for name in (names[i] for i in chosen):
        values = _singular_values(matrices[name], controller.step).flatten()
        values = values.sort(descending=True).values
        found[name] = [float(f"{value:.4g}") for value in values.tolist()]
    return found


class LowRankTraining(Callback):
    """Carries the method of `model.lowrank` through a run; `lowrank=` adds it, before all others.

    At each evaluation it logs `parameters` and `trained`, the numbers that the model stores and
    that the optimiser changes, and `mean_rank` over the targets, as a split of their own,
    `lowrank`. `ranks.jsonl` in the run's folder then has one more line, with the rank of every
    target and, unless the model is sharded, the singular values of three of them. A method that
    needs the length of the run has a setting `total_steps`, filled in where it is None.

    The best adapter is kept alone as well, as `adapter.safetensors`.

    A change of a weight's size makes DDP and `torch.compile` begin anew.
    """

    def __init__(self) -> None:
        """Nothing is known before the run."""
        self.resized = 0
        self.moments: deque[float] = deque(maxlen=TIMED)
        self.filled_in = False
        self.word = "lowrank"

    def start(self, run: TrainingRun) -> None:
        """Attach the method to the optimiser.

        Raises:
            RunError: the method cannot work with the optimiser, or with sharded weights.
        """
        controller = run.model.lowrank
        assert controller is not None
        self.run, self.controller = run, controller
        method: Any = controller.method
        self.word = "adapter" if method.adapts else "lowrank"
        self.filled_in = getattr(method, "total_steps", 0) is None
        if self.filled_in:
            method.total_steps = run.total_steps
        if method.reads_held_out:
            controller.held_out = held_out_loss(run, controller.seed)
        try:
            controller.attach(run.optimizer)
        except ValueError as error:
            raise RunError(f"{self.word}: {error}") from error
        self._follow_sizes()

    def loss(self, run: TrainingRun, loss: Tensor) -> Tensor:
        """Tell the method the loss, and add its penalty."""
        self.controller.note_loss(loss)
        penalty = self.controller.penalty()
        return loss if penalty is None else loss + penalty.to(loss.dtype)

    def step(self, run: TrainingRun) -> None:
        """Follow changes of sizes, and note the time."""
        self.moments.append(time.perf_counter())
        self._follow_sizes()

    def evaluate(self, run: TrainingRun, metrics: dict[str, float]) -> None:
        """Log sizes, ranks and spectra; a sharded parameter counts whole."""
        parameters = list(run.model.parameters())
        values: dict[str, float] = {
            "parameters": sum(p.numel() for p in parameters),
            "trained": sum(p.numel() for p in parameters if p.requires_grad),
        }
        ranks = ranks_of(self.controller)
        if ranks:
            values["mean_rank"] = sum(ranks.values()) / len(ranks)
        run.log("lowrank", values)
        if run.world.leader:
            spectra = {} if is_sharded(run.model) else spectra_of(self.controller)
            row = {"step": run.step, **values, "ranks": ranks, "spectra": spectra}
            self._append(run, row)

    def result(self, run: TrainingRun, model: Network) -> dict[str, Any]:
        """Return sizes of the best model, whether they meet the budget, and what was found out."""
        controller = model.lowrank
        assert controller is not None
        parameters = sum(p.numel() for p in model.parameters())
        held, dense = 0, 0
        for _, structure in controller.structures():
            held += structure.parameter_count()
            dense += torch.Size(structure.shape).numel()
        sizes: dict[str, Any] = {
            "parameters": parameters,
            "dense_parameters": parameters - held + dense,
        }
        budget = controller.method.budget
        if budget is not None:
            share = controller.method.share(controller)
            sizes |= {"budget": budget, "share": share, "budget_met": share <= budget}
            if share > budget:
                run.say(
                    f"lowrank.budget={budget} is not met: the weights of the best model, of step "
                    f"{run.best_step}, are {share:.3f} of the dense ones ({parameters:,} "
                    f"parameters as stored, {sizes['dense_parameters']:,} when dense)"
                )
        if controller.method.adapts:
            trained = [p for p in model.parameters() if p.requires_grad]
            sizes |= {
                "trained": sum(p.numel() for p in trained),
                "optimizer_bytes": _state_bytes(run.optimizer),
                "step_ms": _median_step(self.moments),
            }
        return {self.word: sizes | controller.report()}

    def end(self, run: TrainingRun, model: Network) -> None:
        """Keep the best adapter alone too, where it can be."""
        controller = model.lowrank
        assert controller is not None
        if isinstance(controller.method, Adapter) and controller.method.kept_whole:
            run.write_file(ALONE, lambda path: save_adapter(controller, path))

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse the state of another method, or of other settings or targets."""
        planned = state["settings"].get("total_steps")
        if self.filled_in and planned not in (None, self.run.total_steps):
            raise RunError(
                f"{self.word}: {state['method']} planned its events over the {planned} steps of "
                f"the run, which now has {self.run.total_steps}; resume with "
                f"trainer.steps={planned}, or begin a run that is to grow with "
                f"{self.word}.total_steps={self.run.total_steps}"
            )
        try:
            self.controller.check_state_dict(state)
        except ValueError as error:
            raise RunError(f"{self.word}: {error}") from error

    def state_dict(self) -> dict[str, Any]:
        """Return the controller's state."""
        return self.controller.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the controller was."""
        self.controller.load_state_dict(state)
        self._follow_sizes()

    def _append(self, run: TrainingRun, row: dict[str, Any]) -> None:
        """Add a line, without those of steps that a resumed run does again."""
        lines = (run.read_text(RANKS) or "").splitlines()
        kept = [line for line in lines if json.loads(line)["step"] < row["step"]]
        run.write_text(RANKS, "\n".join([*kept, json.dumps(row)]) + "\n")

    def _follow_sizes(self) -> None:
        if self.controller.resized == self.resized:
            return
        self.resized = self.controller.resized
        self.run.follow_sizes()


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Count the bytes of what an optimiser keeps; of a sharded one those of this process."""
    kept = [v for state in optimizer.state.values() for v in state.values()]
    return sum(v.numel() * v.element_size() for v in kept if isinstance(v, Tensor))


def _median_step(moments: Sequence[float]) -> float | None:
    """Return the milliseconds of a step; an evaluation after one is an exception to a median."""
    times = [1e3 * (after - before) for before, after in pairwise(moments)]
    return statistics.median(times) if times else None


def _singular_values(target: Target, step: int) -> Tensor:
    structure = target.structure
    if isinstance(structure, Factors) and structure.extra is None:
        refuse_diverged(target.name, step, structure.left, structure.right)
        return structure.singular_values()
    matrix = target.matrix() if structure is None else structure.dense()
    refuse_diverged(target.name, step, matrix)
    return torch.linalg.svdvals(matrix.float())
