"""Command line of the trainer: `python -m archzoo.train` or `archzoo-train`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from .config import run_config
from .errors import RunError, RunStopped
from .override_errors import explain_overrides
from .schemas import register_schemas
from .sweep import forget_failure, record_failure
from .user_imports import import_given

__all__ = ["main"]


@hydra.main(version_base="1.3", config_path="pkg://archzoo.conf", config_name="train")
def _train(node: DictConfig) -> float | None:
    """Run one job and return its validation metric; a sweeper calls this once per point.

    A point of a sweep that fails leaves its error in its folder and has no metric; the others go
    on. One that was asked to stop ends the sweep.
    """
    from .run import run  # seconds of imports, which a misspelt key and --help do not need

    job = HydraConfig.get()
    sweep = job.mode == RunMode.MULTIRUN
    if sweep:
        node.run_dir = job.runtime.output_dir
        forget_failure(Path(node.run_dir))
    try:
        return run(run_config(node), given_keys(job.overrides.task), sweep=sweep)
    except RunError as error:
        if sweep and not isinstance(error, RunStopped):
            record_failure(Path(node.run_dir), error)
            return None
        _exit(error)


def given_keys(overrides: Sequence[str]) -> list[str]:
    """Return the keys and groups that overrides name, such as `trainer.steps` and `model`."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [override.key_or_group.partition("@")[0].strip("/") for override in parsed]


def main() -> None:
    """Compose, check and train; an error of the user's is one line and exit code 1."""
    try:
        import_given(sys.argv[1:])
        register_schemas()
        explain_overrides(sys.argv[1:])
    except RunError as error:
        _exit(error)
    _train()


def _exit(error: RunError) -> NoReturn:
    """Say what is wrong, unless another process does; with HYDRA_FULL_ERROR=1 show where, too."""
    if os.environ.get("HYDRA_FULL_ERROR"):
        raise error
    if not error.said:
        print(f"archzoo-train: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
