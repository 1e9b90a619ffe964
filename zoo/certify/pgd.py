"""Attacks within a ball around each sample: PGD and APGD in the L2 and the L∞ norm.

    worst z in {z : ‖z − x‖ ≤ ε, lower ≤ z ≤ upper}, found by projected gradient ascent
    (`projected_ascent`)

An attack breaks at most what can be broken: what it leaves standing may still fall, so its figures
are published as "APGD, k steps, r restarts", never as robustness.

ε and the box are in the units of x: those of what the model reads.

Sources: Goodfellow et al. 2015, arXiv:1412.6572 (FGSM); Madry et al. 2018, arXiv:1706.06083 (PGD);
Croce and Hein 2020, arXiv:2003.01690, algorithm 1 (APGD); Carlini and Wagner 2017,
arXiv:1608.04644, f₆ (the margin loss).
Differs from them: the point returned is the visited one with the greatest margin loss, whichever
loss was climbed.
"""

# Shape letters: N samples, K classes.

import hashlib
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .projected_ascent import Box, Norm, Place, Region, like, search

__all__ = ["FGSM", "Loss", "Method", "Model", "attack", "correct", "fgsm", "margin_loss"]

Model = Callable[[Tensor], Tensor]
Loss = Literal["margin", "cross_entropy"]
Method = Literal["pgd", "apgd"]

FGSM: dict[str, Any] = {
    "method": "pgd",
    "loss": "cross_entropy",
    "steps": 1,
    "step_size": 1.0,
    "random_start": False,
}
"""Options of `attack` and `adversarial_accuracy` that make them the fast gradient sign method."""


def margin_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return max_{j≠y} z_j − z_y per sample: positive where the prediction is wrong.

    Shape:
        logits (N, K), K ≥ 2, and y (N,) -> (N,).
    """
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return others - logits.gather(1, y[:, None]).squeeze(1)


def correct(logits: Tensor, y: Tensor) -> Tensor:
    """Whether each sample is classified right; logits that are not finite are wrong."""
    return (logits.argmax(1) == y) & logits.isfinite().all(1)


def attack(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor,
    *,
    norm: Norm = "linf",
    method: Method = "apgd",
    loss: Loss = "margin",
    steps: int = 40,
    restarts: int = 1,
    step_size: float | None = None,
    random_start: bool = True,
    box: Box | None = (0.0, 1.0),
    seed: int = 0,
) -> Tensor:
    """Search each sample's ball for the point that is classified worst.

    Computes in the dtype of x; for float64 give a float64 model and float64 samples. The model's
    parameters, their gradients and the global generators are left alone.

    Args:
        model: Samples to logits (N, K), each sample on its own; a module in eval mode.
        x: Samples (N, …), inside the box.
        y: Right classes (N,).
        eps: Radius ε ≥ 0, a number or one per sample (N,).
        norm: `l2` or `linf`, over all values of a sample.
        method: `pgd` or `apgd`.
        loss: What is climbed: `margin` or `cross_entropy`.
        steps: Gradients taken in each restart, at least 1.
        restarts: Searches, at least 1; the first k are those of a call with k restarts.
        step_size: PGD's step as a share of ε; None is 2.5/steps. APGD chooses its own.
        random_start: Whether a search starts at a uniform draw from the ball, or else at x.
        box: Least and greatest value of a coordinate; None is no box.
        seed: Of the draws.

    Returns:
        Samples as x, at most ε from it up to the rounding of x + δ: for each the visited point,
        x among them, with the greatest margin loss.

    Raises:
        ValueError: a name, number or shape that does not fit, a model in training mode, samples
            outside the box, or logits of another shape.
    """
    _check(model, x, y, norm, method, loss, steps, restarts, step_size, random_start, box)
    region = Region(x.detach(), _radius(eps, x), norm, box)
    adaptive = method == "apgd"
    share = 2.0 if adaptive else step_size or 2.5 / steps

    def climb(z: Tensor) -> Place:
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            logits = model(z)
            if logits.dim() != 2 or len(logits) != len(y) or logits.shape[1] < 2:
                raise ValueError(
                    f"the model must return logits (N, K) of at least 2 classes, "
                    f"got {tuple(logits.shape)}"
                )
            margin = margin_loss(logits, y)
            value = margin if loss == "margin" else F.cross_entropy(logits, y, reduction="none")
            (slope,) = torch.autograd.grad(value.sum(), z)
        # Logits that are NaN are as wrong as can be.
        margin, value = (v.detach().nan_to_num(torch.inf) for v in (margin, value))
        return Place(z.detach(), value, margin, slope)

    worst = climb(region.centre)
    for restart in range(restarts):
        generator = torch.Generator().manual_seed(_key(seed, restart))
        start = climb(region.sample(generator)) if random_start else worst
        found = search(climb, region, start, steps, share, adaptive, generator)
        worst = worst.replaced(found.margin > worst.margin, found)
    return worst.z


def fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor,
    *,
    norm: Norm = "linf",
    loss: Loss = "cross_entropy",
    box: Box | None = (0.0, 1.0),
) -> Tensor:
    """Take one step of length ε from x along the gradient; x itself where that is worse.

    Arguments, result and errors are those of `attack`.
    """
    return attack(model, x, y, eps, norm=norm, box=box, **{**FGSM, "loss": loss})


def _key(seed: int, restart: int) -> int:
    """Mix two integers to a generator's seed, below 2^63."""
    return int.from_bytes(hashlib.sha256(f"{seed},{restart}".encode()).digest()[:8], "big") >> 1


def _radius(eps: float | Tensor, x: Tensor) -> Tensor:
    radius = torch.as_tensor(eps, dtype=x.dtype, device=x.device)
    if radius.dim() == 0:
        radius = radius.expand(len(x))
    if radius.shape != (len(x),):
        raise ValueError(
            f"eps must be a number or one per sample ({len(x)},), got {tuple(radius.shape)}"
        )
    if not bool(((radius >= 0) & radius.isfinite()).all()):
        raise ValueError(f"eps must be finite and at least 0, got {eps}")
    return like(radius, x)


def _check(
    model: Model,
    x: Tensor,
    y: Tensor,
    norm: str,
    method: str,
    loss: str,
    steps: int,
    restarts: int,
    step_size: float | None,
    random_start: bool,
    box: Box | None,
) -> None:
    """Refuse what would attack something else than was meant."""
    choices = {
        "norm": (norm, ("l2", "linf")),
        "method": (method, ("pgd", "apgd")),
        "loss": (loss, ("margin", "cross_entropy")),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    for name, value in {"steps": steps, "restarts": restarts}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if step_size is not None and (method == "apgd" or not step_size > 0):
        raise ValueError(f"step_size is for pgd and must be above 0, got {step_size} for {method}")
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts={restarts} without random_start would repeat one search")
    if isinstance(model, nn.Module) and model.training:
        raise ValueError("the model is in training mode; call model.eval() before an attack")
    if not x.is_floating_point() or x.dim() < 2 or y.shape != x.shape[:1]:
        raise ValueError(
            f"x must be floats (N, …) with classes (N,), got {x.dtype} {tuple(x.shape)} and "
            f"{tuple(y.shape)}"
        )
    if box is not None and not bool(((x >= box[0]) & (x <= box[1])).all()):
        raise ValueError(
            f"x must lie in the box {box}, got values from {float(x.min()):.4g} to "
            f"{float(x.max()):.4g}; put the normalisation behind the attack (FromPixels), or give "
            f"another box"
        )
