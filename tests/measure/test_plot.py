"""The picture of a ladder, and what is refused before anything is measured."""

import dataclasses
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mvc.errors import UserError
from mvc.measure import plot
from mvc.measure.ladder import Row, Rung

REASON = "matplotlib, of the extra `plot`, is not installed"

ROW = Row(0.1, 0.09, 0.12, None, 20.0, 1.0, 1.0, 1.0, 2**30, None, None, 0.5, 0.6)


def row(speedup: float) -> Row:
    """Of a batch of two that is so many times as fast as eager."""
    times = {name: getattr(ROW, name) / speedup for name in ("median_seconds", "p10_seconds", "p90_seconds")}
    return dataclasses.replace(ROW, **times, images_per_second=20 * speedup, over_eager=1 / speedup)


def texts(path: Path) -> list[str]:
    """The texts of a picture from top to bottom as matplotlib writes them."""
    assert ElementTree.parse(path).getroot().tag.endswith("svg")
    return re.findall(r"<!-- (.*?) -->", path.read_text(), flags=re.DOTALL)


def draw(speedups: dict[str, float], path: Path, *, same: tuple[str, ...] = ()) -> None:
    runs = {name: same[0] if name in same else name for name in speedups}
    rungs = [Rung(name, runs[name]) for name in speedups]
    rows = {name: row(speedup) for name, speedup in speedups.items()}
    plot.ladder(rungs, rows, path, batch=2, label="(clock: wall)", title="MambaVision-T, 224 x 224")


@pytest.mark.parametrize("suffix", plot.FORMATS)
def test_a_picture_is_whole_in_either_format(suffix, tmp_path):
    pytest.importorskip("matplotlib", reason=REASON)
    path = tmp_path / f"ladder{suffix}"
    plot.check(path)
    draw({"eager": 1.0, "compiled": 1.7}, path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes().startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")


def test_rungs_are_sorted_with_their_factor_and_the_same_is_drawn_once(tmp_path):
    pytest.importorskip("matplotlib", reason=REASON)
    path, long = tmp_path / "ladder.svg", "mvc:lower_scan,fuse_movement,fuse_depthwise"
    draw({"eager": 1.0, "compiled": 1.7, "reference": 0.02, "mvc": 1.71, long: 1.8}, path, same=("compiled", "mvc"))
    found = texts(path)
    names = ["mvc:lower_scan, fuse_movement,", "fuse_depthwise", "compiled = mvc", "eager", "reference"]
    assert [text for text in found if text in names] == names, "the fastest first, long names in lines"
    for text in ("1.8 times eager", "1.7 times eager", "1.0 times eager", "0.4   0.02 times eager", "36", "34"):
        assert found.count(text) == 1, text
    assert {"images/s (clock: wall)", "MambaVision-T, 224 x 224"} <= {*found}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("ladder.pdf", "is neither .png nor .svg"),
        ("no-such-folder/ladder.png", "cannot write --plot no-such-folder/ladder.png: there is no folder"),
    ],
)
def test_refused_at_once(path, message):
    with pytest.raises(UserError, match=message):
        plot.check(Path(path))


def test_without_matplotlib_the_remedy_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'mvc-mambavision\[plot\]'"):
        plot.check(Path("ladder.png"))
