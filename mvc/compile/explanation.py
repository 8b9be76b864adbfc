"""What the backend did: `mvc.explain(model, *inputs)`, and the recorder behind it and `compile_model`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from mvc.arguments import require
from mvc.compile import inductor_code, torch_private
from mvc.compile.backend import GraphReport, Options, compile_graph
from mvc.compile.inductor_code import GraphCode, is_library, launches, paired
from mvc.table import tabulate


@dataclasses.dataclass
class Explanation:
    """What the passes did to a model, and what Inductor then runs. `str()` returns a table for people.

    Attributes:
        graphs: one report for each graph of Dynamo's, in the order in which they were captured.
        launches: how often the generated code runs each kernel, library call and op; forward and backward together.
        bytes_moved: what the kernels read and write by Inductor's count, or None where cached code was used.
        graph_breaks: why torch ended a graph before the model's end; a recurrence is raised within one graph.
    """

    graphs: list[GraphReport] = dataclasses.field(default_factory=list)
    launches: Counter[str] = dataclasses.field(default_factory=Counter)
    bytes_moved: int | None = None
    graph_breaks: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join((*self._graph_lines(), *self._code_lines()))

    def _graph_lines(self) -> Iterator[str]:
        for number, report in enumerate(self.graphs):
            nodes = f"{report.before.total()} calls before the passes, {report.after.total()} after them"
            yield f"graph {number}: {nodes}"
            rows = [
                [
                    f"{record.name} in {record.region}" if record.region else record.name,
                    "failed" if record.error else record.matches,
                    record.nodes_before,
                    record.nodes_after,
                    f"{record.seconds * 1e3:.1f}",
                ]
                for record in report.passes
            ]
            if rows:
                yield tabulate(rows, headers=["pass", "matches", "nodes before", "after", "ms"])
            for record in report.passes:
                if record.error:
                    yield f"{record.name} failed and was skipped: {record.error}"
                for miss in record.near_misses:
                    yield f"{record.name} left {miss.node} alone: {miss.reason}  [{miss.source or 'source unknown'}]"
            yield f"calls in graph {number}: {_listing(report.after)}"
        for reason in self.graph_breaks:
            yield f"graph break, and no recurrence is raised across it: {reason}"

    def _code_lines(self) -> Iterator[str]:
        moved = "" if self.bytes_moved is None else f", {self.bytes_moved / 1e6:,.1f} MB read and written"
        yield f"generated code: {self.launches.total()} launches{moved}"
        if self.launches:
            yield _listing(self.launches)

    def as_dict(self) -> dict[str, Any]:
        """The explanation for programs, as plain types that JSON can hold."""
        return {
            "graphs": [
                {
                    "calls_before": dict(report.before),
                    "calls_after": dict(report.after),
                    "passes": [
                        {**dataclasses.asdict(record), "near_misses": [miss._asdict() for miss in record.near_misses]}
                        for record in report.passes
                    ],
                }
                for report in self.graphs
            ],
            "launches": dict(self.launches),
            "bytes_moved": self.bytes_moved,
            "graph_breaks": self.graph_breaks,
        }


def _listing(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" if count > 1 else name for name, count in counts.most_common())


def _needs_gradient(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


class Recorder:
    """The backend, recording what it does: for `torch.compile(..., backend=Recorder(options))`."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.explanation = Explanation()

    def __call__(self, graph_module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        run, report = compile_graph(graph_module, inputs, self.options)
        self.explanation.graphs.append(report)
        return run

    @contextmanager
    def generated_code(self) -> Iterator[None]:
        """Count the launches of all code that Inductor generates in the block, a backward's when it first runs."""

        def count(code: GraphCode) -> None:
            explanation = self.explanation
            explanation.launches.update(launches(code.wrapper))
            if code.steps is not None:
                explanation.bytes_moved = (explanation.bytes_moved or 0) + sum(step.bytes for step in code.steps)

        with inductor_code.generated_code(count):
            yield


@contextmanager
def kernel_bytes() -> Iterator[dict[str, int | None]]:
    """The kernels of all code that Inductor generates within the block, by name; filled while it lasts.

    The values are the bytes that all launches of a kernel together read and write, by Inductor's count. They are None
    for the graph's own Triton kernels, since Inductor counts their buffers whole, also where views show a part; for
    cached code; and where the launches do not match the schedule.
    """
    kernels: dict[str, int | None] = {}

    def collect(code: GraphCode) -> None:
        names = launches(code.wrapper)
        try:
            pairs = paired(names, code.steps or [])
        except ValueError:
            pairs = [(name, None) for name in names]
        for name, step in pairs:
            if is_library(name):
                continue
            known = kernels.get(name, 0)  # forward and backward may each have a kernel of that name
            unknown = step is None or known is None or step.kind == "given"
            kernels[name] = None if unknown else known + step.bytes

    with inductor_code.generated_code(collect):
        yield kernels


def explain(
    model: Callable[..., Any], *inputs: Any, mode: str | None = None, options: Mapping[str, Any] | None = None
) -> Explanation:
    """Compile a model with the backend "mvc" and say what each pass did.

    The model runs once in the caller's grad mode, and its backward where an output requires gradients (no `grad` is
    touched); in training mode that counts in BatchNorm statistics. Everything that torch has compiled in this process
    is forgotten, before and after.

    Args:
        model: a module or function.
        inputs: its arguments; the model itself raises the errors about them.
        mode, options: as for `torch.compile(model, backend="mvc")`.

    Raises:
        UserError: a model that cannot be called, or options that cannot be used.
    """
    require(callable(model) and not isinstance(model, type), "model", model, "a module or a function")
    wanted = Options.parse(options, mode)
    recorder = Recorder(dataclasses.replace(wanted, inductor={"fx_graph_cache": False, **wanted.inductor}))
    torch.compiler.reset()
    before = torch_private.graph_breaks()
    try:
        with recorder.generated_code():
            outputs = tree_leaves(torch.compile(model, backend=recorder)(*inputs))
            if roots := [each for each in outputs if _needs_gradient(each)]:
                parameters = model.parameters() if isinstance(model, nn.Module) else ()
                leaves = [each for each in (*parameters, *tree_leaves(inputs)) if _needs_gradient(each)]
                torch.autograd.grad(roots, leaves, [torch.ones_like(each) for each in roots], allow_unused=True)
    finally:
        torch.compiler.reset()
    recorder.explanation.graph_breaks = list(torch_private.graph_breaks() - before)
    return recorder.explanation
