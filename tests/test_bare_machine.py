"""A machine that has torch and numpy alone: what works there, and what says that it is missing."""

import subprocess
import sys

from places import ROOT

MISSING = ("tabulate", "safetensors", "pynvml", "timm", "transformers", "matplotlib", "PIL", "huggingface_hub")

# Runs with those packages blocked; prints what a missing one is answered by.
PROGRAM = f"""
import sys
for name in {MISSING}:
    sys.modules[name] = None

import torch
from mvc import compile_model, create_model, load_weights
from mvc.errors import UserError
from mvc.measure import gpu_identity, nvml, profiler
import mvc.compile.__main__, mvc.regress.__main__, mvc.offline.report

model, x = create_model("tiny").eval(), torch.randn(1, 3, 64, 64)
with torch.no_grad():
    compiled, _ = compile_model(model, x, backend="eager")
    measured = profiler.measure({{"compiled": lambda: compiled(x)}}, rounds=2, device=x.device)
assert len(measured.timings["compiled"].seconds) == 2

torch.cuda.device_count = lambda: 1  # a GPU is stood for
with nvml.Watch(torch.device("cuda")) as watch:
    pass
print(*watch.notes)
assert gpu_identity.identify(torch.device("cuda")) == gpu_identity.UNKNOWN
try:
    load_weights(model, sys.argv[1])
except UserError as error:
    print(error)
"""


def test_what_gpu_machines_lack_is_imported_where_it_is_used(tmp_path):
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(b"\x08" + bytes(7) + b"{}      ")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(checkpoint)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr
    note, refusal = run.stdout.splitlines()
    assert note.startswith("NVML is not installed (pip install nvidia-ml-py)")
    assert "throttling is not seen" in note
    assert "needs safetensors; pip install safetensors" in refusal
