"""Variants of `mamba_inner_fn`: step by step in plain torch, without the projection out, and in both directions.

The last two are Vision Mamba's (arXiv 2401.09417), with the signatures of its fork of mamba-ssm.
"""

from __future__ import annotations

from torch import Tensor

from mvc.compat.mamba_ssm import mamba_inner


def mamba_inner_ref(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """`mamba_inner_fn` with a scan step by step in plain torch: slow, and differentiable twice."""
    required = _required(xz, conv1d_weight, x_proj_weight, delta_proj_weight, A)
    required["out_proj_weight"] = out_proj_weight
    optional = _optional(conv1d_bias, B, C, D, delta_bias, B_proj_bias, C_proj_bias)
    return mamba_inner(required, optional | {"out_proj_bias": out_proj_bias}, delta_softplus, impl="reference")


def mamba_inner_fn_no_out_proj(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """`mamba_inner_fn` without the projection out.

    Returns:
        (batch, dim, length).
    """
    required = _required(xz, conv1d_weight, x_proj_weight, delta_proj_weight, A)
    optional = _optional(conv1d_bias, B, C, D, delta_bias, B_proj_bias, C_proj_bias)
    return mamba_inner(required, optional, delta_softplus).transpose(1, 2)


def bimamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    A_b: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """`mamba_inner_fn` with a second scan from the last step to the first, added before the projection out.

    Args:
        A_b: (dim, N), of the second scan, which shares all others.

    Returns:
        (batch, length, features).
    """
    required = _required(xz, conv1d_weight, x_proj_weight, delta_proj_weight, A)
    required |= {"A_b": A_b, "out_proj_weight": out_proj_weight}
    optional = _optional(conv1d_bias, B, C, D, delta_bias, B_proj_bias, C_proj_bias)
    return mamba_inner(required, optional | {"out_proj_bias": out_proj_bias}, delta_softplus)


def bimamba_inner_ref(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    A_b: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """`bimamba_inner_fn` with scans step by step in plain torch: slow, and differentiable twice."""
    required = _required(xz, conv1d_weight, x_proj_weight, delta_proj_weight, A)
    required |= {"A_b": A_b, "out_proj_weight": out_proj_weight}
    optional = _optional(conv1d_bias, B, C, D, delta_bias, B_proj_bias, C_proj_bias)
    return mamba_inner(required, optional | {"out_proj_bias": out_proj_bias}, delta_softplus, impl="reference")


def _required(*tensors: Tensor) -> dict[str, Tensor]:
    names = ("xz", "conv1d_weight", "x_proj_weight", "delta_proj_weight", "A")
    return dict(zip(names, tensors, strict=True))


def _optional(*tensors: Tensor | None) -> dict[str, Tensor | None]:
    names = ("conv1d_bias", "B", "C", "D", "delta_bias", "B_proj_bias", "C_proj_bias")
    return dict(zip(names, tensors, strict=True))
