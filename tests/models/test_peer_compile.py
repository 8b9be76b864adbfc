"""Vim and VMamba by the backend: one graph, no copies but those meant, scores and gradients as in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mvc.compile.compiler import check_against_eager, compile_model
from mvc.models import create_model

SCANS = {"Vim": 2, "VMamba": 4}  # directions or routes of a block
COPIES = {"Vim": 0, "VMamba": 1}  # of a map with its columns one after the other, in a block


def trial(family: str, **changes: object) -> tuple[nn.Module, Tensor]:
    """The smallest model and images, of an odd size for VMamba."""
    torch.manual_seed(0)
    images = torch.randn(3, 3, *((32, 32) if family == "Vim" else (61, 45)))
    return create_model(f"{family}-trial", **changes), images.contiguous(memory_format=torch.channels_last)


def one_block(family: str) -> tuple[nn.Module, Tensor]:
    """A Vim of a single block; of VMamba, whose four stages take long to compile, the first stage with its block."""
    if family == "Vim":
        return trial(family, depth=1)
    model, _ = trial(family)
    return model.layers[0], torch.randn(2, 16, 7, 5).contiguous(memory_format=torch.channels_last)


def assert_inference(family: str, model: nn.Module, x: Tensor, *, blocks: int) -> None:
    """Frozen: in one graph whose scans are the backend's, close to float64, with no other copies than meant."""
    compiled, report = compile_model(model.eval(), x, options={"frozen": True})
    check = check_against_eager(model, compiled, x)
    assert check.passed, check
    assert len(report.graphs) == 1
    assert report.scans == blocks * SCANS[family]
    explanation = report.explanation
    assert not [record for record in explanation.graphs[0].passes if record.error]
    launches = explanation.launches
    assert launches["torch.ops.mvc.selective_scan_cpu.default"] == blocks * SCANS[family]
    assert not [name for name in launches if "flip" in name]
    copies = sum(count for name, count in launches.items() if "clone" in name or "copy" in name)
    assert copies == blocks * COPIES[family], launches


@torch.no_grad()
def test_inference_of_vim(fresh_dynamo):
    assert_inference("Vim", *one_block("Vim"), blocks=1)


@pytest.mark.slow
@torch.no_grad()
def test_inference_of_vmamba(fresh_dynamo):
    assert_inference("VMamba", *trial("VMamba"), blocks=4)


@pytest.mark.slow
@pytest.mark.parametrize("family", SCANS)
def test_training_of_a_block(family, fresh_dynamo):
    """The gradient of every parameter."""
    model, x = one_block(family)
    compiled, report = compile_model(model.train(), x)
    check = check_against_eager(model, compiled, x)
    assert check.passed, check
    assert report.scans == SCANS[family]
