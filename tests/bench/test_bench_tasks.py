"""bench/tasks.py compares windows as published with those of valid tokens, at the windows published for each size."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys

import pytest
from places import ROOT


def test_a_small_run_compares_both_kinds_of_windows(tmp_path):
    """At 64 x 96 stage 3 has 4 x 6 tokens: of windows of 4 one is whole and one is cut."""
    options = ["--variant", "tiny", "--sizes", "64x96", "--windows", "4", "2", "--rounds", "2", "--how", "eager"]
    command = [sys.executable, str(ROOT / "bench" / "tasks.py"), *options, "--json", str(tmp_path / "t.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "t.json").read_text())["sizes"]["64x96"]
    assert found["windows"] == [4, 2]
    assert list(found["rows"]) == ["as published, eager", "of valid tokens, eager"]
    padded, valid = found["rows"].values()
    assert len(padded["seconds"]) == len(valid["seconds"]) == 2
    median, low, high = found["valid_over_padded"]["eager"]
    assert low <= median <= high
    assert valid["times_as_fast"][0] == pytest.approx(median)
    assert f"{median:.2f}" in done.stdout


@pytest.mark.parametrize(("variant", "at_512"), [("T", (64, 32)), ("S", (160, 56)), ("B", (64, 32))])
def test_the_published_windows_are_the_default(monkeypatch, variant, at_512):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    windows_of = runpy.run_path(str(ROOT / "bench" / "tasks.py"))["windows_of"]
    assert windows_of(variant, (512, 512)) == at_512
    assert windows_of(variant, (800, 1333)) == (112, 56)
