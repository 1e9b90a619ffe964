"""The page as a browser lays it out: nothing is wider than the screen, and no label is cut off."""

import html
import json
import re
import shutil
import subprocess

import pytest
from archzoo.train.report.page import write_report

from .left_runs import leave

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
SCREENS = {"desktop": 1280, "phone": 390}
RESIDUALS = (
    "add", "attnres", "block_attnres", "a_mechanism_with_a_name_that_is_longer_than_any_other",
    "delta", "hyper_connections",
)  # fmt: skip
MEASURE = """
addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, root = page.documentElement;
    let cut = [], small = 99, covered = 0;
    for (const svg of page.querySelectorAll("svg")) {
      const outer = svg.getBoundingClientRect();
      const labels = [...svg.querySelectorAll("text")].map(t => [t, t.getBoundingClientRect()]);
      for (const [text, box] of labels) {
        small = Math.min(small, parseFloat(getComputedStyle(text).fontSize)
          * outer.width / svg.viewBox.baseVal.width);
        if (box.left < outer.left - 1 || box.right > outer.right + 1) cut.push(text.textContent);
      }
      for (const [a, x] of labels) for (const [b, y] of labels)
        if (a !== b && Math.min(x.right, y.right) - Math.max(x.left, y.left) > 2
            && Math.min(x.bottom, y.bottom) - Math.max(x.top, y.top) > 4) covered += 1;
    }
    found[frame.id] = {wide: root.scrollWidth, room: root.clientWidth, cut, small, covered,
      charts: page.querySelectorAll("svg").length, scripts: page.scripts.length};
  }
  document.body.dataset.found = JSON.stringify(found);
});
"""


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """What a browser finds of one page on every screen."""
    if BROWSER is None:
        pytest.skip("no chromium and no google-chrome is on the path")
    folder = tmp_path_factory.mktemp("runs")
    for i, residual in enumerate(RESIDUALS):
        for seed in range(2):
            leave(folder / f"{i}-{seed}", residual=residual, seed=seed, shift=0.001 * i)
            costs = {"parameters": 10**6 + 100 * i, "forward_ms": {"median": 1.0 + i % 3}}
            (folder / f"{i}-{seed}" / "costs.json").write_text(json.dumps(costs))
    leave(folder / ("long" * 50), residual="add", ended=False)
    write_report([folder], folder / "page.html", inside=False)
    page = html.escape((folder / "page.html").read_text(), quote=True)
    frames = "".join(
        f'<iframe id="{name}" srcdoc="{page}" style="width:{width}px;height:4000px"></iframe>'
        for name, width in SCREENS.items()
    )
    (folder / "frames.html").write_text(f"<body>{frames}<script>{MEASURE}</script></body>")
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=2000,4200"),
        *(f"--user-data-dir={folder / 'profile'}", "--dump-dom", f"file://{folder}/frames.html"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    told = re.search(r'data-found="([^"]*)"', done.stdout)
    assert told is not None, done.stderr
    return json.loads(html.unescape(told[1]))


pytestmark = [pytest.mark.processes, pytest.mark.long]


@pytest.mark.parametrize("screen", SCREENS)
def test_nothing_is_wider_than_the_screen(layouts, screen):
    found = layouts[screen]
    assert found["charts"] >= 5 and found["scripts"] == 0
    assert found["wide"] <= found["room"]
    assert SCREENS[screen] - 20 <= found["room"] <= SCREENS[screen]


@pytest.mark.parametrize("screen", SCREENS)
def test_labels_are_whole_readable_and_beside_each_other(layouts, screen):
    found = layouts[screen]
    assert found["cut"] == [] and found["covered"] == 0
    assert found["small"] >= 8  # pixels
