"""Each use of private torch API that `mvc.export` makes: a test here fails when torch changes it."""

import contextlib
import logging
import subprocess
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from mvc.compile.torch_private import fewer_shape_guards
from mvc.export import guards, torch_private

pytestmark = pytest.mark.versions


class Twice(nn.Module):
    def forward(self, x):
        return torch.relu(x) * 2


class SomeOnly(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] > 3 else x


def program(model: nn.Module, low: int = 1, high: int = 8) -> torch.export.ExportedProgram:
    return torch.export.export(
        model, (torch.ones(4, 64),), dynamic_shapes=({0: torch.export.Dim("b", min=low, max=high)},)
    )


def test_dynamo_traces_a_marked_size_as_free_and_says_where_it_is_not(caplog):
    x = torch.ones(4, 6)
    torch_private.mark_free(x, 0, 1, 8)
    seen = []

    def keep(module, inputs):
        seen.extend(each for each in inputs if isinstance(each, torch.SymInt))
        return module.forward

    torch.compile(Twice(), backend=keep, fullgraph=True)(x)
    assert len(seen) == 1
    torch._dynamo.reset()
    with caplog.at_level(logging.WARNING), torch_private.guards_unlogged(), pytest.raises(Exception) as failed:  # noqa: PT011  its class is torch's
        torch.compile(SomeOnly(), backend="eager", fullgraph=True)(x)
    assert "satisfy the generated guard" in torch_private.range_violation(failed.value)
    assert "torch._guards" not in {record.name for record in caplog.records}


def test_the_reason_of_an_export_that_fails_is_found():
    with pytest.raises(Exception) as failed:  # noqa: PT011  its class is torch's
        program(SomeOnly())
    assert "b" in torch_private.range_violation(failed.value)
    assert torch_private.range_violation(ValueError("other")) is None


class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(4, -1) * 2


def test_a_size_that_the_code_takes_for_a_constant_is_named_with_its_line():
    with pytest.raises(Exception) as failed:  # noqa: PT011  its class is torch's
        program(Fixed())
    assert torch_private.range_violation(failed.value).startswith("its code takes b for 4")
    x = torch.ones(4, 64)
    torch_private.mark_free(x, 0, 1, 8)
    with torch_private.guards_unlogged(), pytest.raises(Exception) as failed:  # noqa: PT011  its class is torch's
        torch.compile(Fixed(), backend="eager", fullgraph=True)(x)
    assert f"for 4 ({__file__}:" in torch_private.range_violation(failed.value)


def test_guards_that_come_after_an_export_are_seen():
    made = program(Twice(), high=64)
    x = next(node.meta["val"] for node in made.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor))
    size = x.shape[0]
    with guards.kept(made.graph):
        assert size >= 2  # known of every size
        with fewer_shape_guards(), x.fake_mode:  # whether a batch of 16 would take another backend matters to nobody
            functional.conv2d(torch.empty(size, 3, 8, 8), torch.empty(4, 3, 1, 1))
    with pytest.raises(guards.Unserved, match=r"it holds only where .* from 4 to 64"), guards.kept(made.graph):
        assert size > 3
    with pytest.raises(guards.Unserved, match=r"it holds only where .* 4"), guards.kept(made.graph):
        assert int(size) == 4


def test_a_program_of_channels_last_weights_is_saved_without_a_warning(tmp_path):
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    x = torch.ones(1, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch_private.save(torch.export.export(model, (x,)), tmp_path / "model.pt2")
    torch.testing.assert_close(torch.export.load(tmp_path / "model.pt2").module()(x), model(x))


@pytest.mark.parametrize(("vectors", "architecture"), [("VecAVX2", "x86-64-v3"), ("", "x86-64")])
def test_a_package_is_made_for_an_instruction_set_with_a_library_beside(vectors, architecture, tmp_path):
    library = tmp_path / "libbeside.so.1"
    source = tmp_path / "beside.c"
    source.write_text("int beside(void) { return 1; }")
    subprocess.run(["cc", "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", library, source], check=True)
    path, made = tmp_path / "model.pt2", program(Twice())
    options = {
        "aot_inductor.package": True,
        "aot_inductor.metadata": {"mvc.device": "cpu"},
        **torch_private.unchecked_lower_bounds(),
        **torch_private.linked([], library),
    }
    with fewer_shape_guards(), torch_private.code_for(vectors, architecture) as more:
        torch_private.package(made, path, {**options, **more}, [library])
    library.unlink()  # that of the package is loaded
    metadata = torch_private.metadata_of(path)
    assert metadata["mvc.device"] == "cpu"
    assert ("AVX2" in metadata["AOTI_CPU_ISA"]) == bool(vectors)
    run = torch_private.load(path)
    for batch in (1, 3, 8):
        x = torch.randn(batch, 64)
        torch.testing.assert_close(run(x), Twice()(x))
    assert library.name in _mapped()


def _mapped() -> str:
    with contextlib.suppress(OSError), open("/proc/self/maps") as file:
        return file.read()
    pytest.skip("this system does not say which libraries a process has loaded")


def test_a_translation_records_nodes_of_onnx():
    pytest.importorskip("onnxscript")
    import onnx_ir

    def relu(x):
        node = onnx_ir.node("Softplus", [x])
        torch_private.record_onnx_nodes([node])
        return node.outputs[0]

    table = {torch.ops.aten.relu.default: relu}
    made = torch.onnx.export(program(Twice()), dynamo=True, verbose=False, custom_translation_table=table)
    assert "Softplus" in {node.op_type for node in made.model.graph}
