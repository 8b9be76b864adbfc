"""Checks what generated GPU code computes: it runs on CPU tensors, and its results are held against eager's.

`python -m mvc.offline.replay RESULT FOLDER...` is the process in which Triton interprets; `replay` starts it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import statistics
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
from mvc.offline import child, device
from mvc.offline.manifest import Manifest

TIMEOUT = 1200.0  # seconds
FLOAT32_LIMIT = 1e-5  # of scores
# In training and in lower precision: so many times the error of eager arithmetic in that dtype there, or in the median
# gradient (for what a forward gives, the median of those) where that is more, and one rounding.
EAGER_ERRORS = 2.0
GRADIENT = "gradient of "  # ahead of a parameter's name


@dataclasses.dataclass(frozen=True)
class Replay:
    """How far a result of generated code is from float64, as relative errors in the Euclidean norm.

    In training there are several: scores, each parameter's gradient and each buffer after the step. This is the one
    furthest beyond its limit, or else nearest to it.

    Attributes:
        error: of the generated code.
        worst: the result's name.
        eager: the error of eager arithmetic in the same dtype.
        limit: what `error` may be.
    """

    error: float
    worst: str
    eager: float
    limit: float

    @property
    def passed(self) -> bool:
        return math.isfinite(self.limit) and self.error <= self.limit  # False for NaN

    def as_dict(self) -> dict[str, Any]:
        """For JSON: None for what is no finite number."""
        facts = dataclasses.asdict(self)
        return {
            name: None if isinstance(each, float) and not math.isfinite(each) else each for name, each in facts.items()
        }

    @property
    def strain(self) -> float:
        """The error as a share of the limit; infinite where one of them is no finite number."""
        return self.error / self.limit if math.isfinite(self.error) and math.isfinite(self.limit) else math.inf


def replay(*folders: Path) -> list[Replay]:
    """Run the code in folders that `mvc.offline.generate` has filled, with random weights and images.

    Triton kernels run under Triton's interpreter and library calls through ATen. Races, the rounding of tensor cores
    and what autotuning would choose cannot be seen so.

    Raises:
        UserError: this machine cannot (`device.why_not`), a folder without a manifest, or code that raises or takes
            longer than `TIMEOUT`.
    """
    device.require()
    for folder in folders:
        Manifest.read(folder)
    with tempfile.TemporaryDirectory(prefix="mvc-replay-", ignore_cleanup_errors=True) as scratch:
        result = Path(scratch) / "result.json"
        environment = {**child.environment(Path(scratch)), "TRITON_INTERPRET": "1"}
        command = [sys.executable, "-m", "mvc.offline.replay", str(result), *map(str, folders)]
        try:
            done = child.run(command, env=environment, timeout=TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"the replay took longer than {TIMEOUT:.0f} s and was stopped") from error
        if done.returncode:
            raise UserError(f"the generated code cannot be replayed: {child.reason(done)}")
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
    limits = _limits(of_eager, dtype, training=request.training)
    results = [Replay(errors[name], name, of_eager[name], limits[name]) for name in expected]
    return max(results, key=lambda result: result.strain)


def _limits(eager: dict[str, float], dtype: torch.dtype, *, training: bool) -> dict[str, float]:
    """What the error of each result may be, by its name.

    Args:
        eager: errors of eager arithmetic; those of buffers that no arithmetic is done on are zero.
    """
    if dtype == torch.float32 and not training:
        return dict.fromkeys(eager, FLOAT32_LIMIT)

    def typical(name: str) -> float:
        alike = [error for other, error in eager.items() if other.startswith(GRADIENT) == name.startswith(GRADIENT)]
        return statistics.median([error for error in alike if error] or [0.0])

    rounding = torch.finfo(dtype).eps
    return {name: EAGER_ERRORS * max(error, typical(name)) + rounding for name, error in eager.items()}


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
    """What `_eager` gives, from the wrappers, which update buffers among the tensors in place."""
    from mvc.offline import interpreter

    if (folder / "constants.py").is_file():
        constants = _module(folder / "constants.py", device=lambda **_: torch.device("cpu"))
        values = constants.forward(None, *(tensors[name] for name in constants.PARAMETERS))
        tensors = {**tensors, **{f"constant {index}": each for index, each in enumerate(values)}}
    names = manifest.inputs
    with interpreter.on_cpu(), torch.no_grad():
        arguments = [tensors[name] for name in names]
        outputs = _module(folder / "forward.py").call(list(arguments))
        if not manifest.model["training"]:
            return {"scores": outputs[0]}
        # What the forward keeps comes last, as the backward takes it first; a buffer has a name of its own in each.
        kept = len(manifest.interfaces["backward"]["inputs"]) - 1
        gradients = _module(folder / "backward.py").call([*outputs[len(outputs) - kept :], cotangent])
    named = {GRADIENT + name: each for name, each in zip(names, gradients, strict=True) if each is not None}
    return {**tensors, "scores": outputs[0], **named}


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
    gradients = [each for name, each in expected.items() if name.startswith(GRADIENT)]
    mean_square = sum(float(each.square().sum()) for each in gradients) / max(1, sum(map(Tensor.numel, gradients)))
    errors = {}
    for name, each in expected.items():
        share = math.sqrt(mean_square * each.numel()) if name.startswith(GRADIENT) else 0.0
        distance = float((seen[name].double() - each).norm()) if name in seen else math.inf
        errors[name] = distance / max(float(each.norm()), share)
    return errors


if __name__ == "__main__":
    child.serve(main)
