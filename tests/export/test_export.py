"""`mvc.export_model` and `mvc.export.load`: what is written runs elsewhere, at every size that was asked for."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from export_cases import Small, Squeezes, example
from places import ROOT
from torch import nn

import mvc
import mvc.export
from mvc.compile.compiler import check_against_eager
from mvc.errors import UserError
from mvc.export import program
from mvc.export.sizes import Sizes

BATCHES = (1, 3, 8)
RANGE = {"batch": (1, 8)}

# Runs a file in a process without mvc.
ALONE = """
import sys, torch
sys.modules["mvc"] = None
path, inputs = sys.argv[1:]
run = torch._inductor.aoti_load_package(path) if path.endswith(".pt2") else torch.export.load(open(path, "rb")).module()
with torch.no_grad():
    torch.save([run(x) for x in torch.load(inputs)], inputs)
"""


@pytest.fixture(scope="module")
def model():
    return Small().eval()


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """The model in every format that needs torch alone."""
    folder = tmp_path_factory.mktemp("exported")
    made = {}
    for name, options in {
        "frozen.pt2": {},
        "weights.pt2": {"frozen": False},
        "plain.exported": {},
        "ops.exported": {"custom_ops": True},
    }.items():
        made[name] = mvc.export_model(model, example(), folder / name, dynamic=RANGE, **options)
    return made


def alone(path: Path, inputs: list[torch.Tensor], folder: Path) -> list[torch.Tensor]:
    """What the file returns in a process that has torch and no mvc."""
    passed = folder / "inputs.pt"
    torch.save(inputs, passed)
    command = [sys.executable, "-c", ALONE, str(path), str(passed)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return torch.load(passed)


def assert_close(run, model: nn.Module, x: torch.Tensor) -> None:
    check = check_against_eager(model, run, x)
    assert check.passed, f"batch {x.shape[0]}: {check}"


@pytest.mark.versions
@pytest.mark.parametrize("name", ["frozen.pt2", "weights.pt2", "plain.exported", "ops.exported"])
def test_a_file_holds_for_every_batch(files, model, name):
    run = mvc.export.load(files[name].path)
    for batch in BATCHES:
        assert_close(run, model, example(batch))


@pytest.mark.parametrize("name", ["frozen.pt2", "plain.exported"])
def test_a_file_runs_without_mvc(files, model, name, tmp_path):
    inputs = [example(batch) for batch in BATCHES]
    for x, y in zip(inputs, alone(files[name].path, inputs, tmp_path), strict=True):
        assert_close(lambda _, y=y: y, model, x)


SERVER = """
import sys, torch, mvc.export
run = mvc.export.load(sys.argv[1])
with torch.no_grad():
    torch.save(run(torch.load(sys.argv[2])), sys.argv[2])
print(*sorted({name for name in sys.modules if name.startswith(("mvc.compile", "mvc.passes"))}))
"""


@pytest.mark.parametrize("name", ["frozen.pt2", "ops.exported"])
def test_a_process_that_only_loads_needs_neither_the_compiler_nor_the_passes(files, model, name, tmp_path):
    torch.save(example(), tmp_path / "x.pt")
    command = [sys.executable, "-c", SERVER, str(files[name].path), str(tmp_path / "x.pt")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n"
    assert_close(lambda _: torch.load(tmp_path / "x.pt"), model, example())


def test_what_was_written_is_told(files):
    written = files["frozen.pt2"]
    assert (written.format, written.sizes, written.device) == ("pt2", "1:8 24 8", "cpu")
    assert written.files == (written.path,)
    assert written.bytes == written.path.stat().st_size
    assert files["plain.exported"].device is files["plain.exported"].isa is None


def test_a_plain_program_holds_no_op_of_mvc(files):
    def ops(name):
        with files[name].path.open("rb") as file:
            return {str(node.target) for node in torch.export.load(file).graph.nodes}

    assert not [op for op in ops("plain.exported") if op.startswith("mvc.")]
    assert "mvc.selective_scan.default" in ops("ops.exported")


def test_weights_of_a_package_can_be_replaced(files, model):
    run = mvc.export.load(files["weights.pt2"].path)
    other = Small().eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    run(example())  # what depends on the old ones is computed by now
    run.load_constants(dict(other.named_parameters()), check_full_update=False)
    assert_close(run, other, example())


def test_a_frozen_package_is_what_the_model_was(files, model):
    run = mvc.export.load(files["frozen.pt2"].path)
    assert "A_log" not in run.get_constant_fqns()


@pytest.mark.parametrize("suffix", [".pt2", ".exported"])
def test_users_of_mamba_ssm_export_by_the_same_call(suffix, tmp_path):
    model = Small(published=True).eval()
    written = mvc.export_model(model, example(), tmp_path / f"published{suffix}", dynamic=RANGE)
    run = mvc.export.load(written.path)
    for batch in BATCHES:
        assert_close(run, Small().eval(), example(batch))


class Several(nn.Module):
    def forward(self, x, y):
        return {"sum": x + y, "products": [x * y, x.sum(0)]}


def test_several_inputs_and_a_structure_of_outputs(tmp_path):
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    written = mvc.export_model(Several().eval(), (x, y), tmp_path / "several.exported", dynamic=RANGE)
    result = mvc.export.load(written.path)(x[:1], y[:1])
    torch.testing.assert_close(result, {"sum": (x + y)[:1], "products": [(x * y)[:1], x[:1].sum(0)]})


class HoldsForSome(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] > 3 else x + 1


class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(4, -1) * 2


@pytest.mark.parametrize("suffix", [".pt2", ".exported"])
@pytest.mark.parametrize("model", [HoldsForSome(), Fixed()], ids=["branch", "reshape"])
def test_a_model_that_does_not_serve_the_range_is_refused(model, suffix, tmp_path):
    path = tmp_path / f"some{suffix}"
    with pytest.raises(UserError, match=r"the model cannot serve batch 1:8 by one program: .*set it to None"):
        mvc.export_model(model.eval(), torch.randn(4, 6), path, dynamic=RANGE)
    assert list(tmp_path.iterdir()) == []


ANY_SIZE = {"batch": (1, 8), "height": (33, 512), "width": (33, 512)}


@pytest.mark.parametrize("custom_ops", [False, True])
def test_images_of_one_window_and_of_several_are_served(custom_ops, tmp_path):
    model = mvc.create_model("tiny").eval()
    images = torch.randn(2, 3, 96, 128)
    written = mvc.export_model(model, images, tmp_path / "any.exported", dynamic=ANY_SIZE, custom_ops=custom_ops)
    run = mvc.export.load(written.path)
    for shape in ((1, 3, 80, 64), (3, 3, 80, 160), (1, 3, 33, 50), (2, 3, 224, 224)):
        assert_close(run, model, torch.randn(shape))


def test_a_package_for_any_image_size_is_refused_with_what_is_served(tmp_path):
    model = mvc.create_model("tiny").eval()
    with pytest.raises(UserError, match="height and width may be free with the formats 'onnx' and 'exported'"):
        mvc.export_model(model, torch.randn(2, 3, 96, 128), tmp_path / "any.pt2", dynamic=ANY_SIZE)
    assert list(tmp_path.iterdir()) == []


class OfSmallSizes(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] + x.shape[1] > 3 else x * 3


class Divides(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] * x.shape[1] % 7 != 0 else x * 3


class Grows(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] * ((x.shape[1] - 1) // 3) < 40 else x * 3


class NotSquare(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] != x.shape[1] else x * 3


LENGTHS = {**RANGE, "length": (1, 32)}


@pytest.mark.parametrize(
    ("model", "suffix", "said"),
    [
        (Squeezes(), ".pt2", "it computes something else for 1x1x3"),
        (Squeezes(), ".onnx", "it fails for 4x5x3"),
        (OfSmallSizes(), ".exported", "it computes something else for 1x1x3"),
        (OfSmallSizes(), ".onnx", "it computes something else for 1x1x3"),
        (Divides(), ".onnx", "it holds only where .*, which is not so for batch 7 and length 1;"),
        (Grows(), ".exported", "it holds only where .* < 40, which is not so for batch 8 and length 16;"),
        (NotSquare(), ".pt2", "it holds only where .*, which is not so for batch 1 and length 1;"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_what_does_not_serve_every_size_is_refused(model, suffix, said, tmp_path):
    """Conditions on two sizes, and those on sizes of 1, are decided while tracing, where torch says nothing."""
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
    with pytest.raises(UserError, match=said):
        mvc.export_model(model.eval(), torch.randn(4, 5, 3), tmp_path / f"some{suffix}", dynamic=LENGTHS)
    assert list(tmp_path.iterdir()) == []


def test_without_code_results_of_other_ranks_are_refused():
    sizes, x = Sizes.parse(RANGE), torch.randn(4, 6)
    made = program.export(Squeezes().eval(), (x,), sizes, passes=(), frozen=False)
    with pytest.raises(UserError, match="it computes something else for 1x6"):
        program.check_ranks_at_one(made, Squeezes().eval(), (x,), sizes)


class Regroups(nn.Module):
    """Its sizes always fit, which torch does not see."""

    def forward(self, x, y):
        return (x + y).reshape(x.shape[0] * x.shape[1], -1).reshape(-1, x.shape[1], 3)


@pytest.mark.parametrize("suffix", [".exported", ".onnx"])
def test_conditions_that_hold_for_every_size_are_no_reason_to_refuse(suffix, tmp_path):
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
    model, x = Regroups().eval(), torch.randn(4, 5, 3)
    run = mvc.export.load(mvc.export_model(model, (x, x), tmp_path / f"fits{suffix}", dynamic=LENGTHS).path)
    for shape in ((1, 1, 3), (8, 32, 3)):
        x, y = torch.randn(shape), torch.randn(shape)
        torch.testing.assert_close(run(x, y), model(x, y))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"path": "model.bin"}, "path is 'model.bin'; it must be a file that ends in .pt2, .onnx, .exported"),
        ({"format": "tflite"}, "format is 'tflite'; it must be one of pt2, onnx, exported"),
        ({"format": "onnx"}, "path is 'model.pt2'; it must be a file that ends in .onnx"),
        ({"path": "no/folder/model.pt2"}, "cannot write path no/folder/model.pt2: there is no folder"),
        ({"model": Small()}, "model is 'in training mode'"),
        ({"model": None}, "model is None"),
        ({"example": [1]}, "example is"),
        ({"example": ()}, r"example is \(\)"),
        ({"example": (1,)}, r"example\[0\]"),
        ({"frozen": 1}, "frozen is 1; it must be True or False"),
        ({"isa": "mmx"}, "isa is 'mmx'; it must be one of"),
        ({"isa": "avx2", "path": "model.exported"}, "isa is 'avx2', which is for format 'pt2' on a CPU"),
        ({"custom_ops": True}, "custom_ops is True, which is for format 'exported'"),
    ],
)
def test_what_cannot_be_used_is_refused(changes, said, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = {"model": model, "example": example(), "path": "model.pt2", **changes}
    with pytest.raises(UserError, match=said):
        mvc.export_model(**arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [("missing.pt2", "there is no such file"), ("model.bin", "it must end in .pt2, .exported, .onnx")],
)
def test_what_cannot_be_loaded_is_refused(name, said, tmp_path):
    if name == "model.bin":
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=said):
        mvc.export.load(tmp_path / name)


KILLED = """
import sys, time
from pathlib import Path
from export_cases import Small, example
import mvc, mvc.files
written = mvc.files.os.replace
def late(made, path):  # the file is whole and has its place to take
    print("written", flush=True)
    time.sleep(60)
mvc.files.os.replace = late
mvc.export_model(Small().eval(), example(), sys.argv[1])
"""


@pytest.mark.parametrize("old", [None, b"an older file"])
def test_a_killed_export_leaves_the_old_file_or_none(old, tmp_path):
    path = tmp_path / "model.exported"
    if old is not None:
        path.write_bytes(old)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[1]), *sys.path))}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, env=environment)
    assert process.stdout.readline() == b"written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (path.read_bytes() if path.exists() else None) == old
