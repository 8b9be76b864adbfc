"""Attention on NVIDIA GPUs: `mvc::window_attention_triton` and its backward.

Importing this module imports triton and registers the ops. They are made for windows of up to 1,024 tokens, of which a
program holds the scores in registers, and read q, k and v where a projection has left them, in any strides.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton
from torch.utils.flop_counter import register_flop_formula, sdpa_backward_flop_count, sdpa_flop_count

from mvc.kernels.attention.checks import check, check_backward
from mvc.kernels.attention.triton_backward import attention_key_kernel, attention_query_kernel
from mvc.kernels.attention.triton_forward import attention_forward_kernel
from mvc.kernels.checks import is_empty, refuse_tangents
from mvc.kernels.scan.rules import autocast_is_on
from mvc.kernels.schemas import op
from mvc.kernels.torch_private import is_plain
from mvc.kernels.triton_arguments import common_factor

NAME = "window_attention_triton"
ROWS = 64  # queries, or keys in the backward, of a block: as many as four warps multiply at once
STAGES = 2  # of the loops over chunks: the next one is read while one is computed
PADDING = 16  # keys and channels are multiples of this: the tensor cores' depth
WIDEST_PART = 64  # channels: wider operands do not fit into the registers of an sm_80
ENOUGH = 792  # programs: six for each multiprocessor of the largest GPUs, twice as many as run at once
READ_AT_ONCE = 16  # bytes, by a thread


class Cut(NamedTuple):
    """How programs divide windows and heads between them.

    Attributes:
        warps: of a program.
        at_once: keys of a window that the forward holds in shared memory for all blocks of queries.
        chunk, chunk_backward: keys, or queries in the backward, that are read at once of a longer window.
        whole: keys of a window whose backward is one program.
    """

    warps: int
    at_once: int
    chunk: int
    whole: int
    chunk_backward: int


NARROW = Cut(warps=4, at_once=256, chunk=64, whole=64, chunk_backward=32)
WIDE = Cut(warps=8, at_once=64, chunk=32, whole=0, chunk_backward=16)


def _cut(d: int, *tensors: Tensor) -> Cut:
    """`WIDE` for more than 64 channels, and where every number is a load of its own, whose addresses take registers."""
    return NARROW if d <= WIDEST_PART and min(map(_aligned, tensors)) > 1 else WIDE


def _rows(length: int, at_once: int, chunk: int) -> dict[str, int]:
    """How a kernel walks over rows: chunks of CHUNK, or none, and then KEYS."""
    if isinstance(length, torch.SymInt):  # to compare it would make a guard
        return {"CHUNK": chunk, "KEYS": chunk}
    if length <= at_once:
        return {"CHUNK": 0, "KEYS": _padded(length)}
    return {"CHUNK": chunk, "KEYS": _padded((length - 1) % chunk + 1)}


def _padded(size: int) -> int:
    return triton.cdiv(size, PADDING) * PADDING


def _channels(d: int) -> dict[str, int]:
    """A head's channels in two parts, whose sizes are powers of two, or in one where two are no less."""
    d = int(d)  # code is generated for it
    wide = min(WIDEST_PART, 1 << (_padded(d).bit_length() - 1))
    rest = triton.next_power_of_2(_padded(d) - wide) if _padded(d) > wide else 0
    if rest == wide < WIDEST_PART:
        wide, rest = 2 * wide, 0
    return {"D": d, "WIDE": wide, "REST": rest}


def _aligned(tensor: Tensor) -> int:
    """Elements of which the strides of all but the last axis are multiples, at most those of one read."""
    return common_factor(READ_AT_ONCE // tensor.dtype.itemsize, *tensor.stride()[:-1])


def _precision(dtype: torch.dtype) -> str:
    return "ieee" if dtype == torch.float32 else "tf32"


def _new(like: Tensor) -> Tensor:
    """(batch, heads, length, d) in (batch, length, heads, d) memory, so that heads join without a copy."""
    batch, heads, length, d = like.shape
    return like.new_empty((batch, length, heads, d)).transpose(1, 2)


@triton_op(f"mvc::{NAME}", mutates_args={})
def window_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """softmax(scale q kᵀ) v over whole windows, and the logarithms of the softmax's sums; differentiable once.

    Args:
        q, k, v: (batch, heads, length, d) each, in any strides, of one dtype: float32, float16 or bfloat16; d is 128 at
            most.
        scale: a factor above 0.

    Returns:
        out, (batch, heads, length, d) in (batch, length, heads, d) memory, of q's dtype; logsumexp, (batch, heads,
        length) in float32, which has no gradient.

    Raises:
        TypeError: an argument that is no dense tensor, another dtype, or dtypes that differ.
        ValueError: shapes or devices that differ, heads that are too wide, or a scale that is not above 0.
    """
    refuse_tangents(NAME, q, k, v)
    if is_plain(q):  # the sizes of tensors without values may be unknown: comparing them would make guards of them
        check(q, k, v, scale)
    batch, heads, length, d = q.shape
    out, lse = _new(q), q.new_empty((batch, heads, length), dtype=torch.float32)
    if is_empty(q):
        return out, lse
    cut = _cut(d, q, k, v)
    blocks = triton.cdiv(length, ROWS)
    programs = torch.sym_min(blocks, triton.cdiv(ENOUGH, torch.sym_max(batch * heads, 1)))
    wrap_triton(attention_forward_kernel)[(batch * heads, programs)](
        q, k, v, out, lse, length, heads, scale, *q.stride(), *k.stride(), *v.stride(), out.stride(0), out.stride(2),
        **_channels(d), ROWS=ROWS, STAGES=STAGES, **_rows(length, cut.at_once, cut.chunk),
        Q_ALIGNED=_aligned(q), K_ALIGNED=_aligned(k), V_ALIGNED=_aligned(v), NEW_ALIGNED=_aligned(out),
        PRECISION=_precision(q.dtype), num_warps=cut.warps,
    )  # fmt: skip
    return out, lse


@triton_op(f"mvc::{NAME}_backward", mutates_args={})
def window_attention_backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v.

    Args:
        grad_out: the gradient of out, of its shape and dtype, in any strides.
        q, k, v, scale: what `window_attention` was given.
        out, logsumexp: what it returned.

    Returns:
        three tensors of q's shape and dtype, in (batch, length, heads, d) memory.

    Raises:
        TypeError, ValueError: as `window_attention`; ValueError also where grad_out, out or logsumexp does not fit.
    """
    refuse_tangents(f"{NAME}_backward", grad_out, q, k, v, out, logsumexp)
    if is_plain(q):
        check_backward(grad_out, q, k, v, out, logsumexp, scale)
    batch, heads, length, d = q.shape
    dq, dk, dv = _new(q), _new(q), _new(q)
    if is_empty(q):
        return dq, dk, dv
    lse = logsumexp.contiguous()
    cut = _cut(d, q, k, v, out, grad_out)
    whole = not isinstance(length, torch.SymInt) and length <= cut.whole
    delta = None if whole else lse.new_empty(lse.shape)
    grid = (batch * heads, triton.cdiv(length, ROWS))
    sizes = (length, heads, scale, *q.stride(), *k.stride(), *v.stride(), *out.stride(), *grad_out.stride())
    sizes = (*sizes, dq.stride(0), dq.stride(2))
    options: dict[str, Any] = {
        **_channels(d), "ROWS": ROWS, "STAGES": STAGES, **_rows(length, cut.whole, cut.chunk_backward),
        "Q_ALIGNED": _aligned(q), "K_ALIGNED": _aligned(k), "V_ALIGNED": _aligned(v),
        "OUT_ALIGNED": _aligned(out), "GRAD_ALIGNED": _aligned(grad_out), "NEW_ALIGNED": _aligned(dq),
        "PRECISION": _precision(q.dtype), "num_warps": cut.warps,
    }  # fmt: skip
    if not whole:
        wrap_triton(attention_query_kernel)[grid](q, k, v, out, lse, grad_out, delta, dq, *sizes, **options)
    wrap_triton(attention_key_kernel)[grid](
        q, k, v, out, lse, grad_out, delta, dq if whole else None, dk, dv, *sizes, **options
    )
    return dq, dk, dv


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *op(NAME, backward=True)(grad_out, *ctx.saved_tensors, ctx.scale), None


def _no_second_derivative(ctx: Any, *gradients: Tensor) -> None:
    raise RuntimeError(f"mvc::{NAME} can be differentiated once, not twice; F.scaled_dot_product_attention can be")


def _autocast(device: str):
    """q, k and v in autocast's dtype, as torch's attention casts them."""

    def run(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        if autocast_is_on(device):
            q, k, v = (t.to(torch.get_autocast_dtype(device)) for t in (q, k, v))
        with torch.autocast(device, enabled=False):
            return op(NAME)(q, k, v, scale)

    return run


def _vmap(name: str, results: int):
    """The mapped axis becomes a factor of the batch."""

    def run(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor | float):
        *tensors, scale = inputs
        folded = (_first(t, axis, info.batch_size).flatten(0, 1) for t, axis in zip(tensors, in_dims, strict=False))
        return tuple(t.unflatten(0, (info.batch_size, -1)) for t in name(*folded, scale)), (0,) * results

    return run


def _first(tensor: Tensor, axis: int | None, size: int) -> Tensor:
    return tensor.expand(size, *tensor.shape) if axis is None else tensor.movedim(axis, 0)


def _flops(q_shape, k_shape, v_shape, *args, **kwargs) -> int:
    return sdpa_flop_count(q_shape, k_shape, v_shape)


def _flops_backward(grad_shape, q_shape, k_shape, v_shape, *args, **kwargs) -> int:
    return sdpa_backward_flop_count(grad_shape, q_shape, k_shape, v_shape)


torch.library.register_autograd(f"mvc::{NAME}", _backward, setup_context=_setup_context)
torch.library.register_autograd(
    f"mvc::{NAME}_backward", _no_second_derivative, setup_context=lambda ctx, inputs, output: None
)
torch.library.register_vmap(f"mvc::{NAME}", _vmap(op(NAME), 2))
torch.library.register_vmap(f"mvc::{NAME}_backward", _vmap(op(NAME, backward=True), 3))
for key, device in (("AutocastCPU", "cpu"), ("AutocastCUDA", "cuda")):
    torch.library.impl(f"mvc::{NAME}", key, _autocast(device))
register_flop_formula(op(NAME).overloadpacket)(_flops)
register_flop_formula(op(NAME, backward=True).overloadpacket)(_flops_backward)
