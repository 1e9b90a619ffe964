"""A run goes on in one process, under DDP or sharded, whatever wrote its checkpoint."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from archzoo.zoo.axes.lowrank import methods

from ..callbacks.test_lowrank_training import chosen
from ..command_line import TORCHRUN, call
from ..small_runs import train, weights
from .moving import main

pytestmark = [pytest.mark.processes, pytest.mark.slow]

KINDS = ("one", "ddp", "fsdp")
# Methods that plan their events over the whole run, which must therefore be said at its beginning.
PLANNED = [name for name in methods.names() if "total_steps" in methods[name].options]
# At a constant rate a shorter run is the beginning of a longer one.
FLAT = ["schedule=constant", "schedule.warmup=0", "trainer.device=cpu"]
HALF, WHOLE = "trainer.steps=6", "trainer.steps=12"


def go_on_everywhere(place: Path, runs: dict[str, list[str]]) -> None:
    """Do half of every run as every kind, and the other half of each as every kind."""
    two = {kind: [] if kind == "one" else [f"trainer.parallel={kind}"] for kind in KINDS}

    def do(kinds, jobs):
        if kinds == ("one",):
            here = Path.cwd()
            os.chdir(place)
            try:
                main(jobs)
            finally:
                os.chdir(here)
            return
        script = Path(__file__).with_name("moving.py")
        done = call([*TORCHRUN, str(script), json.dumps(jobs)], place, timeout=800)
        assert done.returncode == 0, done.stdout + done.stderr

    for kinds in (("one",), ("ddp", "fsdp")):
        do(kinds, [
            (f"{name}-{kind}", [*overrides, *two[kind], HALF])
            for name, overrides in runs.items() for kind in kinds
        ])  # fmt: skip
    for name in runs:
        for before in KINDS:
            for after in KINDS:
                shutil.copytree(place / f"{name}-{before}", place / f"{name}-{before}-{after}")
    for kinds in (("one",), ("ddp", "fsdp")):
        do(kinds, [
            (f"{name}-{before}-{kind}",
             [*overrides, *two[kind], WHOLE, f"resume={name}-{before}-{kind}"])
            for name, overrides in runs.items() for before in KINDS for kind in kinds
        ])  # fmt: skip


def assert_same(held, written, where):
    """Compare nested states bit by bit; what a step of length zero would make is no difference."""
    if isinstance(written, torch.Tensor):
        assert torch.equal(held, written), where
    elif isinstance(written, dict):
        assert held.keys() == written.keys(), where
        for key in written:
            assert_same(held[key], written[key], f"{where}.{key}")
    elif isinstance(written, (list, tuple)):
        assert len(held) == len(written), where
        for i, (a, b) in enumerate(zip(held, written, strict=True)):
            assert_same(a, b, f"{where}.{i}")
    else:
        assert held == written, where


def assert_moved(place: Path, name: str, mean: float) -> None:
    """Every kind holds what every kind wrote, and goes on to the same weights but for rounding."""
    whole = weights(place / f"{name}-one-one")
    for before in KINDS:
        for after in KINDS:
            folder = place / f"{name}-{before}-{after}"
            written = torch.load(place / f"{name}-{before}/checkpoints/last.pt", weights_only=True)
            held = torch.load(folder / "held.pt", weights_only=True)
            for part in held:
                assert_same(held[part], written[part], f"{folder.name}: {part}")
            for key, value in weights(folder).items():
                # Halves of a batch are summed in another order, which Adam may answer with a
                # whole step where the gradient is nothing but rounding; the mean shows the rest.
                error = (value - whole[key]).abs().double().mean()
                assert error < mean, f"{folder.name}: {key} differs by {error:.2g}"


def test_a_run_goes_on_as_whatever_it_was_and_with_another_number_of_processes(tmp_path):
    clip = "trainer.clip_grad=1"
    runs = {
        "adamw": [*FLAT, "model.residual=block_attnres", clip],
        "sgd": [*FLAT, "optim=sgd", "optim.lr=0.01"],
    }
    go_on_everywhere(tmp_path, runs)
    for name in runs:
        assert_moved(tmp_path, name, 1e-6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_at_low_rank_goes_on_as_whatever_it_was(tmp_path):
    runs = {m: [*chosen(m), *FLAT] for m in methods.names() if m != "maestro"}
    for method in PLANNED:
        runs[method].append("lowrank.total_steps=12")
    # Shards cannot change their size.
    runs["maestro"] = [*chosen("maestro"), *FLAT, "lowrank.shrink_every=0"]
    go_on_everywhere(tmp_path, runs)
    for method in runs:
        assert_moved(tmp_path, method, 1e-4)


@pytest.mark.timeout(900)
def test_a_run_with_an_adapter_goes_on_as_whatever_it_was_and_what_is_frozen_keeps_its_bits(
    tmp_path,
):
    train(tmp_path / "base")
    given = [f"init={tmp_path / 'base'}", "optim.weight_decay=0.1", *FLAT]
    gate = ["adapter.rank=8", "adapter.balance=0.01", "trainer.accumulate=2",
            "trainer.batch_size=16"]  # fmt: skip
    runs = {name: [f"adapter={name}", *given] for name in ("lora", "dora", "svfit")}
    runs["smora"] = ["adapter=smora", *given, *gate]
    go_on_everywhere(tmp_path, runs)
    before = weights(tmp_path / "base")
    for name in runs:
        assert_moved(tmp_path, name, 1e-6)
        for after in KINDS:
            found = weights(tmp_path / f"{name}-{after}-{after}")
            frozen = {k: v for k, v in found.items() if "structure.extra" in k or k in before}
            assert len(frozen) >= len(before)
            for key, value in frozen.items():
                plain = key.replace("structure.extra.", "")
                assert torch.equal(value.reshape(before[plain].shape), before[plain]), key
