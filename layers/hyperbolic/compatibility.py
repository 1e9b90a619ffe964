"""What two layers exchange, where their order can be seen: coordinates and ball must agree.

A tangent of one ball is a valid tangent of another, and a velocity is a vector like any, so nothing
at run time notices a layer that reads something else than it gets. What can be seen is the order of
an `nn.Sequential`, and of those within it, and that a module has no weights but those of balls.
What a `forward` of one's own does with its layers cannot be seen.
"""

from collections.abc import Iterator

from torch import nn

from .curvature import BallCurvature, ChangeBall, ball_of, check_one_ball

__all__ = ["check_geometry"]

# What passes vectors of any kind on, each coordinate or place for itself.
TRANSPARENT = (
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Softplus, nn.Sigmoid),
)


def check_geometry(module: nn.Module) -> None:
    """Refuse layers that read other coordinates, or another ball, than the layer before returns.

    `create_model` and `certify` call it. In an `nn.Sequential`, two layers of the ball with only
    activations, dropout or reshaping between them exchange the same coordinates of the same ball;
    a layer with flat weights between them begins anew. A module all of whose matrices belong to
    layers of the ball is in one ball (`check_one_ball`), whatever calls them.

    Raises:
        ValueError: naming the two layers, what one returns and what the other reads.
    """
    inner = {
        id(child)
        for part in module.modules()
        if isinstance(part, nn.Sequential)
        for child in part.children()
    }
    for name, part in module.named_modules():
        if isinstance(part, nn.Sequential) and id(part) not in inner:
            _check_chain(list(_chain(name, part)))
    if not any(_is_flat(part) for part in module.modules()):
        check_one_ball(module)


def _chain(name: str, part: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of nested sequences in the order in which they run."""
    if not isinstance(part, nn.Sequential):
        yield name, part
        return
    for key, child in part._modules.items():  # a layer may stand twice
        if child is not None:
            yield from _chain(f"{name}.{key}" if name else key, child)


def _check_chain(layers: list[tuple[str, nn.Module]]) -> None:
    before: tuple[str, str, object, float] | None = None
    for name, layer in layers:
        if isinstance(layer, TRANSPARENT):
            continue
        if isinstance(layer, ChangeBall):
            reads = returns = "tangent"
            entered, left = layer.source, layer.target
        elif isinstance(ball := getattr(layer, "curvature", None), BallCurvature):
            reads = getattr(layer, "input", "tangent")
            returns = getattr(layer, "output", "tangent")
            entered = left = ball
        else:
            before = None
            continue
        if before is not None:
            last, given, key, value = before
            if given != reads:
                raise ValueError(
                    f"{name!r} reads input={reads!r}, but {last!r} before it returns "
                    f"output={given!r}; give both the same coordinates, or map between them"
                )
            if key != ball_of(entered):
                raise ValueError(
                    f"{name!r} lies in the ball of {entered.initial:.4g}, {last!r} before it in "
                    f"that of {value:.4g}; give both one BallCurvature, or map between the balls "
                    f"on purpose with ChangeBall"
                )
        # Logits are no point that a layer could read.
        before = (name, returns, ball_of(left), left.initial) if returns != "logits" else None


def _is_flat(part: nn.Module) -> bool:
    """Whether a module has a matrix of its own and no ball."""
    ball = isinstance(getattr(part, "curvature", None), BallCurvature)
    return not ball and any(p.dim() > 1 for p in part.parameters(recurse=False))
