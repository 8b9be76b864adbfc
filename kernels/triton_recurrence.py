"""The linear recurrence on NVIDIA GPUs: its Triton kernel, how it is launched, and `mvc::linear_recurrence_triton`.

Importing this module imports triton and registers the op, whose schema torch infers from the annotations. A program
runs BLOCK lanes, elements of all axes but the one that the recurrence runs along, one in each thread. Where few lanes
would leave a GPU idle, its length is cut in chunks that run side by side, as the scan's is.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from mvc.kernels.recurrence_ops import register_rules, result_dtype
from mvc.kernels.rules import refuse_tangents
from mvc.kernels.triton_chunks import combine_kernel
from mvc.kernels.triton_steps import SMALLEST_NORMAL, load_steps, position, run_position, split_chunk
from torch import Tensor
from torch.library import triton_op, wrap_triton

BLOCK = 32  # lanes of a program: one for each thread of its one warp
WIDE = 4  # steps read at once
LANE_AXES = 4  # axes besides the recurrence's that the kernel walks over by strides; more are merged
PROGRAMS = 1024  # as many keep the largest GPUs busy
SHORTEST_CHUNK = 128  # steps; a multiple of WIDE


@triton.jit
def _lane_offset(o_lane, size_1, size_2, size_3, stride_0, stride_1, stride_2, stride_3):
    """Where a lane starts in a tensor with four axes of lanes."""
    o_tensor = (o_lane % size_3) * stride_3
    o_lane = o_lane // size_3
    o_tensor += (o_lane % size_2) * stride_2
    o_lane = o_lane // size_2
    return o_tensor + (o_lane % size_1) * stride_1 + o_lane // size_1 * stride_0


@triton.jit
def _store_steps(
    p_lanes, values, t, stride, mask, STEPS: tl.constexpr, ALONG_LENGTH: tl.constexpr, REVERSE: tl.constexpr
):
    """The inverse of `load_steps`: STEPS vectors (BLOCK,) in the order in which they run, two or four as a tile."""
    dtype = p_lanes.dtype.element_ty
    if ALONG_LENGTH and STEPS > 1:
        if REVERSE:
            b_tile = tl.join(tl.join(values[3], values[1]), tl.join(values[2], values[0]))
        else:
            b_tile = tl.join(tl.join(values[0], values[2]), tl.join(values[1], values[3]))
        o_step = tl.multiple_of(t, STEPS) + tl.arange(0, STEPS)
        b_tile = tl.reshape(b_tile, (mask.shape[0], STEPS)).to(dtype)
        tl.store(p_lanes[:, None] + o_step[None, :], b_tile, mask=mask[:, None])
    else:
        for j in tl.static_range(STEPS):
            tl.store(p_lanes + position(t, j, STEPS, REVERSE) * stride, values[j].to(dtype), mask=mask)


@triton.jit
def _never_vanishing_product(b_x, b_y):
    """x y, which is zero only where a factor is: an infinite state that decays stays infinite, and keeps its sign."""
    b_product = b_x * b_y
    b_smallest = tl.where((b_x < 0.0) != (b_y < 0.0), -SMALLEST_NORMAL, SMALLEST_NORMAL)
    return tl.where((b_product == 0.0) & (b_x != 0.0) & (b_y != 0.0), b_smallest, b_product)


@triton.jit
def _run_steps(
    h, decay, mask, t_first, groups, p_a, p_b, p_h, a_l, b_l, h_l,
    STEPS: tl.constexpr, REVERSE: tl.constexpr, A_ALONG: tl.constexpr, B_ALONG: tl.constexpr, H_ALONG: tl.constexpr,
):  # fmt: skip
    """h, and the decay so far, after `groups` groups of STEPS steps from t_first on; stores h of each step."""
    for i in range(groups):
        t = t_first + run_position(i, groups, REVERSE) * STEPS
        b_a = load_steps(p_a, t, a_l, mask, STEPS, A_ALONG, REVERSE)
        b_b = load_steps(p_b, t, b_l, mask, STEPS, B_ALONG, REVERSE)
        states = ()
        for j in tl.static_range(STEPS):
            h = b_a[j] * h + b_b[j]
            decay = _never_vanishing_product(decay, b_a[j])
            states = states + (h,)
        if p_h is not None:
            _store_steps(p_h, states, t, h_l, mask, STEPS, H_ALONG, REVERSE)
    return h, decay


@triton.jit
def recurrence_kernel(
    p_a, p_b, p_start, p_h, p_own, p_decay, length, lanes, chunk, size_1, size_2, size_3,
    a_0, a_1, a_2, a_3, a_l, b_0, b_1, b_2, b_3, b_l, h_l,
    BLOCK: tl.constexpr, WIDE: tl.constexpr, REVERSE: tl.constexpr,
    A_ALONG: tl.constexpr, B_ALONG: tl.constexpr, H_ALONG: tl.constexpr,
):  # fmt: skip
    """h_t = a_t h_{t-1} + b_t over one chunk of the length, from `start` (chunks, lanes) or zero.

    Stores all states into h, which is contiguous, or, without h, into own and decay (chunks, lanes) the last state and
    the decay over the chunk.
    """
    i_chunk = tl.program_id(1)
    o_lane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = o_lane < lanes
    p_a += _lane_offset(o_lane, size_1, size_2, size_3, a_0, a_1, a_2, a_3)
    p_b += _lane_offset(o_lane, size_1, size_2, size_3, b_0, b_1, b_2, b_3)
    if p_h is not None:
        p_h += o_lane // h_l * h_l * length + o_lane % h_l
    o_state = i_chunk.to(tl.int64) * lanes + o_lane
    if p_start is None:
        h = tl.zeros((BLOCK,), tl.float32)
    else:
        h = tl.load(p_start + o_state, mask=mask, other=0.0).to(tl.float32)
    decay = tl.full((BLOCK,), 1.0, tl.float32)

    first = i_chunk * chunk
    wide, rest = split_chunk(first, chunk, length, WIDE)
    for i_part in tl.static_range(2):
        if (i_part == 0) != REVERSE:
            h, decay = _run_steps(
                h, decay, mask, first, wide, p_a, p_b, p_h, a_l, b_l, h_l, WIDE, REVERSE, A_ALONG, B_ALONG, H_ALONG
            )
        else:
            h, decay = _run_steps(
                h, decay, mask, first + WIDE * wide, rest, p_a, p_b, p_h, a_l, b_l, h_l,
                1, REVERSE, A_ALONG, B_ALONG, H_ALONG,
            )  # fmt: skip
    if p_own is not None:
        tl.store(p_own + o_state, h, mask=mask)
        tl.store(p_decay + o_state, decay, mask=mask)


def _lanes(tensor: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
    """`tensor` as (lanes in LANE_AXES axes, length)."""
    tensor = tensor.expand(shape).movedim(dim, -1)
    merged = tensor.dim() - 1 - LANE_AXES
    if merged > 0:
        return tensor.flatten(0, merged)
    return tensor[(None,) * -merged]


def _along_length(tensor: Tensor) -> bool:
    """Whether WIDE neighbouring steps of a lane are one aligned piece of memory."""
    *lanes, step = tensor.stride()
    aligned = (stride % WIDE == 0 for stride in (*lanes, tensor.storage_offset()))
    return step == 1 and lanes[-1] != 1 and all(aligned)


@triton_op("mvc::linear_recurrence_triton", mutates_args={})
def linear_recurrence(a: Tensor, b: Tensor, initial: Tensor | None, dim: int, reverse: bool) -> Tensor:
    refuse_tangents("linear_recurrence_triton", a, b, initial)
    dtype = result_dtype(a, b, initial)
    if dtype == torch.float64:
        raise TypeError("the Triton recurrence takes no float64; use impl='chunked'")
    shape = torch.broadcast_shapes(a.shape, b.shape)
    h = a.new_empty(shape, dtype=dtype)
    if h.numel() == 0:
        return h
    inner = h.stride(dim)
    a, b = (_lanes(t, shape, dim) for t in (a, b))
    *sizes, length = a.shape
    lanes = h.numel() // length
    start = None if initial is None else initial.expand((*shape[:dim], *shape[dim + 1 :])).contiguous()
    programs = triton.cdiv(lanes, BLOCK)
    chunks = max(1, min(PROGRAMS // programs, length // SHORTEST_CHUNK))
    chunk = triton.cdiv(triton.cdiv(length, chunks), SHORTEST_CHUNK) * SHORTEST_CHUNK
    chunks = triton.cdiv(length, chunk)
    along = _along_length(a), _along_length(b), inner == 1 and length % WIDE == 0

    def launch(start: Tensor | None, h: Tensor | None, own: Tensor | None, decay: Tensor | None) -> None:
        wrap_triton(recurrence_kernel)[(programs, chunks)](
            a, b, start, h, own, decay, length, lanes, chunk, *sizes[1:], *a.stride(), *b.stride(), inner,
            BLOCK=BLOCK, WIDE=WIDE, REVERSE=reverse, A_ALONG=along[0], B_ALONG=along[1], H_ALONG=along[2], num_warps=1,
        )  # fmt: skip

    if chunks > 1:
        own, decay = (a.new_empty((chunks, lanes), dtype=torch.float32) for _ in range(2))
        launch(None, None, own, decay)
        wrap_triton(combine_kernel)[(triton.cdiv(lanes, 128),)](
            own, decay, start, lanes, chunks, BLOCK=128, AHEAD=8, REVERSE=reverse, MAY_RESET=False, num_warps=4
        )
        start = own
    launch(start, h, None, None)
    return h


register_rules("linear_recurrence_triton")
