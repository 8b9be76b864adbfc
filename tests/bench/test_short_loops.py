"""The study of short loops measures what it says: each of its loops is one that can be raised."""

from __future__ import annotations

import pytest
import torch
from toy_passes import capture

from bench import short_loops
from mvc.passes import pipeline


@pytest.mark.parametrize("form", short_loops.FORMS)
def test_every_form_can_be_raised(form):
    inputs = short_loops.Cell(form, "small", False, 3).inputs()
    module, _ = capture(short_loops.FORMS[form].loop, *inputs)
    loops, *_ = pipeline.run(short_loops.ALWAYS["passes"][:1], module, strict=True)
    assert loops.matches >= 1, loops.near_misses


def test_what_is_left_alone_is_not_timed(monkeypatch):
    monkeypatch.setattr(short_loops.profiler, "measure", lambda *args, **kwargs: pytest.fail("timed"))
    row = short_loops.measure(short_loops.Cell("full", "small", False, 2), rounds=1, every=False)
    assert not row["raised"]
    assert "2 steps over 256 elements" in row["reasons"][0]
    assert "ratio" not in row


def test_gradients_are_asked_for():
    with torch.enable_grad():
        cell = short_loops.Cell("read-out", "small", True, 2)
        run = short_loops.called(short_loops.FORMS["read-out"].loop, cell.inputs(), {"backend": "eager"})
        assert [each.shape for each in run()] == [each.shape for each in cell.inputs()]
