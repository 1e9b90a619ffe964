"""A job that is told to stop saves, ends with 75, and goes on when it is queued again."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from archzoo.train import torchrun
from archzoo.train.engine import signals
from archzoo.train.engine.signals import stop_request
from torch.distributed import run as elastic
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from .command_line import command, environment
from .small_runs import equal_weights, rows
from .test_command_line import assert_saved_where_it_stopped, wait_for_checkpoint

LAUNCH = [sys.executable, "-m", "archzoo.train.torchrun"]
LONG = ["trainer.steps=1600", "trainer.evaluate_every=200", "trainer.log_every=100"]
SCRIPT = ["--nproc-per-node=2", "script.py"]


def ending(monkeypatch: pytest.MonkeyPatch, *codes: int, by: int | None = None) -> None:
    """Have torchrun find processes that ended with these codes, after a signal to itself."""

    def run(_: object) -> None:
        if by is not None:
            signal.raise_signal(by)
        failures = {i: ProcessFailure(i, 1, code, "none.json") for i, code in enumerate(codes)}
        raise ChildFailedError("script.py", failures)

    monkeypatch.setattr(elastic, "run", run)


@pytest.mark.parametrize("codes", [(75, 75), (75,), (75, -signal.SIGTERM)])
def test_processes_that_were_stopped_end_their_launcher_with_75(monkeypatch, codes):
    ending(monkeypatch, *codes)
    with pytest.raises(SystemExit) as ended:
        torchrun.main(SCRIPT)
    assert ended.value.code == 75


@pytest.mark.parametrize("codes", [(1,), (75, 1), (-signal.SIGKILL,), (-signal.SIGTERM,), (75, 2)])
def test_what_failed_is_torchruns_to_tell(monkeypatch, codes):
    ending(monkeypatch, *codes)
    with pytest.raises(ChildFailedError):
        torchrun.main(SCRIPT)


def test_processes_that_a_signal_ended_before_they_began_lose_nothing(monkeypatch):
    monkeypatch.setattr(torchrun, "_children", lambda _: [os.getppid()])
    passed = []
    monkeypatch.setattr(os, "kill", lambda pid, number: passed.append((pid, number)))
    ending(monkeypatch, -signal.SIGUSR1, 75, by=signal.SIGUSR1)
    with pytest.raises(SystemExit) as ended:
        torchrun.main(SCRIPT)
    assert ended.value.code == 75
    assert passed == [(os.getppid(), signal.SIGUSR1)]


def test_a_signal_before_the_first_process_ends_the_launcher_with_75(monkeypatch):
    monkeypatch.setattr(torchrun, "_children", lambda _: [])
    ending(monkeypatch, by=signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        torchrun.main(SCRIPT)
    assert ended.value.code == 75
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.processes
def test_the_children_of_a_process_are_those_it_started():
    before = set(torchrun._children(os.getpid()))
    with subprocess.Popen(["sleep", "60"]) as child:
        assert set(torchrun._children(os.getpid())) - before == {child.pid}
        child.kill()


@pytest.mark.parametrize("launched", [True, False])
def test_under_torchrun_a_signal_that_comes_twice_is_one_wish(monkeypatch, launched):
    monkeypatch.setattr(signals.dist, "is_torchelastic_launched", lambda: launched)
    twice = []
    monkeypatch.setattr(signals, "STOPPING", (signal.SIGUSR1,))
    before = signal.signal(signal.SIGUSR1, lambda *_: twice.append("acted"))
    try:
        with stop_request() as request:
            signal.raise_signal(signal.SIGUSR1)
            assert request.signal == "SIGUSR1"
            signal.raise_signal(signal.SIGUSR1)
            assert request.signal == "SIGUSR1"
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert twice == ([] if launched else ["acted"])


def start(place: Path, *flags: str) -> subprocess.Popen[str]:
    """Start the launcher on a run, always by the same command."""
    return subprocess.Popen(
        [*LAUNCH, *flags, *command(*LONG, "run_dir=run", "resume=auto", "trainer.device=cpu")[1:]],
        cwd=place,
        env=environment(place / "path"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def said(processes: list[subprocess.Popen[str]]) -> str:
    """Wait for launchers and return what they and their processes said."""
    try:
        return "".join(process.communicate(timeout=200)[0] for process in processes)
    finally:
        for process in processes:
            process.kill()


def machines(count: int) -> list[list[str]]:
    """The flags of torchrun on each of several machines, or of one with two processes."""
    if count == 1:
        return [["--standalone", "--nproc-per-node=2"]]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = ["--nproc-per-node=1", f"--nnodes={count}", f"--rdzv-endpoint=127.0.0.1:{port}"]
    return [[*shared, "--rdzv-backend=c10d", "--rdzv-id=run"]] * count


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on two processes from its beginning to its end."""
    place = tmp_path_factory.mktemp("whole")
    whole = start(place, *machines(1)[0])
    told = said([whole])
    assert whole.returncode == 0, told
    return place / "run"


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("everyone", [False, True], ids=["launcher", "every process"])
@pytest.mark.parametrize("count", [1, 2], ids=["one machine", "two machines"])
def test_a_job_that_was_told_to_stop_goes_on_by_the_same_command(
    tmp_path, never_stopped, count, everyone
):
    launchers = [start(tmp_path, *flags) for flags in machines(count)]
    wait_for_checkpoint(tmp_path, *launchers)
    # Whether a scheduler tells the first launcher, or every process that it knows of.
    for process in launchers if everyone else launchers[:1]:
        for pid in [*torchrun._children(process.pid), process.pid] if everyone else [process.pid]:
            os.kill(pid, signal.SIGUSR1)
    told = said(launchers)
    assert [process.returncode for process in launchers] == [75] * count, told
    assert told.count("archzoo train: ") == 1, told
    assert_saved_where_it_stopped(tmp_path, told, "SIGUSR1")
    assert not (tmp_path / "run" / "result.json").exists()

    launchers = [start(tmp_path, *flags) for flags in machines(count)]
    told = said(launchers)
    assert [process.returncode for process in launchers] == [0] * count, told
    assert told.count("going on from step") == 1
    assert equal_weights(tmp_path / "run", never_stopped)
    losses = [[row["loss"] for row in rows(folder)] for folder in (tmp_path / "run", never_stopped)]
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.processes
def test_a_job_that_fails_does_not_look_like_one_that_was_stopped(tmp_path):
    process = start(tmp_path, "--standalone", "--nproc-per-node=2")
    wait_for_checkpoint(tmp_path, process)
    os.kill(torchrun._children(process.pid)[0], signal.SIGKILL)
    told = said([process])
    assert process.returncode == 1, told
