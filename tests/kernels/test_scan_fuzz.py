"""Random shapes, strides, dtypes and options of the scan against the reference in float64, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from scan_cases import (
    ALL_OPTIONS,
    FORMS,
    TENSORS,
    Case,
    Inputs,
    assert_scan_within_budget,
    implementation,
    make_inputs,
    run,
    tensors_of,
)
from torch import Tensor

from mvc.kernels.scan.checks import SEQUENCE_DTYPES

pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import given, settings, strategies as st

# The same examples in every run: a failure is one of the code.
repeatable = settings(deadline=None, derandomize=True, database=None, max_examples=60)


def transposed(tensor: Tensor) -> Tensor:
    return tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor


def reversed_axes(tensor: Tensor) -> Tensor:
    axes = tuple(reversed(range(tensor.dim())))
    return tensor.permute(axes).contiguous().permute(axes)


def poisoned(tensor: Tensor, *shape: int) -> Tensor:
    """Memory that must not be read: NaN, or a reset."""
    return tensor.new_full(shape, True if tensor.dtype == torch.bool else math.nan)


def every_second(tensor: Tensor) -> Tensor:
    *others, last = tensor.shape
    return poisoned(tensor, *others, 2 * last + 1)[..., 1::2].copy_(tensor)


def misaligned(tensor: Tensor) -> Tensor:
    return poisoned(tensor, tensor.numel() + 2)[1:-1].view(tensor.shape).copy_(tensor)


def middle(tensor: Tensor) -> Tensor:
    """Of a tensor with two more places on each side of every axis."""
    around = [size + 4 for size in tensor.shape]
    return poisoned(tensor, *around)[(slice(2, -2),) * tensor.dim()].copy_(tensor)


def expanded_first(tensor: Tensor) -> Tensor:
    return tensor[:1].expand(tensor.shape)


def expanded_last(tensor: Tensor) -> Tensor:
    return tensor[..., :1].expand(tensor.shape)


LAYOUTS = {
    layout.__name__: layout
    for layout in (
        torch.clone, transposed, reversed_axes, every_second, misaligned, middle, expanded_first, expanded_last
    )
}  # fmt: skip


class Call(NamedTuple):
    """Printed by hypothesis when it fails: enough to build it again."""

    case: Case
    dtypes: dict[str, torch.dtype]
    layouts: dict[str, str]
    delta_scale: float
    seed: int

    def inputs(self) -> Inputs:
        inputs = make_inputs(self.case, self.dtypes["u"], self.seed)
        inputs["delta"] = inputs["delta"] * self.delta_scale
        for name, tensor in tensors_of(inputs).items():
            typed = tensor.to(self.dtypes.get(name, tensor.dtype))
            inputs[name] = LAYOUTS[self.layouts[name]](typed) if typed.numel() else typed
        return inputs


@st.composite
def calls(draw: Callable, dtypes: tuple[torch.dtype, ...]) -> Call:
    groups = draw(st.integers(1, 3))
    case = Case(
        batch=draw(st.integers(0, 3)),
        length=draw(st.integers(0, 12) | st.integers(13, 150)),
        dim=groups * draw(st.integers(0, 20)),
        states=draw(st.integers(1, 9) | st.sampled_from((16, 17, 33))),
        groups=groups,
        options=tuple(draw(st.lists(st.sampled_from((*ALL_OPTIONS, *FORMS)), unique=True))),
    )
    mixed = [name for name in TENSORS if name not in ("A", "initial_state", "reset")]
    of_u = draw(st.sampled_from(dtypes))
    others = st.just(of_u) | st.sampled_from(SEQUENCE_DTYPES) if of_u != torch.float64 else st.just(of_u)
    return Call(
        case,
        {name: of_u if name == "u" else draw(others) for name in mixed},
        {name: draw(st.sampled_from(list(LAYOUTS))) for name in TENSORS},
        draw(st.sampled_from((1.0, 1e-3, 10.0))),
        draw(st.integers(0, 1000)),
    )


@repeatable
@given(calls((*SEQUENCE_DTYPES, torch.float64)))
def test_chunked(call):
    assert_scan_within_budget(call.inputs(), implementation("chunked"))


@repeatable
@given(calls(SEQUENCE_DTYPES))
def test_default(call):
    """In C++ where that can be built."""
    assert_scan_within_budget(call.inputs(), implementation(None))


@repeatable
@given(calls(SEQUENCE_DTYPES))
def test_layouts_change_no_number(call):
    """The strides of its inputs decide where the C++ scan reads, not what it computes."""
    scan, inputs = implementation("cpp"), call.inputs()
    dense = inputs | {name: tensor.contiguous() for name, tensor in tensors_of(inputs).items()}
    expected = run(scan, dense)
    for name, result in run(scan, inputs).items():
        assert torch.equal(result, expected[name]), name
        assert result.is_contiguous(), name
