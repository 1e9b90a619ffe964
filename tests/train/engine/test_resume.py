"""Going on: with the same config only, in one's own folder, from whole files, to the same bits."""

import copy
import dataclasses
import errno
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from archzoo.train.engine import loop
from archzoo.train.engine.saved import folder_lock
from archzoo.train.engine.saved.best_weights import BestWeights
from archzoo.train.engine.saved.checkpoint_file import (
    checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from archzoo.train.engine.saved.claim_folder import choose_folder
from archzoo.train.engine.saved.folder_lock import FolderLock, is_locked
from archzoo.train.engine.saved.resume import FREE, GROWS, continued, difference, run_config_of
from archzoo.train.engine.saved.run_folder import RunFolder
from archzoo.train.errors import RunError, RunStopped
from archzoo.train.run import run
from archzoo.zoo.share.content_digest import sealed, unsealed

from ...tiers import tiered
from ..small_runs import configure, equal_weights, train
from .test_loop import Stop, rows, stop_after

pytestmark = pytest.mark.long


def plain(*overrides: str) -> dict:
    return dataclasses.asdict(configure(*overrides))


def leaves(config: dict, prefix: str = "") -> list[str]:
    found = []
    for name, value in config.items():
        nested = isinstance(value, dict) and value
        found += leaves(value, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]
    return found


def changed(config: dict, key: str) -> dict:
    """Another value of the same type at a key."""
    result = json.loads(json.dumps(config))
    *path, last = key.split(".")
    place = result
    for name in path:
        place = place[name]
    old = place[last]
    place[last] = (
        (not old) if isinstance(old, bool) else old + 1 if type(old) in (int, float) else "x"
    )
    return result


RICH = ["callbacks=[ema]", "lowrank=trp", "model.residual={name: block_attnres, block_size: 2}"]
RICH += ["distill=pela", "distill.teacher=there"]
RECORDED = plain(*RICH)


@pytest.mark.parametrize("key", leaves(RECORDED))
def test_every_setting_is_free_or_may_grow_or_is_refused_by_its_name(key):
    recorded = copy.deepcopy(RECORDED)
    asked = changed(recorded, key)
    grows = key in GROWS and recorded["trainer"][key.rpartition(".")[2]] is not None
    if grows or any(key == free or key.startswith(f"{free}.") for free in FREE):
        assert continued(recorded, asked) == asked
    else:
        with pytest.raises(RunError, match=f"^{key}=.*, but the run has {key}="):
            continued(recorded, asked)
        # What the command did not name is as recorded, whatever its default.
        assert continued(recorded, asked, given=["resume", "seedling"]) == recorded
        with pytest.raises(RunError, match=key):
            continued(recorded, asked, given=[key.split(".")[0]])


@pytest.mark.parametrize("key", GROWS)
def test_the_length_may_not_shrink(key):
    recorded = plain("trainer.steps=null", "trainer.epochs=4") if "epochs" in key else plain()
    asked = json.loads(json.dumps(recorded))
    asked["trainer"][key.split(".")[1]] = 1
    with pytest.raises(RunError, match=f"{key}=1, but the run has"):
        continued(recorded, asked)


def test_what_an_earlier_version_did_not_know_decides_nothing():
    now = plain()
    old = {k: v for k, v in now.items() if k not in ("lowrank", "other_data")}
    assert difference(old, now) is None
    assert "lowrank" in difference(old, plain("lowrank=trp"))


def test_a_recorded_config_makes_the_config_again():
    config = configure(*RICH)
    assert run_config_of(json.loads(json.dumps(dataclasses.asdict(config)))) == config


# Folders.


def leave(folder: Path, *overrides: str, ended: bool = False) -> None:
    """Leave what a run leaves."""
    run = RunFolder(folder)
    run.running = {**plain(*overrides), "run_dir": str(folder)}
    run.write_start({}, 0)
    write_checkpoint(run.checkpoint, {"step": 1})
    if ended:
        run.write_text("result.json", "{}")


def chosen(folder: Path, *overrides: str, sweep: bool = False) -> str:
    return choose_folder(configure("resume=auto", *overrides, folder=folder), sweep).name


def test_auto_finds_the_unfinished_unused_run_of_the_same_config_only(tmp_path):
    leave(tmp_path / "same")
    leave(tmp_path / "other", "seed=1")
    leave(tmp_path / "ended", ended=True)
    assert chosen(tmp_path / "new") == "same"
    assert chosen(tmp_path / "new", "trainer.workers=1", "logger=[tensorboard]") == "same"
    assert chosen(tmp_path / "new", "seed=2") == "new"
    lock = FolderLock(tmp_path / "same")
    assert chosen(tmp_path / "new") == "new"
    lock.release()
    assert chosen(tmp_path / "new") == "same"


@pytest.mark.parametrize(
    "damage", tiered([b"a: [", b"\xff\xfe", b"", b"- 1\n", b"3", None, "lock"], [b"", None])
)
def test_a_damaged_neighbour_is_passed_over(tmp_path, damage):
    for name in ("damaged", "same"):
        leave(tmp_path / name)
    config = tmp_path / "damaged" / "config.yaml"
    if damage == "lock":
        (tmp_path / "damaged" / "run.lock").symlink_to("nowhere")
    elif damage is None:
        config.unlink()
        config.mkdir()
    else:
        config.write_bytes(damage)
    assert chosen(tmp_path / "new") == "same"


def test_auto_refuses_a_folder_of_another_run_and_a_sweep_finds_its_point(tmp_path):
    leave(tmp_path / "0", "seed=1", ended=True)
    leave(tmp_path / "1", "seed=2")
    assert chosen(tmp_path / "0", "seed=1") == "0"
    with pytest.raises(RunError, match="0 holds another run: seed=2, but the run has seed=1"):
        chosen(tmp_path / "0", "seed=2")
    # A grid that lost its first point: what was point 1 is now point 0.
    assert chosen(tmp_path / "0", "seed=2", sweep=True) == "1"
    assert chosen(tmp_path / "1", "seed=1", sweep=True) == "0"
    assert chosen(tmp_path / "1", "seed=3", sweep=True) == "2"


def test_a_locked_folder_is_refused_with_the_name_of_its_process(tmp_path):
    lock = FolderLock(tmp_path)
    assert is_locked(tmp_path)
    with pytest.raises(RunError, match=r"is used by process \d+ on .* since 2"):
        FolderLock(tmp_path)
    lock.release()
    assert not is_locked(tmp_path)
    FolderLock(tmp_path).release()


def test_what_a_dead_process_wrote_into_the_lock_keeps_nobody_out(tmp_path):
    (tmp_path / "run.lock").write_text('{"host": "elsewhere", "pid": 1, "since": "then"}')
    lock = FolderLock(tmp_path)
    assert is_locked(tmp_path)
    lock.release()


def test_a_file_system_without_locks_is_named_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "neighbour").mkdir()
    (tmp_path / "neighbour" / "run.lock").touch()

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder_lock.fcntl, "flock", refuse)
    with pytest.raises(RunError, match=r"cannot lock .*run\.lock: .*No locks available; have its"):
        FolderLock(tmp_path / "run")
    assert is_locked(tmp_path / "neighbour")


def test_a_run_that_cannot_start_leaves_no_folder(tmp_path):
    with pytest.raises(RunError, match="mnist was not found"):
        train(tmp_path / "run", "model=resnet_nano", "data=mnist", f"data.root={tmp_path}")
    assert not (tmp_path / "run").exists()


def test_runs_that_start_in_one_second_have_folders_of_their_own():
    names = {configure().run_dir for _ in range(3)}
    assert len(names) == 3


# Going on.


def test_a_folder_goes_on_with_its_own_config(tmp_path, monkeypatch):
    own = ["seed=3", "optim.lr=0.003", "model.drop_rate=0.1", "trainer.steps=14"]
    whole = train(tmp_path / "whole", *own)
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(Stop):
            train(tmp_path / "cut", *own)
    other = configure(f"resume={tmp_path / 'cut'}", "model=vit_nano", base=())
    with pytest.raises(RunError, match="model.name=vit_nano, but the run has model.name=mlp_nano"):
        run(other, ["model", "resume"])
    assert run(other, ["resume"]) == whole
    assert equal_weights(tmp_path / "whole", tmp_path / "cut")


def test_a_run_that_ended_goes_on_when_it_is_asked_for_more(tmp_path):
    steady = ["schedule=constant", "schedule.warmup=0"]  # a rate that does not know the length
    train(tmp_path / "whole", *steady)
    train(tmp_path / "cut", *steady, "trainer.steps=6")
    first = (tmp_path / "cut" / "result.json").read_text()
    longer = [*steady, f"resume={tmp_path / 'cut'}", "trainer.steps=12"]
    train(tmp_path / "cut", *longer)
    assert equal_weights(tmp_path / "whole", tmp_path / "cut")
    same_rows(tmp_path / "whole", tmp_path / "cut")
    assert (tmp_path / "cut" / "result-6.json").read_text() == first
    assert RunFolder(tmp_path / "cut").read_config()["trainer"]["steps"] == 12
    assert "steps: 6" in (tmp_path / "cut" / "config-first.yaml").read_text()
    assert (tmp_path / "cut" / "environment-6.json").is_file()
    with pytest.raises(RunError, match="trainer.steps=6, but the run has trainer.steps=12"):
        train(tmp_path / "cut", *steady, f"resume={tmp_path / 'cut'}", "trainer.steps=6")


PROJECTED = {
    "dct, int8": ["optim=projected_adamw", "+optim.options.error_feedback=int8"],
    "svd": ["optim=galore", "+optim.options.update_every=4"],
    "random": ["optim=apollo", "+optim.options.update_every=4"],
    "trion": ["optim=trion", "+optim.options.rank=0.5"],
}


@pytest.mark.parametrize("name", tiered(PROJECTED, ["dct, int8"]))
def test_a_run_of_a_projected_optimiser_goes_on_bitwise(tmp_path, monkeypatch, name):
    own = [*PROJECTED[name], "trainer.clip_grad=1"]
    whole = train(tmp_path / "whole", *own)
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(Stop):
            train(tmp_path / "cut", *own)
    assert train(tmp_path / "cut", *own, "resume=auto") == whole
    assert equal_weights(tmp_path / "whole", tmp_path / "cut")


def same_rows(one: Path, other: Path) -> None:
    for a, b in zip(rows(one), rows(other), strict=True):
        del a["samples_per_second"], b["samples_per_second"]
        assert a == b


PLACES = {
    "before the first checkpoint": ("_train_step", 5),
    "inside the first save": ("save", 6),
    "before an evaluation": ("evaluate", 1),
    "after an evaluation": ("_train_step", 7),
    "before the test": ("evaluate", 3),
    "after the test": ("write_final", 1),
}


@pytest.mark.parametrize("place", tiered(PLACES, [*PLACES][::2]))
def test_every_row_is_logged_once_wherever_a_run_was_killed(tmp_path, monkeypatch, place):
    train(tmp_path / "whole", "callbacks=[ema]", "logger=[csv,tensorboard]")
    name, count = PLACES[place]
    calls = []
    with monkeypatch.context() as patch:
        owner = {"save": loop, "write_final": RunFolder}.get(name, loop.Trainer)
        attribute = "save_run" if name == "save" else name
        real = getattr(owner, attribute)

        def killed(*arguments, **options):
            calls.append(1)
            if len(calls) >= count - (name == "save") * 5:
                raise Stop
            return real(*arguments, **options)

        patch.setattr(owner, attribute, killed)
        with pytest.raises(Stop):
            train(tmp_path / "cut", "callbacks=[ema]", "logger=[csv,tensorboard]")
    train(tmp_path / "cut", "callbacks=[ema]", "logger=[csv,tensorboard]", "resume=auto")
    assert equal_weights(tmp_path / "whole", tmp_path / "cut")
    same_rows(tmp_path / "whole", tmp_path / "cut")
    scalars = [events(tmp_path / folder) for folder in ("whole", "cut")]
    assert scalars[0] == scalars[1]


@pytest.mark.parametrize("killed_after", tiered([2, 5, 8, 11], [5, 8]))
def test_a_killed_run_leaves_the_best_weights_that_an_unkilled_one_leaves(
    tmp_path, monkeypatch, killed_after
):
    often = ["trainer.evaluate_every=3", "optim.lr=0.01"]
    train(tmp_path / "whole", *often)
    with monkeypatch.context() as patch:
        stop_after(patch, killed_after)
        with pytest.raises(Stop):
            train(tmp_path / "cut", *often)
    train(tmp_path / "cut", *often, "resume=auto")
    kept = [
        sorted(p.name for p in (tmp_path / n / "checkpoints").iterdir()) for n in ("whole", "cut")
    ]
    assert kept[0] == kept[1]


def test_a_run_killed_while_its_config_changes_keeps_one_to_go_on_with(tmp_path, monkeypatch):
    cut_run(tmp_path / "cut", monkeypatch)
    again = ["trainer.evaluate_every=4", "resume=auto"]
    real = RunFolder.write_text

    def killed(self, name, text):
        if name == "config.yaml":
            raise Stop
        real(self, name, text)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_text", killed)
        with pytest.raises(Stop):
            train(tmp_path / "cut", *again, "trainer.log_every=2")
    train(tmp_path / "cut", *again)
    assert (tmp_path / "cut" / "result.json").is_file()


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard")).Reload()
    tags = [tag for tag in read.Tags()["scalars"] if "samples_per_second" not in tag]
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in tags}


def test_a_run_stops_at_its_time_and_saves(tmp_path):
    with pytest.raises(RunStopped, match="stopped by trainer.max_time=0 after step 1; go on with"):
        train(tmp_path, "trainer.max_time=0")
    train(tmp_path, "resume=auto", "trainer.max_time=5")
    assert RunStopped.exit_code == 75


@pytest.mark.parametrize("name", tiered(["SIGUSR1", "SIGTERM", "SIGUSR2"], ["SIGUSR1"]))
def test_a_run_that_was_told_to_stop_ends_by_the_same_call_as_if_it_had_not(
    tmp_path, monkeypatch, name
):
    step = loop.Trainer._train_step

    def signalled(self, data):
        if self.step == 7:
            signal.raise_signal(getattr(signal, name))
        return step(self, data)

    same = ["resume=auto", "model.drop_rate=0.2", "callbacks=[ema]"]
    train(tmp_path / "whole", *same)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_train_step", signalled)
        with pytest.raises(RunStopped, match=f"stopped by {name} after step 8") as stopped:
            train(tmp_path / "job", *same)
    assert stopped.value.by == name
    assert not (tmp_path / "job" / "result.json").exists()
    train(tmp_path / "job", *same)
    assert equal_weights(tmp_path / "job", tmp_path / "whole")


# Files that are damaged or gone.


def cut_run(folder: Path, monkeypatch, step: int = 11) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(Stop):
            train(folder, "trainer.evaluate_every=4")


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, monkeypatch, capsys):
    train(tmp_path / "whole", "trainer.evaluate_every=4")
    cut_run(tmp_path / "cut", monkeypatch)
    newest, before = checkpoints(tmp_path / "cut" / "checkpoints" / "last.pt")
    assert [read_checkpoint(path)["step"] for path in (newest, before)] == [8, 4]
    newest.write_bytes(newest.read_bytes()[:-100])
    train(tmp_path / "cut", "trainer.evaluate_every=4", "resume=auto")
    said = capsys.readouterr().out
    assert "passed over: " in said and "last.pt is damaged" in said
    assert "going on from step 4" in said
    assert equal_weights(tmp_path / "whole", tmp_path / "cut")
    same_rows(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path, seed):
    path = tmp_path / "last.pt"
    generator = torch.Generator().manual_seed(seed)
    state = {"model": {"w": torch.randn(200, generator=generator)}, "step": 3, "best": {"a": 0.5}}
    write_checkpoint(path, state)
    content = bytearray(path.read_bytes())
    position = int(torch.randint(len(content) * 8, (), generator=generator))
    content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)
    try:
        read = read_checkpoint(path)
    except RunError:
        return
    assert torch.equal(read["model"]["w"], state["model"]["w"])
    assert (read["step"], read["best"]) == (3, {"a": 0.5})


def test_a_flipped_bit_of_a_weight_is_noticed(tmp_path):
    path = tmp_path / "last.pt"
    write_checkpoint(path, {"w": torch.full((64,), 1.5)})
    content = path.read_bytes()
    place = content.index(torch.full((4,), 1.5).numpy().tobytes())
    path.write_bytes(content[:place] + b"\x01" + content[place + 1 :])
    with pytest.raises(RunError, match="last.pt is damaged: its content has another digest"):
        read_checkpoint(path)


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_as_many_checkpoints_stay_as_were_asked_for_with_their_best_weights(tmp_path, kept):
    train(tmp_path, f"trainer.keep_checkpoints={kept}", "trainer.evaluate_every=3")
    files = checkpoints(tmp_path / "checkpoints" / "last.pt")
    states = [read_checkpoint(path) for path in files]
    assert [state["step"] for state in states] == [12, 9, 6, 3][:kept]
    best = BestWeights(RunFolder(tmp_path))
    for state in states:
        assert not state["best"] or best.file(state["best_step"]).is_file()
    assert len(list((tmp_path / "checkpoints").glob("best-*"))) <= kept + 1


def test_lost_best_weights_do_not_keep_a_run_from_its_end(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_finish", fail)
        with pytest.raises(Stop):
            train(tmp_path)
    # The last step is not validated again where it was; so leave it as if it had been.
    for path in (tmp_path / "checkpoints").glob("best-*"):
        path.unlink()
    state = read_checkpoint(tmp_path / "checkpoints" / "last.pt")
    write_checkpoint(tmp_path / "checkpoints" / "last.pt", {**state, "reported": True})
    train(tmp_path, "resume=auto")
    assert "the best weights are lost, the last ones take their place" in capsys.readouterr().out
    assert (tmp_path / "result.json").is_file()


def test_a_run_does_not_go_on_with_other_data_unless_it_is_told_to(tmp_path, monkeypatch):
    cut_run(tmp_path / "cut", monkeypatch)
    about = unsealed((tmp_path / "cut" / "data.json").read_bytes())
    about["sha256"]["test"] = "0" * 64
    (tmp_path / "cut" / "data.json").write_text(sealed(about))
    again = ["trainer.evaluate_every=4", "resume=auto"]
    with pytest.raises(RunError, match="the test fold has another sha256; bring the data back"):
        train(tmp_path / "cut", *again)
    train(tmp_path / "cut", *again, "other_data=true")


def test_what_a_killed_process_left_half_written_goes(tmp_path, monkeypatch):
    cut_run(tmp_path, monkeypatch)
    # The second and third are what safetensors writes to, the last is the user's.
    stale = ["checkpoints/.last.pt.0123.unfinished", "checkpoints/.tmpNhoKGe", ".tmp3YDfEc"]
    for name in [*stale, ".tmp-mine"]:
        (tmp_path / name).write_bytes(b"half")
    train(tmp_path, "trainer.evaluate_every=4", "resume=auto")
    assert [name for name in stale if (tmp_path / name).exists()] == []
    assert (tmp_path / ".tmp-mine").is_file()


def test_a_link_at_a_temporary_name_is_not_followed(tmp_path):
    shutil.copy(__file__, tmp_path / "victim")
    before = (tmp_path / "victim").read_bytes()
    (tmp_path / ".last.pt.1.tmp").symlink_to(tmp_path / "victim")
    write_checkpoint(tmp_path / "last.pt", {"step": 1})
    assert (tmp_path / "victim").read_bytes() == before


# A word instead of a traceback.


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("part", ["train", "val"])
def test_a_file_that_is_damaged_in_the_middle_is_named_in_one_line(tmp_path, workers, part):
    from PIL import Image

    for folder in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / folder / f"{i}.png")
    (tmp_path / "data" / part / "b" / "7.png").write_bytes(b"no image")
    pictures = [
        *("model=mlp_nano", "data=imagefolder", "data.img_size=8", "data.resize=8"),
        *(f"data.root={tmp_path / 'data'}", "data.validation=0.25", "data.policy=none"),
        *("trainer.batch_size=4", f"trainer.workers={workers}", "trainer.evaluate_every=3"),
    ]
    with pytest.raises(RunError, match=rf"step \d+: .*{part}/b/7\.png cannot be decoded") as caught:
        train(tmp_path / "run", *pictures)
    assert "\n" not in str(caught.value)


def test_a_disk_that_refuses_a_row_ends_the_run_with_a_sentence(tmp_path, monkeypatch):
    from archzoo.train.engine.loggers import CSVLogger

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CSVLogger, "log", refuse)
    with pytest.raises(RunError, match="No space left on device; what was saved before is intact"):
        train(tmp_path)


def test_a_run_whose_validation_is_not_a_number_does_not_end_well(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "evaluate", lambda *_: {"loss": float("nan"), "accuracy": 0.1})
    with pytest.raises(
        RunError, match="the validation loss is nan at step 6; nothing saved before"
    ):
        train(tmp_path)
    assert not (tmp_path / "result.json").exists()
