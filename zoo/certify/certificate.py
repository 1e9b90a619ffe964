"""What `certify` returns: numbers that are proved, numbers that are sampled, and how to show them.

`lipschitz`, `radius` and `certified_accuracy` are proved; `lower_bound` and `attacked_accuracy` are
found by search. Every certificate satisfies

    lower_bound ≤ lipschitz,      certified ≤ attacked ≤ clean accuracy at every ε.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..inspect.plots import new_figure
from ..share.atomic_write import replacing
from .bounds import Row

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

__all__ = ["Certificate", "Counterexample", "plot_certificate"]

SHOWN = 12  # reasons in the table


class Counterexample(NamedTuple):
    """Two points that a certificate does not allow.

    Attributes:
        reason: What they show.
        first: A sample, or one end of a pair.
        second: The point that an attack moved it to, or the other end.
        radius: The radius that was claimed, or None where the constant is refuted.
    """

    reason: str
    first: Tensor
    second: Tensor
    radius: float | None = None


@dataclass(frozen=True)
class Certificate:
    """A Lipschitz bound of a network and the radii that follow from it.

    Attributes:
        lipschitz: A bound of ‖f(x) − f(z)‖/‖x − z‖ over all inputs, in the units of ε, rounded up;
            infinity where there is none.
        method: `lmi` (the matrix inequality took part), `construction` (layers' own multipliers
            did), `product`, `exact` (the norm of one linear map), `none` or `refuted`.
        rigorous: Whether the bound is proved on the deployed weights; with `verify=False` it is
            what the layers say of themselves.
        refuted: Two points that the certificate does not allow, or None. A refuted certificate
            claims nothing: its bound is infinite and its radii are 0.
        lower_bound: The largest ratio found by search; None if none was made.
        per_block: The table: name, constant, method, verified.
        reasons: Why the bound is infinite.
        limits: What the bound and the radii do not cover, a sentence each.
        kernels: Compiled kernels that run in the plain forward where the recording has their
            definitions, as `archzoo_FAMILY`, and operators of other libraries than torch.
        body_lipschitz: The bound up to the head, which pairwise radii are made of.
        slack: What was taken off each margin, in logits, for the rounding of the evaluation.
        norm: Of the radii, `l2` or `linf`.
        radius: Radius of each sample within which the predicted class is proved to stay.
        relaxed: Whether a sample's radius is that of a linear relaxation around it, which is then
            the larger one, and not that of the Lipschitz bound; None where none was asked for.
        predicted: The predicted class of each sample.
        correct: Whether it is the right one.
        clean_accuracy: In [0, 1].
        certified_accuracy: Share of samples that are right and have a radius above ε, by ε.
        attacked_accuracy: Share that is right and withstood the attack at ε, by ε.
        attack_violations: Samples that an attack turned inside their radius: 0, or the certificate
            is wrong. None where no attack was run.
        attacked_samples: How many samples were attacked inside their radius.
        attack_margin: Median over these of the margin under attack over the clean margin: near 0
            the bound is tight.
        seconds: What it took.
    """

    lipschitz: float
    method: str
    rigorous: bool
    refuted: Counterexample | None = None
    lower_bound: float | None = None
    per_block: tuple[Row, ...] = ()
    reasons: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    body_lipschitz: float = math.inf
    slack: float = 0.0
    norm: str = "l2"
    radius: Tensor | None = None
    relaxed: Tensor | None = None
    predicted: Tensor | None = None
    correct: Tensor | None = None
    clean_accuracy: float | None = None
    certified_accuracy: Mapping[float, float] = field(default_factory=dict)
    attacked_accuracy: Mapping[float, float] = field(default_factory=dict)
    attack_violations: int | None = None
    attacked_samples: int = 0
    attack_margin: float | None = None
    seconds: float = 0.0

    @property
    def tightness(self) -> float | None:
        """The lower bound over the upper one, in [0, 1]."""
        if self.lower_bound is None or self.lipschitz == math.inf:
            return None
        # A constant map has the bound 0, which nothing exceeds.
        return self.lower_bound / self.lipschitz if self.lipschitz else 1.0

    def refuted_by(self, counterexample: Counterexample) -> "Certificate":
        """Return the certificate with every claim withdrawn, and the points that refute it."""
        claimed = f"the bound {self.lipschitz:.9g} ({self.method}) is refuted: "
        nothing = dict.fromkeys(self.certified_accuracy, 0.0)
        return replace(
            self,
            lipschitz=math.inf,
            body_lipschitz=math.inf,
            method="refuted",
            rigorous=False,
            refuted=counterexample,
            reasons=(f"{claimed}{counterexample.reason}",),
            radius=None if self.radius is None else torch.zeros_like(self.radius),
            relaxed=None if self.relaxed is None else torch.zeros_like(self.relaxed),
            certified_accuracy=nothing,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: infinity as the string `inf`, tensors as lists."""
        names = ("radius", "relaxed", "predicted", "correct")
        tensors = dict.fromkeys((*names, "refuted"))
        found = asdict(replace(self, **tensors))  # pyright: ignore[reportArgumentType]
        if self.refuted is not None:
            pair = {"first": self.refuted.first.tolist(), "second": self.refuted.second.tolist()}
            found["refuted"] = self.refuted._asdict() | pair
        found["per_block"] = [row._asdict() for row in self.per_block]
        found["tightness"] = self.tightness
        for key in names:
            values = getattr(self, key)
            found[key] = None if values is None else values.tolist()
        for key in ("certified_accuracy", "attacked_accuracy"):
            found[key] = [{"eps": e, "accuracy": a} for e, a in getattr(self, key).items()]
        return _finite(found)

    def save(self, path: str | Path) -> Path:
        """Write the certificate as JSON, atomically, and return the path."""
        with replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")
        return Path(path)

    def __str__(self) -> str:
        """The certificate as a table."""
        return "\n".join([*self._summary(), *self._blocks(), *self._accuracies()])

    def _summary(self) -> list[str]:
        proof = "proved on the deployed weights" if self.rigorous else "not verified"
        if self.lipschitz == math.inf:
            known = "refuted" if self.refuted is not None else "no finite bound is known"
            lines = [f"Lipschitz bound  inf ({known})"]
            lines += [f"  {reason}" for reason in self.reasons[:SHOWN]]
            more = len(self.reasons) - SHOWN
            return lines + ([f"  and {more} more"] if more > 0 else [])
        lines = [f"Lipschitz bound  {self.lipschitz:.9g}  ({self.method}, {proof})"]
        if self.lower_bound is not None:
            lines.append(
                f"found by search  {self.lower_bound:.9g}  (tightness {self.tightness:.4f})"
            )
        return lines + [f"not covered: {limit}" for limit in self.limits]

    def _blocks(self) -> list[str]:
        if not self.per_block:
            return []
        width = max(5, *(len(row.name) for row in self.per_block))
        lines = ["", f"{'block':<{width}}  {'Lipschitz':>12}  {'method':<12}  verified"]
        for row in self.per_block:
            verified = "yes" if row.verified else "no"
            lines.append(
                f"{row.name:<{width}}  {row.lipschitz:>12.6g}  {row.method:<12}  {verified}"
            )
        return lines

    def _accuracies(self) -> list[str]:
        if self.clean_accuracy is None or self.radius is None:
            return []
        within = "" if self.norm == "l2" else ", radii in the L∞ norm"
        lines = ["", f"{len(self.radius):,} samples, accuracy in %{within}"]
        attacked = bool(self.attacked_accuracy)
        lines.append(f"{'ε · 255':>8}  {'certified':>9}" + (f"  {'attacked':>8}" * attacked))
        clean = f"{100 * self.clean_accuracy:.2f}"
        lines.append(f"{'clean':>8}  {clean:>9}" + (f"  {clean:>8}" * attacked))
        for eps, share in self.certified_accuracy.items():
            line = f"{255 * eps:>8.4g}  {100 * share:>9.2f}"
            if attacked:
                line += f"  {100 * self.attacked_accuracy[eps]:>8.2f}"
            lines.append(line)
        if self.relaxed is not None:
            lines.append(
                f"radii by local relaxation: {int(self.relaxed.sum()):,}, by the Lipschitz bound: "
                f"{int((~self.relaxed).sum()):,}"
            )
        if self.attack_violations is not None:
            lines.append(
                f"attacks inside the radii of {self.attacked_samples:,} samples: "
                f"{self.attack_violations} violations"
            )
        return lines


def plot_certificate(
    certificate: Certificate, *, figure: "FigureBase | None" = None
) -> "FigureBase":
    """Draw clean, attacked and certified accuracy against ε.

    Args:
        certificate: With samples.
        figure: An empty figure or sub-figure to draw into; a new one if not given.

    Returns:
        The figure, in no window; `figure.savefig(path)` writes it.

    Raises:
        ValueError: the certificate has no samples.
        ImportError: matplotlib is missing.
    """
    if certificate.radius is None or certificate.correct is None:
        raise ValueError("the certificate has no samples; give certify the samples x and classes y")
    figure = new_figure(4.6, 3.4) if figure is None else figure
    axes = figure.subplots()
    radius = certificate.radius.double().where(certificate.correct, 0.0)
    farthest = float(radius.nan_to_num(posinf=0.0).quantile(0.95))
    last = max([*certificate.certified_accuracy, farthest], default=1.0)
    grid = [1.1 * last * i / 200 for i in range(201)]
    right = certificate.correct
    certified = [100 * float(((radius > e) & right).double().mean()) for e in grid]
    clean = 100 * float(right.double().mean())
    axes.plot([255 * e for e in grid], [clean] * len(grid), lw=1.2, ls=":", label="clean")
    if certificate.attacked_accuracy:
        points = {0.0: clean / 100, **certificate.attacked_accuracy}
        axes.plot(
            [255 * e for e in points], [100 * a for a in points.values()], marker=".", lw=1.4,
            label="attacked",
        )  # fmt: skip
    axes.plot([255 * e for e in grid], certified, lw=1.6, label="certified")
    norm = "L2" if certificate.norm == "l2" else "L∞"
    axes.set(xlabel=f"ε · 255 ({norm})", ylabel="accuracy, %", ylim=(0.0, 102.0), xlim=(0.0, None))
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _finite(value: Any) -> Any:
    """Replace what JSON has no number for."""
    if isinstance(value, float) and not math.isfinite(value):
        return "inf" if value > 0 else str(value)
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value
