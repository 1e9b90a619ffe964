"""The arguments that `archzoo certify` and `archzoo robustness` share: a model, data and radii."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch

from ..errors import RunError, check_at_least_one
from ..subject.given_data import VECTORS, model_on_data
from ..subject.given_model import find_model
from ..subject.model_on_data import ModelOnData
from .arguments import formerly

__all__ = ["RadiusConfig"]

UNIT = 255.0  # radii are given in grey levels, as papers do


@formerly(run="model", root="data.root")
@dataclass
class RadiusConfig:
    """A model on a test fold, and radii around its samples.

    Args:
        model: The folder of a run or of a saved model, hf-hub:OWNER/NAME, pretrained:NAME or
            pretrained:NAME/TAG, or a registered name, whose weights are then untrained.
        data: A data set by name, with its keys as data.KEY=value; null is that of the run or of the
            pretrained weights.
        eps: Radii, in 1/255 of a pixel, or of a table's feature.
        samples: Of the test fold; null is all.
        batch_size: Of samples.
        threads: CPU threads of torch; null leaves torch's choice.
        seed: Of the attack, of the choice of samples, and of the weights of a registered name.
        folder: Where to write; null is the folder of the run, measured on its own data, or of the
            saved model, and nowhere for others. A file of an earlier measurement is replaced.
        other_data: Whether the run's data may have changed, and classes of other names are scored
            by their number.
        imports: Your own modules; null is those that the run recorded.

    Raises:
        RunError: a value out of range.
    """

    model: str
    _: KW_ONLY
    data: str | dict[str, Any] | None = None
    eps: tuple[float, ...] = ()
    samples: int | None = None
    batch_size: int = 250
    threads: int | None = None
    seed: int = 0
    folder: str | None = None
    other_data: bool = False
    imports: list[str] | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        counts = ("samples", "batch_size", "threads")
        check_at_least_one(**{name: getattr(self, name) for name in counts})
        if not self.eps or not all(0 <= radius < float("inf") for radius in self.eps):
            raise RunError(f"eps must name radii of at least 0, in 1/255, got {list(self.eps)}")

    def radii(self) -> list[float]:
        """The radii in pixels or features."""
        return [radius / UNIT for radius in self.eps]

    def subject(self) -> ModelOnData:
        """Load the model and its data, which are images or tables.

        Raises:
            RunError: no such model or data, the two do not fit, or the data have no radius.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return model_on_data(
            find_model(self.model, self.imports),
            self.data,
            kinds=VECTORS,
            other_data=self.other_data,
            seed=self.seed,
        )
