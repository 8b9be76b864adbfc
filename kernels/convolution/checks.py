"""What the arguments of a convolution with what follows it must be."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mvc.kernels.checks import IN_TRITON, check_layouts, check_one_dtype

LARGEST = 2**31  # elements of an image: offsets in it have 32 bits
LAYOUTS = {
    "x": ("batch, channels, height, width",),
    "weight": ("outputs, channels, kernel height, kernel width",),
    "bias": ("outputs",),
    "residual": ("batch, outputs, result height, result width",),
}


def result_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Of the result, along one axis."""
    return (size + 2 * padding - kernel) // stride + 1


def check_window(stride: Sequence[int], padding: Sequence[int]) -> None:
    """Raise ValueError for what is no stride or no padding of two axes."""
    for name, values, least in (("stride", stride, 1), ("padding", padding, 0)):
        if len(values) != 2 or min(values) < least:
            raise ValueError(f"{name} is {list(values)}; it must be two numbers of at least {least}")


def check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
) -> None:
    """Raise TypeError for what is no dense tensor or of a wrong dtype, ValueError for a shape or device that does not
    fit, and for an image that is too large."""
    sizes = check_layouts(LAYOUTS, {"x": x, "weight": weight}, {"bias": bias, "residual": residual})
    check_one_dtype({"x": x, "weight": weight}, IN_TRITON)
    if min(weight.shape[1:]) == 0:
        raise ValueError(f"weight must have a channel and a tap at least, got shape {tuple(weight.shape)}")
    elements = sizes["outputs"]  # of an image of the result
    for i, axis in enumerate(("height", "width")):
        size = result_size(sizes[axis], sizes[f"kernel {axis}"], stride[i], padding[i])
        elements *= size
        if size < 1:
            seen = f"{sizes[f'kernel {axis}']} with padding {padding[i]}, and x's is {sizes[axis]}"
            raise ValueError(f"weight's kernel {axis} is {seen}; it must fit into the padded image")
        if residual is not None and sizes[f"result {axis}"] != size:
            raise ValueError(f"residual must have {axis} {size} as the result, got {sizes[f'result {axis}']}")
    for name, spanned in (("x", _reach(x)), ("residual", _reach(residual)), ("the result", elements)):
        if spanned >= LARGEST:
            raise ValueError(f"an image of {name} spans {spanned} elements; it must be less than 2**31")


def _reach(tensor: Tensor | None) -> int:
    """How many elements of memory an image spans."""
    if tensor is None:
        return 0
    return sum((size - 1) * abs(stride) for size, stride in zip(tensor.shape[1:], tensor.stride()[1:], strict=True))
