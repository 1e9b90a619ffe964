"""Low rank in two processes: the same on both, whatever the method draws or removes."""

import json

import pytest
import torch
from archzoo.zoo.axes.lowrank import methods

from ..command_line import ROOT, TORCHRUN, call
from ..small_runs import train, weights
from .test_lowrank_training import chosen, ranks

pytestmark = pytest.mark.processes

# Several runs in one pair of processes, whose start takes longer than they do. At the end of each
# the weights and what the method remembers are compared between the processes.
SCRIPT = """
import json, sys, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from archzoo.train.engine import loop
from archzoo.train.engine.saved import claim_folder
from archzoo.train import run as running
from tests.train.small_runs import configure

worlds = []
connect, finish = claim_folder.connect, loop.Trainer._finish

def connect_once(device):
    worlds[:] = worlds or [connect(device)]
    return worlds[0]

def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value.detach().double()
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from tensors(value[key])
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors(each)

def compare(trainer):
    if trainer.config.parallel == "ddp":
        known = {"model": trainer.model.state_dict(), "state": trainer.model.lowrank.state}
        for tensor in tensors(known):
            other = tensor.clone()
            dist.broadcast(other, src=0)
            assert torch.equal(other, tensor)
        plain = repr([v for v in trainer.model.lowrank.state.values() if not list(tensors(v))])
        assert len(set(worlds[0].gather(plain))) == 1, plain
    Path(f"{trainer.folder.path.name}-equal-on-{dist.get_rank()}").touch()
    return finish(trainer)

leave = claim_folder.disconnect
claim_folder.connect, claim_folder.disconnect = connect_once, lambda: None
loop.Trainer._finish = compare
for name, overrides in json.loads(sys.argv[2]):
    running.run(configure(*overrides, folder=Path(name)))
leave()
"""


def two_processes(place, jobs):
    """Run jobs, overrides of the tiny run by name, in one pair of processes."""
    (place / "jobs.py").write_text(SCRIPT)
    given = json.dumps(list(jobs.items()))
    done = call([*TORCHRUN, str(place / "jobs.py"), str(ROOT), given], place, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in jobs:
        for rank in range(2):
            assert (place / f"{name}-equal-on-{rank}").exists()


FIFTY = ["trainer.device=cpu", "trainer.steps=50", "trainer.evaluate_every=25"]


@pytest.mark.slow
def test_two_processes_shrink_alike(tmp_path):
    jobs = {"maestro": [*chosen("maestro"), "callbacks=[ema]", *FIFTY]}
    two_processes(tmp_path, jobs)
    first, last = ranks(tmp_path / "maestro")
    assert sum(last["ranks"].values()) < sum(first["ranks"].values())


# Plain gradient descent: Adam would answer an entry of the gradient that is nothing but rounding
# with a whole step. Shrinking at an importance of 0.9 is left in.
DESCENT = [
    "optim=sgd", "optim.name=momentum", "data.augment=false", "trainer.device=cpu",
    "trainer.steps=12",
]  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_the_model_that_one_trains(tmp_path):
    jobs = {name: [*chosen(name), *DESCENT] for name in ("maestro", "relora", "sst", "trp")}
    # An SVD turns vectors of nearly equal singular values by any angle, however alike the weights.
    jobs["sst"].append("lowrank.iterations=100")
    two_processes(tmp_path, jobs)
    for name, overrides in jobs.items():
        train(tmp_path / f"one-{name}", *overrides)
        one, two = weights(tmp_path / f"one-{name}"), weights(tmp_path / name)
        assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in two.items()}
        for key, value in one.items():
            # Halves of a batch are summed in another order, in float32, in each of 12 steps.
            torch.testing.assert_close(two[key], value, rtol=0, atol=1e-5, msg=f"{name}, {key}")


@pytest.mark.slow
def test_two_processes_train_the_adapter_that_one_trains(tmp_path):
    train(tmp_path / "base")
    given = ["data.augment=false", "trainer.device=cpu", f"init={tmp_path / 'base'}", *DESCENT]
    grow = ["adapter.warmup=2", "adapter.grow_every=2", "adapter.target_rank=3"]
    # Counts of micro-batches are added up before those of both processes are.
    halves = ["trainer.accumulate=2", "trainer.batch_size=16"]
    gate = [*halves, "adapter.rank=8", "adapter.balance=0.01"]
    draw = [*halves, "adapter.rank=2", "adapter.adapters=3"]
    few = ["adapter.warmup=1", "adapter.settle=2", "adapter.every=2"]
    jobs = {"lora": [], "dylora": [], "increlora": grow, "sara": [], "smora": gate, "remix": draw,
            "flexora": ["adapter.gate_rate=0.1"], "snella": few}  # fmt: skip
    jobs = {name: [f"adapter={name}", *given, *more] for name, more in jobs.items()}
    two_processes(tmp_path, jobs)
    biases = [value for key, value in weights(tmp_path / "smora").items() if "gate.bias" in key]
    assert any(bias.abs().max() > 0.01 for bias in biases)
    # Of remix, each process draws for itself.
    for name in ("lora", "sara", "smora", "flexora", "snella"):
        train(tmp_path / f"one-{name}", *jobs[name])
        one, two = weights(tmp_path / f"one-{name}"), weights(tmp_path / name)
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=0, atol=1e-5, msg=f"{name}, {key}")


@pytest.mark.slow
def test_two_processes_draw_alike_under_every_method(tmp_path):
    two_processes(tmp_path, {name: [*chosen(name), *FIFTY] for name in methods.names()})
