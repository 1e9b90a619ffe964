"""Command line of the trainer: `python -m archzoo.train` or `archzoo-train`."""

import os
import sys
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from .config import register_schemas, run_config
from .errors import RunError
from .explain import explain_overrides

__all__ = ["main"]


@hydra.main(version_base="1.3", config_path="pkg://archzoo.conf", config_name="train")
def _train(node: DictConfig) -> float:
    """Run one job and return its validation metric; a sweeper calls this once per point."""
    from .run import run  # seconds of imports, which a misspelt key and --help do not need

    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        node.run_dir = job.runtime.output_dir
    try:
        return run(run_config(node))
    except RunError as error:
        _exit(error)


def main() -> None:
    """Compose, check and train; an error of the user's is one line and exit code 1."""
    register_schemas()
    try:
        explain_overrides(sys.argv[1:])
    except RunError as error:
        _exit(error)
    _train()


def _exit(error: RunError) -> NoReturn:
    """Say what is wrong; with HYDRA_FULL_ERROR=1 show where, too."""
    if os.environ.get("HYDRA_FULL_ERROR"):
        raise error
    sys.exit(f"archzoo-train: {error}")


if __name__ == "__main__":
    main()
