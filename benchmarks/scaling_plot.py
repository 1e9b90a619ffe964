"""Draw `docs/scaling.png`: losses with their laws, and multipliers with their intervals.

Reads what `benchmarks/scaling.py` reads; nothing is trained.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scaling import SAMPLES, ended, kept_costs, laws_of, places, run_losses, spent
from scaling_fit import Array, Laws, interval
from scaling_runs import Study

OUT = Path(__file__).parents[1] / "docs" / "scaling.png"
COLOURS = dict(
    zip(
        ("add", "block_attnres", "attnres", "delta", "mhc_lite", "embedding_skip"),
        ("#3b4252", "#0b6e99", "#2a9d8f", "#c2452d", "#8a5fbf", "#b8860b"),
        strict=True,
    )
)


def draw_losses(axes: Axes, names: list[str], log_compute: Array, runs: Array, laws: Laws) -> None:
    """Runs as dots, their laws as lines; loss minus floor, which is straight on both logarithms."""
    floor = laws.c[0]
    x = np.linspace(log_compute.min(), log_compute.max(), 50)
    for m, name in enumerate(names):
        places = np.repeat(np.exp(log_compute[m])[:, None], runs.shape[-1], 1)
        axes.plot(places, runs[m] - floor, ".", color=COLOURS[name], markersize=4)
        line = np.exp(laws.log_a[0, m] - laws.b[0, m] * x)
        axes.plot(np.exp(x), line, color=COLOURS[name], linewidth=1, label=name)
    axes.set(xscale="log", yscale="log", xlabel="FLOPs of a run")
    axes.set_ylabel(f"test bits per byte − {floor:.2f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend(fontsize=7, frameon=False)


def draw_multipliers(
    axes: Axes, sizes: list[int], names: list[str], log_compute: Array, fitted: list[Laws]
) -> None:
    """The multiplier at three sizes with its interval, side by side."""
    whole, drawn = fitted
    for m, name in enumerate(names[1:], 1):
        shift = 0.13 * (m - len(names) / 2)
        for place, size in enumerate(places(sizes).values()):
            at = log_compute[m, sizes.index(size)]
            middle = np.exp(whole.log_multiplier(at)[0, m])
            low, high = interval(np.exp(drawn.log_multiplier(at)[:, m]))
            axes.plot([place + shift] * 2, [low, high], color=COLOURS[name], linewidth=1.5)
            axes.plot(place + shift, middle, "o", color=COLOURS[name], markersize=4)
    axes.axhline(1.0, color="#8a919e", linewidth=0.8)
    axes.set(yscale="log", xticks=range(3))
    labels = [f"{name}\n({size} blocks)" for name, size in places(sizes).items()]
    axes.set_xticklabels(labels, fontsize=8)
    axes.set_yticks([0.25, 0.5, 1, 2, 4], labels=["0.25", "0.5", "1", "2", "4"])
    axes.minorticks_off()


def main() -> None:
    """Fit and draw."""
    study, costs = Study(train=False), kept_costs()
    sizes, names = ended(study)
    runs = run_losses(study, sizes, names)
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, axis in ((middle, "FLOPs"), (right, "seconds")):
        log_compute = spent(costs, sizes, names, axis)
        fitted = [*laws_of(log_compute, runs, SAMPLES)]
        draw_multipliers(axes, sizes, names, log_compute, fitted)
        axes.set_title(f"at equal {axis}", fontsize=9)
        if axis == "FLOPs":
            draw_losses(left, names, log_compute, runs, fitted[0])
    left.set_title("byte GPTs of five sizes", fontsize=9)
    middle.set_ylabel("compute of add for the same loss, times")
    right.sharey(middle)
    figure.savefig(OUT, dpi=150)
    print(OUT)


if __name__ == "__main__":
    main()
