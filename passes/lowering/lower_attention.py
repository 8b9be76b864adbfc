"""Lowers attention over short windows to a Triton kernel on a GPU, where that is faster than torch's choice.

Before::                                            After::

    y = scaled_dot_product_attention(q, k, v)           y, _ = mvc.window_attention_triton(q, k, v, scale)

Libraries cut a window into tiles for long sequences, of 64 queries by 128 keys and 64 channels.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from mvc.kernels.attention.checks import WIDEST_HEAD
from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import insert, shape, value
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.measured_choice import Kernels, Runs, fastest, rotated
from mvc.passes.own_kernels import AS_FAST, Layout, allowed, contiguous, kind_obstacle, layout, random_tensors
from mvc.passes.torch_private import surely_equal

LONGEST = 1024  # tokens
PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


@dataclasses.dataclass(frozen=True)
class LowerAttention(Pass):
    """`scaled_dot_product_attention` of whole windows as `mvc::window_attention_triton`, which has its own backward.

    Where gradients are needed, forward and backward are measured together.

    Attributes:
        kernels: see `mvc.compile.backend.Options`.
    """

    name: ClassVar[str] = "lower_attention"

    kernels: Kernels = "measured"

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome, surroundings = Outcome(), Surroundings(graph)
        for node in graph.find_nodes(op="call_function", target=F.scaled_dot_product_attention):
            if not allowed(self.kernels, node):
                continue
            given = dict(zip(PARAMETERS, node.args, strict=False)) | node.kwargs
            reason = _obstacle(surroundings, node, given)
            if reason is None and self.kernels == "measured" and not _is_faster(node, given):
                reason = AS_FAST
            if reason is not None:
                outcome.near_misses.append(NearMiss.at(node, reason))
                continue
            with surroundings.at(node):
                inputs = (given[name] for name in PARAMETERS[:3])
                both = insert(graph, torch.ops.mvc.window_attention_triton.default, *inputs, _scale(given))
                out = insert(graph, operator.getitem, both, 0)
                both.meta["stack_trace"] = out.meta["stack_trace"] = node.meta.get("stack_trace")
                surroundings.replace({node: out})
            graph.erase_node(node)  # the clean-up does not know whether a call of this name draws random numbers
            outcome.matches += 1
        return outcome


def _scale(given: dict[str, Any]) -> Any:
    scale = given.get("scale")
    return shape(given["query"])[-1] ** -0.5 if scale is None else scale


def _obstacle(surroundings: Surroundings, node: fx.Node, given: dict[str, Any]) -> str | None:
    """Why the call cannot be the kernel's; None if it can."""
    for name, otherwise in (("attn_mask", None), ("dropout_p", 0), ("is_causal", False), ("enable_gqa", False)):
        if given.get(name, otherwise) != otherwise:
            return f"its {name} is not {otherwise!r}"
    if (reason := kind_obstacle(surroundings, node)) is not None:
        return reason
    q, *others = (shape(given[name]) for name in PARAMETERS[:3])
    if len(q) != 4 or any(len(each) != 4 or not all(map(surely_equal, q, each)) for each in others):
        return "query, key and value are not of one shape (batch, heads, length, d)"
    _, heads, length, d = q
    if not all(isinstance(size, int) for size in (heads, length, d)):
        return "the number of heads, of tokens or of channels is not known"
    if not (0 < length <= LONGEST and 0 < d <= WIDEST_HEAD):
        seen = f"windows have {length} tokens and heads {d} channels"
        return f"{seen}; the kernel is for {LONGEST} and {WIDEST_HEAD} at most"
    scale = _scale(given)
    if not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
        return f"its scale is {scale}, which is no finite constant above 0"
    if surroundings.contexts.of(node).others:  # `torch.nn.attention.sdpa_kernel` is such a switch
        return "something is switched before it, which may choose the library's kernel"
    return surroundings.contexts.obstacle([node])


def _is_faster(node: fx.Node, given: dict[str, Any]) -> bool:
    dtype, device, training = value(node).dtype, value(node).device, value(node).requires_grad
    layouts = [layout(given[name]) for name in PARAMETERS[:3]]
    key = f"attention {dtype} {layouts} scale={_scale(given)} training={training}"
    return fastest(key, lambda: _runs(layouts, dtype, device, _scale(given), training), device) == "own"


def _runs(layouts: list[Layout], dtype: torch.dtype, device: torch.device, scale: float, training: bool) -> Runs:
    """Torch's choice and the kernel on random numbers in place of the fakes, with their backwards in training."""
    generator, (batch, heads, length, d) = torch.Generator(device), layouts[0][0]

    def make() -> tuple[Tensor, ...]:
        *given, grad = random_tensors([*layouts, contiguous(batch, length, heads, d)], dtype, generator)
        return *(each.requires_grad_(training) for each in given), grad.transpose(1, 2)

    inputs = rotated(make, device)

    def run(attention: Any) -> Any:
        *given, grad = next(inputs)
        with torch.set_grad_enabled(training):
            out = attention(*given)
            return torch.autograd.grad(out, given, grad) if training else out

    return {
        "library": lambda: run(lambda *given: F.scaled_dot_product_attention(*given, scale=scale)),
        "own": lambda: run(lambda *given: torch.ops.mvc.window_attention_triton(*given, scale)[0]),
    }
