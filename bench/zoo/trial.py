"""What the passes make of an entry, and how far its results and gradients are from eager mode's in float64."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from bench.zoo.entry import Entry, Size
from mvc.passes import pipeline
from mvc.passes.accuracy import COMPILED, Check, relative_errors, rounding
from mvc.passes.graph.regions import op_counts
from mvc.passes.pipeline import PassRecord
from mvc.passes.raising.raise_loop import always

RAISING = [name for name in pipeline.PASSES if name.startswith("raise")]
OPS = ("mvc.linear_recurrence", "mvc.selective_scan")
WIDE = {torch.float32: torch.float64, torch.complex64: torch.complex128}
Backend = Callable[[fx.GraphModule, Sequence[Any]], Callable[..., Any]]


class Raising:
    """A backend that raises whatever can be raised, and runs the rewritten graphs as they are.

    Attributes:
        records: what each pass did to each graph.
        calls: of the rewritten graphs.
    """

    def __init__(self) -> None:
        self.records: list[PassRecord] = []
        self.calls: Counter[str] = Counter()

    def __call__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        self.records += pipeline.run(always(pipeline.build(RAISING)), module)
        self.calls += op_counts(module)
        return module.forward


@dataclasses.dataclass(frozen=True)
class Found:
    """What the passes made of a program.

    Attributes:
        ops: the recurrences that were raised, by op.
        reasons: why something was left alone, or which pass failed.
    """

    ops: dict[str, int]
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, records: Sequence[PassRecord], calls: Counter[str]) -> Found:
        misses = [miss.reason for record in records for miss in record.near_misses]
        failed = [f"{record.name} failed: {record.error}" for record in records if record.error]
        ops = {op: sum(n for name, n in calls.items() if name.startswith(op)) for op in OPS}
        return cls({op: count for op, count in ops.items() if count}, tuple(dict.fromkeys([*failed, *misses])))

    @property
    def count(self) -> int:
        return sum(self.ops.values())


def raised(entry: Entry, size: Size, device: torch.device | None = None) -> tuple[Found, list[Check]]:
    """What can be raised of an entry, and the errors of the rewritten graph, which is run as it is."""
    backend = Raising()
    checks = compared(entry, size, backend, device)
    return Found.of(backend.records, backend.calls), checks


def compared(entry: Entry, size: Size, backend: Backend | str, device: torch.device | None = None) -> list[Check]:
    """The errors of the compiled entry beside eager's own: of the results, then of the gradients."""
    torch.compiler.reset()
    actual = results(*entry.example(size, device), learns=entry.learns, backend=backend)
    eager = results(*entry.example(size, device), learns=entry.learns)
    widened = _widened(*entry.example(size, device))
    with double():
        oracle = results(*widened, learns=entry.learns)
    errors, own = relative_errors(actual, oracle), relative_errors(eager, oracle)
    typical = statistics.median(own.values())
    one = rounding(torch.float32)
    return [
        Check(name, error, own[name], COMPILED.tolerance(one, eager_error=own[name], typical=typical))
        for name, error in errors.items()
    ]


def results(
    run: Callable[..., Any], inputs: tuple[Tensor, ...], *, learns: bool, backend: Backend | str | None = None
) -> dict[str, Tensor]:
    """What is returned and, where asked for, the gradients of parameters and inputs for one cotangent."""
    leaves = dict(run.named_parameters()) if isinstance(run, nn.Module) else {}
    inputs = tuple(each.requires_grad_(learns and _is_real_or_complex(each)) for each in inputs)
    leaves |= {f"input {i}": each for i, each in enumerate(inputs) if each.requires_grad}
    if backend is not None:
        run = torch.compile(run, backend=backend, fullgraph=True)
    with torch.set_grad_enabled(learns):
        outputs = tree_leaves(run(*inputs))
    found = {f"output {i}": each.detach() for i, each in enumerate(outputs)}
    if learns:
        cotangents = [_cotangent(each) for each in outputs]
        gradients = torch.autograd.grad(outputs, leaves.values(), cotangents, allow_unused=True)
        found |= {f"gradient of {name}": g for name, g in zip(leaves, gradients, strict=True) if g is not None}
    return found


def _cotangent(tensor: Tensor) -> Tensor:
    """Whole numbers from -3 to 3, the same in every precision."""
    return (torch.arange(tensor.numel(), device=tensor.device) * 5 % 7 - 3).view(tensor.shape).to(tensor)


def is_gradient(check: Check) -> bool:
    return check.tensor.startswith("gradient")


class Doubled(TorchFunctionMode):
    """Every call that asks for float32 or complex64 gets twice the precision."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        args, kwargs = tree_map(lambda each: WIDE[each] if _is_narrow(each) else each, (args, kwargs or {}))
        return (torch.Tensor.double if func is torch.Tensor.float else func)(*args, **kwargs)


@contextlib.contextmanager
def double() -> Iterator[None]:
    """float64 where the code within says float32, or says nothing."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Doubled():
            yield
    finally:
        torch.set_default_dtype(before)


def _widened(run: Callable[..., Any], inputs: tuple[Tensor, ...]) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    if isinstance(run, nn.Module):
        for parameter in (*run.parameters(), *run.buffers()):
            parameter.data = _wide(parameter.data)
    return run, tuple(map(_wide, inputs))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(WIDE.get(tensor.dtype, tensor.dtype))


def _is_narrow(argument: Any) -> bool:
    return isinstance(argument, torch.dtype) and argument in WIDE


def _is_real_or_complex(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
