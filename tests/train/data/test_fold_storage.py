"""A sample is a function of its key; a partition is fixed, disjoint and stratified."""

import pickle

import pytest
import torch
from archzoo.train.data.augment import CropFlip, Normalize, PerSample, policy_steps
from archzoo.train.data.counter_random import counter_hash, counter_uniform, seeded
from archzoo.train.data.fold_storage import ArrayFold, TokenFold
from archzoo.train.data.stratified_split import held_out, split_off


def image_fold(augment=None, size=40):
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, 3, 8, 8), generator=g, dtype=torch.uint8)
    targets = torch.arange(size) % 4
    return ArrayFold(images, targets, transform=Normalize((0.5,) * 3, (0.2,) * 3), augment=augment)


CROP = CropFlip(pad=2, flip=True)
POLICIES = ["none", "crop_flip", "trivial_augment", "rand_augment"]


def augmentation(policy):
    steps = policy_steps(policy)
    return PerSample(steps[0], before=CROP) if steps else None if policy == "none" else CROP


def test_the_hash_is_splitmix64():
    # First output of the published generator for the state 1234567 (xoshiro.di.unimi.it).
    from archzoo.train.data.counter_random import _STEP, _mix

    assert int(_mix(torch.tensor([1234567]) + _STEP)) == 6457827717110365317


def test_uniform_numbers_are_uniform_and_uncorrelated():
    indices = torch.arange(20_000)
    u = counter_uniform(torch.full_like(indices, 7), indices, 3).double()
    assert u.min() >= 0.0
    assert u.max() < 1.0
    # Five standard errors of a mean, of a variance and of a correlation.
    assert (u.mean(0) - 1 / 2).abs().max() < 5 * (1 / 12 / 20_000) ** 0.5
    assert (u.var(0) - 1 / 12).abs().max() < 5 * (1 / 180 / 20_000) ** 0.5
    assert (torch.corrcoef(u.T) - torch.eye(3)).abs().max() < 5 / 20_000**0.5


def test_rounds_and_indices_never_share_a_hash():
    rounds, indices = torch.meshgrid(torch.arange(100), torch.arange(1000), indexing="ij")
    assert len(counter_hash(rounds.flatten(), indices.flatten()).unique()) == 100_000


def test_a_seeded_block_leaves_the_generator_untouched():
    before = torch.get_rng_state()
    with seeded(3):
        a = torch.rand(4)
    with seeded(3):
        assert torch.equal(torch.rand(4), a)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_key_gives_the_same_sample_whatever_the_batch(policy):
    fold = image_fold(augmentation(policy))
    keys = [(11, i) for i in range(40)]
    together, targets = fold.__getitems__(keys)
    for i in (0, 7, 39):
        alone, target = fold.__getitems__(keys[i : i + 1])
        assert torch.equal(alone[0], together[i])
        assert target == targets[i]


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_another_round_gives_another_sample(policy):
    fold = image_fold(augmentation(policy))
    one, two = (fold.__getitems__([(r, i) for i in range(40)])[0] for r in (1, 2))
    assert not torch.equal(one, two)


def test_a_crop_is_a_window_of_the_framed_image():
    images = image_fold().inputs
    moved = CropFlip(pad=1, flip=False)(images, torch.full((40,), 5), torch.arange(40))
    framed = torch.nn.functional.pad(images, (1, 1, 1, 1))
    for image, frame in zip(moved, framed, strict=True):
        places = [frame[:, a : a + 8, b : b + 8] for a in range(3) for b in range(3)]
        assert any(torch.equal(image, place) for place in places)


def test_a_frame_of_no_width_leaves_only_the_mirror():
    images = image_fold().inputs
    seen = CropFlip(pad=0, flip=True)(images, torch.full((40,), 5), torch.arange(40))
    kept = (seen == images).flatten(1).all(1)
    mirrored = (seen == images.flip(-1)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 8 <= kept.sum() <= 32  # five standard deviations around 20


def test_normalising_brings_the_stated_statistics_to_zero_and_one():
    images = torch.tensor([0.0, 16.0]).repeat(8).view(1, 1, 4, 4).to(torch.uint8)
    out = Normalize((0.5,), (0.5,), scale=16.0)(images)
    assert out.dtype == torch.float32
    assert torch.equal(out.flatten()[:2], torch.tensor([-1.0, 1.0]))


def test_an_unknown_policy_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"no policy named 'crop_flp'; did you mean 'crop_flip'"):
        policy_steps("crop_flp")


def test_evaluation_makes_every_token_a_target_once():
    for size, length in ((1, 4), (7, 4), (8, 4), (9, 4), (100, 7)):
        text = torch.randint(0, 256, (size,), dtype=torch.uint8)
        fold = TokenFold(text, length)
        inputs, targets = fold.__getitems__([(0, i) for i in range(len(fold))])
        assert inputs.shape == targets.shape == (len(fold), length)
        assert torch.equal(targets[targets != -100], text.long())
        flat = inputs.flatten()[:size]
        assert torch.equal(flat, torch.cat([torch.tensor([10]), text[:-1].long()]))
        assert inputs.min() >= 0


def test_bits_per_byte_of_a_uniform_guess_are_eight():
    text = torch.randint(0, 256, (103,), dtype=torch.uint8)
    fold = TokenFold(text, 10)
    _, targets = fold.__getitems__([(0, i) for i in range(len(fold))])
    nats = torch.nn.functional.cross_entropy(
        torch.zeros(targets.numel(), 256), targets.flatten(), reduction="sum"
    )
    assert nats / torch.log(torch.tensor(2.0)) / 103 == pytest.approx(8.0)


def test_every_round_cuts_the_text_elsewhere_and_a_target_is_the_next_token():
    text = (torch.arange(1000) % 251).to(torch.uint8)
    fold = TokenFold(text, 10, shifted=True)
    starts = set()
    for round_ in range(200):
        inputs, targets = fold.__getitems__([(round_, i) for i in range(len(fold))])
        assert torch.equal(targets[:, :-1], inputs[:, 1:])
        assert torch.equal(targets, (inputs + 1) % 251)
        assert (targets >= 0).all()
        starts.add(int(inputs[0, 0]))
        assert torch.equal((inputs[:, 0] - inputs[0, 0]) % 251, torch.arange(len(fold)) * 10 % 251)
    assert starts == set(range(10))


def test_a_text_too_short_is_refused_by_name():
    with pytest.raises(ValueError, match="context_length=8 is too long for a fold of 15 tokens"):
        TokenFold(torch.zeros(15, dtype=torch.uint8), 8, shifted=True)
    with pytest.raises(ValueError, match="context_length must be at least 1"):
        TokenFold(torch.zeros(15, dtype=torch.uint8), 0)


TARGETS = torch.tensor([0] * 60 + [1] * 25 + [2] * 14 + [3]).roll(17)


@pytest.mark.parametrize("size", [1, 10, 33, 99])
def test_a_partition_is_disjoint_complete_fixed_and_stratified(size):
    rest, chosen = split_off(TARGETS, size)
    assert torch.cat([rest, chosen]).sort().values.tolist() == list(range(100))
    assert len(chosen) == size
    assert torch.equal(split_off(TARGETS, size)[1], chosen)
    share = TARGETS.bincount() * size / 100
    assert ((TARGETS[chosen].bincount(minlength=4) - share).abs() <= 1).all()


def test_the_test_folds_hold_every_row_once_and_every_class_in_proportion():
    folds = [held_out(TARGETS, split) for split in range(5)]
    assert torch.cat([test for _, test in folds]).sort().values.tolist() == list(range(100))
    for rest, test in folds:
        assert not set(rest.tolist()) & set(test.tolist())
        share = TARGETS.bincount() / 5
        assert ((TARGETS[test].bincount(minlength=4) - share).abs() <= 1).all()


def test_a_partition_never_changes():
    # Published results rest on these rows; a new value here breaks them.
    assert split_off(TARGETS, 5)[1].tolist() == [8, 40, 56, 69, 97]
    assert held_out(TARGETS, 0)[1].tolist()[:5] == [2, 5, 7, 24, 25]


def test_a_partition_refuses_what_it_cannot_cut():
    with pytest.raises(ValueError, match=r"validation must lie in \[1, 99\], got 100"):
        split_off(TARGETS, 100)
    with pytest.raises(ValueError, match=r"split must lie in \[0, 4\], got 5"):
        held_out(TARGETS, 5)


def test_folds_can_be_sent_to_another_process():
    fold = image_fold(augmentation("trivial_augment"))
    copy = pickle.loads(pickle.dumps(fold))
    keys = [(3, 0), (3, 9)]
    assert torch.equal(copy.__getitems__(keys)[0], fold.__getitems__(keys)[0])
