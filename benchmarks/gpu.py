"""Everything that wants a GPU in one run: what must hold there, and what models cost there.

From a checkout, installed or not, with torch, timm and what `pyproject.toml` lists there; triton
comes with torch for CUDA, and flash-linear-attention is compared where it is installed. At most
eight minutes on one data-centre GPU: every section has seconds of its own, and what they do not
suffice for is told as not run. A failure ends nothing: all are named at the end, and make the exit
code 1.

    python benchmarks/gpu.py                          writes build/benchmarks/gpu.json
    python benchmarks/gpu.py --keep                   writes benchmarks/results/gpu.json
    python benchmarks/gpu.py --only kernels decoding
    python benchmarks/gpu.py --device cpu --quick     the same on the smallest models, to try it
"""

import argparse
import atexit
import shutil
import sys
import tempfile
from pathlib import Path

from gpu_session import Session

ROOT = Path(__file__).resolve().parents[1]


def make_importable() -> None:
    """Put this checkout before all others, under the name of the package."""
    place = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    (place / "archzoo").symlink_to(ROOT, target_is_directory=True)
    sys.path[:0] = [str(place), str(ROOT / "benchmarks")]


def main() -> None:
    """Run the sections."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="the smallest models only")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    parser.add_argument("--only", nargs="+", default=(), help="sections by name")
    parser.add_argument("--keep", action="store_true", help="write the tracked result file")
    parser.add_argument("--out", type=Path, help="write another file")
    arguments = parser.parse_args()
    try:
        import torch
    except ModuleNotFoundError:
        sys.exit("gpu: there is no torch; pip install torch timm")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "gpu: torch sees no CUDA device; --device cpu --quick tries the script without one"
        )
    if arguments.keep and (arguments.device == "cpu" or arguments.quick):
        sys.exit("gpu: --keep is for the figures of a GPU at full size; leave it out")
    make_importable()
    try:
        import gpu_sections
    except ModuleNotFoundError as error:
        sys.exit(f"gpu: there is no {error.name}; pip install {error.name}")
    from harness import RESULTS, UNTRACKED, machine, table

    unknown = [name for name in arguments.only if name not in gpu_sections.SECTIONS]
    if unknown:
        known = ", ".join(gpu_sections.SECTIONS)
        sys.exit(f"gpu: there is no section {unknown[0]!r}; known: {known}")
    device = torch.device(arguments.device, 0 if arguments.device == "cuda" else None)
    folder = RESULTS if arguments.keep else UNTRACKED
    suffix = "-quick" if arguments.quick else ""
    file = arguments.out or folder / f"gpu{suffix}.json"
    session = Session(device, arguments.quick, 60.0 * arguments.minutes, file)
    session.about = machine() | gpu_sections.device_facts(device)
    torch.manual_seed(0)
    for name, (seconds, work) in gpu_sections.SECTIONS.items():
        if not arguments.only or name in arguments.only:
            session.run(name, seconds, work)
    for name in dict.fromkeys(row["section"] for row in session.rows):
        rows = [row for row in session.rows if row["section"] == name]
        shown = [{k: v for k, v in row.items() if k not in ("section", "refused")} for row in rows]
        print(table(shown), "\n")
        for row in rows:
            if "refused" in row:
                print(f"{row['case']}, {row['model']}: {row['refused']}")
    failed = [f"{one['section']}, {one['check']}" for one in session.checks if one["met"] is False]
    print(f"{file}: {len(session.checks)} checks, {len(failed)} failed")
    if failed:
        sys.exit(f"gpu: failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
