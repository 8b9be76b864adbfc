"""One step of the selective scan, for decoding: `mvc::selective_state_update`, which advances a state in place.

The op is one Triton launch on a GPU, and torch's own operations on any other device and for float64. Traced, it becomes
either, so that Inductor sees the kernel, or fuses the operations with what is around them. It passes no gradients on.
`selective_state_update` is the same for callers that have checked nothing, with a fast path for eager calls.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from mvc.kernels import eager, implementations, torch_private
from mvc.kernels.checks import check_flags, check_layouts
from mvc.kernels.scan.checks import check_dtype, check_states
from mvc.kernels.schemas import StepInputs, signed

NAMES = StepInputs._fields[:-1]
LAYOUTS = {
    "state": ("batch, dim, N",),
    "A": ("dim, N",),
    **dict.fromkeys(("x", "dt", "z"), ("batch, dim",)),
    **dict.fromkeys(("D", "dt_bias"), ("dim",)),
    **dict.fromkeys(("B", "C"), ("batch, N", "batch, groups, N")),
}
WITH_HEADS = {name: tuple(axes.replace("dim", "heads, dim") for axes in layouts) for name, layouts in LAYOUTS.items()}
EITHER = {"state": LAYOUTS["state"] + WITH_HEADS["state"]}


def check(tensors: eager.Tensors) -> None:
    """Raise TypeError for what is no tensor or of a wrong dtype, ValueError for a shape, device, N or state that does
    not fit."""
    state, x, dt, A, B, C, D, z, dt_bias = tensors
    required = {"state": state, "A": A, "x": x, "dt": dt, "B": B, "C": C}
    optional = {"D": D, "z": z, "dt_bias": dt_bias}
    with_heads = isinstance(state, Tensor) and state.dim() == 4
    sizes = check_layouts((WITH_HEADS if with_heads else LAYOUTS) | EITHER, required, optional)
    check_states(sizes["N"])
    groups, served = sizes.get("groups", 1), "heads" if with_heads else "dim"
    if groups == 0 or sizes[served] % groups:
        raise ValueError(f"B or C has {groups} groups; their number must divide {served} {sizes[served]}")
    if B.dim() != C.dim() and groups != 1:
        raise ValueError(f"B and C must have the same number of groups, got shapes {(*B.shape,)} and {(*C.shape,)}")
    for name, tensor in ({"x": x, "dt": dt, "B": B, "C": C} | optional).items():
        if tensor is not None:
            check_dtype(name, tensor.dtype, x.dtype, u="x")
    axes = () if torch.compiler.is_compiling() else zip(state.shape, state.stride(), strict=True)
    if any(size > 1 and stride == 0 for size, stride in axes):
        raise ValueError("state is expanded, its elements share memory, and it is written to; pass state.clone()")


def in_torch(*inputs: Tensor | bool | None) -> Tensor:
    """The step in torch's own operations, none of which autocast rounds: in float64 for a float64 x, or float32."""
    state, x, dt, A, B, C, D, z, dt_bias, dt_softplus = inputs
    dtype = torch.promote_types(x.dtype, torch.float32)
    u, step, B, C = (t.to(dtype) for t in (x, dt, B, C))
    B, C = (_by_channel(t, x) for t in (B, C))
    if dt_bias is not None:
        step = step + dt_bias.to(dtype)
    if dt_softplus:
        step = F.softplus(step)
    decay = (step.unsqueeze(-1) * A.to(dtype)).exp_()
    h = state.to(dtype)  # the state itself, unless it is in half precision
    h.mul_(decay).addcmul_((step * u).unsqueeze(-1), B)
    # Fresh memory for so many numbers takes a CPU longer than the sums; but transforms and tangents know of no `out`.
    y = torch.mul(h, C, out=None if _transformed() else decay).sum(-1)
    if D is not None:
        y = y + D.to(dtype) * u
    if z is not None:
        y = y * F.silu(z.to(dtype))
    if h is not state:
        state.copy_(h)
    return y.to(x.dtype)


def _transformed() -> bool:
    """Whether torch.func or forward-mode AD looks at each operation, of which the op would hide its own."""
    return torch_private.under_functorch() or torch_private.forward_mode()


def _by_channel(weights: Tensor, x: Tensor) -> Tensor:
    """B or C so that it broadcasts against x's axes and states."""
    if weights.dim() == 2:
        weights = weights.unsqueeze(1)
    if weights.shape[1] > 1:
        weights = weights.repeat_interleave(x.shape[1] // weights.shape[1], dim=1)
    return weights.unsqueeze(2) if x.dim() == 3 else weights


def _runs_triton(state: Tensor, x: Tensor) -> bool:
    return state.numel() > 0 and implementations.obstacle("triton", x.device, x.dtype) is None


@signed(StepInputs)
def _step(*inputs: Tensor | bool | None) -> Tensor:
    *tensors, softplus = inputs
    check(tensors)
    if _runs_triton(*tensors[:2]):
        from mvc.kernels.state_update import triton_kernel

        return triton_kernel.launch(dict(zip(NAMES, tensors, strict=True)), softplus=softplus)
    return in_torch(*inputs)


def _flops(state_shape, *args, **kwargs) -> int:
    """7 for each channel and state, as a step of the scan."""
    return 7 * math.prod(state_shape)


if importlib.util.find_spec("triton") is None:  # `triton_op` would warn of that
    op = torch.library.custom_op("mvc::selective_state_update", _step, mutates_args={"state"})
    op.register_fake(_step)
else:
    op = torch.library.triton_op("mvc::selective_state_update", _step, mutates_args={"state"})
register_flop_formula(torch.ops.mvc.selective_state_update)(_flops)


@torch.no_grad()
def selective_state_update(tensors: eager.Tensors, dt_softplus: bool) -> Tensor:
    """`mvc.compat.mamba_ssm.selective_state_update` of the tensors of `NAMES`.

    What depends on their signature alone, the checks among it, is done once for all eager calls alike.
    """
    check_flags(dt_softplus=dt_softplus)
    if not eager.applies(tensors):
        check(tensors)
        run = in_torch if _transformed() else torch.ops.mvc.selective_state_update.default
        return run(*tensors, dt_softplus)
    try:
        key = eager.signature(tensors, "selective_state_update", dt_softplus)
    except RuntimeError:  # a nested tensor has no strides
        check(tensors)
        raise
    prepared = eager.find(key)
    if prepared is None:
        check(tensors)
        prepared = eager.keep(key, _prepare(tensors, dt_softplus))
    return prepared(tensors)


def _prepare(tensors: eager.Tensors, softplus: bool) -> Callable[[eager.Tensors], Tensor]:
    if _runs_triton(*tensors[:2]):
        from mvc.kernels.state_update.triton_kernel import PreparedStep

        return PreparedStep(tensors, softplus)
    return lambda given: in_torch(*given, softplus)
