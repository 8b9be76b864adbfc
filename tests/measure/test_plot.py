"""The picture of a ladder, and what is refused before anything is measured."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from mvc.errors import UserError
from mvc.measure import plot
from mvc.measure.ladder import Row

ROW = Row(0.1, 0.09, 0.12, None, 20.0, 1.0, 1.0, 1.0, 2**30, None, None, 0.5, 0.6)


@pytest.mark.parametrize("names", [("reference", "eager", "mvc:lower_scan"), ("eager", "compiled")])
@pytest.mark.parametrize("suffix", plot.FORMATS)
def test_draws_every_rung(suffix, names, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib, of the extra `plot`, is not installed")
    path = tmp_path / f"ladder{suffix}"
    plot.check(path)
    plot.ladder(dict.fromkeys(names, ROW), path, batch=2, label="(clock: wall)", title="MambaVision-T")
    assert list(tmp_path.iterdir()) == [path]
    if suffix == ".svg":
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        for text in (*names, "images/s (clock: wall)", "MambaVision-T", "20.0"):
            assert f"<!-- {text} -->" in path.read_text()
    else:
        assert path.read_bytes().startswith(b"\x89PNG")


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
