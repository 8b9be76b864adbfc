"""The private torch API that passes use, in this one place; `tests/test_torch_private.py` calls all of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch


def fake_mode(values: Iterable[Any]) -> contextlib.AbstractContextManager:
    """The mode in which the fake tensors among the values compute; where there are none, one that does nothing."""
    fakes = (value for value in values if isinstance(value, torch._subclasses.FakeTensor))
    return next((fake.fake_mode for fake in fakes), contextlib.nullcontext())


def example_size(value: Any) -> Any:
    """A symbolic size as the number that it had in the example; anything else as it is."""
    return value.node.hint if isinstance(value, torch.SymInt) else value
