"""Start-up and step time of a model that is compiled whole, in blocks, or not at all.

Each case runs in a process of its own, without the compiler's caches: seconds until the first
forward and backward pass is done, then the median of further ones. Seconds are those of the
processor, the C++ compiler's included, so that a busy machine changes little; one process compiles.

    python benchmarks/compile_blocks.py --check
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import Bar, Measurement, main

ROOT = Path(__file__).parents[1]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT, 12 blocks": ("gpt_nano", {"depth": 12}),
    "GPT, 24 blocks": ("gpt_nano", {"depth": 24}),
}
QUICK = ("GPT, 12 blocks",)

CHILD = """
import json, resource, statistics, sys, warnings
warnings.simplefilter("ignore")
import torch
from archzoo.zoo import create_model, model_info
torch.set_num_threads(1)
name, options, how = json.loads(sys.argv[1])
torch.manual_seed(0)
model = create_model(name, **options)
kind = model_info(name).kind
size = model.default_cfg["input_size"] if kind != "tokens" else ()
x = torch.randn(4, *size) if size else torch.randint(256, (4, 64))
if how == "whole":
    model.compile()
elif how == "blocks":
    model.compile_blocks()
def used():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)
def step():
    started = used()
    model(x).square().mean().backward()
    return used() - started
first = step()
step()
print(json.dumps({"first": first, "step": statistics.median(step() for _ in range(20))}))
"""


def run(place: Path, name: str, options: dict[str, Any], how: str) -> dict[str, float]:
    """Time one case in a process of its own."""
    paths = [str(place), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps([name, options, how])],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "TORCHINDUCTOR_CACHE_DIR": tempfile.mkdtemp(dir=place),
        },
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{name}, {how}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(quick: bool) -> Measurement:
    """Time every case in each of three ways."""
    rows, bars = [], []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "archzoo").symlink_to(ROOT)
        for case in QUICK if quick else CASES:
            name, options = CASES[case]
            found = {how: run(place, name, options, how) for how in ("not", "whole", "blocks")}
            for how, one in found.items():
                rows.append(
                    {
                        "model": case,
                        "compiled": how,
                        "first step, s": one["first"],
                        "of whole": one["first"] / found["whole"]["first"],
                        "later steps, ms": 1e3 * one["step"],
                        "of eager": one["step"] / found["not"]["step"],
                    }
                )
            ratio = found["blocks"]["first"] / found["whole"]["first"]
            if case.startswith("GPT"):
                bars.append(Bar(f"start-up of blocks over whole, {case}", ratio, 0.5))
    return rows, bars


if __name__ == "__main__":
    main("compile_blocks", measure)
