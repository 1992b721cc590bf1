"""Generated text in a real browser, where there is one: it is shown and does nothing.

Alone: pytest tests/report/test_browser.py
"""

import re
import shutil
import subprocess
from html import unescape

import pytest
from PIL import Image

from hypergen.report.columns import Columns
from hypergen.report.page import curves, page
from hypergen.text.comparison_table import comparison_table

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"> & so on and so on"
RECORDS = [
    {"name": "base greedy", "values": {"rep_4": {"mean": 0.6, "low": 0.5, "high": 0.7}}},
    {"name": "hyperfitted greedy", "values": {"rep_4": {"mean": 0.1, "low": 0.0, "high": 0.2}}},
]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


def browse(folder, *options):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    address = f"file://{folder / 'report.html'}"
    return subprocess.run([*command, *options, address], capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    figure = comparison_table([HOSTILE], {HOSTILE: [f"{HOSTILE} {HOSTILE}"]})
    log = [{"epoch": 0, "ttr": 0.2}, {"epoch": 1, "ttr": 0.6, "loss": 3.0}]
    html = page(HOSTILE, RECORDS, Columns.of(), facts={"data": HOSTILE}, curves=curves(log), figure=figure)
    (folder / "report.html").write_text(html, encoding="utf-8")
    return folder


def test_what_is_repeated_is_seen_coloured(folder):
    browse(folder, "--window-size=1280,1600", f"--screenshot={folder / 'page.png'}")
    with Image.open(folder / "page.png") as picture:
        colors = {color: count for count, color in picture.convert("RGB").getcolors(2**24)}
    assert picture.size == (1280, 1600)
    assert colors.get((255, 227, 163), 0) > 500  # --mark of the style sheet, behind the text and in its legend
    assert colors.get((11, 110, 117), 0) > 50  # --accent, the curves


def test_hostile_text_is_shown_and_does_nothing(folder):
    dom = browse(folder, "--dump-dom")
    assert "<script" not in dom and "<img" not in dom
    title = re.search("<title>(.*?)</title>", dom, re.DOTALL)
    assert unescape(title.group(1)) == HOSTILE
    assert dom.count("&lt;script&gt;") >= 4 and "the 95 % intervals do not overlap" in dom
    assert dom.count("<polyline") == 2
