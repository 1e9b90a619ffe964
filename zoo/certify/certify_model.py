"""A certificate of any model: a Lipschitz bound that is proved, radii, and an attack on them.

The model's own forward is recorded into a graph (`recording`), whose bound is proved (`bounds`).
With the logits' differences bounded, each sample has a radius (`verdict`). A certificate is a
statement about the recorded function: the weights exactly as stored, or as the forward forms them
in their own precision, in the arithmetic of real numbers; the rounding of its float64 evaluation
is bounded and taken off each margin. What this leaves out for a model, such as the rounding of
activations to half precision, stands on its certificate (`limits`).

A recording shows that samples do not reach one another in the batches that were recorded, of one
and of three samples; it is no proof for every batch size.
"""

# Shape letters: N samples, K classes.

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...layers.hyperbolic import check_geometry
from .bounds import Bounds, evaluation_error, measured
from .certificate import Certificate, Counterexample
from .graph import Graph
from .inputs import check_weights, copied, given, samples_of, std_of
from .limits import limits_of
from .local import with_local_radii
from .lower_bound import steepest_pair
from .projected_ascent import Norm
from .recording import ForwardError, RefusedError, check_equal, graph_of, run_plainly
from .verdict import accuracies, attacked, predictions, radii

__all__ = ["EPS", "Method", "certified_function", "certify"]

EPS = (36 / 255, 72 / 255, 108 / 255)
SHOWN = 2  # samples that a recording is compared with the forward on

Method = Literal["auto", "product", "local"]

INTEGERS = (
    "the model: reads integers, such as tokens, nodes or bytes, between which there is no distance "
    "to be Lipschitz in; give floats, or certify the part behind the embedding"
)


def certify(
    model: nn.Module,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: Sequence[float] = EPS,
    method: Method = "auto",
    norm: Norm = "l2",
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
        model: Any module that maps floats (N, …) to floats (N, …), sample by sample.
        x: Samples as the model reads them (N, …); None certifies the constant alone.
        y: Right classes (N,); None counts every prediction as right.
        eps: Radii of certified accuracy, each at least 0.
        method: `auto` takes the best of product and matrix inequality, `product` leaves the latter
            out, which is faster; `local` is `auto` with a linear relaxation around each sample,
            and each sample has the larger of the two radii.
        norm: Of the radii: `l2`, or with `method="local"` also `linf`.
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
            known, a forward that raises on the samples, or layers of the ball that exchange other
            coordinates or balls than they read.
    """
    started = time.perf_counter()
    steps = (eps,) if isinstance(eps, (int, float)) else eps
    levels = tuple(float(e) for e in steps)
    x, y = given(x), given(y)
    _check(x, y, levels, method, norm, batch_size)
    check_weights(model)
    check_geometry(model)
    own = copied(model)
    samples, shown = samples_of(model, x)
    std = None if input_std is None else std_of(input_std, samples)

    def done(certificate: Certificate) -> Certificate:
        return replace(certificate, seconds=round(time.perf_counter() - started, 3))

    try:
        graph = _graph(own, samples)
        assert samples is not None
        logits, size = torch.zeros(0), []
        if shown:
            logits, size = measured(graph, list(samples.double().split(batch_size)))
            check_equal(graph, logits, _plain(own, samples, batch_size))
    except RefusedError as refusal:
        facts: dict[str, Any] = {"lipschitz": math.inf, "method": "none", "rigorous": False}
        if shown and x is not None:
            plain = _plain(copied(model), x, batch_size)
            if plain.dim() == 2:
                facts |= predictions(plain.double(), y)
                facts |= accuracies(facts, levels)
        return done(Certificate(**facts, norm=norm, reasons=refusal.reasons))
    samples = samples.double()
    if std is not None:
        samples = samples * std.view(-1, *[1] * (samples.dim() - 2))
        graph = graph.behind_division(std)
        if shown:
            logits, size = measured(graph, list(samples.split(batch_size)))
    proof = "auto" if method == "local" else method
    bounds = Bounds(graph, method=proof, verify=verify)
    lipschitz = bounds.lipschitz()
    rows = bounds.rows()
    facts = {
        "lipschitz": lipschitz,
        "method": _method([row.method for row in rows], lipschitz),
        "rigorous": lipschitz < math.inf and all(row.verified for row in rows),
        "per_block": rows,
        "body_lipschitz": bounds.body(),
        "limits": limits_of(graph),
        "kernels": graph.kernels,
    }
    if lipschitz == math.inf:
        facts["reasons"] = ("the model: the product of its bounds is beyond float64",)
    counterexample: Counterexample | None = None
    if estimate and lipschitz < math.inf:
        found, pair = steepest_pair(graph, samples, seed=seed)
        facts["lower_bound"] = found
        # The ratio of two rounded values may exceed the constant by their rounding.
        if found > lipschitz * (1 + 1e-9):
            counterexample = Counterexample(
                f"a search found a ratio of {found:.9g}, above the bound of {lipschitz:.9g}", *pair
            )
        elif all(row.verified for row in rows):
            facts["lower_bound"] = min(found, lipschitz)
    if shown:
        facts |= predictions(logits, y)
        if lipschitz < math.inf:
            facts |= radii(logits, bounds.pairs(), evaluation_error(graph, size))
        if method == "local":
            facts |= with_local_radii(graph, samples, facts, norm)
        facts |= accuracies(facts, levels)
        if attack:
            options = {
                "steps": attack_steps, "restarts": attack_restarts, "seed": seed, "norm": norm,
            }  # fmt: skip
            found_facts, fallen = attacked(graph, samples, facts, levels, batch_size, options)
            facts |= found_facts
            counterexample = counterexample or fallen
    certificate = Certificate(**facts, norm=norm)
    return done(certificate if counterexample is None else certificate.refuted_by(counterexample))


def certified_function(model: nn.Module, x: Tensor) -> Graph:
    """Return the function that a certificate of a model speaks of, in float64.

    Args:
        model: As in `certify`.
        x: Samples as the model reads them (N, …).

    Raises:
        RefusedError: there is no such function, with the reasons.
    """
    return _graph(copied(model), x.detach().cpu())


def _graph(model: nn.Module, samples: Tensor | None) -> Graph:
    """Record a model, for the type that it computes in."""
    if samples is None or not samples.is_floating_point():
        raise RefusedError(INTEGERS)
    return graph_of(model, samples[:SHOWN].to(_dtype(model, samples)))


def _plain(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """Return what the forward itself returns for samples, in the type that it computes in."""
    x = x.to(_dtype(model, x)) if x.is_floating_point() else x
    try:
        with torch.no_grad():
            found = [run_plainly(model, batch) for batch in x.split(batch_size)]
    except ForwardError as error:
        if x.is_floating_point():
            raise
        raise ValueError(f"x holds {x.dtype}, which the model cannot read: {error}") from error
    if not all(isinstance(part, Tensor) and part.dim() for part in found):
        return torch.zeros(len(x), 1)
    return torch.cat(found)


def _dtype(model: nn.Module, x: Tensor) -> torch.dtype:
    floats = (t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point())
    return next((t.dtype for t in floats), x.dtype)


def _method(methods: Sequence[str], lipschitz: float) -> str:
    if lipschitz == math.inf:
        return "none"
    return next((m for m in ("lmi", "construction", "product", "exact") if m in methods), "product")


def _check(
    x: Tensor | None,
    y: Tensor | None,
    eps: tuple[float, ...],
    method: str,
    norm: str,
    batch_size: int,
) -> None:
    if method not in ("auto", "product", "local"):
        raise ValueError(f"method must be 'auto', 'product' or 'local', got {method!r}")
    if norm not in ("l2", "linf"):
        raise ValueError(f"norm must be 'l2' or 'linf', got {norm!r}")
    if norm == "linf" and method != "local":
        raise ValueError(
            f"norm='linf' is for method='local', got method={method!r}; a Lipschitz bound is in "
            f"the L2 norm"
        )
    if method == "local" and x is None:
        raise ValueError("method='local' certifies samples; give x")
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
