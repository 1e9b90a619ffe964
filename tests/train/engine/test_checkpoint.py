"""A checkpoint is whole or it is not there, and it never runs code."""

import errno
import os
import pickle
import random
import resource

import numpy as np
import pytest
import torch
from archzoo.train.engine.checkpoint import generator_states, own_sum, restore_generators
from archzoo.train.engine.named_states import load_states, optimizer_state
from archzoo.train.engine.process import World
from archzoo.train.engine.saved.checkpoint_file import read_checkpoint, write_checkpoint
from archzoo.train.errors import RunError
from archzoo.zoo.share.atomic_write import replacing


class Bomb:
    """What an attacker would put in a pickle."""

    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB"],)


def test_what_is_written_is_read(tmp_path):
    state = {"step": 3, "x": torch.arange(4), "nested": {"best": None, "list": [1, 2.5, "a"]}}
    write_checkpoint(tmp_path / "a" / "last.pt", state)
    back = read_checkpoint(tmp_path / "a" / "last.pt")
    assert torch.equal(back.pop("x"), state.pop("x"))
    assert back == state


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_goes_on_with_the_sum_of_losses_that_is_its_own(rank):
    # Sums that begin with the mean of all differ from it in the last bit, and so does metrics.csv.
    sums = [float(torch.tensor(0.1)), float(torch.tensor(0.7))]
    own = own_sum(sums, World(rank, 2, torch.device("cpu")))
    assert own.dtype == torch.float32
    assert float(own) == sums[rank]


@pytest.mark.parametrize("written", [[0.25, 0.75], torch.tensor(0.5)], ids=["two", "earlier"])
def test_another_number_of_processes_goes_on_with_the_mean_of_all_sums(written):
    assert float(own_sum(written, World(2, 3, torch.device("cpu")))) == 0.5


def test_a_pickle_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    torch.save({"x": Bomb()}, tmp_path / "zip.pt")
    for name in ("raw.pt", "zip.pt"):
        with pytest.raises(RunError, match=f"{name} is damaged or no checkpoint of ours"):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_a_truncated_file_is_named(tmp_path, keep):
    path = tmp_path / "last.pt"
    write_checkpoint(path, {"x": torch.arange(100)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError, match="last.pt is damaged"):
        read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RunError, match="no checkpoint at .*last.pt; start without resume"):
        read_checkpoint(tmp_path / "last.pt")


def test_a_full_disk_leaves_the_old_checkpoint_byte_for_byte(tmp_path):
    path = tmp_path / "last.pt"
    write_checkpoint(path, {"x": torch.zeros(10)})
    before = path.read_bytes()
    # A limit on the size of files makes the kernel refuse the write, as a full disk would.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(RunError, match="could not write .*the checkpoint before it is intact"):
            write_checkpoint(path, {"x": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("written", [0o600, 0o666])
def test_a_written_file_has_the_mode_of_any_new_file(tmp_path, written):
    (tmp_path / "plain").touch()
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("new")
        temporary.chmod(written)
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_error_inside_the_block_leaves_no_temporary_file(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(OSError, match="no space"), replacing(target) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "no space")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_generators_go_on_where_they_were(tmp_path):
    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    write_checkpoint(tmp_path / "rng.pt", generator_states())
    first = draw()
    restore_generators(read_checkpoint(tmp_path / "rng.pt"))
    assert draw() == first


def trained(width):
    """A model and an optimiser with a state."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Linear(width, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_a_file_that_numbers_the_parameters_is_read_as_one_that_names_them():
    model, optimizer = trained(4)
    named = optimizer_state(model, optimizer)
    assert list(named["state"]) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    fresh = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    for state in (named, optimizer.state_dict()):  # the second is that of earlier versions
        empty = torch.optim.AdamW(fresh.parameters())
        load_states(fresh, empty, {"model": model.state_dict(), "optimizer": state})
        held = optimizer_state(fresh, empty)
        for name, known in named["state"].items():
            assert all(torch.equal(known[key], held["state"][name][key]) for key in known)
        assert held["param_groups"] == named["param_groups"]


def test_a_state_of_other_parameters_is_refused_by_the_name_of_one():
    model, optimizer = trained(4)
    state = {"model": model.state_dict(), "optimizer": optimizer_state(model, optimizer)}
    with pytest.raises(RunError, match=r"of another model or optimiser: .*such as 1\.bias"):
        load_states(model, torch.optim.AdamW(model[0].parameters()), state)
