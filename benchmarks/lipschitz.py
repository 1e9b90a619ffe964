"""Certificates: what is proved, how tight, how fast, and whether any attack gets inside.

    python benchmarks/lipschitz.py --quick
    python benchmarks/lipschitz.py --check

Parts, each a function (quick) -> rows and bars; one process, one thread:

    speed        layers beside Sandwich, SLL, public ones and plain ones (`lipschitz_speed.py`)
    inequality   random LDLᵀ blocks satisfy their matrix inequality, also after the cast to float32;
                 a copy with one triangular factor on the wrong side does not
    tightness    a trained block comes up to its constant
    solver       the search for multipliers against a semidefinite program (`pip install -e
                 ".[sdp]"`; without it the part is left out and its bars are missing)
    times        certify on a ResNet-20 and on twelve dense LDLᵀ blocks
    attacks      PGD inside the certified radius of every sample of four data sets
"""

import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from archzoo.layers.lipschitz import LDLTBlock, LMIBlock, lmi_matrix
from archzoo.layers.lipschitz.proof.constant import verified_lipschitz
from archzoo.layers.lipschitz.proof.multipliers import lmi_lipschitz
from archzoo.zoo import certify, create_model
from archzoo.zoo.models import models
from harness import Bar, Measurement, main
from lipschitz_speed import speed
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.layers.lipschitz.proof.semidefinite import solver_lipschitz  # noqa: E402

Part = Callable[[bool], Measurement]

INSIDE = "samples attacked inside their radius"


def row(part: str, case: str, figure: float, unit: str, seconds: float, **more: Any) -> dict:
    """One line of the table."""
    notes = ", ".join(f"{key} {value:.6g}" for key, value in more.items())
    return {"part": part, "case": case, "figure": figure, "unit": unit,
            "seconds": round(seconds, 3), "notes": notes}  # fmt: skip


def inequality(quick: bool) -> Measurement:
    """Random blocks, their smallest eigenvalue and the constant of their float32 weights."""
    count = 120 if quick else 1200
    generator = torch.Generator().manual_seed(0)
    gains = (0.1, 1.0, 10.0, 100.0, 1000.0)
    started = time.perf_counter()
    least, worst, proved = math.inf, 0.0, 0
    wirings = ("skip_first", "chain_first", "taps", "dense", "feed_forward")
    for index in range(count):
        n = 1 + index % 8
        widths = torch.randint(1, 13, (n + 2,), generator=generator).tolist()
        constant = (0.5, 1.0, 3.0)[index % 3]
        wiring = wirings[index % len(wirings)]
        block = LDLTBlock(
            widths[0], widths[1:-1], out_width=widths[-1], lipschitz=constant,
            skip="none" if wiring == "feed_forward" else "learned", wiring=wiring,
        ).double().eval()  # fmt: skip
        gain = gains[(index // 5) % len(gains)]
        with torch.no_grad():
            for p in block.parameters():
                p.copy_(gain * torch.randn(p.shape, generator=generator, dtype=torch.float64))
        found = torch.linalg.eigvalsh(lmi_matrix(block.effective(), constant))
        least = min(least, float(found[0]))
        rounded = verified_lipschitz(block.float().effective()) / constant
        worst, proved = max(worst, rounded - 1), proved + (rounded < math.inf)
    control = wrong_side()
    seconds = time.perf_counter() - started
    rows = [
        row("inequality", f"{count} blocks, n = 1..8, gains .1 to 1000", least, "min eig", seconds),
        row("inequality", "the same in float32", worst, "L / L₀ − 1", 0.0, proved=proved),
        row("inequality", "a factor on the wrong side", control, "min eig", 0.0),
    ]
    bars = [
        Bar("smallest eigenvalue of random blocks", least, -1e-10, at_most=False),
        Bar("proved constant of float32 blocks over the nominal, less 1", worst, 1e-6),
        Bar("smallest eigenvalue of the negative control", control, -1e-3),
    ]
    if not quick:
        bars.append(Bar("random blocks", count, 1000, at_most=False))
    return rows, bars


def wrong_side() -> float:
    """The closed form of one layer with N_c⁻¹ in the place of N_c⁻ᵀ: the smallest eigenvalue."""
    generator = torch.Generator().manual_seed(1)
    least = math.inf
    for _ in range(20):
        k0, kc, kb = (
            3 * torch.randn(6, 6, generator=generator, dtype=torch.float64) for _ in range(3)
        )
        eye = torch.eye(6, dtype=torch.float64)
        n0, nc, nb = (torch.linalg.cholesky(eye + k @ k.mT) for k in (k0, kc, kb))
        a = torch.linalg.solve(n0, k0)
        c = math.sqrt(2) * torch.linalg.solve(nc, kc)
        inner = torch.linalg.solve(nb, kb) - k0 @ kc.mT
        b = math.sqrt(2) * torch.linalg.solve(n0, inner) @ torch.linalg.inv(nc)
        block = LMIBlock(a, (c,), (b,), (torch.ones(6, dtype=torch.float64),))
        least = min(least, float(torch.linalg.eigvalsh(lmi_matrix(block, 1.0))[0]))
    return least


def tightness(quick: bool) -> Measurement:
    """Train a block to be as steep as it can; its secants come up to L and never beyond."""
    rows, bars = [], []
    for hidden in ([32], [32, 32]) if quick else ([32], [32, 32], [32, 32, 32]):
        torch.manual_seed(0)
        started = time.perf_counter()
        block = LDLTBlock(16, hidden).double()
        best = steepest_secant(block, 16)
        proved = verified_lipschitz(block.eval().effective())
        case = f"n = {len(hidden)}, trained"
        rows.append(row("tightness", case, best, "secant / L", time.perf_counter() - started,
                        proved=proved))  # fmt: skip
        bars.append(Bar(f"steepest secant of a trained block, {case}", best, 0.999, at_most=False))
        bars.append(Bar(f"the same, from above, {case}", best, 1 + 1e-9))
    return rows, bars


def steepest_secant(block: nn.Module, width: int) -> float:
    """Train weights and eight steps of the input; return the steepest rise over a step found.

    L-BFGS ends near L in few steps, but stalls where an activation bends; Adam leads it away, and
    three rounds of both come within 1.5e-4 of L for five seeds of each depth.
    """
    x = torch.randn(8, width, dtype=torch.float64)
    step = 1e-3 * F.normalize(torch.randn(8, width, dtype=torch.float64), dim=1)
    parameters = [*block.parameters(), step.requires_grad_()]
    best = 0.0

    def loss() -> Tensor:
        nonlocal best
        rise = (block(x + step) - block(x)).norm(dim=1) / step.norm(dim=1)
        best = max(best, float(rise.detach().max()))
        descent = -rise.log().mean()
        block.zero_grad()
        step.grad = None
        descent.backward()
        return descent

    for _ in range(3):
        adam = torch.optim.Adam(parameters, lr=0.05)
        for _ in range(150):
            adam.step(loss)
        torch.optim.LBFGS(
            parameters, max_iter=150, history_size=20, tolerance_grad=0.0, tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        ).step(loss)  # fmt: skip
    return best


def residual_weights(
    width: int, hidden: tuple[int, ...], gain: float
) -> tuple[list[Tensor], Tensor]:
    """Kaiming weights of a residual branch."""
    generator = torch.Generator().manual_seed(0)
    sizes = [width, *hidden, width]
    drawn = []
    for columns, rows in zip(sizes, sizes[1:], strict=False):
        # He et al. 2015 for a uniform draw, as `nn.Linear` starts.
        limit = gain / math.sqrt(columns)
        w = 2 * torch.rand(rows, columns, generator=generator, dtype=torch.float64) - 1
        drawn.append(math.sqrt(6) * limit * w)
    return drawn[:-1], drawn[-1]


CASES = [(8, (16,), 1.0), (8, (16, 16), 1.0), (16, (32, 32), 1.0), (16, (32, 32, 32), 1.0),
         (32, (64, 64), 0.5)]  # fmt: skip
CLARABEL = 130  # order of the inequality above which Clarabel takes gigabytes; SCS there
TOLERANCES = {"eps_abs": 1e-6, "eps_rel": 1e-6, "max_iters": 20_000}


def solver(quick: bool) -> Measurement:
    """The proved bound of the search over a solver's optimum, and its time over the solver's."""
    try:
        import clarabel  # noqa: F401
        import cvxpy
    except ImportError:
        return [], []
    rows, bars = [], []
    lmi_lipschitz(torch.eye(4), [torch.ones(4, 4)], [torch.ones(4, 4)])  # warm
    for width, hidden, gain in CASES[:2] if quick else CASES:
        inner, tap = residual_weights(width, hidden, gain)
        skip = torch.eye(width, dtype=torch.float64)
        taps = (*[None] * (len(hidden) - 1), tap)
        times = []
        found = math.inf
        for _ in range(3):
            started = time.perf_counter()
            found = lmi_lipschitz(skip, inner, taps)
            times.append(time.perf_counter() - started)
        started = time.perf_counter()
        order = width + sum(hidden)
        options = {} if order <= CLARABEL else {"solver": cvxpy.SCS, **TOLERANCES}
        block = LMIBlock(skip, tuple(inner), taps, ())
        solved = solver_lipschitz(cvxpy, block, **options)
        seconds = time.perf_counter() - started
        ours = statistics.median(times)
        product = 1 + math.prod(float(torch.linalg.matrix_norm(w, 2)) for w in (*inner, tap))
        case = f"d = {width}, hidden {'-'.join(map(str, hidden))}"
        rows.append(row("solver", case, found, "L", ours, solver=solved, product=product,
                        solver_seconds=seconds))  # fmt: skip
        bars.append(Bar(f"proved bound over the solver's optimum, {case}", found / solved, 1.01))
        bars.append(Bar(f"time over the solver's, {case}", ours / seconds, 0.1))
    return rows, bars


def times(quick: bool) -> Measurement:
    """Certify on a ResNet-20 and on a dense network of twelve LDLᵀ blocks."""
    torch.manual_seed(0)
    x = torch.rand(64, 3, 32, 32)
    # The attack is the falsifier's cost, not the certificate's: it is measured in `attacks`.
    cases: dict[str, tuple[nn.Module, Tensor, float]] = {
        "12 LDLT blocks, width 128": (
            create_model("ldlt_mlp_small", depth=12).eval(), torch.rand(256, 64), 10.0,
        ),
        "resnet20": (create_model("resnet20").eval(), x, 60.0),
    }  # fmt: skip
    rows, bars = [], []
    for case, (model, samples, limit) in cases.items():
        certificate = certify(model, samples, attack=False)
        lower = certificate.lower_bound or 0.0
        rows.append(row("times", case, certificate.lipschitz, "L", certificate.seconds,
                        found_by_search=lower))  # fmt: skip
        bars.append(Bar(f"seconds to certify, {case}", certificate.seconds, limit))
    return rows, bars


NETWORKS: dict[str, dict[str, Any]] = {
    "ldlt_mlp_nano": {},
    "ldlt_mlp_tiny": {"hidden_depth": 2},
    "sll_mlp_nano": {},
    "sandwich_mlp_nano": {},
    "plain": {},
}


def attacks(quick: bool) -> Measurement:
    """Train, certify and attack every sample of every set; count what falls inside its radius."""
    from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine

    sets = {"iris": load_iris, "wine": load_wine, "breast_cancer": load_breast_cancer,
            "digits": load_digits}  # fmt: skip
    seeds = (0,) if quick else (0, 1)
    rows, total, violations, unordered = [], 0, 0, 0
    for data in ("iris", "wine") if quick else sets:
        table, classes = sets[data](return_X_y=True)
        x, y = torch.tensor(table, dtype=torch.float64), torch.tensor(classes)
        x = ((x - x.mean(0)) / x.std(0).clamp_min(1e-6)).float()
        for name, options in NETWORKS.items():
            started = time.perf_counter()
            count, fallen, margins, certified, attacked = 0, 0, [], [], []
            for seed in seeds:
                torch.manual_seed(seed)
                sizes = {"in_features": x.shape[1], "num_classes": int(y.max()) + 1}
                if name == "plain":
                    model: nn.Module = nn.Sequential(
                        nn.Linear(sizes["in_features"], 32),
                        nn.ReLU(),
                        nn.Linear(32, 32),
                        nn.ReLU(),
                        nn.Linear(32, sizes["num_classes"]),
                    )
                else:
                    assert name in models
                    model = create_model(name, lipschitz=2.0, **sizes, **options)
                train(model, x, y, 60 if quick else 150)
                found = certify(model, x, y, estimate=False, batch_size=2048)
                count += found.attacked_samples
                fallen += found.attack_violations or 0
                margins.append(found.attack_margin or 0.0)
                certified += list(found.certified_accuracy.values())[:1]
                attacked += list(found.attacked_accuracy.values())[:1]
                for e, share in found.certified_accuracy.items():
                    ordered = share <= found.attacked_accuracy[e] <= (found.clean_accuracy or 0.0)
                    unordered += not ordered
            total, violations = total + count, violations + fallen
            rows.append(row("attacks", f"{name} on {data}", fallen, "violations",
                            time.perf_counter() - started, samples=count,
                            margin_left=statistics.median(margins),
                            certified_36=statistics.mean(certified),
                            attacked_36=statistics.mean(attacked)))  # fmt: skip
    bars = [
        Bar("violations inside certified radii", violations, 0),
        Bar("certified ≤ attacked ≤ clean, exceptions", unordered, 0),
    ]
    if not quick:
        bars.append(Bar(INSIDE, total, 20_000, at_most=False))
    rows.append(row("attacks", "all", total, INSIDE, 0.0))
    return rows, bars


def train(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    """Full-batch Adam."""
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(x) / 0.25, y).backward()
        optimiser.step()
    model.eval()


# Another part, such as the speed of the layers beside their peers, is added here.
PARTS: tuple[Part, ...] = (speed, inequality, tightness, solver, times, attacks)


def measure(quick: bool) -> Measurement:
    """Run every part."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for part in PARTS:
        more, judged = part(quick)
        rows += more
        bars += judged
    return rows, bars


if __name__ == "__main__":
    main("lipschitz", measure)
