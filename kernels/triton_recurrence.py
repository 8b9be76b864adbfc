"""The linear recurrence on NVIDIA GPUs: its Triton kernel, how it is launched, and `mvc::linear_recurrence_triton`.

Importing this module imports triton and registers the op, whose schema torch infers from the annotations. Lanes are the
elements of all axes but the one that the recurrence runs along. The tile is that of `triton_tile.py` with one state for
each lane: (R, G, CH, 1, W), W rows of G steps of R * CH lanes. Memory is the bound, so what a thread reads at once, 16
bytes, is an axis that lies in its registers::

        across: lanes are neighbours in memory          along: steps are
          registers      warps, lanes                     registers      warps, lanes
        ┌──────┬─────┐ ┌──────┬─────┐                   ┌─────┬──────┐ ┌──────┬─────┐
        │R wide│  G  │ │  CH  │  W  │                   │R = 1│G wide│ │  CH  │  W  │
        └──────┴─────┘ └──────┴─────┘                   └─────┴──────┘ └──────┴─────┘

Loads and stores have an axis for that and one for lanes and warps, (R, CH * W) for each step or (CH * W, G): how threads
are laid over several axes differs between versions of triton. Where few lanes would leave a GPU idle, the length is cut
in chunks that run side by side, as the scan's is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from mvc.kernels.recurrence_ops import register_rules, result_dtype
from mvc.kernels.rules import refuse_tangents
from mvc.kernels.triton_chunks import combine_kernel
from mvc.kernels.triton_tile import SMALLEST_NORMAL, put, step
from torch import Tensor
from torch.library import triton_op, wrap_triton

LANE_AXES = 4  # axes besides the recurrence's that the kernel walks over by strides; more are merged
READ_AT_ONCE = 16  # bytes, by a thread
ENOUGH = 264  # programs: two for each multiprocessor of the largest GPUs
MOST_CHUNKS = 32  # `combine_kernel` takes them one after the other
FEWEST_TILES = 4  # of a chunk: less is not worth reading everything twice


@triton.jit
def _lane_offset(o_lane, size_1, size_2, size_3, stride_0, stride_1, stride_2, stride_3):
    """Where a lane starts in a tensor with four axes of lanes."""
    o_tensor = (o_lane % size_3).to(tl.int64) * stride_3
    o_lane = o_lane // size_3
    o_tensor += (o_lane % size_2).to(tl.int64) * stride_2
    o_lane = o_lane // size_2
    return o_tensor + (o_lane % size_1).to(tl.int64) * stride_1 + (o_lane // size_1).to(tl.int64) * stride_0


@triton.jit
def _aligned(o_lane, R: tl.constexpr, G: tl.constexpr):
    """Offsets as they are, known to be such that a thread can read its R lanes or G steps at once."""
    if R > 1:
        return tl.max_contiguous(tl.multiple_of(o_lane, [R, 1]), [R, 1])
    else:
        return tl.multiple_of(o_lane, [G, 1])


@triton.jit
def _never_vanishing_product(x, y):
    """x y, which is zero only where a factor is: an infinite state that decays stays infinite, and keeps its sign."""
    product = x * y
    smallest = tl.where(product.to(tl.int32, bitcast=True) < 0, -SMALLEST_NORMAL, SMALLEST_NORMAL)
    return tl.where((product == 0.0) & (x != 0.0) & (y != 0.0), smallest, product)


@triton.jit
def _continued(p, v, h):
    """p h + v, where v is what a stretch of steps makes of a zero state and p its product of `a`, which may overflow."""
    return tl.where(h == 0.0, v, p * h + v)


@triton.jit
def _pair(p1, v1, p2, v2):
    """Two such stretches, one after the other."""
    return _never_vanishing_product(p1, p2), _continued(p2, v2, v1)


@triton.jit
def _position(o_row, length, STEPS: tl.constexpr, REVERSE: tl.constexpr):
    """Where in the sequence that of STEPS neighbouring steps stands which is first in memory, if o_row run before."""
    if REVERSE:
        return length - STEPS - o_row
    else:
        return o_row


@triton.jit
def _load_steps(
    q_lanes, o_row, length, is_lane, stride, other,
    R: tl.constexpr, G: tl.constexpr, CH: tl.constexpr, W: tl.constexpr, ALONG: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """The G steps of each row in the order in which they run, (R, CH, 1, W) each."""
    steps = ()
    if ALONG:
        o_step = _position(o_row, length, G, REVERSE) + tl.arange(0, G)[None, :]
        mask = is_lane & (o_step >= 0) & (o_step < length)
        x = tl.load(q_lanes + o_step.to(tl.int64) * stride, mask=mask, other=other).to(tl.float32)
        x = tl.permute(tl.reshape(x, (CH, W, G)), (2, 0, 1))[None, :, :, None, :]
        for j in tl.static_range(G):
            steps = steps + (step(x, G - 1 - j if REVERSE else j, G),)
    else:
        q_lanes += _position(o_row, length, 1, REVERSE).to(tl.int64) * stride
        for j in tl.static_range(G):
            x = tl.load(q_lanes, mask=is_lane & (o_row + j < length), other=other).to(tl.float32)
            steps = steps + (tl.reshape(x, (R, CH, 1, W)),)
            q_lanes += -stride if REVERSE else stride
    return steps


@triton.jit
def _store_steps(
    q_lanes, o_row, length, is_lane, stride, steps,
    R: tl.constexpr, G: tl.constexpr, CH: tl.constexpr, W: tl.constexpr, ALONG: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """The inverse of `_load_steps`."""
    dtype = q_lanes.dtype.element_ty
    if ALONG:
        x = tl.zeros((R, G, CH, 1, W), tl.float32)
        for j in tl.static_range(G):
            x = put(x, G - 1 - j if REVERSE else j, steps[j], G)
        x = tl.reshape(tl.permute(tl.reshape(x, (G, CH, W)), (1, 2, 0)), (CH * W, G)).to(dtype)
        o_step = _position(o_row, length, G, REVERSE) + tl.arange(0, G)[None, :]
        mask = is_lane & (o_step >= 0) & (o_step < length)
        tl.store(q_lanes + o_step.to(tl.int64) * stride, x, mask=mask)
    else:
        q_lanes += _position(o_row, length, 1, REVERSE).to(tl.int64) * stride
        for j in tl.static_range(G):
            x = tl.reshape(steps[j], (R, CH * W)).to(dtype)
            tl.store(q_lanes, x, mask=is_lane & (o_row + j < length))
            q_lanes += -stride if REVERSE else stride


@triton.jit
def _row(a, b, G: tl.constexpr):
    """Over each row: the product of `a`, and what the row makes of a zero state; (R, CH, 1, W)."""
    p = a[0]
    v = a[0] * 0.0 + b[0]
    for j in tl.static_range(1, G):
        p = _never_vanishing_product(p, a[j])
        v = a[j] * v + b[j]
    return p, v


@triton.jit
def _row_starts(p, v, h, W: tl.constexpr):
    """What each row starts from, and what the last one ends with; h is what the first starts from, the same in all."""
    w = tl.arange(0, W)[None, None, None, :] + tl.zeros(v.shape, tl.int32)
    _, ends = tl.associative_scan((p, tl.where(w == 0, _continued(p, v, h), v)), 3, _pair)
    return tl.where(w == 0, h, tl.gather(ends, tl.maximum(w - 1, 0), 3)), tl.gather(ends, w * 0 + (W - 1), 3)


@triton.jit
def recurrence_kernel(
    p_a, p_b, p_start, p_h, p_own, p_decay, length, lanes, chunk, size_1, size_2, size_3,
    a_0, a_1, a_2, a_3, a_l, b_0, b_1, b_2, b_3, b_l, h_l,
    R: tl.constexpr, G: tl.constexpr, CH: tl.constexpr, W: tl.constexpr, A_WIDE: tl.constexpr, B_WIDE: tl.constexpr,
    H_WIDE: tl.constexpr, ALONG: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """h_t = a_t h_{t-1} + b_t over one chunk of the length, from `start` (chunks, lanes) or zero.

    Stores all states into h, which is contiguous, or, without h, into own and decay (chunks, lanes) the last state and
    the product of `a` over the chunk. Chunks, rows and steps are counted in the order in which they run; one beyond the
    end multiplies by one and adds zero.
    """
    i_chunk = tl.program_id(1)
    if A_WIDE or B_WIDE or H_WIDE:  # all of these are multiples then, which the compiler does not know
        if ALONG:
            length = length // G * G
        else:
            lanes = lanes // R * R
    if not ALONG:
        if A_WIDE:
            a_l = a_l // R * R
        if B_WIDE:
            b_l = b_l // R * R
        if H_WIDE:
            h_l = h_l // R * R
    k = tl.arange(0, CH * W)
    if ALONG:  # loads and stores are (CH * W, G)
        k = k[:, None]
        r = 0
    else:  # (R, CH * W) for each step
        k = k[None, :]
        r = tl.arange(0, R)[:, None]
    w = k % W
    o_lane = (tl.program_id(0) + lanes * 0) * (CH * R) + k // W * R + r  # in 64 bits where their number takes that
    is_lane = o_lane < lanes
    o_a = _lane_offset(o_lane, size_1, size_2, size_3, a_0, a_1, a_2, a_3)
    o_b = _lane_offset(o_lane, size_1, size_2, size_3, b_0, b_1, b_2, b_3)
    o_h = (o_lane // h_l).to(tl.int64) * h_l * length + o_lane % h_l
    if A_WIDE:
        o_a = _aligned(o_a, R, G)
    if B_WIDE:
        o_b = _aligned(o_b, R, G)
    if H_WIDE:
        o_h = _aligned(o_h, R, G)
    o_state = i_chunk.to(tl.int64) * lanes + o_lane
    h = tl.zeros((R, CH, 1, W), tl.float32)
    if p_start is not None:
        b_start = tl.load(p_start + o_state, mask=is_lane, other=0.0).to(tl.float32)
        h += tl.reshape(b_start, (R, CH, 1, W))
    decay = tl.full((R, CH, 1, W), 1.0, tl.float32)

    first = i_chunk * chunk
    tiles = tl.cdiv(tl.minimum(chunk, length - first), W * G)
    o_row = first + w * G
    a = _load_steps(p_a + o_a, o_row, length, is_lane, a_l, 1.0, R, G, CH, W, ALONG, REVERSE)
    b = _load_steps(p_b + o_b, o_row, length, is_lane, b_l, 0.0, R, G, CH, W, ALONG, REVERSE)
    for i in range(tiles):
        end = h
        if W > 1 or p_h is None:
            p, v = _row(a, b, G)
            decay = _never_vanishing_product(decay, p)
            if W > 1:
                h, end = _row_starts(p, v, h, W)
        states = ()
        for j in tl.static_range(G):
            h = a[j] * h + b[j]
            states = states + (h,)
        if p_h is not None:
            _store_steps(p_h + o_h, o_row, length, is_lane, h_l, states, R, G, CH, W, ALONG, REVERSE)
        if W > 1:
            h = end
        # In this place nothing that needs one of the numbers can stand between the loads.
        o_row += W * G
        is_next = is_lane & (i + 1 < tiles)
        a = _load_steps(p_a + o_a, o_row, length, is_next, a_l, 1.0, R, G, CH, W, ALONG, REVERSE)
        b = _load_steps(p_b + o_b, o_row, length, is_next, b_l, 0.0, R, G, CH, W, ALONG, REVERSE)
    if p_own is not None:
        tl.store(p_own + o_state, tl.reshape(h, o_lane.shape), mask=is_lane & (w == 0))
        if W > 1:
            decay = tl.reduce(decay, 3, _never_vanishing_product, keep_dims=True) + tl.zeros(decay.shape, tl.float32)
        tl.store(p_decay + o_state, tl.reshape(decay, o_lane.shape), mask=is_lane & (w == 0))


class Tile(NamedTuple):
    """R, G, CH and W, and the warps that work on it."""

    wide: int
    steps: int
    lanes: int
    rows: int
    warps: int

    @property
    def span(self) -> int:
        """Lanes of a program."""
        return self.wide * self.lanes

    @property
    def length(self) -> int:
        return self.steps * self.rows


def _tile(lanes: int, length: int, itemsize: int, along: bool) -> Tile:
    """A row of the table; R * G is what a thread holds of a tile of `a` or `b`."""
    wide = READ_AT_ONCE // itemsize
    if along:
        # A warp reads 512 neighbouring bytes; lanes that are shorter share it. Four warps a program where there are
        # many: a multiprocessor takes 32 programs, and waits less with more warps than that.
        rows = min(32, triton.next_power_of_2(triton.cdiv(length, wide)))
        tile = Tile(1, wide, 32 // rows, rows, 1)
        many = tile._replace(lanes=4 * tile.lanes, warps=4)
        return many if triton.cdiv(lanes, many.span) >= ENOUGH else tile
    # Without rows nothing is computed but the recurrence itself, and 16 KiB are asked for at once by each warp.
    many = Tile(wide, 64 // wide, 32, 1, 1)
    if triton.cdiv(lanes, many.span) >= ENOUGH:
        return many
    # Eight times as many warps with an eighth of the lanes, of 64 neighbouring bytes a step, and half of the registers
    # for steps: the others are for products of `a`.
    steps = 32 // wide
    rows = min(8, triton.next_power_of_2(triton.cdiv(length, steps)))
    return Tile(wide, steps, 32 // rows, rows, 1)


def _lanes(tensor: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
    """`tensor` as (lanes in LANE_AXES axes, length)."""
    tensor = tensor.expand(shape).movedim(dim, -1)
    merged = tensor.dim() - 1 - LANE_AXES
    if merged > 0:
        return tensor.flatten(0, merged)
    return tensor[(None,) * -merged]


def _order(tensor: Tensor) -> int:
    """1 where steps of a tensor of `_lanes` are neighbours in memory, -1 where lanes are, else 0."""
    *_, lane, step = tensor.stride()
    return (step == 1) - (lane == 1)


def _is_wide(tensor: Tensor, wide: int, along: bool) -> bool:
    """Whether `wide` neighbouring steps of a lane, or else lanes of a step, are one aligned piece of memory."""
    axis = -1 if along else -2
    strides = [*tensor.stride()]
    return strides.pop(axis) == 1 and all(number % wide == 0 for number in (tensor.shape[axis], *strides))


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
    a, b, h_lanes = (_lanes(t, shape, dim) for t in (a, b, h))
    *sizes, length = a.shape
    lanes = h.numel() // length
    start = None if initial is None else initial.expand((*shape[:dim], *shape[dim + 1 :])).contiguous()
    orders = [_order(t) for t in (a, b, h_lanes)]
    along = sum(orders) > 0 or (sum(orders) == 0 and orders[2] > 0)
    tile = _tile(lanes, length, dtype.itemsize, along)
    wide = tile.steps if along else tile.wide
    wides = [_is_wide(t, wide, along) for t in (a, b)]
    wides.append(inner == 1 and length % wide == 0 if along else inner % wide == 0)
    programs, tiles = triton.cdiv(lanes, tile.span), triton.cdiv(length, tile.length)
    chunks = 1
    if programs < ENOUGH:
        chunks = max(1, min(triton.cdiv(2 * ENOUGH, programs), MOST_CHUNKS, tiles // FEWEST_TILES))
    chunk = triton.cdiv(tiles, chunks) * tile.length
    chunks = triton.cdiv(length, chunk)

    def launch(start: Tensor | None, h: Tensor | None, own: Tensor | None, decay: Tensor | None) -> None:
        wrap_triton(recurrence_kernel)[(programs, chunks)](
            a, b, start, h, own, decay, length, lanes, chunk, *sizes[1:], *a.stride(), *b.stride(), inner,
            R=tile.wide, G=tile.steps, CH=tile.lanes, W=tile.rows, A_WIDE=wides[0], B_WIDE=wides[1], H_WIDE=wides[2],
            ALONG=along, REVERSE=reverse, num_warps=tile.warps,
        )  # fmt: skip

    if chunks > 1:
        own, decay = (a.new_empty((chunks, lanes), dtype=torch.float32) for _ in range(2))
        launch(None, None, own, decay)
        wrap_triton(combine_kernel)[(triton.cdiv(lanes, 128),)](
            own, decay, start, lanes, chunks, BLOCK=128, AHEAD=8, REVERSE=False, MAY_RESET=False, num_warps=4
        )
        start = own
    launch(start, h, None, None)
    return h


register_rules("linear_recurrence_triton")
