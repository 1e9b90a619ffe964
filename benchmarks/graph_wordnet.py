"""Links of WordNet's mammals in few dimensions: a curved `gcn` beside both flat decoders.

A fifth of the closure's 6,540 relations is held out, half to choose by and half to test. Every
model is the same two convolutions over a learned table (`experiment=graph_wordnet`); the learning
rate and the normalisation of neighbourhoods are the best of four by the validation AUC at seed 0.
The flat twin decodes by the squared distance, as in the literature, and by the inner product, which
the literature leaves out. A negative shares its first node with the true pair.

Set WORDNET to the folder with `data.noun`; the default is where Debian's `wordnet-base` puts it.
"""

import itertools
import os
import statistics
from pathlib import Path

import torch
from archzoo.train.data import data_sets
from graph_runs import SPACES, cosines_of_fastrp, degree_products
from harness import Bar, Measurement, main
from runs import Runs, Told, text

WORDNET = str(Path(os.environ.get("WORDNET", "/usr/share/wordnet")).absolute())
DIMS, SEEDS = (8, 4, 2, 16), (0, 1, 2)
CHOICES: tuple[Told, ...] = tuple(
    (f"optim.lr={lr}", f"model.normalise={normalise}")
    for lr, normalise in itertools.product((0.03, 0.1), ("row", "symmetric"))
)
CURVED = ("Poincaré", "Lorentz")
Found = dict[tuple[int, str], list[float]]


def measure(quick: bool) -> Measurement:
    """Train what is missing, and make the table and the bars."""
    torch.set_num_threads(1)
    told, place = ("experiment=graph_wordnet",), (f"data.root={WORDNET}",)
    dims, seeds, choices = (DIMS, SEEDS, CHOICES) if not quick else ((2,), (0, 1), CHOICES[:1])
    if quick:
        told = (*told, "data=tree", "trainer.epochs=2", "data.depth=4", "trainer.batch_size=32")
        place = ()
    runs, found, rows = Runs("graph_wordnet", quick, *place), Found(), []
    for dim, (space, options) in itertools.product(dims, SPACES.items()):
        width = (f"model.width={dim}",)
        figures, chosen = runs.tested((*told, *width, *options), choices, "auc", seeds)
        found[dim, space] = figures
        rows.append(
            {
                "dimensions": dim,
                "model": space,
                "AUC": text(figures),
                "seeds": len(figures),
                "chosen": ", ".join(one.partition(".")[2] for one in chosen),
            }
        )
    rows += [] if quick else untrained()
    return rows, [] if quick else bars(found), notes(found)


def untrained() -> list[dict[str, object]]:
    """FastRP and the product of degrees on the same fold."""
    splits = data_sets.build("wordnet", root=WORDNET, held_out=0.2)
    rows: list[dict[str, object]] = [
        {
            "dimensions": dim,
            "model": "FastRP",
            "AUC": text([cosines_of_fastrp(splits, dim, seed) for seed in SEEDS]),
            "seeds": len(SEEDS),
        }
        for dim in sorted(DIMS)
    ]
    return [*rows, {"model": "degree product", "AUC": f"{degree_products(splits):.3f}"}]


def means(found: Found, dim: int) -> dict[str, float]:
    """The mean AUC of each model."""
    return {space: statistics.mean(found[dim, space]) for space in SPACES}


def bars(found: Found) -> list[Bar]:
    """Judge the curved models by themselves, and the better one beside the flat twins."""
    judged = []
    for dim, limit in ((4, 0.92), (8, 0.96)):
        for space in CURVED:
            figure = means(found, dim)[space]
            judged.append(Bar(f"AUC at {dim} dimensions, {space}", figure, limit, at_most=False))
    mean = means(found, 8)
    best = max(mean[space] for space in CURVED)
    flat = {name: best - figure for name, figure in mean.items() if name not in CURVED}
    for name, margin in flat.items():
        what = f"AUC at 8 dimensions, the better curved model above {name}"
        judged.append(Bar(what, margin, 0.03, at_most=False))
    return judged


def notes(found: Found) -> list[str]:
    """By how much the better curved model leads the better flat one."""
    said = []
    for dim in sorted({dim for dim, _ in found}):
        mean = means(found, dim)
        lead = max(mean[s] for s in CURVED) - max(mean[s] for s in SPACES if s not in CURVED)
        said.append(f"{dim} dimensions: the better curved model leads by {lead:.3f} of AUC")
    return said


if __name__ == "__main__":
    main("graph_wordnet", measure)
