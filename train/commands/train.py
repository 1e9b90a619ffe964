"""Train any model of the zoo on any of the data sets, from a config.

Every part of a run is a choice with typed keys; -m runs several points one after another:

    archzoo train
    archzoo train model=vit_nano data=cifar10 data.download=true model.patch_size=4
    archzoo train model.residual=attnres trainer.steps=500
    archzoo train -m model.residual=add,attnres,block_attnres seed=0,1,2
    archzoo train experiment=bytes_gpt
    archzoo train resume=FOLDER
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from ..command_line.answer import exit_with
from ..command_line.arguments import takes_whole_line
from ..command_line.train_help import train_help
from ..config import run_config
from ..errors import RunError, RunStopped
from ..given_length import take_back_the_other
from ..override_errors import explain_overrides
from ..schemas import register_schemas
from ..sweep import forget_failure, record_failure
from ..user_imports import import_given

__all__ = ["train"]

NAME = "archzoo train"


@takes_whole_line
def train(*overrides: str) -> None:
    """Compose, check and train; what is wrong with the overrides is said in one line.

    Args:
        overrides: `key=value` pairs of Hydra's grammar, and Hydra's own flags.

    Raises:
        RunError: an unknown flag, group, choice or key, or a value of another type.
    """
    import_given(overrides)
    register_schemas()
    if {"-h", "--help"} & set(overrides):
        print(train_help(__doc__ or ""))
        return
    overrides = take_back_the_other(overrides)
    explain_overrides(overrides)
    sys.argv = [NAME, *overrides]  # which is where Hydra reads
    _train()


@hydra.main(version_base="1.3", config_path="pkg://archzoo.conf", config_name="train")
def _train(node: DictConfig) -> float | None:
    """Run one job and return its validation metric; a sweeper calls this once per point.

    A point of a sweep that fails leaves its error in its folder and has no metric; the others go
    on. One that was asked to stop ends the sweep.
    """
    from ..run import run  # seconds of imports, which a misspelt key and --help do not need

    job = HydraConfig.get()
    sweep = job.mode == RunMode.MULTIRUN
    if sweep:
        node.run_dir = job.runtime.output_dir
        forget_failure(Path(node.run_dir))
    try:
        return run(run_config(node), _given_keys(job.overrides.task), sweep=sweep)
    except RunError as error:
        if sweep and not isinstance(error, RunStopped):
            record_failure(Path(node.run_dir), error)
            return None
        exit_with(NAME, error)


def _given_keys(overrides: Sequence[str]) -> list[str]:
    """Return the keys and groups that overrides name, such as `trainer.steps` and `model`."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [override.key_or_group.partition("@")[0].strip("/") for override in parsed]
