"""Run one exported file where archzoo is not: a child of `exported.py`, and an example of a loader.

    python run_exported.py pt2 model.pt2 data.npz
    python run_exported.py onnx model.onnx data.npz

The data are `inputs` and the `expected` outputs of the model that was exported. The first line on
stdout is what was found: differences and the modules of archzoo that are loaded, which should be
none. Then every line on stdin is a batch size and a number of calls, which are timed.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def pt2(path: str) -> Callable[[Any], Any]:
    """Load a program of torch.export."""
    import torch

    torch.set_num_threads(1)
    program = torch.export.load(path).module()

    def run(x: Any) -> Any:
        with torch.inference_mode():
            return program(torch.from_numpy(x)).numpy()

    return run


def onnx(path: str) -> Callable[[Any], Any]:
    """Open an ONNX file; torch is not needed."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def main(runtime: str, path: str, data: str) -> None:
    """Compare, then time on demand."""
    run = {"pt2": pt2, "onnx": onnx}[runtime](path)
    given = np.load(data)
    inputs, expected = given["inputs"], given["expected"]
    found: dict[str, Any] = {"batches": {}}
    for batch in (1, 3, len(inputs)):
        gap = float(np.abs(run(inputs[:batch]) - expected[:batch]).max())
        found["batches"][batch] = gap / float(np.abs(expected[:batch]).max())
    found["archzoo"] = sorted(name for name in sys.modules if name.partition(".")[0] == "archzoo")
    found["torch"] = "torch" in sys.modules
    print(json.dumps(found), flush=True)
    for line in sys.stdin:
        batch, calls = map(int, line.split())
        x = inputs[:batch]
        began = time.perf_counter()
        for _ in range(calls):
            run(x)
        print((time.perf_counter() - began) / calls, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
