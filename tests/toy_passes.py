"""Passes and graphs for the tests of what runs passes."""

from __future__ import annotations

import dataclasses
from collections import Counter

import torch
from torch import fx

from mvc.passes import pipeline
from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import op_counts, value
from mvc.passes.graph.torch_ops import is_call
from mvc.passes.pipeline import remove_dead_code
from mvc.passes.raising.raise_loop import always


def capture(function, *inputs) -> tuple[fx.GraphModule, list]:
    """Dynamo's graph of a function, and the inputs that it passes to a backend."""
    captured = []

    def backend(graph_module, example_inputs):
        captured.append((graph_module, example_inputs))
        return graph_module.forward

    torch.compiler.reset()
    torch.compile(function, backend=backend, fullgraph=True)(*inputs)
    return captured[0]


def all_passes(**options) -> list[Pass]:
    """Every pass, in order, as `pipeline.build` makes it; loops are raised however few steps and elements they have."""
    return always(pipeline.build(list(pipeline.PASSES), **options))


def rewritten(pass_: Pass, function, **options):
    """The function with its graphs rewritten by a pass; what this did to each graph, and the calls left in it."""
    done = []

    def backend(module, inputs):
        outcome = pass_(module.graph)
        remove_dead_code(module.graph)
        module.graph.lint()
        module.recompile()
        done.append((outcome, op_counts(module.graph)))
        return module.forward

    torch.compiler.reset()
    return torch.compile(function, backend=backend, fullgraph=True, **options), done


LAYOUT = ("permute", "transpose", "movedim", "unsqueeze", "squeeze", "clone")


def without_layout(calls: Counter[str]) -> dict[str, int]:
    """The calls but for those that lay a tensor out anew."""
    return {name: count for name, count in calls.items() if name not in LAYOUT}


@dataclasses.dataclass(frozen=True)
class Replace(Pass):
    """Every call of one name becomes a call of another function."""

    name = "replace"
    old: str = "sin"
    new: str = "cos"

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        for node in graph.nodes:
            if node.op == "call_function" and node.target is getattr(torch, self.old):
                node.target = getattr(torch, self.new)
                outcome.matches += 1
            elif is_call(node, "exp"):
                outcome.near_misses.append(NearMiss.at(node, "an exponential"))
        return outcome


@dataclasses.dataclass(frozen=True)
class Break(Pass):
    """Fails half-way through."""

    name = "break"

    def __call__(self, graph: fx.Graph) -> Outcome:
        next(node for node in graph.nodes if node.op == "call_function").target = torch.tan
        raise RuntimeError("half-way")


class CheckExamples(fx.Interpreter):
    """Runs a graph and compares with the example values the strides of all tensors, and which share memory."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.memory: dict[int, tuple[str, int]] = {}  # by that of the tensor, that of the first one's example

    def run_node(self, node):
        result, example = super().run_node(node), value(node)
        if isinstance(result, torch.Tensor) and isinstance(example, torch.Tensor):
            assert result.stride() == example.stride(), node.name
            address = example.untyped_storage()._cdata
            first, known = self.memory.setdefault(result.untyped_storage()._cdata, (node.name, address))
            assert known == address, f"{node.name} shares memory with {first}; their example values do not"
        return result
