"""Certify a trained model on its test fold.

Prints the proved Lipschitz bound, block by block, and clean, attacked and certified accuracy, and
writes certificate.json and certificate.png into the run folder; a certificate that a search or an
attack refutes claims nothing, and ends with exit code 1:

    archzoo-certify run=DIR eps=[36,72,108]
    archzoo-certify run=DIR samples=500 attack=false plot=false
    archzoo-certify run=DIR method=local norm=linf eps=[1,2]
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING

from ...zoo.certify.certificate import Certificate, plot_certificate
from ...zoo.certify.certify_model import certify
from ...zoo.share.atomic_write import replacing
from ..engine.run_folder import RunFolder
from ..errors import RunError
from ..measures.pixels import pixel_batches
from .arguments import print_help, read_fields
from .finished_run import finished_run

__all__ = ["CertifyConfig", "main", "measure", "read_arguments"]

UNIT = 255.0  # radii are given in grey levels, as papers do


@dataclass
class CertifyConfig:
    """How to certify a finished run; every field is a key of the command line."""

    run: str = MISSING  # the run folder
    eps: list[float] = field(default_factory=lambda: [36.0, 72.0, 108.0])  # in 1/255
    samples: int | None = None  # of the test fold; None is all
    method: str = "auto"  # product: no matrix inequality; local: a relaxation around each sample
    norm: str = "l2"  # of the radii; linf with method=local
    verify: bool = True  # prove what layers say of themselves
    attack: bool = True  # attack inside every radius and at every eps
    steps: int = 40  # gradients of an attack
    restarts: int = 1
    estimate: bool = True  # search for a lower bound of the constant
    plot: bool = True  # write certificate.png; needs the extra `plot`
    batch_size: int = 256
    threads: int | None = None  # CPU threads of torch; None leaves torch's choice
    seed: int = 0  # of the attack and of the choice of samples
    root: str | None = None  # where the run's data lies now, if it has moved
    other_data: bool = False  # whether the data may differ from those that the run recorded
    imports: list[str] | None = None  # the user's own modules; None is those that the run recorded


def read_arguments(arguments: Sequence[str]) -> CertifyConfig:
    """Read `key=value` arguments into typed fields.

    Raises:
        RunError: in one line, an unknown key, a value of another type or out of range, no run.
    """
    config = read_fields("certify", CertifyConfig, arguments)
    for name in ("samples", "steps", "restarts", "batch_size", "threads"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise RunError(f"{name} must be at least 1, got {value}")
    if not config.eps or not all(0 <= radius < float("inf") for radius in config.eps):
        raise RunError(f"eps must name radii of at least 0, in 1/255, got {config.eps}")
    return config


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
        certificate = certify(
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


def main() -> None:
    """Certify, print and write.

    An error of the user's is one line and exit code 1, and so is a certificate that is refuted.
    """
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print_help(__doc__, "train/commands/certify.py", CertifyConfig)
        return
    try:
        config = read_arguments(arguments)
        facts, certificate = measure(config)
        folder = RunFolder(Path(config.run))
        found = facts | certificate.to_dict() | {"torch": torch.__version__}
        text = json.dumps(found, indent=2, allow_nan=False) + "\n"
        folder.write_text("certificate.json", text)
        if config.plot:
            _draw(folder, certificate)
    except RunError as error:
        sys.exit(f"archzoo-certify: {error}")
    tested = facts["tested"]
    told = "" if tested is None else f"; the run reported {100 * tested:.2f} %"
    print(f"{facts['model']} on {facts['data']}, {facts['samples']:,} test samples{told}\n")
    print(certificate)
    print(f"\n{folder.path / 'certificate.json'}")
    if certificate.refuted is not None:
        sys.exit(f"archzoo-certify: the certificate is refuted: {certificate.refuted.reason}")


def _draw(folder: RunFolder, certificate: Certificate) -> None:
    try:
        figure: Any = plot_certificate(certificate)
    except ImportError as error:
        raise RunError(f"{error}; or say plot=false") from error

    def write() -> None:
        with replacing(folder.path / "certificate.png") as temporary:
            figure.savefig(temporary, dpi=150, format="png")

    folder.guard(write)


if __name__ == "__main__":
    main()
