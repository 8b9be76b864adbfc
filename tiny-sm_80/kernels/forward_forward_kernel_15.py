

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 4, 'num_stages': 3}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['CH', 'G', 'W', 'R', 'S', 'EVEN', 'PADDED', 'CONSTANT_B', 'CONSTANT_C', 'SOFTPLUS', 'REVERSE', 'EVERY'], 'kernel_name': 'forward_kernel_15', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_u': '*bf16', 'p_delta': '*bf16', 'p_A': '*fp32', 'p_B': '*bf16', 'p_C': '*bf16', 'p_D': '*fp32', 'p_z': 'constexpr', 'p_bias': '*fp32', 'p_start': 'constexpr', 'p_reset': 'constexpr', 'p_y': '*bf16', 'p_last': 'constexpr', 'p_states': 'constexpr', 'length': 'i32', 'dim': 'i32', 'states': 'i32', 'width': 'i32', 'chunk': 'i32', 'u_b': 'i32', 'u_l': 'i32', 'u_d': 'constexpr', 'delta_b': 'i32', 'delta_l': 'i32', 'delta_d': 'constexpr', 'z_b': 'i32', 'z_l': 'i32', 'z_d': 'i32', 'B_b': 'i32', 'B_l': 'i32', 'B_g': 'i32', 'B_n': 'constexpr', 'C_b': 'i32', 'C_l': 'i32', 'C_g': 'i32', 'C_n': 'constexpr', 'reset_b': 'i32', 'reset_l': 'i32', 'y_b': 'i32', 'y_l': 'i32', 'CH': 'constexpr', 'G': 'constexpr', 'W': 'constexpr', 'R': 'constexpr', 'S': 'constexpr', 'EVEN': 'constexpr', 'PADDED': 'constexpr', 'CONSTANT_B': 'constexpr', 'CONSTANT_C': 'constexpr', 'SOFTPLUS': 'constexpr', 'REVERSE': 'constexpr', 'EVERY': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_z': None, 'p_start': None, 'p_reset': None, 'p_last': None, 'p_states': None, 'u_d': 1, 'delta_d': 1, 'B_n': 1, 'C_n': 1, 'CH': 4, 'G': 8, 'W': 8, 'R': 2, 'S': 4, 'EVEN': True, 'PADDED': False, 'CONSTANT_B': False, 'CONSTANT_C': False, 'SOFTPLUS': True, 'REVERSE': False, 'EVERY': 1}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (3,): [['tt.divisibility', 16]], (4,): [['tt.divisibility', 16]], (5,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (14,): [['tt.divisibility', 16]], (16,): [['tt.divisibility', 16]], (17,): [['tt.divisibility', 16]], (18,): [['tt.divisibility', 16]], (19,): [['tt.divisibility', 16]], (21,): [['tt.divisibility', 16]], (22,): [['tt.divisibility', 16]], (24,): [['tt.divisibility', 16]], (25,): [['tt.divisibility', 16]], (26,): [['tt.divisibility', 16]], (27,): [['tt.divisibility', 16]], (28,): [['tt.divisibility', 16]], (31,): [['tt.divisibility', 16]], (32,): [['tt.divisibility', 16]], (35,): [['tt.divisibility', 16]], (36,): [['tt.divisibility', 16]], (37,): [['tt.divisibility', 16]], (38,): [['tt.divisibility', 16]]}]},
    filename=__file__,
    custom_kernel=True,
)
@triton.jit
def forward_kernel(
    p_u, p_delta, p_A, p_B, p_C, p_D, p_z, p_bias, p_start, p_reset, p_y, p_last, p_states,
    length, dim, states, width, chunk,
    u_b, u_l, u_d, delta_b, delta_l, delta_d, z_b, z_l, z_d, B_b, B_l, B_g, B_n, C_b, C_l, C_g, C_n, reset_b, reset_l,
    y_b, y_l,
    CH: tl.constexpr, G: tl.constexpr, W: tl.constexpr, R: tl.constexpr, S: tl.constexpr, EVEN: tl.constexpr,
    PADDED: tl.constexpr, CONSTANT_B: tl.constexpr, CONSTANT_C: tl.constexpr, SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr, EVERY: tl.constexpr,
):  # fmt: skip
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t and y_t = (C_t·h_t + D u_t) SiLU(z_t) over one chunk of the length.

    `start` (chunks, batch, dim, N) is what each chunk starts from, zero where it is absent. `states` (tiles, batch,
    dim, N) takes the state before each EVERY tiles, but for the first. A tile beyond the end is masked where it is
    read: there Δ is zero, so that the state stays.
    """
    T: tl.constexpr = W * G
    MAY_RESET: tl.constexpr = p_reset is not None
    i_batch, i_chunk = tl.program_id(1).to(tl.int64), tl.program_id(2)
    i_group, _i_in_group, first, count = channels(width, CH, EVEN)
    o_channel = first + tl.arange(0, CH)
    inside = among(count, CH, EVEN)
    o_state = state_offsets(R, S)
    o_cell = o_channel[None, :, None, None] * states + o_state
    is_cell = inside[None, :, None, None]
    if PADDED:
        is_cell = is_cell & (o_state < states)
    w = tl.arange(0, W)[None, None, None, :]
    per_state = tl.num_programs(1).to(tl.int64) * dim * states  # of all sequences
    b_A = finite(tl.load(p_A + o_cell, mask=is_cell, other=0.0) * LOG2E)
    b_D = load_channels(p_D, o_channel, inside)
    b_bias = load_channels(p_bias, o_channel, inside)
    h = tl.zeros((R, CH, S, W), tl.float32)
    o_cell += i_batch * dim * states
    if p_start is not None:
        h += tl.load(p_start + i_chunk * per_state + o_cell, mask=is_cell, other=0.0)

    t = tl.arange(0, T)[:, None]
    k = tl.arange(0, CH)[None, :]
    n = tl.arange(0, R * S)[None, :]
    t_first = i_chunk * chunk
    q_u, u_l = run_first(p_u, i_batch, u_b, u_l, length, REVERSE)
    q_u += wide(t_first) * u_l + wide(first) * u_d + t * u_l + k * u_d
    q_delta, delta_l = run_first(p_delta, i_batch, delta_b, delta_l, length, REVERSE)
    q_delta += wide(t_first) * delta_l + wide(first) * delta_d + t * delta_l + k * delta_d
    live = t_first + t < length
    mask = live & inside[None, :]
    mask_n = live & (n < states) if PADDED else live
    b_u = tl.load(q_u, mask=mask, other=0.0)
    b_delta = tl.load(q_delta, mask=mask, other=0.0)
    if CONSTANT_B:
        w_B = load_constant(p_B, o_channel, o_state, is_cell, B_g, B_n)
    else:
        q_B, B_l = run_first(p_B + i_group * B_g, i_batch, B_b, B_l, length, REVERSE)
        q_B += wide(t_first) * B_l + t * B_l + n * B_n
        b_B = tl.load(q_B, mask=mask_n, other=0.0)
    if CONSTANT_C:
        w_C = load_constant(p_C, o_channel, o_state, is_cell, C_g, C_n)
    else:
        q_C, C_l = run_first(p_C + i_group * C_g, i_batch, C_b, C_l, length, REVERSE)
        q_C += wide(t_first) * C_l + t * C_l + n * C_n
        b_C = tl.load(q_C, mask=mask_n, other=0.0)
    if p_z is not None:
        q_z, z_l = run_first(p_z, i_batch, z_b, z_l, length, REVERSE)
        q_z += wide(t_first) * z_l + wide(first) * z_d + t * z_l + k * z_d
    if MAY_RESET:
        q_reset, reset_l = run_first(p_reset, i_batch, reset_b, reset_l, length, REVERSE)
        q_reset += wide(t_first) * reset_l + t * reset_l
    if p_y is not None:
        q_y, y_l = run_first(p_y, i_batch, y_b, y_l, length, REVERSE)
        q_y += wide(t_first) * y_l + first + t * y_l + k

    i_first = t_first // T
    for i in range(i_first, tl.cdiv(tl.minimum(t_first + chunk, length), T)):
        if p_states is not None:
            begins = (i > 0) & (i % EVERY == 0)  # a tile of the backward
            if begins:
                slot = (i // EVERY - 1) * per_state
                tl.store(p_states + slot + o_cell + w * 0, h, mask=is_cell & (w == 0))
        # What the next tile needs is read while this one is computed.
        live = i * T + t < length
        mask = live & inside[None, :]
        next_live = (i + 1) * T + t < length
        next_n = next_live & (n < states) if PADDED else next_live
        q_u += T * u_l
        q_delta += T * delta_l
        next_u = tl.load(q_u, mask=next_live & inside[None, :], other=0.0)
        next_delta = tl.load(q_delta, mask=next_live & inside[None, :], other=0.0)
        if not CONSTANT_B:
            q_B += T * B_l
            next_B = tl.load(q_B, mask=next_n, other=0.0)
        if not CONSTANT_C:
            q_C += T * C_l
            next_C = tl.load(q_C, mask=next_n, other=0.0)
        if p_z is not None:
            b_z = tl.load(q_z, mask=mask, other=0.0).to(tl.float32)
            q_z += T * z_l

        b_x = b_u.to(tl.float32)
        b_step, _ = step_size(b_delta.to(tl.float32) + b_bias, SOFTPLUS)
        b_step = tl.where(live, b_step, 0.0)
        b_step, b_drive = spread(b_step, b_step * b_x)
        if not CONSTANT_B:
            w_B = placed(of_states(b_B, W, G, R, S), R, G, CH, S, W).to(tl.float32)
        if not CONSTANT_C:
            w_C = placed(of_states(b_C, W, G, R, S), R, G, CH, S, W).to(tl.float32)
        steps = placed(of_steps(b_step, W, G, CH), R, G, CH, S, W)
        a = tl.exp2(steps * b_A[:, None])
        b = placed(of_steps(b_drive, W, G, CH), R, G, CH, S, W) * w_B
        if PADDED:
            b = of_real_states(b, o_state, states, G, CH, W)
        resets = steps
        if MAY_RESET:
            resets = of_steps(tl.load(q_reset, mask=live, other=0).to(tl.int32), W, G, 1)
            q_reset += T * reset_l
            a, b = from_zero(a, b, resets)
        all_states, h = _states(h, a, b, steps, resets, b_A, G, W, MAY_RESET)
        if p_y is not None:
            b_y = of_lanes(tl.sum(all_states * w_C, 0), W, G, CH, S) + b_D * b_x
            if p_z is not None:
                b_y *= b_z * sigmoid(b_z)
            tl.store(q_y, b_y.to(p_y.dtype.element_ty), mask=mask)
            q_y += T * y_l
        b_u = next_u
        b_delta = next_delta
        if not CONSTANT_B:
            b_B = next_B
        if not CONSTANT_C:
            b_C = next_C
    if p_last is not None:
        is_last = i_chunk == tl.num_programs(2) - 1
        if is_last:
            tl.store(p_last + o_cell + w * 0, h, mask=is_cell & (w == 0))

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
def state_offsets(R: tl.constexpr, S: tl.constexpr):
    """The numbers of the states, (R, 1, S, 1)."""
    return tl.arange(0, S)[None, None, :, None] * R + tl.arange(0, R)[:, None, None, None]

@triton.jit
def finite(A):
    """Infinities as the largest numbers: zero times A is then zero, so that steps beyond the end change no state."""
    return tl.clamp(A, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL)

LARGEST = tl.constexpr(3.4028234663852886e+38)

LOG2E = tl.constexpr(1.4426950408889634)

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
def wide(x):
    """An integer in 64 bits; a size of 1 is known when a kernel is compiled, and has no type of its own."""
    return tl.zeros((), tl.int64) + x

@triton.jit
def load_constant(pointer, o_channel, o_state, mask, stride_d, stride_n):
    """Constant B or C, (R, 1, CH, S, 1)."""
    o_cell = wide(o_channel[None, :, None, None]) * stride_d + o_state * stride_n
    return tl.load(pointer + o_cell, mask=mask, other=0.0).to(tl.float32)[:, None]

@triton.jit
def step_size(b_raw, SOFTPLUS: tl.constexpr):
    """Δ from delta + delta_bias, and its slope, from one exponential."""
    if SOFTPLUS:
        e = tl.exp2(-tl.abs(b_raw) * LOG2E)
        return tl.maximum(b_raw, 0.0) + log1p(e), tl.where(b_raw >= 0.0, 1.0, e) / (1.0 + e)
    else:
        return b_raw, tl.full(b_raw.shape, 1.0, tl.float32)

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
def of_states(x, W: tl.constexpr, G: tl.constexpr, R: tl.constexpr, S: tl.constexpr):
    """(W * G, S * R) as (R, G, 1, S, W)."""
    return tl.permute(tl.reshape(x, (W, G, S, R)), (3, 1, 2, 0))[:, :, None, :, :]

@triton.jit
def of_steps(x, W: tl.constexpr, G: tl.constexpr, CH: tl.constexpr):
    """(W * G, CH) as (1, G, CH, 1, W)."""
    return tl.permute(tl.reshape(x, (W, G, CH)), (1, 2, 0))[None, :, :, None, :]

@triton.jit
def of_real_states(x, o_state, states, G: tl.constexpr, CH: tl.constexpr, W: tl.constexpr):
    """x of a tile; zero for the states that pad N, where zero times an infinite Δu would be NaN."""
    R: tl.constexpr = o_state.shape[0]
    S: tl.constexpr = o_state.shape[2]
    real = placed((o_state < states).to(tl.int32)[:, None], R, G, CH, S, W)
    return tl.where(real != 0, x, 0.0)

@triton.jit
def from_zero(a, b, resets):
    """Steps that reset: their decay is RESETS, and what it makes of a zero state, which may be NaN, is in b."""
    return tl.where(resets != 0, RESETS, a), tl.where(resets != 0, a * 0.0 + b, b)

RESETS = tl.constexpr(-1.0)

@triton.jit
def _states(
    h, a, b, steps, resets, b_A,
    G: tl.constexpr, W: tl.constexpr, MAY_RESET: tl.constexpr,
):  # fmt: skip
    """All states of a tile, and the one after it, (R, CH, S, W), from the one before it, h."""
    end = h
    if W > 1:
        p = row_decay(steps, resets, b_A, MAY_RESET, True)
        h, end = forward_starts(a, b, p, h, W, G, MAY_RESET, True)
    g = tl.arange(0, G)[None, :, None, None, None]
    b = tl.where(g == 0, run(a, b, h[:, None], MAY_RESET), b)
    if MAY_RESET:
        _, states = tl.associative_scan((a, b), 1, pair_or_reset)
    else:
        _, states = tl.associative_scan((a, b), 1, pair)
    if W == 1:
        end = step(states, G - 1, G)
    return states, end

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
def decay_over(total, least, most, A):
    """exp(A ΣΔ) over steps of which the sum, the least and the most are known; A is over ln 2."""
    return never_vanishing(tl.exp2(total * A), tl.minimum(least * A, most * A))

@triton.jit
def never_vanishing(product, exponent):
    """A product of decays that may have underflowed: zero only where the smallest of them, two to this exponent, is
    one that GPUs may flush to zero, since an infinite state that decays stays infinite."""
    return tl.where((exponent >= -126.0) & (product < SMALLEST_NORMAL), SMALLEST_NORMAL, product)

SMALLEST_NORMAL = tl.constexpr(1.1754943508222875e-38)

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
def run(p, v, h, MAY_RESET: tl.constexpr):
    """p h + v, or v where p resets, whatever h is."""
    if MAY_RESET:
        return tl.where(p < 0.0, v, p * h + v)
    else:
        return p * h + v

@triton.jit
def step(x, j: tl.constexpr, G: tl.constexpr):
    """x[:, j] of a tile. G lies in registers: this costs nothing, and so does `put`; a sum of floats would,
    since x + 0.0 is not always x."""
    bits = tl.where(tl.arange(0, G)[None, :, None, None, None] == j, x.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 1).to(tl.float32, bitcast=True)

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
def rows_or_reset(p1, v1, p2, v2):
    """The same where either may reset."""
    return tl.where((p1 < 0.0) | (p2 < 0.0), RESETS, row_product(p1, p2)), tl.where(p2 < 0.0, v2, v1 * p2 + v2)

@triton.jit
def row_product(p1, p2):
    """Of the decays of rows: zero only where one of them is, since an infinite state that decays stays infinite."""
    return tl.maximum(p1 * p2, tl.minimum(tl.minimum(p1, p2), SMALLEST_NORMAL))

@triton.jit
def pair_or_reset(p1, v1, p2, v2):
    """The same where either may reset."""
    return tl.where((p1 < 0.0) | (p2 < 0.0), RESETS, p1 * p2), tl.where(p2 < 0.0, v2, v1 * p2 + v2)

@triton.jit
def rows(p1, v1, p2, v2):
    """`pair` for rows."""
    return row_product(p1, p2), v1 * p2 + v2

@triton.jit
def pair(p1, v1, p2, v2):
    """Two maps h → p h + v, one after the other."""
    return p1 * p2, v1 * p2 + v2

@triton.jit
def of_lanes(x, W: tl.constexpr, G: tl.constexpr, CH: tl.constexpr, S: tl.constexpr):
    """The sum over S of (G, CH, S, W), as (W * G, CH)."""
    total = halved(tl.permute(x, (0, 1, 3, 2)), S)  # (G, CH, W)
    return tl.reshape(tl.permute(total, (2, 0, 1)), (W * G, CH))

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
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))
