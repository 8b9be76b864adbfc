"""Scans as people write them, each raised to one op: whole, in parts, in every dtype and layout."""

from __future__ import annotations

import pytest
import torch
from scan_cases import make_inputs
from scan_forms import (
    FORMS,
    LENGTH,
    OPTIONS,
    VIEWS,
    Compiled,
    assert_computes_the_same,
    case_of,
    decay_of,
    mamba_py,
    mamba_ssm,
    plain_states,
    read_out,
    states_and_read_out,
    states_of,
    wide,
    with_state,
)
from torch.nn import functional as F

from mvc.kernels.recurrence import linear_recurrence

DTYPES = (torch.float32, torch.bfloat16, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_whole_scan(form, dtype):
    assert_computes_the_same(form, case_of(*OPTIONS), dtype).assert_scan_and_views_alone()


@pytest.mark.parametrize("options", [(), *((option,) for option in OPTIONS), ("reverse",), ("D", "z")], ids="+".join)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_parts_of_it(form, options):
    compiled = assert_computes_the_same(form, case_of(*options))
    compiled.assert_raised()
    compiled.assert_no_states_remain()
    assert not {"exp", "einsum", "matmul", "silu", "softplus"} & set(compiled.counts)


@pytest.mark.parametrize("options", [("constant_B",), ("constant_C",), ("constant_B", "constant_C")], ids="+".join)
def test_constant_weights(options):
    compiled = assert_computes_the_same(mamba_ssm, case_of(*OPTIONS, *options))
    compiled.assert_raised()
    assert set(compiled.counts) <= {"mvc.selective_scan", "clone", *VIEWS}


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_grouped_weights_stay_grouped(groups):
    compiled = assert_computes_the_same(mamba_ssm, case_of(*OPTIONS, groups=groups))
    compiled.assert_raised()
    assert not {"reshape", "einsum"} & set(compiled.counts)
    (scan,) = compiled.graph.find_nodes(op="call_function", target=torch.ops.mvc.selective_scan.default)
    assert [node.meta["example_value"].shape[2] for node in scan.args[3:5]] == [groups, groups]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_unknown_batch_and_length(form):
    compiled = Compiled(form)
    for batch in (3, 5):
        inputs = make_inputs(case_of(*OPTIONS, batch=batch, length=batch + 1))
        inputs.pop("reset", None)
        for name in ("u", "delta", "B", "C", "z"):
            torch._dynamo.mark_dynamic(inputs[name], [0, 1])
        torch._dynamo.mark_dynamic(inputs["initial_state"], 0)
        for actual, expected in zip(compiled.call(**inputs), form(**inputs), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    compiled.assert_raised()


def test_layers_are_raised_one_by_one():
    def two_layers(u, delta, A, B, C):
        for _ in range(2):
            _, u = states_and_read_out(u, delta, A, B, C)
        return u

    inputs = make_inputs(case_of())
    tensors = [inputs[name] for name in ("u", "delta", "A", "B", "C")]
    compiled = Compiled(two_layers)
    torch.testing.assert_close(compiled(*tensors), two_layers(*tensors), rtol=1e-4, atol=1e-5)
    compiled.assert_raised(scans=2)


@pytest.mark.parametrize("sizes", [{"batch": 1}, {"length": 1}, {"states": 1}], ids=str)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_axes_of_size_one(form, sizes):
    assert_computes_the_same(form, case_of(*OPTIONS, **sizes)).assert_raised()


def float32_result(u, delta, A, B, C):
    """Half-precision inputs, and a y that nothing rounds."""
    u, delta, B, C = wide(u), wide(delta), wide(B), wide(C)
    return read_out(plain_states(u, delta, A, B), C.squeeze(2))


def test_result_is_not_rounded_to_the_inputs_dtype():
    assert_computes_the_same(with_state(float32_result), case_of(), torch.bfloat16).assert_raised()


@pytest.mark.parametrize("where", ["inside", "around"])
def test_autocast_rounds_nothing_in_the_scan(where):
    def form(u, delta, A, B, C):
        with torch.autocast("cpu", torch.bfloat16, enabled=where == "inside" or torch.is_autocast_enabled("cpu")):
            return mamba_py(u, delta, A, B, C)

    inputs = make_inputs(case_of())
    tensors = [inputs[name] for name in ("u", "delta", "A", "B", "C")]
    compiled = Compiled(form)
    with torch.autocast("cpu", torch.bfloat16, enabled=where == "around"):
        y, last_state = compiled(*tensors)
        rounded, _ = form(*tensors)
    compiled.assert_raised()
    exact, exact_state = mamba_py(*tensors)
    assert y.dtype == rounded.dtype
    torch.testing.assert_close(last_state, exact_state, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(y, exact, rtol=2**-8, atol=1e-6)  # the matrix product rounds y to bfloat16


def test_state_kept_in_a_cache_before_the_gate():
    """The cache is the initial state, and takes the last one."""

    def form(u, delta, A, B, C, z, cache):
        states = states_of(decay_of(delta, A), (delta * u)[..., None] * B, 1, cache)
        y, last_state = read_out(states, C.squeeze(2)), states[:, -1]
        with torch.no_grad():
            cache.copy_(last_state)
        return y * F.silu(z + cache.sum())

    inputs = make_inputs(case_of("z", "initial_state"))
    *tensors, cache = [inputs[name] for name in ("u", "delta", "A", "B", "C", "z", "initial_state")]
    kept = cache.clone()
    compiled = Compiled(form)
    torch.testing.assert_close(compiled(*tensors, cache), form(*tensors, kept))
    torch.testing.assert_close(cache, kept)
    compiled.assert_raised()
    assert compiled.counts["silu"] == 1


LAST_STATES = {
    "negative index": lambda states: states[:, -1],
    "index": lambda states: states[:, LENGTH - 1],
    "slice": lambda states: states[:, -1:].squeeze(1),
    "select": lambda states: states.select(1, -1),
    "narrow": lambda states: torch.narrow(states, 1, LENGTH - 1, 1)[:, 0],
    "of a view": lambda states: states.permute(0, 2, 3, 1)[..., -1],
    "kept axis": lambda states: states.narrow(1, LENGTH - 1, 1),
}


@pytest.mark.parametrize("last", LAST_STATES.values(), ids=LAST_STATES)
def test_last_state(last):
    def form(u, delta, A, B, C, delta_softplus, reverse):
        states = plain_states(u, delta, A, B)
        return read_out(states, C.squeeze(2)), last(states)

    assert_computes_the_same(form, case_of()).assert_scan_and_views_alone()


def test_public_function():
    def form(u, delta, A, B, C):
        states = linear_recurrence(decay_of(delta, A), (delta * u)[..., None] * B, dim=-3)
        return read_out(states, C.squeeze(2))

    inputs = make_inputs(case_of())
    tensors = [inputs[name] for name in ("u", "delta", "A", "B", "C")]
    compiled = Compiled(form)
    torch.testing.assert_close(compiled(*tensors), form(*tensors), rtol=1e-4, atol=1e-5)
    compiled.assert_raised()
