"""The public function: its options, its errors, torch.compile, torch.export and AOTInductor."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable

import pytest
import torch
from scan_cases import (
    CPU_IMPLEMENTATIONS,
    FORMS,
    TENSORS,
    Case,
    Inputs,
    assert_same,
    assert_scan_within_budget,
    implementation,
    make_inputs,
    map_tensors,
    reference,
    run,
    tensors_of,
)
from torch import Tensor

from mvc.kernels import cpu_scan, eager
from mvc.kernels.implementations import TABLE
from mvc.kernels.scan import reset_from_cu_seqlens, selective_scan
from mvc.passes.graph.fx_utils import op_counts

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


@pytest.fixture(params=CPU_IMPLEMENTATIONS)
def impl(request) -> str:
    implementation(request.param)  # skips where it cannot run
    return request.param


@pytest.fixture
def scan(impl) -> Callable:
    return implementation(impl)


@pytest.mark.versions
def test_return_last_state(impl):
    inputs = make_inputs(Case())
    y, last_state = selective_scan(**inputs, impl=impl, return_last_state=True)
    assert torch.equal(selective_scan(**inputs, impl=impl), y)
    assert (last_state.shape, last_state.dtype) == ((2, 6, 8), torch.float32)


def test_B_and_C_without_groups(scan):
    inputs = make_inputs(Case())
    flat = inputs | {name: inputs[name].squeeze(2) for name in ("B", "C")}
    results = [run(scan, given) for given in (inputs, flat)]
    for name, grouped in results[0].items():
        assert torch.equal(results[1][name].reshape(grouped.shape), grouped), name
    assert results[1]["gradient of B"].shape == (2, 7, 8)


def test_options_are_off_by_default():
    inputs = make_inputs(Case(options=()))
    expected = selective_scan(**inputs, D=None, z=None, delta_bias=None, initial_state=None, reset=None)
    assert torch.equal(selective_scan(*(inputs[name] for name in ("u", "delta", "A", "B", "C"))), expected)


def test_options_are_keywords_only():
    inputs = make_inputs(Case())
    with pytest.raises(TypeError, match="positional"):
        selective_scan(*(inputs[name] for name in TENSORS))


def test_outputs_do_not_share_memory_with_inputs(scan):
    inputs = make_inputs(Case(length=0))
    _, last_state = scan(**inputs)
    assert torch.equal(last_state, inputs["initial_state"])
    assert last_state.data_ptr() != inputs["initial_state"].data_ptr()


STEPS = ("u", "delta", "B", "C", "z", "reset")  # what has an axis of length, B and C unless they are constant


def of_steps(inputs: Inputs, function: Callable[[Tensor], Tensor]) -> Inputs:
    changed = {name: function(inputs[name]) for name in STEPS if name in inputs}
    return inputs | {name: tensor for name, tensor in changed.items() if inputs[name].dim() > 2 or name == "reset"}


def flipping(scan: Callable) -> Callable:
    """The reversed scan by one that runs forward."""

    def flipped(**inputs):
        y, last_state = scan(**(of_steps(inputs, lambda t: t.flip(1)) | {"reverse": False}))
        return y.flip(1), last_state

    return flipped


@pytest.mark.parametrize("forms", [(), ("constant_B",), ("constant_C",)], ids="+".join)
@pytest.mark.parametrize("length", [1, 7, 63, 200])
def test_reverse_is_flipping_everything(length, forms, scan):
    inputs = make_inputs(Case(length=length, groups=2).plus("reverse", *forms))
    assert_scan_within_budget(inputs, scan, oracle_scan=flipping(reference))


def splitting(scan: Callable, boundaries: tuple[int, ...]) -> Callable:
    """The scan in parts, each starting with the state that the one before it ends with."""

    def split(**inputs):
        state, outputs = inputs.pop("initial_state", None), {}
        parts = list(itertools.pairwise(boundaries))
        for start, stop in reversed(parts) if inputs["reverse"] else parts:
            part = of_steps(inputs, lambda t, start=start, stop=stop: t[:, start:stop])
            outputs[start, stop], state = scan(**part, initial_state=state)
        return torch.cat([outputs[part] for part in parts], dim=1), state

    return split


@pytest.mark.parametrize("forms", [(), ("reverse",), FORMS], ids="+".join)
def test_split_sequence_equals_the_whole(forms, scan):
    inputs = make_inputs(Case(length=63, groups=2).plus(*forms))
    assert_scan_within_budget(inputs, splitting(scan, (0, 1, 1, 20, 63)))


def one_by_one(scan: Callable) -> Callable:
    """Each sample in a batch of its own."""

    def alone(**inputs):
        batched = (*STEPS, "initial_state")
        results = []
        for index in range(len(inputs["u"])):
            own = {name: inputs[name][index : index + 1] for name in batched if inputs[name].shape[0] == 5}
            results.append(scan(**(inputs | own)))
        return tuple(torch.cat(parts) for parts in zip(*results, strict=True))

    return alone


@pytest.mark.parametrize("forms", [(), FORMS], ids="+".join)
def test_samples_do_not_depend_on_their_batch(forms, scan):
    assert_scan_within_budget(make_inputs(Case(batch=5, length=63, groups=2).plus(*forms)), one_by_one(scan))


def expanding(scan: Callable) -> Callable:
    """Constant B and C by the same numbers for each step, and one group for each channel."""

    def expanded(**inputs):
        batch, length, dim = inputs["u"].shape
        B, C = (
            w.expand(batch, length, *w.shape) if w.dim() == 2 else w.repeat_interleave(dim // w.shape[2], 2)
            for w in (inputs["B"], inputs["C"])
        )
        return scan(**(inputs | {"B": B, "C": C}))

    return expanded


@pytest.mark.parametrize("forms", [("constant_B",), ("constant_C",), ("constant_B", "constant_C"), FORMS], ids="+".join)
def test_constant_equals_expanded(forms, scan):
    inputs = make_inputs(Case(length=63, groups=2).plus(*forms))
    assert_scan_within_budget(inputs, scan, oracle_scan=expanding(reference))


CU_SEQLENS = {
    "three": [0, 5, 6, 19],
    "one": [0, 19],
    "empty-first": [0, 0, 7, 19],
    "empty-inside": [0, 7, 7, 7, 19],
    "empty-last": [0, 7, 19, 19],
}


def piecewise(scan: Callable, boundaries: list[int]) -> Callable:
    """Packed sequences, each scanned by itself; the last state is that of the one that runs last."""

    def pieces(**inputs):
        inputs = {name: value for name, value in inputs.items() if name not in ("reset", "initial_state")}
        parts = [(start, stop) for start, stop in itertools.pairwise(boundaries) if start < stop]
        results = []
        for start, stop in parts:
            results.append(scan(**of_steps(inputs, lambda t, start=start, stop=stop: t[:, start:stop])))
        ys, states = zip(*results, strict=True)
        return torch.cat(ys, dim=1), states[0 if inputs["reverse"] else -1]

    return pieces


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("boundaries", CU_SEQLENS.values(), ids=CU_SEQLENS)
def test_reset_equals_separate_scans(boundaries, reverse, dtype, scan):
    """Gradients too; a first reset drops the initial state."""
    reset = reset_from_cu_seqlens(torch.tensor(boundaries, dtype=dtype), 19, reverse=reverse)
    assert (reset.shape, reset.dtype) == ((1, 19), torch.bool)
    inputs = make_inputs(Case(batch=1, length=19, groups=2)) | {"reset": reset, "reverse": reverse}
    assert_scan_within_budget(inputs, scan, oracle_scan=piecewise(reference, boundaries))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("boundaries", [[0], [0, 0], [0, 0, 0]], ids=str)
def test_reset_of_no_steps(boundaries, reverse):
    assert reset_from_cu_seqlens(torch.tensor(boundaries), 0, reverse=reverse).shape == (1, 0)


def test_wrong_cu_seqlens():
    with pytest.raises(TypeError, match=r"^cu_seqlens must be an int32 or int64 tensor, got torch.float32"):
        reset_from_cu_seqlens(torch.tensor([0.0, 2.0]), 2)
    with pytest.raises(TypeError, match=r"^cu_seqlens must be a tensor, got list"):
        reset_from_cu_seqlens([0, 2], 2)
    with pytest.raises(ValueError, match=r"^cu_seqlens must be \(sequences \+ 1,\), got shape \(1, 2\)"):
        reset_from_cu_seqlens(torch.tensor([[0, 2]]), 2)
    with pytest.raises(ValueError, match=r"^cu_seqlens must be \(sequences \+ 1,\), got shape \(0,\)"):
        reset_from_cu_seqlens(torch.tensor([], dtype=torch.int64), 2)
    for ends, sentence in {(1, 2): "got 1 to 2", (0, 3): "got 0 to 3", (0, 1): "got 0 to 1"}.items():
        with pytest.raises(ValueError, match=rf"^cu_seqlens must run from 0 to length 2, {sentence}"):
            reset_from_cu_seqlens(torch.tensor(ends), 2)
    with pytest.raises(ValueError, match=r"^cu_seqlens must not fall, got 4 and then 2 at index 2"):
        reset_from_cu_seqlens(torch.tensor([0, 4, 2, 5]), 5)


def channels_first(inputs: Inputs) -> Inputs:
    """(batch, dim, length) in memory, passed transposed."""
    return inputs | {name: inputs[name].mT.contiguous().mT for name in ("u", "delta", "z") if name in inputs}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("forms", [(), ("reverse",)], ids="+".join)
@pytest.mark.parametrize("length", [3, 63])
def test_channels_first(length, forms, dtype, scan):
    inputs = channels_first(make_inputs(Case(length=length, groups=2).plus(*forms), dtype))
    assert inputs["u"].stride() == (length * 6, 1, length)
    assert_scan_within_budget(inputs, scan)


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


@pytest.mark.parametrize("forms", [(), FORMS], ids="+".join)
@pytest.mark.parametrize("states", [1, 256])
def test_least_and_most_states(states, forms, scan):
    assert_scan_within_budget(make_inputs(Case(dim=3, states=states).plus(*forms)), scan)


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


COMPILED = [Case(groups=2), Case(options=()), Case(length=1, batch=1), Case(length=0), Case().plus(*FORMS)]


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


@pytest.mark.versions
def test_compiled_for_every_batch_and_length(fresh_dynamo):
    """One graph for all sizes above one, forward and backward."""
    compiled = torch.compile(scan_with_state, fullgraph=True, backend="aot_eager", dynamic=True)
    run(compiled, make_inputs(Case(batch=2, length=7)))
    with torch.compiler.set_stance("fail_on_recompile"):
        for batch, length in ((2, 7), (3, 7), (5, 63), (2, 2), (17, 196)):
            inputs = make_inputs(Case(batch=batch, length=length))
            assert_same(run(compiled, inputs), run(scan_with_state, inputs))


@pytest.mark.versions
def test_sizes_become_dynamic_by_themselves(fresh_dynamo):
    """Without `dynamic`, a second batch and length cost one more graph, further ones none."""
    compiled = torch.compile(scan_with_state, fullgraph=True, backend="aot_eager")
    for batch, length in ((2, 7), (3, 9)):
        run(compiled, make_inputs(Case(batch=batch, length=length)))
    with torch.compiler.set_stance("fail_on_recompile"):
        for batch, length in ((4, 19), (7, 63)):
            inputs = make_inputs(Case(batch=batch, length=length))
            assert_same(run(compiled, inputs), run(scan_with_state, inputs))


@pytest.mark.parametrize("case", COMPILED, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_compiled(case, dtype, fresh_dynamo):
    inputs = make_inputs(case, dtype)
    compiled = torch.compile(scan_with_state, fullgraph=True, backend="aot_eager")
    assert_same(run(compiled, inputs), run(scan_with_state, inputs))


@pytest.mark.versions
def test_compiled_with_strides(fresh_dynamo):
    inputs = strided(make_inputs(Case(groups=2)))
    compiled = torch.compile(scan_with_state, fullgraph=True, backend="aot_eager")
    assert_same(run(compiled, inputs), run(scan_with_state, inputs))


def test_compiled_reference(fresh_dynamo):
    inputs = make_inputs(Case(length=3))
    compiled = torch.compile(reference, fullgraph=True, backend="aot_eager")
    assert_same(run(compiled, inputs), run(reference, inputs))


@pytest.mark.versions
def test_compiled_under_autocast(fresh_dynamo):
    inputs = make_inputs(Case(groups=2))
    compiled = torch.compile(scan_with_state, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        actual, expected = run(compiled, inputs), run(scan_with_state, inputs)
    assert expected["y"].dtype == torch.bfloat16
    assert_same(actual, expected)


@pytest.mark.versions
def test_compiled_vmap(fresh_dynamo):
    inputs = make_inputs(Case(groups=2))
    versions = torch.stack([inputs["u"], inputs["u"] * 2])

    def mapped(versions):
        return torch.vmap(lambda u: selective_scan(**(inputs | {"u": u})))(versions)

    torch.testing.assert_close(torch.compile(mapped, fullgraph=True, backend="aot_eager")(versions), mapped(versions))


@pytest.mark.versions
def test_errors_are_the_same_while_compiling(fresh_dynamo):
    compiled = torch.compile(scan_with_state, backend="aot_eager")
    with pytest.raises(ValueError, match=r"^D must have shape \(6,\).*got \(5,\)"):
        compiled(**(make_inputs(Case()) | {"D": torch.zeros(5)}))


@pytest.mark.versions
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"D": torch.zeros(5)}, "D must have shape (6,) beside u (2, 7, 6), got (5,)"),
        ({"A": torch.zeros(6, 8).double()}, "A must be torch.float32 beside a torch.float32 u, got torch.float64"),
        ({"B": torch.zeros(2, 7, 4, 8)}, "B has 4 groups; their number must divide u's dim 6"),
        ({"impl": "Chunked"}, "impl is 'Chunked'; it must be None or one of"),
    ],
    ids=["shape", "dtype", "groups", "impl"],
)
def test_one_graph_says_the_same_sentence(wrong, sentence, fresh_dynamo):
    """torch's own exception, since there is no falling back to eager."""
    compiled = torch.compile(scan_with_state, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=re.escape(sentence)) as caught:
        compiled(**(make_inputs(Case()) | wrong))
    assert type(caught.value).__module__.startswith("torch.")


@pytest.mark.versions
@pytest.mark.parametrize("impl", ["chunked", "cpp"])
def test_compiled_with_a_forced_impl(impl, fresh_dynamo):
    scan, inputs = implementation(impl), make_inputs(Case(groups=2).plus("reverse", "constant_B"))
    compiled = torch.compile(scan, fullgraph=True, backend="aot_eager")
    assert_same(run(compiled, inputs), run(scan, inputs))


def test_compiled_reset_from_cu_seqlens(fresh_dynamo):
    cu_seqlens = torch.tensor([0, 5, 5, 19])
    for reverse in (False, True):
        compiled = torch.compile(reset_from_cu_seqlens, fullgraph=True, backend="aot_eager")
        expected = reset_from_cu_seqlens(cu_seqlens, 19, reverse=reverse)
        assert torch.equal(compiled(cu_seqlens, 19, reverse=reverse), expected)
        far = torch.tensor([-3, 5, 5, 99])  # refused in eager; here nothing outside of the steps is written to
        assert torch.equal(compiled(far, 19, reverse=reverse), expected)


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


@pytest.mark.versions
def test_export_has_one_scan_node():
    tensors = tensors_of(make_inputs(Case()))
    program = torch.export.export(Scan(), (tensors,))
    assert op_counts(program.graph)["mvc.selective_scan"] == 1
    for actual, expected in zip(program.module()(tensors), Scan()(tensors), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.versions
def test_export_with_dynamic_batch_and_length():
    batch, length = (torch.export.Dim(name, min=2) for name in ("batch", "length"))
    sizes = {name: {0: batch, 1: length} for name in ("u", "delta", "B", "C", "z")} | {"initial_state": {0: batch}}
    sizes |= {"reset": {0: batch, 1: length}}
    tensors = tensors_of(make_inputs(Case()))
    shapes = {"inputs": {name: sizes.get(name, {}) for name in tensors}}
    program = torch.export.export(Scan(), (tensors,), dynamic_shapes=shapes)
    assert op_counts(program.graph)["mvc.selective_scan"] == 1
    others = tensors_of(make_inputs(Case(batch=5, length=63)))
    for actual, expected in zip(program.module()(others), Scan()(others), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.versions
@pytest.mark.slow
def test_aotinductor_package(tmp_path):
    """The portable op inside a package, run in this process, for another batch and length than it was made with."""
    batch, length = (torch.export.Dim(name, min=2) for name in ("batch", "length"))
    step = {0: batch, 1: length}
    tensors = tensors_of(make_inputs(Case()))
    shapes = {name: step if t.shape[:2] == (2, 7) else {} for name, t in tensors.items()} | {
        "initial_state": {0: batch}
    }
    program = torch.export.export(Scan(), (tensors,), dynamic_shapes={"inputs": shapes})
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "scan.pt2"))
    packaged = torch._inductor.aoti_load_package(path)
    others = tensors_of(make_inputs(Case(batch=5, length=63)))
    for actual, expected in zip(packaged(others), Scan()(others), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("impl", [None, *CPU_IMPLEMENTATIONS])
def test_meta_tensors(impl):
    inputs = make_inputs(Case(), torch.bfloat16)
    inputs |= {name: tensor.to("meta") for name, tensor in tensors_of(inputs).items()}
    y, last_state = implementation(impl)(**inputs)
    assert (y.shape, y.dtype, y.device.type) == ((2, 7, 6), torch.bfloat16, "meta")
    assert (last_state.shape, last_state.dtype) == ((2, 6, 8), torch.float32)
