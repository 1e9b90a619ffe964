"""The model card of weights: Markdown, with the header that the Hugging Face hub reads."""

from typing import Any

from torch import nn

from ..axes.adapters import presets
from ..axes.lowrank import methods
from ..axes.residuals import residuals
from ..models import models
from ..registry import Entry
from .weights_card import WeightsCard, shown

__all__ = ["README", "hub_readme", "model_card", "plain_card", "sources_of"]

README = "README.md"

WORDS = {
    "accuracy": "accuracy",
    "nll": "negative log-likelihood, nats",
    "ece": "calibration error (15 bins)",
    "bits_per_byte": "bits per byte",
    "bits_per_token": "bits per token",
    "mean_rank": "mean rank of a true neighbour",
    "map": "mean average precision of the neighbours",
    "lipschitz": "proved Lipschitz constant",
}
LIMITS = (
    "Trained on a small public data set, to show and to test an architecture. It knows nothing "
    "beyond that data set, was not examined for bias, and is no base for decisions about people. "
    "Inputs must be prepared as the training data were; the facts are in `model.default_cfg`."
)


def sources_of(model: nn.Module) -> list[str]:
    """List where a model of the zoo and its mechanisms come from, each once."""
    recipe: Any = getattr(model, "recipe", None)
    if recipe is None or recipe[0] not in models:
        return []
    entry, options = models[recipe[0]], dict(recipe[1])
    default = entry.options["residual"].default if "residual" in entry.options else None
    found = [entry.source]
    found += _source(residuals, options.get("residual", default))
    found += _source(methods, options.get("lowrank"))
    found += _source(presets, options.get("adapter"))
    return list(dict.fromkeys(source for each in found for source in each.split(", ")))


def _source(registry: Any, spec: Any) -> list[str]:
    name = spec.get("name") if isinstance(spec, dict) else spec
    if not isinstance(name, str) or name not in registry:
        return []
    entry: Entry = registry[name]
    return [entry.source] if entry.source.startswith("arXiv:") else []


def plain_card(model: nn.Module) -> WeightsCard:
    """The card of a model of which no training is known."""
    recipe: Any = getattr(model, "recipe", None)
    count = sum(p.numel() for p in model.parameters())
    name = type(model).__name__ if recipe is None else recipe[0]
    return WeightsCard(name, licence="", parameters=count, sources=sources_of(model))


def hub_readme(card: WeightsCard, repository: str) -> str:
    """Write a card as the README.md of a hub repository.

    Args:
        card: Of the weights.
        repository: `OWNER/NAME`.
    """
    from huggingface_hub import EvalResult, ModelCardData

    kind = models[card.model].kind if card.model in models else ""
    tasks = {
        "image": "image-classification",
        "tokens": "text-generation",
        "sequence": "text-classification",
    }
    task = tasks.get(kind, "other")
    data = card.data.get("name")
    results = [
        EvalResult(task, data, data, metric, value, dataset_split="test")
        for metric, value in card.metrics.items()
        if data is not None
    ]
    header = ModelCardData(
        license=card.licence or None,
        library_name="archzoo",
        tags=["pytorch", card.model, *filter(None, [kind])],
        datasets=[data] if data else None,
        metrics=sorted(card.metrics) or None,
        model_name=repository.partition("/")[2] or repository,
        eval_results=results or None,
        ignore_metadata_errors=False,
    )
    address = f'create_model("hf-hub:{repository}")'
    return f"---\n{header.to_yaml()}\n---\n\n{model_card(card, address)}"


def model_card(card: WeightsCard, load: str = "") -> str:
    """Write a card as Markdown.

    Args:
        card: Of the weights.
        load: The call of Python that loads them; empty is that of shipped weights.
    """
    load = load or f'create_model("{card.model}", pretrained="{card.tag}")'
    what = models[card.model].summary if card.model in models else "A model of archzoo."
    title = card.name if card.tag else card.model
    parts = [f"# {title}", what, f"```python\nfrom archzoo.zoo import create_model\n\n{load}\n```"]
    if card.metrics:
        parts += ["## Figures", _figures(card)]
    if card.command:
        parts += ["## Training", _training(card)]
    parts += ["## Intended use and limits", LIMITS, "## Facts", _facts(card)]
    return "\n\n".join(parts) + "\n"


def _figures(card: WeightsCard) -> str:
    head = f"Of the stored weights, on the test fold of `{card.data.get('name', '')}`:"
    rows = [(WORDS.get(key, key), shown(key, value)) for key, value in card.metrics.items()]
    for key, value in card.certified.items():
        name = WORDS.get(key) or f"certified accuracy at {key}, proved"
        rows.append((name, shown("" if key in WORDS else "accuracy", value)))
    table = _table(("figure", "value"), rows)
    return "\n\n".join(filter(None, (head, table, card.note)))


def _training(card: WeightsCard) -> str:
    text = f"```sh\n{card.command}\n```"
    if not card.seeds:
        return text
    name = WORDS.get(card.headline, card.headline)
    rows = [
        (seed + (" (these weights)" if seed == str(card.seed) else ""),
         *(shown(card.headline, found[fold]) for fold in ("validation", "test")))
        for seed, found in card.seeds.items()
    ]  # fmt: skip
    table = _table(("seed", f"{name}, validation", "test"), rows)
    chosen = "The seed in the middle by the validation fold; of two, the worse. " * (
        len(card.seeds) > 1
    )
    return f"{text}\n\n{chosen}Figures of the runs, before the weights were stored:\n\n{table}"


def _facts(card: WeightsCard) -> str:
    keywords = ", ".join(f"{k}={v}" for k, v in card.data.items() if k != "name")
    data = f"`{card.data['name']}`" if card.data else ""
    told = {
        "model": f"`{card.model}`, {card.parameters:,} parameters",
        "data": f"{data} {f'({keywords})' if keywords else ''}".strip(),
        "source and licence of the data": card.data_licence,
        "licence of the weights": card.licence,
        "precision of the stored weights": card.precision,
        "digest of the content": f"`{card.sha256}`" if card.sha256 else "",
        "sources": ", ".join(card.sources),
    }
    return "\n".join(f"- {key}: {value}" for key, value in told.items() if value)


def _table(*rows: Any) -> str:
    head, body = rows
    lines = [f"| {' | '.join(row)} |" for row in (head, *body)]
    return "\n".join([lines[0], "|" + " --- |" * len(head), *lines[1:]])
