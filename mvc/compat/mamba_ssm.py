"""mamba-ssm's functions, with its signatures and (batch, dim, length) layout, computed by `mvc::selective_scan`.

They take what mamba-ssm 1.x and 2.x take and return what those return: y in u's dtype also under autocast, the last
state in float32. Beyond that they run on any device, and gradients flow through the last state and through the norms of
`mamba_inner_fn` too. y is a (batch, length, dim) tensor transposed, which the projection that follows reads as it lies;
joining its axes takes `reshape`, not `view`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mvc.kernels.checks import check_dtype, check_flags, check_tensors
from mvc.kernels.rules import autocast_is_on
from mvc.kernels.scan import selective_scan


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
        x_proj_weight: (R + 2N, dim), for the time step, B and C; without N rows for each of B and C that is given.
        delta_proj_weight: (dim, R). out_proj_weight: (features, dim). out_proj_bias: (features,).
        A, D, delta_bias, delta_softplus: as `selective_scan_fn` has them. B, C: also; None computes them from x.
        B_proj_bias, C_proj_bias: (N,), added to a B or C that is computed.
        checkpoint_lvl: 0 or 1, the same here: autograd keeps what the backward needs.
        b_rms_weight, c_rms_weight: (N,). dt_rms_weight: (dim,). Where given, B, C or the time step after its projection
            is divided by its root mean square and multiplied by the weight.

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
    sizes = _check(_LAYOUTS, required, optional)
    rank, states = sizes["R"], sizes["N"]
    if sizes["2 dim"] != 2 * sizes["dim"]:
        raise ValueError(f"xz must have {2 * sizes['dim']} channels, twice A's dim, got shape {tuple(xz.shape)}")
    if sizes["rows"] < rank + states * ((B is None) + (C is None)):
        raise ValueError(f"x_proj_weight has {sizes['rows']} rows, too few for R {rank} and N {states}; pass B or C")
    if isinstance(checkpoint_lvl, bool) or not isinstance(checkpoint_lvl, int) or checkpoint_lvl not in (0, 1):
        raise ValueError(f"checkpoint_lvl must be 0 or 1, got {checkpoint_lvl!r}")
    check_flags(delta_softplus=delta_softplus)
    if not isinstance(b_c_dt_rms_eps, (int, float)) or not b_c_dt_rms_eps >= 0:
        raise ValueError(f"b_c_dt_rms_eps must be a number from 0, got {b_c_dt_rms_eps!r}")
    for name in ("x_proj_weight", "delta_proj_weight", "out_proj_weight"):
        if required[name].dtype != xz.dtype and not autocast_is_on(xz.device.type):
            raise TypeError(f"{name} must have xz's dtype {xz.dtype}, got {required[name].dtype}; convert one of them")

    x, z = (_steps_first(t) for t in xz.chunk(2, dim=1))
    x = _causal_convolution(x, conv1d_weight, conv1d_bias)
    projected = F.linear(x, x_proj_weight)  # (batch, length, R + 2N)
    delta = F.linear(projected[..., :rank], delta_proj_weight)
    B = _plus(projected[..., rank : rank + states], B_proj_bias) if B is None else _steps_first(B)
    C = _plus(projected[..., -states:], C_proj_bias) if C is None else _steps_first(C)
    delta = _rms_norm(delta, dt_rms_weight, b_c_dt_rms_eps)
    B = _rms_norm(B, b_rms_weight, b_c_dt_rms_eps)
    C = _rms_norm(C, c_rms_weight, b_c_dt_rms_eps)
    y, _ = _scan(x, delta, A, B, C, D=D, z=z, delta_bias=delta_bias, delta_softplus=delta_softplus)
    return F.linear(y, out_proj_weight, None if out_proj_bias is None else out_proj_bias.to(out_proj_weight.dtype))


@torch.no_grad()
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

    Args:
        state: (batch, dim, N), or with heads (batch, heads, dim, N).
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
    required = {"state": state, "A": A, "x": x, "dt": dt, "B": B, "C": C}
    optional = {"D": D, "z": z, "dt_bias": dt_bias}
    _check(_STEP_LAYOUTS, required, optional)
    check_flags(dt_softplus=dt_softplus)
    axes = () if torch.compiler.is_compiling() else zip(state.shape, state.stride(), strict=True)
    if any(size > 1 and stride == 0 for size, stride in axes):
        raise ValueError("state is expanded, its elements share memory, and it is written to; pass state.clone()")
    for name, tensor in ({"x": x, "dt": dt, "B": B, "C": C} | optional).items():
        if tensor is not None:
            check_dtype(name, tensor.dtype, x.dtype, u="x")
    u, delta, z = (None if t is None else t.flatten(1).unsqueeze(1) for t in (x, dt, z))  # (batch, 1, heads · dim)
    D, delta_bias = (None if t is None else t.flatten() for t in (D, dt_bias))
    A, initial_state = A.flatten(0, -2).float(), state.flatten(1, -2).float()
    options = {"D": D, "z": z, "delta_bias": delta_bias, "delta_softplus": dt_softplus}
    y, last_state = _scan(u, delta, A, B.unsqueeze(1), C.unsqueeze(1), initial_state=initial_state, **options)
    state.copy_(last_state.view(state.shape))
    return y.view(x.shape)


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
    required = {"u": u, "A": A, "delta": delta, "B": B, "C": C}
    _check(_LAYOUTS, required, {"D": D, "z": z, "delta_bias": delta_bias})
    check_flags(return_last_state=return_last_state)
    u, delta, B, C, z = (None if t is None else _steps_first(t) for t in (u, delta, B, C, z))
    options = {"D": D, "z": z, "delta_bias": delta_bias, "delta_softplus": delta_softplus}
    y, last_state = _scan(u, delta, A, B, C, impl=impl, **options)
    y = y.transpose(1, 2)
    return (y, last_state) if return_last_state else y


def _scan(u: Tensor, *tensors: Tensor, **options: Tensor | bool | str | None) -> tuple[Tensor, Tensor]:
    """`selective_scan` in the dtypes that it is given: mamba-ssm's scan does not heed autocast."""
    device = u.device.type
    if not autocast_is_on(device):
        return selective_scan(u, *tensors, **options, return_last_state=True)
    with torch.autocast(device, enabled=False):
        return selective_scan(u, *tensors, **options, return_last_state=True)


def _steps_first(tensor: Tensor) -> Tensor:
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
    "A": ("dim, N",),
    "xz": ("batch, 2 dim, length",),
    "conv1d_weight": ("dim, 1, width",),
    "x_proj_weight": ("rows, dim",),
    "delta_proj_weight": ("dim, R",),
    "out_proj_weight": ("features, dim",),
    "out_proj_bias": ("features",),
}
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_STEP_LAYOUTS = {
    "state": ("batch, dim, N", "batch, heads, dim, N"),
    "A": ("dim, N", "heads, dim, N"),
    **dict.fromkeys(("x", "dt", "z"), ("batch, dim", "batch, heads, dim")),
    **dict.fromkeys(("B", "C"), ("batch, N", "batch, groups, N")),
    **dict.fromkeys(("D", "dt_bias"), ("dim", "heads, dim")),
}


def _check(
    layouts: dict[str, tuple[str, ...]], required: dict[str, Tensor], optional: dict[str, Tensor | None]
) -> dict[str, int]:
    """The size of each axis by its name, which must be the same in all tensors."""
    sizes = {"1": 1}
    check_tensors(required, optional)
    present = required | {name: tensor for name, tensor in optional.items() if tensor is not None}
    first, device = next((name, tensor.device) for name, tensor in present.items())
    for name, tensor in present.items():
        if tensor.is_complex():
            raise TypeError(f"{name} is {tensor.dtype}; complex states are not supported: use the real form")
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"{name} must be {' or '.join(map(str, _DTYPES))}, got {tensor.dtype}")
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
