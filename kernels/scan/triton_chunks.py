"""The Triton kernels that let the chunks of a long sequence run side by side: what each makes of a zero state and how
much it decays what it starts from, and from these what each starts from."""

import triton
import triton.language as tl

from mvc.kernels.scan.triton_tile import (
    LOG2E,
    RESETS,
    adjoint_starts,
    among,
    channels,
    decay_over,
    finite,
    forward_starts,
    from_zero,
    load_channels,
    load_constant,
    of_real_states,
    of_states,
    of_steps,
    placed,
    row_decay,
    run_first,
    sigmoid,
    spread,
    state_offsets,
    step_size,
    tile_at,
    wide,
)

COMBINE = {"BLOCK": 128, "AHEAD": 8, "num_warps": 4}  # how `combine_kernel` is launched: states of a program, chunks


@triton.jit
def summary_kernel(
    p_x, p_delta, p_A, p_W, p_z, p_bias, p_reset, p_own, p_decay,
    length, dim, states, width, chunk,
    x_b, x_l, x_d, delta_b, delta_l, delta_d, z_b, z_l, z_d, W_b, W_l, W_g, W_n, reset_b, reset_l,
    CH: tl.constexpr, G: tl.constexpr, W: tl.constexpr, R: tl.constexpr, S: tl.constexpr, EVEN: tl.constexpr,
    PADDED: tl.constexpr, CONSTANT: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """What one chunk makes of a zero state, into own, and the decay over it, or RESETS: (chunks, batch, dim, N).

    Forward (x is u, W is B): h ← exp(ΔA) h + Δ u B. ADJOINT (x is ∂y, gated by z, W is C), from the last step to the
    first: v ← exp(ΔA) (C ∂y + v).
    """
    T: tl.constexpr = W * G
    MAY_RESET: tl.constexpr = p_reset is not None
    i_batch, i_chunk = tl.program_id(1).to(tl.int64), tl.program_id(2)
    i_group, _i_in_group, first, count = channels(width, CH, EVEN)
    o_channel = first + tl.arange(0, CH)
    inside = among(count, CH, EVEN)
    o_state = state_offsets(R, S)
    is_cell = inside[None, :, None, None] & (o_state < states)
    o_cell = o_channel[None, :, None, None] * states + o_state
    w = tl.arange(0, W)[None, None, None, :]
    t = tl.arange(0, T)[:, None]
    k = tl.arange(0, CH)[None, :]
    n = tl.arange(0, R * S)[None, :]
    b_A = finite(tl.load(p_A + o_cell, mask=is_cell, other=0.0) * LOG2E)
    b_bias = load_channels(p_bias, o_channel, inside)
    q_x, x_l = run_first(p_x, i_batch, x_b, x_l, length, REVERSE)
    q_delta, delta_l = run_first(p_delta, i_batch, delta_b, delta_l, length, REVERSE)
    if CONSTANT:
        w_W = load_constant(p_W, o_channel, o_state, is_cell, W_g, W_n)
    else:
        q_W, W_l = run_first(p_W + i_group * W_g, i_batch, W_b, W_l, length, REVERSE)
    if p_z is not None:
        q_z, z_l = run_first(p_z, i_batch, z_b, z_l, length, REVERSE)
    if MAY_RESET:
        q_reset, reset_l = run_first(p_reset, i_batch, reset_b, reset_l, length, REVERSE)
    h = tl.zeros((R, CH, S, W), tl.float32)
    b_total = tl.zeros((T, CH), tl.float32)
    b_least = tl.full((T, CH), float("inf"), tl.float32)  # of the steps that are there
    b_most = tl.full((T, CH), float("-inf"), tl.float32)
    b_resets = tl.zeros((T, 1), tl.int32)

    i_first = i_chunk * chunk // T
    i_end = tl.cdiv(tl.minimum(i_chunk * chunk + chunk, length), T)
    o_t = (i_end - 1 if ADJOINT else i_first) * T
    next_x = tl.load(tile_at(q_x, o_t, first, t, k, x_l, x_d), mask=(o_t + t < length) & inside[None, :], other=0.0)
    next_delta = tl.load(
        tile_at(q_delta, o_t, first, t, k, delta_l, delta_d), mask=(o_t + t < length) & inside[None, :], other=0.0
    )
    if not CONSTANT:
        next_W = tl.load(tile_at(q_W, o_t, 0, t, n, W_l, W_n), mask=(o_t + t < length) & (n < states), other=0.0)
    for _i in range(i_first, i_end):
        b_x = next_x.to(tl.float32)
        b_delta = next_delta.to(tl.float32)
        if not CONSTANT:
            w_W = placed(of_states(next_W, W, G, R, S), R, G, CH, S, W).to(tl.float32)
        live = o_t + t < length
        mask = live & inside[None, :]
        if p_z is not None:
            b_z = tl.load(tile_at(q_z, o_t, first, t, k, z_l, z_d), mask=mask, other=0.0).to(tl.float32)
            b_x *= b_z * sigmoid(b_z)
        if MAY_RESET:
            b_reset = tl.load(tile_at(q_reset, o_t, 0, t, 0, reset_l, 0), mask=live, other=0).to(tl.int32)
            b_resets |= b_reset
        o_t += -T if ADJOINT else T
        there = (o_t >= 0) & (o_t + t < length)
        next_x = tl.load(tile_at(q_x, o_t, first, t, k, x_l, x_d), mask=there & inside[None, :], other=0.0)
        next_delta = tl.load(
            tile_at(q_delta, o_t, first, t, k, delta_l, delta_d), mask=there & inside[None, :], other=0.0
        )
        if not CONSTANT:
            next_W = tl.load(tile_at(q_W, o_t, 0, t, n, W_l, W_n), mask=there & (n < states), other=0.0)

        b_step, _ = step_size(b_delta + b_bias, SOFTPLUS)
        b_step = tl.where(live, b_step, 0.0)
        b_total += b_step
        b_least = tl.where(live, tl.minimum(b_least, b_step), b_least)
        b_most = tl.where(live, tl.maximum(b_most, b_step), b_most)
        steps, drives = spread(b_step, b_x if ADJOINT else b_step * b_x)
        steps = placed(of_steps(steps, W, G, CH), R, G, CH, S, W)
        drives = placed(of_steps(drives, W, G, CH), R, G, CH, S, W)
        a = tl.exp2(steps * b_A[:, None])
        b = drives * w_W
        if PADDED:
            b = of_real_states(b, o_state, states, G, CH, W)
        resets = steps
        if MAY_RESET:
            resets = of_steps(b_reset, W, G, 1)
            a, from_reset = from_zero(a, b, resets)
            if not ADJOINT:
                b = from_reset
        p = row_decay(steps, resets, b_A, MAY_RESET, True) if W > 1 else h
        if ADJOINT:
            _, h = adjoint_starts(a, b, p, h, W, G, MAY_RESET)
        else:
            _, h = forward_starts(a, b, p, h, W, G, MAY_RESET, True)
    o_cell += (i_chunk * tl.num_programs(1) + i_batch) * dim * states
    tl.store(p_own + o_cell + w * 0, h, mask=is_cell & (w == 0))
    total = tl.sum(b_total, 0)[None, :, None, None]
    decay = decay_over(total, tl.min(b_least, 0)[None, :, None, None], tl.max(b_most, 0)[None, :, None, None], b_A)
    if MAY_RESET:
        decay = tl.where(tl.max(tl.reshape(b_resets, (T,)), 0) != 0, RESETS, decay)
    tl.store(p_decay + o_cell, decay, mask=is_cell)


@triton.jit
def combine_kernel(
    p_own, p_decay, p_initial, count, chunks,
    BLOCK: tl.constexpr, AHEAD: tl.constexpr, REVERSE: tl.constexpr, MAY_RESET: tl.constexpr,
):  # fmt: skip
    """Replaces what each chunk makes of a zero state by the state that it starts from: x ← decay x + own.

    AHEAD chunks are read at once, since each step takes less time than a read.
    """
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = o < count
    stride = wide(count)
    if p_initial is None:
        b_x = tl.zeros((BLOCK,), tl.float32)
    else:
        b_x = tl.load(p_initial + o, mask=mask, other=0.0)
    for i in range(0, chunks, AHEAD):
        owns = ()
        decays = ()
        for j in tl.static_range(AHEAD):
            o_chunk = o + (chunks - 1 - i - j if REVERSE else i + j) * stride
            there = mask & (i + j < chunks)
            owns = owns + (tl.load(p_own + o_chunk, mask=there, other=0.0),)
            decays = decays + (tl.load(p_decay + o_chunk, mask=there, other=0.0),)
        for j in tl.static_range(AHEAD):
            o_chunk = o + (chunks - 1 - i - j if REVERSE else i + j) * stride
            tl.store(p_own + o_chunk, b_x, mask=mask & (i + j < chunks))
            b_alone = b_x == 0.0  # the chunk has run from zero: its end is right, whatever its decay
            if MAY_RESET:
                b_alone |= decays[j] == RESETS
            b_x = tl.where(b_alone, owns[j], decays[j] * b_x + owns[j])
