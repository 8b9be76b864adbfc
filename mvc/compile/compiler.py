"""`compile_model`: torch.compile in one graph with a record of what was compiled; and the check against eager."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from mvc.arguments import require, require_choice, require_tensor
from mvc.compile import torch_private
from mvc.compile.backend import MODES, GraphReport, Options
from mvc.compile.explanation import Explanation, Recorder
from mvc.errors import UserError
from mvc.model.module import MambaVision
from mvc.model.network import check_images
from mvc.passes import accuracy
from mvc.passes.accuracy import COMPILED, Check, relative_errors, worst
from mvc.passes.graph.regions import op_counts

_serial = itertools.count()

BACKENDS = ("mvc", "inductor", "eager")


@dataclasses.dataclass
class CompileReport:
    """What `compile_model` did, and what its callable has compiled since.

    Attributes:
        backend, mode, dynamic: as requested.
        explanation: what the passes did to each graph captured so far, and what the code of the first call runs.
        seconds: wall time of the first call: capture, compilation and one run.
        frozen: whether what depends on parameters alone is computed once, which the backend "mvc" does on request.
    """

    backend: str
    mode: str
    dynamic: bool | None
    explanation: Explanation = dataclasses.field(default_factory=Explanation)
    seconds: float = 0.0
    frozen: bool = False

    @property
    def how(self) -> str:
        """What compiled it, for people, such as "mvc (default, frozen)"."""
        weights = "" if self.backend != "mvc" else ", frozen" if self.frozen else ", not frozen"
        return f"{self.backend} ({self.mode}{weights})"

    @property
    def graphs(self) -> list[Counter[str]]:
        """How often each graph captured so far calls each op after the passes. After the first call there is one graph,
        since `fullgraph` allows no graph break."""
        return [report.after for report in self.explanation.graphs]

    @property
    def recompiles(self) -> int:
        """Graphs beyond the first one."""
        return max(len(self.graphs) - 1, 0)

    @property
    def scans(self) -> int:
        """Selective scans in the first graph, whichever implementation they were lowered to."""
        calls = self.graphs[0] if self.graphs else Counter()
        return sum(count for name, count in calls.items() if name.startswith("mvc.selective_scan"))


def compile_model(
    model: nn.Module,
    example: Tensor,
    *,
    backend: Literal["mvc", "inductor", "eager"] = "mvc",
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default",
    dynamic: bool | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Callable[[Tensor], Tensor], CompileReport]:
    """Compile a model in one graph, at once, for inputs like `example`.

    The model's training flag and the grad mode at the time of the call decide what is compiled: under `torch.no_grad()`
    inference alone, otherwise forward and backward. The example is run once, which in training mode counts in the
    BatchNorm statistics.

    Args:
        model: a MambaVision, or any module of one tensor argument.
        example: an input of the wanted shape, dtype and device.
        backend: "mvc" runs the passes and generates code with Inductor, "inductor" is Inductor alone; "eager" runs the
            captured graph as it is, without a compiler.
        mode: Inductor's mode, as of `torch.compile`.
        dynamic: as of `torch.compile`. True: one graph serves every batch size above 1 and, in inference, every image
            size that has one window along the same axes as the example and several along the others; in training the
            image size is the example's, and Inductor may need a further graph for other batches.
        options: of the backend "mvc" (`mvc.compile.backend.Options`) and of Inductor.

    Returns:
        the compiled model, sharing the model's parameters, and the report. Copying or pickling the former raises
        UserError: it is code of this process, for the tensors of this model.

    Raises:
        UserError: not a module, an example that the model does not accept, an unknown backend, mode or option, or no
            working C++ compiler where Inductor needs one.
        TypeError: an example of another dtype than the parameters of a MambaVision.
        torch._dynamo.exc.Unsupported: a model that cannot be captured in one graph.
    """
    require(isinstance(model, nn.Module), "model", model, "a torch.nn.Module")
    require_tensor("example", example)
    if isinstance(model, MambaVision):
        check_images(model, example, name="example")
    require(dynamic is None or isinstance(dynamic, bool), "dynamic", dynamic, "True, False or None")
    parsed = _options(backend, mode, options, example.device)
    recorder = Recorder(parsed)
    frozen = parsed.frozen and not torch.is_grad_enabled()
    report = CompileReport(backend, mode, dynamic, recorder.explanation, frozen=frozen)

    def run_captured(graph_module: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        calls = op_counts(graph_module)
        report.explanation.graphs.append(GraphReport(calls, calls, []))
        return graph_module.forward

    def forward(x: Tensor) -> Tensor:
        return model(x)

    # Dynamo counts graphs by code object, and remembers by its name which sizes varied: each model gets its own.
    forward.__code__ = forward.__code__.replace(co_name=f"forward_{next(_serial)}")
    if dynamic and model.training:
        # Inductor fails on training graphs of unknown height and width (it compares symbolic strides).
        example, dynamic = torch_private.with_dynamic_batch(example), None
    generate = run_captured if backend == "eager" else recorder
    run = torch.compile(forward, backend=generate, fullgraph=True, dynamic=dynamic)
    compiled = Compiled(model, run, dynamic=bool(report.dynamic))
    start = time.perf_counter()
    try:
        with recorder.generated_code():
            compiled(example)
    except Exception as error:
        if (reason := torch_private.compile_failure(error)) is not None:
            raise UserError(f"compilation failed: {reason}; the backend 'eager' needs no compiler") from error
        if torch_private.raised_in_trace(error.__cause__):
            raise UserError(f"example is not accepted by the model: {type(error).__name__}: {error}") from error
        raise
    report.seconds = time.perf_counter() - start
    return compiled, report


def _options(backend: str, mode: str, options: Mapping[str, Any] | None, device: torch.device) -> Options:
    """The backend's options; raises the UserErrors of `compile_model`."""
    require_choice("backend", backend, BACKENDS)
    require_choice("mode", mode, MODES)
    if backend == "eager" and (mode != "default" or options):
        seen = f"mode is {mode!r}" if mode != "default" else f"options is {options!r}"
        raise UserError(f"{seen}, which is for a compiler; leave it out with the backend 'eager'")
    parsed = Options.parse(options, mode)
    if backend == "inductor":
        if parsed != Options(mode=mode, inductor=parsed.inductor):
            raise UserError(f"options is {options!r}, some of it for the backend 'mvc'; 'inductor' runs no passes")
        parsed = dataclasses.replace(parsed, passes="none")
    if backend != "eager" and device.type == "cpu" and torch_private.cpp_compiler() is None:
        raise UserError(
            "Inductor needs a C++ compiler on a CPU and none works: install g++ or clang, or name one in the variable "
            "CXX; the backend 'eager' needs none"
        )
    return parsed


class Compiled:
    """The callable that `compile_model` returns. Where the model refuses an input, it raises the model's own error, not
    the one that torch.compile makes of it."""

    def __init__(self, model: nn.Module, run: Callable[[Tensor], Tensor], *, dynamic: bool) -> None:
        self.__wrapped__ = run  # `mvc.refresh` looks there for the backend
        self._model = model
        self._run = self._with_fewer_guards if dynamic else run
        self._seen: set[tuple[object, ...]] = set()

    def __call__(self, x: Tensor) -> Tensor:
        try:
            return self._run(x)
        except Exception as error:
            if torch_private.raised_in_trace(error):
                self._raise_as_eager(x, error)
            raise

    def _raise_as_eager(self, x: Tensor, cause: Exception) -> None:
        try:
            self._model(x)
        except Exception as error:
            raise error from cause

    def _with_fewer_guards(self, x: Tensor) -> Tensor:
        """Trace under `fewer_shape_guards`; inputs of a kind seen before need no tracing and go straight in."""
        kind = (x.shape, x.stride(), x.dtype, self._model.training, torch.is_grad_enabled())
        if kind in self._seen:
            return self.__wrapped__(x)
        with torch_private.fewer_shape_guards():
            y = self.__wrapped__(x)
        self._seen.add(kind)
        return y

    def __reduce_ex__(self, protocol: int) -> Any:
        raise UserError(
            "compiled cannot be copied or pickled: it is code of this process, for the tensors of one model; copy or "
            "pickle the model or its state_dict(), and call compile_model on the copy"
        )


def training_step(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Forward and backward of the mean square of the scores; gradients are added to the parameters' `grad`."""
    loss = model(x).float().square().mean()
    loss.backward()
    return loss.detach()


def check_against_eager(model: nn.Module, compiled: Callable[[Tensor], Tensor], x: Tensor) -> Check:
    """Compare results, or in training mode every gradient of `training_step`, with an oracle on the same input.

    The oracle is the eager model in float64 (float32 for half precision); the tolerance is the budget `COMPILED` of
    `mvc.passes.accuracy`. The model's buffers and gradients are left as they were.

    Returns:
        the check of the worst tensor.
    """
    outputs = _gradients if model.training else _scores
    oracle_dtype = torch.float64 if x.dtype == torch.float32 else torch.float32
    oracle = copy.deepcopy(model).to(oracle_dtype)
    expected = outputs(oracle, oracle, x.to(oracle_dtype))
    eager_errors, errors = (relative_errors(outputs(model, run, x), expected) for run in (model, compiled))
    typical, rounding = statistics.median(eager_errors.values()), accuracy.rounding(x.dtype)
    return worst(
        Check(name, errors[name], eager, COMPILED.tolerance(rounding, eager_error=eager, typical=typical))
        for name, eager in eager_errors.items()
    )


def _scores(module: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Tensor]:
    """What the module returns: scores, or several tensors, as a backbone's maps."""
    with torch.no_grad():
        y = run(x)
    return {"scores": y} if isinstance(y, Tensor) else {f"map {index}": each for index, each in enumerate(y)}


def _gradients(module: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Tensor]:
    """The gradients of one training step, by parameter; the module's own gradients and buffers are kept."""
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    kept_gradients = {name: p.grad for name, p in parameters.items()}
    kept_buffers = {name: b.clone() for name, b in buffers.items()}
    module.zero_grad()
    training_step(run, x)
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    for name, p in parameters.items():
        p.grad = kept_gradients[name]
    for name, b in buffers.items():
        b.copy_(kept_buffers[name])
    return gradients
