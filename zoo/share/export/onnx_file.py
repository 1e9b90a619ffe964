"""A model as an ONNX file, for ONNX Runtime and what reads its format."""

import importlib.util
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ..atomic_write import replacing
from .program import BATCH, REFUSALS, Axes, export_program, stopped_by

__all__ = ["check_extra", "export_onnx", "write_onnx"]

NEEDS = ("onnx", "onnxscript", "onnxruntime")


def check_extra() -> None:
    """Refuse where the packages of the extra `export` are missing.

    Raises:
        ValueError: naming them.
    """
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"ONNX needs {', '.join(missing)}, which is not installed; "
            f'pip install "archzoo[export]"'
        )


def export_onnx(
    model: nn.Module, sample: Tensor, path: str | Path, *, dynamic: Axes = BATCH
) -> Path:
    """Write a model in evaluation as one ONNX file, weights included.

    Args:
        model: As in `export_program`, like the next two.
        sample: As above.
        path: The file; replaced in one step.
        dynamic: As above.

    Raises:
        ValueError: the extra `export` is missing, or an operator has no form in ONNX.
        OSError: the disk refused; what was at `path` is untouched.
    """
    check_extra()
    program = export_program(model, sample, dynamic=dynamic)
    with replacing(Path(path)) as temporary:
        write_onnx(program, temporary, ["input"], ["output"])
    return Path(path)


def write_onnx(
    program: ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str]
) -> int:
    """Write a program as ONNX, and return the version of the operator set.

    Args:
        program: What `export_program` returned.
        path: The file.
        inputs: Names of its inputs.
        outputs: Names of its outputs.

    Raises:
        ValueError: an operator without a form in ONNX, or more than 2 GiB, which is more than one
            file of the format holds.
    """
    told = logging.getLogger("torch.onnx")
    level = told.level
    told.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the exporter says of torch and of onnx
            made = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=inputs,
                output_names=outputs,
            )
    except REFUSALS as error:
        raise ValueError(f"the ONNX exporter stops {stopped_by(nn.Module(), error)}") from error
    finally:
        told.setLevel(level)
    assert made is not None
    for node in made.model.graph.all_nodes():
        node.metadata_props.clear()  # lines and paths of this machine
    weights = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    if weights >= 2**31:
        raise ValueError(
            f"the weights are {weights / 2**30:.1f} GiB, and one ONNX file holds 2; use format=pt2"
        )
    made.save(str(path), external_data=False)
    return made.model.opset_imports[""]
