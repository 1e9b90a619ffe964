"""What damaged and swapped files do: each is the answer of whole files, or one line that names it.

Small runs and saved models are made once. Then one file at a time is damaged in a copy (a flipped
bit at its head, middle or tail, half of it, a byte less, nothing, gone, or the same file of another
run, step or model) and the command that reads it is called, in a fork of this process that has
imported everything. A case is kept where the command

- gives the answer of whole files, bit by bit (`same`; `said` where a line tells of a way around);
- or ends with one line that names the file and a way out, and leaves every file as it was
  (`refused`); or goes on with what is left and says so in a line that names the file (`less`).

A traceback, another answer in silence, a nameless refusal or a lost file is a broken law.
"""

import collections
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from archzoo.layers import _kernels
from archzoo.train import __main__ as trainer
from archzoo.train.commands import certify, export, robustness
from archzoo.train.engine import loop
from archzoo.zoo import create_model
from harness import Bar, Measurement, main
from PIL import Image

importlib.import_module("archzoo.train.run")  # before the first fork, so that no case pays

COMMANDS = {
    "train": trainer.main,
    "certify": certify.main,
    "robustness": robustness.main,
    "export": export.main,
}
TINY = [
    *("~recipe", "trainer.epochs=null", "trainer.steps=12", "trainer.batch_size=32"),
    *("trainer.log_every=2", "trainer.evaluate_every=4", "trainer.progress=false"),
    *("trainer.threads=1", "optim=adamw", "logger=[csv]", "callbacks=[ema]"),
]
TABLE = ["model=mlp_nano", "data=tabular", "data.table=t", "data.root=data", *TINY]
PICTURES = [
    *("model=mlp_nano", "data=imagefolder", "data.root=pictures", "data.img_size=8"),
    *("data.resize=8", "data.validation=0.25", "data.policy=none", *TINY),
]
MEASURES = {
    "certify": ["samples=8", "attack=false", "estimate=false", "plot=false"],
    "robustness": ["samples=8", "eps=[1]", "steps=2", "out=[]", "device=cpu"],
    "export": ["out=exported", "parameters=0.5", "latency_seconds=0.0", "statistics=0"],
}
WAY_OUT = re.compile(
    r"\b(remove|bring|replace|resume|give|say|mend|move|name|start|choose|finish|fetch|take)\b"
)
KILLED = 10
"""Step in which the unfinished runs are killed; their checkpoints are of the steps 8 and 4."""

SLOW = "optim.lr=1e-30"
"""A rate at which no weight changes, so that the first evaluation stays the best."""

BEST = "checkpoints/best-4.safetensors"


@dataclass(frozen=True)
class Case:
    """A damage and the command that meets it.

    Args:
        kind: Row of the table.
        place: File or folder that is damaged, relative to the folder of the case.
        damage: Name of the damage.
        apply: Does the damage to a path.
        command: Name of a command, and its arguments.
        answer: Folder of the answer.
        names: Any of these in the line counts as the file's name; by default the file's own.
    """

    kind: str
    place: str
    damage: str
    apply: Callable[[Path], None]
    command: tuple[str, ...]
    answer: str
    names: tuple[str, ...] = ()


# Damages.


def flip(where: str) -> Callable[[Path], None]:
    """Flip one bit of the first 64 bytes, of the middle, or of the last 64, drawn by the name."""

    def apply(path: Path) -> None:
        content = bytearray(path.read_bytes())
        size = len(content)
        reach = min(64, size)
        start = {"head": 0, "middle": (size - reach) // 2, "tail": size - reach}[where]
        draw = random.Random(f"{path.name} {where}")
        content[start + draw.randrange(reach)] ^= 1 << draw.randrange(8)
        path.write_bytes(content)

    return apply


def keep(share: Callable[[int], int]) -> Callable[[Path], None]:
    """Keep the first bytes of a file."""

    def apply(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: share(len(content))])

    return apply


def swap(other: str) -> Callable[[Path], None]:
    """Put the file of another place here; the place is relative to the folder of the case."""

    def apply(path: Path) -> None:
        shutil.copy(Path(other), path)

    return apply


DAMAGES: dict[str, Callable[[Path], None]] = {
    **{f"bit flipped, {where}": flip(where) for where in ("head", "middle", "tail")},
    "half of it": keep(lambda size: size // 2),
    "a byte less": keep(lambda size: size - 1),
    "empty": keep(lambda _: 0),
    "gone": Path.unlink,
}


def rewrite(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    """Change the lines of a table after its header."""

    def apply(path: Path) -> None:
        header, *rows = path.read_text().splitlines()
        path.write_text("\n".join([header, *change(rows)]) + "\n")

    return apply


def rename_answers(**names: str) -> Callable[[Path], None]:
    """Rename the classes of a table."""

    def change(rows: list[str]) -> list[str]:
        cut = (row.rpartition(",") for row in rows)
        return [f"{cells},{names.get(label, label)}" for cells, _, label in cut]

    return rewrite(change)


def drop_column(path: Path) -> None:
    """Drop the first column of a table."""
    path.write_text(re.sub(r"(?m)^[^,]*,", "", path.read_text()))


TABLES: dict[str, Callable[[Path], None]] = {
    "sorted": rewrite(sorted),
    "classes renamed": rename_answers(no="never"),
    "classes exchanged": rename_answers(no="yes", yes="no"),
    "a cell edited": rewrite(lambda rows: [*rows[:-1], "9" + rows[-1]]),
    "a row less": rewrite(lambda rows: rows[:-1]),
    "a row more": rewrite(lambda rows: [*rows, rows[0]]),
    "a column less": drop_column,
    **{name: DAMAGES[name] for name in ("half of it", "empty", "gone")},
}


def exchange(one: str, other: str) -> Callable[[Path], None]:
    """Exchange two names within a folder."""

    def apply(folder: Path) -> None:
        (folder / one).rename(folder / "between")
        (folder / other).rename(folder / one)
        (folder / "between").rename(folder / other)

    return apply


def rename_class(folder: Path) -> None:
    """Rename a class in every part."""
    for part in ("train", "val"):
        (folder / part / "dog").rename(folder / part / "wolf")


def rename_image(folder: Path) -> None:
    """Rename an image of the test fold."""
    (folder / IMAGE).rename(folder / "val/cat/z.png")


def link_to_nowhere(folder: Path) -> None:
    """Put a broken link in the place of an image."""
    (folder / IMAGE).unlink()
    (folder / IMAGE).symlink_to("nowhere")


def on_image(damage: str) -> Callable[[Path], None]:
    """Damage an image of the test fold."""
    return lambda folder: DAMAGES[damage](folder / IMAGE)


IMAGE = "val/cat/0.png"
ALBUMS: dict[str, Callable[[Path], None]] = {
    "two images exchanged": exchange("val/cat/0.png", "val/dog/0.png"),
    "two classes exchanged": exchange("val/cat", "val/dog"),
    "a class renamed": rename_class,
    "an image renamed": rename_image,
    "a link to nowhere": link_to_nowhere,
    **{f"an image: {name}": on_image(name) for name in DAMAGES},
    "gone": shutil.rmtree,
}


# What is made once.


def make_data(place: Path) -> None:
    """Write a table of 120 rows and two folders of 24 small images."""
    draw = np.random.default_rng(0)
    points = draw.normal(size=(120, 4)).round(3)
    labels = np.where(points[:, 0] + 0.5 * points[:, 1] > 0, "yes", "no")
    rows = [",".join([*map(str, p), label]) for p, label in zip(points, labels, strict=True)]
    (place / "data").mkdir()
    (place / "data" / "t.csv").write_text("\n".join(["a,b,c,d,answer", *rows]) + "\n")
    for part in ("train", "val"):
        for shade, name in ((60, "cat"), (180, "dog")):
            folder = place / "pictures" / part / name
            folder.mkdir(parents=True)
            for i in range(24):
                pixels = draw.normal(shade, 60, size=(8, 8, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")


def call(place: Path, name: str, *arguments: str, kill_at: int | None = None) -> tuple[int, str]:
    """Call a command in a fork and return its exit code and what it wrote."""
    log = place / "said"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(place)
            out = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            os.dup2(out, 1)
            os.dup2(out, 2)
            if kill_at is not None:
                _kill_at(kill_at)
            if name == "load_model":
                _load(*arguments)
            else:
                sys.argv = [f"archzoo-{name}", *arguments]
                COMMANDS[name]()
            code = 0
        except SystemExit as ended:
            if isinstance(ended.code, str):
                print(ended.code, file=sys.stderr)
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:  # a traceback is what is looked for
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    text = log.read_text(errors="replace")
    log.unlink()
    return os.waitstatus_to_exitcode(status), text


def _kill_at(step: int) -> None:
    """Have this process killed in a step of its training."""
    train_step = loop.Trainer._train_step

    def killed(self: loop.Trainer, data: Iterator[Any]) -> torch.Tensor:
        if self.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return train_step(self, data)

    loop.Trainer._train_step = killed  # type: ignore[method-assign]


def _load(folder: str) -> None:
    """Load a model and write the bits of its answer; a refusal is a ValueError of one line."""
    try:
        model = create_model(f"local-dir:{folder}").eval()
    except ValueError as error:
        sys.exit(f"load_model: {error}")
    x = torch.linspace(-1, 1, 16).reshape(4, 4)
    with torch.no_grad():
        Path("answer").write_text(content(model(x)))


def content(x: torch.Tensor) -> str:
    """Digest of a tensor's bits."""
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()


def make_runs(place: Path) -> None:
    """Train what the cases begin from, and export a model."""
    wanted: dict[str, tuple[list[str], int | None]] = {
        "whole": (TABLE, None),
        "cut": (TABLE, KILLED),
        "other": ([*TABLE, "seed=1"], None),
        "other_cut": ([*TABLE, "seed=1"], KILLED),
        "slow_cut": ([*TABLE, SLOW], KILLED),
        "slow_other_cut": ([*TABLE, SLOW, "seed=1"], KILLED),
        "wide": ([*TABLE, "model.width=48"], None),
        "album": (PICTURES, None),
        "album_cut": (PICTURES, KILLED),
    }
    for name, (overrides, kill_at) in wanted.items():
        code, said = call(place, "train", f"run_dir={name}", *overrides, kill_at=kill_at)
        if code != (0 if kill_at is None else -signal.SIGKILL):
            raise RuntimeError(f"{name} ended with {code}: {said}")
    sweep = ["-m", *TABLE, "hydra.sweep.dir=sweep", "seed=0,1"]
    for name, arguments in (
        ("train", sweep),
        ("export", ["run=whole", "out=small", *MEASURES["export"][1:]]),
    ):
        code, said = call(place, name, *arguments)
        if code:
            raise RuntimeError(f"{name} {arguments}: {said}")


# Cases.


def cases() -> Iterator[Case]:
    """Every case: file by file, damage by damage, command by command."""
    yield from unfinished()
    yield from finished()
    yield from models()
    yield from data()
    yield from sweeps()


def unfinished() -> Iterator[Case]:
    """Files of a run that was killed, met by `resume`."""
    swaps = {
        "checkpoints/last.pt": {
            "that of another run": "other_cut/checkpoints/last.pt",
            "that of another model": "wide/checkpoints/last.pt",
            "that of an earlier step": "cut/checkpoints/last-1.pt",
        },
        "checkpoints/last-1.pt": {"that of another run": "other_cut/checkpoints/last-1.pt"},
        BEST: {"that of another run": f"slow_other_cut/{BEST}"},
        "config.yaml": {
            "that of another run": "other_cut/config.yaml",
            "that of another model": "wide/config.yaml",
        },
        "data.json": {"that of other data": "album/data.json"},
        "metrics.csv": {"that of another run": "other_cut/metrics.csv"},
        "environment.json": {"that of another run": "other_cut/environment.json"},
        "run.lock": {"that of another run": "other_cut/run.lock"},
    }
    for file, others in swaps.items():
        damages = dict(DAMAGES)
        if file in ("environment.json", "run.lock"):
            damages = {k: v for k, v in damages.items() if k in ("half of it", "empty", "gone")}
        damages |= {name: swap(other) for name, other in others.items()}
        run = "slow_cut" if file == BEST else "cut"
        for damage, apply in damages.items():
            yield Case(
                f"resume: {Path(file).name}", f"{run}/{file}", damage, apply,
                ("train", f"resume={run}"), run,
            )  # fmt: skip
    for file in ("checkpoints/last.pt", "config.yaml", "data.json", "metrics.csv"):
        for damage in ("bit flipped, middle", "half of it", "empty", "gone"):
            yield Case(
                f"resume=auto: {Path(file).name}", f"cut/{file}", damage, DAMAGES[damage],
                ("train", *TABLE, "run_dir=cut", "resume=auto"), "cut",
            )  # fmt: skip


def finished() -> Iterator[Case]:
    """Files of a run that ended, met by what measures it."""
    others = {
        "config.yaml": "album/config.yaml",
        "config.json": "wide/config.json",
        "model.safetensors": "other/model.safetensors",
        "result.json": "other/result.json",
        "data.json": "album/data.json",
    }
    for file, other in others.items():
        for damage, apply in {**DAMAGES, "that of another run": swap(other)}.items():
            yield measured("certify", "whole", file, damage, apply)
        for damage in ("bit flipped, middle", "half of it", "gone"):
            for name in ("robustness", "export"):
                yield measured(name, "whole", file, damage, DAMAGES[damage])
    for damage in ("bit flipped, head", "half of it", "gone", "that of another run"):
        apply = DAMAGES.get(damage, swap("other/result.json"))
        yield Case(
            "resume of an ended run: result.json", "whole/result.json", damage, apply,
            ("train", "resume=whole"), "whole",
        )  # fmt: skip


def measured(command: str, run: str, file: str, damage: str, apply: Callable[[Path], None]) -> Case:
    """A case of a measuring command on a file of a run."""
    answer = "exported" if command == "export" else run
    arguments = (command, f"run={run}", *MEASURES[command])
    return Case(f"{command}: {file}", f"{run}/{file}", damage, apply, arguments, answer)


def models() -> Iterator[Case]:
    """The two files of a saved model, met by `load_model`."""
    for file, other in (
        ("config.json", "wide/config.json"),
        ("model.safetensors", "whole/model.safetensors"),
    ):
        for damage, apply in {**DAMAGES, "that of another model": swap(other)}.items():
            yield Case(
                f"load_model: {file}", f"small/{file}", damage, apply, ("load_model", "small"), "."
            )


def data() -> Iterator[Case]:
    """Data that changed, met by whatever reads it again."""
    classes = ("t.csv", "data.json", "class", "the data")
    for damage, apply in TABLES.items():
        yield Case(
            "resume: the table",
            "data/t.csv",
            damage,
            apply,
            ("train", "resume=cut"),
            "cut",
            classes,
        )
        for name in ("certify", "robustness", "export"):
            if name == "certify" or damage in ("sorted", "classes renamed", "classes exchanged"):
                arguments = (name, "run=whole", *MEASURES[name])
                answer = "exported" if name == "export" else "whole"
                yield Case(
                    f"{name}: the table", "data/t.csv", damage, apply, arguments, answer, classes
                )
    images = ("0.png", "data.json", "class", "pictures")
    for damage, apply in ALBUMS.items():
        yield Case(
            "resume: images", "pictures", damage, apply, ("train", "resume=album_cut"),
            "album_cut", images,
        )  # fmt: skip
        for name in ("certify", "robustness"):
            if name == "certify" or "class" in damage:
                arguments = (name, "run=album", *MEASURES[name])
                yield Case(f"{name}: images", "pictures", damage, apply, arguments, "album", images)


def sweeps() -> Iterator[Case]:
    """Files of a sweep's points, met when it is called again."""
    again = ("train", "-m", *TABLE, "hydra.sweep.dir=sweep", "seed=0,1", "resume=auto")
    for file in ("config.yaml", "result.json", "checkpoints/last.pt"):
        for damage in ("bit flipped, middle", "half of it", "empty", "gone"):
            yield Case(
                f"sweep: {Path(file).name}", f"sweep/1/{file}", damage, DAMAGES[damage], again,
                "sweep/1",
            )  # fmt: skip


# Verdicts.


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file that a run or a person would miss."""
    ours = ("run.lock", "said", "multirun.yaml")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ours
    }


def answer_of(folder: Path) -> dict[str, Any]:
    """What a command leaves, without times and places."""
    found: dict[str, Any] = {}
    for name in ("result.json", "certificate.json", "robustness.json", "export.json", "answer"):
        path = folder / name
        if path.is_file():
            text = path.read_text()
            found[name] = _without_times(json.loads(text)) if "{" in text else text
    if (folder / "model.safetensors").is_file():
        from safetensors.torch import load_file

        weights = load_file(str(folder / "model.safetensors"))
        found["weights"] = {name: content(x) for name, x in weights.items()}
    if (folder / "metrics.csv").is_file():
        found["metrics"] = _rows(folder / "metrics.csv")
    return found


def _rows(path: Path) -> list[list[str]]:
    header, *rows = (line.split(",") for line in path.read_text().splitlines())
    timed = header.index("samples_per_second")
    return [[cell for i, cell in enumerate(row) if i != timed] for row in [header, *rows]]


def _without_times(found: dict[str, Any]) -> dict[str, Any]:
    timed = ("seconds", "dense", "exported", "of", "digest", "run", "threads")
    return {key: value for key, value in found.items() if key not in timed}


def judge(case: Case, code: int, said: str, before: dict[str, bytes], place: Path,
          expected: dict[str, Any]) -> tuple[str, str]:  # fmt: skip
    """The verdict of a case, and the line that tells."""
    lines = [line for line in said.splitlines() if line.strip()]
    names = case.names or (Path(case.place).name, "model.safetensors and config.json")
    told = [line for line in lines if any(name in line for name in names)]
    if "Traceback" in said or code < 0:
        return "TRACEBACK", " | ".join(lines[-3:])
    after = files_of(place)
    if code:
        lost = [name for name, held in before.items() if after.get(name) != held]
        errors = [line for line in lines if line.startswith(("archzoo-", "load_model", "  "))]
        if lost:
            return "LOST", f"{lost}: {' | '.join(lines)}"
        if not told or not any(WAY_OUT.search(line) for line in told):
            return "NAMELESS", " | ".join(lines)
        most = 3 if "-m" in case.command else 1  # a sweep says it at once and again at its end
        return ("refused", told[-1]) if len(errors) <= most else ("MANY LINES", " | ".join(lines))
    if answer_of(place / case.answer) == expected:
        return ("said", told[0]) if told else ("same", "")
    return ("less", told[0]) if told else ("SILENT", " | ".join(lines))


KEPT = ("same", "said", "refused", "less")


def try_case(
    case: Case, base: Path, expected: dict[tuple[str, ...], dict[str, Any]]
) -> tuple[str, str]:
    """Damage a copy and judge the command; the same command on whole files is asked once."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "place"
        if case.command not in expected:
            shutil.copytree(base, place, symlinks=True)
            code, said = call(place, *case.command)
            if code:
                raise RuntimeError(f"{case.command} fails on whole files: {said}")
            expected[case.command] = answer_of(place / case.answer)
            shutil.rmtree(place)
        shutil.copytree(base, place, symlinks=True)
        here = os.getcwd()
        os.chdir(place)
        path = place / case.place
        if not path.exists() and path.name != "run.lock":
            raise RuntimeError(f"no {case.place} to damage")
        try:
            case.apply(path)
        finally:
            os.chdir(here)
        before = files_of(place)
        code, said = call(place, *case.command)
        return judge(case, code, said, before, place, expected[case.command])


def kernel_cases(base: Path) -> list[tuple[str, str, str]]:
    """A damaged library of kernels is passed over, and built anew where a compiler is."""
    cache = base / "kernels"
    os.environ["TORCH_EXTENSIONS_DIR"] = str(cache)
    family = next(p.stem for p in sorted(Path(_kernels.__file__).parent.glob("*.cpp")))
    found = []
    if not _in_fork(lambda: _kernels.load_kernels(family)):
        return found  # no compiler here
    library = next(cache.rglob("*.so"))
    whole = library.read_bytes()
    for damage in ("bit flipped, middle", "half of it", "empty"):
        library.write_bytes(whole)
        DAMAGES[damage](library)
        good = _in_fork(lambda: _kernels.load_kernels(family))
        found.append((f"kernels: {family}", damage, "same" if good else "TRACEBACK"))
        for other in set(cache.rglob("*.so")) - {library}:
            other.unlink()
    return found


def _in_fork(test: Callable[[], bool]) -> bool:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if test() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def measure(quick: bool) -> Measurement:
    """Try every case, or every twelfth."""
    torch.set_num_threads(1)
    verdicts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    broken, notes = [], []
    chosen = list(cases())[:: 12 if quick else 1]
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        base.mkdir()
        make_data(base)
        make_runs(base)
        expected: dict[tuple[str, ...], dict[str, Any]] = {}
        tried = []
        for case in chosen:
            verdict, line = try_case(case, base, expected)
            tried.append((case.kind, case.damage, verdict, line))
            print(f"{verdict}: {case.kind}, {case.damage}", file=sys.stderr, flush=True)
        if not quick:
            tried += [(*row, "") for row in kernel_cases(base)]
    for kind, damage, verdict, line in tried:
        verdicts[kind][verdict] += 1
        if verdict not in KEPT:
            broken.append(f"{verdict}: {kind}, {damage}: {line[:400]}")
        elif verdict == "less":
            notes.append(f"less: {kind}, {damage}: {line[:200]}")
    heads = [*KEPT, *sorted({v for c in verdicts.values() for v in c} - set(KEPT))]
    rows = [
        {"file": kind, "cases": count.total(), **{head: count[head] for head in heads}}
        for kind, count in verdicts.items()
    ]
    rows.append({"file": "all", "cases": len(tried)} | {h: sum(r[h] for r in rows) for h in heads})
    least = 15 if quick else 100
    bars = [
        Bar("cases", len(tried), least, at_most=False),
        Bar("cases that break the law", len(broken), 0),
    ]
    return rows, bars, notes + broken


if __name__ == "__main__":
    main("damaged_files", measure)
