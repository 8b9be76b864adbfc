"""The entry points of VMamba's extension `selective_scan_cuda_oflex` (arXiv 2401.10166), on any device.

Those of `mvc.compat.selective_scan_cuda` without a gate, and with an output in float32 where asked. The groups of B and
C are VMamba's directions: u is (batch, directions · channels, length).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mvc.arguments import is_whole, require
from mvc.compat import selective_scan_cuda
from mvc.kernels.checks import check_flags, check_layouts


def fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    nrows: int,
    out_float: bool,
) -> list[Tensor]:
    """The scan, and what a user's function keeps of it.

    Args:
        u: (batch, dim, length). A: (dim, N). D: (dim,).
        delta: (batch, dim, length), or with fewer channels that divide dim, each for as many neighbours of u.
        B, C: (batch, groups, N, length).
        delta_bias: one for each channel of delta.
        nrows: 1 to 4, rows for each block of the extension's kernel; of no effect here.
        out_float: compute y in float32 and leave it there, also for half precision.

    Returns:
        y (batch, dim, length), and x as of `mvc.compat.selective_scan_cuda.fwd`.

    Raises:
        TypeError, ValueError: as `mvc.compat.mamba_ssm.selective_scan_fn`.
    """
    check_flags(out_float=out_float)
    _check(nrows, delta_bias, u=u, delta=delta, A=A, B=B, C=C)
    dtype = torch.promote_types(u.dtype, torch.float32) if out_float else u.dtype
    delta, delta_bias = _for_each_channel(u, delta, delta_bias)
    u, delta, B, C = (t.to(dtype) for t in (u, delta, B, C))
    return selective_scan_cuda.fwd(u, delta, A, B, C, D, None, delta_bias, delta_softplus)


def bwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    dout: Tensor,
    x: Tensor | None,
    delta_softplus: bool,
    nrows: int,
) -> list[Tensor | None]:
    """The gradients of `fwd`'s tensors, in their dtypes; None for an absent one.

    Args:
        dout: (batch, dim, length), in float32 where y is; the gradients are then computed in float32.
        x: of no effect: the backward starts from the inputs.

    Returns:
        du, ddelta, dA, dB, dC, dD, ddelta_bias.

    Raises:
        TypeError, ValueError: as `fwd`.
    """
    _check(nrows, delta_bias, u=u, delta=delta, A=A, B=B, C=C, dout=dout)
    few, dtypes = delta.shape[1], [t.dtype for t in (u, delta, A, B, C)]
    delta, delta_bias = _for_each_channel(u, delta, delta_bias)
    wide = torch.promote_types(u.dtype, dout.dtype)
    u, delta, B, C, dout = (t.to(wide) for t in (u, delta, B, C, dout))
    options = (None, None, None, delta_softplus, False)  # x, out, dz; no gate to compute again
    found = selective_scan_cuda.bwd(u, delta, A, B, C, D, None, delta_bias, dout, *options)
    *gradients, dD, dbias = found
    if few != u.shape[1]:
        gradients[1] = gradients[1].unflatten(1, (few, -1)).sum(2)
        dbias = None if dbias is None else dbias.unflatten(0, (few, -1)).sum(1)
    return [*(t.to(dtype) for t, dtype in zip(gradients, dtypes, strict=True)), dD, dbias]


def _for_each_channel(u: Tensor, delta: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    served = u.shape[1] // delta.shape[1]
    if served == 1:
        return delta, bias
    return delta.repeat_interleave(served, dim=1), None if bias is None else bias.repeat_interleave(served)


def _check(nrows: int, delta_bias: Tensor | None, **required: Tensor) -> None:
    """What the extension's groups ask for; the scan checks the rest."""
    sizes = check_layouts(_LAYOUTS, required, {"delta_bias": delta_bias})
    if sizes["dim of delta"] == 0 or sizes["dim"] % sizes["dim of delta"]:
        raise ValueError(f"delta has {sizes['dim of delta']} channels; their number must divide u's dim {sizes['dim']}")
    require(is_whole(nrows, 1, 4), "nrows", nrows, "1, 2, 3 or 4")


_LAYOUTS = {
    **dict.fromkeys(("u", "dout"), ("batch, dim, length",)),
    "delta": ("batch, dim of delta, length",),
    "A": ("dim, N",),
    **dict.fromkeys(("B", "C"), ("batch, groups, N, length",)),
    "delta_bias": ("dim of delta",),
}
