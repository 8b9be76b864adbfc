"""Change points over recordings, with the commits between which they lie."""

import sys

import numpy as np
import pytest
from test_regress_store import COMMIT, recording

from mvc.errors import UserError
from mvc.regress import history, store
from mvc.regress.__main__ import main

pytestmark = pytest.mark.versions


def write(folder, *, changed_at, count=30):
    """Recordings of one commit each, in files whose names say nothing of the order; 8 % slower from one on."""
    draw = np.random.default_rng(0)
    for index in range(count):
        seconds = 0.01 * (1.08 if index >= changed_at else 1.0) * float(np.exp(draw.normal(0, 0.005)))
        commit = COMMIT | {"id": f"{index:02d}" * 6, "time": f"2026-01-{index + 1:02d}T03:00:00+00:00"}
        store.write(recording(seconds)._replace(commit=commit), folder / f"{hash(index) * 7919 % 101}.json")


def test_a_change_names_its_commits(tmp_path, capsys):
    pytest.importorskip("otava", reason="Apache Otava, of the extra `history`, is not installed")
    write(tmp_path, changed_at=18)
    assert main(["history", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"in {'17' * 6}..{'18' * 6}" in printed
    assert "1 change points in 30 recordings" in printed
    (point,) = history.change_points(history.read(tmp_path)[0])
    assert point.after / point.before == pytest.approx(1.08, rel=0.01)


def test_no_change_is_none(tmp_path):
    pytest.importorskip("otava", reason="Apache Otava, of the extra `history`, is not installed")
    write(tmp_path, changed_at=99)
    assert history.change_points(history.read(tmp_path)[0]) == []


def test_without_otava_the_remedy_is_said(tmp_path, monkeypatch, capsys):
    write(tmp_path, changed_at=2, count=4)
    monkeypatch.setitem(sys.modules, "otava", None)
    monkeypatch.setitem(sys.modules, "otava.series", None)
    assert main(["history", str(tmp_path)]) == 64
    assert "pip install 'mvc-mambavision[history]'" in capsys.readouterr().err


def test_unusable_files_are_left_out_and_named(tmp_path):
    write(tmp_path, changed_at=2, count=3)
    (tmp_path / "foreign.json").write_text("{}")
    recordings, unusable = history.read(tmp_path)
    assert len(recordings) == 3
    assert len(unusable) == 1
    assert "foreign.json is not a recording" in unusable[0]


def test_an_empty_folder_says_how_to_record(tmp_path):
    with pytest.raises(UserError, match=r"has no recording; write some with .*record --baselines"):
        history.read(tmp_path)
