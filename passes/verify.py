"""Runs a graph before and after each pass on its example inputs, and compares all that a program can observe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from mvc.passes.accuracy import REWRITTEN, rounding
from mvc.passes.graph.fx_utils import value
from mvc.passes.observation import AsDescribed, Observation, observe
from mvc.passes.pipeline import PassRecord
from mvc.passes.torch_private import example_size


class VerificationError(AssertionError):
    """A pass changed what the graph computes, or what can be observed of its results."""


class Verifier:
    """An observer of `pipeline.run` that raises where a pass changes what a program can observe of the graph.

    That is each output and each input as the graph leaves it, and the gradients: values within the budget; shape,
    dtype, device, strides, storage offset, `requires_grad` and who shares memory with whom as they were; no more memory
    than before. A graph that runs must still run. See `observation.Observation.differences`.

    Args:
        module: the whole graph, which the passes rewrite; kept, and run again after each pass.
        inputs: of the graph. They are copied for each run: a graph may write to them.
    """

    def __init__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> None:
        self.module = module
        self.inputs = [example_size(each) for each in inputs]
        computed = [leaf for node in module.graph.nodes for leaf in tree_leaves(value(node))]
        tensors = [each for each in (*self.inputs, *computed) if isinstance(each, Tensor)]
        self.budget = REWRITTEN.tolerance(max((rounding(each.dtype) for each in tensors), default=0.0))
        self.seen = self._run()

    def __call__(self, record: PassRecord, before: fx.GraphModule, after: fx.GraphModule) -> None:
        seen, expected = self._run(), self.seen
        self.seen = seen
        if isinstance(expected, Exception):  # nothing to compare with
            return
        if isinstance(seen, Exception):
            change = f"made the graph fail: {type(seen).__name__}: {seen}"
        elif difference := next(expected.differences(seen, self.budget), None):
            change = f"changed {difference}"
        else:
            return
        raise VerificationError(
            f"pass {record.name} {change}; leave the pass out with the option passes=[...] and report it"
        ) from (seen if isinstance(seen, Exception) else None)

    def _run(self) -> Observation | Exception:
        """What the graph leaves, or what it raises, as it may where a program never asks for its gradients."""
        try:
            return observe(AsDescribed(self.module).run, self.inputs)
        except Exception as failure:
            return failure
