"""The Triton kernel of the linear recurrence.

Lanes are the elements of all axes but the one that it runs along. The tile is that of `triton_tile.py` with one state
for each lane: (R, G, CH, 1, W), W rows of G steps of R * CH lanes. Memory is the bound, so what a thread reads at once,
16 bytes, is an axis that lies in its registers::

        across: lanes are neighbours in memory          along: steps are
          registers      warps, lanes                     registers      warps, lanes
        ┌──────┬─────┐ ┌──────┬─────┐                   ┌─────┬──────┐ ┌──────┬─────┐
        │R wide│  G  │ │  CH  │  W  │                   │R = 1│G wide│ │  CH  │  W  │
        └──────┴─────┘ └──────┴─────┘                   └─────┴──────┘ └──────┴─────┘

A load or store has an axis for that and one for lanes and warps, (R, CH * W) for each step or (CH * W, G): how threads
are laid over several axes differs between versions of triton.
"""

import triton
import triton.language as tl

from mvc.kernels.scan.triton_tile import SMALLEST_NORMAL, put, step


@triton.jit
def _lane_offset(o_lane, size_1, size_2, size_3, stride_0, stride_1, stride_2, stride_3):
    """Where a lane starts in a tensor with four axes of lanes."""
    o_tensor = (o_lane % size_3).to(tl.int64) * stride_3
    o_lane = o_lane // size_3
    o_tensor += (o_lane % size_2).to(tl.int64) * stride_2
    o_lane = o_lane // size_2
    return o_tensor + (o_lane % size_1).to(tl.int64) * stride_1 + (o_lane // size_1).to(tl.int64) * stride_0


@triton.jit
def _lane_offsets(
    o_lane, r, size_1, size_2, size_3, stride_0, stride_1, stride_2, stride_3, WIDE: tl.constexpr, V: tl.constexpr
):
    """Of the lanes r behind o_lane; WIDE: in one aligned piece of V elements, or each at the start of one."""
    if WIDE:
        return _lane_offset(o_lane, size_1, size_2, size_3, stride_0, stride_1, stride_2, stride_3) // V * V + r
    else:
        return _lane_offset(o_lane + r, size_1, size_2, size_3, stride_0, stride_1, stride_2, stride_3)


@triton.jit
def _never_vanishing_product(x, y):
    """x y, which is zero only where a factor is: an infinite state that decays stays infinite, and keeps its sign."""
    product = x * y
    smallest = tl.where(product.to(tl.int32, bitcast=True) < 0, -SMALLEST_NORMAL, SMALLEST_NORMAL)
    return tl.where((product == 0.0) & (x != 0.0) & (y != 0.0), smallest, product)


@triton.jit
def _continued(p, v, h):
    """p h + v, where v is what some steps make of a zero state and p their product of `a`, which may overflow."""
    return tl.where(h == 0.0, v, p * h + v)


@triton.jit
def _pair(p1, v1, p2, v2):
    """Such steps, and others behind them."""
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
    R: tl.constexpr, G: tl.constexpr, CH: tl.constexpr, W: tl.constexpr, AT_ONCE: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """The G steps of each row in the order in which they run, (R, CH, 1, W) each; AT_ONCE: by one load."""
    steps = ()
    if AT_ONCE:
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
def _load_tiles(
    q_a, q_b, o_row, length, is_lane, a_l, b_l,
    R: tl.constexpr, G: tl.constexpr, CH: tl.constexpr, W: tl.constexpr, AHEAD: tl.constexpr,
    A_AT_ONCE: tl.constexpr, B_AT_ONCE: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """The steps of AHEAD tiles, one tile after the other, of `a` and `b`."""
    a = ()
    b = ()
    for i in tl.static_range(AHEAD):
        a = a + _load_steps(q_a, o_row + i * W * G, length, is_lane, a_l, 1.0, R, G, CH, W, A_AT_ONCE, REVERSE)
        b = b + _load_steps(q_b, o_row + i * W * G, length, is_lane, b_l, 0.0, R, G, CH, W, B_AT_ONCE, REVERSE)
    return a, b


@triton.jit
def _store_steps(
    q_lanes, o_row, length, is_lane, stride, steps,
    R: tl.constexpr, G: tl.constexpr, CH: tl.constexpr, W: tl.constexpr, AT_ONCE: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """The inverse of `_load_steps`."""
    dtype = q_lanes.dtype.element_ty
    if AT_ONCE:
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
            x = tl.reshape(steps[j], is_lane.shape).to(dtype)
            tl.store(q_lanes, x, mask=is_lane & (o_row + j < length))
            q_lanes += -stride if REVERSE else stride


@triton.jit
def _row(a, b, first: tl.constexpr, G: tl.constexpr):
    """Over the G steps from the first on: the product of `a`, and what they make of a zero state; (R, CH, 1, W)."""
    p = a[first]
    v = a[first] * 0.0 + b[first]
    for j in tl.static_range(first + 1, first + G):
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
    R: tl.constexpr, G: tl.constexpr, CH: tl.constexpr, W: tl.constexpr, AHEAD: tl.constexpr,
    A_WIDE: tl.constexpr, B_WIDE: tl.constexpr, H_WIDE: tl.constexpr, ALONG: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """h_t = a_t h_{t-1} + b_t over one chunk of the length, from `start` (chunks, lanes) or zero.

    Stores all states into h, which is contiguous, or, without h, into own and decay (chunks, lanes) the last state and
    the product of `a` over the chunk. Chunks, rows and steps are counted in the order in which they run; one beyond the
    end multiplies by one and adds zero.
    """
    i_chunk = tl.program_id(1)
    V: tl.constexpr = G if ALONG else R
    if A_WIDE or B_WIDE or H_WIDE:  # then what follows are multiples of V, which the compiler does not know
        if ALONG:
            length = length // V * V
        else:
            lanes = lanes // V * V
    if not ALONG:
        if A_WIDE:
            a_l = a_l // V * V
        if B_WIDE:
            b_l = b_l // V * V
        if H_WIDE:
            h_l = h_l // V * V
    k = tl.arange(0, CH * W)
    if ALONG:
        k = k[:, None]
        r = 0
    else:
        k = k[None, :]
        r = tl.arange(0, R)[:, None]
    w = k % W
    o_first = (tl.program_id(0) + lanes * 0) * (CH * R) + k // W * R  # in 64 bits where the number of lanes takes that
    o_lane = o_first + r
    is_lane = o_lane < lanes
    o_a = _lane_offsets(o_first, r, size_1, size_2, size_3, a_0, a_1, a_2, a_3, A_WIDE, V)
    o_b = _lane_offsets(o_first, r, size_1, size_2, size_3, b_0, b_1, b_2, b_3, B_WIDE, V)
    h_0 = tl.zeros((), tl.int64) + h_l * length
    o_h = _lane_offsets(o_first, r, 1, 1, h_l, h_0, 0, 0, 1, H_WIDE, V)
    o_state = i_chunk.to(tl.int64) * lanes + o_lane
    h = tl.zeros((R, CH, 1, W), tl.float32)
    if p_start is not None:
        b_start = tl.load(p_start + o_state, mask=is_lane, other=0.0).to(tl.float32)
        h += tl.reshape(b_start, (R, CH, 1, W))
    decay = tl.full((R, CH, 1, W), 1.0, tl.float32)

    first = i_chunk * chunk
    turns = tl.cdiv(tl.minimum(chunk, length - first), AHEAD * W * G)
    o_row = first + w * G
    a, b = _load_tiles(
        p_a + o_a, p_b + o_b, o_row, length, is_lane, a_l, b_l,
        R, G, CH, W, AHEAD, ALONG and A_WIDE, ALONG and B_WIDE, REVERSE,
    )  # fmt: skip
    for i in range(turns):
        for i_tile in tl.static_range(AHEAD):
            end = h
            if W > 1 or p_h is None:
                p, v = _row(a, b, i_tile * G, G)
                decay = _never_vanishing_product(decay, p)
                if W > 1:
                    h, end = _row_starts(p, v, h, W)
            states = ()
            for j in tl.static_range(i_tile * G, i_tile * G + G):
                h = a[j] * h + b[j]
                states = states + (h,)
            if p_h is not None:
                o_tile = o_row + i_tile * W * G
                _store_steps(p_h + o_h, o_tile, length, is_lane, h_l, states, R, G, CH, W, ALONG and H_WIDE, REVERSE)
            if W > 1:
                h = end
        # Asked for here, nothing that needs one of the numbers can stand between the loads.
        o_row += AHEAD * W * G
        is_next = is_lane & (i + 1 < turns)
        a, b = _load_tiles(
            p_a + o_a, p_b + o_b, o_row, length, is_next, a_l, b_l,
            R, G, CH, W, AHEAD, ALONG and A_WIDE, ALONG and B_WIDE, REVERSE,
        )  # fmt: skip
    if p_own is not None:
        tl.store(p_own + o_state, tl.reshape(h, o_lane.shape), mask=is_lane & (w == 0))
        if W > 1:
            decay = tl.reduce(decay, 3, _never_vanishing_product, keep_dims=True) + tl.zeros(decay.shape, tl.float32)
        tl.store(p_decay + o_state, tl.reshape(decay, o_lane.shape), mask=is_lane & (w == 0))
