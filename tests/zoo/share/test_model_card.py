"""A model card says what a model is, how it was made and how good it is; a hub reads it."""

import pytest
from archzoo.zoo import create_model, push_to_hub
from archzoo.zoo.share.model_card import hub_readme, model_card, plain_card, sources_of
from archzoo.zoo.share.pretrained import weights_cards
from archzoo.zoo.share.weights_card import WeightsCard, read_card, write_card

from ..small_models import build

CARD = WeightsCard(
    model="vit_nano_block_attnres",
    tag="digits",
    data={"name": "digits", "augment": False},
    data_licence="CC BY 4.0",
    command="archzoo train model=vit_nano_block_attnres seed=1",
    seed=1,
    seeds={"0": {"validation": 0.9, "test": 0.91}, "1": {"validation": 0.95, "test": 0.96}},
    headline="accuracy",
    metrics={"accuracy": 0.96, "nll": 0.125},
    certified={"lipschitz": 1.5, "36/255": 0.5},
    parameters=12345,
    sources=["arXiv:2603.15031"],
    note="A note.",
)


def test_a_card_tells_all_that_is_known():
    text = model_card(CARD)
    for told in (
        "# vit_nano_block_attnres/digits",
        'create_model("vit_nano_block_attnres", pretrained="digits")',
        "| accuracy | 96.00 % |",
        "| negative log-likelihood, nats | 0.125 |",
        "| certified accuracy at 36/255, proved | 50.00 % |",
        "| proved Lipschitz constant | 1.500 |",
        "archzoo train model=vit_nano_block_attnres seed=1",
        "| 1 (these weights) | 95.00 % | 96.00 % |",
        "12,345 parameters",
        "`digits` (augment=False)",
        "CC BY 4.0",
        "arXiv:2603.15031",
        "A note.",
    ):
        assert told in text, told


@pytest.mark.parametrize("name", weights_cards())
def test_every_shipped_card_is_complete(name):
    card = weights_cards()[name]
    text = model_card(card)
    for told in (card.command, card.sha256, card.data_licence, card.figure, *card.sources):
        assert told in text


def test_a_hub_reads_the_header():
    from huggingface_hub import ModelCard

    data = ModelCard(hub_readme(CARD, "someone/thing")).data.to_dict()
    assert data["license"] == "apache-2.0" and data["library_name"] == "archzoo"
    assert data["datasets"] == ["digits"] and data["metrics"] == ["accuracy", "nll"]
    assert {"vit_nano_block_attnres", "image"} <= set(data["tags"])
    (result,) = data["model-index"][0]["results"]
    assert [one["value"] for one in result["metrics"]] == [0.96, 0.125]
    assert 'create_model("hf-hub:someone/thing")' in hub_readme(CARD, "someone/thing")


def test_a_model_without_a_training_has_a_card_of_what_it_is():
    model = build("vit_nano", residual="delta", lowrank="maestro")
    assert sources_of(model) == ["arXiv:2010.11929", "arXiv:2601.00417", "arXiv:2308.14929"]
    text = hub_readme(plain_card(model), "someone/thing")
    assert "## Figures" not in text and "## Training" not in text and "license" not in text
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in text


def test_a_card_comes_back_and_a_damaged_one_is_refused(tmp_path):
    path = tmp_path / "card.json"
    write_card(CARD, path)
    assert read_card(path) == WeightsCard(**vars(CARD))
    text = path.read_text()
    for broken in (text.replace("0.96", "0.97"), text[:-5], "[]", '{"modle": "x"}'):
        path.write_text(broken)
        with pytest.raises(ValueError, match="card.json is damaged or of another version"):
            read_card(path)


class Hub:
    """What `push_to_hub` asks of the hub."""

    readme_is_there = False
    pushed: dict[str, str]

    def create_repo(self, repo_id, **options):
        pass

    def file_exists(self, repo_id, name):
        assert name == "README.md"
        return self.readme_is_there

    def upload_folder(self, *, repo_id, folder_path):
        from pathlib import Path

        names = [path.name for path in Path(folder_path).iterdir()]
        readme = Path(folder_path) / "README.md"
        Hub.pushed = dict.fromkeys(names, "")
        if readme.is_file():
            Hub.pushed["README.md"] = readme.read_text()
        return "address"


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("card", [None, CARD])
def test_pushing_writes_a_card_and_keeps_one_that_somebody_wrote(monkeypatch, there, card):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "readme_is_there", there)
    push_to_hub(create_model("mlp_nano"), "someone/thing", card=card)
    assert ("README.md" in Hub.pushed) == (card is not None or not there)
    if "README.md" in Hub.pushed:
        assert Hub.pushed["README.md"].startswith("---\n")
        assert ("## Figures" in Hub.pushed["README.md"]) == (card is not None)
