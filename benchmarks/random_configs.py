"""A thousand valid and a thousand invalid configurations through the real `archzoo train`.

(a) What is valid trains two or three steps, leaves a whole run with finite figures, and its model
loads; or it is refused in one line before training begins, which is counted apart, by sentence.
(b) What has one thing wrong is refused in one line that names it and a way out, and leaves no
folder. Every command runs in a forked child; some of both kinds are repeated in a new interpreter,
which must end the same way.

Ended commands are kept beside the untracked figures, under a digest of the code, so that a run that
was interrupted goes on where it was; what changes the code begins anew.
"""

import collections
import hashlib
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import archzoo.train.run  # noqa: F401  # children shall not import it one by one
from archzoo.train.__main__ import main as train_command
from archzoo.train.override_errors import explain_overrides
from archzoo.train.schemas import register_schemas
from archzoo.zoo import create_model
from config_files import write_files
from forked_command import Ended, call
from harness import UNTRACKED, Bar, Measurement, main
from invalid_configs import KINDS, draw_invalid
from timm.optim import get_optimizer_info, list_optimizers
from valid_configs import draw_valid

ROOT = Path(__file__).parents[1]
COUNT, QUICK, FRESH = 1000, 24, 20
LIMIT = 60.0
START = "archzoo train: "
WAY_OUT = (
    "did you mean", "known:", "must", "choose", "give", "leave", "set ", "use ", "at least",
    "at most", "write", "say ", "another", "lower", "add ", "take", "could not be converted",
    "is not a valid", "install", "no such choice", "exceeds", "cannot", "is due", "cells, not",
    "name the", "name an",
)  # fmt: skip
"""What an error's sentence holds that says what to do, or what would have been right."""


def warm_up() -> None:
    """Let the parser of overrides learn its tables once, and import what is imported late."""
    import torchvision.transforms.v2  # noqa: F401

    register_schemas()
    explain_overrides(["model=resnet_nano", "model.residual={name:add}", "model.widths=[8]"])


def run_command(arguments: list[str], place: Path, finish: Callable[[], Any] | None) -> Ended:
    """Call `archzoo train` in a child, and something after it where it ends well."""

    def command() -> None:
        train_command()
        if finish is not None:
            finish()

    return call("archzoo train", command, arguments, place, LIMIT)


def judge_valid(ended: Ended, run: Path) -> tuple[str, str]:
    """Return `complete`, `refused` or `failed`, and what was said."""
    lines = [line for line in ended.errors.splitlines() if line.strip()]
    said = lines[-1] if lines else f"exit code {ended.code}, no word"
    if ended.code == 0:
        result = run / "result.json"
        if not result.is_file():
            return "failed", "exit code 0 without a result"
        folds = json.loads(result.read_text())
        figures = [v for fold in ("validation", "test") for v in folds[fold].values()]
        if not figures or not all(map(math.isfinite, figures)):
            return "failed", f"exit code 0 with {result.read_text()}"
        return "complete", ""
    if ended.code in (1, 2) and len(lines) == 1 and said.startswith(START) and not run.exists():
        return "refused", said.removeprefix(START)
    return "failed", f"exit code {ended.code}: {said}"


def judge_invalid(ended: Ended, run: Path, names: list[Any], before: bool) -> tuple[str, str]:
    """Return `refused`, or how the law was broken, and what was said."""
    lines = [line for line in ended.errors.splitlines() if line.strip()]
    said = lines[-1] if lines else ""
    missing = [n for n in names if not any(w in said for w in ([n] if isinstance(n, str) else n))]
    if ended.code == 0:
        return "wrongly accepted", said
    if ended.code not in (1, 2) or "Traceback" in ended.errors + ended.output:
        return "traceback", f"exit code {ended.code}: {said}"
    if len(lines) != 1 or not said.startswith(START):
        return "not one line", " / ".join(lines)
    if missing:
        return "does not name", f"{missing}: {said}"
    if not any(words in said.lower() for words in WAY_OUT):
        return "no way out", said
    if run.exists() and not before:
        return "left a folder", said
    return "refused", said.removeprefix(START)


def valid(number: int, files: Path, place: Path) -> dict[str, Any]:
    """Draw and run one valid command."""
    run = place / "run"
    arguments = [*draw_valid(number, files, usable_optimizers()), f"run_dir={run}"]
    ended = run_command(arguments, place, lambda: create_model(f"local-dir:{run}"))
    verdict, said = judge_valid(ended, run)
    return row(number, "valid", verdict, said, ended, arguments)


def invalid(number: int, files: Path, place: Path) -> dict[str, Any]:
    """Draw and run one invalid command."""
    drawn = draw_invalid(number, files)
    run = place / "run"
    arguments = [f"run_dir={run}", *drawn.overrides]
    ended = run_command(arguments, place, None)
    names = [n.replace("{files}", str(files)) if isinstance(n, str) else n for n in drawn.names]
    verdict, said = judge_invalid(ended, run, names, False)
    return row(number, drawn.kind, verdict, said, ended, arguments)


def row(
    number: int, kind: str, verdict: str, said: str, ended: Ended, arguments: list[str]
) -> dict[str, Any]:
    """Write down how a command ended."""
    facts = {"number": number, "kind": kind, "verdict": verdict, "said": said, "code": ended.code}
    return {**facts, "seconds": round(ended.seconds, 2), "arguments": arguments}


def usable_optimizers() -> list[str]:
    """Names of timm that need no other package or second derivative and compile nothing."""
    apart = ("bnb", "fused", "kron")
    names = [name for name in list_optimizers() if not name.startswith(apart)]
    return [name for name in names if not get_optimizer_info(name).second_order]


def digest_of_code() -> str:
    """Return a digest of everything that a run may depend on."""
    code = hashlib.sha256()
    for folder in ("layers", "zoo", "train", "conf", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                code.update(path.read_bytes())
    return code.hexdigest()[:16]


def recorded(path: Path) -> Iterator[dict[str, Any]]:
    """Read the commands that ended before; a line that was being written is none."""
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.endswith("}"):
                yield json.loads(line)


def run_all(one: Callable[..., dict[str, Any]], count: int, files: Path) -> list[dict[str, Any]]:
    """Run every number that has not ended before, each in an empty folder."""
    UNTRACKED.mkdir(parents=True, exist_ok=True)
    kept = UNTRACKED / f"random_configs-{one.__name__}-{digest_of_code()}.jsonl"
    rows = {entry["number"]: entry for entry in recorded(kept)}
    with kept.open("a") as file:
        for number in range(count):
            if number not in rows:
                with tempfile.TemporaryDirectory() as place:
                    rows[number] = one(number, files, Path(place))
                file.write(json.dumps(rows[number]) + "\n")
                file.flush()
    return [rows[number] for number in range(count)]


def differing_in_a_new_interpreter(rows: list[dict[str, Any]]) -> list[str]:
    """Repeat commands without the fork and return those that end with another code or word."""
    differing = []
    for entry in rows:
        with tempfile.TemporaryDirectory() as place:
            arguments = [re.sub(r"^(run_dir=)/tmp/\w+/run$", rf"\g<1>{place}/run", a)
                         for a in entry["arguments"]]  # fmt: skip
            command = [sys.executable, "-m", "archzoo.train", *arguments]
            done = subprocess.run(command, capture_output=True, text=True, cwd=place)
        last = (done.stderr.strip().splitlines() or [""])[-1].removeprefix(START)
        same = done.returncode == entry["code"] and (not entry["code"] or last == entry["said"])
        if not same:
            differing.append(f"{entry['kind']} {entry['number']}: {done.returncode}, {last}")
    return differing


def sentence(said: str) -> str:
    """A sentence without the numbers, names and paths that tell two of a kind apart."""
    said = re.sub(r"/[\w/.-]+", "PATH", said)
    said = re.sub(r"'[^']*'", "'…'", said)
    return re.sub(r"-?\d+(\.\d+)?(e-?\d+)?|\bnan\b|-?\binf\b", "#", said)


def measure(quick: bool) -> Measurement:
    """Run both thousands and count."""
    count, fresh = (QUICK, 1) if quick else (COUNT, FRESH)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        write_files(files)
        warm_up()
        good = run_all(valid, count, files)
        bad = run_all(invalid, count, files)
        step = count // fresh
        differing = differing_in_a_new_interpreter(good[::step] + bad[::step])
    ends = collections.Counter(entry["verdict"] for entry in good)
    refusals = collections.Counter(sentence(e["said"]) for e in good if e["verdict"] == "refused")
    rows: list[dict[str, Any]] = [{"draw": "valid", "runs": count, **ends}]
    for kind in KINDS:
        verdicts = collections.Counter(e["verdict"] for e in bad if e["kind"] == kind)
        rows.append({"draw": f"invalid: {kind}", "runs": sum(verdicts.values()), **verdicts})
    broken = collections.Counter(entry["verdict"] for entry in bad)
    bars = [Bar("valid commands that failed", ends["failed"], 0)]
    for verdict in ("wrongly accepted", "traceback", "not one line", "does not name", "no way out",
                    "left a folder"):  # fmt: skip
        bars.append(Bar(f"invalid commands: {verdict}", broken[verdict], 0))
    bars.append(Bar("valid commands that completed, share", ends["complete"] / count, 0.9, False))
    bars.append(Bar(f"of {2 * fresh} in a new interpreter, ending differently", len(differing), 0))
    notes = [f"refused {n} times: {said}" for said, n in refusals.most_common()]
    for entry in good + bad:
        if entry["verdict"] not in ("complete", "refused"):
            words = " ".join(entry["arguments"])
            notes.append(f"{entry['verdict']}: {entry['said'][:300]}\n    archzoo train {words}")
    seconds = sorted(entry["seconds"] for entry in good + bad)
    notes.append(f"seconds a command: median {seconds[count]}, longest {seconds[-1]}")
    return rows, bars, notes + [f"new interpreter: {line}" for line in differing]


if __name__ == "__main__":
    main("random_configs", measure)
