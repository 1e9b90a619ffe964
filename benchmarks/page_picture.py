"""A picture of the top of a page, by headless Chromium: `page_picture.py PAGE.html OUT.png`.

python benchmarks/page_picture.py build/benchmarks/compare_digits/report.html docs/report.png
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "google-chrome", "chrome")


def draw(page: Path, out: Path, width: int, height: int) -> None:
    """Lay the page out at a width and write its first `height` pixels.

    Raises:
        ValueError: no page, or no browser.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise ValueError(f"none of {', '.join(BROWSERS)} is on the path; install one")
    if not page.is_file():
        raise ValueError(f"there is no {page}; python benchmarks/compare_digits.py writes one")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--user-data-dir={profile}", f"--window-size={width},{height}"),
            *(f"--screenshot={out.resolve()}", f"file://{page.resolve()}"),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=200)


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1280, help="of the screen, in pixels")
    parser.add_argument("--height", type=int, default=1560, help="of the picture, in pixels")
    arguments = parser.parse_args()
    try:
        draw(arguments.page, arguments.out, arguments.width, arguments.height)
    except ValueError as error:
        sys.exit(f"page_picture: {error}")
    print(arguments.out)


if __name__ == "__main__":
    main()
