"""Compiled code in a second process with empty caches: right, and nothing is compiled there."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from places import ROOT
from torch import fx

from mvc.compile import precompiled, torch_private_caches
from mvc.kernels import cache
from mvc.passes import measured_choice

# What every process does: a model, and the commands of compilers that it starts from then on.
SETTING = """
import json, subprocess, sys
import torch
import mvc.compile
from mvc.compile.backend import mvc as backend
from mvc.kernels.scan import selective_scan
from torch._dynamo.utils import counters

class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)
        self.A_log = torch.nn.Parameter(torch.rand(16, 4))

    def forward(self, x):
        u = torch.nn.functional.silu(self.inner(x))
        return self.outer(selective_scan(u, u.abs(), -self.A_log.exp(), u[..., :4], u[..., 4:8]))

torch.manual_seed(0)
model = {"block": Block, "tiny": lambda: mvc.create_model("tiny")}[sys.argv[1]]().eval()
x = torch.randn(*json.loads(sys.argv[2]))
frozen, path = sys.argv[3] == "frozen", sys.argv[4]
built = []

class Popen(subprocess.Popen):
    def __init__(self, command, *args, **options):
        text = " ".join(map(str, command)) if isinstance(command, (list, tuple)) else str(command)
        if any(name in text for name in (".cpp", ".hpp", ".cu", "cpp_extension")):
            built.append(text[:200])
        super().__init__(command, *args, **options)

subprocess.Popen = Popen

def tell(function, **facts):
    errors = []
    with torch.no_grad():
        for _ in range(2):
            errors.append((function(x) - model(x)).abs().max().item())
            model.get_parameter("outer.weight" if sys.argv[1] == "block" else "head.weight").mul_(2)
    print(json.dumps({"errors": errors, "built": built, "counters": {**counters["aot_autograd"]}, **facts}))

def compiled():
    return torch.compile(model, fullgraph=True, backend=backend, options={"frozen": frozen})
"""
SAVE_CACHES = """
tell(compiled())
open(path, "wb").write(torch.compiler.save_cache_artifacts()[0])
"""
LOAD_CACHES = """
info = torch.compiler.load_cache_artifacts(open(path, "rb").read())
tell(compiled(), carried=info.mvc_artifacts)
"""
SAVE_AHEAD = """
with torch.no_grad():
    function = compiled().forward.aot_compile(((x,), {}))
tell(lambda x: function(model, x))
function.save_compiled_function(path)
"""
LOAD_AHEAD = """
with open(path, "rb") as file:
    function = torch.compiler.load_compiled_function(file)
tell(lambda x: function(model, x))
with torch.no_grad():
    for weight in model.parameters():
        weight.data.add_(0.1)
    if frozen:
        mvc.refresh(function)
    expected = model(x)
    assert (function(model, x) - expected).abs().max() < 1e-4 * expected.abs().max()
"""
ahead = pytest.mark.skipif(
    not torch._dynamo.config.enable_aot_compile, reason="this torch has aot_compile switched off, for it is unfinished"
)
FROZEN = ("frozen", "not-frozen")


def run(code: str, model: str, shape: list[int], frozen: str, path: Path, **environment: str) -> dict[str, Any]:
    """What a process tells of itself."""
    command = [sys.executable, "-c", SETTING + code, model, json.dumps(shape), frozen, str(path)]
    given = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_VEC_ISA_OK"}
    done = subprocess.run(command, cwd=ROOT, env={**given, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def twice(first: str, second: str, folder: Path, model: str, shape: list[int], frozen: str) -> dict[str, Any]:
    """What the second process tells, whose caches are empty; the first one's are as well, but for the C++ scan."""
    saved, own = folder / "saved", [{"TORCHINDUCTOR_CACHE_DIR": str(folder / each)} for each in "ab"]
    told = run(first, model, shape, frozen, saved, **own[0])
    assert max(told["errors"]) < 1e-5
    assert told["built"], "the first process has to compile, or nothing is shown"
    return run(second, model, shape, frozen, saved, **own[1], MVC_CACHE_DIR=str(folder / "mvc"))


@pytest.mark.parametrize("frozen", FROZEN)
def test_portable_caches_leave_nothing_to_compile(frozen, tmp_path):
    told = twice(SAVE_CACHES, LOAD_CACHES, tmp_path, "block", [2, 9, 16], frozen)
    assert max(told["errors"]) < 1e-5
    assert told["built"] == []
    assert told["counters"].get("autograd_cache_hit") == 1
    assert "autograd_cache_miss" not in told["counters"]
    assert {key.partition("/")[0] for key in told["carried"]} >= {"library", "kernel", "check"}


@ahead
@pytest.mark.parametrize("frozen", FROZEN)
def test_aot_compile_leaves_nothing_to_compile(frozen, tmp_path):
    told = twice(SAVE_AHEAD, LOAD_AHEAD, tmp_path, "block", [2, 9, 16], frozen)
    assert max(told["errors"]) < 1e-5
    assert told["built"] == []
    assert told["counters"] == {}, "AOTAutograd ran"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"),
    [(SAVE_CACHES, LOAD_CACHES), pytest.param(SAVE_AHEAD, LOAD_AHEAD, marks=ahead)],
    ids=["portable caches", "aot_compile"],
)
def test_a_whole_model_leaves_nothing_to_compile(first, second, tmp_path):
    told = twice(first, second, tmp_path, "tiny", [2, 3, 64, 64], "frozen")
    assert max(told["errors"]) < 1e-5
    assert told["built"] == []


@pytest.fixture
def folders(monkeypatch, tmp_path) -> Path:
    """Empty caches, which forget nothing of this process's."""
    monkeypatch.setenv("MVC_CACHE_DIR", str(tmp_path / "mvc"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setattr(measured_choice, "_known", {})
    precompiled._warn_once.cache_clear()
    return tmp_path


def test_what_another_processor_built_is_left_out_with_a_warning(folders):
    with pytest.warns(UserWarning, match="another processor; its C\\+\\+ code is compiled again"):
        precompiled.keep("kernel/0123/CppPythonBindingsCodeCache/cabc", b"code")
    assert not (folders / "inductor").exists()


def test_choices_of_another_process_count_here_and_the_file_keeps_its_own(folders):
    cache.update("choices.json", lambda path: cache.replace_text(path, '{"a": "ours"}'))
    precompiled.keep("choices/choices.json", b'{"a": "theirs", "b": "theirs"}')
    assert measured_choice.known() == {"choices.json": {"a": "theirs", "b": "theirs"}}
    assert json.loads((folders / "mvc" / "choices.json").read_text()) == {"a": "ours", "b": "theirs"}


def test_a_library_that_is_there_stays(folders):
    precompiled.keep("library/scan.so", b"first")
    precompiled.keep("library/scan.so", b"second")
    assert (folders / "mvc" / "scan.so").read_bytes() == b"first"


def test_a_folder_that_cannot_be_written_is_a_warning(folders, monkeypatch):
    (folders / "file").touch()
    monkeypatch.setattr(torch_private_caches, "inductor_folder", lambda: folders / "file" / "below")
    with pytest.warns(UserWarning, match=r"cannot be kept \(.*\) and is made again"):
        precompiled.keep(f"check/{precompiled._processor()}/ab/name.so", b"code")


def test_a_graph_as_source_computes_the_same_after_pickling():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.full((3,), 2.0))

        def forward(self, x):
            return torch.nn.functional.linear(x, x).exp() * self.scale, torch.ops.aten.sin.default(x)

    x = torch.rand(3, 3)
    source = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(precompiled.Source(fx.symbolic_trace(Scaled()))))))
    for one, two in zip(source(x), Scaled()(x), strict=True):
        torch.testing.assert_close(one, two)


def test_what_is_recorded_is_recorded_once(folders):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            torch_private_caches.record_artifact(precompiled.KIND, "choices/none.json", b"{}")
        info = torch.compiler.save_cache_artifacts()[1]
    assert info.mvc_artifacts.count("choices/none.json") == 1
