"""What is said where an optional package is missing."""

from __future__ import annotations

import sys

import pytest
import torch

from mvc.errors import UserError
from mvc.tasks.boxes import nms_by_group
from mvc.tasks.detection import create_detector
from mvc.tasks.metrics import coco_average_precision

BOXES = torch.tensor([[0.0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("torchvision", lambda: create_detector("tiny")),
        ("torchvision", lambda: nms_by_group(BOXES, BOXES[:, 2], torch.tensor([0]), 0.5)),
        ("pycocotools", lambda: coco_average_precision({}, [])),
    ],
)
def test_the_extra_is_named(monkeypatch, package, use):
    for module in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"need {package} here .*pip install 'mvc-mambavision\[tasks\]'"):
        use()
