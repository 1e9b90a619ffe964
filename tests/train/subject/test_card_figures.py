"""Every set of weights that ships does on its test fold what its card says."""

import os

import pytest
from archzoo.train.errors import RunError
from archzoo.train.subject.card_figures import card_figures, certified_figures, levels_of
from archzoo.train.subject.given_data import model_on_data
from archzoo.train.subject.given_model import find_model
from archzoo.zoo.share.pretrained import weights_cards

from ...tiers import tiered

CARDS = {name: card for name, card in weights_cards().items() if card.hub is None}
ROOTS = {
    "fashion_mnist": os.environ.get("ARCHZOO_DATA", "data"),
    "wordnet": os.environ.get("WORDNET", "/usr/share/wordnet"),
}
# The figures are of the stored weights, so only the rounding of another processor moves them: one
# of a few hundred samples may change its class.
CLOSE = {"accuracy": 0.003, "nll": 0.01, "ece": 0.02, "bits_per_byte": 0.002, "map": 0.002}
CLOSE["mean_rank"] = 0.01


def seconds(name: str) -> bool:
    """Whether weights are of data that take seconds to run through."""
    return CARDS[name].data["name"] in ("bytes", "fashion_mnist")


def subject_of(name: str):
    """The model on its data, or a skip that says what is missing."""
    root = ROOTS.get(CARDS[name].data["name"])
    place = find_model(f"pretrained:{name}")
    try:
        subject = model_on_data(place, {} if root is None else {"root": root})
    except RunError as error:
        if "not found" not in str(error):
            raise
        pytest.skip(f"set ARCHZOO_DATA or WORDNET: {error}")
    about, said = subject.splits.about, CARDS[name].data_digest
    if said not in (about.get("sha256", {}).get("test"), about.get("file sha256")):
        pytest.skip(f"the card is of another text: {CARDS[name].note}")
    return subject


@pytest.mark.parametrize("name", tiered(CARDS, lambda name: not seconds(name)))
def test_stored_weights_do_what_their_card_says(name):
    card, subject = CARDS[name], subject_of(name)
    found = card_figures(subject)
    assert found.keys() == card.metrics.keys()
    for key, value in card.metrics.items():
        assert found[key] == pytest.approx(value, abs=CLOSE[key]), key
    if card.certified:
        proved = certified_figures(subject, levels_of(card.certified))
        assert proved.keys() == card.certified.keys()
        for key, value in card.certified.items():
            close = {"rel": 1e-4} if key == "lipschitz" else {"abs": CLOSE["accuracy"]}
            assert proved[key] == pytest.approx(value, **close), key


def test_what_has_a_constant_says_what_is_certified():
    certified = {name for name, card in CARDS.items() if card.certified}
    assert certified == {name for name, card in CARDS.items() if "ldlt" in card.model}
    for name in certified:
        card = CARDS[name]
        shares = [card.metrics["accuracy"], *(v for k, v in card.certified.items() if "/" in k)]
        assert shares == sorted(shares, reverse=True) and shares[-1] > 0
