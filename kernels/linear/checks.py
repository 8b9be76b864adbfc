"""What the arguments of a linear layer's ops must be."""

from __future__ import annotations

from torch import Tensor

from mvc.kernels.checks import DTYPES, IN_TRITON, check_one_dtype, check_tensors


def check(x: Tensor, weight: Tensor, optional: dict[str, Tensor | None]) -> None:
    """Raise TypeError for what is no dense tensor or of a wrong dtype, ValueError for a shape or device that does not
    fit.

    Args:
        optional: by name, any of "bias", "norm_weight", "norm_bias", "scale" and "residual".
    """
    check_tensors({"x": x, "weight": weight}, optional)
    check_one_dtype({"x": x, "weight": weight}, IN_TRITON)
    if x.dim() == 0 or weight.dim() != 2 or weight.shape[1] != x.shape[-1]:
        seen = f"shapes {tuple(x.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"x must be (..., K) and weight (N, K), got {seen}")
    columns, inner = weight.shape
    shapes = {"bias": (columns,), "norm_weight": (inner,), "norm_bias": (inner,), "scale": (columns,)}
    shapes["residual"] = (*x.shape[:-1], columns)
    for name, tensor in optional.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != shapes[name]:
            raise ValueError(f"{name} must have shape {shapes[name]} beside x and weight, got {tuple(tensor.shape)}")
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name} must be {' or '.join(map(str, DTYPES))}, got {tensor.dtype}")
    for name, tensor in {"weight": weight, **optional}.items():
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} must be on x's device {x.device}, got {tensor.device}")


def check_norm(eps: float | None, **parameters: Tensor | None) -> None:
    """Raise ValueError for a LayerNorm's parameters without its eps."""
    for name, tensor in parameters.items():
        if eps is None and tensor is not None:
            raise ValueError(f"{name} is given without norm_eps; pass the LayerNorm's eps, or leave {name} out")
