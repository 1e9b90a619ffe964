"""A token file larger than the memory it is given: read, trained on, killed and gone on with.

The processes that train may hold so much private memory (`RLIMIT_DATA`) and no more, and the file
is some times as large; it is two-byte tokens, drawn once and written again and again. Under the
same limit NumPy cannot read it into memory, which is the control. Then what reading costs: batches
of windows of a mapped file against windows of the same tokens in memory, and of a file that the
system keeps no page of.

    python benchmarks/token_files.py --check
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from archzoo.train.data import ShardFold, TokenFold
from archzoo.train.data.shards import Shard, Span
from harness import Bar, Measurement, interleaved, main, median_ratio

ROOT = Path(__file__).parents[1]
LIMIT = 1.5 * 2**30  # bytes of private memory; torch alone takes half of it to start
STEPS = 60
VOCABULARY = 4096
BATCH, LENGTH = 32, 1024

# Trains under a limit, and says the largest private memory that the system lent the process.
CHILD = """
import json, resource, sys, threading, time
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
most = 0
def watch():
    global most
    while True:
        for line in open("/proc/self/status"):
            if line.startswith("RssAnon"):
                most = max(most, 1024 * int(line.split()[1]))
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
if sys.argv[2] == "read":
    import numpy
    try:
        numpy.fromfile(sys.argv[3], "uint16")
    except MemoryError:
        print(json.dumps({"refused": True}))
    sys.exit()
from archzoo.train.commands.__main__ import main
main(sys.argv[2:])
time.sleep(0.05)
print(json.dumps({"private": most}))
"""


def write_tiled(path: Path, size: int) -> None:
    """Write two-byte tokens to a size in bytes."""
    tile = np.random.default_rng(0).integers(0, VOCABULARY, 2**25, dtype=np.uint16)
    with open(path, "wb") as file:
        for _ in range(size // tile.nbytes):
            tile.tofile(file)


def child(place: Path, *words: str) -> subprocess.Popen[str]:
    """Start a process under the limit."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(place), *_path()])
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(int(LIMIT)), *words],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _path() -> list[str]:
    return [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []


def last_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a process and read what it said last."""
    said, _ = process.communicate()
    if process.returncode or not said.strip():
        sys.exit(f"a run ended with {process.returncode}: {said[-2000:]}")
    return json.loads(said.strip().splitlines()[-1])


def training(file: Path, folder: Path) -> list[str]:
    """The words of a short training of a small GPT on the file."""
    return [
        *("train", "model=gpt_nano", "model.width=16", "data=token_files", f"data.root={file}"),
        *("data.dtype=uint16", f"data.vocab_size={VOCABULARY}", "data.context_length=128"),
        *("data.evaluated_tokens=4096", "trainer.epochs=null", f"trainer.steps={STEPS}"),
        *("trainer.batch_size=8", "trainer.checkpoint_every=10", "trainer.evaluate_every=60"),
        *("trainer.threads=1", "trainer.progress=false", "callbacks=[none]", "logger=[none]"),
        *("optim=adamw", f"run_dir={folder}", "resume=auto"),
    ]


def larger_than_memory(quick: bool, place: Path) -> tuple[list[dict[str, Any]], list[Bar]]:
    """Train whole, and killed and gone on with, under the limit."""
    size = (2 if quick else 4) * 2**30
    file = place / "tokens.bin"
    write_tiled(file, size)
    control = child(place, "read", str(file))
    refused = bool(last_line(control).get("refused"))
    whole = last_line(child(place, *training(file, place / "whole")))
    halves = child(place, *training(file, place / "halves"))
    kept = place / "halves" / "checkpoints" / "last.pt"
    while not kept.exists() and halves.poll() is None:
        time.sleep(0.01)
    halves.send_signal(signal.SIGKILL)
    halves.communicate()
    step = torch.load(kept, weights_only=True)["step"]
    last_line(child(place, *training(file, place / "halves")))
    one, two = (
        torch.load(place / name / "checkpoints" / "last.pt", weights_only=True)["model"]
        for name in ("whole", "halves")
    )
    differing = sum(not torch.equal(one[key], two[key]) for key in one)
    file.unlink()
    rows = [
        {"what": "file", "bytes": size, "of the limit": size / LIMIT},
        {"what": "limit of private memory", "bytes": int(LIMIT), "of the limit": 1.0},
        {
            "what": "peak private memory, torch and model included",
            "bytes": whole["private"],
            "of the limit": whole["private"] / LIMIT,
        },
    ]
    bars = [
        Bar("file over the memory it is given", size / LIMIT, 1.2, at_most=False),
        Bar("NumPy refused to read it into that memory", float(refused), 1.0, at_most=False),
        Bar("peak private memory over the limit", whole["private"] / LIMIT, 1.0),
        Bar(f"tensors that differ after a kill at step {step} of {STEPS}", float(differing), 0.0),
    ]
    return rows, bars


def reading(quick: bool, place: Path) -> tuple[list[dict[str, Any]], list[Bar]]:
    """Time batches of windows."""
    size, batches = (2**26 if quick else 2**28), (20 if quick else 100)
    file = place / "bytes.npy"
    tokens = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    np.save(file, tokens)
    span = Span(Shard(file), 0, size)
    folds: dict[str, Any] = {
        f"mapped, {order}": ShardFold([span], LENGTH, vocab_size=256, order=order)
        for order in ("shuffled", "random", "sequential")
    }
    in_memory = "in memory, permuted by the loader"
    folds[in_memory] = TokenFold(torch.from_numpy(tokens), LENGTH, shifted=True)
    # What the loader would have drawn before the epoch is drawn here, outside the time.
    order = torch.randperm(len(folds[in_memory]), generator=torch.Generator().manual_seed(0))
    counts = dict.fromkeys(folds, 0)

    def timed(name: str, cold: bool = False) -> float:
        fold = folds[name.removesuffix(COLD)]
        places = order.tolist() if name == in_memory else range(len(fold))
        if cold:
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
        first = counts[name.removesuffix(COLD)]
        counts[name.removesuffix(COLD)] += batches * BATCH
        started = time.perf_counter()
        for i in range(batches):
            begin = (first + i * BATCH) % (len(fold) - BATCH)
            fold.__getitems__([(1, places[j]) for j in range(begin, begin + BATCH)])
        return (time.perf_counter() - started) / (batches * BATCH * LENGTH)

    candidates = {name: (lambda name=name: timed(name)) for name in folds}
    for order_name in ("mapped, shuffled", "mapped, sequential"):
        name = order_name + COLD
        candidates[name] = lambda name=name: timed(name, cold=True)
    for once in candidates.values():
        once()
    found = interleaved(candidates, 5 if quick else 11)
    file.unlink()
    rows = []
    for name, seconds in found.items():
        speed = median_ratio(found[in_memory], seconds)
        rows.append(
            {"what": name, "tokens/s": 1.0 / float(np.median(seconds)), "of in memory": speed}
        )
    speed = median_ratio(found[in_memory], found["mapped, shuffled"])
    return rows, [Bar("tokens/s, mapped over in memory", speed, 0.4, at_most=False)]


COLD = ", no page of the file in memory"


def measure(quick: bool) -> Measurement:
    """Show that the file is read, and what reading costs."""
    torch.set_num_threads(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    assert hard == resource.RLIM_INFINITY or hard > LIMIT, (soft, hard)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "archzoo").symlink_to(ROOT)
        rows, bars = larger_than_memory(quick, place)
        more, others = reading(quick, place)
    return rows + more, bars + others


if __name__ == "__main__":
    main("token_files", measure)
