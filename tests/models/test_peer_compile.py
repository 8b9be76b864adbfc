"""Vim and VMamba by the backend: one graph, no copies but one, the scores and gradients of the models in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvc.compile.compiler import check_against_eager, compile_model
from mvc.models import create_model

SCANS = {"Vim": 2 * 2, "VMamba": 4 * 4}  # directions or routes of all blocks
BLOCKS = {"Vim": 2, "VMamba": 4}


def trial(family: str) -> tuple[torch.nn.Module, Tensor]:
    """The smallest model and images, odd for VMamba."""
    torch.manual_seed(0)
    size = (32, 32) if family == "Vim" else (61, 45)
    return create_model(f"{family}-trial"), torch.randn(3, 3, *size)


@torch.no_grad()
@pytest.mark.parametrize("family", SCANS)
def test_inference(family, fresh_dynamo):
    model, images = trial(family)
    compiled, report = compile_model(model.eval(), images, options={"frozen": True})
    check = check_against_eager(model, compiled, images)
    assert check.passed, check
    assert len(report.graphs) == 1
    assert report.scans == SCANS[family]
    explanation = report.explanation
    assert not [record for record in explanation.graphs[0].passes if record.error]
    launches = explanation.launches
    assert launches["torch.ops.mvc.selective_scan_cpu.default"] == SCANS[family]
    assert not [name for name in launches if "flip" in name or "cat_" in name.replace("add_cat_expand", "")]
    copies = sum(count for name, count in launches.items() if "clone" in name or "copy" in name)
    assert copies == (BLOCKS[family] if family == "VMamba" else 0), launches


@pytest.mark.slow
@pytest.mark.parametrize("family", SCANS)
def test_training(family, fresh_dynamo):
    """The gradient of every parameter."""
    model, images = trial(family)
    compiled, report = compile_model(model.train(), images)
    check = check_against_eager(model, compiled, images)
    assert check.passed, check
    assert report.scans == SCANS[family]
