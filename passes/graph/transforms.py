"""Inside torch.func's transforms: plain example values for passes, and functions in the place of ops.

Dynamo writes vmap, grad and jvp as calls that enter a level, wrap tensors, unwrap them and leave. What it computed in
between are wrappers of a level that is closed by now, of which nothing more can be computed. What a call makes of them
is, for each example of a batch, what it makes of plain tensors: these take their place. Autograd's rules of custom ops
are none for torch.func, so that the functions stand for them there that torch.func can transform.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map_only

from mvc.kernels import implementations
from mvc.kernels.recurrence import ops as recurrence_ops
from mvc.kernels.scan import rules
from mvc.kernels.schemas import op
from mvc.passes.graph.contexts import Contexts
from mvc.passes.graph.fx_utils import insert, op_name, value
from mvc.passes.graph.memory import is_dense, memory_order
from mvc.passes.torch_private import is_of_transform, is_transformed, untransformed

LEAVES = "leaves_transforms"  # marks what comes out of transforms, in a node's `meta`
RULES: dict[str, Callable] = {"linear_recurrence": recurrence_ops.call, "selective_scan": rules.selective_scan}


def settle(graph: fx.Graph) -> None:
    """Give the calls inside transforms example values that passes can compute with."""
    for node in graph.nodes:
        leaves = is_of_transform(node) or any(map(is_of_transform, node.all_input_nodes))
        if leaves and isinstance(value(node), Tensor) and not is_transformed(value(node)):
            node.meta[LEAVES] = True
        if value(node) is not None:
            node.meta["example_value"] = tree_map_only(Tensor, untransformed, value(node))


def write_ops(graph: fx.Graph) -> None:
    """Put the ops in the place of the functions that stand for them inside transforms."""
    for node in graph.nodes:
        if hasattr(node.target, "stands_for"):
            node.target = node.target.stands_for


def write_functions(graph: fx.Graph) -> None:
    """Put functions in the place of the ops inside transforms that have rules for them."""
    learned = any(_is_learned(node) for node in graph.find_nodes(op="placeholder"))
    for node, transforms in _ops_inside(graph):
        name, derivatives = op_name(node).removeprefix("mvc."), transforms.count("grad") + learned
        if "jvp" not in transforms and derivatives <= _derivatives(name):
            node.target = _function(name)


def keep_strides(graph: fx.Graph) -> None:
    """Lay out what leaves transforms as the program has it: gradients, and batches of vmap, follow the ops inside.

    It is copied where it lies otherwise. What is not dense stays as it is.
    """
    contexts, waiting = Contexts(graph), []
    for node in list(graph.nodes):
        if waiting and not contexts.of(node).transforms:
            with graph.inserting_before(node):
                for each in waiting:
                    _lay_out(each)
            waiting = []
        if node.meta.pop(LEAVES, False):
            waiting.append(node)


def _lay_out(node: fx.Node) -> None:
    order = memory_order(value(node))
    if not is_dense(value(node), order):
        return
    laid = insert(node.graph, "contiguous", insert(node.graph, torch.permute, node, order))
    laid = insert(node.graph, torch.permute, laid, [order.index(axis) for axis in range(len(order))])
    node.replace_all_uses_with(laid, delete_user_cb=lambda user: laid < user)


def obstacle(graph: fx.Graph) -> tuple[fx.Node, str] | None:
    """An op inside a transform that has no rule for it, and that in words; None where there is none."""
    for node, transforms in _ops_inside(graph):
        if not hasattr(node.target, "stands_for"):
            return node, f"torch.func.{transforms[-1]} hides it, for which {op_name(node)} has no rule"
    return None


def _ops_inside(graph: fx.Graph) -> Iterator[tuple[fx.Node, tuple[str, ...]]]:
    """The ops of mvc inside transforms, with these."""
    contexts = Contexts(graph)
    for node in graph.nodes:
        inside = node.op == "call_function" and op_name(node).startswith("mvc.")
        if inside and (transforms := contexts.of(node).transforms):
            yield node, transforms


def _is_learned(node: fx.Node) -> bool:
    return isinstance(value(node), Tensor) and value(node).requires_grad


def _derivatives(name: str) -> float:
    """How often the op can be differentiated; -1 for one that no transform takes."""
    for portable, count in (("linear_recurrence", math.inf), ("selective_scan", 1)):
        if name in (implementations.op_name(portable, impl) for impl in (None, *implementations.TABLE)):
            return count
    return -1


@functools.cache
def _function(name: str) -> Callable:
    """The op as a function of torch's own calls and of autograd functions, which every transform takes."""
    run = next(rule for portable, rule in RULES.items() if name.startswith(portable))

    def function(*inputs: Any) -> Any:
        return tree_map_only(Tensor, Tensor.contiguous, run(name, *inputs))  # as without vmap, whose rules lay out anew

    function.__name__ = name
    function.stands_for = op(name)
    return function
