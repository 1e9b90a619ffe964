"""The table of weights that ship, `python -m tests.weights_page`, in docs/weights.md."""

import json
from typing import Any

from archzoo.zoo.share.pretrained import shipped_folder, weights_cards
from archzoo.zoo.share.save_load import WEIGHTS
from archzoo.zoo.share.weights_card import WeightsCard, shown

from .reference import ROOT, linked, table

PAGE = ROOT / "docs" / "weights.md"
RESULTS = ROOT / "benchmarks" / "results" / "pretrained.json"


def row(card: WeightsCard, found: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table."""
    said, metric = card.metrics[card.headline], card.headline.replace("_", " ")
    again = shown(card.headline, found["found"]) if found else "not measured"
    proved = [
        f"{100 * share:.1f} % at {radius}"
        for radius, share in card.certified.items()
        if "/" in radius
    ]
    data = card.data.get("table", card.data["name"])
    if card.data["name"] == "tabular":
        data = card.data.get("table", "breast_cancer")
    size = (shipped_folder(card) / WEIGHTS).stat().st_size / 1000
    return (
        f"`{card.model}`", f"`{card.tag}`", f"`{data}`", f"{card.parameters:,}",
        f"{metric} {shown(card.headline, said)}", again, ", ".join(proved[:2]),
        f"{size:.0f} KB, {card.precision}", linked(", ".join(card.sources)),
    )  # fmt: skip


HEAD = ("model", "tag", "data", "parameters", "figure", "again", "certified", "file", "sources")


def page() -> str:
    """The page with the table as the cards and the last measurement have it."""
    measured = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    found = {one["weights"]: one for one in measured}
    cards = [card for card in weights_cards().values() if card.hub is None]
    rows = [row(card, found.get(card.name, {})) for card in cards]
    before, _, rest = PAGE.read_text().partition(f"| {HEAD[0]} | {HEAD[1]} |")
    after = rest.partition("\n\n")[2]
    return f"{before}{table(HEAD, *rows)}\n\n{after}"


if __name__ == "__main__":
    PAGE.write_text(page())
