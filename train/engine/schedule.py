"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to restore."""

import math

__all__ = ["SCHEDULES", "learning_rate_factor"]

SCHEDULES = ("constant", "linear", "cosine", "wsd")


def learning_rate_factor(
    step: int, total: int, *, name: str, warmup: float, cooldown: float, final: float
) -> float:
    """Return the factor on the base learning rate for a step.

    After a linear warm-up, with t from 0 to 1 over the remaining steps:

        constant  1
        linear    1 - (1 - final) t
        cosine    final + (1 - final) (1 + cos π t) / 2
        wsd       1, then linear down to `final` over the last `cooldown` share of all steps

    Args:
        step: Optimiser steps done before this one, 0 ≤ step < total.
        total: Optimiser steps of the run.
        name: One of `SCHEDULES`.
        warmup: Share of all steps, in [0, 1].
        cooldown: Share of all steps, in (0, 1]; `wsd` only.
        final: Factor at the end, in [0, 1].

    Source of `wsd`: Hu et al. 2024, MiniCPM, arXiv:2404.06395, §4.
    """
    warm = round(warmup * total)
    if step < warm:
        return (step + 1) / warm
    t = (step - warm) / max(1, total - 1 - warm)
    if name == "constant":
        return 1.0
    if name == "linear":
        return 1.0 - (1.0 - final) * t
    if name == "cosine":
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * t))
    if name == "wsd":
        down = max(1, round(cooldown * total))
        share = max(0, step - (total - 1 - down)) / down
        return 1.0 - (1.0 - final) * share
    raise ValueError(f"schedule.name must be one of {', '.join(SCHEDULES)}, got {name!r}")
