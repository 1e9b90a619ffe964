"""WeLore's ranks against equal ranks: bits per byte of a trained GPT that lost half of its ranks.

The network and the text are those of `projected_optimizers.py`, trained by AdamW for three seeds.
All matrices but the embedding are cut by their SVD at ranks that lose a share of all ranks: one
threshold on the scaled singular values of all layers (`welore_ranks`), one share for all layers,
and, as a third rule, the exact optimum of the summed squared errors at as many parameters as
WeLore's ranks have. Nothing is trained afterwards. What counts is the difference within a seed.

Each seed is appended to `results/welore_bytes_gpt_runs.jsonl` when it ends.
"""

import contextlib
import copy
import io
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from archzoo.layers.lowrank import RankCosts, allocate_ranks, rank_reduction, welore_ranks
from archzoo.train.config import run_config
from archzoo.train.run import run
from archzoo.train.schemas import register_schemas
from archzoo.zoo import create_model
from harness import RESULTS, Bar, Measurement, main
from hydra import compose, initialize_config_module
from novels import bits_per_byte, novels
from projected_optimizers import SHAPE, STEPS
from records import Records
from spread import summary
from torch import Tensor, nn

RATE = 0.002
SEEDS = (0, 1, 2)
REDUCTIONS = (0.25, 0.5, 0.75)


def trained(seed: int, text: Path, *more: str) -> nn.Module:
    """Train a model as the command line does."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        given = ["experiment=lowrank_bytes_gpt", f"seed={seed}", f"run_dir={folder}"]
        given += [f"data.path={text}", "data.pattern=*.txt", "logger=[csv]", f"optim.lr={RATE}"]
        given += [f"trainer.steps={STEPS}", f"trainer.evaluate_every={STEPS}"]
        register_schemas()
        with initialize_config_module("archzoo.conf", version_base="1.3"):
            composed = compose("train", overrides=[*given, "trainer.progress=false", *more])
        with contextlib.redirect_stdout(io.StringIO()):
            run(run_config(composed))
        return create_model(f"local-dir:{folder}").eval()


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that lose ranks."""
    named = model.named_parameters()
    return {name: p for name, p in named if p.dim() == 2 and "embedding" not in name}


def cut(model: nn.Module, ranks: dict[str, int]) -> nn.Module:
    """A copy whose weights have the given ranks."""
    smaller = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in matrices(smaller).items():
            left, values, right = torch.linalg.svd(p.double(), full_matrices=False)
            r = ranks[name]
            p.copy_(left[:, :r] * values[:r] @ right[:r])
    return smaller


def choices(spectra: dict[str, Tensor], shapes: dict[str, tuple[int, int]], reduction: float):
    """Ranks by every rule, for a share of all ranks that is lost."""
    full = {name: len(values) for name, values in spectra.items()}
    welore = welore_ranks(spectra, reduction)
    share = 1 - rank_reduction(welore, full)
    # As many ranks as WeLore keeps, to the next whole number of every layer.
    uniform = {name: max(1, round(share * k)) for name, k in full.items()}
    sizes = {name: sum(shapes[name]) for name in full}
    # A dense weight as an economic choice would not be of a lower rank.
    layers = {
        name: RankCosts(values, sizes[name], 10.0 * sizes[name] * full[name])
        for name, values in spectra.items()
    }
    budget = sum(sizes[name] * r for name, r in welore.items())
    least = {name: r or full[name] for name, r in allocate_ranks(layers, budget, "dp").items()}
    return {"WeLore": welore, "uniform": uniform, "least error": least}


def losses(seed: int, text: Path, *more: str) -> dict[str, Any]:
    """Bits per byte of the model of a seed, whole and cut by every rule."""
    torch.set_num_threads(1)
    model = trained(seed, text, *more)

    def bits(each: nn.Module) -> float:
        return bits_per_byte(each, text, "*.txt", SHAPE["context_length"], fold="validation")

    weights = matrices(model)
    spectra = {n: torch.linalg.svdvals(p.detach().double()) for n, p in weights.items()}
    shapes = {n: (p.shape[0], p.shape[1]) for n, p in weights.items()}
    full = {name: len(values) for name, values in spectra.items()}
    found: dict[str, Any] = {"whole": bits(model)}
    for reduction in REDUCTIONS:
        cases = {}
        for rule, ranks in choices(spectra, shapes, reduction).items():
            kept = sum(r * sum(shapes[n]) for n, r in ranks.items())
            cases[rule] = {
                "bits": bits(cut(model, ranks)),
                "reduction": round(rank_reduction(ranks, full), 4),
                "parameters": kept,
                "ranks": list(ranks.values()),
            }
        found[str(reduction)] = cases
    return found


def measure(quick: bool) -> Measurement:
    """Train what is missing and make the table."""
    if quick:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
            # The project's own sources are a small corpus; the figures are of no interest.
            sources = sorted((Path(__file__).parents[1] / "layers").rglob("*.py"))
            text.write("".join(path.read_text() for path in sources))
            text.flush()
            short = ("trainer.steps=10", "trainer.evaluate_every=10")
            found = [losses(0, Path(text.name), *short)]
    else:
        text, records = novels(), Records(RESULTS / "welore_bytes_gpt_runs.jsonl")
        found = [
            records.get(
                {"seed": seed, "rate": RATE, "steps": STEPS}, lambda s=seed: losses(s, text)
            )
            for seed in SEEDS
        ]
    rows, bars = [], []
    for reduction in map(str, REDUCTIONS):
        for rule in found[0][reduction]:
            cases = [one[reduction][rule] for one in found]
            bits = [case["bits"] for case in cases]
            lost = [b - one["whole"] for b, one in zip(bits, found, strict=True)]
            more = [
                b - one[reduction]["uniform"]["bits"] for b, one in zip(bits, found, strict=True)
            ]
            rows.append(
                {
                    "ranks lost": reduction,
                    "rule": rule,
                    "bits/byte": round(statistics.mean(bits), 4),
                    "more than whole": round(statistics.mean(lost), 4),
                    "more than uniform": round(summary(more)[0], 4),
                    "standard error": round(summary(more)[1], 4),
                    "reached": [case["reduction"] for case in cases],
                    "parameters": round(statistics.mean(case["parameters"] for case in cases)),
                    "ranks, seed 0": cases[0]["ranks"],
                }
            )
    reached = [
        one[reduction]["WeLore"]["reduction"] - float(reduction)
        for one in found
        for reduction in map(str, REDUCTIONS)
    ]
    bars.append(
        Bar(
            "share of ranks that the threshold loses beyond what is asked", min(reached), 0.0, False
        )
    )
    half = [one["0.5"]["WeLore"]["bits"] - one["0.5"]["uniform"]["bits"] for one in found]
    if not quick:
        bars.append(
            Bar("bits/byte of WeLore's ranks less those of equal ones, half of the ranks lost",
                statistics.mean(half), 0.0)
        )  # fmt: skip
    whole = [one["whole"] for one in found]
    return rows, bars, [f"whole: {statistics.mean(whole):.4f} bits/byte, seeds {whole}"]


if __name__ == "__main__":
    main("welore_bytes_gpt", measure)
