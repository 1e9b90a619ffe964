"""Text that a model writes: what is drawn, what a judge keeps, and what is refused."""

import math
from typing import Any

import pytest
import torch
from archzoo.train.errors import RunError
from archzoo.train.subject.generation import bits_per_byte, generated, language_model
from archzoo.zoo import create_model
from torch import Tensor


@pytest.fixture(scope="module")
def pair():
    """Two models of bytes with contexts of 16."""
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(create_model("gpt_nano", context_length=16, width=16, depth=1).eval())
        made[-1].embedding.weight.data *= 30.0  # a fresh model is nearly even over all bytes
    return made


def samples_of(text: bytes) -> Tensor:
    """The samples of a text, each after its newline."""
    rows = torch.tensor(list(text)).view(-1, 17)
    assert (rows[:, -1] == ord("\n")).all()
    rows = rows[:, :-1]
    return torch.cat([torch.full((len(rows), 1), ord("\n")), rows], 1)


def test_a_text_is_made_of_whole_samples_and_follows_from_its_seed(pair):
    made = generated(pair[0], 100, batch_size=3)
    assert (len(made.text), made.samples, made.drawn) == (102, 6, 6)
    assert made.threshold is made.kept_bits is made.drawn_bits is None
    assert generated(pair[0], 100, batch_size=3).text == made.text
    assert generated(pair[0], 100, batch_size=3, seed=1).text != made.text


def test_bits_are_those_of_every_byte_after_the_newline(pair):
    samples = samples_of(generated(pair[0], 64).text)
    logits = pair[1](samples).double().log_softmax(-1)
    for row, found in zip(range(len(samples)), bits_per_byte(pair[1], samples), strict=True):
        nats = [logits[row, t, samples[row, t + 1]].item() for t in range(16)]
        assert found.item() == pytest.approx(-sum(nats) / 16 / math.log(2), rel=1e-6)


@pytest.mark.parametrize("by", ["bits", "ratio"])
def test_a_judge_keeps_the_share_of_the_lowest_scores_in_the_order_of_the_draw(pair, by):
    writer, judge = pair
    made = generated(writer, 160, judge, keep=0.25, by=by, batch_size=7)
    assert (made.samples, made.drawn) == (10, 40)
    drawn = samples_of(generated(writer, 680, batch_size=7).text)
    scores = bits_per_byte(judge, drawn)
    assert made.drawn_bits == pytest.approx(float(scores.mean()), rel=1e-9)
    scores = scores - bits_per_byte(writer, drawn) if by == "ratio" else scores
    best = scores.argsort()[:10]
    assert made.threshold == pytest.approx(float(scores[best].max()), rel=1e-9)
    torch.testing.assert_close(samples_of(made.text), drawn[best.sort().values])
    if by == "bits":
        assert made.kept_bits is not None and made.drawn_bits is not None
        assert made.kept_bits < made.drawn_bits


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_the_ratio_is_to_the_writer_at_the_temperature_of_the_draw(pair, temperature):
    writer, judge = pair
    how: Any = {"temperature": temperature, "batch_size": 8}
    made = generated(writer, 64, judge, keep=0.5, **how)
    drawn = samples_of(generated(writer, 136, **how).text)
    odds = (writer(drawn[:, :-1]).detach().double() / temperature).log_softmax(-1)
    own = -odds.gather(-1, drawn[:, 1:, None]).mean((1, 2)) / math.log(2)
    scores = bits_per_byte(judge, drawn) - own
    best = scores.argsort()[:4].sort().values
    torch.testing.assert_close(samples_of(made.text), drawn[best])
    assert made.threshold == pytest.approx(float(scores[best].max()), rel=1e-6)


def test_to_the_writer_itself_no_sample_is_likelier_than_another(pair):
    made = generated(pair[0], 64, pair[0], keep=0.5, batch_size=4)
    assert made.threshold == 0.0
    assert made.text == generated(pair[0], 64, batch_size=4).text


def test_a_judge_of_shorter_contexts_is_refused(pair):
    short: Any = create_model("gpt_nano", context_length=8, width=16, depth=1)
    with pytest.raises(RunError, match="the judge learned contexts of 8 bytes, the writer 16"):
        generated(pair[0], 64, short)


REFUSED = {
    "gpt_nano": "gpt_nano is a registered name, which has no weights",
    "nowhere": "nowhere is no model",
    "pretrained:vit_nano/digits": "writes no bytes; name a gpt model over 256 bytes",
}


@pytest.mark.parametrize("place", REFUSED)
def test_what_writes_no_bytes_is_refused_by_name(place):
    with pytest.raises(RunError, match=REFUSED[place]) as refused:
        language_model(place)
    assert "\n" not in str(refused.value)
