"""Train any model of the zoo on any of the data sets, from a config.

Every part of a run is a choice with typed keys; -m runs several points one after another:

    archzoo train
    archzoo train model=vit_nano data=cifar10 data.download=true model.patch_size=4
    archzoo train model.residual=attnres trainer.steps=500
    archzoo train -m model.residual=add,attnres,block_attnres seed=0,1,2
    archzoo train experiment=bytes_gpt
    archzoo train resume=FOLDER
    archzoo train trainer=debug --json
"""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from ..initial.given_place import start_from_place
from ..override_errors import explain_overrides
from ..schemas import register_schemas
from ..sweep import forget_failure, queue_again, record_failure
from ..user_imports import import_given

__all__ = ["train"]

NAME = "archzoo train"


@takes_whole_line
def train(*overrides: str) -> None:
    """Compose, check and train; what is wrong with the overrides is said in one line.

    With `--json` what a run says goes to stderr, and stdout has its folder and its result, or those
    of all points of a sweep as a list, but for points that a launcher ran in other processes.

    Args:
        overrides: `key=value` pairs of Hydra's grammar, Hydra's own flags, and `--json`; also
            `model=local-dir:FOLDER`, the model of a folder with its weights.

    Raises:
        RunError: an unknown flag, group, choice or key, or a value of another type.
    """
    as_json = "--json" in overrides
    overrides = tuple(word for word in overrides if word != "--json")
    overrides = start_from_place(overrides)
    import_given(overrides)
    register_schemas()
    if {"-h", "--help"} & set(overrides):
        print(train_help(__doc__ or ""))
        return
    overrides = take_back_the_other(overrides)
    explain_overrides(overrides)
    sys.argv = [NAME, *overrides]  # which is where Hydra reads
    ended: list[dict[str, Any]] = []
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            _through_hydra(ended)
    finally:
        if as_json and ended:
            sweep = {"-m", "--multirun"} & set(overrides)
            print(json.dumps(ended if sweep else ended[0], indent=2))


def _through_hydra(ended: list[dict[str, Any]]) -> None:
    """Have Hydra compose and run every point, and note those that end.

    Args:
        ended: Gets the folder and the result of each.
    """

    @hydra.main(version_base="1.3", config_path="pkg://archzoo.conf", config_name="train")
    def job(node: DictConfig) -> float | None:
        """Run one point and return its validation metric.

        A point of a sweep that fails leaves its error in its folder and has no metric; the others
        go on. One that was asked to stop ends the sweep, or is queued again where it had a queue.
        """
        from ..run import metric_of, run_to_end  # imports that a misspelt key does not need

        task = HydraConfig.get()
        sweep = task.mode == RunMode.MULTIRUN
        if sweep:
            node.run_dir = task.runtime.output_dir
            forget_failure(Path(node.run_dir))
        try:
            one = run_to_end(run_config(node), _given_keys(task.overrides.task), sweep=sweep)
        except RunError as error:
            failure = queue_again(error) if isinstance(error, RunStopped) else error
            if sweep and failure is not None:
                record_failure(Path(node.run_dir), failure)
                return None
            exit_with(NAME, error)
        if one.folder.writes:
            ended.append({"folder": str(one.folder.path), **one.result})
        return metric_of(one.result)

    job()


def _given_keys(overrides: Sequence[str]) -> list[str]:
    """Return the keys and groups that overrides name, such as `trainer.steps` and `model`."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [override.key_or_group.partition("@")[0].strip("/") for override in parsed]
