"""What a branch declares of itself, so that nobody reads its role off the names of its parts.

A branch is any module. What others must know of it are four attributes, each with a default:

    views               names of the inputs that it takes in place of one tensor, such as
                        `("query", "key", "value")`; by default (), one tensor
    mixes_heads         whether it may be called with `mix=`, which maps its keys and values
                        (B, heads, T, d) to those that it attends to; by default not
    output_weight       the weight W of its last linear map, y = W h + b: zeros make the branch a
                        constant. By default the `weight` of the last of its parts, in order of
                        registration, that has one, as torch's layers and norms do
    value_projections   parameters, or rows of parameters, that values pass through before W; what
                        it leaves out decides only where the branch looks. By default the branch is
                        all values: every parameter of two axes or more

A class attribute or a property declares them, also on a part inside a branch. They are asked for at
every use, so a weight that was exchanged in the meantime is the one that counts.
"""

from collections.abc import Iterator

from torch import Tensor, nn

__all__ = ["mixes_heads_of", "output_weight_of", "value_weights_of", "views_of"]


def views_of(branch: nn.Module) -> tuple[str, ...]:
    """Names of the inputs that a branch takes in place of one tensor; () for one."""
    return getattr(branch, "views", ())


def mixes_heads_of(branch: nn.Module) -> bool:
    """Whether a branch hands out its keys and values to be mixed."""
    return getattr(branch, "mixes_heads", False)


def output_weight_of(branch: nn.Module) -> Tensor | None:
    """Weight of the last linear map of a branch, or None where no part of it has one.

    Two factors with an activation between them have no single weight, and count as none.
    """
    return next(_from_the_end(branch), None)


def value_weights_of(branch: nn.Module) -> list[Tensor]:
    """Weights that values pass through on their way out of a branch, each once.

    They are the value projections and the output weight of every part that declares them, and all
    matrices of the others, to be changed in place.

    Raises:
        ValueError: a declared weight that is no parameter of the branch and no rows of one, such as
            the product of two factors: a change of it would be lost.
    """
    found: dict[int, Tensor] = {}
    parameters = {id(p) for p in branch.parameters()}
    inside: set[nn.Module] = set()
    for part in branch.modules():
        if part in inside:
            continue
        declared = getattr(part, "value_projections", None)
        if declared is None:
            own = [p for p in part.parameters(recurse=False) if p.dim() > 1]
        else:
            inside.update(part.modules())
            own = [w for w in (*declared, output_weight_of(part)) if w is not None]
        for weight in own:
            if id(weight if weight._base is None else weight._base) not in parameters:
                raise ValueError(
                    f"{type(part).__name__} declares a value projection of shape "
                    f"{tuple(weight.shape)} that is neither a parameter nor rows of one; scale "
                    f"branches before their weights are factored"
                )
            found[id(weight)] = weight
    return list(found.values())


def _from_the_end(branch: nn.Module) -> Iterator[Tensor | None]:
    """Yield the weights of a branch's parts, the last first; None for a pair without one."""
    if hasattr(type(branch), "output_weight"):
        yield branch.output_weight  # type: ignore[misc]
    elif not getattr(branch, "is_matrix", True):
        yield None
    elif isinstance(weight := getattr(branch, "weight", None), Tensor):
        yield weight
    else:
        for part in reversed(list(branch.children())):
            yield from _from_the_end(part)
