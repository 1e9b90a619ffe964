"""The training loop."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ...zoo.network import Network
from ..callbacks import Callback
from ..config import TrainerConfig
from ..data import IGNORE, Batches, Fold, Splits, check_folds, loader, needs_shuffling
from ..errors import RunStopped
from .checkpoint import save_run
from .console import Console, describe
from .loggers import Logger
from .metrics import better, evaluate, headline, loss_for
from .mixup import make_mixing
from .process import World, exchanging_gradients, parallelize
from .run_state import RunState
from .saved.run_folder import RunFolder
from .signals import StopRequest, stop_request

__all__ = ["Trainer"]


class Trainer(RunState):
    """Trains a model and leaves its best version, its metrics and a checkpoint in a folder.

    One step is one optimiser step. Its data, augmentation and learning rate follow from its number
    and the seed alone, so a run that goes on from a checkpoint repeats what it would have done.

    Args:
        model: Made by `create_model`, on its device.
        splits: The folds.
        config: The loop's settings.
        optimizer: Makes the optimiser of a model; groups carry `initial_lr`.
        schedule: Step and total steps to a factor on `initial_lr`.
        callbacks: Called in order at every hook.
        loggers: Those of the leading process.
        folder: Where everything goes.
        world: This process among the others.
        seed: Orders the data.
    """

    def __init__(
        self,
        model: Network,
        splits: Splits,
        config: TrainerConfig,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        schedule: Callable[[int, int], float],
        *,
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[Logger] = (),
        folder: RunFolder,
        world: World,
        seed: int = 0,
    ) -> None:
        """Prepare everything that a checkpoint may be loaded into."""
        check_folds(splits, config.batch_size, config.accumulate, world.size)
        if config.compile:
            model.compile_blocks() if config.compile == "blocks" else model.compile()
        wrapped = parallelize(model, world, config.parallel)
        made = optimizer(model)  # of the parameters as sharding leaves them
        super().__init__(model, made, config, callbacks, loggers, folder, world, wrapped)
        self.splits, self.schedule, self.seed = splits, schedule, seed
        self.measure = loss_for(model)
        self.mix = make_mixing(config.mixup, config.cutmix, splits.num_classes)
        self.steps_per_epoch = len(self._batches(splits.train, 0)) // config.accumulate
        self.total_steps = config.steps or math.ceil((config.epochs or 1) * self.steps_per_epoch)
        for callback in callbacks:
            callback.start(self)
        for callback in callbacks:
            self.evaluated = callback.evaluated(self, self.evaluated)

    def fit(self) -> dict[str, dict[str, float]]:
        """Train to the last step and return the best model's validation and test metrics."""
        size = self.config.batch_size * self.config.accumulate
        self.console = Console(
            self.total_steps * size, self.step * size, self.world.leader, self.config.progress
        )
        self.clock = time.perf_counter(), self.step
        with stop_request(self.config.max_time) as request:
            if not self.reported:
                self._report()
            while self.step < self.total_steps:
                epoch, done = divmod(self.step, self.steps_per_epoch)
                data = iter(self._load(self.splits.train, epoch, done * self.config.accumulate))
                for _ in range(min(self.steps_per_epoch - done, self.total_steps - self.step)):
                    self._after_step(self._train_step(data), request)
        result = self._finish()
        self.console.close()
        return result

    def evaluate(self, fold: Fold, model: nn.Module) -> dict[str, float]:
        """Evaluate a model on a whole fold, shared among the processes."""
        data = self._load(fold, None)
        return evaluate(model, data, self.splits.kind, self.world.device, self.autocast)

    def _train_step(self, data: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
        """Accumulate gradients over the micro-batches, clip them and step; return the loss."""
        config, device = self.config, self.world.device
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.schedule(self.step, self.total_steps)
        total = torch.zeros((), device=device)
        for micro, (batch, parts) in enumerate(self._micro_batches(data)):
            inputs, targets = (x.to(device, non_blocking=True) for x in batch)
            if config.channels_last and inputs.dim() == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            inputs, targets = self.mix(inputs, targets)
            with exchanging_gradients(self.wrapped, micro == config.accumulate - 1):
                with self.autocast():
                    logits = self.wrapped(inputs)
                for callback in self.callbacks:
                    logits = callback.logits(self, logits, targets)
                loss = self.measure(logits, targets, config.label_smoothing)
                for callback in self.callbacks:
                    loss = callback.loss(self, loss)
                self.scaler.scale(loss / parts).backward()
            total += loss.detach() / parts
        # On a GPU reading the loss would wait for it, so there it is looked at when it is needed;
        # so it is among processes, which must stop together.
        if device.type == "cpu" and self.world.size == 1:
            self.refuse_nan(float(total))
        if config.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return total

    def _micro_batches(
        self, data: Iterator[tuple[Tensor, Tensor]]
    ) -> Iterator[tuple[tuple[Tensor, Tensor], float]]:
        """Yield the batches of a step, and by what the mean loss of each is divided.

        They count alike, but for hidden tokens, of which each has another number: there a token
        counts as much as any other of the step, on all processes together.
        """
        count = self.config.accumulate
        if self.splits.kind != "masked":
            yield from zip(itertools.islice(data, count), itertools.repeat(float(count)))
            return
        batches = list(itertools.islice(data, count))
        counts = [int((targets != IGNORE).sum()) for _, targets in batches]
        step = self.world.mean(torch.tensor(sum(counts), device=self.world.device).double())
        for batch, own in zip(batches, counts, strict=True):
            yield batch, float(step) / max(1, own)

    def _after_step(self, loss: Tensor, request: StopRequest) -> None:
        """Call back, save, log and evaluate, as often as the config says.

        A checkpoint comes before all that is logged of its step: a crash in an evaluation loses
        nothing, and a run that goes on reports the step itself.
        """
        for callback in self.callbacks:
            callback.step(self)
        log, evaluation = self._due(self.config.log_every), self._evaluation_is_due()
        checkpoint = self._due(often) if (often := self.config.checkpoint_every) else evaluation
        stop = self.world.first(request.signal)  # processes must stop at the same step
        self.window = [self.window[0] + loss, self.window[1] + 1]
        if log or checkpoint or stop or evaluation:
            self.refuse_nan(float(self.world.mean(loss)))
        name = headline(self.best)
        best = f", best {describe({name: self.best[name]})}" if self.best else ""
        note = f"loss {float(loss):.4f}{best}" if log else None
        self.console.advance(self.config.batch_size * self.config.accumulate, note)
        self.reported = False
        if checkpoint or stop:
            save_run(self)
        if stop:
            self.world.share(None)  # `torchrun` kills the leader that still writes once one is gone
            raise RunStopped(
                f"stopped by {stop} after step {self.step}; go on with resume={self.folder.path}",
                by=stop,
            )
        self._report()

    def _report(self) -> None:
        """Log and evaluate what is due at this step."""
        if self._due(self.config.log_every):
            self._log_training()
        if self._evaluation_is_due():
            self._validate()
        self.reported = True

    def _log_training(self) -> None:
        now, (then, step) = time.perf_counter(), self.clock
        samples = (self.step - step) * self.config.batch_size * self.config.accumulate
        metrics = {
            "loss": float(self.world.mean(self.window[0])) / max(1, self.window[1]),
            "lr": self.optimizer.param_groups[0]["lr"],
            "epoch": self.step / self.steps_per_epoch,
            "samples_per_second": samples / (now - then),
        }
        self.log("train", metrics)
        self.window = [torch.zeros_like(self.window[0]), 0]
        self.clock = now, self.step

    def _validate(self) -> None:
        started = time.perf_counter()
        metrics = self.evaluate(self.splits.validation, self.evaluated)
        if not math.isfinite(metrics["loss"]):  # before a callback decomposes what holds NaN
            self.log("validation", metrics)
            self.refuse_nan(metrics["loss"], validation=True)
        for callback in self.callbacks:
            callback.evaluate(self, metrics)
        self.log("validation", metrics)
        if better(metrics, self.best):
            self.best, self.best_step = metrics, self.step
            self.best_weights.write(self.evaluated, self.step)
        self.say(
            f"step {self.step}/{self.total_steps} (epoch {self.step / self.steps_per_epoch:.1f}): "
            f"validation {describe(metrics)}; {self.console.eta()} to go"
        )
        self.clock = self.clock[0] + time.perf_counter() - started, self.clock[1]

    def _finish(self) -> dict[str, dict[str, float]]:
        """Rebuild the best model from its file, test it and save it for `create_model`."""
        self.world.share(None)  # no process reads the best weights before they are written
        best = self._rebuild_best()
        result = {"validation": self.best, "test": self.evaluate(self.splits.test, best)}
        self.log("test", result["test"])
        self.folder.write_final(best)
        for callback in self.callbacks:
            callback.end(self, best)
            result |= callback.result(self, best)
        return result

    def _rebuild_best(self) -> Network:
        """The best model from its file; where that is lost, the last one, evaluated again."""
        try:
            return self.best_weights.rebuild(self.model, self.best_step, self.world.device)
        except ValueError as error:
            self.say(f"the best weights are lost, the last ones take their place: {error}")
            self.best = {}
            self._validate()
            self.world.share(None)
            return self.best_weights.rebuild(self.model, self.best_step, self.world.device)

    def _batches(self, fold: Fold, epoch: int | None, start: int = 0) -> Batches:
        """The batches of a training epoch, or of an evaluation where the epoch is None."""
        return Batches(
            len(fold),
            self.config.batch_size,
            seed=self.seed,
            epoch=epoch or 0,
            shuffle=epoch is not None and needs_shuffling(fold),
            rank=self.world.rank,
            world=self.world.size,
            start=start,
            drop_last=epoch is not None,
        )

    def _load(self, fold: Fold, epoch: int | None, start: int = 0) -> DataLoader[Any]:
        batches, cuda = self._batches(fold, epoch, start), self.world.device.type == "cuda"
        return loader(fold, batches, workers=self.config.workers, pin_memory=cuda)

    def _evaluation_is_due(self) -> bool:
        return self._due(self.config.evaluate_every or self.steps_per_epoch)

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.total_steps
