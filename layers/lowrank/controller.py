"""Carries a low-rank method through training, around the optimiser's updates.

    controller = reparametrize(model, SST(rank=32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    controller.attach(optimizer)                # events then happen inside optimizer.step()

Only steps that the optimiser takes count: neither accumulated micro-batches nor steps that a
gradient scaler skips. A checkpoint's parts are loaded in any order, before `attach` or after it;
only the state of an optimiser whose groups `attach` splits must come after it. A target whose
parameters are all frozen is left alone.
"""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .freeze_others import check_patterns, freeze_others
from .method import Method
from .optim.optimizer_step import check_optimizer, surround_updates
from .target import DenseWeights, Target
from .watched_weights import WatchedWeights
from .weights.resize_parameter import drop_misfitting_state

__all__ = ["Controller"]


class Controller(WatchedWeights):
    """Calls the events of a method on a model's weights, and keeps what a checkpoint must hold.

    Made by `reparametrize`.

    Attributes:
        method: What happens.
        skipped: Candidates that were left out, by name, with the reason.
        trains_also: What `freeze_rest` was given, or None where nothing was frozen.
        spec: What made it by name, or None; whoever saves its targets alone writes that too.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        targets: Mapping[str, Target],
        skipped: Mapping[str, str],
        *,
        seed: int = 0,
        learning_rate_ratio: float = 1.0,
    ) -> None:
        """Watch a model; nothing happens before `attach`."""
        super().__init__(model, targets, seed=seed, learning_rate_ratio=learning_rate_ratio)
        self.method, self.skipped = method, dict(skipped)
        self.trains_also: list[str] | None = None
        self.spec: Any = None
        self._started = False  # or resumed
        self._fixed: list[nn.Parameter] = []
        self._written: DenseWeights | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Controller":
        """Watch the copy of the model; optimiser, twins and held-out data stay with the original.

        Attached to an optimiser of its own, the copy goes on where the original was.
        """
        copied = object.__new__(type(self))
        memo[id(self)] = copied
        left: dict[str, Any] = {
            "optimizers": [],
            "twins": [],
            "held_out": None,
            "_own": set(),
            "_fixed": [],
            "_written": None,
        }
        for name, value in vars(self).items():
            setattr(copied, name, left[name] if name in left else copy.deepcopy(value, memo))
        return copied

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Act around every update of an optimiser from now on.

        Groups that hold both targets and other parameters are split in two, so that the targets can
        have a learning rate of their own; make a learning-rate scheduler after this.

        Raises:
            ValueError: an optimiser that the method cannot work with, one that holds no target, or
                a second one. Nothing is changed then.
        """
        if self.optimizers:
            raise ValueError("the controller is attached already; make one optimiser for the model")
        check_optimizer(optimizer)
        self.method.check_optimizer(optimizer)
        for target in self.targets.values():
            if target.weight is not None:  # sharding replaces parameters
                target.weight = target.module._parameters[target.parameter]
        own = {id(p) for target in self.targets.values() for p in target.parameters()}
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not own & held and not all(target.frozen for target in self.targets.values()):
            raise ValueError(
                f"the optimiser holds no parameter of {next(iter(self.targets))} or another "
                f"target; make it of model.parameters() after the model was reparametrised"
            )
        self._fixed = list(self.fixed().values())
        self._check_fixed()
        self.method.check(self)
        if not self._started:
            self._start()
        self._own = own
        _split_groups(optimizer, own)
        self.optimizers.append(optimizer)
        surround_updates(optimizer, lambda: self._update(optimizer))

    def freeze_rest(self, train_also: Sequence[str] = ()) -> list[str]:
        """Freeze every parameter that is no target's, biases of targets included.

        A checkpoint remembers `train_also`, and a run that resumes it must have frozen the same.

        Args:
            train_also: Patterns on full names of parameters or of modules around them, such as
                `*norm*` or `head`, that are left as they are.

        Returns:
            Names of what was trained before.

        Raises:
            ValueError: a pattern that matches nothing. Nothing is frozen then.
        """
        check_patterns(self.model, train_also)
        own = {id(p) for t in self.targets.values() for p in [*t.parameters(), *t.fixed().values()]}
        self.trains_also = list(train_also)
        return freeze_others(self.model, own, train_also)

    def penalty(self) -> Tensor | None:
        """Return what the method adds to the loss, or None."""
        return self.method.penalty(self)

    def note_loss(self, loss: Tensor) -> None:
        """Tell the method the loss of a micro-batch, before its backward pass; few read it."""
        self.method.note_loss(self, loss)

    def end_task(self) -> None:
        """End a task of a sequence: what it learned stays in the weights, and the next starts anew.

        Raises:
            ValueError: a method that has no tasks.
        """
        self.method.end_task(self, self.optimizers[0] if self.optimizers else None)

    def set_rank(self, rank: int) -> None:
        """Evaluate, train and save at the first components of every target from now on.

        Nothing is lost: a larger rank brings the others back.

        Args:
            rank: From 1 to the largest number of components; a target with fewer runs at all.

        Raises:
            ValueError: a rank outside of that range, or a method that trains one rank only.
        """
        self.method.set_rank(self, rank)

    def report(self) -> dict[str, Any]:
        """Return what the method found out about the weights, as plain values."""
        return self.method.report(self)

    def summary(self) -> str:
        """Say in a line what is a target, and what was left out and why."""
        frozen = [name for name, target in self.targets.items() if target.frozen]
        reasons: dict[str, list[str]] = {"is frozen now": frozen} if frozen else {}
        for name, reason in self.skipped.items():
            reasons.setdefault(reason, []).append(name)
        method, count = type(self.method).__name__, len(self.targets) - len(frozen)
        text = f"{method} on {count} weight{'s' * (count != 1)}"
        if not reasons:
            return text
        each = [f"{_some(names)} ({reason})" for reason, names in reasons.items()]
        return f"{text}; left alone: {', '.join(each)}"

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep beside the model and the optimiser."""
        return {
            "method": type(self.method).__name__,
            "settings": self.method.settings(),
            "targets": list(self.targets),
            "trains_also": self.trains_also,
            "step": self.step,
            "seed": self.seed,
            "started": self._started,
            "state": copy.deepcopy(self.state),  # a run that goes on must not change it
        }

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Refuse what `load_state_dict` would refuse, before the model is loaded.

        Raises:
            ValueError: it is of another method, or of other settings or targets.
        """
        name = type(self.method).__name__
        if state["method"] != name:
            raise ValueError(
                f"the checkpoint was trained with {state['method']}, this run uses {name}; resume "
                f"with the same method, or start a new run from its weights"
            )
        mine = self.method.settings()
        for key, value in state["settings"].items():
            if mine.get(key) != value:
                raise ValueError(
                    f"the checkpoint was trained with {name}({key}={value}), this run has "
                    f"{key}={mine.get(key)}; resume with the same settings"
                )
        if differing := set(state["targets"]) ^ set(self.targets):
            raise ValueError(
                f"the checkpoint and this run disagree on whether {min(differing)} is a target of "
                f"{name}; resume with the same targets"
            )

        if (theirs := state.get("trains_also")) != self.trains_also:
            told = ["nothing else frozen" if t is None else f"all frozen but the targets and {t}"
                    for t in (theirs, self.trains_also)]  # fmt: skip
            raise ValueError(
                f"the checkpoint was trained with {told[0]}, this run has {told[1]}; resume with "
                f"the same call of freeze_rest"
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned, before or after the model, and before `attach` too.

        Raises:
            ValueError: as `check_state_dict`.
        """
        self.check_state_dict(state)
        if self._written is not None:
            self._written.take_back()
            self._written = None
        self.step, self.seed = state["step"], state["seed"]
        self.state = copy.deepcopy(dict(state["state"]))
        self.resized += 1  # loading may have changed ranks
        self._started = state.get("started", True)  # not there before it could be loaded first
        if self._started:
            self.method.resumed(self)
        elif self.optimizers:
            self._start()

    @contextlib.contextmanager
    def _update(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Surround one update; where it fails, the learning rates are again what they were."""
        self._check_fixed()
        self._written, self.scratch = None, {}
        for factors in self.factors().values():
            if factors.refitted:
                drop_misfitting_state(optimizer, factors.left)
                drop_misfitting_state(optimizer, factors.right)
                if factors.core is not None:
                    drop_misfitting_state(optimizer, factors.core)
                factors.refitted = False
        rates = [(group, group["lr"]) for group in optimizer.param_groups]
        try:
            factor = self.learning_rate_ratio * self.method.learning_rate_factor(self)
            for group, rate in rates:
                if self.holds_targets(group):
                    group["lr"] = rate * factor
            self.gradient_scale = getattr(optimizer, "grad_scale", None)
            self.method.before_step(self, optimizer)
            yield
        finally:
            # What a scheduler or a trainer set must be found again by it.
            for group, rate in rates:
                group["lr"] = rate
            self.gradient_scale = None
        self._after_step(optimizer)

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.step += 1
        self.method.after_step(self, optimizer)
        self.scratch = {}

    def _check_fixed(self) -> None:
        """Refuse to train what only events may change; `model.requires_grad_(True)` asks for it."""
        if any(p.requires_grad for p in self._fixed):
            name = next(name for name, p in self.fixed().items() if p.requires_grad)
            raise ValueError(
                f"{name} was made trainable, which {type(self.method).__name__} changes itself and "
                f"never trains; after model.requires_grad_(True), set requires_grad to False for "
                f"every p in controller.fixed().values()"
            )

    def _start(self) -> None:
        """Begin a run; until its first step, what that wrote into dense weights can be undone."""
        written = DenseWeights(self.targets)
        self.method.start(self)
        written.note_changes()
        self._written, self._started = written, True


def _split_groups(optimizer: torch.optim.Optimizer, targets: set[int]) -> None:
    """Give the targets groups of their own."""
    for group in list(optimizer.param_groups):
        inside = [p for p in group["params"] if id(p) in targets]
        if inside and len(inside) < len(group["params"]):
            rest = [p for p in group["params"] if id(p) not in targets]
            group["params"] = inside
            optimizer.param_groups.append({**group, "params": rest})


def _some(names: list[str]) -> str:
    """Name the first few of some weights."""
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")
