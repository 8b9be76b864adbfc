"""mamba-ssm's functions against a recurrence written out here."""

from __future__ import annotations

import pytest
import torch
from compat_cases import (
    BATCH,
    DIM,
    GROUPS,
    LENGTH,
    WIDTH,
    N,
    assert_like,
    inner,
    inner_inputs,
    recurrence,
    scan_inputs,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mvc.compat.mamba_ssm import mamba_inner_fn, selective_scan_fn, selective_scan_ref, selective_state_update


def with_last_state(**inputs):
    return selective_scan_fn(**inputs, return_last_state=True)


@pytest.mark.parametrize("options", [True, False], ids=["options", "plain"])
@pytest.mark.parametrize(
    ("B", "C"),
    [
        ("shared", "shared"),
        ("grouped", "grouped"),
        ("constant", "constant"),
        ("constant", "shared"),
        ("grouped", "constant"),
    ],
)
def test_selective_scan_fn(B, C, options):
    assert_like(with_last_state, recurrence, scan_inputs(B, C, options))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_selective_scan_fn_in_half_precision(dtype):
    assert_like(with_last_state, recurrence, scan_inputs("grouped", "grouped"), dtype)


def test_only_y_without_return_last_state():
    inputs = scan_inputs()
    assert torch.equal(selective_scan_fn(**inputs), with_last_state(**inputs)[0])


def test_selective_scan_ref_can_be_differentiated_twice():
    inputs = scan_inputs("grouped", "grouped")
    assert_like(lambda **inputs: selective_scan_ref(**inputs, return_last_state=True), recurrence, inputs)
    u = inputs["u"].requires_grad_()
    (gradient,) = torch.autograd.grad(selective_scan_ref(**inputs).square().sum(), u, create_graph=True)
    assert torch.autograd.grad(gradient.sum(), u)[0].abs().max() > 0


class SeenByTheOp(TorchDispatchMode):
    """Keeps the tensors that `mvc::selective_scan` was called with."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.mvc.selective_scan.default:
            self.tensors = [t for t in args if torch.is_tensor(t)]
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("transposed", [False, True], ids=["length contiguous", "dim contiguous"])
def test_nothing_is_copied_on_the_way_to_the_op(transposed):
    inputs = scan_inputs("grouped", "grouped")
    if transposed:
        for name in ("u", "delta", "z", "B", "C"):
            inputs[name] = inputs[name].movedim(-1, 1).contiguous().movedim(1, -1)
    with SeenByTheOp() as seen:
        selective_scan_fn(**inputs)
    assert {t.data_ptr() for t in seen.tensors} == {t.data_ptr() for t in inputs.values() if torch.is_tensor(t)}


def test_autocast_changes_nothing():
    inputs = scan_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = selective_scan_fn(**inputs)
    assert torch.equal(y, selective_scan_fn(**inputs))


def test_autocast_reaches_the_projections_of_mamba_inner_fn():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = mamba_inner_fn(**inner_inputs("D", "delta_bias"))
    assert y.dtype == torch.bfloat16


def test_channels_of_y_can_be_split_by_view():
    """As models that scan one image along several paths do."""
    assert selective_scan_fn(**scan_inputs()).view(BATCH, 2, DIM // 2, LENGTH).shape == (BATCH, 2, DIM // 2, LENGTH)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("D", "delta_bias"),
        ("D", "delta_bias", "B_proj_bias", "C_proj_bias"),
        ("B", "C", "D"),
        ("C", "delta_bias", "B_proj_bias"),
        ("delta_bias", "b_rms_weight", "c_rms_weight", "dt_rms_weight"),
        ("C", "c_rms_weight"),
    ],
    ids=lambda options: "+".join(options) or "plain",
)
def test_mamba_inner_fn(options):
    inputs = inner_inputs(*options) | {"b_c_dt_rms_eps": 1e-3}
    assert_like(mamba_inner_fn, inner, inputs)


def test_mamba_inner_fn_without_softplus_and_biases():
    inputs = inner_inputs("D") | {"conv1d_bias": None, "out_proj_bias": None, "delta_softplus": False}
    inputs |= {"checkpoint_lvl": 0, "delta_proj_weight": inputs["delta_proj_weight"] / 8}
    assert_like(mamba_inner_fn, inner, inputs)


def step_inputs(inputs: dict[str, Tensor | bool], t: int) -> dict[str, Tensor | bool]:
    """`selective_state_update`'s arguments for step t of `selective_scan_fn`'s."""
    at = {name: inputs[name][..., t] for name in ("B", "C", "z")} | {"x": inputs["u"][..., t]}
    at |= {"dt": inputs["delta"][..., t], "A": inputs["A"], "D": inputs["D"]}
    return at | {"dt_bias": inputs["delta_bias"], "dt_softplus": inputs["delta_softplus"]}


def test_steps_of_selective_state_update_make_the_scan():
    inputs = scan_inputs()
    state = torch.zeros(BATCH, DIM, N)
    steps = [selective_state_update(state, **step_inputs(inputs, t)) for t in range(LENGTH)]
    y, last_state = recurrence(**inputs)
    torch.testing.assert_close(torch.stack(steps, dim=2), y)
    torch.testing.assert_close(state, last_state)


def test_selective_state_update_with_heads():
    """Heads are channels, and a group of B and C serves neighbouring heads."""
    heads, step = (GROUPS, DIM // GROUPS), step_inputs(scan_inputs("grouped", "grouped"), 0)
    flat, state = torch.ones(BATCH, DIM, N), torch.ones(BATCH, *heads, N)
    expected = selective_state_update(flat, **step)
    for name in ("x", "dt", "z"):
        step[name] = step[name].unflatten(1, heads)
    for name in ("A", "D", "dt_bias"):
        step[name] = step[name].unflatten(0, heads)
    y = selective_state_update(state, **step)
    assert torch.equal(y, expected.unflatten(1, heads))
    assert torch.equal(state, flat.unflatten(1, heads))


def test_selective_state_update_keeps_dtypes():
    step = {name: t.bfloat16() if torch.is_tensor(t) else t for name, t in step_inputs(scan_inputs(), 0).items()}
    state = torch.ones(BATCH, DIM, N, dtype=torch.bfloat16)
    assert selective_state_update(state, **step).dtype == torch.bfloat16
    assert state.dtype == torch.bfloat16
    assert (state != 1).any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"u": None}, TypeError, "u must be a tensor, got NoneType"),
        ({"u": torch.ones(DIM, LENGTH)}, ValueError, r"u must be \(batch, dim, length\), got shape \(6, 9\)"),
        ({"delta": torch.ones(BATCH, LENGTH, DIM)}, ValueError, r"delta must be .* with batch 2, dim 6, .*\(2, 9, 6\)"),
        ({"A": torch.ones(DIM, N, dtype=torch.complex64)}, TypeError, "A is torch.complex64; .* use the real form"),
        ({"A": torch.ones(DIM, N).bfloat16()}, TypeError, "A must be torch.float32 .*, got torch.bfloat16"),
        ({"A": torch.ones(N, DIM)}, ValueError, r"A must be \(dim, N\) with dim 6, got shape \(5, 6\)"),
        ({"B": torch.ones(BATCH, LENGTH, N)}, ValueError, r"B must be \(dim, N\) or .*got shape \(2, 9, 5\)"),
        ({"B": torch.ones(BATCH, 4, N, LENGTH)}, ValueError, "B has 4 groups; their number must divide u's dim 6"),
        ({"D": torch.ones(5)}, ValueError, r"D must be \(dim,\) with dim 6, got shape \(5,\)"),
        ({"z": torch.ones(1, DIM, LENGTH)}, ValueError, r"z must be .*, got shape \(1, 6, 9\)"),
        ({"delta_bias": torch.ones(DIM, device="meta")}, ValueError, "delta_bias must be on u's device cpu, got meta"),
    ],
)
def test_selective_scan_fn_says_what_is_wrong(change, error, message):
    with pytest.raises(error, match=message):
        selective_scan_fn(**(scan_inputs() | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"xz": torch.ones(BATCH, 2 * DIM + 1, LENGTH)}, r"xz must have 12 channels, .* got shape \(2, 13, 9\)"),
        ({"conv1d_weight": torch.ones(DIM, WIDTH)}, r"conv1d_weight must be \(dim, 1, width\) .*got shape \(6, 4\)"),
        ({"x_proj_weight": torch.ones(N, DIM)}, "x_proj_weight has 5 rows, too few for R 2 and N 5"),
        ({"out_proj_weight": torch.ones(7, 5)}, r"out_proj_weight must be \(features, dim\) .*got shape \(7, 5\)"),
        ({"checkpoint_lvl": 2}, "checkpoint_lvl must be 0 or 1, got 2"),
    ],
)
def test_mamba_inner_fn_says_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        mamba_inner_fn(**(inner_inputs() | change))


def test_selective_state_update_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"x must be .* with batch 2, dim 6, got shape \(2, 5\)"):
        selective_state_update(
            torch.ones(BATCH, DIM, N), **(step_inputs(scan_inputs(), 0) | {"x": torch.ones(BATCH, 5)})
        )


class Both(torch.nn.Module):
    """One call of each function that takes a sequence."""

    def forward(self, scan: dict[str, Tensor | bool], block: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        y, last_state = selective_scan_fn(**scan, return_last_state=True)
        return y, last_state, mamba_inner_fn(**block)


def scans_in(graph: torch.fx.Graph) -> int:
    return sum(node.target is torch.ops.mvc.selective_scan.default for node in graph.nodes)


def test_compiled_in_one_graph():
    scan, block = scan_inputs("grouped", "constant"), inner_inputs("D", "delta_bias", "b_rms_weight")
    expected = Both()(scan, block)
    for actual, eager in zip(torch.compile(Both(), fullgraph=True)(scan, block), expected, strict=True):
        torch.testing.assert_close(actual, eager)


def test_compiled_in_one_graph_under_autocast():
    scan, block = scan_inputs(), inner_inputs("D", "delta_bias")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compiled = torch.compile(Both(), fullgraph=True, backend="aot_eager")(scan, block)
        expected = Both()(scan, block)
    assert [t.dtype for t in compiled] == [t.dtype for t in expected]
    assert torch.equal(compiled[0], expected[0])


def test_a_decoding_step_compiled_in_one_graph():
    step, states = step_inputs(scan_inputs(), 0), [torch.ones(BATCH, DIM, N) for _ in range(2)]
    compiled = torch.compile(selective_state_update, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(states[0], **step), selective_state_update(states[1], **step))
    torch.testing.assert_close(*states)


def test_exported():
    inputs = (scan_inputs("constant", "grouped"), inner_inputs("D", "delta_bias"))
    program = torch.export.export(Both(), inputs)
    assert scans_in(program.graph) == 2
    for actual, eager in zip(program.module()(*inputs), Both()(*inputs), strict=True):
        torch.testing.assert_close(actual, eager)
