"""Certify a model on the test fold of a data set.

Prints the proved Lipschitz bound, block by block, and clean, attacked and certified accuracy; a
certificate that a search or an attack refutes claims nothing, and ends with exit code 1. The data
are those of the run or of the pretrained weights, unless others are named. certificate.json and
certificate.png are written into the folder of the run or of the saved model, or into folder=DIR:

    archzoo certify RUN eps=[36,72,108]
    archzoo certify RUN samples=500 attack=false plot=false
    archzoo certify RUN method=local norm=linf eps=[1,2]
    archzoo certify my-model data=cifar10 data.root=DIR
    archzoo certify pretrained:ldlt_mlp_nano folder=DIR
"""

import json
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch

from ...zoo.certify import certify_model
from ...zoo.certify.certificate import Certificate, plot_certificate
from ..command_line.answer import Answer
from ..command_line.arguments import takes
from ..command_line.measured import ResultFolder, facts_of, first_line
from ..command_line.radius_arguments import RadiusConfig
from ..errors import RunError, check_at_least_one
from ..subject.model_on_data import ModelOnData

__all__ = ["CertifyConfig", "certify", "measure"]

FILE = "certificate.json"


@dataclass
class CertifyConfig(RadiusConfig):
    """How to certify a model.

    Args:
        method: auto; product, without a matrix inequality; or local, a relaxation around each
            sample.
        norm: Of the radii: l2, or linf with method=local.
        verify: Whether to prove what layers say of themselves.
        attack: Whether to attack inside every radius and at every eps.
        steps: Gradients of an attack.
        restarts: Of an attack.
        estimate: Whether to search for a lower bound of the constant.

    Raises:
        RunError: a value out of range.
    """

    _: KW_ONLY
    eps: tuple[float, ...] = (36.0, 72.0, 108.0)
    batch_size: int = 256
    method: str = "auto"
    norm: str = "l2"
    verify: bool = True
    attack: bool = True
    steps: int = 40
    restarts: int = 1
    estimate: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        check_at_least_one(steps=self.steps, restarts=self.restarts)


@takes(CertifyConfig)
def certify(*, plot: bool = True, **options: Any) -> Answer:
    """Certify a model, and write the certificate where there is a folder for it.

    Args:
        plot: Whether to write certificate.png, which needs the extra `plot`.
        options: Fields of `CertifyConfig`.
    """
    config = CertifyConfig(**options)
    subject = config.subject()
    folder = ResultFolder(subject, config.folder)
    facts, certificate = measure(config, subject)
    found = facts | certificate.to_dict() | {"torch": torch.__version__}
    folder.write_text(FILE, json.dumps(found, indent=2, allow_nan=False) + "\n")
    if plot and folder.path is not None:
        _draw(folder, certificate)
    head = first_line(facts, f"{facts['samples']:,} test samples", facts["tested"])
    refuted = certificate.refuted
    return Answer(
        found | folder.facts(FILE),
        f"{head}\n\n{certificate}\n\n{folder.last_line(FILE)}",
        failed=None if refuted is None else f"the certificate is refuted: {refuted.reason}",
    )


def measure(
    config: CertifyConfig, subject: ModelOnData | None = None
) -> tuple[dict[str, Any], Certificate]:
    """Certify a model: what was certified, and the certificate.

    Radii are in pixels of [0, 1] where the model was trained on normalised ones, by the deviation
    that it was trained with, and in the units of its features otherwise.

    Args:
        config: The model, its data and how.
        subject: The model on its data; None loads them.

    Raises:
        RunError: no such model or data, or an option does not fit them.
    """
    subject = config.subject() if subject is None else subject
    tested = subject.reported("test")
    # As the model reads them: certify undoes the division by std itself.
    x, y = subject.inputs("test", samples=config.samples, seed=config.seed)
    try:
        certificate = certify_model.certify(
            subject.model,
            x,
            y,
            eps=config.radii(),
            method=config.method,  # pyright: ignore[reportArgumentType]  # certify checks it
            norm=config.norm,  # pyright: ignore[reportArgumentType]
            input_std=subject.std,
            verify=config.verify,
            attack=config.attack,
            attack_steps=config.steps,
            attack_restarts=config.restarts,
            estimate=config.estimate,
            batch_size=config.batch_size,
            seed=config.seed,
        )
    except ValueError as error:
        raise RunError(str(error)) from error
    return facts_of(subject) | {"samples": len(y), "tested": tested}, certificate


def _draw(folder: ResultFolder, certificate: Certificate) -> None:
    try:
        figure: Any = plot_certificate(certificate)
    except ImportError as error:
        raise RunError(f"{error}; or say plot=false") from error
    folder.write("certificate.png", lambda path: figure.savefig(path, dpi=150, format="png"))
