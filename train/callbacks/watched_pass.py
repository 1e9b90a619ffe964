"""One forward pass of a network as hooks see it: inputs, logits, and what every block hands on."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ...zoo.depth import block_outputs

__all__ = ["WatchedPass"]


class WatchedPass:
    """What the last wanted forward pass of a model took and gave.

    Attributes:
        inputs: Of the model, without a graph.
        logits: What it returned.
        features: What each block handed on, in order.
    """

    def __init__(self) -> None:
        """Hold nothing."""
        self.forget()

    def forget(self) -> None:
        """Let go of the tensors."""
        self.inputs: Tensor | None = None
        self.logits: Tensor | None = None
        self.features: list[Tensor] = []

    def watch(self, model: nn.Module, features: bool, wanted: Callable[[], bool]) -> None:
        """Keep the inputs, the logits and, if asked for, the features of every wanted pass."""

        # Functions and no methods: a copy of the model shares them, as an average of weights does,
        # and copies no teacher. A copy is never trained, so no pass of its own is wanted.
        def enters(module: nn.Module, given: tuple[Any, ...]) -> None:
            if module is model and wanted():
                self.forget()
                self.inputs = given[0].detach()

        def leaves(module: nn.Module, given: tuple[Any, ...], logits: Tensor) -> None:
            if module is model and wanted():
                self.logits = logits

        model.register_forward_pre_hook(enters)
        model.register_forward_hook(leaves)
        if not features:
            return
        own = set()
        for part, by_input in block_outputs(model):
            own.add(part)

            def reads(module: nn.Module, given: tuple[Any, ...]) -> None:
                if module in own and wanted():
                    self.features.append(given[0])

            def gives(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
                if module in own and wanted():
                    self.features.append(output)

            if by_input:
                part.register_forward_pre_hook(reads)
            else:
                part.register_forward_hook(gives)
