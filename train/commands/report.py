"""Write one page of HTML about runs: curves, costs, and what the models look like inside.

A folder of runs, such as that of a sweep or a comparison, stands for all of them. Runs of one
config but for the seed are one line with its deviation. Broken and unfinished runs are listed with
their reason. The page needs no network and no other file. An ending such as .png draws the curves
alone, by matplotlib of the extra `plot`.

    archzoo report runs/vit_nano-digits/sweep-2026-11-29_12-00-00-a1b2
    archzoo report runs/a runs/b out=report.html
    archzoo report runs/a inside=false --json
    archzoo report runs/a out=curves.png
"""

from pathlib import Path

from ..command_line.answer import Answer
from ..errors import RunError, UsageError

__all__ = ["report"]

PAGE = (".html", ".htm")


def report(*runs: str, out: str = "report.html", inside: bool = True) -> Answer:
    """Write the report of runs.

    Args:
        runs: Run folders, and folders that hold some.
        out: The file to write: a page, or a picture of the curves by its ending.
        inside: Whether models are rebuilt and looked into, which needs their data.

    Raises:
        RunError: a folder without runs, a file that cannot be written, or no matplotlib.
    """
    if not runs:
        raise UsageError("name run folders, such as archzoo report runs/*")
    places, file = [Path(run) for run in runs], Path(out)
    try:
        if file.suffix.lower() not in PAGE:
            from ..command_line.picture_file import picture_file, save_picture
            from ..report.curves_picture import draw_curves

            picture = picture_file(out)
            save_picture(draw_curves(places), picture)
            return Answer({"picture": out, "runs": list(runs)}, out)
        from ..report.page import write_report

        file.parent.mkdir(parents=True, exist_ok=True)
        found = write_report(places, file, inside=inside)
    except ValueError as error:
        raise RunError(str(error)) from error
    except OSError as error:
        raise RunError(f"could not write out={out}: {error}") from error
    runs_found, points = len(found["runs"]), len(found["points"])
    text = f"{out}: {_count(runs_found, 'run')} of {_count(points, 'point')}"
    broken = sum(bool(run["trouble"]) for run in found["runs"])
    text += f"; not whole, for a reason on the page: {broken}" if broken else ""
    return Answer(found, text)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
