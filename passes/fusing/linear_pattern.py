"""What a kernel of a linear layer can compute beside the product: the calls around it, found from the product on.

    y = residual + scale * activation(linear(layer_norm(x), weight, bias))

Each part may be absent. The scale is a factor for each entry of the product's last axis, the residual has the shape of
the result. Between them may be permutations, reshapes that leave the last axis alone, and dropout that does nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.nn import functional as F

import mvc.kernels.ops  # noqa: F401  registers the op of the library
from mvc.passes.graph.fx_utils import cast, insert, only_user, shape, value
from mvc.passes.graph.memory import same_strides
from mvc.passes.graph.torch_ops import Kind, call, is_kind
from mvc.passes.graph.views import axis_order, is_tensor
from mvc.passes.measured_choice import IN_PLACE
from mvc.passes.own_kernels import Pattern, operand_beside
from mvc.passes.torch_private import surely_equal


@dataclasses.dataclass
class LinearPattern(Pattern):
    """A product and what is computed with nothing else from it, or for nothing else, as far as it is known.

    Attributes:
        norm: the LayerNorm over the last axis whose result is the product's input.
        ahead: the views between these two, in order.
        scale: as the program has it, as the residual, at the place where it is used.
        after: the reshapes between the product and y, and then the permutations, in order.
    """

    norm: fx.Node | None = None
    ahead: list[fx.Node] = dataclasses.field(default_factory=list)
    scale: fx.Node | None = None
    after: list[fx.Node] = dataclasses.field(default_factory=list)

    @property
    def calls(self) -> list[fx.Node]:
        """All that one call stands for, in order."""
        return [*([] if self.norm is None else [self.norm, *self.ahead]), *self.nodes]

    @property
    def operands(self) -> tuple[fx.Node | None, ...]:
        """x, weight, bias, the LayerNorm's weight and bias, scale and residual, as the program has them."""
        norm = {} if self.norm is None else call(self.norm).args
        x = norm.get("input", self.arguments["input"])
        weights = self.arguments["weight"], self.arguments.get("bias"), norm.get("weight"), norm.get("bias")
        return (x, *weights, self.scale, self.residual)

    @property
    def is_gelu(self) -> bool:
        """Whether the library's product can compute what follows the product."""
        others = self.scale is None and self.residual is None and self.arguments.get("bias") is not None
        return others and self.activation in ("gelu", "gelu_tanh")

    @property
    def eps(self) -> float | None:
        return None if self.norm is None else call(self.norm).args.get("eps", 1e-5)


def linear_pattern(node: fx.Node) -> LinearPattern | None:
    """The pattern around a call of `linear` of matrices, with a bias for each column; None for any other node."""
    known = call(node)
    if known is None or known.name != "linear" or len(shape(known.args["weight"])) != 2 or len(shape(node)) < 2:
        return None
    bias = known.args.get("bias")
    if bias is not None and not _is_vector(value(bias), 1, 0, shape(node)[-1]):  # torch would broadcast it
        return None
    pattern = LinearPattern([node], known.args)
    _look_behind(pattern)
    _look_ahead(pattern)
    return pattern


def _look_behind(pattern: LinearPattern) -> None:
    node, user, views = pattern.arguments["input"], pattern.product, []
    while only_user(node) is user and (_is_nothing(node) or _keeps_last_axis(node)):
        if not _is_nothing(node):
            views.insert(0, node)
        node, user = node.all_input_nodes[0], node
    norm = call(node)
    if norm is None or norm.name != "layer_norm" or only_user(node) is not user:
        return
    x, normalized = value(norm.args["input"]), norm.args["normalized_shape"]
    dtypes = {x.dtype, value(node).dtype, value(pattern.product).dtype}
    over_last = not isinstance(normalized, (tuple, list)) or len(normalized) == 1
    if over_last and len(dtypes) == 1 and (not views or same_strides(x, value(node))):
        pattern.norm, pattern.ahead = node, views


def _look_ahead(pattern: LinearPattern) -> None:
    """Take in one call after the other; views only where something after them is taken in too."""
    node, path, views, axis = pattern.product, [], [], len(shape(pattern.product)) - 1
    dtype = value(node).dtype
    while pattern.residual is None and (user := only_user(node)) is not None:
        if not is_tensor(user) or value(user).dtype != dtype:
            return
        path.append(user)
        if is_kind(user, Kind.PERMUTATION):
            views.append(user)
            axis = axis_order(user).index(axis)
        elif _keeps_last_axis(user) and not any(is_kind(view, Kind.PERMUTATION) for view in views):
            views.append(user)
            axis = len(shape(user)) - 1
        elif not _is_nothing(user):
            if not _take_in(pattern, node, user, views, axis):
                return
            pattern.nodes += path
            pattern.after, path = [*views], []
        node = user


def _take_in(pattern: LinearPattern, node: fx.Node, user: fx.Node, views: Sequence[fx.Node], axis: int) -> bool:
    """Whether the call is the next part of the pattern, which then is noted."""
    known = call(user)
    if known is None:
        return False
    if known.activation in IN_PLACE and pattern.activation == "none" and pattern.scale is None:
        pattern.activation = known.activation
        return True
    name = known.name.removesuffix("_")
    if name not in ("add", "mul") or known.args.get("alpha", 1) != 1:
        return False
    other = operand_beside(known, node)
    if other is None or not _same_shape(user, node) or value(other).dtype != value(node).dtype:
        return False
    if name == "mul" and pattern.scale is None and _is_vector(value(other), len(shape(node)), axis, shape(node)[axis]):
        pattern.scale = other
        return True
    if name == "add" and _same_shape(other, node) and _is_matrix(value(other), views):
        pattern.residual = other
        return True
    return False


def _is_nothing(node: fx.Node) -> bool:
    """Dropout outside of training."""
    if node.op != "call_function" or node.target not in (F.dropout, torch.dropout):
        return False
    return node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True) is False


def _keeps_last_axis(node: fx.Node) -> bool:
    if not is_kind(node, Kind.RESHAPE) or not is_tensor(source := call(node).args["input"]):
        return False
    before, after = shape(source), shape(node)
    return len(before) > 1 and len(after) > 1 and surely_equal(before[-1], after[-1])


def _same_shape(first: fx.Node, second: fx.Node) -> bool:
    one, other = shape(first), shape(second)
    return len(one) == len(other) and all(map(surely_equal, one, other))


def _is_vector(other: Tensor, rank: int, axis: int, size: Any) -> bool:
    """Whether the tensor, broadcast to that rank, differs along that axis alone."""
    sizes = (1,) * (rank - other.dim()) + tuple(other.shape)
    return len(sizes) == rank and all(surely_equal(each, size if at == axis else 1) for at, each in enumerate(sizes))


def _is_matrix(residual: Tensor, views: Sequence[fx.Node]) -> bool:
    """Whether the tensor without the permutations is a view of rows, which a kernel reads without a copy."""
    axes = list(range(residual.dim()))
    for view in reversed(views):
        if is_kind(view, Kind.PERMUTATION):
            axes = [axes[each] for each in _inverse(view)]
    sizes, strides = ([each[axis] for axis in axes] for each in (residual.shape, residual.stride()))
    rows = [(size, stride) for size, stride in zip(sizes[:-1], strides[:-1], strict=True) if not surely_equal(size, 1)]
    pairs = itertools.pairwise(rows)
    return surely_equal(strides[-1], 1) and all(surely_equal(one, size * stride) for (_, one), (size, stride) in pairs)


def _inverse(permutation: fx.Node) -> list[int]:
    order = axis_order(permutation)
    return [order.index(axis) for axis in range(len(order))]


# What takes its place


def insert_fused(pattern: LinearPattern, tile: int) -> fx.Node:
    """The pattern as one call of `mvc::fused_linear_triton` at the insertion point, with the views around it."""
    graph, dtype = pattern.product.graph, value(pattern.product).dtype
    x, weight, bias, norm_weight, norm_bias, scale, residual = pattern.operands
    x, weight, bias = (cast(each, dtype) for each in (_moved(pattern.ahead, x), weight, bias))
    scale = scale if scale is None or len(shape(scale)) == 1 else insert(graph, torch.flatten, scale)
    views, rows_of = pattern.after, None
    if residual is not None:
        permutations = [view for view in views if is_kind(view, Kind.PERMUTATION)]
        for view in reversed(permutations):
            residual = insert(graph, torch.permute, residual, _inverse(view))
        if len(permutations) < len(views):
            views, rows_of = permutations, residual
            x, residual = (insert(graph, torch.flatten, each, 0, -2) for each in (x, residual))
    op, norm = torch.ops.mvc.fused_linear_triton.default, (norm_weight, norm_bias, pattern.eps)
    y = insert(graph, op, x, weight, bias, *norm, pattern.activation, scale, residual, tile)
    y.meta["stack_trace"] = pattern.product.meta.get("stack_trace")
    return _moved(views, y if rows_of is None else insert(graph, "view_as", y, rows_of))


def insert_library_gelu(pattern: LinearPattern) -> fx.Node:
    """A product with a bias and GELU alone as one call of `mvc::linear_gelu_cublas`, with the views behind it."""
    dtype = value(pattern.product).dtype
    operands = (cast(pattern.arguments[name], dtype) for name in ("input", "weight", "bias"))
    y = insert(pattern.product.graph, torch.ops.mvc.linear_gelu_cublas.default, *operands)
    y.meta["stack_trace"] = pattern.product.meta.get("stack_trace")
    return _moved(pattern.after, y)


def _moved(views: Sequence[fx.Node], x: fx.Node) -> fx.Node:
    """The same views of another tensor."""
    for view in views:
        source, y = call(view).args["input"], x
        args, kwargs = map_arg((view.args, view.kwargs), lambda each, s=source, y=y: y if each is s else each)
        x = insert(x.graph, view.target, *args, **kwargs)
    return x
