"""The command line as a user meets it: killed, stopped, swept, and in several processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from archzoo.train.engine.saved.checkpoint_file import read_newest
from archzoo.train.engine.saved.folder_lock import is_locked
from omegaconf import OmegaConf

from ..tiers import tiered
from .command_line import TORCHRUN, call, command, end_pair, environment, start_pair
from .small_runs import equal_weights, rows, train, weights

pytestmark = pytest.mark.processes

LONG = ["trainer.steps=4000", "trainer.evaluate_every=200", "trainer.log_every=100"]


def start_and_wait_for_checkpoint(
    place: Path, *overrides: str, launch: Sequence[str] = (sys.executable,)
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*launch, *command(*overrides, "run_dir=run")[1:]],
        cwd=place,
        env=environment(place / "path"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wait_for_checkpoint(place, process)
    return process


def wait_for_checkpoint(place: Path, *processes: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 100
    while not (place / "run" / "checkpoints" / "last.pt").exists():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "no checkpoint after 100 s"
        time.sleep(0.01)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    steps = [*LONG, "trainer.steps=800"]  # which are run twice; the kill comes near the first save
    process = start_and_wait_for_checkpoint(tmp_path, *steps)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "result.json").exists()
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert 0 < state["step"] < 800
    done = call(command(*steps, "run_dir=run", "resume=auto"), tmp_path)
    assert f"going on from step {state['step']}" in done.stdout, done.stdout + done.stderr
    train(tmp_path / "whole", *steps)
    assert equal_weights(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("name", tiered(["SIGTERM", "SIGHUP", "SIGUSR1"], ["SIGTERM"]))
def test_a_run_that_gets_a_signal_saves_its_step_and_says_how_to_go_on(tmp_path, name):
    process = start_and_wait_for_checkpoint(tmp_path, *LONG)
    process.send_signal(getattr(signal, name))
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 75, said
    assert_saved_where_it_stopped(tmp_path, said, name)


def test_a_signal_to_the_whole_group_saves_the_step_of_a_run_with_workers(tmp_path):
    process = start_and_wait_for_checkpoint(tmp_path, *LONG, "trainer.workers=2")
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 75, said
    assert_saved_where_it_stopped(tmp_path, said, "SIGTERM")


def assert_saved_where_it_stopped(place: Path, said: str, name: str) -> None:
    assert f"archzoo train: stopped by {name} after step" in said
    assert "go on with resume=run" in said
    step = int(said.rpartition("after step ")[2].split(";")[0])
    state = torch.load(place / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert state["step"] == step


@pytest.mark.slow
def test_a_killed_run_with_workers_can_go_on_at_once_and_a_live_one_cannot(tmp_path):
    many = [*LONG, "trainer.workers=2"]
    process = start_and_wait_for_checkpoint(tmp_path, *many)
    second = call(command(*many, "run_dir=run", "resume=auto"), tmp_path)
    assert second.returncode == 1
    assert f"run is used by process {process.pid} on " in second.stderr
    assert second.stderr.count("\n") == 1
    process.kill()
    process.communicate()
    # The advice of a stopped run as it is typed: no key but the folder.
    short = [sys.executable, "-m", "archzoo.train", "resume=run", "trainer.max_time=0"]
    done = call(short, tmp_path)
    assert done.returncode == 75, done.stderr
    assert "going on from step" in done.stdout


@pytest.mark.slow
def test_runs_that_start_together_have_a_folder_each(tmp_path):
    each = command("trainer.steps=2", "hydra.run.dir=.")
    place = {"cwd": tmp_path, "env": environment(tmp_path / "path")}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen(each, **place, **quiet) for _ in range(3)]
    assert [process.wait(timeout=120) for process in started] == [0, 0, 0]
    assert len(list(tmp_path.glob("runs/*/*/result.json"))) == 3


def test_help_lists_groups_and_models(tmp_path):
    said = call([sys.executable, "-m", "archzoo.train", "--help"], tmp_path).stdout
    for word in ("vit_tiny_block_attnres", "fashion_mnist", "bytes_gpt", "muon", "callbacks"):
        assert word in said


MISTAKES = {
    "model=vit_tinny": "archzoo train: model=vit_tinny: no such choice; did you mean",
    "trainer.amp=fp8": "archzoo train: trainer.amp must be one of off, bf16, fp16",
    "data=mnist": "archzoo train: mnist was not found in ",
}


@pytest.mark.parametrize("override", tiered(MISTAKES, ["trainer.amp=fp8"]))
def test_a_mistake_ends_in_one_line_and_its_exit_code(tmp_path, override):
    more = ["model=resnet_nano"] if "mnist" in override else []
    done = call(command(*more, override), tmp_path)
    assert done.returncode == (2 if "tinny" in override else 1)
    assert done.stderr.startswith(MISTAKES[override]), done.stderr
    assert done.stderr.count("\n") == 1


def sweep(*overrides):
    program, *rest = command(*overrides, "trainer.steps=2", "hydra.sweep.dir=sweep")
    return [program, *rest[:2], "-m", *rest[2:]]


def test_a_multirun_trains_every_point_into_its_own_folder(tmp_path):
    done = call(sweep("seed=0,1"), tmp_path)
    assert done.returncode == 0, done.stderr
    names = ["0-seed=0", "1-seed=1"]  # the number, and what differs between the points
    results = [json.loads((tmp_path / "sweep" / n / "result.json").read_text()) for n in names]
    assert results[0] != results[1]


@pytest.mark.slow
def test_a_bad_point_ends_alone_and_the_sweep_says_which(tmp_path):
    done = call(sweep("optim.lr=0.01,-1,0.02"), tmp_path)
    assert done.returncode == 1
    names = ["0-optim.lr=0.01", "1-optim.lr=-1", "2-optim.lr=0.02"]
    ended = [(tmp_path / "sweep" / name / "result.json").is_file() for name in names]
    assert ended == [True, False, True]
    assert "sweep: 2 of 3 points ended, in sweep" in done.stdout
    assert "archzoo train: 1 point of the sweep failed\n  optim.lr=-1: " in done.stderr
    assert "Traceback" not in done.stderr
    # Once more without it, from another start of the grid: every point is found again.
    again = call(sweep("optim.lr=0.02,0.01,0.03", "resume=auto"), tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("ended before") == 2
    rates = [read_rate(tmp_path / "sweep" / name) for name in (names[0], names[2])]
    assert rates == [0.01, 0.02]
    assert "sweep: 3 of 3 points ended" in again.stdout


def read_rate(folder: Path) -> float | None:
    config = folder / "config.yaml"
    return OmegaConf.load(config).optim.lr if config.is_file() else None


@pytest.mark.slow
def test_optuna_searches_over_the_validation_metric_and_goes_on_with_its_study(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    search = ["sweep=optuna", "optim.lr=interval(0.0001,0.01)"]
    done = call(sweep(*search, "hydra.sweeper.n_trials=2"), tmp_path)
    assert done.returncode == 0, done.stderr
    more = call(sweep(*search, "hydra.sweeper.n_trials=3", "resume=auto"), tmp_path)
    assert more.returncode == 0, more.stderr
    assert more.stdout.count("ended before") == 2
    points = sorted((tmp_path / "sweep").glob("*-optim.lr=*"))
    results = [json.loads((point / "result.json").read_text()) for point in points]
    metrics = [result["validation"]["accuracy"] for result in results]
    assert len(metrics) == 3
    best = OmegaConf.load(tmp_path / "sweep" / "optimization_results.yaml")
    assert best.best_value == max(metrics)
    rate = read_rate(points[metrics.index(max(metrics))])
    assert best.best_params["optim.lr"] == pytest.approx(rate, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("rates", "ended"), [("-1,-2", 0), ("0.01,-1", 1)])
def test_a_study_of_which_trials_failed_ends_with_its_summary(tmp_path, rates, ended):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    # Of this seed, six trials draw both rates.
    search = ["sweep=optuna", f"optim.lr=choice({rates})", "hydra.sweeper.n_trials=6", "seed=2"]
    done = call(sweep(*search), tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "Error executing" not in done.stderr
    assert len(re.findall(r"sweep: \d of 6 points ended", done.stdout)) == 1
    assert ("sweep: 0 of 6" not in done.stdout) == bool(ended)
    assert "of the sweep failed\n  optim.lr=-" in done.stderr


@pytest.mark.slow
def test_a_study_of_a_grid_that_is_smaller_than_its_trials_ends_with_its_summary(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    grid = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=6"]
    done = call(sweep(*grid, "optim.lr=choice(-1,-2)"), tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "Error executing" not in done.stderr
    assert done.stdout.count("sweep: 0 of 2 points ended") == 1


def torchrun(place: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return call([*TORCHRUN, *command(*overrides)[1:]], place, timeout=200)


STEADY = ["optim=adamw", "trainer.device=cpu", "data.augment=true"]


@pytest.mark.parametrize(
    ("parallel", "geometry"),
    tiered(
        [("ddp", "euclidean"), ("fsdp", "euclidean"), ("fsdp", "lorentz")], [("ddp", "euclidean")]
    ),
)
def test_two_processes_train_the_model_that_one_trains(tmp_path, parallel, geometry):
    same = [*STEADY, "model.residual=block_attnres", f"model.geometry={geometry}"]
    done = torchrun(tmp_path, *same, f"trainer.parallel={parallel}", "run_dir=two")
    assert done.returncode == 0, done.stdout + done.stderr
    train(tmp_path / "one", *same)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for key in one:
        # The gradient is summed in another order. Adam divides by its size, so an entry that is
        # nearly zero moves by up to the rate, 1e-3, in 12 steps; the mean shows the rest.
        difference = (one[key] - two[key]).abs()
        assert difference.mean() < 1e-6, key
    results = [json.loads((tmp_path / n / "result.json").read_text()) for n in ("one", "two")]
    assert results[0]["test"]["accuracy"] == results[1]["test"]["accuracy"]
    assert results[0]["test"]["loss"] == pytest.approx(results[1]["test"]["loss"], rel=1e-5)
    # What is logged is of all processes: the loss of half a batch would differ by a tenth.
    for alone, both in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert alone["split"] == both["split"]
        assert float(alone["loss"]) == pytest.approx(float(both["loss"]), rel=1e-5)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_one_step_with_one_sentence(tmp_path):
    pair = start_pair(command(*LONG, "run_dir=run"), tmp_path)
    wait_for_checkpoint(tmp_path, *pair)
    pair[1].send_signal(signal.SIGTERM)
    done = end_pair(pair)
    assert [process.returncode for process in done] == [75, 75], done
    said = "".join(process.stderr for process in done)
    assert said.count("\n") == 1, said
    assert_saved_where_it_stopped(tmp_path, said, "SIGTERM")


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_other_with_a_sentence_and_frees_the_folder(tmp_path):
    pair = start_pair(command(*LONG, "run_dir=run"), tmp_path)
    wait_for_checkpoint(tmp_path, *pair)
    pair[1].kill()
    left, _ = end_pair(pair)
    assert left.returncode == 1
    assert left.stderr.startswith("archzoo train: process 0 lost another one, which ended without")
    assert left.stderr.count("\n") == 1, left.stderr
    assert not is_locked(tmp_path / "run")
    assert not read_newest(tmp_path / "run" / "checkpoints" / "last.pt")[1]


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False], ids=["group", "launcher"])
def test_a_signal_to_torchrun_saves_the_step(tmp_path, whole_group):
    process = start_and_wait_for_checkpoint(tmp_path, *LONG, launch=TORCHRUN)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert said.count("archzoo train: ") == 1, said
    assert_saved_where_it_stopped(tmp_path, said, "SIGTERM")


@pytest.mark.slow
def test_two_processes_hold_equal_weights_and_one_of_them_writes(tmp_path):
    script = tmp_path / "check.py"
    script.write_text(
        "import torch, torch.distributed as dist\n"
        "from archzoo.train import __main__ as cli; from archzoo.train.engine import loop\n"
        "finish = loop.Trainer._finish\n"
        "def compare(self):\n"
        "    for p in self.model.parameters():\n"
        "        other = p.detach().clone()\n"
        "        dist.broadcast(other, src=0)\n"
        "        assert torch.equal(other, p)\n"
        "    open(f'equal_on_rank_{dist.get_rank()}', 'x').close()\n"
        "    return finish(self)\n"
        "loop.Trainer._finish = compare\n"
        "cli.main()\n"
    )
    overrides = [*command("run_dir=two", "model.drop_rate=0.3")[3:]]
    done = call([*TORCHRUN, str(script), *overrides], tmp_path, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    # Files, since the ranks share one pipe and their lines may interleave.
    assert sorted(f.name for f in tmp_path.glob("equal_on_rank_*")) == [
        "equal_on_rank_0",
        "equal_on_rank_1",
    ]
    splits = [row["split"] for row in rows(tmp_path / "two")]
    assert splits.count("validation") == 2
    assert splits.count("test") == 1


def test_sharding_refuses_a_model_with_manifold_parameters():
    import geoopt
    from archzoo.train.engine.process import World, parallelize
    from archzoo.train.errors import RunError

    model = torch.nn.Module()
    model.point = geoopt.ManifoldParameter(torch.zeros(2), manifold=geoopt.PoincareBall())
    with pytest.raises(RunError, match="fsdp would drop the manifold of point .*use .*ddp"):
        parallelize(model, World(0, 1, torch.device("cpu")), "fsdp")


@pytest.mark.parametrize(
    ("name", "options", "parameter"),
    [
        ("mlp_nano", {"geometry": "lorentz", "learned_curvature": True}, "log_ratio"),
        ("poincare_resnet_nano", {}, "log_variance"),
    ],
)
def test_sharding_refuses_a_parameter_that_has_no_pieces(name, options, parameter):
    from archzoo.train.engine.process import World, parallelize
    from archzoo.train.errors import RunError
    from archzoo.zoo import create_model

    model = create_model(name, **options)
    with pytest.raises(RunError, match=rf"fsdp cannot cut .*{parameter} into .*parallel=ddp"):
        parallelize(model, World(0, 2, torch.device("cpu")), "fsdp")


def test_the_environment_of_these_tests_is_a_users(tmp_path):
    told = call(
        [sys.executable, "-c", "import archzoo.train; print(archzoo.train.__file__)"], tmp_path
    )
    assert os.path.samefile(told.stdout.strip(), Path(__file__).parents[2] / "train/__init__.py")


@pytest.mark.slow
def test_what_is_noticed_of_the_data_is_said_once_on_the_command_line(tmp_path):
    cells = "".join(f"{'NA' if i == 3 else i},{'pq'[i % 2]}\n" for i in range(60))
    (tmp_path / "t.csv").write_text(f"a,target\n{cells}")
    table = ["data=tabular", f"data.root={tmp_path}", "data.table=t", "trainer.batch_size=8"]
    done = call(command(*table, "run_dir=run"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"{tmp_path / 't.csv'}: column 'a': NA are missing values\n"
