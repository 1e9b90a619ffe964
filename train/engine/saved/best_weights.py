"""The best weights of a run, in a file of their own for every checkpoint that names some."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from ....zoo.models import build_model
from ....zoo.network import Network
from ....zoo.share.save_load import load_weights, read_about, save_weights
from ...errors import RunError
from ..named_states import model_state
from ..process import is_sharded
from .resume import conflict, decisive
from .run_folder import RunFolder

__all__ = ["BestWeights", "same_model"]


class BestWeights:
    """The files `checkpoints/best-STEP.safetensors` of a run.

    Args:
        folder: Of the run.

    Attributes:
        steps: Those that the kept checkpoints name, the oldest first.
    """

    def __init__(self, folder: RunFolder) -> None:
        """Know of none yet."""
        self.folder = folder
        self.steps: list[int] = []

    def file(self, step: int) -> Path:
        """The weights that were the best at a step; earlier versions kept one file, without it."""
        name = f"best-{step}.safetensors" if step else "best.safetensors"
        return self.folder.checkpoint.with_name(name)

    def write(self, model: Network, step: int) -> None:
        """Write the best weights so far; every process calls it when the model is sharded."""
        whole = model
        if is_sharded(model):
            state = model_state(model)
            if not self.folder.writes:
                return
            whole = same_model(model)
            whole.load_state_dict(state)
        about = self._about(step)
        self.folder.guard(lambda: save_weights(whole, self.file(step), about))

    def prune(self, steps: Sequence[int], keep: int, before: int) -> None:
        """Remove what none of the kept checkpoints names.

        Args:
            steps: Of the best weights that the checkpoints name, the oldest first; of one that an
                earlier version wrote, nothing is known.
            keep: How many checkpoints are kept. Where fewer are known, nothing goes.
            before: The step of the newest; weights from there on are of what comes after it.
        """
        self.steps = list(steps)
        if not self.folder.writes or len(self.steps) < keep:
            return
        named = {self.file(step) for step in self.steps}
        for file in self.folder.checkpoint.parent.glob("best*.safetensors"):
            if file not in named and int(file.stem.partition("-")[2] or 0) < before:
                file.unlink()

    def rebuild(self, model: Network, step: int, device: torch.device) -> Network:
        """Build the model anew by its name, with the weights that were the best at a step.

        Raises:
            ValueError: they are missing, damaged, or of another step or run.
        """
        about, own = read_about(self.file(step)), self._about(step)
        if about.get("best of step", own["best of step"]) != own["best of step"]:
            raise ValueError(f"{self.file(step)} holds the weights of step {about['best of step']}")
        why = conflict(json.loads(about.get("config", "{}")), self.folder.running)
        if why is not None:
            raise ValueError(f"{self.file(step)} is of another run: {why}")
        best = same_model(model).to(device)
        load_weights(best, self.file(step))
        return best

    def _about(self, step: int) -> dict[str, str]:
        return {"best of step": str(step), "config": json.dumps(decisive(self.folder.running))}


def same_model(model: Network) -> Network:
    """Build a model anew by its recipe, with weights of its own, whole on the CPU.

    Raises:
        RunError: it has no recipe.
    """
    if model.recipe is None:
        raise RunError("the trainer needs a model made by create_model")
    name, options = model.recipe
    same = build_model(name, **options)
    same.follow_data(**model.conventions)
    return same
