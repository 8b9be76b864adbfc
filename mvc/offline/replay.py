"""Checks what generated GPU code computes: it runs on CPU tensors, and its results are compared with eager's.

`python -m mvc.offline.replay RESULT FOLDER...` is the process in which Triton interprets; `replay` starts it.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mvc.errors import UserError
from mvc.offline import child, device
from mvc.offline.manifest import Manifest
from mvc.passes import accuracy
from mvc.passes.accuracy import REPLAYED, REPLAYED_FLOAT32_SCORES, Check, relative_errors, worst

TIMEOUT = 1200.0  # seconds
GRADIENT = "gradient of "  # before a parameter's name


def replay(*folders: Path) -> list[Check]:
    """Run the code in folders that `mvc.offline.generate` has filled, with random weights and images.

    Results are compared with float64: scores and, in training, each parameter's gradient and each buffer after the
    step. For each folder the check of the worst result is returned.

    Triton kernels run under Triton's interpreter and library calls through ATen. This does not show races, the rounding
    of tensor cores or what autotuning would choose.

    Raises:
        UserError: this machine cannot run the stand-in device (`device.why_not`), a folder has no manifest, or the code
            raises or runs longer than `TIMEOUT`.
    """
    device.require()
    for folder in folders:
        Manifest.read(folder)
    with tempfile.TemporaryDirectory(prefix="mvc-replay-", ignore_cleanup_errors=True) as scratch:
        result = Path(scratch) / "result.json"
        # Small products in numpy: its threads would wait for each other longer than they compute.
        alone = {"TRITON_INTERPRET": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment = {**child.environment(Path(scratch)), **alone}
        command = [sys.executable, "-m", "mvc.offline.replay", str(result), *map(str, folders)]
        try:
            done = child.run(command, env=environment, timeout=TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"the replay took longer than {TIMEOUT:.0f} s and was stopped") from error
        if done.returncode:
            raise UserError(f"the generated code cannot be replayed: {child.reason(done)}")
        return [Check(*facts) for facts in json.loads(result.read_text())]


def main(arguments: Sequence[str]) -> None:
    results = [_replayed(Path(folder)) for folder in arguments[1:]]
    Path(arguments[0]).write_text(json.dumps(results), encoding="utf-8")


def _replayed(folder: Path) -> Check:
    from mvc.offline.codegen import autocast, build

    manifest = Manifest.read(folder)
    request = manifest.model
    dtype = getattr(torch, request.dtype)
    torch.manual_seed(0)
    model = build(request, "cpu")
    _make_telling(model)
    exact = build(request, "cpu", torch.float64)
    exact.load_state_dict(model.state_dict())
    exact.double()
    shape = (request.batch, model.config.in_chans, request.height, request.width)
    x = torch.randn(shape, dtype=torch.float64).to(getattr(torch, request.stored))
    x = x.contiguous(memory_format=torch.channels_last)
    cotangent = torch.randn(request.batch, model.config.num_classes)
    state = {name: tensor.detach().clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    expected = _eager(exact, x.double(), cotangent.double())
    with autocast(request, "cpu"):
        eager = _eager(model, x, cotangent.to(dtype))
    seen = _generated(folder, manifest, {**state, "x": x}, cotangent.to(dtype))
    errors, of_eager = _errors(seen, expected), _errors(eager, expected)
    limits = _limits(of_eager, dtype, training=request.training)
    return worst(Check(name, errors[name], of_eager[name], limits[name]) for name in expected)


def _limits(eager: dict[str, float], dtype: torch.dtype, *, training: bool) -> dict[str, float]:
    """The error that each result may have, by the result's name.

    Args:
        eager: errors of eager arithmetic; they are zero for buffers on which no arithmetic is done.
    """
    if dtype == torch.float32 and not training:
        return dict.fromkeys(eager, REPLAYED_FLOAT32_SCORES)

    def typical(name: str) -> float:
        """The error in the median gradient or, for a forward, in the median result."""
        alike = [error for other, error in eager.items() if other.startswith(GRADIENT) == name.startswith(GRADIENT)]
        return statistics.median([error for error in alike if error] or [0.0])

    rounding = accuracy.rounding(dtype)
    return {
        name: REPLAYED.tolerance(rounding, eager_error=error, typical=typical(name)) for name, error in eager.items()
    }


def _make_telling(model: nn.Module) -> None:
    """Replace fresh weights that are zero, one or near it, so that a wrong term shows in the scores."""
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
            elif tensor.is_floating_point() and tensor.dim() == 1:
                tensor.add_(0.3 * torch.randn(tensor.shape))
            elif tensor.dim() == 2 and not name.endswith("A_log"):
                tensor.copy_(torch.randn(tensor.shape) / math.sqrt(tensor.shape[1]))


def _eager(model: nn.Module, x: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
    """Scores and, in training, gradients and the buffers after the step, by their names in the model."""
    with torch.set_grad_enabled(model.training):
        scores = model(x)
        if model.training:
            scores.backward(cotangent)
    gradients = {GRADIENT + name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    buffers = dict(model.named_buffers()) if model.training else {}
    results = {"scores": scores.detach(), **gradients, **buffers}
    return {name: each.double() for name, each in results.items()}  # a count of batches is an integer


def _generated(folder: Path, manifest: Manifest, tensors: dict[str, Tensor], cotangent: Tensor) -> dict[str, Tensor]:
    """The results that `_eager` returns, but computed by the wrappers, which update buffers in place."""
    from mvc.offline import interpreter

    if (folder / "constants.py").is_file():
        constants = interpreter.module(folder / "constants.py", device=lambda **_: torch.device("cpu"))
        values = constants.forward(None, *(tensors[name] for name in constants.PARAMETERS))
        tensors = {**tensors, **{f"constant {index}": each for index, each in enumerate(values)}}
    names = manifest.inputs
    with interpreter.on_cpu(), torch.no_grad():
        arguments = [tensors[name] for name in names]
        outputs = interpreter.module(folder / "forward.py").call(list(arguments))
        if not manifest.model.training:
            return {"scores": outputs[0]}
        # What the forward saves is returned last and passed to the backward first; each names the buffers in its way.
        kept = len(manifest.interfaces["backward"]["inputs"]) - 1
        gradients = interpreter.module(folder / "backward.py").call([*outputs[len(outputs) - kept :], cotangent])
    named = {GRADIENT + name: each for name, each in zip(names, gradients, strict=True) if each is not None}
    return {**tensors, "scores": outputs[0], **named}


def _errors(seen: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """The errors by name. A gradient's error is relative to its share in all gradients where that is more than its own
    norm: the norm for a bias before a BatchNorm is zero."""
    gradients = {name: each for name, each in expected.items() if name.startswith(GRADIENT)}
    others = {name: each for name, each in expected.items() if name not in gradients}
    return relative_errors(seen, others) | relative_errors(seen, gradients, share=1.0)


if __name__ == "__main__":
    child.serve(main)
