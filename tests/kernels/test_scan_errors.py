"""The public function: what it refuses, and which implementation it chooses."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from scan_cases import (
    CPU_IMPLEMENTATIONS,
    TENSORS,
    Case,
    assert_same,
    assert_scan_within_budget,
    implementation,
    make_inputs,
    map_tensors,
    run,
)

from mvc.kernels import cpu_scan, eager
from mvc.kernels.implementations import TABLE
from mvc.kernels.scan import selective_scan

WRONG_SHAPES = {
    "u": (7, 6),
    "delta": (2, 7, 5),
    "A": (6,),
    "B": (2, 7, 1, 9),
    "C": (2, 8, 1, 8),
    "D": (5,),
    "z": (2, 7, 6, 1),
    "delta_bias": (6, 1),
    "initial_state": (2, 8, 6),
    "reset": (2, 7, 1),
}
ALL_IMPLEMENTATIONS = [None, *CPU_IMPLEMENTATIONS]


@pytest.mark.parametrize("impl", ALL_IMPLEMENTATIONS)
@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_wrong_shape(name, impl):
    wrong = torch.zeros(WRONG_SHAPES[name], dtype=torch.bool if name == "reset" else torch.float32)
    with pytest.raises(ValueError, match=rf"^{name} must .*got (shape )?{re.escape(str(WRONG_SHAPES[name]))}"):
        implementation(impl)(**(make_inputs(Case()) | {name: wrong}))


@pytest.mark.parametrize("impl", ALL_IMPLEMENTATIONS)
@pytest.mark.parametrize("states", [0, 257])
def test_wrong_number_of_states(states, impl):
    with pytest.raises(ValueError, match=rf"^A has {states} states .*N must be from 1 to 256"):
        implementation(impl)(**make_inputs(Case(states=states)))


@pytest.mark.parametrize("shape", [(2, 7), (7, 2, 8), (2, 7, 1, 1, 8), (1, 7, 1, 8), (5, 8), (6, 7), (8,), ()], ids=str)
@pytest.mark.parametrize("name", ["B", "C"])
def test_wrong_shape_of_B_and_C(name, shape):
    with pytest.raises(ValueError, match=rf"^{name} must be \(batch, length, N\).*got shape {re.escape(str(shape))}"):
        selective_scan(**(make_inputs(Case()) | {name: torch.zeros(shape)}))


def test_A_for_another_dim():
    with pytest.raises(ValueError, match=r"^A must have shape \(6, 8\).*got \(5, 8\)"):
        selective_scan(**(make_inputs(Case()) | {"A": torch.zeros(5, 8)}))


@pytest.mark.parametrize("groups", [0, 4, 7])
def test_groups_that_do_not_divide_dim(groups):
    shape = (2, 7, groups, 8)
    with pytest.raises(ValueError, match=rf"^B has {groups} groups.*divide u's dim 6"):
        selective_scan(**(make_inputs(Case()) | {"B": torch.zeros(shape), "C": torch.zeros(shape)}))


@pytest.mark.parametrize(("shape", "groups"), [((2, 7, 3, 8), 3), ((2, 7, 8), 1)], ids=str)
def test_groups_of_B_and_C_differ(shape, groups):
    with pytest.raises(ValueError, match=rf"^B and C must have the same number of groups, got 2 and {groups}"):
        selective_scan(**(make_inputs(Case(groups=2)) | {"C": torch.zeros(shape)}))


REAL, HALF = {torch.float32}, {torch.float16, torch.bfloat16}
ALLOWED = dict.fromkeys(TENSORS, REAL | HALF) | {"u": REAL | HALF | {torch.float64}, "reset": {torch.bool}}
ALLOWED |= {"A": REAL, "initial_state": REAL}
DTYPES = (torch.int64, torch.bool, torch.complex64, torch.float64, torch.float32, torch.bfloat16, torch.float8_e5m2)
WRONG_DTYPES = [(name, dtype) for name in TENSORS for dtype in DTYPES if dtype not in ALLOWED[name]]


@pytest.mark.parametrize("impl", ALL_IMPLEMENTATIONS)
@pytest.mark.parametrize(("name", "dtype"), WRONG_DTYPES, ids=str)
def test_wrong_dtype(name, dtype, impl):
    inputs = make_inputs(Case())
    expected = "torch.bool" if name == "reset" else "torch.float32"
    with pytest.raises(TypeError, match=rf"^{name} must be {expected}.*, got {dtype}"):
        implementation(impl)(**(inputs | {name: inputs[name].to(dtype)}))


@pytest.mark.parametrize("impl", ["cpp", "triton"])
def test_float64_is_refused_where_it_cannot_run(impl):
    with pytest.raises(TypeError, match=rf"^u is torch.float64, which impl='{impl}' does not accept"):
        selective_scan(**make_inputs(Case(), torch.float64), impl=impl)


@pytest.mark.parametrize("impl", ALL_IMPLEMENTATIONS)
def test_dtypes_may_be_mixed(impl):
    inputs = make_inputs(Case(groups=2))
    dtypes = {"u": torch.bfloat16, "delta": torch.float16, "C": torch.bfloat16, "D": torch.float16}
    inputs |= {name: inputs[name].to(dtype) for name, dtype in dtypes.items()}
    assert_scan_within_budget(inputs, implementation(impl))


def test_complex_A_says_what_to_do():
    inputs = make_inputs(Case())
    with pytest.raises(TypeError, match="complex states are not supported: use the real form"):
        selective_scan(**(inputs | {"A": inputs["A"].to(torch.complex64)}))


@pytest.mark.parametrize("impl", ALL_IMPLEMENTATIONS)
@pytest.mark.parametrize("name", [name for name in TENSORS if name != "u"])
def test_wrong_device(name, impl):
    inputs = make_inputs(Case())
    with pytest.raises(ValueError, match=rf"^{name} must be on u's device cpu, got meta"):
        implementation(impl)(**(inputs | {name: inputs[name].to("meta")}))


@pytest.mark.parametrize("value", [None, 1.0, [[1.0]]], ids=["None", "float", "list"])
@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C"])
def test_not_a_tensor(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be a tensor, got {type(value).__name__}"):
        selective_scan(**(make_inputs(Case()) | {name: value}))


@pytest.mark.parametrize("name", ["D", "z", "delta_bias", "initial_state", "reset"])
def test_option_is_not_a_tensor(name):
    with pytest.raises(TypeError, match=rf"^{name} must be a tensor.*got float"):
        selective_scan(**(make_inputs(Case()) | {name: 1.0}))


@pytest.mark.parametrize("impl", ["Chunked", "cuda", "", 1, True], ids=repr)
def test_unknown_impl(impl):
    with pytest.raises(ValueError, match=rf"^impl is {impl!r}; it must be None or one of 'reference', 'chunked'"):
        selective_scan(**make_inputs(Case()), impl=impl)


@pytest.mark.parametrize("impl", ["cpp", "triton"])
def test_unavailable_impl(impl, monkeypatch):
    missing = dataclasses.replace(TABLE[impl], available=lambda: False)
    monkeypatch.setitem(TABLE, impl, missing)
    inputs = map_tensors(lambda t: t.to("meta"), make_inputs(Case(options=())))  # which need no device
    with pytest.raises(ValueError, match=rf"^impl='{impl}' is not available here; leave it out, or use 'chunked'"):
        selective_scan(**inputs, impl=impl)


@pytest.mark.versions
def test_without_the_cpp_scan_chunked_runs(monkeypatch):
    monkeypatch.setattr(eager, "_prepared", {})
    monkeypatch.setattr(cpu_scan, "available", lambda: False)
    inputs = make_inputs(Case(groups=2))
    assert_same(run(implementation(None), inputs), run(implementation("chunked"), inputs))


def test_the_best_for_a_cpu_is_cpp():
    inputs = make_inputs(Case(groups=2))
    assert_same(run(implementation("cpp"), inputs), run(implementation(None), inputs))


def test_the_best_for_float64_is_chunked():
    inputs = make_inputs(Case(groups=2), torch.float64)
    assert_same(run(implementation("chunked"), inputs), run(implementation(None), inputs))


def test_triton_on_a_cpu_is_refused():
    with pytest.raises(ValueError, match=r"^impl='triton' runs on cuda, u is on cpu"):
        selective_scan(**make_inputs(Case()), impl="triton")
