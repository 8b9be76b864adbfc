"""The picture of a ladder, and what is refused before anything is measured."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from mvc.errors import UserError
from mvc.measure import plot

ROW = {"median_seconds": 0.1, "p10_seconds": 0.09, "p90_seconds": 0.12, "images_per_second": 20.0}
FACTS = {
    "model": {"variant": "T", "training": False, "batch": 2, "dtype": "float32"},
    "environment": {"device": "cpu: A CPU", "torch": "2.14.1"},
    "timing": {"eager": ROW, "compiled": ROW, "clock": "wall", "rounds": 10},
    "ladder": [{"name": name, **ROW} for name in ("reference", "eager", "mvc:lower_scan")],
}


@pytest.mark.parametrize("ladder", [FACTS["ladder"], None], ids=["ladder", "two"])
@pytest.mark.parametrize("suffix", plot.FORMATS)
def test_draws_every_rung(suffix, ladder, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib, of the extra `plot`, is not installed")
    path = tmp_path / f"ladder{suffix}"
    plot.check(path)
    plot.ladder(FACTS | {"ladder": ladder}, path)
    assert list(tmp_path.iterdir()) == [path]
    if suffix == ".svg":
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        for name in ("reference", "mvc:lower_scan") if ladder else ("eager", "compiled"):
            assert f"<!-- {name} -->" in path.read_text()
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
