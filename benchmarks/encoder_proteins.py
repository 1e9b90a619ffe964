"""The genus of bacterial proteins from their letters: an encoder beside hashed 3-mers.

The 10,913 proteins are cut into folds by clusters of similar sequences, so that no homologue of
what is tested was learned from, and every model has the same folds (`experiment=proteins`). A
logistic regression of counts of up to three letters in a row is what an encoder must beat; its
strength is chosen on the validation fold. It is also measured where clusters are of nearly equal
proteins alone, which is close to a split at random: the difference is what homologues give away.

The encoder starts at random or from `experiment=proteins_pretrain`, which named hidden 2-mers of
the training proteins, and has plain or attention residuals. A run is kept when it ends, in
`results/encoder_proteins_runs.jsonl`, and is not run again.

Set ARCHZOO_DATA to the folder with `proteins/genera.tsv.gz`.
"""

import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from archzoo.train.data.sequences.cluster_split import cluster_folds
from archzoo.train.data.sequences.read_sequences import read_sequences
from archzoo.train.data.sequences.similarity_clusters import WORDS, similarity_clusters
from harness import RESULTS, UNTRACKED, Bar, Measurement, main
from records import Records
from runs import trained
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from spread import apart, summary

PROTEINS = Path(os.environ.get("ARCHZOO_DATA", "/usr/share/archzoo")) / "proteins/genera.tsv.gz"
SEEDS = (0, 1, 2)
RESIDUALS = ("add", "block_attnres")
STARTS = {"none": "at random", "masked": "from hidden 2-mers"}
SIMILARITY, LOOSE = 0.03, 1.0
STRENGTHS = (1.0, 3.0, 10.0, 30.0)
BUCKETS = 2**14
QUICK = ("trainer.steps=4", "trainer.epochs=null", "trainer.batch_size=8")


def measure(quick: bool) -> Measurement:
    """Train what is missing, and make a row of each model."""
    torch.set_num_threads(1)
    runs = Runs(quick)
    seeds = SEEDS[:1] if quick else SEEDS
    rows: list[dict[str, Any]] = []
    counts = runs.counted(SIMILARITY)
    rows.append({"model": "3-mers, logistic regression", "start": "", **figures([counts])})
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for residual in RESIDUALS:
        for start, told in STARTS.items():
            found[residual, start] = [runs.trained(residual, start, seed) for seed in seeds]
            rows.append({"model": residual, "start": told, **figures(found[residual, start])})
    loose = runs.counted(LOOSE)
    rows.append({"model": "3-mers, homologues on both sides", "start": "", **figures([loose])})
    tested = {key: [each["test"] for each in each_seed] for key, each_seed in found.items()}
    best = max(found, key=lambda key: statistics.mean(r["validation"] for r in found[key]))
    notes = [
        difference(f"pretraining against none, `{residual}`", tested[residual, "masked"],
                   tested[residual, "none"])
        for residual in RESIDUALS
    ] + [
        difference(f"`block_attnres` against `add`, {told}", tested["block_attnres", start],
                   tested["add", start])
        for start, told in STARTS.items()
    ]  # fmt: skip
    minutes = max(run["minutes"] for each in found.values() for run in each)
    accuracy = statistics.mean(tested[best])
    bars = [] if quick else [
        Bar("test accuracy of the encoder that validates best", accuracy, 0.88, at_most=False),
        Bar("its accuracy over that of 3-mers", accuracy - counts["test"], 0.024, at_most=False),
        Bar("CPU minutes of the longest run, its pretraining included", minutes, 10.0),
    ]  # fmt: skip
    return rows, bars, notes


def figures(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracies in per cent with their standard errors, and the mean of CPU minutes."""
    told: dict[str, Any] = {}
    for fold in ("validation", "test"):
        mean, error = summary([100 * run[fold] for run in runs])
        told |= {f"{fold}, %": round(mean, 2), f"{fold}, error": round(error, 2)}
        if len(runs) == 1:
            told[f"{fold}, error"] = None
    told["seeds"] = len(runs)
    told["CPU minutes"] = round(statistics.mean(run["minutes"] for run in runs), 2)
    return told


def difference(what: str, one: list[float], other: list[float]) -> str:
    """Say by how much two means differ, and whether the seeds show it."""
    if len(one) < 2:
        return f"{what}: one seed"
    (a, da), (b, db) = (summary([100 * x for x in each]) for each in (one, other))
    shown = "shown" if apart(one, other) else "not shown"
    return f"{what}: {a - b:+.2f} ± {(da**2 + db**2) ** 0.5:.2f} points, {shown}"


class Runs:
    """Results of runs, from the record or by training them."""

    def __init__(self, quick: bool) -> None:
        """Read what has ended."""
        path = RESULTS / "encoder_proteins_runs.jsonl"
        if quick:
            path = UNTRACKED / "encoder_proteins-quick_runs.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
        self.quick, self.records = quick, Records(path)

    def counted(self, similarity: float) -> dict[str, Any]:
        """Accuracies of a logistic regression of hashed words of one to three letters."""
        key = {"model": "counts", "similarity": similarity}
        return self.records.get(key, lambda: count_words(similarity, self.quick))

    def trained(self, residual: str, start: str, seed: int) -> dict[str, Any]:
        """Accuracies of an encoder."""
        key = {"model": residual, "start": start, "seed": seed}
        return self.records.get(key, lambda: self._train(residual, start, seed))

    def _train(self, residual: str, start: str, seed: int) -> dict[str, Any]:
        told = [f"data.root={PROTEINS}", f"model.residual={residual}"]
        told += QUICK if self.quick else ()
        began, more = time.process_time(), []
        place = UNTRACKED / f"encoder_proteins-{residual}-{seed}"
        if start == "masked":
            shutil.rmtree(place, ignore_errors=True)
            trained(["experiment=proteins_pretrain", *told], seed, place)
            more = [f"init={place}"]
        folder = UNTRACKED / f"encoder_proteins-{residual}-{start}-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        result = trained(["experiment=proteins", *told, *more], seed, folder).result
        found = {fold: result[fold]["accuracy"] for fold in ("validation", "test")}
        minutes = (time.process_time() - began) / 60
        shutil.rmtree(folder)
        shutil.rmtree(place, ignore_errors=True)
        print(residual, start, seed, found, f"{minutes:.1f} minutes", flush=True)
        return {**found, "minutes": round(minutes, 2)}


def count_words(similarity: float, quick: bool) -> dict[str, Any]:
    """Fit a regression at each strength and return the accuracies of the best in validation."""
    began = time.process_time()
    records = read_sequences(str(PROTEINS), target="genus")
    letters = [record.sequence for record in records]
    targets = np.unique([record.label for record in records], return_inverse=True)[1]
    clusters = similarity_clusters(letters, WORDS["protein"], similarity)
    rows = cluster_folds(letters, targets, clusters, 0)
    hashed: Any = HashingVectorizer(
        analyzer="char", lowercase=False, ngram_range=(1, 3), n_features=BUCKETS,
        norm="l2", alternate_sign=False,
    ).transform(letters)  # fmt: skip
    best: dict[str, Any] = {"validation": 0.0}
    for strength in STRENGTHS[:1] if quick else STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=2000)
        model.fit(hashed[rows["train"]], targets[rows["train"]])
        found = {
            fold: float(model.score(hashed[rows[fold]], targets[rows[fold]]))
            for fold in ("validation", "test")
        }
        if found["validation"] > best["validation"]:
            best = {**found, "strength": strength}
    return {**best, "minutes": round((time.process_time() - began) / 60, 2)}


if __name__ == "__main__":
    main("encoder_proteins", measure)
