"""The table of implementations: a row is all that public functions, ops, passes, backend and command need of one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from scan_cases import Case, make_inputs
from torch import Tensor
from toy_passes import capture

from mvc import explain, linear_recurrence, selective_scan
from mvc.compile.__main__ import _parser
from mvc.compile.backend import Options
from mvc.errors import UserError
from mvc.kernels import eager, implementations
from mvc.kernels.implementations import TABLE, Implementation
from mvc.kernels.recurrence import ops as recurrence_ops
from mvc.kernels.scan import chunked, ops, rules
from mvc.passes.graph.fx_utils import op_counts
from mvc.passes.lowering.lower_scan import LowerScan

pytestmark = pytest.mark.versions

CPU = torch.device("cpu")
REFUSED = "u is torch.bfloat16, which impl='other' does not accept; use 'cpp' or 'chunked' or 'reference'"
ran: list[str] = []


def noting(name: str, function: Callable) -> Callable:
    def noted(*inputs: Tensor | bool | int | None) -> Tensor | tuple[Tensor, ...]:
        ran.append(name)
        return function(*inputs)

    return noted


@functools.cache
def registered() -> bool:
    """Defines the ops of an implementation that is no part of mvc, once for the process."""
    backward = noting("backward", ops.run_chunked_backward)
    rules.define_scan("selective_scan_other", noting("scan", chunked.selective_scan), backward)
    recurrence_ops.define_recurrence("linear_recurrence_other", noting("recurrence", recurrence_ops.in_torch))
    return True


@pytest.fixture(autouse=True)
def _other(monkeypatch):
    """One more row, the fastest on a CPU."""
    monkeypatch.setattr(eager, "_prepared", {})
    monkeypatch.setitem(TABLE, "other", Implementation("_other", ("cpu",), (torch.bfloat16,), registered))
    ran.clear()


def tensors(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    inputs = make_inputs(Case(options=()), dtype)
    return inputs["u"], inputs["A"], inputs["B"]


def scan_and_recurrence(u: Tensor, A: Tensor, B: Tensor, impl: str | None = None) -> Tensor:
    y = selective_scan(u, u, A, B, B, impl=impl)
    return linear_recurrence(y.sigmoid(), y, dim=1, impl=impl)


@pytest.mark.parametrize("impl", ["other", None], ids=str)
def test_public_functions_run_it(impl):
    u, A, B = tensors()
    u.requires_grad_()
    results = [scan_and_recurrence(u, A, B, each) for each in (impl, "chunked")]
    gradients = [torch.autograd.grad(result.sum(), u)[0] for result in results]
    assert ran == ["scan", "recurrence", "recurrence", "backward"]  # a recurrence is its own backward
    assert torch.equal(*results)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("impl", ["other", None], ids=str)
def test_passes_lower_to_it(impl):
    module, _ = capture(scan_and_recurrence, *tensors())
    assert LowerScan(impl)(module.graph).matches == 2
    counts = op_counts(module.graph)
    assert counts["mvc.selective_scan_other"] == counts["mvc.linear_recurrence_other"] == 1


def test_the_backend_compiles_it():
    explanation = explain(scan_and_recurrence, *tensors(), options={"impl": "other"})
    (report,) = explanation.graphs
    assert report.after["mvc.selective_scan_other"] == report.after["mvc.linear_recurrence_other"] == 1
    assert ran == ["scan", "recurrence"]


def test_the_command_takes_it():
    assert _parser().parse_args(["--impl", "other"]).impl == "other"


def test_its_obstacle_is_told():
    u, A, B = tensors(torch.bfloat16)
    with pytest.raises(TypeError, match=REFUSED):
        selective_scan(u, u, A, B, B, impl="other")
    module, _ = capture(scan_and_recurrence, u, A, B)
    (miss, _) = LowerScan("other")(module.graph).near_misses
    assert miss.reason == REFUSED.replace("u is", "the result is")
    assert implementations.fastest(CPU, torch.bfloat16) != "other"


def test_a_wrong_name_is_answered_with_all_names():
    names = "'reference', 'chunked', 'cpp', 'triton', 'other'"
    with pytest.raises(ValueError, match=f"it must be None or one of {names}"):
        scan_and_recurrence(*tensors(), impl="another")
    with pytest.raises(UserError, match=f"one of None, {names}"):
        Options(impl="another")


def test_type_checkers_know_every_name():
    assert (*get_args(implementations.Name), "other") == tuple(TABLE)


def test_devices_and_dtypes_decide():
    def obstacle(name: str, device: str) -> str | None:
        return implementations.obstacle(name, torch.device(device), torch.float32)

    assert implementations.fastest(CPU, torch.float32) == "other"
    assert implementations.fastest(torch.device("mps"), torch.float32) == "chunked"
    assert implementations.fastest(CPU, torch.float64) == "other"
    assert implementations.fastest(torch.device("cuda"), torch.float64) == "chunked"
    assert obstacle("other", "cuda") == (
        "impl='other' runs on cpu, the result is on cuda; leave impl out for the best for a device"
    )
    assert obstacle("other", "meta") is None
    assert obstacle("chunked", "xpu") is None
