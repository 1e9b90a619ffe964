"""What is measured of a model: sizes exactly, times in turns."""

import os

import pytest
import torch
from archzoo.train.compare.measured_costs import Candidate, Spread, measure_sizes, measure_times
from archzoo.train.compare.peak_memory import peak_bytes
from archzoo.zoo import create_model
from archzoo.zoo.transform.interleaved_times import interleaved_times

CPU = torch.device("cpu")


def test_the_peak_is_the_most_that_is_held_at_once():
    kept = []

    def work():
        first = torch.empty(1_000_000)
        second = torch.empty(2_000_000)
        del first
        kept.append(torch.empty(500_000))
        del second

    assert peak_bytes(work, CPU) == 4 * 3_000_000
    assert peak_bytes(lambda: torch.empty(10_000) + torch.empty(10_000), CPU) == 4 * 30_000
    assert peak_bytes(lambda: None, CPU) == 0


def test_the_profiler_writes_nothing_to_the_error_stream(capfd):
    peak_bytes(lambda: torch.empty(10), CPU)
    assert capfd.readouterr() == ("", "")


def test_a_failing_piece_of_work_gives_the_error_stream_back(capfd):
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        peak_bytes(fail, CPU)
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_sizes_follow_the_batch_and_the_parameters():
    batch = 16
    model = create_model("mlp_nano", in_features=8, num_classes=4, residual="add")
    candidate = Candidate(model, torch.randn(batch, 8), torch.randint(4, (batch,)))
    sizes = measure_sizes(candidate)
    assert sizes["parameters"] == sum(p.numel() for p in model.parameters())
    assert 0 < sizes["kept_bytes"] < sizes["peak_bytes"]
    # Beside what it stores a step holds all gradients at its end.
    assert sizes["peak_bytes"] >= 2 * 4 * sizes["parameters"]
    twice = measure_sizes(Candidate(model, torch.randn(2 * batch, 8), torch.randint(4, (32,))))
    assert twice["macs"] == sizes["macs"]
    assert twice["kept_bytes"] == 2 * sizes["kept_bytes"]


def test_a_model_that_cannot_read_its_batch_is_refused_in_one_line():
    strange = torch.full((2, 8), 300)
    with pytest.raises(ValueError, match="index out of range") as told:
        measure_sizes(Candidate(create_model("gpt_nano"), strange, strange))
    assert "\n" not in str(told.value)


def test_repetitions_are_interleaved_in_alternating_order():
    called = []
    works = [lambda i=i: called.append(i) for i in range(3)]
    clocks = interleaved_times(works, seconds=0.0)
    assert [len(clock) for clock in clocks] == [5, 5, 5]
    assert called[9:] == [0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0, 1, 2]
    assert interleaved_times([]) == []


def test_only_a_model_that_generates_is_timed_decoding():
    tokens = torch.randint(256, (2, 16))
    gpt = Candidate(create_model("gpt_nano").train(), tokens, tokens)
    mlp = Candidate(create_model("mlp_nano").train(), torch.randn(2, 64), torch.zeros(2).long())
    times = measure_times([gpt, mlp], seconds=0.0, tokens=2)
    assert [list(one) for one in times] == [
        ["forward_ms", "step_ms", "decode_ms"],
        ["forward_ms", "step_ms"],
    ]
    assert gpt.model.training and all(p.grad is None for p in gpt.model.parameters())


def test_a_spread_is_the_median_between_the_quartiles():
    spread = Spread.of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (spread.low, spread.median, spread.high, spread.count) == (2.0, 3.0, 4.0, 5)
