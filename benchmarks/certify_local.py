"""Certificates around samples: certified accuracy at ε = 9/255 and 36/255 (L2), plain networks.

    ARCHZOO_DATA=DIR python benchmarks/certify_local.py --check      DIR holds CSV files
    python benchmarks/certify_local.py --quick

Two networks on the digits, in pixels, and on tables, in standard deviations: `mlp_small` (six
branches behind layer norms, GELU) and a multilayer perceptron of three layers (ReLU). Each is
trained with Adam and nothing else. Rows give clean accuracy, what the Lipschitz bound certifies,
what `method="local"` certifies, and what stands an attack, of all samples. Columns "of 10" are of
the first ten alone, which auto_LiRPA's CROWN certifies too where it can be imported: on the same
networks, at the same ε, and with a bar on the difference.

The part `attacks` certifies samples of every set around themselves, for L2 and L∞ balls, three
networks and two types of weights, and attacks them inside their radii; `benchmarks/certify.py` does
so with radii of the Lipschitz bound.

auto_LiRPA is taken from its repository (https://github.com/Verified-Intelligence/auto_LiRPA): the
release on PyPI does not import with this torch.
"""

import contextlib
import copy
import itertools
import os
import time
from pathlib import Path
from typing import Any

import torch
from archzoo.train.data import Splits, data_sets
from archzoo.zoo import certify, create_model
from archzoo.zoo.certify.projected_ascent import Norm
from harness import Bar, Measurement, main
from torch import Tensor, nn

EPS = 36 / 255
CLOSE = 9 / 255
SAMPLES = 100  # digits
ROWS = 10  # of a table
BESIDE = 10  # samples that auto_LiRPA is asked about too
BUNDLED = ("breast_cancer", "iris", "wine")
FILES = (
    "glass",
    "heart_disease",
    "ionosphere",
    "pimaindiansdiabetes2",
    "sonar",
    "vehicle",
    "vowel",
)
NETWORKS = ("mlp_small", "relu")
NORMS: tuple[Norm, ...] = ("l2", "linf")
DTYPES = (torch.float32, torch.bfloat16)
ATTACKED = 300  # samples of a set


def sets(quick: bool) -> dict[str, Splits]:
    """Read the sets by name."""
    found = {"digits": data_sets.build("digits", augment=False)}
    for table in BUNDLED[2:] if quick else BUNDLED:
        found[table] = data_sets.build("tabular", table=table)
    root = os.environ.get("ARCHZOO_DATA")
    if root is not None and not quick:
        for table in FILES:
            path = str(Path(root).resolve())
            found[table] = data_sets.build("tabular", table=table, root=path, max_rows=2000)
    return found


def network(name: str, inputs: int, classes: int) -> nn.Module:
    """Make a network."""
    torch.manual_seed(0)
    if name.startswith("mlp"):
        return create_model(name, in_features=inputs, num_classes=classes)
    bend = nn.GELU if name == "gelu" else nn.ReLU
    return nn.Sequential(
        nn.Linear(inputs, 64), bend(), nn.Linear(64, 64), bend(), nn.Linear(64, classes)
    )


def rows_of(fold: Any, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Return a fold's samples, flat, and classes; `count` are drawn from it."""
    order = torch.randperm(len(fold), generator=torch.Generator().manual_seed(0))[:count]
    x, y = fold.__getitems__([(0, i) for i in order.sort().values.tolist()])
    return x.flatten(1).float(), y


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    """Train with Adam, in batches of 64."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    g = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=g).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
    return model.eval()


def crown(
    model: nn.Module, x: Tensor, y: Tensor, right: Tensor, radii: tuple[float, ...]
) -> list[float | None]:
    """Return what auto_LiRPA's CROWN certifies at each radius, or None where it is not there."""
    try:
        from auto_LiRPA import BoundedModule  # pyright: ignore[reportMissingImports]
        from auto_LiRPA.operators.gelu import GELUOp  # pyright: ignore[reportMissingImports]
    except ImportError:
        return [None] * len(radii)

    class Gelu(nn.Module):
        """GELU as auto_LiRPA knows it."""

        def forward(self, x: Tensor) -> Tensor:
            return GELUOp.apply(x)

    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for child, module in parent.named_children():
            if isinstance(module, nn.GELU):
                setattr(parent, child, Gelu())
            elif isinstance(module, nn.Dropout):
                setattr(parent, child, nn.Identity())
    bounded = BoundedModule(model, torch.empty_like(x[:1]))
    found: list[float | None] = []
    for radius in radii:
        try:
            margins = lower_margins(bounded, x, y, radius)
        except AssertionError:
            # Its layer norm has no bound where a variance may be 0: which samples have one?
            margins = torch.full((len(x),), -torch.inf)
            for i in range(len(x)):
                with contextlib.suppress(AssertionError):
                    margins[i] = lower_margins(bounded, x[i : i + 1], y[i : i + 1], radius)
        found.append(float(((margins > 0) & right).double().mean()))
    return found


def lower_margins(bounded: Any, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Return the least margin of each sample that auto_LiRPA proves."""
    from auto_LiRPA import (  # pyright: ignore[reportMissingImports]
        BoundedTensor,
        PerturbationLpNorm,
    )

    classes = int(bounded(x[:1]).shape[1])
    eye = torch.eye(classes)
    ball = BoundedTensor(x, PerturbationLpNorm(norm=2, eps=radius))
    with torch.no_grad():
        lower, _ = bounded.compute_bounds(
            x=(ball,), C=eye[y][:, None] - eye, method="CROWN", bound_upper=False
        )
    return lower.scatter(1, y[:, None], torch.inf).amin(1)


def attacks(quick: bool) -> Measurement:
    """Attack samples inside their local radii; count what falls."""
    rows: list[dict[str, Any]] = []
    total, local, violations, refuted = 0, 0, 0, 0
    for data, splits in sets(quick).items():
        x, y = rows_of(splits.train, ATTACKED)
        for name in ("relu", "gelu", "mlp_nano"):
            model = train(network(name, x.shape[1], splits.num_classes), x, y, 10)
            for norm, dtype in itertools.product(NORMS, DTYPES):
                started = time.process_time()
                found = certify(
                    copy.deepcopy(model).to(dtype), x.to(dtype), y, method="local", norm=norm,
                    eps=(CLOSE,), attack_steps=10, estimate=False, batch_size=1024,
                )  # fmt: skip
                assert found.relaxed is not None
                total += found.attacked_samples
                local += int(found.relaxed.sum())
                violations += found.attack_violations or 0
                refuted += found.refuted is not None
                rows.append({
                    "data": data, "network": name, "samples": len(x), "norm": norm,
                    "weights": str(dtype)[6:], "attacked": found.attacked_samples,
                    "violations": found.attack_violations,
                    "seconds": round(time.process_time() - started, 2),
                })  # fmt: skip
    bars = [
        Bar("violations in samples of every set", violations, 0),
        Bar("certificates refuted", refuted, 0),
    ]
    if not quick:
        bars.append(Bar("samples attacked inside local radii", local, 10_000, at_most=False))
    return rows, bars, [f"{total:,} samples of every set were attacked, {local:,} in local radii"]


def measure(quick: bool) -> Measurement:
    """Run both parts."""
    torch.set_num_threads(1)
    rows, bars, *notes = tables(quick)
    more, limits, *further = attacks(quick)
    return [*rows, *more], [*bars, *limits], [*notes[0], *further[0]]


def tables(quick: bool) -> Measurement:
    """Certify every network on every set."""
    rows: list[dict[str, Any]] = []
    gaps, times, violations, attacked, won = [], [], 0, 0, 0
    for data, splits in sets(quick).items():
        x, y = rows_of(splits.train)
        given, labels = rows_of(splits.test, 10 if quick else SAMPLES if data == "digits" else ROWS)
        std = 1.0 if splits.std is None else float(splits.std[0])
        for name in NETWORKS[1:] if quick else NETWORKS:
            model = train(network(name, x.shape[1], splits.num_classes), x, y, 10 if quick else 20)
            plain = certify(model, given, labels, eps=(CLOSE, EPS), input_std=std, attack=False,
                            estimate=False)  # fmt: skip
            started = time.process_time()
            found = certify(model, given, labels, eps=(CLOSE, EPS), method="local", input_std=std,
                            attack_steps=20, estimate=False)  # fmt: skip
            seconds = time.process_time() - started
            assert found.correct is not None and found.radius is not None
            levels = (CLOSE / std, EPS / std)
            few = slice(BESIDE)
            peers = crown(model, given[few], labels[few], found.correct[few], levels)
            kept = found.radius[few].where(found.correct[few], 0.0)
            ours = [float((kept > eps).double().mean()) for eps in (CLOSE, EPS)]
            beside = {
                f"{round(255 * eps)}: {name} of {len(kept)}": percent(share)
                for name, shares in (("local", ours), ("auto_LiRPA", peers))
                for eps, share in zip((CLOSE, EPS), shares, strict=True)
            }
            close, local = (found.certified_accuracy[eps] for eps in (CLOSE, EPS))
            whole = plain.certified_accuracy[EPS]
            violations += found.attack_violations or 0
            attacked += found.attacked_samples
            won += local > whole
            gaps += [
                100 * (peer - own)
                for peer, own in zip(peers, ours, strict=True)
                if peer is not None
            ]
            if data == "digits" and name == "mlp_small":
                times.append(seconds * 100 / len(given))
            rows.append({
                "data": data, "network": name, "samples": len(given),
                "clean": percent(found.clean_accuracy), "9: local": percent(close),
                "36: global": percent(whole), "36: local": percent(local),
                "36: attacked": percent(found.attacked_accuracy[EPS]), **beside,
                "radius": round(float(found.radius.median()), 4), "seconds": round(seconds, 2),
            })  # fmt: skip
    bars = [
        Bar("violations inside certified radii", violations, 0),
        Bar("networks with more certified than by the Lipschitz bound", won, 1, at_most=False),
    ]
    if gaps:
        bars.append(Bar("points of certified accuracy below auto_LiRPA's CROWN, at most",
                        max(gaps), 3.0))  # fmt: skip
    if times:
        bars.append(
            Bar("CPU seconds for 100 digits on mlp_small, attacks included", times[0], 30.0)
        )
    return rows, bars, [f"{attacked:,} samples were attacked inside their radii"]


def percent(share: float | None) -> float | None:
    """Return per cent with two digits."""
    return None if share is None else round(100 * share, 2)


if __name__ == "__main__":
    main("certify_local", measure)
