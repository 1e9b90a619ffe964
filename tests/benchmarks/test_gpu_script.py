"""The script for a GPU, where there is none: it says so, and runs on the smallest models."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def started(*words, place):
    """Run the script as in a bare checkout: nothing of ours on the path."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.processes
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_where_there_is_no_gpu_one_line_says_so(tmp_path):
    done = started(place=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        "gpu: torch sees no CUDA device; --device cpu --quick tries the script without one\n"
    )


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_every_section_runs_on_the_smallest_models(tmp_path):
    found = tmp_path / "gpu.json"
    done = started("--device", "cpu", "--quick", "--out", str(found), place=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(found.read_text())
    assert not [one for one in told["checks"] if one["met"] is False]
    sections = {one["section"] for one in told["checks"]}
    assert {"models", "kernels", "sharding", "decoding", "compiled", "weights"} <= sections
    assert {row["section"] for row in told["rows"]} >= {"residuals, vit", "residuals, gpt"}


@pytest.mark.slow
def test_a_section_whose_time_is_over_tells_what_it_left_out(tmp_path):
    words = ("--device", "cpu", "--quick", "--minutes", "0", "--only", "decoding")
    done = started(*words, "--out", str(tmp_path / "gpu.json"), place=tmp_path)
    assert done.returncode == 0
    (told, *_) = json.loads((tmp_path / "gpu.json").read_text())["checks"]
    assert told["met"] is None and told["note"].startswith("not run")
