"""What goes into the layers of a model over data, as `maths/moments.py` sums it.

For a convolution the vectors are the patches that the `channel` unfolding multiplies, padding
included; each group has its own.
"""

# Shape letters: n columns of W, ... one matrix a group where there is more than one.

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..modes import evaluating
from .maths.decompose import refuse_infinite
from .maths.moments import InputMoments, OutputMoments
from .weights.factored_layers import FactoredConv2d, FactoredLinear, conv_settings
from .weights.stride_padding import Movement

__all__ = ["collect_moments", "forward_batch"]

CHUNK = 2**22
"""Numbers of patches that are unfolded at a time; some 30 MB."""


def forward_batch(model: nn.Module, batch: Any) -> Any:
    """Call a model on a batch: a tensor, or a pair of which the first is the input."""
    return model(batch[0] if isinstance(batch, (tuple, list)) else batch)


def collect_moments(
    model: nn.Module,
    batches: Iterable[Any],
    names: Sequence[str],
    *,
    forward: Callable[[nn.Module, Any], Any] = forward_batch,
    fisher: bool = False,
    matrices: Mapping[str, Tensor] | None = None,
) -> dict[str, InputMoments | OutputMoments]:
    """Run a model in evaluation mode over data, and sum what goes into some of its layers.

    Args:
        model: Left as it was, with its training flags, and without hooks.
        batches: Anything that `forward` takes.
        names: Full names of linear and convolutional layers, factored ones included.
        forward: Calls the model on a batch, on the right device.
        fisher: Whether to collect squared gradients; `forward` must then return a scalar loss. The
            gradient is that of a whole batch: batches of one give the empirical Fisher diagonal.
        matrices: M (..., m, columns) of some of the layers, for which the moments of M x are kept,
            m × m numbers, instead of those of x.

    Returns:
        The sums, by name: `InputMoments`, or `OutputMoments` where there is a matrix.

    Raises:
        ValueError: a name of no layer, or of none whose inputs are counted; no batches; a layer
            that never ran; NaN or infinite inputs; or, with `fisher`, a weight without gradient.
    """
    layers = {name: _layer(model, name) for name in names}
    found: dict[str, Any] = {}
    matrices = matrices or {}
    weights = {n: layer._parameters.get("weight") for n, layer in layers.items()} if fisher else {}
    for name, weight in weights.items():
        if weight is None or not weight.requires_grad:
            raise ValueError(f"{name} has no trained weight, so it has no Fisher diagonal")

    def watch(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else kwargs["input"]
            for vectors in _vectors(layer, x.detach()):
                if name not in found and name in matrices:
                    found[name] = OutputMoments.empty(matrices[name])
                elif name not in found:
                    found[name] = InputMoments.empty(tuple(vectors.shape[:-1]), vectors.device)
                found[name].add(vectors)

        return hook

    handles = [
        layer.register_forward_pre_hook(watch(name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    squares: list[Tensor] = []
    ran = 0
    try:
        with evaluating(model):
            for batch in batches:
                ran += 1
                with torch.set_grad_enabled(fisher):
                    loss = forward(model, batch)
                if not fisher:
                    continue
                gradients = torch.autograd.grad(loss, [cast(Tensor, w) for w in weights.values()])
                new = [g.double().square() for g in gradients]
                squares = [a + b for a, b in zip(squares, new, strict=True)] if squares else new
    finally:
        for handle in handles:
            handle.remove()
    if not ran:
        raise ValueError("batches is empty: there is nothing to take moments of")
    for name in names:
        if name not in found:
            raise ValueError(f"{name} did not run in the forward pass, so it has no inputs")
        if not found[name].count:
            raise ValueError(f"{name} was given empty batches only, which have no moments")
        refuse_infinite(found[name].second, f"the input of {name}")
    for name, square in zip(weights, squares, strict=True):
        found[name].fisher = _matrix(layers[name], square / ran)
    return {name: found[name] for name in names}


def _layer(model: nn.Module, name: str) -> nn.Module:
    layer = dict(model.named_modules()).get(name)
    if layer is None:
        raise ValueError(f"the model has no layer {name!r}")
    if not isinstance(layer, (nn.Linear, nn.Conv2d, FactoredLinear, FactoredConv2d)):
        raise ValueError(
            f"{name} is a {type(layer).__name__}; moments are taken of linear layers and Conv2d"
        )
    return layer


def _vectors(layer: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """Yield all vectors (..., n, N) that the layer's matrix multiplies, some at a time."""
    if not isinstance(layer, (nn.Conv2d, FactoredConv2d)):
        yield x.reshape(-1, x.shape[-1]).mT
        return
    kernel = cast(tuple[int, int], layer.kernel_size)
    movement = Movement.of(
        kernel,
        cast(tuple[int, int], layer.stride),
        cast(Any, layer.padding),
        cast(tuple[int, int], layer.dilation),
        layer.padding_mode,
    )
    images = movement.pad(x.reshape(-1, *x.shape[-3:]))
    still = Movement(movement.stride, dilation=movement.dilation)
    height, width = still.output_size(images.shape[-2:], kernel)
    size = images.shape[1] * kernel[0] * kernel[1] * height * width
    for part in images.split(max(1, CHUNK // size)):
        patches = F.unfold(part, kernel, movement.dilation, 0, movement.stride)
        if layer.groups > 1:
            yield rearrange(patches, "b (g n) place -> g n (place b)", g=layer.groups)
        else:
            yield rearrange(patches, "b n place -> n (place b)")


def _matrix(layer: nn.Module, weight: Tensor) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        return conv_settings(layer, "channel").unfolding.to_matrix(weight)
    return weight
