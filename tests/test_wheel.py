"""The wheel works away from the checkout, beside a user's own train.py, layers/ and conf/."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[1]
FOLDERS = ("layers", "zoo", "train", "conf")
SHIPPED = (".py", ".yaml", ".typed", ".cpp", ".h", ".json", ".safetensors")


def run(arguments, cwd, **environment):
    done = subprocess.run(
        arguments,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_trains_a_step_in_a_folder_with_a_users_own_names(tmp_path):
    source, target, project = tmp_path / "source", tmp_path / "installed", tmp_path / "project"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    # The build tools of this environment: a test must not depend on a network.
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", ".", "."]
    run(build, source)
    (wheel,) = source.glob("archzoo-*.whl")
    run([*pip, "install", "-q", "--no-deps", "--target", str(target), str(wheel)], tmp_path)
    installed = {path.parent.name for path in (target / "archzoo").glob("*/__init__.py")}
    assert installed == set(FOLDERS)
    for folder in FOLDERS:
        shipped = {p.relative_to(target / "archzoo") for p in target.glob(f"archzoo/{folder}/**/*")}
        tree = {p.relative_to(source) for p in source.glob(f"{folder}/**/*")}
        files = {p for p in tree if p.suffix in SHIPPED}
        assert files <= shipped

    project.mkdir()
    (project / "train.py").write_text('raise SystemExit("a user\'s own script ran")\n')
    for name in ("layers", "conf"):
        (project / name).mkdir()
        (project / name / "__init__.py").write_text("MINE = True\n")
    run(
        [
            sys.executable, "-m", "archzoo.train", "model=mlp_nano", "trainer=debug",
            "trainer.steps=1", "run_dir=run",
        ],
        project,
        PYTHONPATH=str(target),
    )  # fmt: skip
    assert json.loads((project / "run" / "result.json").read_text())["test"]
    where = "import archzoo.zoo, layers; print(archzoo.zoo.__file__); print(layers.MINE)"
    told = run([sys.executable, "-c", where], project, PYTHONPATH=str(target)).split()
    assert Path(told[0]).is_relative_to(target)
    assert told[1] == "True"
