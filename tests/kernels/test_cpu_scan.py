"""The C++ scan and its backward against the reference in float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from scan_cases import (
    ALL_OPTIONS,
    Case,
    Inputs,
    assert_scan_within_budget,
    make_inputs,
    op_arguments,
    run,
    tensors_of,
)

from mvc.kernels import cpu_scan
from mvc.kernels.scan import selective_scan
from mvc.kernels.schemas import op

if not cpu_scan.available():
    pytest.skip("the C++ scan cannot be built or loaded here", allow_module_level=True)

scan = partial(selective_scan, impl="cpp", return_last_state=True)

CASES = [
    *(Case(batch=2, length=length, dim=19) for length in (0, 1, 31, 32, 33, 63, 64, 65, 130)),
    *(Case(batch=2, length=7, dim=dim) for dim in (0, 1, 7, 8, 15, 16, 17, 33)),
    *(Case(batch=1, length=9, dim=20, groups=groups) for groups in (2, 4, 10, 20)),
    *(Case(batch=1, length=35, dim=5, states=states) for states in (1, 2, 3, 4, 5, 16, 33, 256)),
    Case(batch=9, length=5, dim=40, states=3),
    Case(batch=0),
]
FORMS = ("reverse", "constant_B", "constant_C")
OPTION_CASES = [
    *(Case(length=40, dim=18, groups=2, options=(name,)) for name in (*ALL_OPTIONS, *FORMS)),
    *(Case(length=40, dim=18, groups=2).plus(*forms) for forms in (FORMS, FORMS[:1], FORMS[1:])),
    Case(length=40, dim=18, options=()),
]


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    """With few blocks, more threads than one cut the length into segments."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def nan_in_fresh_memory():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def by_length(inputs: Inputs) -> Inputs:
    return inputs | {name: inputs[name].mT.contiguous().mT for name in ("u", "delta", "z") if name in inputs}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sizes(case, nan_in_fresh_memory):
    assert_scan_within_budget(make_inputs(case), scan)


@pytest.mark.parametrize("case", OPTION_CASES, ids=str)
def test_options(case, threads, nan_in_fresh_memory):
    assert_scan_within_budget(make_inputs(case), scan)


@pytest.mark.parametrize("form", [(), ("reverse",), ("constant_B", "constant_C")], ids=["plain", "reverse", "constant"])
@pytest.mark.parametrize("dim", [3, 16, 40])
def test_segments(dim, form, threads, nan_in_fresh_memory):
    """One short batch: blocks are fewer than threads."""
    assert_scan_within_budget(make_inputs(Case(batch=1, length=200, dim=dim, states=3).plus(*form)), scan)


@pytest.mark.parametrize("layout", [lambda inputs: inputs, by_length], ids=["by-channel", "by-length"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes_and_layouts(dtype, layout):
    for case in (Case(length=70, dim=37), Case(length=33, dim=32).plus("reverse")):
        assert_scan_within_budget(layout(make_inputs(case, dtype)), scan)


def test_mixed_dtypes():
    inputs = make_inputs(Case(length=33, dim=18, groups=2))
    mixed = inputs | {"u": inputs["u"].bfloat16(), "B": inputs["B"].half(), "D": inputs["D"].bfloat16()}
    assert_scan_within_budget(mixed, scan)
    results = run(scan, mixed)
    assert [results[f"gradient of {name}"].dtype for name in ("u", "delta", "B", "D")] == [
        torch.bfloat16,
        torch.float32,
        torch.float16,
        torch.bfloat16,
    ]


def test_inputs_are_not_copied_and_not_written_to():
    """Expanded inputs, whose copies would be large; each keeps its values."""
    inputs = make_inputs(Case(batch=3, length=33, dim=18))
    inputs |= {name: inputs[name][:1].expand(3, -1, -1) for name in ("u", "delta", "z")}
    before = {name: tensor.clone() for name, tensor in tensors_of(inputs).items()}
    assert_scan_within_budget(inputs, scan)
    assert all(torch.equal(inputs[name], tensor) for name, tensor in before.items())


def test_bitwise_the_same_in_every_run(threads):
    inputs = make_inputs(Case(batch=1, length=150, dim=40))
    first, second = (run(scan, inputs) for _ in range(2))
    for name, tensor in first.items():
        assert torch.equal(second[name], tensor), name


def test_nan_stays_nan():
    for name in ("u", "delta", "A", "B", "C"):
        inputs = make_inputs(Case(options=("softplus",)))
        inputs[name].view(-1)[0] = float("nan")
        assert scan(**inputs)[0].isnan().any(), name


NONSENSE = {
    "u": (torch.zeros(7, 6), ValueError),
    "delta": (torch.zeros(2, 7, 5), ValueError),
    "A": (torch.zeros(6, 8, dtype=torch.float64), TypeError),
    "B": (torch.zeros(2, 7, 4, 8), ValueError),
    "C": (torch.zeros(2, 7, 8), ValueError),
    "D": (torch.zeros(6, dtype=torch.int64), TypeError),
    "z": (torch.zeros(2, 7, 6, dtype=torch.float64), TypeError),
    "delta_bias": (torch.zeros(1), ValueError),
    "initial_state": (torch.zeros(2, 8, 6), ValueError),
    "reset": (torch.zeros(2, 7), TypeError),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_raw_op_refuses_nonsense(name):
    value, error = NONSENSE[name]
    arguments = op_arguments(make_inputs(Case()) | {name: value})
    with pytest.raises(error, match=name):
        op("selective_scan_cpu")(*arguments)


def test_raw_backward_refuses_wrong_gradients():
    arguments = op_arguments(make_inputs(Case()))
    y, last_state = op("selective_scan_cpu")(*arguments)
    with pytest.raises(ValueError, match="grad_y"):
        op("selective_scan_cpu", backward=True)(y[:1], last_state, *arguments)
    with pytest.raises(ValueError, match="grad_last_state"):
        op("selective_scan_cpu", backward=True)(y, last_state[:1], *arguments)
