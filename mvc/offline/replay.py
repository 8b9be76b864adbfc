"""Checks what generated GPU code computes: it runs on CPU tensors, and its results are held against eager's.

`python -m mvc.offline.replay RESULT FOLDER...` is the process in which Triton interprets; `replay` starts it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mvc.errors import UserError
from mvc.offline.manifest import Manifest

TIMEOUT = 1200.0  # seconds
FLOAT32_LIMIT = 1e-5  # of scores
# Of gradients and of lower precision: so many times the error of eager arithmetic in that dtype, and one rounding.
EAGER_ERRORS = 2.0


@dataclasses.dataclass(frozen=True)
class Replay:
    """How far the results of generated code are from float64, as relative errors in the Euclidean norm.

    Attributes:
        error: of the scores; in training the largest of that and those of each parameter's gradient.
        worst: what has that error.
        eager: the largest error of eager arithmetic in the same dtype.
        limit: what `error` may be.
    """

    error: float
    worst: str
    eager: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit  # False for NaN


def replay(*folders: Path) -> list[Replay]:
    """Run the code in folders that `mvc.offline.generate` has filled, with random weights and images.

    Triton kernels run under Triton's interpreter and library calls through ATen. Races, the rounding of tensor cores
    and what autotuning would choose cannot be seen so.

    Raises:
        UserError: a folder without a manifest, or code that raises or takes longer than `TIMEOUT`.
    """
    for folder in folders:
        Manifest.read(folder)
    with tempfile.TemporaryDirectory(prefix="mvc-replay-", ignore_cleanup_errors=True) as scratch:
        result = Path(scratch) / "result.json"
        environment = {
            **os.environ,
            "TRITON_INTERPRET": "1",
            "TRITON_CACHE_DIR": f"{scratch}/triton",
            "TORCHINDUCTOR_CACHE_DIR": f"{scratch}/inductor",
        }
        command = [sys.executable, "-m", "mvc.offline.replay", str(result), *map(str, folders)]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"the replay took longer than {TIMEOUT:.0f} s and was stopped") from error
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            raise UserError(f"the generated code cannot be replayed: {lines[-1]}")
        return [Replay(**facts) for facts in json.loads(result.read_text())]


def main(arguments: Sequence[str]) -> None:
    results = [dataclasses.asdict(_replayed(Path(folder))) for folder in arguments[1:]]
    Path(arguments[0]).write_text(json.dumps(results), encoding="utf-8")


def _replayed(folder: Path) -> Replay:
    from mvc.offline.codegen import Request, build

    manifest = Manifest.read(folder)
    request = Request(**manifest.model)
    dtype = getattr(torch, request.dtype)
    torch.manual_seed(0)
    model = build(request, "cpu")
    _make_telling(model)
    exact = build(request, "cpu", torch.float64)
    exact.load_state_dict(model.state_dict())
    exact.double()
    shape = (request.batch, model.config.in_chans, request.height, request.width)
    x = torch.randn(shape, dtype=torch.float64).to(dtype).contiguous(memory_format=torch.channels_last)
    cotangent = torch.randn(request.batch, model.config.num_classes)
    state = {name: tensor.detach().clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    expected = _eager(exact, x.double(), cotangent.double())
    eager = _eager(model, x, cotangent.to(dtype))
    seen = _generated(folder, manifest, {**state, "x": x}, cotangent.to(dtype))
    errors, of_eager = _errors(seen, expected), _errors(eager, expected)
    worst = max(errors, key=lambda name: math.inf if math.isnan(errors[name]) else errors[name])
    most = max(of_eager.values())
    strict = dtype == torch.float32 and not request.training
    limit = FLOAT32_LIMIT if strict else EAGER_ERRORS * most + torch.finfo(dtype).eps
    return Replay(errors[worst], worst, most, limit)


def _make_telling(model: nn.Module) -> None:
    """Replace what fresh weights leave at zero, one or near it, so that a wrong term shows in the scores."""
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
            elif tensor.is_floating_point() and tensor.dim() == 1:
                tensor.add_(0.3 * torch.randn(tensor.shape))
            elif tensor.dim() == 2 and not name.endswith("A_log"):
                tensor.copy_(torch.randn(tensor.shape) / math.sqrt(tensor.shape[1]))


def _eager(model: nn.Module, x: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
    """Scores and, in training, gradients by the parameters' names."""
    with torch.set_grad_enabled(model.training):
        scores = model(x)
        if model.training:
            scores.backward(cotangent)
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return {"scores": scores.detach(), **gradients}


def _generated(folder: Path, manifest: Manifest, tensors: dict[str, Tensor], cotangent: Tensor) -> dict[str, Tensor]:
    """What `_eager` gives, from the wrappers."""
    from mvc.offline import interpreter

    if (folder / "constants.py").is_file():
        constants = _module(folder / "constants.py", device=lambda **_: torch.device("cpu"))
        values = constants.forward(None, *(tensors[name] for name in constants.PARAMETERS))
        tensors = {**tensors, **{f"constant {index}": each for index, each in enumerate(values)}}
    forward, names = manifest.interfaces["forward"], manifest.inputs
    with interpreter.on_cpu(), torch.no_grad():
        arguments = [tensors[name] for name in names]
        outputs = _module(folder / "forward.py").call(list(arguments))
        if not manifest.model["training"]:
            return {"scores": outputs[0]}
        known = {**dict(zip(forward["inputs"], arguments, strict=True)), "tangents_1": cotangent}
        known.update(zip(forward["outputs"], outputs, strict=True))
        taken = [known[name] for name in manifest.interfaces["backward"]["inputs"]]
        gradients = _module(folder / "backward.py").call(taken)
    named = {name: each for name, each in zip(names, gradients, strict=True) if each is not None and name != "x"}
    return {"scores": outputs[0], **named}


def _module(path: Path, **globals_: Any) -> ModuleType:
    """A generated file as a module, with some of its globals replaced."""
    spec = importlib.util.spec_from_file_location(f"replayed_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module).update(globals_)
    return module


def _errors(seen: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """By name, relative to the tensor's own norm; for gradients at least to what would be its share in that of all: a
    bias ahead of a BatchNorm has none."""
    gradients = [each for name, each in expected.items() if name != "scores"]
    mean_square = sum(float(each.square().sum()) for each in gradients) / max(1, sum(map(Tensor.numel, gradients)))
    errors = {}
    for name, each in expected.items():
        share = 0.0 if name == "scores" else math.sqrt(mean_square * each.numel())
        errors[name] = float((seen[name].double() - each).norm()) / max(float(each.norm()), share)
    return errors


if __name__ == "__main__":
    main(sys.argv[1:])
