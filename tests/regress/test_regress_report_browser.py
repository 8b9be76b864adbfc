"""The page in a real browser, narrow and wide, light and dark: nothing overflows, nothing overlaps, colors contrast."""

import html
import json
import re
import shutil
import subprocess
from datetime import datetime, timezone

import pytest
from made_up_recordings import nightly, six_months, varying

from mvc.regress import history
from mvc.regress.results import report

pytest.importorskip("ruptures", reason="ruptures, of the extra `history`, is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser is installed; looked for {', '.join(NAMES)}")

# Shows the page in a frame of that width, which may be narrower than a browser's window, and writes what is wrong.
FRAME = """<!doctype html>
<iframe id="frame" style="width: {width}px; height: 900px; border: 0" srcdoc="{page}"></iframe>
<pre id="found"></pre><script>
frame.onload = () => {{
  const page = frame.contentDocument, seen = each => each.getBoundingClientRect().width > 0;
  const box = each => each.getBoundingClientRect();
  const color = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const overlaps = [], outside = [], pictures = [...page.querySelectorAll('svg.chart')].filter(seen);
  for (const picture of pictures) {{
    const texts = [...picture.querySelectorAll('text')].filter(seen);
    texts.forEach((one, i) => {{
      const a = box(one), room = box(picture);
      if (a.left < room.left - 1 || a.right > room.right + 1 || a.top < room.top - 1 || a.bottom > room.bottom + 1)
        outside.push(one.textContent);
      for (const other of texts.slice(i + 1)) {{
        const b = box(other);  // the boxes of lines of text touch
        if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
          overlaps.push([one.textContent, other.textContent]);
      }}
    }});
  }}
  const cells = [...page.querySelectorAll('td, th')].filter(seen);
  found.textContent = JSON.stringify({{
    width: page.documentElement.clientWidth,
    content: page.documentElement.scrollWidth,
    pictures: pictures.length,
    cut: cells.filter(each => each.scrollWidth > each.clientWidth + 1).map(each => each.textContent),
    overlaps, outside,
    ink: color(getComputedStyle(page.body).color),
    ground: color(getComputedStyle(page.body).backgroundColor),
  }});
}};
</script>"""


def look(page: str, tmp_path, *, width: int, dark: bool) -> dict:
    """What a browser finds on the page."""
    path = tmp_path / "frame.html"
    path.write_text(FRAME.format(width=width, page=html.escape(page)), encoding="utf-8")
    # --no-sandbox: containers of CI have no user namespaces, and the page is ours.
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom"]
    command = [BROWSER, *options, path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(html.unescape(re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)[1]))


def brightness(color: list[float]) -> float:
    return sum(color) / (3 * 255)


NAME = "a_package.models.segmentation:a_function_with_a_long_name[batch=128-dtype=bfloat16-mode=max-autotune]"
RECORDINGS = {
    "six months": six_months,
    "one recording": lambda: nightly({"scan": [1e-3]}),
    "long names": lambda: nightly(
        {NAME: varying((0, 12.3e-6), (20, 15.1e-6), (40, 14.0e-6), (50, 18.0e-6), nights=60)},
        driver=varying((0, "570"), (1, "570.124.06 with a long name"), (40, "580"), nights=60),
    ),
}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("recordings", RECORDINGS)
def test_nothing_overflows_or_overlaps(recordings, width, dark, tmp_path):
    series = history.series(RECORDINGS[recordings]())
    contents = report.Contents("Latency", series, None, [f"{NAME}.json is cut off"], [], datetime.now(timezone.utc))
    found = look(report.page(contents), tmp_path, width=width, dark=dark)
    assert found["content"] <= found["width"] <= width
    assert found["pictures"] == len(series), "one for each case, drawn for that width"
    assert (found["cut"], found["outside"], found["overlaps"]) == ([], [], [])
    ink, ground = brightness(found["ink"]), brightness(found["ground"])
    assert (ink > 0.8 and ground < 0.2) if dark else (ink < 0.2 and ground > 0.8)


def test_the_look_finds_what_overlaps_and_what_overflows(tmp_path):
    page = """<body><svg class="chart" viewBox="0 0 100 20" width="100"><text x="0" y="15">one</text>
    <text x="5" y="15">two</text><text x="90" y="15">three</text></svg><p style="width: 3000px">wide</p>"""
    found = look(page, tmp_path, width=400, dark=False)
    assert found["overlaps"] == [["one", "two"]]
    assert found["outside"] == ["three"]
    assert found["content"] >= 3000
