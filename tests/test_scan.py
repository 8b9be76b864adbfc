"""The public function: its forms, its errors, torch.compile and torch.export."""

from __future__ import annotations

import re

import pytest
import torch
from mvc.kernels.scan import IMPLEMENTATIONS, selective_scan
from mvc.passes.fx_utils import op_counts
from scan_cases import TENSORS, Case, Inputs, make_inputs, map_tensors, reference, run, tensors_of
from torch import Tensor


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_return_last_state(impl):
    inputs = make_inputs(Case())
    y, last_state = selective_scan(**inputs, impl=impl, return_last_state=True)
    assert torch.equal(selective_scan(**inputs, impl=impl), y)
    assert (last_state.shape, last_state.dtype) == ((2, 6, 8), torch.float32)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_B_and_C_without_groups(impl):
    inputs = make_inputs(Case())
    flat = inputs | {name: inputs[name].squeeze(2) for name in ("B", "C")}
    results = [
        run(lambda **given: selective_scan(**given, impl=impl, return_last_state=True), given)
        for given in (inputs, flat)
    ]
    for name, grouped in results[0].items():
        assert torch.equal(results[1][name].reshape(grouped.shape), grouped), name
    assert results[1]["gradient of B"].shape == (2, 7, 8)


def test_softplus_and_options_are_off_by_default():
    inputs = make_inputs(Case(options=()))
    expected = selective_scan(**inputs, D=None, z=None, delta_bias=None, initial_state=None)
    assert torch.equal(selective_scan(*(inputs[name] for name in ("u", "delta", "A", "B", "C"))), expected)


def test_options_are_keywords_only():
    inputs = make_inputs(Case())
    with pytest.raises(TypeError, match="positional"):
        selective_scan(*(inputs[name] for name in TENSORS))


def test_outputs_do_not_share_memory_with_inputs():
    inputs = make_inputs(Case(length=0))
    _, last_state = selective_scan(**inputs, return_last_state=True)
    assert torch.equal(last_state, inputs["initial_state"])
    assert last_state.data_ptr() != inputs["initial_state"].data_ptr()


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
}


@pytest.mark.parametrize("impl", [None, *IMPLEMENTATIONS])
@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_wrong_shape(name, impl):
    shape = WRONG_SHAPES[name]
    with pytest.raises(ValueError, match=rf"^{name} must .*got (shape )?{re.escape(str(shape))}"):
        selective_scan(**(make_inputs(Case()) | {name: torch.zeros(shape)}), impl=impl)


@pytest.mark.parametrize("shape", [(2, 7), (7, 2, 8), (2, 7, 1, 1, 8), (1, 7, 1, 8)], ids=str)
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


@pytest.mark.parametrize("shape", [(2, 7, 2, 8), (2, 7, 8)], ids=str)
def test_groups_of_B_and_C_differ(shape):
    with pytest.raises(ValueError, match=rf"same groups.*{re.escape(str(shape))}"):
        selective_scan(**(make_inputs(Case()) | {"C": torch.zeros(shape)}))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
@pytest.mark.parametrize("name", TENSORS)
def test_wrong_dtype(name, dtype):
    inputs = make_inputs(Case())
    with pytest.raises(TypeError, match=rf"^{name} must be one of .*got {dtype}"):
        selective_scan(**(inputs | {name: inputs[name].to(dtype)}))


def test_complex_A_says_what_to_do():
    inputs = make_inputs(Case())
    with pytest.raises(TypeError, match="complex states are not supported: use the real form"):
        selective_scan(**(inputs | {"A": inputs["A"].to(torch.complex64)}))


@pytest.mark.parametrize("name", [name for name in TENSORS if name != "u"])
def test_wrong_device(name):
    inputs = make_inputs(Case())
    with pytest.raises(ValueError, match=rf"^{name} must be on u's device cpu, got meta"):
        selective_scan(**(inputs | {name: inputs[name].to("meta")}))


@pytest.mark.parametrize("value", [None, 1.0, [[1.0]]], ids=["None", "float", "list"])
@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C"])
def test_not_a_tensor(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be a tensor, got {type(value).__name__}"):
        selective_scan(**(make_inputs(Case()) | {name: value}))


@pytest.mark.parametrize("name", ["D", "z", "delta_bias", "initial_state"])
def test_option_is_not_a_tensor(name):
    with pytest.raises(TypeError, match=rf"^{name} must be a tensor.*got float"):
        selective_scan(**(make_inputs(Case()) | {name: 1.0}))


@pytest.mark.parametrize("impl", ["triton", "Chunked", "", 1], ids=repr)
def test_unknown_impl(impl):
    with pytest.raises(ValueError, match=rf"^impl is {impl!r}; it must be None or one of 'reference', 'chunked'"):
        selective_scan(**make_inputs(Case()), impl=impl)


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


def strided(inputs: Inputs) -> Inputs:
    """u and z as halves of one projection, B and C of another; the other tensors transposed."""
    u, z = torch.cat((inputs["u"], inputs["z"]), dim=-1).chunk(2, dim=-1)
    B, C = torch.cat((inputs["B"], inputs["C"]), dim=-1).chunk(2, dim=-1)
    turned = {name: inputs[name].mT.contiguous().mT for name in ("delta", "A", "initial_state")}
    return inputs | turned | {"u": u, "z": z, "B": B, "C": C}


def scan_with_state(**inputs: Tensor | bool) -> tuple[Tensor, Tensor]:
    return selective_scan(**inputs, return_last_state=True)


@pytest.fixture
def fresh_dynamo():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_compiled_for_every_batch_and_length(fresh_dynamo):
    """One graph for all sizes above one, forward and backward."""
    compiled = torch.compile(scan_with_state, fullgraph=True, backend="aot_eager", dynamic=True)
    run(compiled, make_inputs(Case(batch=2, length=7)))
    with torch.compiler.set_stance("fail_on_recompile"):
        for batch, length in ((2, 7), (3, 7), (5, 63), (2, 2), (17, 196)):
            inputs = make_inputs(Case(batch=batch, length=length))
            assert_same(run(compiled, inputs), run(scan_with_state, inputs))


def test_sizes_become_dynamic_by_themselves(fresh_dynamo):
    """Without `dynamic`, a second batch and length cost one more graph, further ones none."""
    compiled = torch.compile(scan_with_state, fullgraph=True, backend="aot_eager")
    for batch, length in ((2, 7), (3, 9)):
        run(compiled, make_inputs(Case(batch=batch, length=length)))
    with torch.compiler.set_stance("fail_on_recompile"):
        for batch, length in ((4, 19), (7, 63)):
            inputs = make_inputs(Case(batch=batch, length=length))
            assert_same(run(compiled, inputs), run(scan_with_state, inputs))


@pytest.mark.parametrize("case", [Case(groups=2), Case(options=()), Case(length=1, batch=1), Case(length=0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_compiled(case, dtype, fresh_dynamo):
    inputs = make_inputs(case, dtype)
    compiled = torch.compile(scan_with_state, fullgraph=True, backend="aot_eager")
    assert_same(run(compiled, inputs), run(scan_with_state, inputs))


def test_compiled_with_strides(fresh_dynamo):
    inputs = strided(make_inputs(Case(groups=2)))
    compiled = torch.compile(scan_with_state, fullgraph=True, backend="aot_eager")
    assert_same(run(compiled, inputs), run(scan_with_state, inputs))


def test_compiled_reference(fresh_dynamo):
    inputs = make_inputs(Case(length=3))
    compiled = torch.compile(reference, fullgraph=True, backend="aot_eager")
    assert_same(run(compiled, inputs), run(reference, inputs))


def test_compiled_under_autocast(fresh_dynamo):
    inputs = make_inputs(Case(groups=2))
    compiled = torch.compile(scan_with_state, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        actual = run(compiled, inputs)
    assert_same(actual, run(scan_with_state, inputs))


def test_compiled_vmap(fresh_dynamo):
    inputs = make_inputs(Case(groups=2))
    versions = torch.stack([inputs["u"], inputs["u"] * 2])

    def mapped(versions):
        return torch.vmap(lambda u: selective_scan(**(inputs | {"u": u})))(versions)

    torch.testing.assert_close(torch.compile(mapped, fullgraph=True, backend="aot_eager")(versions), mapped(versions))


def test_errors_are_the_same_while_compiling(fresh_dynamo):
    compiled = torch.compile(scan_with_state, backend="aot_eager")
    with pytest.raises(ValueError, match=r"^D must have shape \(6,\).*got \(5,\)"):
        compiled(**(make_inputs(Case()) | {"D": torch.zeros(5)}))


@pytest.mark.slow
@pytest.mark.parametrize("layout", [lambda inputs: inputs, strided], ids=["contiguous", "strided"])
def test_compiled_by_inductor(layout, fresh_dynamo):
    """Inductor calls the op as it is; what it makes of the sine before it may differ by a rounding."""
    inputs = layout(make_inputs(Case(length=63, groups=2), torch.float64))

    def scan_of_sine(u, **others):
        return scan_with_state(u=u.sin(), **others)

    actual = run(torch.compile(scan_of_sine, fullgraph=True), inputs)
    for name, expected in run(scan_of_sine, inputs).items():
        torch.testing.assert_close(actual[name], expected, msg=lambda message, n=name: f"{n}: {message}")


class Scan(torch.nn.Module):
    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        return selective_scan(**inputs, delta_softplus=True, return_last_state=True)


def test_export_has_one_scan_node():
    tensors = tensors_of(make_inputs(Case()))
    program = torch.export.export(Scan(), (tensors,))
    assert op_counts(program.graph)["mvc.selective_scan"] == 1
    for actual, expected in zip(program.module()(tensors), Scan()(tensors), strict=True):
        assert torch.equal(actual, expected)


def test_export_with_dynamic_batch_and_length():
    batch, length = (torch.export.Dim(name, min=2) for name in ("batch", "length"))
    sizes = {name: {0: batch, 1: length} for name in ("u", "delta", "B", "C", "z")} | {"initial_state": {0: batch}}
    tensors = tensors_of(make_inputs(Case()))
    shapes = {"inputs": {name: sizes.get(name, {}) for name in tensors}}
    program = torch.export.export(Scan(), (tensors,), dynamic_shapes=shapes)
    assert op_counts(program.graph)["mvc.selective_scan"] == 1
    others = tensors_of(make_inputs(Case(batch=5, length=63)))
    for actual, expected in zip(program.module()(others), Scan()(others), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("impl", [None, *IMPLEMENTATIONS])
def test_meta_tensors(impl):
    inputs = map_tensors(lambda tensor: tensor.to("meta"), make_inputs(Case(), torch.bfloat16))
    y, last_state = selective_scan(**inputs, impl=impl, return_last_state=True)
    assert (y.shape, y.dtype, y.device.type) == ((2, 7, 6), torch.bfloat16, "meta")
    assert (last_state.shape, last_state.dtype) == ((2, 6, 8), torch.float32)
