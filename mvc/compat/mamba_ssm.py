"""mamba-ssm's functions, with its signatures and (batch, dim, length) layout, computed by `mvc::selective_scan`; a step
of decoding by `mvc::selective_state_update`.

They accept the arguments of mamba-ssm 1.x and 2.x and return its results: y in u's dtype, also under autocast, and the
last state in float32. In addition they run on any device, and gradients flow through the last state and through the
norms of `mamba_inner_fn`. y is a transposed (batch, length, dim) tensor, which the next projection reads as it is; to
join its axes, use `reshape`, not `view`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mvc.kernels.checks import check_flags, check_layouts
from mvc.kernels.scan import selective_scan
from mvc.kernels.scan.rules import autocast_is_on
from mvc.kernels.state_update import api as state_update


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba's selective scan; `mvc.selective_scan` says what it computes.

    Args:
        u, delta, z: (batch, dim, length), float32, float16 or bfloat16, of any strides; none is copied.
        A: (dim, N), float32 and real.
        B, C: (batch, N, length), grouped (batch, groups, N, length), or constant (dim, N).
        D, delta_bias: (dim,).
        delta_softplus: apply softplus to the (biased) delta.
        return_last_state: also return the state after the last step.

    Returns:
        y (batch, dim, length), or (y, last state (batch, dim, N)).

    Raises:
        TypeError: a tensor of a dtype that cannot be used, a complex A among them.
        ValueError: a shape or device that does not fit.
    """
    return _scan_channels_first(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)


def selective_scan_ref(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`selective_scan_fn` step by step in plain torch: slow, and differentiable twice."""
    options = (D, z, delta_bias, delta_softplus, return_last_state)
    return _scan_channels_first(u, delta, A, B, C, *options, impl="reference")


def mamba_inner_fn(
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
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Tensor:
    """Mamba's block between its projection in and its output: convolution, SiLU, scan, gate, and the projection out.

    Args:
        xz: (batch, 2 dim, length): the scan's input, then the gate.
        conv1d_weight: (dim, 1, width), depthwise and causal. conv1d_bias: (dim,).
        x_proj_weight: (R + 2N, dim), for the time step, B and C; N rows fewer for each of B and C that is passed.
        delta_proj_weight: (dim, R). out_proj_weight: (features, dim). out_proj_bias: (features,).
        A, D, delta_bias, delta_softplus: as for `selective_scan_fn`.
        B, C: as for `selective_scan_fn`; None computes them from x.
        B_proj_bias, C_proj_bias: (N,), added to a B or C that is computed.
        checkpoint_lvl: 0 or 1, which make no difference here: autograd keeps what the backward needs.
        b_rms_weight, c_rms_weight: (N,). dt_rms_weight: (dim,). Where one is passed, B, C or the projected time step is
            divided by its root mean square and multiplied by the weight.

    Returns:
        (batch, length, features).

    Raises:
        TypeError, ValueError: as `selective_scan_fn`.
    """
    required = {"A": A, "xz": xz, "conv1d_weight": conv1d_weight, "x_proj_weight": x_proj_weight}
    required |= {"delta_proj_weight": delta_proj_weight, "out_proj_weight": out_proj_weight}
    optional = {"conv1d_bias": conv1d_bias, "out_proj_bias": out_proj_bias, "D": D, "delta_bias": delta_bias}
    optional |= {"B": B, "B_proj_bias": B_proj_bias, "b_rms_weight": b_rms_weight}
    optional |= {"C": C, "C_proj_bias": C_proj_bias, "c_rms_weight": c_rms_weight, "dt_rms_weight": dt_rms_weight}
    if isinstance(checkpoint_lvl, bool) or not isinstance(checkpoint_lvl, int) or checkpoint_lvl not in (0, 1):
        raise ValueError(f"checkpoint_lvl must be 0 or 1, got {checkpoint_lvl!r}")
    if not isinstance(b_c_dt_rms_eps, (int, float)) or not b_c_dt_rms_eps >= 0:
        raise ValueError(f"b_c_dt_rms_eps must be a number from 0, got {b_c_dt_rms_eps!r}")
    return mamba_inner(required, optional, delta_softplus, b_c_dt_rms_eps)


def mamba_inner(
    required: dict[str, Tensor],
    optional: dict[str, Tensor | None],
    delta_softplus: bool,
    eps: float = 0.0,
    impl: str | None = None,
) -> Tensor:
    """`mamba_inner_fn` and its variants, by the names of their tensors.

    Args:
        required: without "out_proj_weight" there is no projection out; with "A_b" (dim, N) a second scan with that runs
            from the last step to the first, and is added.
        impl: as for `mvc.selective_scan`.

    Returns:
        (batch, length, features), or (batch, length, dim) without a projection out.
    """
    sizes = check_layouts(_LAYOUTS, required, optional)
    tensors = optional | required
    xz, B, C = required["xz"], optional["B"], optional["C"]
    rank, states = sizes["R"], sizes["N"]
    if sizes["2 dim"] != 2 * sizes["dim"]:
        raise ValueError(f"xz must have {2 * sizes['dim']} channels, twice A's dim, got shape {tuple(xz.shape)}")
    if sizes["rows"] < rank + states * ((B is None) + (C is None)):
        raise ValueError(f"x_proj_weight has {sizes['rows']} rows, too few for R {rank} and N {states}; pass B or C")
    check_flags(delta_softplus=delta_softplus)
    for name in ("x_proj_weight", "delta_proj_weight", "out_proj_weight"):
        if name in required and required[name].dtype != xz.dtype and not autocast_is_on(xz.device.type):
            raise TypeError(f"{name} must have xz's dtype {xz.dtype}, got {required[name].dtype}; convert one of them")

    x, z = (steps_first(t) for t in xz.chunk(2, dim=1))
    x = _causal_convolution(x, tensors["conv1d_weight"], tensors["conv1d_bias"])
    projected = F.linear(x, tensors["x_proj_weight"])  # (batch, length, R + 2N)
    delta = F.linear(projected[..., :rank], tensors["delta_proj_weight"])
    B = _plus(projected[..., rank : rank + states], tensors["B_proj_bias"]) if B is None else steps_first(B)
    C = _plus(projected[..., -states:], tensors["C_proj_bias"]) if C is None else steps_first(C)
    delta = _rms_norm(delta, tensors.get("dt_rms_weight"), eps)
    B = _rms_norm(B, tensors.get("b_rms_weight"), eps)
    C = _rms_norm(C, tensors.get("c_rms_weight"), eps)
    options = {"D": tensors["D"], "z": z, "delta_bias": tensors["delta_bias"], "delta_softplus": delta_softplus}
    y, _ = scan(x, delta, tensors["A"], B, C, **options, impl=impl)
    if "A_b" in required:
        y = y + scan(x, delta, tensors["A_b"], B, C, **options, impl=impl, reverse=True)[0]
    if "out_proj_weight" not in required:
        return y
    weight, bias = tensors["out_proj_weight"], tensors["out_proj_bias"]
    return F.linear(y, weight, None if bias is None else bias.to(weight.dtype))


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """One step of decoding: advances `state` in place. As in mamba-ssm, no gradient flows.

    On a GPU it is one launch of one kernel, which reads tensors of any strides and dtypes without a copy. In compiled
    code, Inductor copies a state that is a view of a graph's input and copies it back; a state that is a whole tensor
    is advanced in place.

    Args:
        state: (batch, dim, N), or with heads (batch, heads, dim, N); sums are float32, or float64 for a float64 x.
        x, dt, z: (batch, dim), or (batch, heads, dim).
        A: (dim, N), or (heads, dim, N).
        B, C: (batch, N), or (batch, groups, N) where each group serves heads / groups heads.
        D, dt_bias: (dim,), or (heads, dim).
        dt_softplus: apply softplus to the (biased) time step.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError, ValueError: as `selective_scan_fn`.
    """
    return state_update.selective_state_update((state, x, dt, A, B, C, D, z, dt_bias), dt_softplus)


def _scan_channels_first(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    return_last_state: bool,
    impl: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    check_scan(u, delta, A, B, C, D, z, delta_bias)
    check_flags(return_last_state=return_last_state)
    u, delta, B, C, z = (None if t is None else steps_first(t) for t in (u, delta, B, C, z))
    options = {"D": D, "z": z, "delta_bias": delta_bias, "delta_softplus": delta_softplus}
    y, last_state = scan(u, delta, A, B, C, impl=impl, **options)
    y = y.transpose(1, 2)
    return (y, last_state) if return_last_state else y


def check_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> None:
    """The errors of mamba-ssm's layout; `selective_scan` has the others."""
    required = {"u": u, "A": A, "delta": delta, "B": B, "C": C}
    check_layouts(_LAYOUTS, required, {"D": D, "z": z, "delta_bias": delta_bias})


def scan(u: Tensor, *tensors: Tensor, **options: Tensor | bool | str | None) -> tuple[Tensor, Tensor]:
    """`selective_scan` in the dtypes of its arguments, since mamba-ssm's scan ignores autocast."""
    device = u.device.type
    if not autocast_is_on(device):
        return selective_scan(u, *tensors, **options, return_last_state=True)
    with torch.autocast(device, enabled=False):
        return selective_scan(u, *tensors, **options, return_last_state=True)


def steps_first(tensor: Tensor) -> Tensor:
    """(batch, ..., length) -> (batch, length, ...), a view; a constant (dim, N) stays."""
    return tensor if tensor.dim() == 2 else tensor.movedim(-1, 1)


def _causal_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """SiLU of each channel's convolution with the steps up to its own; (batch, length, dim) in and out."""
    bias = None if bias is None else bias.to(x.dtype)
    y = F.conv1d(x.transpose(1, 2), weight.to(x.dtype), bias, padding=weight.shape[-1] - 1, groups=weight.shape[0])
    return F.silu(y[..., : x.shape[1]]).transpose(1, 2)


def _plus(tensor: Tensor, bias: Tensor | None) -> Tensor:
    return tensor if bias is None else tensor + bias.to(tensor.dtype)


def _rms_norm(tensor: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    return tensor if weight is None else F.rms_norm(tensor, tensor.shape[-1:], weight.to(tensor.dtype), eps)


# The axes of each argument, by name; where there are two layouts or more, the number of axes tells them apart. The scan
# itself checks dtypes, devices, N and the number of groups.
_SEQUENCE, _WEIGHTS = ("batch, dim, length",), ("dim, N", "batch, N, length", "batch, groups, N, length")
_LAYOUTS = {
    **dict.fromkeys(("u", "delta", "z"), _SEQUENCE),
    **dict.fromkeys(("B", "C"), _WEIGHTS),
    **dict.fromkeys(("D", "delta_bias", "conv1d_bias", "dt_rms_weight"), ("dim",)),
    **dict.fromkeys(("B_proj_bias", "C_proj_bias", "b_rms_weight", "c_rms_weight"), ("N",)),
    **dict.fromkeys(("A", "A_b"), ("dim, N",)),
    "xz": ("batch, 2 dim, length",),
    "conv1d_weight": ("dim, 1, width",),
    "x_proj_weight": ("rows, dim",),
    "delta_proj_weight": ("dim, R",),
    "out_proj_weight": ("features, dim",),
    "out_proj_bias": ("features",),
}
