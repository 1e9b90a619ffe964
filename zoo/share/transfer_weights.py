"""Weights of a model for one with other classes or input channels: what fits is taken over.

Source: the rule for input channels is that of timm's `adapt_input_conv`.
Differs from it: it holds from any number of channels, and not from three only.
"""

from typing import Any

from torch import Tensor, nn

__all__ = ["adapt_input_conv", "take_weights"]


def adapt_input_conv(weight: Tensor, in_chans: int) -> Tensor:
    """Change the input channels of a convolution's kernel.

    Args:
        weight: (O, I, H, W).
        in_chans: At least 1; for 1 the channels are summed, else repeated in turn and scaled by
            I / in_chans.
    """
    channels = weight.shape[1]
    if in_chans == 1:
        return weight.sum(1, keepdim=True)
    repeated = weight.repeat(1, -(-in_chans // channels), 1, 1)[:, :in_chans]
    return repeated * (channels / in_chans)


def take_weights(model: nn.Module, source: nn.Module, *, head: bool, stem: bool) -> list[str]:
    """Copy the weights of a model into one that differs in its classifier, its first layer or both.

    Args:
        model: The new model; changed in place.
        source: The trained one.
        head: Whether the classifiers differ; the new one stays fresh.
        stem: Whether the first layers differ in their input channels; one that is no plain
            convolution stays fresh.

    Returns:
        Names of the modules that stay fresh.

    Raises:
        ValueError: another weight differs in name or shape.
    """
    facts: Any = model.default_cfg
    taken, fresh = source.state_dict(), []
    if head:
        fresh.append(facts["classifier"])
    if stem:
        name = facts["first_conv"]
        old: Any = source.get_submodule(name)
        new: Any = model.get_submodule(name)
        if type(old) is type(new) is nn.Conv2d:
            taken[f"{name}.weight"] = adapt_input_conv(old.weight.detach(), new.in_channels)
        else:
            fresh.append(name)

    def stays_fresh(key: str) -> bool:
        return key.startswith(tuple(f"{name}." for name in fresh))

    taken = {key: value for key, value in taken.items() if not stays_fresh(key)}
    try:
        missing, unknown = model.load_state_dict(taken, strict=False)
    except RuntimeError as error:
        raise ValueError(f"holds weights of another model: {error}") from error
    odd = [key for key in missing if not stays_fresh(key)] + unknown
    if odd:
        raise ValueError(f"holds weights of another model: {odd[0]} is in one of the two only")
    return [name for name in fresh if list(model.get_submodule(name).parameters())]
