"""One name for each torch call, however it was written.

Dynamo's graphs hold what the user wrote: `a * b`, `torch.mul(a, b)` and `a.mul(b)` are three kinds of node.
`call(node)` is the same for all three.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import fx

# Parameter names of the calls that passes look at, as in torch's documentation; "*" takes the rest. A name in the
# table stands for the function, the operator and the method; a trailing underscore marks the in-place form.
SIGNATURES: dict[str, tuple[str, ...]] = {
    "add": ("input", "other", "alpha"),
    "sub": ("input", "other", "alpha"),
    "mul": ("input", "other"),
    "div": ("input", "other"),
    "pow": ("input", "exponent"),
    "neg": ("input",),
    "exp": ("input",),
    "square": ("input",),
    "abs": ("input",),
    "log": ("input",),
    "rsqrt": ("input",),
    "sqrt": ("input",),
    "tanh": ("input",),
    "sigmoid": ("input",),
    "relu": ("input", "inplace"),
    "gelu": ("input", "approximate"),
    "silu": ("input", "inplace"),
    "softplus": ("input", "beta", "threshold"),
    "addcmul": ("input", "tensor1", "tensor2", "value"),
    "lerp": ("input", "end", "weight"),
    "where": ("condition", "input", "other"),
    "clamp": ("input", "min", "max"),
    "matmul": ("input", "other"),
    "bmm": ("input", "mat2"),
    "baddbmm": ("input", "batch1", "batch2", "beta", "alpha"),
    "einsum": ("equation", "*operands"),
    "linear": ("input", "weight", "bias"),
    "sum": ("input", "dim", "keepdim", "dtype"),
    "mean": ("input", "dim", "keepdim", "dtype"),
    "stack": ("tensors", "dim"),
    "cat": ("tensors", "dim"),
    "unbind": ("input", "dim"),
    "select": ("input", "dim", "index"),
    "narrow": ("input", "dim", "start", "length"),
    "slice": ("input", "dim", "start", "end", "step"),
    "split": ("input", "split_size_or_sections", "dim"),
    "chunk": ("input", "chunks", "dim"),
    "flip": ("input", "*dims"),
    "roll": ("input", "shifts", "dims"),
    "getitem": ("input", "index"),
    "setitem": ("input", "index", "value"),
    "copy": ("input", "src"),
    "unsqueeze": ("input", "dim"),
    "squeeze": ("input", "dim"),
    "transpose": ("input", "dim0", "dim1"),
    "permute": ("input", "*dims"),
    "movedim": ("input", "source", "destination"),
    "t": ("input",),
    "mT": ("input",),
    "numpy_T": ("input",),
    "expand": ("input", "*size"),
    "expand_as": ("input", "other"),
    "broadcast_to": ("input", "*size"),
    "view": ("input", "*size"),
    "view_as": ("input", "other"),
    "reshape": ("input", "*shape"),
    "reshape_as": ("input", "other"),
    "flatten": ("input", "start_dim", "end_dim"),
    "unflatten": ("input", "dim", "sizes"),
    "repeat_interleave": ("input", "repeats", "dim"),
    "to": ("input", "*what"),
    "type_as": ("input", "other"),
    "type": ("input", "dtype"),
    "float": ("input",),
    "double": ("input",),
    "half": ("input",),
    "bfloat16": ("input",),
    "contiguous": ("input",),
    "clone": ("input",),
    "detach": ("input",),
    "zeros": ("*size",),
    "new_zeros": ("input", "*size"),
    "zeros_like": ("input",),
    "empty": ("*size",),
    "new_empty": ("input", "*size"),
    "empty_like": ("input",),
    "pad": ("input", "pad", "mode", "value"),
    "conv1d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
}

# Other names of the same calls: operators, aliases, and what torch's C functions are called.
ALIASES = {
    "truediv": "div",
    "true_divide": "div",
    "divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "negative": "neg",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "concat": "cat",
    "concatenate": "cat",
    "iadd": "add_",
    "isub": "sub_",
    "imul": "mul_",
    "itruediv": "div_",
}


class Call(NamedTuple):
    """A torch call: its one name, and its arguments by parameter name. Absent options are absent."""

    name: str
    args: dict[str, Any]


def name_of(node: fx.Node) -> str | None:
    """The one name of what the node calls, with a trailing underscore where it works in place; None if unknown."""
    if node.op == "call_method":
        name = node.target.strip("_") + "_" * (node.target.endswith("_") and not node.target.endswith("__"))
    elif node.op == "call_function":
        name = getattr(node.target, "__name__", "")
        if node.target is getattr:  # torch 2.13 has `x.mT` so
            name = {"mT": "mT", "T": "numpy_T"}.get(node.args[1], "")
    else:
        return None
    name = ALIASES.get(name, name)
    return name if name.removesuffix("_") in SIGNATURES else None


def call(node: fx.Node) -> Call | None:
    """The node as a call of a function in `SIGNATURES`; None for any other node."""
    name = name_of(node)
    if name is None:
        return None
    parameters = SIGNATURES[name.removesuffix("_")]
    bound: dict[str, Any] = {}
    for index, parameter in enumerate(parameters):
        if parameter.startswith("*"):
            rest = node.args[index:]
            if rest:
                bound[parameter[1:]] = rest[0] if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else rest
        elif index < len(node.args):
            bound[parameter] = node.args[index]
    return Call(name, {**bound, **node.kwargs})
