"""What the trainer costs over a hand-written PyTorch loop at the same model, batch and optimiser.

Both see the same in-memory data, in batches drawn by a permutation, and write nothing but what the
trainer logs by default (CSV and TensorBoard, every 10 steps). A repetition is a run of each, one
after the other in alternating order; its figure is the mean time of a step after three that warm
up. Evaluation and checkpoints happen between steps and are not in it: a bare loop has none.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from archzoo.train.callbacks import Callback, TrainingRun
from archzoo.train.config import OptimConfig, TrainerConfig
from archzoo.train.data import ArrayFold, Splits
from archzoo.train.engine.loggers import loggers
from archzoo.train.engine.loop import Trainer
from archzoo.train.engine.optim import make_optimizer
from archzoo.train.engine.process import World
from archzoo.train.engine.saved.run_folder import RunFolder
from archzoo.train.engine.schedule import learning_rate_factor
from archzoo.zoo import create_model
from harness import Bar, Measurement, interleaved, main, median_ratio
from torch import nn
from torch.nn import functional as F

WARM_UP = 3
CPU = torch.device("cpu")
CASES = {
    "vit_nano, batch 64": ("vit_nano", {}, (1, 8, 8), 64),
    "resnet20, batch 32": ("resnet20", {}, (3, 32, 32), 32),
    "mlp_base, batch 512": ("mlp_base", {"in_features": 192}, (3, 8, 8), 512),
}


class Clock(Callback):
    """Notes the time after every step."""

    def __init__(self) -> None:
        """Start without times."""
        self.times: list[float] = []

    def step(self, run: TrainingRun) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())

    def per_step(self) -> float:
        """Mean seconds of a step after the warm-up."""
        return (self.times[-1] - self.times[WARM_UP]) / (len(self.times) - 1 - WARM_UP)


def make_optimiser(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW for either loop."""
    return make_optimizer(model, OptimConfig(options={"fused": True}))


def bare(name: str, options: dict[str, Any], images: torch.Tensor, batch: int, steps: int) -> float:
    """Train as one would by hand and return seconds per step."""
    torch.manual_seed(0)
    model = create_model(name, **options).train()
    optimizer = make_optimiser(model)
    targets = torch.zeros(len(images), dtype=torch.long)
    clock = Clock()
    order = torch.randperm(len(images))
    for step in range(steps):
        index = order[step * batch : (step + 1) * batch]
        inputs = images[index].float() / 255
        loss = F.cross_entropy(model(inputs), targets[index])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.times.append(time.perf_counter())
    return clock.per_step()


def ours(name: str, options: dict[str, Any], images: torch.Tensor, batch: int, steps: int) -> float:
    """Train with the trainer and return seconds per step."""
    torch.manual_seed(0)
    targets = torch.zeros(len(images), dtype=torch.long)
    fold = ArrayFold(images, targets, transform=lambda x: x.float() / 255)
    small = ArrayFold(images[:1], targets[:1], transform=lambda x: x.float() / 255)
    splits = Splits("image", tuple(images.shape[1:]), 10, fold, small, small)
    clock = Clock()
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place))
        folder.write_text("config.yaml", "")
        about = {"name": name, "config": {}}
        trainer = Trainer(
            create_model(name, **options),
            splits,
            TrainerConfig(steps=steps, batch_size=batch, progress=False),
            make_optimiser,
            lambda step, total: learning_rate_factor(
                step, total, name="cosine", warmup=0.05, cooldown=0.2, final=0.0
            ),
            callbacks=[clock],
            loggers=[loggers.build(n, folder.path, about) for n in ("csv", "tensorboard")],
            folder=folder,
            world=World(0, 1, CPU),
        )
        trainer.fit()
    return clock.per_step()


def measure(quick: bool) -> Measurement:
    """Time both on every case."""
    torch.set_num_threads(1)
    # Three pairs spread by a tenth on a busy machine, so the quick form is one case done properly.
    repetitions, steps = (11, 30) if quick else (9, 40)
    cases = list(CASES.items())[:1] if quick else list(CASES.items())
    rows, bars = [], []
    for case, (name, options, shape, batch) in cases:
        options = options | {"num_classes": 10}
        if name != "mlp_base":
            options |= {"in_chans": shape[0], "img_size": shape[1]}
        images = torch.randint(0, 256, (batch * steps, *shape), dtype=torch.uint8)
        run: dict[str, Callable[[], float]] = {
            "trainer": lambda: ours(name, options, images, batch, steps),  # noqa: B023
            "bare loop": lambda: bare(name, options, images, batch, steps),  # noqa: B023
        }
        figures = interleaved(run, repetitions)
        ratio = median_ratio(figures["trainer"], figures["bare loop"])
        step = statistics.median(figures["bare loop"])
        rows.append(
            {
                "case": case,
                "bare loop, ms a step": 1e3 * step,
                "trainer, ms a step": 1e3 * statistics.median(figures["trainer"]),
                "ratio": ratio,
                "repetitions": repetitions,
            }
        )
        if step >= 0.020:
            bars.append(Bar(f"trainer over bare loop, {case}", ratio, 1.05))
    return rows, bars


if __name__ == "__main__":
    main("train_loop", measure)
