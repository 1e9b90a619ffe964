"""Evaluate and keep an exponential moving average of the weights."""

from __future__ import annotations

from typing import Any

from ...zoo.network import Network
from ..engine.named_states import load_model_state, model_state
from ..engine.process import is_sharded, parallelize
from ..engine.saved.best_weights import same_model
from .hooks import Callback, TrainingRun, callbacks

__all__ = ["EMA"]


@callbacks.register(name="ema")
class EMA(Callback):
    """Average weights and buffers after each step: average <- decay · average + (1 - decay) · new.

    Args:
        decay: In [0, 1); about 1 - 1 / (steps to remember).
        warmup: Whether the decay grows from 0 as 1 - (1 + step)^(-2/3), so that a short run does
            not evaluate its initial weights.

    Raises:
        ValueError: decay outside [0, 1).
    """

    def __init__(self, decay: float = 0.999, warmup: bool = True) -> None:
        """Keep the settings; the average starts with the run."""
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"callbacks.ema.decay must lie in [0, 1), got {decay}")
        self.decay, self.warmup = decay, warmup
        self.average: Any = None

    def start(self, run: TrainingRun) -> None:
        """Copy the model; of a sharded one each process averages its shards."""
        from timm.utils import ModelEmaV3

        sharded = is_sharded(run.model)
        # A sharded model refuses to be copied, and no list may mix its shards with whole buffers.
        self.average = ModelEmaV3(
            same_model(run.model).to(run.world.device) if sharded else run.model,
            decay=self.decay,
            use_warmup=self.warmup,
            foreach=not sharded,
        )
        if sharded:
            parallelize(self.average.module, run.world, "fsdp")
            self.average.set(run.model)
        if run.model.lowrank is not None:
            run.model.lowrank.twins.append(self.average.module)  # ranks follow the model's

    def evaluated(self, run: TrainingRun, model: Network) -> Network:
        """Return the copy."""
        return self.average.module

    def step(self, run: TrainingRun) -> None:
        """Move the average towards the new weights."""
        self.average.update(run.model, step=run.step)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights."""
        return model_state(self.average.module)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the averaged weights back."""
        load_model_state(self.average.module, state)
