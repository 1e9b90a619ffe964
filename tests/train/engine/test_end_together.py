"""An error on one of two processes ends both with one sentence, and loses nothing."""

import json
from pathlib import Path

import pytest
from archzoo.train.engine.saved.checkpoint_file import read_newest
from archzoo.train.engine.saved.folder_lock import is_locked

from ...tiers import selected, tiered
from ..command_line import TORCHRUN, call

pytestmark = pytest.mark.processes

LOST = "nothing saved before is lost"
SENTENCES = {
    "data": "a.png: no image; " + LOST,
    "callback": "process 1 failed: KeyError: 'mine'",
    "callback of both": "failed: KeyError: 'mine'",
    "nan": "the loss is nan at step 8; " + LOST,
    "evaluation": "process 1 failed: RuntimeError: no memory",
    "checkpoint": "No space left on device; the checkpoint before it is intact",
    "best weights": "No space left on device; what was saved before is intact",
    "model": "process 1 failed: MemoryError: too large",
    "fold": "the validation fold: 1 samples in batches of 32 leave some of 2 processes without",
    "end": "process 1 failed: KeyError: 'mine'",
}
SHARDED = ("data", "callback", "checkpoint")
BEFORE = ("model", "fold")
RUNS = [(f, f"{f}-ddp") for f in SENTENCES] + [(f, f"{f}-fsdp") for f in SHARDED]
# One fault of each place where the processes may part.
USUAL = ("data-ddp", "callback-ddp", "nan-ddp", "checkpoint-fsdp", "model-ddp", "end-ddp")


@pytest.fixture(scope="module")
def told(request, tmp_path_factory):
    """Do the runs in one pair of processes and return what each process was told."""
    place = tmp_path_factory.mktemp("faults")
    runs = selected(request, "run")
    jobs = [tuple(run.rsplit("-", 1)) for _, run in RUNS if run in runs]
    jobs += [("time", "fsdp"), ("none", "ddp")]
    script = Path(__file__).with_name("faults.py")
    done = call([*TORCHRUN, str(script), json.dumps(jobs)], place, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    read = {
        f"{fault}-{parallel}": [
            json.loads((place / f"{fault}-{parallel}-{rank}.json").read_text()) for rank in range(2)
        ]
        for fault, parallel in jobs
    }
    return place, read


CASES = pytest.mark.parametrize(("fault", "run"), tiered(RUNS, lambda _, run: run in USUAL))


@CASES
def test_an_error_on_one_process_ends_both_with_its_sentence(told, fault, run):
    ends = [about["told"] for about in told[1][run]]
    assert None not in ends
    sentences = [text for kind, text, said in ends if kind == "RunError"]
    assert sentences and all(SENTENCES[fault] in text for text in sentences), ends
    # The leader says it; the process that fails in a way of its own has its traceback beside.
    leader, other = ends
    assert other[2] is not False, ends
    assert leader[2] is not True, ends


@CASES
def test_what_was_saved_before_an_error_stays_and_the_folder_is_free(told, fault, run):
    folder = told[0] / run
    if fault in BEFORE:
        assert not folder.exists()
        return
    assert not is_locked(folder)
    assert not list(folder.rglob("*.unfinished"))
    assert not (folder / "result.json").exists()
    state, damaged = read_newest(folder / "checkpoints" / "last.pt")
    assert not damaged
    assert state["step"] == (12 if fault in ("best weights", "end", "evaluation") else 6)
    assert (folder / "checkpoints" / "best-6.safetensors").is_file()


def test_a_run_after_those_that_failed_ends_well(told):
    assert [about["told"] for about in told[1]["none-ddp"]] == [None, None]
    assert (told[0] / "none-ddp" / "result.json").is_file()


def test_the_end_of_the_time_stops_both_after_the_same_step(told):
    said = "stopped by trainer.max_time=0 after step 1; go on with resume=time-fsdp"
    assert [about["told"] for about in told[1]["time-fsdp"]] == [
        ["RunStopped", said, False],
        ["RunStopped", said, True],
    ]
    assert read_newest(told[0] / "time-fsdp" / "checkpoints" / "last.pt")[0]["step"] == 1
