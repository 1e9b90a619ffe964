"""Compiled fast paths: one folder of C++ sources a family, built on first use and cached.

A kernel is never needed: without a compiler the plain PyTorch form runs, and one line in the log
of `archzoo` says so. `ARCHZOO_KERNELS=0` in the environment switches them off; the cache is torch's
for extensions, which `TORCH_EXTENSIONS_DIR` moves.
"""

import contextlib
import functools
import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

__all__ = ["load_kernels"]

# Loops are vectorised by pragma only: -ffast-math would break the infinities of masked logits. The
# instruction set is the one torch itself uses here, so that a cache shared by machines is safe.
# Nothing here reads errno or floating-point exceptions, and without them roots and selections are
# vectorised too.
FLAGS = ["-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"]
INSTRUCTIONS = {"AVX2": ["-march=x86-64-v3"], "AVX512": ["-march=x86-64-v4"]}
# The source uses torch's stable interface as of 2.10, which keeps the build to some seconds.
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"

log = logging.getLogger("archzoo")


@functools.cache
def load_kernels(family: str) -> bool:
    """Build and load the kernels of a family, and say whether they are there.

    Args:
        family: The name of a folder beside this file; its operators appear as
            `torch.ops.archzoo_FAMILY`.
    """
    if os.environ.get("ARCHZOO_KERNELS", "1") == "0":
        return False
    try:
        _provide(Path(__file__).with_name(family))
    except (OSError, RuntimeError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        log.warning("no compiled %s kernels, plain PyTorch runs instead: %s", family, reason)
        return False
    return True


@functools.cache
def _provide(folder: Path) -> None:
    """Load the shared library of a family's folder, compiled if the cache does not hold it whole.

    Once a process: a second copy of a library would register its operators again, which kills the
    interpreter.
    """
    with _quiet("torch.utils.cpp_extension"):  # what is built here needs no CUDA
        from torch.utils import cpp_extension

    flags = [*FLAGS, *INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), []), TARGET]
    sources = sorted(folder.glob("*.cpp"))
    if not sources:
        raise FileNotFoundError(f"no C++ source in {folder}")
    headers = [*sorted(folder.glob("*.h")), *sorted(folder.parent.glob("*.h"))]
    texts = [part.read_text() for part in (*sources, *headers)]
    key = "\n".join([*texts, torch.__version__, *flags])
    name = f"archzoo_{folder.name}_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
    cache = Path(root) / "archzoo"
    # A library's name ends with the digest of its content: half of one has another.
    for library in cache.glob(f"{name}-*.so"):
        if library.stem == f"{name}-{_digest(library)}":
            torch.ops.load_library(library)
            return
    cache.mkdir(parents=True, exist_ok=True)
    # Built apart and moved: a killed build leaves neither a lock nor half a library.
    with tempfile.TemporaryDirectory(dir=cache) as place, _scripts_on_path():
        cpp_extension.load(
            name,
            [str(source) for source in sources],
            extra_cflags=flags,
            build_directory=place,
            is_python_module=False,
        )
        built = Path(place) / f"{name}.so"
        os.replace(built, cache / f"{name}-{_digest(built)}.so")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


@contextlib.contextmanager
def _quiet(module: str) -> Iterator[None]:
    """Import a module without what it logs meanwhile."""
    logger = logging.getLogger(module)
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


@contextlib.contextmanager
def _scripts_on_path() -> Iterator[None]:
    """Find the `ninja` of this environment, activated or not."""
    before = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before
