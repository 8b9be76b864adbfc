"""The Triton kernel of the backward: all gradients of one chunk, from the states that the forward kept.

A tile runs the states again from the one kept before it, each exponential once, then what flows back through them::

    f_t = C_t ∂y_t + v_{t+1}      the gradient of h_t
    v_t = a_t f_t                 what flows on, into step t - 1; v_t h_{t-1} is the gradient of log a_t

The sums over channels of the gradients of B and C grow over BLOCKS blocks of channels, one after another in a program.
"""

import triton
import triton.language as tl

from mvc.kernels.scan.triton_tile import (
    LN2,
    LOG2E,
    adjoint_starts,
    among,
    channels,
    finite,
    forward_starts,
    from_zero,
    halved,
    load_channels,
    load_constant,
    of_lanes,
    of_real_states,
    of_states,
    of_steps,
    placed,
    put,
    resets_at,
    row_decay,
    run_first,
    sigmoid,
    spread,
    state_offsets,
    step,
    step_size,
    tile_at,
    wide,
)


@triton.jit
def _states_and_flows(
    h, later, a, a_or_reset, b, c, steps, w_B, resets, b_A, MAY_RESET: tl.constexpr,
    CH: tl.constexpr, G: tl.constexpr, W: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """h_t and f_t of a tile; the sums over R of f_t B_t and of v_t h_{t-1} A, (G, CH, S, W), and over G of
    v_t h_{t-1} Δ_t, (R, CH, S, W); and v of its first step.

    h, later (R, CH, S, W): the state before the tile, and v of the step after it.
    """
    before = later
    if W > 1:
        p = row_decay(steps, resets, finite(b_A), MAY_RESET, False)
        h, _ = forward_starts(a_or_reset, b, p, h, W, G, MAY_RESET, False)
        later, before = adjoint_starts(a_or_reset, c, p, later, W, G, MAY_RESET)
    states = tl.zeros((R, G, CH, S, W), tl.float32)
    flows = states
    decays = states
    starts = ()
    for j in tl.static_range(G):
        if MAY_RESET:
            h = tl.where(resets_at(resets, j, G), 0.0, h)
        starts = starts + (h,)
        h = step(a, j, G) * h + step(b, j, G)
        states = put(states, j, h, G)
    of_A = tl.zeros((R, CH, S, W), tl.float32)
    v = later
    for j in tl.static_range(G - 1, -1, -1):
        f = v + step(c, j, G)
        flows = put(flows, j, f, G)
        v = step(a, j, G) * f
        decay = v * starts[j]
        decays = put(decays, j, decay, G)
        of_A += decay * step(steps, j, G)
        if MAY_RESET:
            v = tl.where(resets_at(resets, j, G), 0.0, v)
    if W == 1:
        before = v
    return states, flows, tl.sum(flows * w_B, 0), tl.sum(decays * b_A[:, None], 0), of_A, before


@triton.jit
def _read(
    q_grad_y, q_u, q_delta, q_B, q_C, p_bias, o_t, first, count, i_block, length, states,
    grad_y_l, grad_y_d, u_l, u_d, delta_l, delta_d, B_l, B_n, C_l, C_n,
    CH: tl.constexpr, G: tl.constexpr, W: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    EVEN: tl.constexpr, CONSTANT_B: tl.constexpr, CONSTANT_C: tl.constexpr,
):  # fmt: skip
    """What one turn needs, as it lies in memory: of one tile and block of channels."""
    t = tl.arange(0, W * G)[:, None]
    k = tl.arange(0, CH)[None, :]
    n = tl.arange(0, R * S)[None, :]
    o_d = first + i_block * CH
    inside = among(count - i_block * CH, CH, EVEN)
    live = o_t + t < length
    mask = live & inside[None, :]
    b_grad_y = tl.load(tile_at(q_grad_y, o_t, o_d, t, k, grad_y_l, grad_y_d), mask=mask, other=0.0)
    b_u = tl.load(tile_at(q_u, o_t, o_d, t, k, u_l, u_d), mask=mask, other=0.0)
    b_delta = tl.load(tile_at(q_delta, o_t, o_d, t, k, delta_l, delta_d), mask=mask, other=0.0)
    b_B = tl.zeros((1, 1), tl.float32)
    b_C = b_B
    if not CONSTANT_B:
        b_B = tl.load(tile_at(q_B, o_t, 0, t, n, B_l, B_n), mask=live & (n < states), other=0.0)
    if not CONSTANT_C:
        b_C = tl.load(tile_at(q_C, o_t, 0, t, n, C_l, C_n), mask=live & (n < states), other=0.0)
    b_bias = load_channels(p_bias, o_d + tl.arange(0, CH), inside)
    return b_grad_y, b_u, b_delta, b_B, b_C, b_bias


@triton.jit
def backward_kernel(
    p_grad_y, p_u, p_delta, p_A, p_B, p_C, p_D, p_z, p_bias, p_start, p_reset, p_states, p_from_later,
    p_grad_u, p_grad_delta, p_grad_z, p_grad_A, p_grad_B, p_grad_C, p_grad_D, p_grad_bias, p_flow,
    length, dim, states, width, chunk,
    grad_y_b, grad_y_l, grad_y_d, u_b, u_l, u_d, delta_b, delta_l, delta_d, z_b, z_l, z_d,
    B_b, B_l, B_g, B_n, C_b, C_l, C_g, C_n, reset_b, reset_l,
    CH: tl.constexpr, G: tl.constexpr, W: tl.constexpr, R: tl.constexpr, S: tl.constexpr, BLOCKS: tl.constexpr,
    EVEN: tl.constexpr, PADDED: tl.constexpr, CONSTANT_B: tl.constexpr, CONSTANT_C: tl.constexpr,
    SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """`from_later` (chunks, batch, dim, N) is what flows into the last state of each chunk, `start` (batch, dim, N) the
    initial state, `states` (tiles, batch, dim, N) the state before each tile but the first. `flow` (chunks, batch, dim,
    N) takes what flows out of each tile, in the end the gradient of what the chunk starts from. Gradients of parameters
    are partial sums (chunks, batch, …), those of grouped B and C (programs of a group, batch, length, groups, N).
    """
    T: tl.constexpr = W * G
    MAY_RESET: tl.constexpr = p_reset is not None
    i_batch, i_chunk = tl.program_id(1).to(tl.int64), tl.program_id(2)
    o_state = state_offsets(R, S)
    w = tl.arange(0, W)[None, None, None, :]
    t = tl.arange(0, T)[:, None]
    k = tl.arange(0, CH)[None, :]
    i_group, i_in_group, first, count = channels(width, CH * BLOCKS, EVEN)
    per_state = tl.num_programs(1).to(tl.int64) * dim * states  # of all sequences
    grad_b = wide(dim) * length
    q_grad_y, grad_y_l = run_first(p_grad_y, i_batch, grad_y_b, grad_y_l, length, REVERSE)
    q_u, u_l = run_first(p_u, i_batch, u_b, u_l, length, REVERSE)
    q_delta, delta_l = run_first(p_delta, i_batch, delta_b, delta_l, length, REVERSE)
    q_grad_u, grad_l = run_first(p_grad_u, i_batch, grad_b, dim, length, REVERSE)
    q_grad_delta, grad_l = run_first(p_grad_delta, i_batch, grad_b, dim, length, REVERSE)
    if p_z is not None:
        q_z, z_l = run_first(p_z, i_batch, z_b, z_l, length, REVERSE)
        q_grad_z, grad_l = run_first(p_grad_z, i_batch, grad_b, dim, length, REVERSE)
    q_B = p_B
    q_C = p_C
    if not CONSTANT_B:
        q_B, B_l = run_first(p_B + i_group * B_g, i_batch, B_b, B_l, length, REVERSE)
    if not CONSTANT_C:
        q_C, C_l = run_first(p_C + i_group * C_g, i_batch, C_b, C_l, length, REVERSE)
    if MAY_RESET:
        q_reset, reset_l = run_first(p_reset, i_batch, reset_b, reset_l, length, REVERSE)
    # Where a sum over channels, (R, G, S, W), goes among (programs of a group, batch, length, groups, N).
    groups = dim // width
    o_weight = (i_in_group * tl.num_programs(1) + i_batch) * length * groups * states + i_group * states
    weight_l = groups * states
    o_row = tl.arange(0, W)[None, None, None, :] * G + tl.arange(0, G)[None, :, None, None]
    b_sum_B = tl.zeros((R, G, S, W), tl.float32)
    b_sum_C = tl.zeros((R, G, S, W), tl.float32)

    i_first = i_chunk * chunk // T
    i_end = tl.cdiv(tl.minimum(i_chunk * chunk + chunk, length), T)
    o_sequence = i_batch * dim * states
    o_chunk = i_chunk * per_state + o_sequence
    CARRIED: tl.constexpr = BLOCKS == 1  # what flows from tile to tile stays in registers; else it goes through `flow`
    carried = tl.zeros((R, CH, S, W), tl.float32)
    if CARRIED:
        o_first = (first + tl.arange(0, CH))[None, :, None, None] * states + o_state
        is_first = among(count, CH, EVEN)[None, :, None, None] & (o_state < states)
        carried += tl.load(p_from_later + o_chunk + o_first, mask=is_first, other=0.0)
    ahead = _read(
        q_grad_y, q_u, q_delta, q_B, q_C, p_bias, (i_end - 1) * T, first, count, 0, length, states,
        grad_y_l, grad_y_d, u_l, u_d, delta_l, delta_d, B_l, B_n, C_l, C_n,
        CH, G, W, R, S, EVEN, CONSTANT_B, CONSTANT_C,
    )  # fmt: skip
    for i in range((i_end - i_first) * BLOCKS):
        b_grad_y, b_u, b_delta, b_B, b_C, b_bias = ahead
        # The next turn's are read while this one is computed; the last reads what is there, for nobody.
        next_tile = tl.maximum(i_end - 1 - (i + 1) // BLOCKS, i_first)
        ahead = _read(
            q_grad_y, q_u, q_delta, q_B, q_C, p_bias, next_tile * T, first, count, (i + 1) % BLOCKS,
            length, states, grad_y_l, grad_y_d, u_l, u_d, delta_l, delta_d, B_l, B_n, C_l, C_n,
            CH, G, W, R, S, EVEN, CONSTANT_B, CONSTANT_C,
        )  # fmt: skip
        i_tile = i_end - 1 - i // BLOCKS
        i_block = i % BLOCKS
        o_t, o_d = i_tile * T, first + i_block * CH
        live = o_t + t < length
        is_channel = among(count - i_block * CH, CH, EVEN)
        mask = live & is_channel[None, :]
        is_cell = is_channel[None, :, None, None] & (o_state < states)
        o_channel = o_d + tl.arange(0, CH)
        o_cell = o_channel[None, :, None, None] * states + o_state
        b_A = tl.load(p_A + o_cell, mask=is_cell, other=0.0) * LOG2E
        b_D = load_channels(p_D, o_channel, is_channel)
        h = tl.zeros((R, CH, S, W), tl.float32)
        if p_states is not None:
            q_states = p_states + (i_tile - 1) * per_state + o_sequence + o_cell
            h += tl.load(q_states, mask=is_cell & (i_tile > 0), other=0.0)
        if p_start is not None:
            h += tl.load(p_start + o_sequence + o_cell, mask=is_cell & (i_tile == 0), other=0.0)
        later = carried
        if not CARRIED:
            later += tl.load(tl.where(i < BLOCKS, p_from_later, p_flow) + o_chunk + o_cell, mask=is_cell, other=0.0)
        # Sums over tiles stay in memory, where nobody else adds to them.
        o_cell3 = o_chunk + tl.reshape(o_cell, (R, CH, S))
        is_cell3 = tl.reshape(is_cell, (R, CH, S))
        o_sums = (i_chunk * tl.num_programs(1) + i_batch) * dim + o_channel
        before_us = i >= BLOCKS
        sum_A = tl.load(p_grad_A + o_cell3, mask=is_cell3 & before_us, other=0.0)
        sum_D = tl.load(p_grad_D + o_sums, mask=is_channel & before_us, other=0.0)
        sum_bias = tl.load(p_grad_bias + o_sums, mask=is_channel & before_us, other=0.0)
        b_grad_y = b_grad_y.to(tl.float32)
        b_x = b_u.to(tl.float32)
        b_delta = b_delta.to(tl.float32)
        if p_z is not None:
            b_z = tl.load(tile_at(q_z, o_t, o_d, t, k, z_l, z_d), mask=mask, other=0.0).to(tl.float32)
            b_gate = sigmoid(b_z)
            b_ungated = b_grad_y
            b_grad_y *= b_z * b_gate
        b_step, b_slope = step_size(b_delta + b_bias, SOFTPLUS)
        b_step = tl.where(live, b_step, 0.0)
        steps, drives = spread(b_step, b_step * b_x)
        steps = placed(of_steps(steps, W, G, CH), R, G, CH, S, W)
        drives = placed(of_steps(drives, W, G, CH), R, G, CH, S, W)
        grads, _ = spread(b_grad_y, b_x)
        grads = placed(of_steps(grads, W, G, CH), R, G, CH, S, W)
        if CONSTANT_B:
            w_B = load_constant(p_B, o_channel, o_state, is_cell, B_g, B_n)
        if CONSTANT_C:
            w_C = load_constant(p_C, o_channel, o_state, is_cell, C_g, C_n)
        if not CONSTANT_B and not CONSTANT_C:
            b_B, b_C = spread(b_B.to(tl.float32), b_C.to(tl.float32))
        if not CONSTANT_B:
            w_B = of_states(b_B.to(tl.float32), W, G, R, S)
        if not CONSTANT_C:
            w_C = of_states(b_C.to(tl.float32), W, G, R, S)
        w_B = placed(w_B, R, G, CH, S, W)
        w_C = placed(w_C, R, G, CH, S, W)
        a = tl.exp2(steps * finite(b_A)[:, None])
        b = drives * w_B
        if PADDED:
            b = of_real_states(b, o_state, states, G, CH, W)
        resets = steps
        a_or_reset = a
        if MAY_RESET:
            b_reset = tl.load(tile_at(q_reset, o_t, 0, t, 0, reset_l, 0), mask=live, other=0)
            resets = of_steps(b_reset.to(tl.int32), W, G, 1)
            a_or_reset, b = from_zero(a, b, resets)
        all_states, flows, of_drive, of_step, of_A, before = _states_and_flows(
            h, later, a, a_or_reset, b, w_C * grads, steps, w_B, resets, b_A, MAY_RESET, CH, G, W, R, S
        )
        if p_z is not None:
            of_gate = tl.sum(all_states * w_C, 0)
        if CARRIED:
            carried = before
        else:
            tl.store(p_flow + o_chunk + o_cell + w * 0, before, mask=is_cell & (w == 0))

        b_of_drive = of_lanes(of_drive, W, G, CH, S)
        b_of_step = of_lanes(of_step, W, G, CH, S) * LN2  # b_A is A over ln 2
        b_of_delta = tl.where(live, (b_of_drive * b_x + b_of_step) * b_slope, 0.0)
        b_of_u = b_of_drive * b_step + b_D * b_grad_y
        tl.store(tile_at(q_grad_u, o_t, o_d, t, k, grad_l, 1), b_of_u.to(p_grad_u.dtype.element_ty), mask=mask)
        q_out = tile_at(q_grad_delta, o_t, o_d, t, k, grad_l, 1)
        tl.store(q_out, b_of_delta.to(p_grad_delta.dtype.element_ty), mask=mask)
        if p_z is not None:
            b_y = of_lanes(of_gate, W, G, CH, S) + b_D * b_x
            b_of_z = b_ungated * b_y * (b_gate * (1.0 + b_z * (1.0 - b_gate)))
            q_out = tile_at(q_grad_z, o_t, o_d, t, k, grad_l, 1)
            tl.store(q_out, b_of_z.to(p_grad_z.dtype.element_ty), mask=mask)

        of_C = all_states * grads
        of_B = flows * drives
        tl.store(p_grad_A + o_cell3, sum_A + halved(of_A, W), mask=is_cell3)
        if CONSTANT_B:
            sum_B = tl.load(p_grad_B + o_cell3, mask=is_cell3 & before_us, other=0.0)
            tl.store(p_grad_B + o_cell3, sum_B + halved(tl.sum(of_B, 1), W), mask=is_cell3)
        else:
            b_sum_B = tl.where(i_block == 0, 0.0, b_sum_B) + halved(tl.permute(of_B, (0, 1, 3, 4, 2)), CH)
        if CONSTANT_C:
            sum_C = tl.load(p_grad_C + o_cell3, mask=is_cell3 & before_us, other=0.0)
            tl.store(p_grad_C + o_cell3, sum_C + halved(tl.sum(of_C, 1), W), mask=is_cell3)
        else:
            b_sum_C = tl.where(i_block == 0, 0.0, b_sum_C) + halved(tl.permute(of_C, (0, 1, 3, 4, 2)), CH)
        is_sum = (o_t + o_row < length) & (o_state < states) & (i_block == BLOCKS - 1)
        o_run = wide(o_t + o_row)
        if REVERSE:
            o_run = length - 1 - o_run
        o_sum = o_weight + o_run * weight_l + o_state
        if not CONSTANT_B:
            tl.store(p_grad_B + o_sum, b_sum_B.to(p_grad_B.dtype.element_ty), mask=is_sum)
        if not CONSTANT_C:
            tl.store(p_grad_C + o_sum, b_sum_C.to(p_grad_C.dtype.element_ty), mask=is_sum)
        tl.store(p_grad_D + o_sums, sum_D + tl.sum(b_grad_y * b_x, 0), mask=is_channel)
        tl.store(p_grad_bias + o_sums, sum_bias + tl.sum(b_of_delta, 0), mask=is_channel)
        tl.debug_barrier()  # what was stored to be read again may be read by another thread
    if CARRIED:
        tl.store(p_flow + o_chunk + o_first + w * 0, carried, mask=is_first & (w == 0))
