"""Runs a graph before and after each pass on its example inputs, and compares outputs and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mvc.passes.pipeline import PassRecord
from mvc.passes.torch_private import example_size
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

# Roundings of the graph's least precise dtype that a rewrite may add, in relative L2 norm. A scan in another order
# adds about ten in float32 over thousands of steps, a loop that rounds its state to bfloat16 in every step about eight.
ROUNDINGS = 32


class VerificationError(AssertionError):
    """A pass changed what the graph computes."""


class Verifier:
    """An observer of `pipeline.run` that raises where outputs or gradients move beyond the budget.

    Args:
        module: the whole graph, which the passes rewrite; kept, and run again after each pass.
        inputs: of the graph. They are cloned for each run: a graph may write to them.
    """

    def __init__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> None:
        self.module = module
        self.inputs = [example_size(each) for each in inputs]
        self.budget = ROUNDINGS * max(map(_rounding, _tensors(self.inputs)), default=0.0)
        self.results = self._run()

    def __call__(self, record: PassRecord, before: fx.GraphModule, after: fx.GraphModule) -> None:
        results = self._run()
        for kind in ("output", "gradient"):
            pairs = zip(self.results[kind], results[kind], strict=True)
            for index, (expected, actual) in enumerate(pairs):
                error = _error(actual, expected, typical=_typical(self.results[kind]))
                if not error <= self.budget:
                    raise VerificationError(
                        f"pass {record.name} changed {kind} {index} by {error:.2e} (relative L2, budget "
                        f"{self.budget:.2e}); leave the pass out with the option passes=[...] and report it"
                    )
        self.results = results

    def _run(self) -> dict[str, list[Tensor | None]]:
        inputs = [_clone(each) for each in self.inputs]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            outputs = [each for each in tree_leaves(self.module(*inputs)) if isinstance(each, Tensor)]
        roots = [each for each in outputs if each.requires_grad]
        leaves = [each for each in _tensors(inputs) if each.requires_grad]
        gradients: Sequence[Tensor | None] = ()
        if roots and leaves:
            seeds = [_seed(root) for root in roots]
            gradients = torch.autograd.grad(roots, leaves, seeds, allow_unused=True)
        return {"output": [each.detach() for each in outputs], "gradient": list(gradients)}


def _clone(value: Any) -> Any:
    return value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    return [each for each in values if isinstance(each, Tensor)]


def _rounding(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0


def _seed(root: Tensor) -> Tensor:
    """What the gradient starts from: varied, and the same in every run."""
    steps = torch.arange(root.numel(), device=root.device, dtype=torch.float32)
    return torch.cos(steps).reshape(root.shape).to(root.dtype)


def _typical(tensors: Sequence[Tensor | None]) -> float:
    """Root mean square over all: a tensor that is zero but for rounding is held against its neighbours."""
    present = [each.double() for each in tensors if each is not None and each.numel()]
    squares, count = sum(float(each.square().sum()) for each in present), sum(each.numel() for each in present)
    return (squares / count) ** 0.5 if count else 0.0


def _error(actual: Tensor | None, expected: Tensor | None, *, typical: float) -> float:
    """Distance over the norm of the expected, or of a tensor of its size as typical if that is more."""
    if actual is None or expected is None:
        present = actual if expected is None else expected
        return 0.0 if present is None or not present.any() else float("inf")
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return float("inf")
    if torch.equal(actual, expected) or not expected.numel():
        return 0.0
    actual, expected = actual.double(), expected.double()
    scale = max(float(expected.norm()), 1e-3 * typical * expected.numel() ** 0.5)
    return float((actual - expected).norm()) / scale if scale else float("inf")
