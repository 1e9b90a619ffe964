"""Windows over token files: functions of their keys, inside a file, over the whole text."""

import numpy as np
import pytest
import torch
from archzoo.train.data import Batches, loader
from archzoo.train.data.shards import Shard, ShardFold, Span

SIZES = (50, 3, 17, 101)
ORDERS = ("shuffled", "random", "sequential", "evaluation")
T = 5
every_order = pytest.mark.parametrize("order", ORDERS)


@pytest.fixture
def spans(tmp_path):
    """Four files whose tokens are all different."""
    found, first = [], 0
    for i, size in enumerate(SIZES):
        np.save(tmp_path / f"{i}.npy", np.arange(first, first + size, dtype=np.uint16))
        found.append(Span(Shard(tmp_path / f"{i}.npy"), 0, size))
        first += size
    return found


def fold(spans, order, **options):
    return ShardFold(spans, T, **{"vocab_size": sum(SIZES), "order": order, **options})


def whole(windows, key=4):
    return windows.__getitems__([(key, i) for i in range(len(windows))])


@every_order
def test_a_target_is_the_token_after_its_input_in_the_same_file(spans, order):
    inputs, targets = whole(fold(spans, order))
    assert inputs.shape == targets.shape and inputs.dtype == targets.dtype == torch.int64
    counted = targets != -100
    assert torch.equal(targets[counted], inputs[counted] + 1)
    ends = np.cumsum(SIZES)
    assert np.array_equal(
        np.searchsorted(ends, inputs[counted].numpy(), side="right"),
        np.searchsorted(ends, targets[counted].numpy(), side="right"),
    )


@every_order
def test_a_window_is_a_function_of_its_key(spans, order):
    one, two = fold(spans, order), fold(spans, order)
    keys = [(draw, index) for draw in (0, 3) for index in (2, 0, 1)]
    together = one.__getitems__(keys)
    for place, key in enumerate(keys):
        for batch, alone in zip(together, two.__getitems__([key]), strict=True):
            assert torch.equal(batch[place], alone[0])


def test_an_evaluation_has_every_token_but_the_first_of_a_file_once(spans):
    _, targets = whole(fold(spans, "evaluation"))
    first = {0, *np.cumsum(SIZES)[:-1].tolist()}
    assert sorted(targets[targets != -100].tolist()) == sorted(set(range(sum(SIZES))) - first)


def test_an_epoch_of_shuffled_windows_has_no_token_twice_and_nearly_all(spans):
    orders = []
    for key in (1, 2):
        _, targets = whole(fold(spans, "shuffled"), key)
        assert targets.unique().numel() == targets.numel()
        # Of each file that holds two windows, less than two of its windows are left out.
        assert targets.numel() > sum(size for size in SIZES if size >= 2 * T) - 2 * T * 3
        orders.append(targets[:, 0].tolist())
    assert orders[0] != sorted(orders[0]) and orders[0] != orders[1]


def test_a_sequence_reads_from_the_first_token_to_the_last(spans):
    inputs, _ = whole(fold(spans[:1], "sequential"))
    assert inputs.flatten().tolist() == list(range(len(inputs) * T)) and len(inputs) == 9


def test_random_windows_come_from_every_place(spans):
    random = fold(spans, "random")
    inputs, _ = random.__getitems__([(draw, i) for draw in range(200) for i in range(10)])
    possible = {start for first, size in zip(np.cumsum((0, *SIZES)), SIZES, strict=False)
                if size >= 2 * T for start in range(first, first + size - T)}  # fmt: skip
    # Of 2,000 draws among 153 places one is missed with a probability below 1 in 1,000.
    assert set(inputs[:, 0].tolist()) == possible


@pytest.mark.parametrize("start", [0, 2])
def test_processes_and_going_on_read_what_one_process_would(spans, start):
    shuffled = fold(spans, "shuffled")
    cut = {"seed": 3, "epoch": 1, "drop_last": True}
    one = [batch for batch in loader(shuffled, Batches(len(shuffled), 8, **cut))][start:]
    parts = [
        list(loader(shuffled, Batches(len(shuffled), 8, **cut, start=start, rank=r, world=2)))
        for r in range(2)
    ]
    for batch, *halves in zip(one, *parts, strict=True):
        for i in range(2):
            both = torch.stack([half[i] for half in halves], dim=1).flatten(0, 1)
            assert torch.equal(both, batch[i])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.processes
def test_workers_read_the_same(spans):
    shuffled = fold(spans, "shuffled")
    alone, helped = (list(loader(shuffled, Batches(len(shuffled), 8), workers=w)) for w in (0, 2))
    for (x, y), (u, v) in zip(alone, helped, strict=True):
        assert torch.equal(x, u) and torch.equal(y, v)


@every_order
@pytest.mark.parametrize("value", [300, -1, -100])
def test_a_token_outside_the_vocabulary_is_told_by_file_and_place(order, value, tmp_path):
    tokens = np.arange(60, dtype=np.int32)
    tokens[31] = value
    np.save(tmp_path / "a.npy", tokens)
    windows = fold([Span(Shard(tmp_path / "a.npy"), 0, 60)], order, vocab_size=60)
    said = rf"a.npy has the token {value} at 31, outside the vocabulary of 60; give data.vocab_size"
    with pytest.raises(ValueError, match=said):
        windows.__getitems__([(draw, i) for draw in range(20) for i in range(len(windows))])


def test_a_span_reads_nothing_outside_itself(spans):
    inner = Span(spans[3].shard, 20, 60)
    first = sum(SIZES[:3]) + 20
    for order in ORDERS:
        inputs, targets = whole(fold([inner], order))
        counted = targets != -100
        assert first <= inputs[counted].min() and targets.max() < first + 40


@pytest.mark.parametrize("order", ORDERS[:3])
def test_files_shorter_than_a_window_are_refused_by_name(spans, order):
    with pytest.raises(ValueError, match=r"context_length=200 is too long .* at most 101 tokens"):
        ShardFold(spans, 200, vocab_size=9, order=order)
    with pytest.raises(ValueError, match="context_length must be at least 1, got 0"):
        ShardFold(spans, 0, vocab_size=9, order=order)


def test_a_file_of_one_token_holds_nothing_to_evaluate(spans):
    with pytest.raises(ValueError, match="too long for token files of at most 1 tokens"):
        fold([Span(spans[0].shard, 4, 5)], "evaluation")
