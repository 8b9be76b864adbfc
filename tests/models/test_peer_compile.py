"""Vim and VMamba by the backend: one graph, no copies but those meant, scores and gradients as in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvc.compile.compiler import check_against_eager, compile_model
from mvc.models import create_model

SCANS = {"Vim": 2 * 2, "VMamba": 4 * 4}  # directions or routes of all blocks
COPIES = {"Vim": 0, "VMamba": 4}  # of a map with its columns one after the other, in each block


def trial(family: str) -> tuple[torch.nn.Module, Tensor]:
    """The smallest model and images, of an odd size for VMamba."""
    torch.manual_seed(0)
    images = torch.randn(3, 3, *((32, 32) if family == "Vim" else (61, 45)))
    return create_model(f"{family}-trial"), images.contiguous(memory_format=torch.channels_last)


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
    assert not [name for name in launches if "flip" in name]
    copies = sum(count for name, count in launches.items() if "clone" in name or "copy" in name)
    assert copies == COPIES[family], launches


@pytest.mark.slow
@pytest.mark.parametrize("family", SCANS)
def test_training(family, fresh_dynamo):
    """The gradient of every parameter; of VMamba, in one stage."""
    model, x = trial(family)
    if family == "VMamba":
        model, x = model.layers[0], torch.randn(2, 16, 7, 5).contiguous(memory_format=torch.channels_last)
    compiled, report = compile_model(model.train(), x)
    check = check_against_eager(model, compiled, x)
    assert check.passed, check
    assert report.scans == 4
