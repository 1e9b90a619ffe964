"""The runs of the scaling study: byte GPTs of five sizes, six residuals, a few seeds.

Size d has width 8 d and d blocks of d heads, and sees 20 bytes for each parameter of its blocks
(`experiment=scaling`). The learning rate of `add` is tuned at every size, in steps of two, until
the best has a worse one on both sides, and so are those of the other residuals at the three
smallest sizes. At the larger ones another residual has the better of two rates: the one that keeps
the distance to `add`'s of the size before, and the next one towards `add`'s, or the better
neighbour of that where both are one.
Rates are chosen by the validation fold at seed 0.

    python benchmarks/scaling_runs.py --sizes 3 4 5 --residual add block_attnres
    python benchmarks/scaling_runs.py --corpora FOLDER

trains what is missing of some sizes and residuals, seed by seed. What stands in
`results/scaling_runs.jsonl` is not run again, so an interrupted study goes on where it was.
"""

import argparse
import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from archzoo.train.data import Batches, TokenFold, loader
from archzoo.train.engine.metrics import evaluate
from archzoo.zoo import create_model
from harness import UNTRACKED
from runs import Runs, Told
from scaling_corpora import digest, held_out, write_corpora

__all__ = ["RATES", "RESIDUALS", "SEEDS", "SIZES", "Study", "climb", "shape", "steps"]

RESIDUALS = ("add", "block_attnres", "attnres", "delta", "mhc_lite", "embedding_skip")
SEEDS = {2: (0, 1, 2), 3: (0, 1, 2), 4: (0, 1, 2), 5: (0, 1, 2), 6: (0, 1, 2)}
SIZES = tuple(SEEDS)
TUNED = SIZES[:3]
"""Sizes at which the rate of every residual is sought."""
RATES = tuple(0.00125 * 2**i for i in range(9))
FIRST = 6  # of RATES: where the search begins at the smallest size
BATCH, CONTEXT = 8, 128


def steps(size: int) -> int:
    """Steps of 1,024 bytes: 20 bytes for each of the 12 · width² · depth weights of the blocks."""
    return 15 * size**3


def shape(size: int) -> Told:
    """Overrides that make a run one of this size."""
    return (
        *(f"model.width={8 * size}", f"model.depth={size}", f"model.num_heads={size}"),
        f"trainer.steps={steps(size)}",
    )


def climb(loss: Callable[[int], float], start: int, count: int) -> int:
    """The place of the least of some losses in a row of `count`, known to be worse on both sides.

    Args:
        loss: Of a place.
        start: Where three neighbours are tried first.
        count: Places, at least 3.
    """
    start = min(max(start, 1), count - 2)
    low, high = start - 1, start + 1
    while True:
        best = min(range(low, high + 1), key=loss)
        if best == low > 0:
            low -= 1
        elif best == high < count - 1:
            high += 1
        else:
            return best


class Study:
    """Results of the study's points.

    Args:
        train: Whether a point that is missing is trained; else asking for it is a `LookupError`.
    """

    def __init__(self, *, train: bool) -> None:
        """Read what has ended."""
        self.folder, self.train = UNTRACKED / "scaling", train
        self.runs = Runs("scaling", False, f"data.root={self.folder}")
        if train:
            write_corpora(self.folder)

    def losses(self, size: int, residual: str) -> list[dict[str, Any]]:
        """The results of each seed at the chosen rate."""
        rate = RATES[self.rate(size, residual)]
        return [self.result(size, residual, rate, seed) for seed in SEEDS[size]]

    def rate(self, size: int, residual: str) -> int:
        """The place of the chosen rate among `RATES`."""

        def loss(name: str) -> Callable[[int], float]:
            def at(place: int) -> float:
                found = self.result(size, name, RATES[place], 0)
                return math.inf if "diverged" in found else found["validation"]["bits_per_byte"]

            return at

        before = SIZES[max(SIZES.index(size) - 1, 0)]
        if residual == "add":
            start = FIRST if size == before else self.rate(before, "add")
            return climb(loss("add"), start, len(RATES))
        tuned = self.rate(size, "add")
        if size in TUNED:
            return climb(loss(residual), tuned, len(RATES))
        distance = self.rate(before, residual) - self.rate(before, "add")
        sides = [place for place in (tuned - 1, tuned + 1) if 0 <= place < len(RATES)]
        nearer = tuned + distance - math.copysign(1, distance)
        pair = (tuned + distance, int(nearer) if distance else min(sides, key=loss("add")))
        assert all(0 <= place < len(RATES) for place in pair), "give more rates"
        return min(pair, key=loss(residual))

    def result(self, size: int, residual: str, rate: float, seed: int) -> dict[str, Any]:
        """The result of one point."""
        told = (
            *("experiment=scaling", *shape(size)),
            *(f"model.residual={residual}", f"optim.lr={rate:g}"),
        )
        if self.train:
            return self.runs.result(told, seed, also=self.by_corpus)
        return self.runs.records.get({"told": [*told], "seed": seed}, _missing)

    def by_corpus(self, run: Path) -> dict[str, Any]:
        """Test bits per byte of each corpus by itself, and which texts they are.

        Raises:
            ValueError: the runs that are kept are of other texts.
        """
        texts = digest(self.folder)
        kept = {r["by_corpus"]["texts"] for r in self.runs.records.known if "by_corpus" in r}
        if kept - {texts}:
            raise ValueError(
                f"the kept runs are of the texts {', '.join(kept)}, and these are {texts}, as of "
                f"another Python; move {self.runs.records.path} away to begin anew"
            )
        model, found = create_model(f"local-dir:{run}"), {}
        for corpus, text in held_out(self.folder, "test").items():
            fold = TokenFold(torch.frombuffer(bytearray(text), dtype=torch.uint8), CONTEXT)
            data = loader(fold, Batches(len(fold), BATCH))
            figures = evaluate(model, data, "tokens", torch.device("cpu"), contextlib.nullcontext)
            found[corpus] = figures["bits_per_byte"]
        return {**found, "texts": texts}


def _missing() -> NoReturn:
    raise LookupError("a point of the study has not been trained")


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--residual", nargs="+", choices=RESIDUALS, default=RESIDUALS)
    parser.add_argument("--corpora", type=Path, help="write the texts there and do no more")
    arguments = parser.parse_args()
    if arguments.corpora is not None:
        print(write_corpora(arguments.corpora))
        return
    torch.set_num_threads(1)
    study = Study(train=True)
    for size in arguments.sizes:
        for residual in arguments.residual:
            figures = [r["test"]["bits_per_byte"] for r in study.losses(size, residual)]
            print(size, residual, RATES[study.rate(size, residual)], figures, flush=True)


if __name__ == "__main__":
    main()
