"""A certificate of any model: a Lipschitz bound that is proved, radii, and an attack on them.

With f the logits, L their constant and f_y the largest logit, the predicted class stays within

    r = min_j (f_y − f_j − 2δ) / min(√2 L, L_body ‖w_y − w_j‖)

of a sample, in the L2 norm: differences of two logits have the constant √2 L, and behind a linear
head with rows w also L_body ‖w_y − w_j‖. δ bounds the rounding of the logits. A certificate is a
statement about the float64 evaluation of the deployed weights, which are taken exactly as stored.

Sources: Tsuzuku et al. 2018, arXiv:1802.04034 (margin radius); Leino et al. 2021, arXiv:2102.08452
(pairwise); Jin et al. 2022, arXiv:2205.10159 (rounding breaks certificates that ignore it).
Differs from them: bounds are proved in floating point (`layers.lipschitz.proof.norms`), and every
certificate is attacked before it is returned.
"""

# Shape letters: N samples, K classes.

import math
import time
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...layers.hyperbolic import PoincareMLR, check_geometry
from ...layers.lipschitz import LinearWeight, LipschitzLayer
from ...layers.lipschitz.proof.norms import gamma, product_up, root_up
from ..network import Network
from .certificate import Certificate
from .float64_model import Scaled, deployed, hooked_modules, look, refuse_nan
from .lower_bound import lipschitz_estimate
from .pgd import attack as search_ball
from .pgd import margin_loss
from .rules import Bound, Value, Walk, body_and_head, whole_chain
from .rules.ball_layers import logit_constants

__all__ = ["EPS", "certify"]

EPS = (36 / 255, 72 / 255, 108 / 255)
INSIDE = 0.999999999  # of a radius: where the attack must fail

Method = Literal["auto", "product"]


def certify(
    model: nn.Module,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: Sequence[float] = EPS,
    method: Method = "auto",
    input_std: float | Sequence[float] | None = None,
    verify: bool = True,
    attack: bool = True,
    attack_steps: int = 40,
    attack_restarts: int = 1,
    estimate: bool = True,
    batch_size: int = 256,
    seed: int = 0,
) -> Certificate:
    """Bound a model's Lipschitz constant and certify its predictions.

    The model is copied; it may lie on any device and in any mode and precision.

    Args:
        model: A model of the zoo, or a sequence of layers.
        x: Samples as the model reads them (N, …); None certifies the constant alone.
        y: Right classes (N,); None counts every prediction as right.
        eps: L2 radii of certified accuracy, each at least 0.
        method: `auto` takes the best of product and matrix inequality, `product` leaves the latter
            out, which is faster.
        input_std: What inputs were divided by, one number or one per channel: radii are then in
            the units before the division, such as pixels. None if they were not.
        verify: Whether layers that are Lipschitz by construction are proved on their weights; False
            believes them, and the certificate is not rigorous.
        attack: Whether to attack every sample inside its radius and at every ε.
        attack_steps: Gradients of each attack.
        attack_restarts: Restarts of each attack.
        estimate: Whether to search for a lower bound of the constant.
        batch_size: Samples evaluated at once.
        seed: Of attack and search.

    Raises:
        ValueError: NaN weights, a number or shape out of range, no x where the input's shape is not
            known, or layers of the ball that exchange other coordinates or balls than they read.
    """
    started = time.perf_counter()
    radii = tuple(float(e) for e in eps)
    _check(x, y, radii, method, batch_size)
    refuse_nan(model)
    check_geometry(model)
    wide = deployed(model)
    hooked = hooked_modules(wide)
    samples, shown = _samples(model, x)
    runner, scale = wide, 1.0
    if input_std is not None and samples is not None:
        std = _std(input_std, samples)
        runner, scale = Scaled(wide, std).eval(), math.nextafter(1 / float(std.min()), math.inf)
        samples = samples * std.view(-1, *[1] * (samples.dim() - 2))
    batches = [] if samples is None else list(samples.split(batch_size))
    logits, seen = look(runner, batches, every=shown)
    walk = Walk(seen, method=method, verify=verify, hooked=hooked)
    size = 0.0 if samples is None else float(samples.flatten(1).norm(dim=1).max())
    entered = Value(1.0, 0.0, size).through(Bound(scale, gamma(2) * size * scale), size * scale)
    body, head, name = body_and_head(walk, wide, entered)
    total = body
    if head is not None:
        returned = walk.sight(head).returned
        total = body.through(walk.bound(head, name), returned)
    whole = whole_chain(walk, wide)
    if product_up(scale, whole) < total.lipschitz:
        walk.note("whole network", whole, "lmi")
        total = total._replace(lipschitz=product_up(scale, whole))
    lipschitz = total.lipschitz
    facts: dict[str, Any] = {
        "lipschitz": lipschitz,
        "method": _method(walk, lipschitz),
        "rigorous": verify and lipschitz < math.inf,
        "per_block": tuple(walk.rows),
        "reasons": tuple(dict.fromkeys(walk.reasons)) if lipschitz == math.inf else (),
        "body_lipschitz": body.lipschitz,
    }
    if estimate and samples is not None and samples.is_floating_point() and lipschitz < math.inf:
        found = lipschitz_estimate(runner, samples, seed=seed)
        # The ratio of two rounded values may exceed the constant by their rounding.
        assert not verify or found <= lipschitz * (1 + 1e-9), (found, lipschitz)
        facts["lower_bound"] = min(found, lipschitz) if verify else found
    if shown and samples is not None:
        facts |= _radii(torch.cat(logits), body, total, head, y)
        facts |= _accuracies(facts, radii)
        if attack:
            options = {"steps": attack_steps, "restarts": attack_restarts, "seed": seed}
            facts |= _attacked(runner, samples, facts, radii, batch_size, options)
    return Certificate(**facts, seconds=round(time.perf_counter() - started, 3))


def _samples(model: nn.Module, x: Tensor | None) -> tuple[Tensor | None, bool]:
    """Return inputs in float64, and whether they are the user's samples."""
    if x is not None:
        x = x.detach().cpu()
        return (x.double() if x.is_floating_point() else x), True
    if isinstance(model, Network):
        shape = model.default_cfg.get("input_size")
        if shape is None or "vocab_size" in model.default_cfg:
            return None, False  # tokens and nodes, which no rule looks at
    else:
        leaves = [m for m in model.modules() if not list(m.children())]
        width = getattr(leaves[0], "in_features", None) if leaves else None
        if width is None:
            raise ValueError(
                f"x is needed to certify a {type(model).__name__}: the shape of its input is not "
                f"known; give a few samples"
            )
        shape = (width,)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, *shape, generator=generator, dtype=torch.float64), False


def _std(input_std: float | Sequence[float], samples: Tensor) -> Tensor:
    std = torch.as_tensor(input_std, dtype=torch.float64).flatten()
    if not bool(((std > 0) & std.isfinite()).all()) or len(std) not in (1, samples.shape[1]):
        raise ValueError(
            f"input_std must hold one positive number, or one for each of the {samples.shape[1]} "
            f"channels, got {input_std}"
        )
    return std


def _method(walk: Walk, lipschitz: float) -> str:
    if lipschitz == math.inf:
        return "none"
    methods = {row.method for row in walk.rows}
    return next((m for m in ("lmi", "construction") if m in methods), "product")


def _radii(
    logits: Tensor, body: Value, total: Value, head: nn.Module | None, y: Tensor | None
) -> dict[str, Any]:
    """Return each sample's prediction and certified radius."""
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"radii need logits (N, K) of at least 2 classes, the model returned "
            f"{tuple(logits.shape)}; leave x out to bound the constant alone"
        )
    predicted = logits.argmax(1)
    right = torch.ones(len(logits), dtype=torch.bool) if y is None else predicted == y.cpu()
    facts = {"predicted": predicted, "correct": right, "clean_accuracy": _share(right)}
    if not total.lipschitz < math.inf:
        return {**facts, "radius": torch.zeros(len(logits), dtype=torch.float64), "slack": 0.0}
    # Twice for the sample, and as much again for the point that an attack moves it to.
    slack = product_up(4.0, total.error)
    margins = logits.gather(1, predicted[:, None]) - logits - slack
    whole = product_up(root_up(2.0), total.lipschitz)
    constants = _pairs(head, body.lipschitz, logits.shape[1]).clamp_max(whole)
    ratios = margins / constants[predicted] * (1 - 8 * 2.0**-53)
    ratios.scatter_(1, predicted[:, None], math.inf)
    radius = ratios.amin(1).clamp_min(0.0)
    return {**facts, "radius": radius, "slack": slack}


def _pairs(head: nn.Module | None, lipschitz: float, classes: int) -> Tensor:
    """Bound the constants of all differences of two logits."""
    w = _rows(head)
    if w is not None and len(w) == classes:
        spread = torch.stack([(row - w).norm(dim=1) for row in w])
        spread = spread * (1 + gamma(w.shape[1] + 16)) + 1e-300
    elif isinstance(head, PoincareMLR) and head.clip is not None:
        each = torch.tensor(logit_constants(head), dtype=torch.float64)
        spread = (each[:, None] + each) * (1 + gamma(2))
    else:
        return torch.full((classes, classes), math.inf, dtype=torch.float64)
    return spread * lipschitz * (1 + gamma(2))


def _rows(head: nn.Module | None) -> Tensor | None:
    """Return the matrix of a linear head, or None."""
    if type(head) is nn.Linear:
        return head.weight.detach().double()
    if isinstance(head, LipschitzLayer):
        weights = head.effective()
        return weights.weight.double() if isinstance(weights, LinearWeight) else None
    return None


def _accuracies(facts: dict[str, Any], radii: tuple[float, ...]) -> dict[str, Any]:
    shares = {e: _share(facts["correct"] & (facts["radius"] > e)) for e in radii}
    return {"certified_accuracy": shares}


def _attacked(
    model: nn.Module,
    x: Tensor,
    facts: dict[str, Any],
    radii: tuple[float, ...],
    batch_size: int,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Attack inside every radius and at every ε; what falls though it was certified is counted."""
    radius, predicted, right = facts["radius"], facts["predicted"], facts["correct"]
    fallen = torch.zeros_like(right)
    margins = []
    inside = (radius > 0).nonzero().squeeze(1)
    for rows in inside.split(batch_size) if len(inside) else ():
        centre, classes = x[rows], predicted[rows]
        moved = search_ball(model, centre, classes, INSIDE * radius[rows],
                            norm="l2", box=None, **options)  # fmt: skip
        with torch.no_grad():
            before, after = margin_loss(model(centre), classes), margin_loss(model(moved), classes)
        fallen[rows] = ~(after < 0)
        margins.append(after / before)
    standing, attacked = right.clone(), {}
    for e in sorted(radii):
        left = standing.nonzero().squeeze(1)
        for rows in left.split(batch_size) if len(left) else ():
            moved = search_ball(model, x[rows], predicted[rows], e,
                                norm="l2", box=None, **options)  # fmt: skip
            with torch.no_grad():
                standing[rows] = model(moved).argmax(1) == predicted[rows]
        fallen |= right & ~standing & (radius > e)
        attacked[e] = _share(standing)
        assert attacked[e] <= facts["clean_accuracy"]
    violations = int(fallen.sum())
    for e in radii:  # a certified sample that fell has been counted
        assert violations or facts["certified_accuracy"][e] <= attacked[e]
    return {
        "attacked_accuracy": {e: attacked[e] for e in radii},
        "attack_violations": violations,
        "attacked_samples": len(inside),
        "attack_margin": float(torch.cat(margins).median()) if margins else None,
    }


def _share(values: Tensor) -> float:
    return float(values.double().mean())


def _check(
    x: Tensor | None, y: Tensor | None, eps: tuple[float, ...], method: str, batch_size: int
) -> None:
    if method not in ("auto", "product"):
        raise ValueError(f"method must be 'auto' or 'product', got {method!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if not all(0 <= e < math.inf for e in eps):
        raise ValueError(f"eps must hold finite radii of at least 0, got {eps}")
    if y is not None and x is None:
        raise ValueError("y is given without x; give the samples too")
    if x is not None and (x.dim() < 2 or len(x) < 1):
        raise ValueError(f"x must be samples (N, …) with N >= 1, got shape {tuple(x.shape)}")
    if x is not None and x.is_floating_point() and not bool(x.isfinite().all()):
        raise ValueError("x holds NaN or infinite values; give finite samples")
    if x is not None and y is not None and y.shape != x.shape[:1]:
        raise ValueError(f"y must be classes ({len(x)},), got shape {tuple(y.shape)}")
