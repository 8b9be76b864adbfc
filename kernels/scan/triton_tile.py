"""The tile on which the Triton kernels of the scan work, and what they compute on it.

A tile covers W * G steps of CH channels with all N states. As a tensor it is (R, G, CH, S, W): W rows of G steps one
after another, and N = S * R states (padded to powers of two), number s * R + r at (r, s). Triton's default layout gives
the last axes to the lanes of a warp, those before them to the warps, and the rest to the registers of each thread, so
that the shape alone decides where everything lies::

        registers      warps, lanes        sequences are read as (W * G, CH), B and C as (W * G, N): each number is
      ┌─────┬─────┐ ┌──────┬─────┬─────┐   converted, biased and exponentiated once, where it was read, and handed
      │  R  │  G  │ │  CH  │  S  │  W  │   through shared memory to the threads that need it (`of_steps`,
      └─────┴─────┘ └──────┴─────┴─────┘   `of_states`)

The recurrence h ← a h + b runs along G within a thread; rows are joined by `row_starts`; sums over an axis in lanes or
warps are `halved`. Names: `p_` and `q_` pointers, `o_` offsets, `i_` program indices and counters, `b_` values where
they were read, `w_` B or C.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
LARGEST = tl.constexpr(3.4028234663852886e38)
SMALLEST_NORMAL = tl.constexpr(1.1754943508222875e-38)
RESETS = tl.constexpr(-1.0)  # in place of the decay of what resets; no decay is negative


@triton.jit
def log1p(e):
    """log(1 + e) for e in [0, 1]: e times the minimax polynomial of degree 8, to 2e-7 of the value."""
    p = e * 0.005232693627476692 - 0.02950523979961872
    p = p * e + 0.07822596281766891
    p = p * e - 0.13663247227668762
    p = p * e + 0.19106008112430573
    p = p * e - 0.2484298199415207
    p = p * e + 0.3331909775733948
    p = p * e - 0.4999949336051941
    p = p * e + 0.9999999403953552
    return p * e


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))


@triton.jit
def step_size(b_raw, SOFTPLUS: tl.constexpr):
    """Δ from delta + delta_bias, and its slope, from one exponential."""
    if SOFTPLUS:
        e = tl.exp2(-tl.abs(b_raw) * LOG2E)
        return tl.maximum(b_raw, 0.0) + log1p(e), tl.where(b_raw >= 0.0, 1.0, e) / (1.0 + e)
    else:
        return b_raw, tl.full(b_raw.shape, 1.0, tl.float32)


# Where things lie in memory.


@triton.jit
def wide(x):
    """An integer in 64 bits; a size of 1 is known when a kernel is compiled, and has no type of its own."""
    return tl.zeros((), tl.int64) + x


@triton.jit
def channels(width, SPAN: tl.constexpr, EVEN: tl.constexpr):
    """This program's group, which of the group's programs it is, its first channel, and how many of the SPAN channels
    from there are in the group: no program reaches into the next one. EVEN: SPAN divides the width of a group."""
    programs = tl.cdiv(width, SPAN)
    i_group = tl.program_id(0) // programs
    i_in_group = tl.program_id(0) % programs
    if EVEN:
        first = tl.program_id(0) * SPAN  # the same, and known to be a multiple of SPAN
    else:
        first = i_group * width + i_in_group * SPAN
    return i_group, i_in_group, first, width - i_in_group * SPAN


@triton.jit
def among(count, CH: tl.constexpr, EVEN: tl.constexpr):
    """Which of CH channels are among so many."""
    return tl.full((CH,), EVEN, tl.int1) | (tl.arange(0, CH) < count)


@triton.jit
def load_channels(pointer, o_channel, inside):
    """A parameter of each channel, (1, CH); zero where it is absent."""
    if pointer is None:
        return tl.zeros(inside.shape, tl.float32)[None, :]
    else:
        return tl.load(pointer + o_channel, mask=inside, other=0.0).to(tl.float32)[None, :]


@triton.jit
def run_first(pointer, i_batch, stride_b, stride_l, length, REVERSE: tl.constexpr):
    """Where the step of a sequence lies that runs first, and how far from each step the next one is."""
    if REVERSE:
        return pointer + i_batch * stride_b + wide(length - 1) * stride_l, -stride_l
    else:
        return pointer + i_batch * stride_b, stride_l


@triton.jit
def tile_at(pointer, o_t, o_d, t, k, stride_l, stride_d):
    """Pointers to the steps from o_t and the channels or states from o_d on."""
    return pointer + wide(o_t) * stride_l + wide(o_d) * stride_d + t * stride_l + k * stride_d


@triton.jit
def state_offsets(R: tl.constexpr, S: tl.constexpr):
    """The numbers of the states, (R, 1, S, 1)."""
    return tl.arange(0, S)[None, None, :, None] * R + tl.arange(0, R)[:, None, None, None]


@triton.jit
def load_constant(pointer, o_channel, o_state, mask, stride_d, stride_n):
    """Constant B or C, (R, 1, CH, S, 1)."""
    o_cell = wide(o_channel[None, :, None, None]) * stride_d + o_state * stride_n
    return tl.load(pointer + o_cell, mask=mask, other=0.0).to(tl.float32)[:, None]


# From where numbers were read to the tile, and back.


@triton.jit
def spread(x, y):
    """Both as they are: joined and split, they are computed where they were read and change their layout after that.
    triton 3.6 moves a change of layout ahead of a cast otherwise, so that every lane repeats the work."""
    return tl.split(tl.join(x, y))


@triton.jit
def placed(x, R: tl.constexpr, G: tl.constexpr, CH: tl.constexpr, S: tl.constexpr, W: tl.constexpr):
    """x broadcast to the tile, in the layout of the tile: the condition always holds, but Triton does not know, and
    does not go on in the layout of x; the machine code has no trace of it."""
    g = tl.arange(0, G)[None, :, None, None, None]
    return tl.where(g < G, x, tl.zeros((R, G, CH, S, W), x.dtype))


@triton.jit
def of_real_states(x, o_state, states, G: tl.constexpr, CH: tl.constexpr, W: tl.constexpr):
    """x of a tile; zero for the states that pad N, where zero times an infinite Δu would be NaN."""
    R: tl.constexpr = o_state.shape[0]
    S: tl.constexpr = o_state.shape[2]
    real = placed((o_state < states).to(tl.int32)[:, None], R, G, CH, S, W)
    return tl.where(real != 0, x, 0.0)


@triton.jit
def of_steps(x, W: tl.constexpr, G: tl.constexpr, CH: tl.constexpr):
    """(W * G, CH) as (1, G, CH, 1, W)."""
    return tl.permute(tl.reshape(x, (W, G, CH)), (1, 2, 0))[None, :, :, None, :]


@triton.jit
def of_states(x, W: tl.constexpr, G: tl.constexpr, R: tl.constexpr, S: tl.constexpr):
    """(W * G, S * R) as (R, G, 1, S, W)."""
    return tl.permute(tl.reshape(x, (W, G, S, R)), (3, 1, 2, 0))[:, :, None, :, :]


@triton.jit
def halved(x, n: tl.constexpr):
    """The sum over the last axis, n long. A split wants both halves in one thread: they meet through one change of
    layout, where a reduction over lanes or warps takes log n shuffles and additions for every element."""
    if n == 1:
        return tl.reshape(x, x.shape[:-1])
    else:
        a, b = tl.split(tl.reshape(x, x.shape[:-1] + [n // 2, 2]))
        return halved(a + b, n // 2)


@triton.jit
def of_lanes(x, W: tl.constexpr, G: tl.constexpr, CH: tl.constexpr, S: tl.constexpr):
    """The sum over S of (G, CH, S, W), as (W * G, CH)."""
    total = halved(tl.permute(x, (0, 1, 3, 2)), S)  # (G, CH, W)
    return tl.reshape(tl.permute(total, (2, 0, 1)), (W * G, CH))


# The recurrence.


@triton.jit
def step(x, j: tl.constexpr, G: tl.constexpr):
    """x[:, j] of a tile. G lies in registers: this costs nothing, and so does `put`; a sum of floats would,
    since x + 0.0 is not always x."""
    bits = tl.where(tl.arange(0, G)[None, :, None, None, None] == j, x.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 1).to(tl.float32, bitcast=True)


@triton.jit
def resets_at(resets, j: tl.constexpr, G: tl.constexpr):
    """Whether step j of each row resets."""
    return tl.sum(tl.where(tl.arange(0, G)[None, :, None, None, None] == j, resets, 0), 1) != 0


@triton.jit
def put(x, j: tl.constexpr, item, G: tl.constexpr):
    """x with x[:, j] = item."""
    return tl.where(tl.arange(0, G)[None, :, None, None, None] == j, item[:, None], x)


@triton.jit
def run(p, v, h, MAY_RESET: tl.constexpr):
    """p h + v, or v where p resets, whatever h is."""
    if MAY_RESET:
        return tl.where(p < 0.0, v, p * h + v)
    else:
        return p * h + v


@triton.jit
def pair(p1, v1, p2, v2):
    """Two maps h → p h + v, one after the other."""
    return p1 * p2, v1 * p2 + v2


@triton.jit
def pair_or_reset(p1, v1, p2, v2):
    """The same where either may reset."""
    return tl.where((p1 < 0.0) | (p2 < 0.0), RESETS, p1 * p2), tl.where(p2 < 0.0, v2, v1 * p2 + v2)


@triton.jit
def row_product(p1, p2):
    """Of the decays of rows: zero only where one of them is, since an infinite state that decays stays infinite."""
    return tl.maximum(p1 * p2, tl.minimum(tl.minimum(p1, p2), SMALLEST_NORMAL))


@triton.jit
def rows(p1, v1, p2, v2):
    """`pair` for rows."""
    return row_product(p1, p2), v1 * p2 + v2


@triton.jit
def rows_or_reset(p1, v1, p2, v2):
    """The same where either may reset."""
    return tl.where((p1 < 0.0) | (p2 < 0.0), RESETS, row_product(p1, p2)), tl.where(p2 < 0.0, v2, v1 * p2 + v2)


@triton.jit
def never_vanishing(product, exponent):
    """A product of decays that may have underflowed: zero only where the smallest of them, two to this exponent, is
    one that GPUs may flush to zero, since an infinite state that decays stays infinite."""
    return tl.where((exponent >= -126.0) & (product < SMALLEST_NORMAL), SMALLEST_NORMAL, product)


@triton.jit
def decay_over(total, least, most, A):
    """exp(A ΣΔ) over steps of which the sum, the least and the most are known; A is over ln 2."""
    return never_vanishing(tl.exp2(total * A), tl.minimum(least * A, most * A))


@triton.jit
def finite(A):
    """Infinities as the largest numbers: zero times A is then zero, so that steps beyond the end change no state."""
    return tl.clamp(A, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def from_zero(a, b, resets):
    """Steps that reset: their decay is RESETS, and what it makes of a zero state, which may be NaN, is in b."""
    return tl.where(resets != 0, RESETS, a), tl.where(resets != 0, a * 0.0 + b, b)


@triton.jit
def row_decay(steps, resets, A, MAY_RESET: tl.constexpr, EXACT: tl.constexpr):
    """exp(A ΣΔ) over each row, or RESETS, (R, CH, S, W); A (R, CH, S, 1) is over ln 2.

    EXACT: it does not underflow, so that an infinite state stays infinite. It becomes NaN else, which serves gradients:
    they are to be finite in the same elements, no more.
    """
    if EXACT:
        p = decay_over(tl.sum(steps, 1), tl.min(steps, 1), tl.max(steps, 1), A)
    else:
        p = tl.exp2(tl.sum(steps, 1) * A)
    if MAY_RESET:
        p = tl.where(tl.max(resets, 1) != 0, RESETS, p)
    return p


@triton.jit
def row_starts(p, v, h, W: tl.constexpr, MAY_RESET: tl.constexpr, REVERSE: tl.constexpr, EXACT: tl.constexpr):
    """What each of several rows starts from, and what the last one ends with, where a row makes p h + v of h: all
    (R, CH, S, W).

    h is what the first row starts from, the same in all rows. REVERSE: rows run from the last to the first.
    """
    w = tl.arange(0, W)[None, None, None, :] + tl.zeros(v.shape, tl.int32)
    if REVERSE:
        p = tl.gather(p, W - 1 - w, 3)
        v = tl.gather(v, W - 1 - w, 3)
    v = tl.where(w == 0, run(p, v, h, MAY_RESET), v)
    if MAY_RESET:
        _, ends = tl.associative_scan((p, v), 3, rows_or_reset if EXACT else pair_or_reset)
    else:
        _, ends = tl.associative_scan((p, v), 3, rows if EXACT else pair)
    if REVERSE:
        starts = tl.where(w == W - 1, h, tl.gather(ends, tl.maximum(W - 2 - w, 0), 3))
    else:
        starts = tl.where(w == 0, h, tl.gather(ends, tl.maximum(w - 1, 0), 3))
    return starts, tl.gather(ends, w * 0 + (W - 1), 3)


@triton.jit
def forward_starts(a, b, p, h, W: tl.constexpr, G: tl.constexpr, MAY_RESET: tl.constexpr, EXACT: tl.constexpr):
    """`row_starts` of h ← a h + b. One row runs from where it starts: it needs no p."""
    if W == 1:
        start = h
        for j in tl.static_range(G):
            h = run(step(a, j, G), step(b, j, G), h, MAY_RESET)
        return start, h
    v = step(b, 0, G)
    for j in tl.static_range(1, G):
        v = run(step(a, j, G), step(b, j, G), v, MAY_RESET)
    return row_starts(p, v, h, W, MAY_RESET, False, EXACT)


@triton.jit
def adjoint_starts(a, c, p, later, W: tl.constexpr, G: tl.constexpr, MAY_RESET: tl.constexpr):
    """`row_starts` of v ← a (c + v), from the last step to the first; zero where a resets."""
    v = step(c, G - 1, G)
    if W == 1:
        v += later
    for j in tl.static_range(G - 2, -1, -1):
        v = run(step(a, j + 1, G), step(c, j, G), v, MAY_RESET)
    if MAY_RESET:
        v = tl.where(step(a, 0, G) < 0.0, 0.0, step(a, 0, G) * v)
    else:
        v = step(a, 0, G) * v
    if W == 1:
        return later, v
    return row_starts(p, v, later, W, MAY_RESET, True, False)
