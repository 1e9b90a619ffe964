"""A run that two processes begin, one goes on with and three end is the run that one does alone.

`pytest -s -m slow tests/train/engine/test_world_sizes.py` prints the losses of both, step by step.
"""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from archzoo.train.config import RunConfig
from archzoo.train.data import Batches
from archzoo.train.engine.checkpoint import generator_states, seed_generators
from archzoo.train.errors import RunError

from ...tiers import tiered
from ..callbacks.test_lowrank_training import chosen
from ..command_line import TORCHRUN, call
from ..data.sequences.protein_families import families, write_table
from ..small_runs import rows, train

CLOSE = 1e-9  # a dozen steps of float64, whose roundings are 1e-16
ROUGH = {"fsdp, muon": 5e-3}
"""Muon orthogonalises in bfloat16, and of a sharded matrix in another order of its products."""
PARTS = ((2, 5), (1, 4), (3, None))
"""Processes, and how many of the twelve steps they do."""

OF_IMAGES = {
    "ddp, adamw, ema": ["callbacks=[ema]", "callbacks.ema.decay=0.9", "trainer.clip_grad=1"],
    "ddp, muon": ["optim=muon"],
    "ddp, maestro": [*chosen("maestro"), "trainer.accumulate=2"],
    "ddp, pela": [
        *("model=vit_nano_block_attnres", "lowrank=low_rank", "distill=pela"),
        *("distill.teacher=pretrained:vit_nano_block_attnres/digits", "distill.perturbation=1"),
    ],
    "ddp, switchlora, step_adamw": chosen("switchlora"),
    "fsdp, adamw, ema": ["trainer.parallel=fsdp", "callbacks=[ema]", "callbacks.ema.decay=0.9"],
    "fsdp, muon": ["trainer.parallel=fsdp", "optim=muon"],
    "fsdp, switchlora, step_adamw": ["trainer.parallel=fsdp", *chosen("switchlora")],
    "fsdp, sgd": ["trainer.parallel=fsdp", "optim=sgd", "trainer.clip_grad=1"],
}
RUNS = {
    **{name: ["data.augment=true", *told] for name, told in OF_IMAGES.items()},
    "ddp, hidden tokens": [
        *("model=encoder_nano", "data=masked_sequences", "data.root=proteins.csv"),
        *("model.drop_rate=0", "trainer.accumulate=2"),
    ],
}
COMMON = [
    *("trainer.device=cpu", "trainer.batch_size=30", "trainer.log_every=1"),
    *("trainer.evaluate_every=6", "model.residual=block_attnres", "schedule.warmup=0.2"),
]


@pytest.mark.parametrize(
    ("worlds", "batch"), tiered([((2, 1, 3), 6), ((3, 2, 1), 12), ((4, 8, 1), 8)], [((2, 1, 3), 6)])
)
@pytest.mark.parametrize("epoch", [0, 3])
def test_each_sample_that_is_left_comes_once_on_any_number_of_processes(worlds, batch, epoch):
    def given(rank, world, start, stop):
        how = {"seed": 5, "epoch": epoch, "shuffle": True, "drop_last": True, "start": start}
        batches = iter(Batches(50, batch, rank=rank, world=world, **how))
        return [next(batches) for _ in range(start, stop)]

    steps = 50 // batch
    whole = given(0, 1, 0, steps)
    cuts = [0, 1, steps - 1, steps]
    parts = []
    for world, start, stop in zip(worlds, cuts, cuts[1:], strict=False):
        shares = [given(rank, world, start, stop) for rank in range(world)]
        parts += [sorted(sum(each, [])) for each in zip(*shares, strict=True)]
    assert parts == [sorted(keys) for keys in whole]
    assert max(Counter(key for keys in parts for key in keys).values()) == 1


def test_a_batch_that_the_processes_cannot_share_is_refused_in_one_line(tmp_path, monkeypatch):
    from archzoo.train import assemble
    from archzoo.train.engine.process import World

    train(tmp_path, "trainer.steps=2")
    three = World(1, 3, torch.device("cpu"))
    monkeypatch.setattr(World, "share", lambda self, value: value)
    config = RunConfig(**{**vars(RunConfig()), "data": {"name": "digits"}})
    config.trainer.batch_size = 32
    with pytest.raises(RunError) as refused:
        assemble._read_data(config, three)
    assert str(refused.value) == (
        "trainer.batch_size=32 cannot be shared by 3 processes equally; give a multiple of 3"
    )


def test_generators_that_are_seeded_alike_draw_alike():
    seed_generators(7)
    first = generator_states()
    torch.rand(3)
    seed_generators(7)
    assert torch.equal(generator_states()["torch"], first["torch"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do every run in three parts, and once as a whole."""
    place = tmp_path_factory.mktemp("worlds")
    rows = [("ab"[i % 2], one[0]) for i, one in enumerate(families(150, 1))]
    write_table(place / "proteins.csv", rows)
    script = str(Path(__file__).with_name("world_sizes.py"))
    for world, steps in (*PARTS, (1, None)):
        parts = (world, steps) in PARTS
        jobs = [("parts" if parts else "whole", steps, [*COMMON, *more]) for more in RUNS.values()]
        # Not beside each other, where resume=auto finds runs that differ in trainer.parallel alone.
        named = [(f"{i}/{kind}/run", n, overrides) for i, (kind, n, overrides) in enumerate(jobs)]
        launch = [*TORCHRUN[:-1], f"--nproc-per-node={world}"]
        done = call([*launch, script, json.dumps(named)], place, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
    return place


CASES = pytest.mark.parametrize("run", range(len(RUNS)), ids=list(RUNS))


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(900)
@CASES
def test_a_run_on_two_one_and_three_processes_is_the_run_of_one(place, run):
    whole, parts = place / f"{run}/whole/run", place / f"{run}/parts/run"
    logged = [
        {int(row["step"]): float(row["loss"]) for row in rows(folder) if row["split"] == "train"}
        for folder in (whole, parts)
    ]
    name = list(RUNS)[run]
    close = ROUGH.get(name, CLOSE)
    print(f"\n{name}")
    on = {1: 2, 6: 1, 10: 3}
    world = 0
    for step in logged[0]:
        world = on.get(step, world)
        alone, parted = logged[0][step], logged[1][step]
        print(f"step {step:2} on {world}: loss {alone:.12f} alone, {parted - alone:+.1e} in parts")
    assert logged[0].keys() == logged[1].keys() == set(range(1, 13))
    for step, loss in logged[0].items():
        assert logged[1][step] == pytest.approx(loss, rel=close), step
    results = [json.loads((folder / "result.json").read_text()) for folder in (whole, parts)]
    for fold in ("validation", "test"):
        assert results[0][fold] == pytest.approx(results[1][fold], rel=close)
    state = [
        torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
        for folder in (whole, parts)
    ]
    worst = farthest(*state)
    print(f"farthest entry of weights, averages and the optimiser's state: {worst:.1e}")
    assert worst < close


@pytest.mark.slow
@pytest.mark.processes
@CASES
def test_a_run_on_other_numbers_of_processes_takes_each_sample_once(place, run):
    def given(kind, worlds):
        files = [f for world in worlds for f in place.glob(f"{run}/{kind}/run-{world}-*.json")]
        assert len(files) == sum(worlds)
        return Counter(tuple(key) for file in files for key in json.loads(file.read_text()))

    whole, parts = given("whole", [1]), given("parts", [2, 1, 3])
    assert parts == whole
    assert set(parts.values()) == {1}


def farthest(one: object, other: object) -> float:
    """The greatest distance of entries of nested states."""
    if isinstance(one, torch.Tensor):
        return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0
    if isinstance(one, dict):
        # Of a process, digests of all this, and which checkpoints there were.
        own = ("generators", "window", "config", "digest", "logged", "best_steps")
        assert one.keys() == other.keys()
        return max((farthest(one[k], other[k]) for k in one if k not in own), default=0.0)
    if isinstance(one, (list, tuple)):
        return max((farthest(a, b) for a, b in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, float):
        return abs(one - other)
    assert one == other
    return 0.0
