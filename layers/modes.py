"""Evaluation mode on and off: the one place that switches the mode of a model that exists."""

import contextlib
from collections.abc import Iterable, Iterator

from torch import nn

__all__ = ["evaluating"]


@contextlib.contextmanager
def evaluating(model: nn.Module, *, training: Iterable[nn.Module] = ()) -> Iterator[None]:
    """Run a block in evaluation mode, and give every module the mode back that it had.

    `model.train(model.training)` afterwards would thaw what a user froze: a batch norm in
    evaluation mode inside a network in training. So the mode is kept module by module, also when
    the block raises. Contexts may be nested, and modules may be shared. A module that the block
    adds keeps the mode that it has then, and one that the block takes out gets its own back.

    A class with a `train` of its own, which may do more than set a flag, is switched by it in both
    directions. A model that is in evaluation mode throughout is not touched.

    Args:
        model: Any module.
        training: Modules that run in training mode inside, such as batch norms that are to use the
            statistics of their batch; without their children.
    """
    modes = [(module, module.training) for module in model.modules()]
    apart = list(training)
    known = {id(module) for module, _ in modes}
    modes += [(module, module.training) for module in apart if id(module) not in known]
    try:
        if any(mode for _, mode in modes):
            model.eval()
        for module in apart:
            module.training = True
        yield
    finally:
        # From the root on: what a `train` sets below it is put right after it.
        for module, mode in modes:
            if module.training != mode and _has_its_own_train(module):
                module.train(mode)
        for module, mode in modes:
            if module.training != mode:
                module.training = mode


def _has_its_own_train(module: nn.Module) -> bool:
    return getattr(module.train, "__func__", None) is not nn.Module.train
