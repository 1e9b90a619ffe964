"""Certify a trained model on its test fold.

Prints the proved Lipschitz bound, block by block, and clean, attacked and certified accuracy, and
writes certificate.json and certificate.png into the run folder; a certificate that a search or an
attack refutes claims nothing, and ends with exit code 1:

    archzoo certify RUN eps=[36,72,108]
    archzoo certify RUN samples=500 attack=false plot=false
    archzoo certify RUN method=local norm=linf eps=[1,2]
"""

import json
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import torch

from ...zoo.certify import certify_model
from ...zoo.certify.certificate import Certificate, plot_certificate
from ...zoo.share.atomic_write import replacing
from ..command_line.answer import Answer
from ..command_line.arguments import takes
from ..command_line.finished_run import finished_run
from ..engine.saved.run_folder import RunFolder
from ..errors import RunError, check_at_least_one
from ..measures.pixels import pixel_batches

__all__ = ["CertifyConfig", "certify", "measure"]

UNIT = 255.0  # radii are given in grey levels, as papers do


@dataclass
class CertifyConfig:
    """How to certify a finished run.

    Args:
        run: The run folder.
        eps: Radii, in 1/255.
        samples: Of the test fold; null is all.
        method: auto; product, without a matrix inequality; or local, a relaxation around each
            sample.
        norm: Of the radii: l2, or linf with method=local.
        verify: Whether to prove what layers say of themselves.
        attack: Whether to attack inside every radius and at every eps.
        steps: Gradients of an attack.
        restarts: Of an attack.
        estimate: Whether to search for a lower bound of the constant.
        batch_size: Of samples.
        threads: CPU threads of torch; null leaves torch's choice.
        seed: Of the attack and of the choice of samples.
        root: Where the run's data lies now, if it has moved.
        other_data: Whether the data may differ from those that the run recorded.
        imports: Your own modules; null is those that the run recorded.

    Raises:
        RunError: a value out of range.
    """

    run: str
    _: KW_ONLY
    eps: tuple[float, ...] = (36.0, 72.0, 108.0)
    samples: int | None = None
    method: str = "auto"
    norm: str = "l2"
    verify: bool = True
    attack: bool = True
    steps: int = 40
    restarts: int = 1
    estimate: bool = True
    batch_size: int = 256
    threads: int | None = None
    seed: int = 0
    root: str | None = None
    other_data: bool = False
    imports: list[str] | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        counts = ("samples", "steps", "restarts", "batch_size", "threads")
        check_at_least_one(**{name: getattr(self, name) for name in counts})
        if not self.eps or not all(0 <= radius < float("inf") for radius in self.eps):
            raise RunError(f"eps must name radii of at least 0, in 1/255, got {list(self.eps)}")


@takes(CertifyConfig)
def certify(*, plot: bool = True, **options: Any) -> Answer:
    """Certify the best model of a run and write the certificate into its folder.

    Args:
        plot: Whether to write certificate.png, which needs the extra `plot`.
        options: Fields of `CertifyConfig`.
    """
    config = CertifyConfig(**options)
    facts, certificate = measure(config)
    folder = RunFolder(Path(config.run))
    found = facts | certificate.to_dict() | {"torch": torch.__version__}
    text = json.dumps(found, indent=2, allow_nan=False) + "\n"
    folder.write_text("certificate.json", text)
    if plot:
        _draw(folder, certificate)
    tested = facts["tested"]
    told = "" if tested is None else f"; the run reported {100 * tested:.2f} %"
    head = f"{facts['model']} on {facts['data']}, {facts['samples']:,} test samples{told}"
    refuted = certificate.refuted
    return Answer(
        found,
        f"{head}\n\n{certificate}\n\n{folder.path / 'certificate.json'}",
        failed=None if refuted is None else f"the certificate is refuted: {refuted.reason}",
    )


def measure(config: CertifyConfig) -> tuple[dict[str, Any], Certificate]:
    """Certify the best model of a run: what the run was, and the certificate.

    Radii are in pixels of [0, 1] where the data set was normalised, and in the units of its
    features otherwise.

    Raises:
        RunError: the run has not ended, its data is missing, or an option does not fit it.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    run = finished_run(
        config.run, config.root, other_data=config.other_data, imports=config.imports
    )
    # As the model reads them: certify undoes the division by std itself.
    batches = pixel_batches(
        run.splits.test, None, None, samples=config.samples, seed=config.seed, dtype=torch.float64
    )
    inputs, targets = zip(*batches, strict=True)
    x, y = torch.cat(inputs), torch.cat(targets)
    try:
        certificate = certify_model.certify(
            run.model,
            x,
            y,
            eps=[radius / UNIT for radius in config.eps],
            method=config.method,  # pyright: ignore[reportArgumentType]  # certify checks it
            norm=config.norm,  # pyright: ignore[reportArgumentType]
            input_std=run.splits.std,
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
    facts = {"model": run.name, "data": run.data, "samples": len(y), "tested": run.tested}
    return facts, certificate


def _draw(folder: RunFolder, certificate: Certificate) -> None:
    try:
        figure: Any = plot_certificate(certificate)
    except ImportError as error:
        raise RunError(f"{error}; or say plot=false") from error

    def write() -> None:
        with replacing(folder.path / "certificate.png") as temporary:
            figure.savefig(temporary, dpi=150, format="png")

    folder.guard(write)
