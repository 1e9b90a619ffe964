"""Certificates of what runs: soundness, tightness against the bounds before, attacks, time.

    python benchmarks/certify.py --quick
    python benchmarks/certify.py --check

Parts, each a function (quick) -> rows and bars; one process, one thread:

    networks   random networks of a grammar and modules as users write them (those of the tests): no
               point may be steeper than the bound, and nearly all have one
    before     the bounds of the zoo's small models over those of the walker of modules that the
               recording replaced (`results/certify_old_bounds.json`, made with it, and its CPU
               seconds on the machine that wrote it)
    attacks    PGD inside the certified radius of samples, over data sets, networks and types
"""

import copy
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from archzoo.zoo import certify, create_model
from harness import Bar, Measurement, main
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.zoo.certify.random_networks import Grammar, steepest  # noqa: E402
from tests.zoo.certify.user_modules import MODULES  # noqa: E402

Part = Callable[[bool], Measurement]

OLD = Path(__file__).parent / "results" / "certify_old_bounds.json"
ROUNDING = 1 + 1e-6  # of a Jacobian in float64, and of float32 constants in a user's module
DTYPES = (torch.float32, torch.bfloat16)


def networks(quick: bool) -> Measurement:
    """Networks below the truth, networks without a bound, and how close the bounds are."""
    rows, below, refused, count = [], 0, 0, 0
    sources: dict[str, list[Callable[[], tuple[nn.Module, tuple[int, ...]]]]] = {
        "grammar": [Grammar(seed).network for seed in range(60 if quick else 1000)],
        "users": list(MODULES.values()),
    }
    for source, makers in sources.items():
        started, ratios, none = time.perf_counter(), [], 0
        for seed, make in enumerate(makers):
            torch.manual_seed(0)
            model, shape = make()
            model = nn.Sequential(model, nn.Flatten()).eval()
            x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
            bound = certify(model, x, attack=False, estimate=False).lipschitz
            true = steepest(copy.deepcopy(model).double(), shape, seed)
            none += bound == math.inf
            if bound > 0:
                ratios.append(true / bound)
            elif true > 1e-9:
                ratios.append(math.inf)
        wrong = sum(ratio > ROUNDING for ratio in ratios)
        below, refused, count = below + wrong, refused + none, count + len(makers)
        rows.append({
            "part": "networks", "case": source, "figure": wrong, "unit": "bounds below the truth",
            "seconds": round(time.perf_counter() - started, 1),
            "notes": f"{len(makers)} networks, {none} without a bound, median of the steepest "
            f"point over the bound {statistics.median(ratios):.3g}",
        })  # fmt: skip
    bars = [
        Bar("bounds below the truth", below, 0),
        Bar("share of networks with a bound", 1 - refused / count, 0.95, at_most=False),
    ]
    return rows, bars


def shaken(model: nn.Module, scale: float = 0.2) -> nn.Module:
    """Move parameters and statistics off their start, as the old bounds' models were."""
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in model.parameters():
            last = p.shape[-1] if p.dim() else 1
            p.add_(scale * torch.randn(p.shape, generator=g) / max(1, last) ** 0.5)
        for name, b in model.named_buffers():
            if name.endswith("running_var"):
                b.mul_(0.5 + torch.rand(b.shape, generator=g))
            elif name.endswith("running_mean"):
                b.add_(0.3 * torch.randn(b.shape, generator=g))
    return model.eval()


def before(quick: bool) -> Measurement:
    """Ratios of bounds, and of CPU seconds for a ResNet-20."""
    rows, ratios, lost, times = [], [], [], []
    for old in json.loads(OLD.read_text()):
        if quick and old["name"] in ("resnet20", "mlp_small"):
            continue
        torch.manual_seed(0)
        model = create_model(old["name"], **old["options"]).eval()
        if old["shaken"]:
            shaken(model)
        started = time.process_time()
        found = certify(model, estimate=False, attack=False)
        seconds = time.process_time() - started
        bound, limit = found.lipschitz, float(old["lipschitz"])
        if bound < math.inf and limit < math.inf:
            ratios.append(bound / limit)
        elif limit < math.inf:
            lost.append(old["name"])
        if old["name"] == "resnet20":
            times.append(seconds / old["seconds"])
        what = ", ".join([*map(str, old["options"].values()), *["moved"] * old["shaken"]])
        rows.append({
            "part": "before", "case": f"{old['name']} {what}", "figure": bound, "unit": "L",
            "seconds": round(seconds, 3),
            "notes": f"before {limit:.6g} in {old['seconds']} s; {found.method}",
        })  # fmt: skip
    bars = [
        # Six digits: two proofs of one norm differ in the tenth.
        Bar("median of the bound over the bound before", round(statistics.median(ratios), 6), 1.0),
        Bar("models that had a bound and have none", len(lost), 0),
    ]
    if times:
        bars.append(Bar("CPU seconds for a ResNet-20 over those before", min(times), 1.2))
    return rows, bars


NETWORKS = ("plain", "normalised", "residual", "ldlt_mlp_nano", "sll_mlp_nano", "sandwich_mlp_nano",
            "aol_mlp_nano")  # fmt: skip


def network(name: str, inputs: int, classes: int) -> nn.Module:
    """Build a network for a table."""
    if name == "plain":
        return nn.Sequential(nn.Linear(inputs, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(),
                             nn.Linear(16, classes))  # fmt: skip
    if name == "normalised":
        return nn.Sequential(nn.BatchNorm1d(inputs), nn.Dropout(0.1), nn.Linear(inputs, 24),
                             nn.GELU(), nn.Linear(24, classes))  # fmt: skip
    options: dict[str, Any] = {"in_features": inputs, "num_classes": classes}
    if name == "residual":
        options |= {"geometry": "euclidean", "head": "linear", "residual": "skip_init"}
        return create_model("poincare_mlp_nano", width=16, depth=2, **options)
    return create_model(name, lipschitz=2.0, **options)


def attacks(quick: bool) -> Measurement:
    """Train, certify and attack every sample of every set; count what falls inside its radius."""
    from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine

    sets = {"iris": load_iris, "wine": load_wine, "breast_cancer": load_breast_cancer,
            "digits": load_digits}  # fmt: skip
    rows, total, violations, refuted = [], 0, 0, 0
    for data in ("iris", "wine") if quick else sets:
        table, classes = sets[data](return_X_y=True)
        x, y = torch.tensor(table, dtype=torch.float64), torch.tensor(classes)
        x = ((x - x.mean(0)) / x.std(0).clamp_min(1e-6)).float()
        for name in NETWORKS:
            for dtype in DTYPES:
                started = time.perf_counter()
                torch.manual_seed(0)
                model = network(name, x.shape[1], int(y.max()) + 1)
                train(model, x, y, 60 if quick else 120)
                model = model.to(dtype).eval()
                found = certify(model, x, y, estimate=False, eps=(36 / 255,),
                                batch_size=2048, attack_steps=10)  # fmt: skip
                total += found.attacked_samples
                violations += found.attack_violations or 0
                refuted += found.refuted is not None
                rows.append({
                    "part": "attacks", "case": f"{name} on {data}, {str(dtype)[6:]}",
                    "figure": found.attack_violations, "unit": "violations",
                    "seconds": round(time.perf_counter() - started, 1),
                    "notes": f"{found.attacked_samples} samples, L {found.lipschitz:.4g}, "
                    f"{found.method}, margin left {found.attack_margin or 0.0:.2g}",
                })  # fmt: skip
    bars = [
        Bar("violations inside certified radii", violations, 0),
        Bar("certificates refuted", refuted, 0),
    ]
    if not quick:
        bars.append(Bar("samples attacked", total, 30_000, at_most=False))
    return rows, bars


def train(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    """Full-batch Adam."""
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()


PARTS: tuple[Part, ...] = (networks, before, attacks)


def measure(quick: bool) -> Measurement:
    """Run all parts."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for part in PARTS:
        more, limits = part(quick)[:2]
        rows += more
        bars += limits
    return rows, bars


if __name__ == "__main__":
    main("certify", measure)
