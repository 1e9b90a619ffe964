"""The card of trained weights: what they are of, how they were made, and how good they are."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .atomic_write import replacing
from .content_digest import sealed, unsealed

__all__ = ["CARD", "WeightsCard", "read_card", "shown", "write_card"]

CARD = "card.json"


@dataclass(frozen=True)
class WeightsCard:
    """Facts of one set of weights; what is not known is empty.

    Args:
        model: Registered name of the model.
        tag: Name of the weights among those of the model, such as `digits`.
        default: Whether `pretrained=True` means these, where a model has several.
        sha256: Digest of the content of `config.json`, which holds that of the weights.
        hub: `OWNER/NAME` or `OWNER/NAME@REVISION` on the Hugging Face hub; None for weights that
            the package ships.
        data: The data set's name, and its keywords as `name` and others.
        data_licence: Source and licence of the data.
        data_digest: SHA-256 of the test fold.
        licence: Of the weights.
        command: What trained them; `DIR` stands for the folder of the data.
        seed: Of these weights.
        seeds: By seed, `validation` and `test`: the headline figure of each run.
        headline: Which figure that is: `accuracy`, `bits_per_byte` or `map`.
        metrics: Figures of the stored weights on the test fold.
        certified: Proved accuracies on the test fold by radius, such as `36/255`, and the bound
            `lipschitz`; of networks that have one.
        parameters: How many numbers the model has.
        precision: Of the stored weights, `float16` or `float32`.
        sources: Papers of the model and its mechanisms.
        note: What else a user must know of the figures.
    """

    model: str
    tag: str = ""
    default: bool = False
    sha256: str = ""
    hub: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    data_licence: str = ""
    data_digest: str = ""
    licence: str = "apache-2.0"
    command: str = ""
    seed: int | None = None
    seeds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    headline: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    certified: Mapping[str, float] = field(default_factory=dict)
    parameters: int = 0
    precision: str = "float32"
    sources: Sequence[str] = ()
    note: str = ""

    @property
    def name(self) -> str:
        """The name of the weights among all: `MODEL/TAG`."""
        return f"{self.model}/{self.tag}"

    @property
    def figure(self) -> str:
        """The headline figure as a table has it, such as `98.61 %`."""
        return shown(self.headline, self.metrics[self.headline]) if self.headline else ""


def shown(metric: str, value: float) -> str:
    """Write a figure under its metric's name: shares in percent, others to three places."""
    return f"{100 * value:.2f} %" if metric in SHARES else f"{value:.3f}"


SHARES = ("accuracy", "top5", "ece")


def read_card(path: Path) -> WeightsCard:
    """Read a card that `write_card` wrote.

    Raises:
        ValueError: the file is missing, damaged, or of another version.
    """
    try:
        return WeightsCard(**unsealed(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged or of another version: {error}") from error


def write_card(card: WeightsCard, path: Path) -> None:
    """Write a card as JSON that holds a digest of itself, atomically."""
    plain = json.loads(json.dumps(dataclasses.asdict(card)))
    with replacing(path) as temporary:
        temporary.write_text(sealed(plain))
