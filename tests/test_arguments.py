"""Malformed calls of every public function: an error of ours that names the argument, or the right result."""

import copy
import pickle
import re
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from malformed_calls import ROWS, Row, images, scan_inputs, tiny
from torch import Tensor, nn

import mvc
import mvc.kernels.ops
from mvc.compile.__main__ import main
from mvc.compile.backend import Options
from mvc.errors import UserError
from mvc.model import image
from mvc.model.config import VARIANTS

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested:UserWarning", "ignore::DeprecationWarning")

ROOTS = [Path(file).parent for file in (mvc.__file__, mvc.kernels.ops.__file__)]
FUNCTIONS = list(dict.fromkeys(row.function for row in ROWS))


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that rows read by name: they are found in the working folder, which is this one."""
    path = tmp_path_factory.mktemp("arguments")
    state = tiny().state_dict()
    contents = {"tensor": torch.ones(2), "list": [1], "none": None, "empty": {}, "number": state | {"norm.weight": 1}}
    contents |= {"other": tiny(dim=32).state_dict(), "ints": {name: t.long() for name, t in state.items()}}
    contents |= {"complex": state | {"norm.weight": state["norm.weight"].to(torch.complex64)}}
    contents |= {"sparse": state | {"norm.weight": state["norm.weight"].to_sparse()}, "right": state}
    for name, content in contents.items():
        torch.save(content, path / f"{name}.pth")
    texts = {"void.pth": b"", "page.pth": b"<html>", "cut.pth": b"PK\x03\x04", "cut.safetensors": bytes(8) + b"{"}
    for name, text in (texts | {"void.jpg": b"", "page.jpg": b"<html>", "tiny.npz": b"PK\x03\x04"}).items():
        (path / name).write_bytes(text)
    (path / "folder.pth").mkdir()
    return path


def outcome(row: Row) -> str | None:
    """What is wrong with how a malformed call ended."""
    try:
        result = row.call()
    except Exception as error:
        if not isinstance(error, (ValueError, TypeError)):
            return f"{type(error).__name__}: {error}"
        file = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if not any(root in file.parents for root in ROOTS):
            return f"{file} raised {type(error).__name__}: {error}"
        article = r"(^|\bon |\band )" if row.name == "a" else r"\b"  # "a" is a word of any sentence
        name = rf"{article}{row.name}\b"
        return None if re.search(name, str(error)) else f"does not name {row.name}: {error}"
    return f"returned a {type(result).__name__}"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_malformed_calls_are_refused_by_name(function, folder, monkeypatch, fresh_dynamo):
    monkeypatch.chdir(folder)
    outcomes = {row.fault: outcome(row) for row in ROWS if row.function == function}
    assert {fault: seen for fault, seen in outcomes.items() if seen is not None} == {}


class Plain(torch.Tensor):
    """A subclass that changes nothing."""


ODD = {
    "a parameter": lambda t: nn.Parameter(t),
    "a subclass": lambda t: t.as_subclass(Plain),
    "expanded": lambda t: t[..., :1].expand(t.shape),
    "of a conjugate": lambda t: torch.complex(t, -t).conj().imag,
    "turned": lambda t: t.flip(-1).mT.contiguous().mT if t.dim() > 1 else t,
    "of every other element": lambda t: torch.stack((t, t), -1).flatten(-2)[..., ::2],
}


def step_by_step(inputs: dict[str, Tensor]) -> Tensor:
    """y of the scan's inputs by its definition, one element after the other, in float64."""
    u, delta, A, B, C, D, z, bias, state, reset = (
        t.detach().resolve_neg().numpy().astype(np.float64) for t in inputs.values()
    )
    y = np.zeros_like(u)
    for b, d in np.ndindex(u.shape[0], u.shape[2]):
        h = state[b, d].copy()
        for t in range(u.shape[1]):
            step = delta[b, t, d] + bias[d]
            h = np.exp(step * A[d]) * h * (1 - reset[b, t]) + step * B[b, t] * u[b, t, d]
            gate = z[b, t, d] / (1 + np.exp(-z[b, t, d]))
            y[b, t, d] = (C[b, t] @ h + D[d] * u[b, t, d]) * gate
    return torch.from_numpy(y)


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
@pytest.mark.parametrize("name", [name for name in scan_inputs() if name != "reset"])
def test_odd_tensors_are_read_as_they_are(name, change):
    inputs = scan_inputs()
    inputs[name] = change(inputs[name])
    torch.testing.assert_close(
        mvc.selective_scan(**inputs).detach().double(), step_by_step(inputs), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", ["a", "b", "initial"])
def test_a_number_is_broadcast_in_the_recurrence(name):
    inputs = {"a": torch.rand(2, 3), "b": torch.rand(2, 3), "initial": torch.rand(2)} | {name: torch.tensor(0.5)}
    h, expected = inputs["initial"].expand(2), []
    for factor, addend in zip(inputs["a"].expand(2, 3).unbind(1), inputs["b"].expand(2, 3).unbind(1), strict=True):
        h = factor * h + addend
        expected.append(h)
    torch.testing.assert_close(mvc.linear_recurrence(**inputs, dim=1), torch.stack(expected, 1))


def test_offsets_of_another_device_and_dtype():
    expected = torch.tensor([[True, False, False, True, False]])
    assert torch.equal(mvc.reset_from_cu_seqlens(torch.tensor([0, 3, 3, 5], dtype=torch.int32), 5), expected)
    assert mvc.reset_from_cu_seqlens(torch.tensor([0, 9], device="meta"), 5).shape == (1, 5)


def test_weights_from_a_mapping(folder):
    torch.manual_seed(1)
    model, published = mvc.create_model("tiny"), {f"model.{name}": t for name, t in tiny().state_dict().items()}
    for source in (tiny().state_dict(), published, {"state_dict": published, "epoch": 3}, tiny().tensors()):
        nn.init.zeros_(model.head.weight)
        loaded = mvc.load_weights(model, source)
        assert loaded.source == "state dict"
        assert loaded.tensors == len(model.state_dict())
        assert all(torch.equal(t, tiny().state_dict()[name]) for name, t in model.state_dict().items())
        assert model.head.weight.requires_grad
        assert model.head.weight.data_ptr() != tiny().head.weight.data_ptr()


def test_one_value_for_one_channel():
    assert mvc.get_config("tiny", in_chans=1, mean=(0.5,), std=(0.2,)).mean == (0.5,)
    assert mvc.get_config("tiny", in_chans=1).mean == VARIANTS["tiny"].mean  # which no photograph asks for


def test_sizes_and_counts_that_are_unusual():
    pytest.importorskip("PIL")
    photo = pytest.importorskip("PIL.Image").linear_gradient("L")
    pixels = image.preprocess(photo, VARIANTS["tiny"], size=(40, 64))
    assert torch.equal(image.preprocess(photo, VARIANTS["tiny"], size=[40, 64]), pixels)
    assert [name for name, _ in image.top_classes(torch.tensor([0.1, 0.3, 0.2]), count=99)] == [
        "class 1",
        "class 2",
        "class 0",
    ]
    assert image.top_classes(torch.ones(3), count=0) == []


def test_what_can_be_copied_and_pickled(fresh_dynamo):
    x, model = torch.rand(2, 4), nn.Linear(4, 4)
    with torch.no_grad():
        _, report = mvc.compile_model(model, x, backend="eager")
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(mvc.compile_model(copied, x, backend="eager")[0](x), model(x))
        picture = images()
        for copied in (copy.deepcopy(tiny()), pickle.loads(pickle.dumps(tiny()))):
            assert torch.equal(copied(picture), tiny()(picture))
    for value in (report, VARIANTS["T"], Options.parse({"frozen": True, "max_autotune": True})):
        assert copy.deepcopy(value) == pickle.loads(pickle.dumps(value)) == value


class Square(nn.Module):
    """Takes (2, 2) alone."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 2:
            raise UserError(f"x must be square, got {tuple(x.shape)}")
        return x @ torch.ones(2, 2)


@pytest.mark.parametrize("dynamic", [None, True])
def test_compiled_models_raise_what_the_model_raises(dynamic, fresh_dynamo):
    compiled, _ = mvc.compile_model(Square(), torch.ones(2, 2), backend="eager", dynamic=dynamic)
    with pytest.raises(UserError, match=r"^x must be square, got \(2, 3\)"):
        compiled(torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="same dtype") as caught:
        compiled(torch.ones(2, 2).double())
    assert not isinstance(caught.value, torch._dynamo.exc.TorchDynamoException)
    assert torch.equal(compiled(torch.ones(2, 2)), torch.full((2, 2), 2.0))


def test_a_model_that_cannot_be_captured_is_not_called_again(fresh_dynamo):
    class Breaking(nn.Module):
        calls = 0

        def forward(self, x):
            Breaking.calls += 1
            torch._dynamo.graph_break()
            return x

    with pytest.raises(torch._dynamo.exc.Unsupported):
        mvc.compile_model(Breaking(), torch.ones(2), backend="eager")
    assert Breaking.calls == 0


def test_options_of_torch_compile_are_named(fresh_dynamo):
    for options in ({"frozen": "yes"}, {"foo": 1}, {"max_autotune": "yes"}):
        model = torch.compile(nn.Linear(2, 2), backend="mvc", options=options)
        with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match=next(iter(options))) as caught:
            model(torch.ones(1, 2))
        assert isinstance(caught.value.inner_exception, UserError)


OPTIONS = [
    *(f"--{name} 0" for name in ("batch", "repeats", "inputs")),
    *(
        f"--{name} x"
        for name in ("batch", "repeats", "inputs", "seed", "size", "dtype", "device", "mode", "impl", "clock")
    ),
    *(f"--{name} x" for name in ("backend",)),
    *(f"--{name}=" for name in ("weights", "image", "json", "trace", "plot", "dump", "batch", "size", "seed")),
    *("--batch 99999999999999999999", "--seed -1", "--seed 9223372036854775808", "--size 31", "--size 64x64x64"),
    *(
        "--train --frozen",
        "--train --regions",
        "--trace void.pth/t.json",
        "--json .",
        "--plot x.gif",
        "--dump void.pth",
    ),
]


@pytest.mark.parametrize("arguments", OPTIONS)
def test_the_command_names_the_option(arguments, folder, monkeypatch, capsys, fresh_dynamo):
    monkeypatch.chdir(folder)
    try:
        status = main(["--variant", "tiny", "--quiet", "--batch", "1", "--size", "32", *arguments.split()])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert arguments.split()[-2 if " " in arguments else 0].strip("-=") in message
