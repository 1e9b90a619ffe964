"""Hidden tokens: their share, what becomes of them, and that no neighbour tells them."""

import pytest
import torch
from archzoo.train.data import IGNORE
from archzoo.train.data.sequences.kmer_tokeniser import MASK, SPECIAL, UNKNOWN
from archzoo.train.data.sequences.sequence_folds import MaskedFold, SequenceFold, padded, unpadded
from archzoo.train.data.sequences.token_masking import DRAWS, hide_tokens
from archzoo.zoo.backbones.encoder import PADDING

VOCAB = SPECIAL + 400
spans = pytest.mark.parametrize("span", [1, 2, 3, 6])


def given(rows=200, length=150, seed=0):
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(SPECIAL, VOCAB, (rows, length), generator=g)
    tokens[1::2, length - 30 :] = PADDING
    return tokens, torch.rand(rows, length, DRAWS, generator=g)


@spans
def test_fifteen_per_cent_are_hidden_in_the_shares_of_bert(span):
    tokens, draws = given()
    seen, targets = hide_tokens(tokens, draws, VOCAB, span=span)
    hidden = targets != IGNORE
    real = tokens != PADDING
    share = float(hidden.sum() / real.sum())
    # 27,000 tokens in spans of up to six: a deviation of 0.5 %. The first of a row are in fewer.
    assert abs(share - 0.15) < 0.02
    masked = float((seen[hidden] == MASK).float().mean())
    kept = float((seen[hidden] == tokens[hidden]).float().mean())
    assert abs(masked - 0.8) < 0.05 and abs(kept - 0.1) < 0.05
    assert not hidden[~real].any() and torch.equal(targets[hidden], tokens[hidden])
    assert torch.equal(seen[~hidden], tokens[~hidden])
    drawn = seen[hidden & (seen != MASK) & (seen != tokens)]
    assert len(drawn) and int(drawn.min()) >= SPECIAL and int(drawn.max()) < VOCAB


@spans
def test_a_masked_span_hides_a_letter_from_every_token_that_has_it(span):
    tokens, draws = given()
    seen, _ = hide_tokens(tokens, draws, VOCAB, span=span)
    masked = seen == MASK
    letters = 0
    for row in range(len(tokens)):
        size = int((tokens[row] != PADDING).sum())
        # Letter i + span - 1 is in the tokens i to i + span - 1, where they are k-mers of `span`.
        runs = masked[row, :size].unfold(0, span, 1).all(1)
        letters += int(runs.sum())
        begun = masked[row, :size].nonzero()[:, 0].tolist()
        for place in begun:
            inside = range(max(0, place - span + 1), min(place, size - span) + 1)
            ends = place >= size - span  # a span that the sequence cuts off
            assert ends or any(bool(runs[i]) for i in inside)
    assert letters > 100


def test_one_hidden_k_mer_alone_could_be_read_off_its_neighbours():
    # The leak that spans mend: of a 3-mer two letters are in the one before, the last after it.
    tokens, draws = given(rows=50)
    seen, _ = hide_tokens(tokens, draws, VOCAB, span=1)
    masked = seen == MASK
    alone = masked[:, 1:-1] & ~masked[:, :-2] & ~masked[:, 2:]
    assert alone.sum() > 0.5 * masked.sum()


@spans
def test_every_sequence_has_something_to_name(span):
    tokens, draws = given(rows=300)
    tokens, draws = tokens[:, :3].clone(), draws[:, :3]
    tokens[:, 2] = PADDING
    tokens[::3, 1] = PADDING
    _, targets = hide_tokens(tokens, draws, VOCAB, span=span)
    assert (targets != IGNORE).any(1).all()


@spans
def test_what_is_unknown_is_neither_hidden_nor_named(span):
    tokens, draws = given()
    g = torch.Generator().manual_seed(1)
    strange = (torch.rand(tokens.shape, generator=g) < 0.3) & (tokens != PADDING)
    tokens[strange] = UNKNOWN
    seen, targets = hide_tokens(tokens, draws, VOCAB, span=span)
    assert (seen[strange] == UNKNOWN).all() and (targets[strange] == IGNORE).all()
    assert (targets != IGNORE).any(1).all()
    alone = torch.full((4, 9), UNKNOWN)  # a loss over no token at all would be no number
    _, targets = hide_tokens(alone, draws[:4, :9], VOCAB, span=span)
    assert (targets != IGNORE).any(1).all()


def folds(fixed, crop=None):
    tokens = [(SPECIAL + torch.arange(size) % 400).int().numpy() for size in (40, 7, 90, 1)]
    whole = SequenceFold(tokens, torch.zeros(4, dtype=torch.int64), 64, crop=crop)
    return MaskedFold(whole, VOCAB, span=2, fixed=fixed)


@pytest.mark.parametrize("fixed", [False, True])
def test_what_is_hidden_is_a_function_of_the_key_and_of_no_batch(fixed):
    fold = folds(fixed, crop=32)
    keys = [(draw, index) for draw in (0, 3) for index in (2, 0, 1, 3)]
    together = fold.__getitems__(keys)
    for place, key in enumerate(keys):
        alone = fold.__getitems__([key])
        size = alone[0].shape[1]
        for batch, sample in zip(together, alone, strict=True):
            assert torch.equal(batch[place, :size], sample[0])
        assert (together[0][place, size:] == PADDING).all()
        assert (together[1][place, size:] == IGNORE).all()


def test_training_hides_others_every_round_and_evaluation_the_same():
    for fixed in (False, True):
        fold = folds(fixed)
        one, two = (fold.__getitems__([(draw, 2)]) for draw in (0, 1))
        assert torch.equal(one[1], two[1]) == fixed


def test_rows_are_filled_up_behind():
    rows = [torch.tensor([5, 6, 7]), torch.tensor([8])]
    assert padded(rows).tolist() == [[5, 6, 7], [8, PADDING, PADDING]]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=r"masked must lie in \(0, 1\)"):
        MaskedFold(folds(True).sequences, VOCAB, share=share)


def test_batches_without_padding_hold_every_token_once_whatever_the_layout():
    whole = torch.tensor([[3, 4, 5], [6, 0, 0], [7, 8, 9], [0, 0, 0]])
    for tokens in (whole, whole.int(), whole.T.contiguous().T, whole[:0]):
        parts = list(unpadded(tokens))
        assert all(part.numel() and bool((part != 0).all()) for part in parts)
        real = sorted(tokens[tokens != 0].tolist())
        assert sorted(t for part in parts for t in part.flatten().tolist()) == real
