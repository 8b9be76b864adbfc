"""The private torch API that `mvc.kernels` uses, in this one place; a test fails when it changes."""

from __future__ import annotations

import contextlib

import torch
from torch.autograd import forward_ad, profiler

PLAIN = (torch.Tensor, torch.nn.Parameter)  # types that intercept nothing


def under_functorch() -> bool:
    """Whether a torch.func transform (vmap, grad, …) is running; torch has no public question for it."""
    return torch._C._are_functorch_transforms_active()


def forward_mode() -> bool:
    """Whether forward-mode AD is on, by a dual level or by torch.func.jvp; Dynamo guards on it by itself."""
    return forward_ad._current_level >= 0


def plain_eager() -> bool:
    """Whether a call on plain tensors is nobody's but its caller's: torch compiles, traces, transforms, casts
    and profiles nothing, no mode intercepts operators or functions, no hook is given what autograd saves, and no tensor
    may carry a forward-mode tangent."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state()
        or torch._C._is_any_autocast_enabled()
        or torch._C._autograd._top_saved_tensors_default_hooks(True)
        or forward_mode()
        or profiler._is_profiler_enabled
    )


def untraced() -> bool:
    """Whether tensors have their values now: nothing compiles, traces or transforms, and no mode takes operators."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state()
    )


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether the tensor's values are what lies in its memory, where its strides say: no subclass, not sparse, and
    neither to be negated nor zero without memory."""
    return (
        type(tensor) in PLAIN and tensor.layout is torch.strided and not tensor.is_neg() and not tensor._is_zerotensor()
    )


def power_of_two_bound(size: torch.SymInt, largest: int) -> int | None:
    """The least power of two that a size which is unknown while tracing is known not to exceed; None above `largest`.

    It asks for no value, so that no guard is added.
    """
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # sympy: not where nothing is traced

    bound = 1
    while bound <= largest and not statically_known_true(size <= bound):
        bound *= 2
    return bound if bound <= largest else None


def guards_are_checked() -> bool:
    """Whether code that is traced now is run only for sizes that meet its guards, as torch.compile makes it.

    An exported program loses those that are added after its export.
    """
    return torch._guards.CompileContext.try_get() is not None and not torch.compiler.is_exporting()


def below_autograd() -> contextlib.AbstractContextManager:
    """Ops called inside are those of the device, without autograd, their gradients being somebody else's work."""
    return torch._C._AutoDispatchBelowAutograd()


def addmm_gelu(bias: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """GELU of x @ weight + bias by one call of cuBLASLt, in its tanh form; for CUDA."""
    return torch._addmm_activation(bias, x, weight, use_gelu=True)
