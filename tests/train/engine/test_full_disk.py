"""A disk that refuses a write: one line that names the place, and nothing saved before is lost."""

import contextlib
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from archzoo.train.engine.loggers import TensorBoardLogger
from archzoo.train.engine.saved.folder_lock import FolderLock
from archzoo.train.engine.saved.run_folder import RunFolder
from archzoo.train.errors import RunError
from archzoo.train.sweep import record_failure

from ...tiers import tiered
from ..small_runs import equal_weights, train

# TensorBoard writes in a thread of its own, which dies of the refusal before the run hears of it.
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings(
        "ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning"
    ),
]

LOGGED = ["trainer.log_every=1", "trainer.evaluate_every=3", "logger=[csv,tensorboard]"]


@pytest.fixture(autouse=True)
def the_refused_threads_end() -> Iterator[None]:
    """Wait until those threads are dead: what they say after a test is said of the next one."""
    yield
    for thread in threading.enumerate():
        if getattr(thread, "exception", None) is not None:
            thread.join()


@contextlib.contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Have the kernel refuse to write files of more bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(folder, *LOGGED)
    return folder


def test_the_files_of_a_run_are_of_many_sizes(whole):
    sizes = {p.name: p.stat().st_size for p in whole.rglob("*") if p.is_file()}
    assert sizes["metrics.csv"] < 2_000 < sizes["model.safetensors"] < sizes["last.pt"]


SIZES = [0, 100, 400, 1_000, 1_500, 3_000, 20_000, 30_000, 60_000]


@pytest.mark.parametrize("size", tiered(SIZES, [0, 1_500, 30_000]))
def test_a_full_disk_is_one_line_and_the_run_goes_on_where_there_is_room(whole, tmp_path, size):
    with no_file_above(size), pytest.raises(RunError) as caught:
        train(tmp_path, *LOGGED)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert not list(tmp_path.rglob("*.unfinished"))
    train(tmp_path, *LOGGED, "resume=auto")
    assert equal_weights(whole, tmp_path)


@pytest.mark.parametrize("size", [0, 1_000, 20_000])
def test_a_disk_that_fills_up_later_leaves_every_checkpoint(whole, tmp_path, size):
    train(tmp_path, *LOGGED, "trainer.steps=6", "schedule=constant")
    before = {p: p.read_bytes() for p in (tmp_path / "checkpoints").iterdir()}
    with no_file_above(size), pytest.raises(RunError, match=str(tmp_path)):
        train(tmp_path, *LOGGED, "schedule=constant", "resume=auto")
    assert all(path.read_bytes() == held for path, held in before.items())
    train(tmp_path, *LOGGED, "schedule=constant", "resume=auto")
    assert (tmp_path / "result.json").is_file()


def test_the_events_of_tensorboard_are_refused_in_a_line(tmp_path):
    logger, folder = TensorBoardLogger(tmp_path, {}), RunFolder(tmp_path)
    with no_file_above(4_000), pytest.raises(RunError, match="File too large; what was saved"):
        for step in range(1_000):
            folder.guard(lambda step=step: logger.log(step, "train", {"loss": 0.5}))
        folder.guard(logger.close)


def test_a_folder_that_takes_no_lock_is_refused_in_a_line(tmp_path):
    with no_file_above(0), pytest.raises(RunError, match="cannot write to .*run.lock"):
        FolderLock(tmp_path)


def test_a_failure_that_the_disk_does_not_take_is_said(tmp_path, capsys):
    with no_file_above(0):
        record_failure(tmp_path / "0", RunError("the loss is nan"))
    assert "0: the loss is nan" in capsys.readouterr().err
