"""A LoRA carried to another model on text that the other model writes, after Trans-LoRA.

Three byte-level GPTs learn four novels of Jane Austen in `$ARCHZOO_DATA/austen`: a source, a larger
target, and a target of the source's size with another residual. The source's LoRA learns
*Persuasion*. It is carried to a target as a user would: the target writes a text (`archzoo
generate`), the source with its LoRA says which half of the samples to keep and is the teacher of
the target's own LoRA on them (`distill=soft_labels`); no byte of *Persuasion* is read. Beside it
stand the whole text, the half of the fewest bits in place of the best ratio to the writer's, a text
that the source with its LoRA writes, and a LoRA trained on *Persuasion* itself.

What counts is the share of the gain in bits per byte of *Persuasion*'s test fold that training on
it has. The learning rate of all LoRAs is the best of a grid for the source's at seed 0, by the
validation fold. Runs lie under `build/benchmarks/trans_lora` and are resumed; a figure is appended
to `results/trans_lora_runs.jsonl` when it is found.
"""

import functools
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from archzoo.train.commands.generate import generate
from archzoo.train.data import Batches, data_sets, loader
from archzoo.train.engine.half_precision import autocast
from archzoo.train.engine.metrics import evaluate
from archzoo.zoo import create_model
from harness import RESULTS, UNTRACKED, Bar, Measurement, main
from projected_optimizers import novels
from records import Records
from runs import trained
from spread import summary

SEEDS = (0, 1, 2)
RATES = (0.003, 0.01, 0.03)
CONTEXT = 64
MODELS = {
    "source": ("model.width=96", "model.depth=2", "model.num_heads=4"),
    "larger": ("model.width=128", "model.depth=3", "model.num_heads=4"),
    "block_attnres": (
        *("model.width=96", "model.depth=2", "model.num_heads=4"),
        "model.residual=block_attnres",
    ),
}
TARGETS = ("larger", "block_attnres")
WHOLE = "its text, whole"
FILTERED = "its text, the best half by the ratio"
TEXTS: dict[str, dict[str, Any]] = {
    WHOLE: {},
    FILTERED: {"judge": True, "by": "ratio"},
    "its text, the half of the fewest bits": {"judge": True, "by": "bits"},
    "text by the source with its LoRA": {"source": True},
}
COMMON = (
    *("model=gpt_nano", "data=bytes", f"data.context_length={CONTEXT}", "optim=adamw"),
    *("optim.weight_decay=0.0", "schedule.warmup=0.1", "schedule.final=0.1", "callbacks=[none]"),
    *("trainer.epochs=null", "trainer.batch_size=32", "trainer.clip_grad=1.0"),
    *("trainer.threads=1", "trainer.checkpoint_every=200"),
)
LORA = ("adapter=lora", "adapter.rank=8")


class Study:
    """The runs of the comparison, each in a folder of its own.

    Args:
        folder: Of the runs.
        base: What the data are that all models learn first, as overrides.
        task: The text that the adapters learn.
        steps: Of the first training, and of an adapter's.
        size: Bytes of a text that a model writes.
    """

    def __init__(
        self, folder: Path, base: Sequence[str], task: Path, steps: tuple[int, int], size: int
    ) -> None:
        """Read the folds of the task once."""
        self.folder, self.base, self.task = folder, base, task
        self.steps, self.size = steps, size
        self.splits = data_sets.build("bytes", path=str(task), context_length=CONTEXT)

    def train(self, name: str, seed: int, steps: int, *told: str) -> Path:
        """Train as the command line does, or go on; return the folder of the run."""
        place = self.folder / str(seed) / name
        if not (place / "result.json").is_file():
            given = [*COMMON, *told, f"trainer.steps={steps}", f"trainer.evaluate_every={steps}"]
            trained([*given, "resume=auto"], seed, place)
        return place

    def trained(self, model: str, seed: int) -> Path:
        """A model after the four novels."""
        return self.train(model, seed, self.steps[0], *MODELS[model], *self.base, "optim.lr=0.004")

    def adapted(self, model: str, seed: int, rate: float) -> Path:
        """A model with a LoRA that learned the task."""
        told = (*MODELS[model], *LORA, f"init={self.trained(model, seed)}", f"optim.lr={rate}")
        name = f"{model}-task-{rate}"
        return self.train(name, seed, self.steps[1], *told, f"data.path={self.task}")

    def carried(self, target: str, seed: int, rate: float, how: str) -> tuple[Path, dict[str, Any]]:
        """A target with the source's LoRA carried over, and what was written for it."""
        teacher, own = self.adapted("source", seed, rate), self.trained(target, seed)
        settings = TEXTS[how]
        judged: dict[str, Any] = {}
        if "judge" in settings:
            judged = {"judge": str(teacher), "by": settings["by"]}
        writer = teacher if "source" in settings else own
        text = self.folder / str(seed) / f"{target}-{list(TEXTS).index(how)}.txt"
        text.unlink(missing_ok=True)
        made = generate(str(writer), str(text), size=self.size, seed=seed, **judged).found
        told = (*MODELS[target], *LORA, f"init={own}", f"optim.lr={rate}", f"data.path={text}")
        told += ("distill=soft_labels", f"distill.teacher={teacher}")
        place = self.train(f"{target}-carried-{list(TEXTS).index(how)}", seed, self.steps[1], *told)
        return place, {key: value for key, value in made.items() if key != "file"}

    def bits(self, place: Path, fold: str = "test") -> dict[str, float]:
        """Bits per byte of a fold of the task."""
        samples = getattr(self.splits, fold)
        batches, cpu = loader(samples, Batches(len(samples), 32)), torch.device("cpu")
        model = create_model(f"local-dir:{place}").eval()
        found = evaluate(model, batches, "tokens", cpu, lambda: autocast("cpu", "off"))
        return {"bits": round(found["bits_per_byte"], 5)}


def figures(study: Study, records: Records, seeds: Sequence[int]) -> dict[Any, list[float]]:
    """Bits per byte by model and what was done to it, a figure for each seed."""
    steps = list(study.steps)
    tried = {
        rate: records.get(
            {"model": "source", "how": f"rate {rate}", "seed": 0, "steps": steps},
            lambda r=rate: study.bits(study.adapted("source", 0, r), "validation"),
        )["bits"]
        for rate in RATES
    }
    rate = min(tried, key=tried.__getitem__)
    found: dict[Any, list[float]] = {}

    def note(model: str, how: str, seed: int, measured: Any) -> None:
        key = {"model": model, "how": how, "seed": seed, "steps": steps, "rate": rate}
        found.setdefault((model, how), []).append(records.get(key, measured)["bits"])
        print(model, how, seed, found[model, how][-1], flush=True)

    def carry(target: str, seed: int, how: str) -> dict[str, Any]:
        place, made = study.carried(target, seed, rate, how)
        return {**study.bits(place), **made}

    for seed in seeds:
        for model in MODELS:
            own = functools.partial(study.trained, model, seed)
            real = functools.partial(study.adapted, model, seed, rate)
            note(model, "alone", seed, lambda f=own: study.bits(f()))
            note(model, "the task itself", seed, lambda f=real: study.bits(f()))
            for how in TEXTS if model in TARGETS else ():
                note(model, how, seed, functools.partial(carry, model, seed, how))
    return found


def measure(quick: bool) -> Measurement:
    """Train what is missing and make the table."""
    torch.set_num_threads(1)
    if quick:
        folder = UNTRACKED / "trans_lora-quick"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        root = Path(__file__).parents[1]
        task = folder / "task.txt"  # the project's own sources; the figures are of no interest
        task.write_text("".join(p.read_text() for p in sorted((root / "zoo").glob("*.py"))))
        base = (f"data.path={root / 'layers'}",)
        study, seeds = Study(folder, base, task, (6, 4), 4000), (0,)
        records = Records(folder / "runs.jsonl")
    else:
        base = (f"data.path={novels()}", "data.pattern='[!s]*[!n].txt'")
        task = novels() / "persuasion.txt"
        study, seeds = Study(UNTRACKED / "trans_lora", base, task, (1000, 300), 200_000), SEEDS
        records = Records(RESULTS / "trans_lora_runs.jsonl")
    found = figures(study, records, seeds)
    rows = [row(found, model, how) for model, how in found]
    return rows, [] if quick else bars(found), [f"seeds: {len(seeds)}"]


def shares(found: dict[Any, list[float]], model: str, how: str) -> list[float]:
    """The share of the gain of the task's own data, for each seed."""
    alone, real = found[model, "alone"], found[model, "the task itself"]
    return [(a - b) / (a - r) for a, b, r in zip(alone, found[model, how], real, strict=True)]


def beyond(found: dict[Any, list[float]], model: str, how: str, other: str) -> list[float]:
    """Bits per byte beyond those of another text, for each seed."""
    return [a - b for a, b in zip(found[model, how], found[model, other], strict=True)]


def row(found: dict[Any, list[float]], model: str, how: str) -> dict[str, Any]:
    """A model and what was done to it."""
    mean, error = summary(found[model, how])
    told = {"model": model, "trained on": how, "bits/byte": round(mean, 4)}
    told |= {"standard error": round(error, 4), "seeds": found[model, how]}
    if how not in TEXTS:
        return told
    share, spread = summary(shares(found, model, how))
    more, unsure = summary(beyond(found, model, how, WHOLE))
    return told | {
        "share of the gain": round(share, 4),
        "its error": round(spread, 4),
        "bits beyond the whole text": round(more, 4),
        "error of those": round(unsure, 4),
    }


def bars(found: dict[Any, list[float]]) -> list[Bar]:
    """Half of the gain, and the filter's part in it."""
    judged = []
    for model in TARGETS:
        share = statistics.mean(shares(found, model, FILTERED))
        more, error = summary(beyond(found, model, FILTERED, WHOLE))
        judged += [
            Bar(f"{model}: share of the gain, filtered", share, 0.5, at_most=False),
            Bar(f"{model}: bits of filtered text less whole, and two errors", more + 2 * error, 0),
        ]
    return judged


if __name__ == "__main__":
    main("trans_lora", measure)
