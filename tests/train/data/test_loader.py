"""Batches do not depend on processes, workers or resuming, and disturb no generator."""

import pytest
import torch
from archzoo.train.data import ArrayFold, Batches, loader
from archzoo.train.data.augment import CropFlip, Normalize

TRAIN = {"seed": 5, "epoch": 2, "shuffle": True, "drop_last": True}


def fold(size=50):
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, 1, 6, 6), generator=g, dtype=torch.uint8)
    normalize = Normalize((0.5,), (0.5,))
    return ArrayFold(
        images, torch.arange(size), transform=normalize, augment=CropFlip(pad=1, flip=True)
    )


def indices(batches):
    return [[index for _, index in batch] for batch in batches]


@pytest.mark.parametrize("options", [TRAIN, {}], ids=["train", "evaluate"])
@pytest.mark.parametrize("world", [2, 4])
def test_the_ranks_together_hold_the_batch_of_one_process(options, world):
    whole = list(Batches(50, 12, **options))
    parts = [list(Batches(50, 12, **options, rank=r, world=world)) for r in range(world)]
    assert {len(part) for part in parts} == {len(whole)}
    for i, batch in enumerate(whole):
        assert sorted(key for part in parts for key in part[i]) == sorted(batch)


@pytest.mark.parametrize("options", [TRAIN, {}], ids=["train", "evaluate"])
@pytest.mark.parametrize("start", [0, 1, 3])
def test_starting_at_k_skips_the_first_k_batches(options, start):
    whole = Batches(50, 12, **options)
    late = Batches(50, 12, **options, start=start)
    assert list(late) == list(whole)[start:]
    assert len(late) == len(list(late))
    assert late.total == len(whole)


@pytest.mark.parametrize("size", [1, 4, 12, 13, 50])
def test_evaluation_visits_every_sample_once_in_order(size):
    batches = indices(Batches(size, 12))
    assert sum(batches, []) == list(range(size))
    assert max(map(len, batches)) <= 12
    assert max(map(len, batches)) - min(map(len, batches)) <= 1


@pytest.mark.parametrize(("size", "batch_size", "world"), [(17, 16, 4), (33, 32, 2), (8, 8, 8)])
def test_no_rank_is_left_without_a_batch_to_evaluate(size, batch_size, world):
    for rank in range(world):
        assert all(Batches(size, batch_size, rank=rank, world=world))


def test_an_epoch_is_a_permutation_of_its_own():
    one, two = (sum(indices(Batches(48, 12, **TRAIN | {"epoch": e})), []) for e in (0, 1))
    assert sorted(one) == sorted(two) == list(range(48))
    assert one != two
    assert one == sum(indices(Batches(48, 12, **TRAIN | {"epoch": 0})), [])


def test_another_seed_gives_another_round_and_order():
    one, two = (next(iter(Batches(48, 12, **TRAIN | {"seed": s}))) for s in (0, 1))
    assert one[0][0] != two[0][0]
    assert [i for _, i in one] != [i for _, i in two]


def test_batches_that_cannot_be_made_are_refused_by_name():
    with pytest.raises(ValueError, match=r"trainer.batch_size=64 exceeds the fold's 50 samples"):
        Batches(50, 64, **TRAIN)
    with pytest.raises(ValueError, match=r"trainer.batch_size=10 cannot be shared by 4"):
        Batches(50, 10, **TRAIN, world=4)
    with pytest.raises(ValueError, match=r"5 samples in batches of 4 leave some of 4 processes"):
        Batches(5, 4, world=4)
    with pytest.raises(ValueError, match=r"start must lie in \[0, 5\], got 6"):
        Batches(50, 10, start=6)
    with pytest.raises(ValueError, match=r"rank must lie in \[0, 2\)"):
        Batches(50, 10, rank=2, world=2)
    with pytest.raises(ValueError, match="trainer.batch_size must be at least 1"):
        Batches(50, 0)


# A machine with one core, and Python from 3.12 on, warn of workers as such.
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.processes
def test_workers_change_nothing():
    alone, helped = (list(loader(fold(), Batches(50, 12, **TRAIN), workers=w)) for w in (0, 2))
    assert len(alone) == len(helped) == 4
    for (x, y), (u, v) in zip(alone, helped, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_loading_leaves_the_global_generator_untouched():
    before = torch.get_rng_state()
    for _ in loader(fold(), Batches(50, 12, **TRAIN)):
        pass
    assert torch.equal(torch.get_rng_state(), before)
