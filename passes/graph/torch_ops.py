"""What a torch call is: its one name, what kind of call it is, and its arguments by name, however it was written.

Dynamo's graphs hold what the user wrote: `a * b`, `torch.mul(a, b)` and `a.mul(b)` are three kinds of node.
`call(node)` is the same for all three.
"""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

from torch import fx


class Kind(enum.Enum):
    """What a call makes of the elements of its tensors. No call of any kind draws random numbers."""

    POINTWISE = "each element from those in its place, the operands broadcast"
    CAST = "the same elements in another dtype or on another device"
    COPY = "the same elements, in memory of their own where needed"
    DETACHMENT = "the same elements without their gradients"
    PERMUTATION = "the axes in another order"
    RESHAPE = "axes split, joined, added or dropped, with the elements in their order"
    EXPANSION = "axes of size 1 repeated"
    SELECTION = "some of the elements, in their order"
    ARRANGEMENT = "the elements in another order, repeated, or beside others"
    TRIANGLE = "the elements on one side of a diagonal, and zeros on the other"
    REDUCTION = "sums and means along axes"
    CUMULATION = "sums along an axis up to each element"
    PRODUCT = "sums of products: matrices, einsum, convolutions"
    NORMALIZATION = "normalised by statistics"
    CONSTRUCTION = "a new tensor whose elements no tensor decides"
    WRITE = "elements put into a tensor, as by every call that works in place"


# What leaves every element as it is and puts it in another place, dtype or memory.
MOVEMENTS = {
    *(Kind.CAST, Kind.COPY, Kind.PERMUTATION, Kind.RESHAPE),
    *(Kind.EXPANSION, Kind.SELECTION, Kind.ARRANGEMENT),
}

# The calls that passes look at, and after them the names of their parameters as in torch's documentation; "*" takes the
# rest, "**" any other keyword. A name stands for the function, the operator and the method; a trailing underscore marks
# the in-place form, which is a WRITE.
_TABLE: dict[Kind, dict[str, str]] = {
    Kind.POINTWISE: {
        "add sub": "input other alpha",
        "mul": "input other",
        "div": "input other rounding_mode",
        "pow": "input exponent",
        "neg exp square abs log rsqrt sqrt tanh sigmoid": "input",
        "exp2 expm1 log1p log2 reciprocal sign sin cos erf floor ceil logsigmoid": "input",
        "logical_not bitwise_not isnan isfinite real imag conj": "input",
        "eq ne lt le gt ge maximum minimum logical_and logical_or bitwise_and bitwise_or bitwise_xor": "input other",
        "masked_fill": "input mask value",
        "relu silu relu6 mish selu hardswish hardsigmoid": "input inplace",
        "elu": "input alpha inplace",
        "leaky_relu": "input negative_slope inplace",
        "gelu": "input approximate",
        "softplus": "input beta threshold",
        "addcmul": "input tensor1 tensor2 value",
        "lerp": "input end weight",
        "where": "condition input other",
        "clamp": "input min max",
    },
    Kind.CAST: {
        "to": "input *what **",
        "type_as": "input other",
        "type": "input dtype **",
        "float double half bfloat16": "input **",
    },
    Kind.COPY: {"contiguous clone": "input memory_format"},
    Kind.DETACHMENT: {"detach": "input"},
    Kind.PERMUTATION: {
        "transpose": "input dim0 dim1",
        "permute": "input *dims",
        "movedim": "input source destination",
        "t mT numpy_T": "input",
    },
    Kind.RESHAPE: {
        "view": "input *size",
        "reshape": "input *shape",
        "view_as reshape_as": "input other",
        "flatten": "input start_dim end_dim",
        "unflatten": "input dim sizes",
        "unsqueeze squeeze": "input dim",
    },
    Kind.EXPANSION: {"expand broadcast_to": "input *size", "expand_as": "input other"},
    Kind.SELECTION: {
        "getitem": "input index",
        "select": "input dim index",
        "narrow": "input dim start length",
        "slice": "input dim start end step",
        "split": "input split_size_or_sections dim",
        "chunk": "input chunks dim",
        "unbind": "input dim",
    },
    Kind.ARRANGEMENT: {
        "stack cat": "tensors dim",
        "flip": "input *dims",
        "roll": "input shifts dims",
        "repeat_interleave": "input repeats dim",
        "pad": "input pad mode value",
    },
    Kind.TRIANGLE: {"tril triu": "input diagonal"},
    Kind.REDUCTION: {"sum mean": "input dim keepdim dtype"},
    Kind.CUMULATION: {"cumsum": "input dim dtype", "logcumsumexp": "input dim"},
    Kind.PRODUCT: {
        "matmul": "input other",
        "bmm": "input mat2",
        "baddbmm": "input batch1 batch2 beta alpha",
        "einsum": "equation *operands",
        "linear": "input weight bias",
        "conv1d conv2d conv3d": "input weight bias stride padding dilation groups",
    },
    Kind.NORMALIZATION: {
        "batch_norm": "input running_mean running_var weight bias training momentum eps",
        "layer_norm": "input normalized_shape weight bias eps",
    },
    Kind.CONSTRUCTION: {
        "zeros ones empty": "*size **",
        "new_zeros new_ones new_empty": "input *size **",
        "zeros_like ones_like empty_like": "input **",
        "full": "size fill_value **",
        "new_full": "input size fill_value **",
        "full_like": "input fill_value **",
        "arange": "*range **",
        "tensor": "data **",
    },
    Kind.WRITE: {"setitem": "input index value", "copy": "input src non_blocking"},
}
CALLS: dict[Kind, tuple[str, ...]] = {kind: tuple(" ".join(rows).split()) for kind, rows in _TABLE.items()}
_KINDS = {name: kind for kind, names in CALLS.items() for name in names}
_PARAMETERS = {
    name: parameters.split() for rows in _TABLE.values() for names, parameters in rows.items() for name in names.split()
}
_STARRED = {name for name, parameters in _PARAMETERS.items() if any(each.startswith("*") for each in parameters)}

# Other names of the same calls: operators, aliases, and what torch's C functions are called.
_ALIASES = {
    "truediv": "div",
    "true_divide": "div",
    "divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "negative": "neg",
    "invert": "bitwise_not",
    "and_": "bitwise_and",
    "or_": "bitwise_or",
    "xor": "bitwise_xor",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "moveaxis": "movedim",
    "clip": "clamp",
    "concat": "cat",
    "concatenate": "cat",
    "iadd": "add_",
    "isub": "sub_",
    "imul": "mul_",
    "itruediv": "div_",
}
# Other names of the same parameters: torch takes those of numpy, and its ops say `self`.
_KEYWORDS = {
    **{"self": "input", "x": "input", "a": "input", "x1": "input", "x2": "other"},
    **{"axis": "dim", "axes": "dims", "keepdims": "keepdim", "axis0": "dim0", "axis1": "dim1"},
    "split_size": "split_size_or_sections",
}
# Where torch's functions of these names are. Others of the same names are other functions: `torch.masked.sum`, an op of
# the user's called mul, `torch.batch_norm`, whose parameters come in another order.
_MODULES = {"torch", "torch.functional", "torch.nn.functional", "torch._C._nn", "torch._ops.aten", "_operator"}


class Call(NamedTuple):
    """A torch call: its one name, its kind, and its arguments by parameter name. Absent options are absent."""

    name: str
    kind: Kind
    args: dict[str, Any]

    @property
    def activation(self) -> str:
        """Its name as one of an activation: the same in place and not, and "gelu_tanh" for that form of GELU."""
        return self.name.removesuffix("_") + "_tanh" * (self.args.get("approximate") == "tanh")


def call(node: object) -> Call | None:
    """The node as one of `CALLS`; None for any other, for what writes to an `out`, and for what is no node.

    What works in place has a trailing underscore, `silu(x, inplace=True)` as well.
    """
    name = _name(node) if isinstance(node, fx.Node) else None
    if name is None:
        return None
    base = name.removesuffix("_")
    parameters, args = _PARAMETERS[base], node.args
    bound = _bound_to_rest(parameters, args) if base in _STARRED else dict(zip(parameters, args, strict=False))
    for keyword, argument in node.kwargs.items():
        known = keyword in parameters or f"*{keyword}" in parameters
        parameter = keyword if known else _KEYWORDS.get(keyword, keyword)
        if parameter == "out" or not ("**" in parameters or known or parameter in parameters):
            return None
        bound[parameter] = argument
    if bound.pop("inplace", False):
        name = f"{base}_"
    return Call(name, Kind.WRITE if name.endswith("_") else _KINDS[base], bound)


def _bound_to_rest(parameters: list[str], args: tuple[Any, ...]) -> dict[str, Any]:
    """The arguments by parameter name, where one parameter takes all those from its place on."""
    place = next(index for index, parameter in enumerate(parameters) if parameter.startswith("*"))
    bound, rest = dict(zip(parameters[:place], args, strict=False)), args[place:]
    if rest:
        whole = len(rest) == 1 and isinstance(rest[0], (tuple, list))
        bound[parameters[place][1:]] = rest[0] if whole else rest
    return bound


def _name(node: fx.Node) -> str | None:
    """The one name of what the node calls, with a trailing underscore where that marks the in-place form."""
    target = node.target
    if node.op == "call_method":
        name = target.strip("_") + "_" * (target.endswith("_") and not target.endswith("__"))
    elif node.op == "call_function":
        name = getattr(target, "__name__", "")
        if target is getattr:  # torch 2.13 has `x.mT` so
            name = {"mT": "mT", "T": "numpy_T"}.get(node.args[1], "")
        elif getattr(target, "__module__", None) not in _MODULES:
            return None
    else:
        return None
    name = _ALIASES.get(name, name)
    if name == "batch_norm" and getattr(target, "__module__", None) != "torch.nn.functional":
        return None
    return name if name.removesuffix("_") in _KINDS else None


def filled_with(node: object) -> Any:
    """The number, or the node of it, that a new tensor has in every place; None for any other node."""
    known = call(node)
    if known is None or known.kind is not Kind.CONSTRUCTION:
        return None
    if "fill_value" in known.args:
        return known.args["fill_value"]
    return {"zeros": 0, "ones": 1}.get(known.name.removeprefix("new_").removesuffix("_like"))


def is_call(node: object, *names: str) -> bool:
    known = call(node)
    return known is not None and known.name in names


def is_kind(node: object, *kinds: Kind) -> bool:
    known = call(node)
    return known is not None and known.kind in kinds
