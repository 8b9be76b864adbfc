"""What every op's arguments must be, and the sentences that say so."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mvc.kernels.torch_private import forward_mode

HALF = (torch.float16, torch.bfloat16)
IN_TRITON = (torch.float32, *HALF)  # what Triton kernels accept
DTYPES = (*IN_TRITON, torch.float64)

TANGENT = (
    "torch.ops.mvc.{name} was given a forward-mode tangent, which an op cannot pass on; call "
    "mvc.selective_scan or mvc.linear_recurrence, inside the dual level, in its place"
)


def check_tensors(required: dict[str, Tensor], optional: dict[str, Tensor | None]) -> None:
    """Raise TypeError for an argument that is no tensor, or none whose elements lie in memory at its strides."""
    for name, value in required.items():
        _check_dense(name, value)
    for name, value in optional.items():
        if value is not None:
            _check_dense(name, value)


def _check_dense(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a nested one; pad it, or pack its sequences")
    if isinstance(value, torch.masked.MaskedTensor):
        raise TypeError(f"{name} must be a dense tensor, got a masked one; pass {name}.to_tensor(0) or the like")
    if value.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got one of layout {value.layout}; pass {name}.to_dense()")


def check_one_dtype(tensors: dict[str, Tensor], accepted: tuple[torch.dtype, ...]) -> None:
    """Raise TypeError unless all tensors have the dtype of the first, which is one of the accepted."""
    (first, dtype), *_ = ((name, tensor.dtype) for name, tensor in tensors.items())
    for name, tensor in tensors.items():
        if tensor.dtype not in accepted:
            raise TypeError(f"{name} must be {' or '.join(map(str, accepted))}, got {tensor.dtype}")
        if tensor.dtype != dtype:
            raise TypeError(f"{name} must be {dtype} as {first} is, got {tensor.dtype}; cast one of them")


def check_flags(**flags: bool) -> None:
    """Raise TypeError for a flag that is neither True nor False: any text is true, "no" too."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def is_empty(tensor: Tensor) -> bool:
    """Whether it has no elements; False where that depends on an unknown size: a launch of no programs does nothing."""
    return any(isinstance(size, int) and size == 0 for size in tensor.shape)


def refuse_tangents(name: str, *inputs: Tensor | bool | int | None) -> None:
    """Raise NotImplementedError where an op that was called as such is given a tangent, which it would lose."""
    if not forward_mode():
        return
    if any(isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in inputs):
        raise NotImplementedError(TANGENT.format(name=name))


def requires_gradient(*inputs: object) -> bool:
    """Whether autograd is on, and has to record what becomes of one of them."""
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in inputs)


def check_layouts(
    layouts: Mapping[str, tuple[str, ...]], required: dict[str, Tensor], optional: dict[str, Tensor | None]
) -> dict[str, int]:
    """The size of each axis by its name, which must be the same in all tensors.

    Args:
        layouts: the axes of each tensor by name, "batch, dim, length"; where there are several layouts, the number of
            axes tells them apart.

    Raises:
        TypeError: an argument that is no dense tensor, or not of real floating point.
        ValueError: a device other than that of the first, a shape that has no layout, or that differs from another's.
    """
    sizes = {"1": 1}
    check_tensors(required, optional)
    present = required | {name: tensor for name, tensor in optional.items() if tensor is not None}
    first, device = next((name, tensor.device) for name, tensor in present.items())
    for name, tensor in present.items():
        if tensor.is_complex():
            raise TypeError(f"{name} is {tensor.dtype}; complex states are not supported: use the real form")
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name} must be {' or '.join(map(str, DTYPES))}, got {tensor.dtype}")
        if tensor.device != device:
            raise ValueError(f"{name} must be on {first}'s device {device}, got {tensor.device}")
        axes = {len(layout.split(", ")): layout.split(", ") for layout in layouts[name]}.get(tensor.dim())
        if axes is None or any(sizes.get(axis, size) != size for axis, size in zip(axes, tensor.shape, strict=True)):
            wanted = " or ".join(f"({layout})" if ", " in layout else f"({layout},)" for layout in layouts[name])
            known = ", ".join(f"{axis} {size}" for axis, size in sizes.items() if axis in wanted and axis != "1")
            beside = f" with {known}" if known else ""
            raise ValueError(f"{name} must be {wanted}{beside}, got shape {tuple(tensor.shape)}")
        sizes |= dict(zip(axes, tensor.shape, strict=True))
    return sizes
