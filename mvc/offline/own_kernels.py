"""How much the Triton kernels that a graph holds compute: those of mvc.kernels, and a model's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from mvc.kernels.scan import rules
from mvc.measure import families

Sizes = Mapping[str, tuple[int, ...]]


def flops(name: str, sizes: Sizes) -> int:
    """The FLOPs of one launch, by the family of the kernel's name; a multiply-add is two.

    Args:
        sizes: of the kernel's tensors, by the names of its arguments.

    Raises:
        RuntimeError: a kernel of such a family has not the arguments by which they are counted.
    """
    count = COUNTED.get(families.family(name))
    if count is None:
        return 0
    try:
        return count({argument.removeprefix("p_"): size for argument, size in sizes.items()})
    except (KeyError, ValueError) as error:
        raise RuntimeError(f"the FLOPs of {name} cannot be counted from its arguments {dict(sizes)}") from error


def steps(name: str, given: int) -> int:
    """How many steps each of its programs computes one after another, of the `given` length: of a scan all of them."""
    return given if families.family(name) == "scan" else 0


def _scan(sizes: Sizes) -> int:
    """0 for kernels that only combine chunks of the length."""
    if not {"u", "A"} <= sizes.keys():
        return 0
    dim, states = sizes["A"]
    rows = (math.prod(sizes["u"]) // dim, 1)
    if "grad_y" in sizes:
        return rules.flops_backward(rows, None, rows, None, (dim, states))
    return rules.flops(rows, None, (dim, states))


def _product(sizes: Sizes) -> int:
    columns, inner = sizes["weight"]
    return 2 * math.prod(sizes["x"]) // inner * columns * inner


def _convolution(sizes: Sizes) -> int:
    _, *taps = sizes["weight"]  # channels of an input's group, height, width
    return 2 * math.prod(sizes["y"]) * math.prod(taps)


def _attention(sizes: Sizes) -> int:
    """Two products of the forward; of the backward two again for scores and weights, and one for each result."""
    (batch, heads, queries, _), (_, _, keys, _) = sizes["q"], sizes["k"]
    inner = sizes["q"][-1] + sizes["v"][-1]
    products = 2 + sum(name in sizes for name in ("dq", "dk", "dv")) if "grad_out" in sizes else 2
    return batch * heads * queries * keys * inner * products


COUNTED: dict[str, Callable[[Sizes], int]] = {
    "scan": _scan,
    "matrix product": _product,
    "convolution": _convolution,
    "attention": _attention,
}
