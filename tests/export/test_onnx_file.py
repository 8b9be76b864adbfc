"""`mvc.export_model` to ONNX, and the file in onnxruntime."""

import os
import shutil
import sys

import pytest
import torch
from export_cases import Small, example
from torch import nn

import mvc
import mvc.export
from mvc.errors import UserError
from mvc.export import onnx_file

onnx = pytest.importorskip("onnx")
for package in ("onnxscript", "onnxruntime"):
    pytest.importorskip(package)

RANGE = {"batch": (1, 8)}
LIMIT = 1e-4


def assert_close(y: torch.Tensor, expected: torch.Tensor) -> None:
    error = (y - expected).abs().max() / expected.abs().max()
    assert error <= LIMIT, f"error {error:.1e}"


def program(model: nn.Module) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=8)
    return torch.export.export(model.eval(), (example(),), dynamic_shapes=({0: batch},))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.manual_seed(0)
    model = mvc.create_model("tiny").eval()
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    return model, mvc.export_model(model, torch.randn(2, 3, 64, 64), path)


@pytest.mark.versions
@torch.no_grad()
def test_a_mambavision_runs_in_onnxruntime_at_every_batch(tiny):
    model, written = tiny
    run = mvc.export.load(written.path)
    for batch in (1, 3, 64):
        x = torch.randn(batch, 3, 64, 64)
        assert_close(run(x), model(x))


@torch.no_grad()
def test_images_of_one_window_and_of_several_are_served(tmp_path):
    model = mvc.create_model("tiny").eval()
    sizes = {"batch": (1, 8), "height": (33, 512), "width": (33, 512)}
    written = mvc.export_model(model, torch.randn(2, 3, 96, 128), tmp_path / "any.onnx", dynamic=sizes)
    run = mvc.export.load(written.path)
    for shape in ((1, 3, 80, 64), (3, 3, 80, 160), (1, 3, 33, 50), (2, 3, 224, 224)):
        x = torch.randn(shape)
        assert_close(run(x), model(x))


def test_a_file_is_of_standard_operators_and_says_what_it_is(tiny):
    made = onnx.load(tiny[1].path)
    onnx.checker.check_model(made, full_check=True)
    assert [(opset.domain, opset.version) for opset in made.opset_import] == [("", onnx_file.OPSET)]
    assert sum(node.op_type == "Scan" for node in made.graph.node) == 2
    (x,), (y,) = made.graph.input, made.graph.output
    assert (x.name, x.type.tensor_type.shape.dim[0].dim_param, y.name) == ("x", "batch", "output")
    assert {each.key: each.value for each in made.metadata_props}["mvc.sizes"] == "1:64 3 64 64"
    assert str(mvc.__path__[0]) not in str(made)


@torch.no_grad()
def test_users_of_mamba_ssm_export_by_the_same_call(tmp_path):
    written = mvc.export_model(Small(published=True).eval(), example(), tmp_path / "published.onnx", dynamic=RANGE)
    run = mvc.export.load(written.path)
    for batch in (1, 3, 8):
        assert_close(run(example(batch)), Small().eval()(example(batch)))


class Several(nn.Module):
    def forward(self, x, y):
        return x + y, x * y


def test_several_inputs_and_outputs(tmp_path):
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    written = mvc.export_model(Several().eval(), (x, y), tmp_path / "several.onnx", dynamic=RANGE)
    torch.testing.assert_close(mvc.export.load(written.path)(x[:1], y[:1]), ((x + y)[:1], (x * y)[:1]))
    assert [each.name for each in onnx.load(written.path).graph.output] == ["output_0", "output_1"]


@pytest.fixture
def apart(monkeypatch):
    """Weights lie in a file of their own however small they are."""
    monkeypatch.setattr(onnx_file, "MOST_IN_ONE_FILE", 0)


@torch.no_grad()
def test_large_weights_lie_beside_the_model_and_go_with_it(apart, tmp_path):
    model, path = Small().eval(), tmp_path / "model.onnx"
    strange = tmp_path / "model.onnx.mine.data"
    strange.touch()
    first = onnx_file.write(program(model), path, {}, accept=lambda run: None)
    assert first[0] == path
    assert sorted(tmp_path.iterdir()) == sorted([*first, strange])
    model.head.weight.mul_(2)
    second = onnx_file.write(program(model), path, {}, accept=lambda run: None)
    assert sorted(tmp_path.iterdir()) == sorted([*second, strange])
    assert first[1] != second[1]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for each in second:
        shutil.move(each, elsewhere)
    assert_close(onnx_file.load(elsewhere / path.name)(example(3)), model(example(3)))


@torch.no_grad()
def test_an_export_that_ends_before_both_files_are_there_leaves_the_old_ones(apart, tmp_path, monkeypatch):
    model, path = Small().eval(), tmp_path / "model.onnx"
    onnx_file.write(program(model), path, {}, accept=lambda run: None)
    expected, replace = model(example()), os.replace

    def interrupted(made, to):
        if to == path:
            raise KeyboardInterrupt
        replace(made, to)

    model.head.weight.mul_(2)
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        onnx_file.write(program(model), path, {}, accept=lambda run: None)
    assert_close(onnx_file.load(path)(example()), expected)


@pytest.mark.parametrize("missing", ["onnxscript", "onnx"])
def test_a_missing_package_is_named(missing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=f"{missing}.*pip install 'mvc-mambavision\\[onnx\\]'"):
        mvc.export_model(Small().eval(), example(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_runtime_is_named(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"onnxruntime.*pip install"):
        mvc.export.load(tiny[1].path)


class Decomposed(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvalsh(x)


@pytest.mark.parametrize(
    ("model", "x", "said"),
    [
        (Decomposed(), torch.eye(3).expand(4, 3, 3), "the model cannot be written as ONNX: .*eigh"),
        (nn.Linear(3, 2).bfloat16(), torch.ones(4, 3, dtype=torch.bfloat16), "computes in bfloat16"),
    ],
)
def test_what_onnx_does_not_have_is_refused(model, x, said, tmp_path):
    with pytest.raises(UserError, match=said):
        mvc.export_model(model.eval(), x, tmp_path / "model.onnx", dynamic=None)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_onnx_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match="which onnxruntime cannot run: "):
        mvc.export.load(path)
