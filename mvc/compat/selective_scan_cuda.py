"""The entry points of mamba-ssm 1.x's extension `selective_scan_cuda`, on any device.

Users call them inside an `autograd.Function` of their own, so neither records a graph: `bwd` is the backward of `fwd`.
Both ignore autocast, as the extension does. Where its kernel keeps what it computed for its backward, x here holds the
last state only, which such functions read as `x[:, :, -1, 1::2]`; the backward starts from the inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mvc.compat.mamba_ssm import check_scan, scan, steps_first
from mvc.kernels.checks import check_flags, check_layouts
from mvc.kernels.scan.rules import backward, present


@torch.no_grad()
def fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> list[Tensor]:
    """`mvc.compat.mamba_ssm.selective_scan_fn` with what its backward needs.

    Returns:
        y without the gate (batch, dim, length), x (batch, dim, 1, 2N) whose odd places hold the last state and whose
        even ones are zero, and with z the gated y.

    Raises:
        TypeError, ValueError: as `selective_scan_fn`.
    """
    check_scan(u, delta, A, B, C, D, z, delta_bias)
    options = {"D": D, "delta_bias": delta_bias, "delta_softplus": delta_softplus}
    u, delta, B, C = (steps_first(t) for t in (u, delta, B, C))
    y, last_state = scan(u, delta, A, B, C, **options)
    y = y.transpose(1, 2)
    x = torch.stack((torch.zeros_like(last_state), last_state), dim=-1).flatten(2).unsqueeze(2)
    return [y, x] if z is None else [y, x, _gated(y, z)]


@torch.no_grad()
def bwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    dout: Tensor,
    x: Tensor | None,
    out: Tensor | None,
    dz: Tensor | None,
    delta_softplus: bool,
    recompute_out_z: bool,
) -> list[Tensor | None]:
    """The gradients of `fwd`'s arguments.

    Args:
        dout: the gradient of the gated y, or of y without z, of u's shape.
        x: of no effect; see the module.
        out: y without the gate; needed for `recompute_out_z`.
        dz: of z's shape, written to in place of a new tensor.

    Returns:
        du, ddelta, dA, dB, dC, dD and ddelta_bias in the dtypes of the arguments, None for an absent one; with z its
        gradient; with `recompute_out_z` the gated y.

    Raises:
        TypeError, ValueError: as `selective_scan_fn`; `dz` without z, or `recompute_out_z` without z and out.
    """
    check_scan(u, delta, A, B, C, D, z, delta_bias)
    check_flags(delta_softplus=delta_softplus, recompute_out_z=recompute_out_z)
    check_layouts({"u": ("batch, dim, length",), "dout": ("batch, dim, length",)}, {"u": u, "dout": dout}, {})
    if z is None and (dz is not None or recompute_out_z):
        raise ValueError("dz and recompute_out_z need z; pass z, or None and False")
    if recompute_out_z and out is None:
        raise ValueError("recompute_out_z needs out, the first result of fwd; pass it, or False")
    *gradients, found_dz = _gradients(u, delta, A, B, C, D, z, delta_bias, dout, delta_softplus)
    if z is None:
        return gradients
    gradients.append(found_dz if dz is None else dz.copy_(found_dz))
    return [*gradients, _gated(out, z)] if recompute_out_z else gradients


def _gradients(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    dout: Tensor,
    delta_softplus: bool,
) -> list[Tensor | None]:
    """Of u, delta, A, B, C, D, delta_bias and z, in their layouts, by the backward of `mvc::selective_scan`."""
    first = [None if t is None else steps_first(t) for t in (u, delta, B, C, z)]
    grouped = [t.unsqueeze(2) if t.dim() == 3 else t for t in first[2:4]]
    tensors = (*first[:2], A, *grouped, D, first[4], delta_bias)
    grad_last_state = u.new_zeros(u.shape[0], *A.shape, dtype=torch.promote_types(u.dtype, torch.float32))
    with torch.autocast(u.device.type, enabled=False):
        found = backward(
            "selective_scan", steps_first(dout), grad_last_state, *tensors, None, None, delta_softplus, False
        )
    du, ddelta, dA, dB, dC, dD, dz, dbias = present(tensors, found)
    du, ddelta, dz = (None if t is None else t.transpose(1, 2) for t in (du, ddelta, dz))
    dB, dC = (
        gradient if weights.dim() == 2 else gradient.movedim(1, -1).reshape(weights.shape)
        for gradient, weights in ((dB, B), (dC, C))
    )
    return [du, ddelta, dA, dB, dC, dD, dbias, dz]


def _gated(y: Tensor, z: Tensor) -> Tensor:
    wide = torch.promote_types(y.dtype, torch.float32)
    return (y.to(wide) * F.silu(z.to(wide))).to(y.dtype)
