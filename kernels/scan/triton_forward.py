"""The Triton kernel that runs the recurrence: for y, the last state, and the states that the backward starts from."""

import triton
import triton.language as tl

from mvc.kernels.scan.triton_tile import (
    LOG2E,
    among,
    channels,
    finite,
    forward_starts,
    from_zero,
    load_channels,
    load_constant,
    of_lanes,
    of_real_states,
    of_states,
    of_steps,
    pair,
    pair_or_reset,
    placed,
    row_decay,
    run,
    run_first,
    sigmoid,
    spread,
    state_offsets,
    step,
    step_size,
    wide,
)


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
