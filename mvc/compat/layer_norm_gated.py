"""mamba-ssm's gated root mean square norm, of `mamba_ssm.ops.triton.layernorm_gated`, in torch's own operations."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvc.arguments import is_number, is_whole, require
from mvc.kernels.checks import check_flags, check_layouts


def rmsnorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
) -> Tensor:
    """The norm of x (..., dim) in groups of neighbouring features, times `weight` and plus `bias`, gated by SiLU(z).

    Args:
        x, z: (..., dim), of any floating dtype; the sums are float32, or float64 for a float64 x.
        weight, bias: (dim,).
        group_size: features of a group, a divisor of dim; None is one group.
        norm_before_gate: norm(x) SiLU(z) where true, norm(x SiLU(z)) where false.

    Returns:
        A tensor of x's shape and dtype.

    Raises:
        TypeError: a tensor that is no dense tensor of real floating point, or a flag that is no bool.
        ValueError: a shape or device that does not fit, a negative `eps`, or a `group_size` that is no divisor of dim.
    """
    _check(x, {"weight": weight}, {"bias": bias, "z": z})
    check_flags(norm_before_gate=norm_before_gate)
    require(is_number(eps) and eps >= 0, "eps", eps, "a number from 0")
    dim, dtype = x.shape[-1], torch.promote_types(x.dtype, torch.float32)
    size = dim if group_size is None else group_size
    require(is_whole(size, 1) and dim % size == 0, "group_size", group_size, f"None or a divisor of {dim} features")
    y, gate = x.to(dtype), None if z is None else F.silu(z.to(dtype))
    if gate is not None and not norm_before_gate:
        y = y * gate
    y = F.rms_norm(y.unflatten(-1, (-1, size)), (size,), eps=eps).flatten(-2) * weight.to(dtype)
    if bias is not None:
        y = y + bias.to(dtype)
    if gate is not None and norm_before_gate:
        y = y * gate
    return y.to(x.dtype)


class RMSNorm(nn.Module):
    """`rmsnorm_fn` with a weight of ones to start from, and no bias; mamba-ssm's code calls it RMSNormGated."""

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate
        self.weight = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return rmsnorm_fn(x, self.weight, self.bias, z, self.eps, self.group_size, self.norm_before_gate)


def _check(x: Tensor, required: dict[str, Tensor], optional: dict[str, Tensor | None]) -> None:
    leading = [f"axis {index}" for index in range(x.dim() - 1)] if isinstance(x, Tensor) else []
    sequence = (", ".join([*leading, "dim"]),)
    layouts = {"x": sequence, "z": sequence, "weight": ("dim",), "bias": ("dim",)}
    check_layouts(layouts, {"x": x, **required}, optional)
