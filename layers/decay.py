"""Mark the parameters that weight decay must leave alone, where they are made.

Norm gains and biases are vectors and are recognised by their shape. A pseudo-query matrix, a class
token or a position table is not: the module that makes it says so, once, and every optimiser of
the trainer and every one of timm's honours it.
"""

from torch import nn

__all__ = ["decay_exclusions", "exclude_from_decay"]


def exclude_from_decay(module: nn.Module, *names: str) -> None:
    """Mark parameters of one module as free of weight decay.

    The mark lives on the module and not on the tensor, so it survives `deepcopy`, sharding and
    loading, which replace the tensors.

    Args:
        module: The module that owns the parameters.
        names: Their attribute names.

    Raises:
        ValueError: a name that is no parameter of the module.
    """
    own = dict(module.named_parameters(recurse=False))
    for name in names:
        if name not in own:
            raise ValueError(f"{type(module).__name__} has no parameter {name!r} to mark")
    module.__dict__["_no_decay"] = (*module.__dict__.get("_no_decay", ()), *names)


def decay_exclusions(model: nn.Module) -> set[str]:
    """Collect the full names of all marked parameters of a model.

    A parameter that several modules share, such as a table that is its own head, has its first name
    and is free of decay where one of them marks it.
    """
    marked = {
        id(module._parameters.get(name))
        for module in model.modules()
        for name in module.__dict__.get("_no_decay", ())
    }
    return {name for name, parameter in model.named_parameters() if id(parameter) in marked}
