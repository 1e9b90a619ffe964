"""The points of a sweep as jobs of a queue, which submitit may stop and queue again."""

import copy
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from archzoo.train.errors import RunError, RunStopped
from archzoo.train.override_errors import explain_overrides
from archzoo.train.sweep import SweepSummary, queue_again
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf

from .command_line import call, command, environment
from .small_runs import configure, equal_weights, store_schemas, train

LAUNCHER = importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher")
NEEDS_LAUNCHER = pytest.mark.skipif(LAUNCHER is None, reason="needs the extra slurm")


def sweep(*overrides: str) -> list[str]:
    """A sweep as jobs of this machine."""
    program, *rest = command(*overrides, "hydra.sweep.dir=sweep", "queue=local")
    return [program, *rest[:2], "-m", *rest[2:]]


class Uncompleted(Exception):
    """What submitit raises where a job was queued as often as it may be."""


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The signals that a job of submitit has handled."""
    utils = types.SimpleNamespace(UncompletedJobError=Uncompleted)
    monkeypatch.setitem(sys.modules, "submitit", types.ModuleType("submitit"))
    monkeypatch.setitem(sys.modules, "submitit.core", types.ModuleType("submitit.core"))
    monkeypatch.setitem(sys.modules, "submitit.core.utils", utils)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    handled: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: handled.append(number))
    yield handled
    signal.signal(signal.SIGUSR2, before)


def test_a_job_that_its_queue_stopped_is_queued_again(queue):
    assert queue_again(RunStopped("stopped by SIGUSR2", by="SIGUSR2")) is None
    assert queue == [signal.SIGUSR2]


@pytest.mark.parametrize("by", ["SIGTERM", "SIGINT", "trainer.max_time=5", None])
def test_a_job_that_another_stopped_is_not_queued_again(queue, by):
    assert queue_again(RunStopped("stopped", by=by)) is None
    assert queue == []


def test_a_run_without_a_queue_is_not_queued_again(queue, monkeypatch):
    monkeypatch.delenv("SUBMITIT_EXECUTOR")
    assert queue_again(RunStopped("stopped", by="SIGUSR2")) is None
    assert queue == []


def test_a_job_that_was_queued_too_often_says_so_and_how_to_go_on(queue):
    def refuse(number, _):
        raise Uncompleted("Job not requeued because: timed-out too many times.")

    signal.signal(signal.SIGUSR2, refuse)
    why = queue_again(RunStopped("stopped by SIGUSR2; go on with resume=run", by="SIGUSR2"))
    assert "go on with resume=run" in str(why) and "too many times" in str(why)
    assert "hydra.launcher.max_num_timeout" in str(why)


def ended(folder: Path, number: int, value: float | None) -> JobReturn:
    """What Hydra tells of a point."""
    task = {
        "mode": RunMode.MULTIRUN,
        "job": {"num": number},
        "runtime": {"output_dir": str(folder / str(number))},
        "sweep": {"dir": str(folder)},
    }
    point = JobReturn(hydra_cfg=OmegaConf.create({"hydra": task}), overrides=[f"seed={number}"])
    point.status, point.return_value = JobStatus.COMPLETED, value
    return point


def test_points_of_other_processes_and_machines_are_in_the_summary(tmp_path, capsys):
    whole = OmegaConf.create({"hydra": {
        "sweep": {"dir": str(tmp_path)}, "sweeper": {}, "overrides": {"task": []}
    }})  # fmt: skip
    summary = SweepSummary()
    summary.on_multirun_start(whole)
    for number, value in enumerate([0.5, None, 0.7]):
        elsewhere = copy.deepcopy(summary)
        elsewhere.process = ("another", 1)
        # A copy knows the process of the one that it was made of, and runs in another.
        elsewhere.on_job_end(whole, ended(tmp_path, number, value))
        assert elsewhere.points == []
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "error.txt").write_text("optim.lr must be above 0\n")
    with pytest.raises(SystemExit) as end:
        summary.on_multirun_end(whole)
    assert "sweep: 2 of 3 points ended" in capsys.readouterr().out
    assert "1 point of the sweep failed\n  seed=1: optim.lr must be" in str(end.value)
    # The next sweep in the folder begins without them.
    again = SweepSummary()
    again.on_multirun_start(whole)
    again.on_multirun_end(whole)
    assert "sweep: 0 of 0 points ended" in capsys.readouterr().out


@pytest.mark.skipif(LAUNCHER is not None, reason="the extra slurm is installed")
@pytest.mark.parametrize("queue", ["local", "slurm"])
def test_a_queue_without_its_extra_is_refused_with_the_way_out(queue):
    store_schemas()
    with pytest.raises(RunError) as refused:
        explain_overrides(["-m", f"queue={queue}"])
    assert str(refused.value) == (
        f'hydra/launcher=submitit_{queue} is not installed; pip install "archzoo[slurm]"'
    )


@NEEDS_LAUNCHER
def test_a_job_of_a_queue_goes_on_when_it_is_queued_again(tmp_path):
    assert configure("queue=slurm", folder=tmp_path).resume == "auto"


@NEEDS_LAUNCHER
@pytest.mark.slow
@pytest.mark.processes
def test_points_are_jobs_that_end_or_fail_alone(tmp_path):
    told = call(sweep("seed=0,1", "optim.lr=0.01,-1", "trainer.steps=2"), tmp_path)
    assert told.returncode == 1, told.stdout + told.stderr
    assert "sweep: 2 of 4 points ended, in sweep" in told.stdout
    assert "2 points of the sweep failed" in told.stderr
    assert told.stderr.count("optim.lr must be above 0") == 2
    names = ["0-seed=0,optim.lr=0.01", "2-seed=1,optim.lr=0.01"]
    assert all((tmp_path / "sweep" / name / "result.json").is_file() for name in names)


@NEEDS_LAUNCHER
@pytest.mark.slow
@pytest.mark.processes
def test_a_job_that_its_queue_stops_goes_on_with_its_point(tmp_path):
    long = ["trainer.steps=4000", "trainer.evaluate_every=200", "trainer.log_every=100"]
    process = subprocess.Popen(
        sweep(*long, "seed=0"),
        cwd=tmp_path,
        env=environment(tmp_path / "path"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    point = tmp_path / "sweep" / "0"
    until = time.monotonic() + 100
    while not (point / "checkpoints" / "last.pt").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "no checkpoint after 100 s"
        time.sleep(0.01)
    first = json.loads((point / "run.lock").read_text())["pid"]
    os.kill(first, signal.SIGUSR2)
    told = process.communicate(timeout=200)[0]
    assert process.returncode == 0, told
    assert "sweep: 1 of 1 points ended" in told
    logs = "".join(log.read_text() for log in (tmp_path / "sweep" / ".submitit").rglob("*.out"))
    assert logs.count("going on from step") == 1
    train(tmp_path / "whole", *long)
    assert equal_weights(point, tmp_path / "whole")
