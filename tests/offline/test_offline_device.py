"""The stand-in for a GPU: what it says of itself, what it refuses, and that it stays in its own process."""

import json
import os
import re

import pytest
import torch

from mvc.errors import UserError
from mvc.kernels import cache
from mvc.offline import device
from mvc.offline.targets import TARGETS, find

needs_device = pytest.mark.skipif(device.why_not() is not None, reason=str(device.why_not()))

SAYS = """
import json, torch, triton
properties = torch.cuda.get_device_properties(0)
target = triton.runtime.driver.active.get_current_target()
print(json.dumps([properties.name, [properties.major, properties.minor], properties.multi_processor_count,
                  properties.L2_cache_size, torch.cuda.device_count(), target.arch]))
"""

LAUNCHES = """
import torch
x = torch.arange(4.0).to("cuda")  # a copy, which is the host's
for _ in range(2):
    try:
        x.add_(1)
    except RuntimeError as error:
        print("no kernel image" in str(error))
torch.cuda.synchronize()
print(x.cpu().tolist())
"""


REPEATED = """
import torch
from mvc import selective_scan
u, delta = torch.zeros(2, 1, 3, 5).to("cuda")
A, B, C = torch.zeros(5, 2).to("cuda"), *torch.zeros(2, 1, 3, 2).to("cuda")
leaves = [x.clone().requires_grad_() for x in (u, delta, A, B, C)]
for _ in range(3):
    y = selective_scan(u, delta, A, B, C, impl="triton")
    assert (y.shape, y.device.type) == (u.shape, "cuda")
    y = selective_scan(*leaves, impl="triton")
    gradients = torch.autograd.grad(y, leaves, u)
    assert [g.shape for g in gradients] == [x.shape for x in leaves]
print("launched")
"""

COMPILES = """
import torch, triton
import triton.language as tl

torch._inductor.config.compile_threads = 1

@triton.jit
def kernel(p_x):
    tl.store(p_x, 1.0)

x = torch.empty(4, device="cuda")
for run in (lambda: kernel[(1,)](x), lambda: torch.compile(lambda x: x.sin() + 1)(x)):
    try:
        run()
    except RuntimeError:
        print("refused")
"""


def run(code, tmp_path, target="sm_90", timeout=120, **options):
    done = device.run(["-c", code], find(target), scratch=tmp_path, timeout=timeout, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_device
@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_torch_and_triton_see_the_card(target, tmp_path):
    found = json.loads(run(SAYS, tmp_path, target.name))
    assert found == [target.card, list(target.capability), target.sms, target.l2, 1, target.compute_capability]


@needs_device
def test_launches_are_refused_and_change_nothing(tmp_path):
    assert run(LAUNCHES, tmp_path).split("\n") == ["True", "True", "[0.0, 1.0, 2.0, 3.0]", ""]


@needs_device
def test_where_launches_do_nothing_the_scan_is_launched_again_and_again(tmp_path):
    """Triton's launcher takes the arguments of a repeated launch as well as those of the first."""
    assert run(REPEATED, tmp_path, launches=True) == "launched\n"


@needs_device
def test_nothing_leaks_into_this_process_or_its_caches(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "compiles.py").write_text(COMPILES)  # Triton reads the source of its kernels
    monkeypatch.setenv("MVC_CACHE_DIR", str(cache.folder()))  # where the stand-in is
    elsewhere = tmp_path / "elsewhere"
    for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        (elsewhere / name).mkdir(parents=True)
        monkeypatch.setenv(name, str(elsewhere / name))
    before, available = dict(os.environ), torch.cuda.is_available()
    done = device.run([str(scratch / "compiles.py")], find("sm_90"), scratch=scratch, timeout=300)
    assert done.stdout == "refused\nrefused\n", done.stderr
    assert list(scratch.glob("triton/**/*.cubin"))
    assert list(scratch.glob("inductor/**/*.py"))
    assert [path for path in elsewhere.rglob("*") if not path.is_dir()] == []
    assert dict(os.environ) == before
    assert torch.cuda.is_available() == available


@needs_device
def test_a_process_that_hangs_is_stopped(tmp_path):
    with pytest.raises(UserError, match="took longer than 1 s and was stopped"):
        run("import time; time.sleep(60)", tmp_path, timeout=1)


@needs_device
def test_a_compiler_that_hangs_is_stopped(tmp_path, monkeypatch):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\nsleep 60\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("MVC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(device, "BUILD_TIMEOUT", 1.0)
    with pytest.raises(UserError, match=r"the stand-in device cannot be built: .*cc took longer than 1 s"):
        run("", tmp_path)


@needs_device
def test_a_compiler_that_fails_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "false")
    monkeypatch.setenv("MVC_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="the stand-in device cannot be built"):
        run("", tmp_path)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_an_unknown_target_is_named():
    with pytest.raises(UserError, match="target is 'sm_70'; it must be one of sm_80, sm_90, h200, sm_100"):
        find("sm_70")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda patch: patch.setattr("sys.platform", "win32"), "preloaded as on Linux; this is win32"),
        (lambda patch: patch.setattr("importlib.util.find_spec", lambda name: None), "triton is not installed"),
        (lambda patch: patch.setattr("torch.version.cuda", None), "built without CUDA|triton is not installed"),
        (lambda patch: patch.setattr("torch.__version__", "3.1.0"), "torch is 3.1.0|triton is not|without CUDA"),
        (
            lambda patch: patch.setattr("torch.version.cuda", "11.8"),
            r"torch [\w.+]+ is built for CUDA 11.8 and triton's headers are of CUDA 1\d; install|triton is not",
        ),
        (lambda patch: patch.setenv("CC", "no-such-compiler"), "no C compiler 'no-such-compiler'|triton|without CUDA"),
    ],
    ids=["system", "triton", "cuda", "torch", "other-cuda", "compiler"],
)
def test_what_is_missing_is_one_sentence(change, sentence, monkeypatch):
    monkeypatch.setattr(device, "TORCH_VERSIONS", ("2",))  # this torch and triton, so that later causes are reached
    monkeypatch.setattr(device, "TRITON_VERSIONS", ("3",))
    change(monkeypatch)
    reason = device.why_not.__wrapped__()
    assert re.search(sentence, reason)
    assert "\n" not in reason
