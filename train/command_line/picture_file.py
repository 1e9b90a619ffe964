"""The picture that a command writes: refused before the work, and on the disk whole or not at all.

matplotlib of the extra `plot` draws it; the ending of its name chooses the format.
"""

from pathlib import Path
from typing import Any

from ...zoo.share.atomic_write import replacing
from ..errors import RunError

__all__ = ["picture_file", "save_picture"]


def picture_file(out: str) -> Path:
    """Return where a picture is to go, in a folder that exists, or refuse what it could not be.

    Raises:
        RunError: no matplotlib, an ending that it does not write, or a place that cannot be.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise RunError('a picture needs matplotlib; pip install "archzoo[plot]"') from error
    path, known = Path(out), FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise RunError(f"out={out} must be a picture's name, which ends in {', '.join(known)}")
    if path.is_dir():
        raise RunError(f"out={out} is a folder; name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"could not write out={out}: {error}") from error
    return path


def save_picture(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib.

    Args:
        figure: What was drawn.
        path: What `picture_file` returned.

    Raises:
        RunError: the disk refuses.
    """
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150, format=path.suffix.lstrip("."))
    except OSError as error:
        raise RunError(f"could not write out={path}: {error}") from error
