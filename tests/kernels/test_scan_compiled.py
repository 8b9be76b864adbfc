"""The public function under torch.compile, torch.export and AOTInductor."""

from __future__ import annotations

import re

import pytest
import torch
from scan_cases import (
    CPU_IMPLEMENTATIONS,
    FORMS,
    Case,
    Inputs,
    assert_same,
    implementation,
    make_inputs,
    reference,
    run,
    tensors_of,
)
from torch import Tensor

from mvc.kernels.scan import reset_from_cu_seqlens, selective_scan
from mvc.passes.graph.fx_utils import op_counts

COMPILED = [Case(groups=2), Case(options=()), Case(length=1, batch=1), Case(length=0), Case().plus(*FORMS)]


def strided(inputs: Inputs) -> Inputs:
    """u and z as halves of one projection, B and C of another; the other tensors transposed."""
    u, z = torch.cat((inputs["u"], inputs["z"]), dim=-1).chunk(2, dim=-1)
    B, C = torch.cat((inputs["B"], inputs["C"]), dim=-1).chunk(2, dim=-1)
    turned = {name: inputs[name].mT.contiguous().mT for name in ("delta", "A", "initial_state")}
    return inputs | turned | {"u": u, "z": z, "B": B, "C": C}


def scan_with_state(**inputs: Tensor | bool) -> tuple[Tensor, Tensor]:
    return selective_scan(**inputs, return_last_state=True)


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
