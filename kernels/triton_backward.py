"""The Triton kernel of the backward."""

import triton
import triton.language as tl
from mvc.kernels.triton_steps import (
    LOG2E,
    channels,
    load_A,
    load_channels,
    load_states,
    load_steps,
    position,
    run_position,
    sigmoid,
    split_chunk,
    step_size,
    store_states,
    weights,
    weights_of,
)


@triton.jit
def _add_partial(b_value, pointer, offset, mask, FIRST: tl.constexpr):
    if FIRST:
        return b_value
    else:
        return b_value + tl.load(pointer + offset, mask=mask, other=0.0)


@triton.jit
def _backward_steps(
    g, sums_A, sums_B, sums_C, b_sum_D, b_sum_bias, b_A, b_D, b_bias, mask, t_first, i_groups, i_slot,
    p_grad_y, p_u, p_delta, p_B, p_C, p_z, p_reset, p_checkpoint, p_partial,
    p_grad_u, p_grad_delta, p_grad_z, p_grad_B, p_grad_C,
    grad_y_l, u_l, delta_l, z_l, B_l, B_n, C_l, C_n, reset_l, dim, checkpoint_l, partial_l, grad_weight_l,
    N: tl.constexpr, STEPS: tl.constexpr, CONSTANT_B: tl.constexpr, CONSTANT_C: tl.constexpr, SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr, GRAD_Y_ALONG: tl.constexpr, U_ALONG: tl.constexpr, DELTA_ALONG: tl.constexpr,
    Z_ALONG: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """The adjoint of `i_groups` groups of STEPS steps from t_first on, each from its checkpoint."""
    for i in range(i_groups):
        o_group = run_position(i, i_groups, not REVERSE)
        t = t_first + o_group * STEPS
        b_u = load_steps(p_u, t, u_l, mask, STEPS, U_ALONG, REVERSE)
        b_delta = load_steps(p_delta, t, delta_l, mask, STEPS, DELTA_ALONG, REVERSE)
        b_grad_y = load_steps(p_grad_y, t, grad_y_l, mask, STEPS, GRAD_Y_ALONG, REVERSE)
        if p_z is not None:
            b_z = load_steps(p_z, t, z_l, mask, STEPS, Z_ALONG, REVERSE)
        # The states again: before[j] is what step j starts from.
        before = (load_states(p_checkpoint + (i_slot + o_group).to(tl.int64) * checkpoint_l, mask, N),)
        steps = ()
        for j in tl.static_range(STEPS):
            o_t = position(t, j, STEPS, REVERSE)
            b_step = step_size(b_delta[j] + b_bias, SOFTPLUS)
            w_B = weights(p_B + o_t * B_l, B_n, mask, N, CONSTANT_B)
            if p_reset is not None:
                b_reset = tl.load(p_reset + o_t * reset_l) != 0
            after = ()
            for n in tl.static_range(N):
                b_h = before[j][n]
                if p_reset is not None:
                    b_h = tl.where(b_reset, 0.0, b_h)
                after = after + (tl.exp2(b_step * b_A[n]) * b_h + b_step * b_u[j] * w_B[n],)
            before = before + (after,)
            steps = steps + (b_step,)
        for k in tl.static_range(STEPS):
            o_t = position(t, STEPS - 1 - k, STEPS, REVERSE)
            b_step = steps[STEPS - 1 - k]
            b_x = b_u[STEPS - 1 - k]
            b_grad = b_grad_y[STEPS - 1 - k]
            if p_z is not None:
                b_gate = sigmoid(b_z[STEPS - 1 - k])
                b_grad *= b_z[STEPS - 1 - k] * b_gate
            w_B = weights(p_B + o_t * B_l, B_n, mask, N, CONSTANT_B)
            w_C = weights(p_C + o_t * C_l, C_n, mask, N, CONSTANT_C)
            if p_reset is not None:
                b_reset = tl.load(p_reset + o_t * reset_l) != 0
            b_y = tl.zeros_like(b_x)
            b_of_drive = tl.zeros_like(b_x)
            b_of_step = tl.zeros_like(b_x)
            new_g = ()
            new_A = ()
            new_B = ()
            new_C = ()
            for n in tl.static_range(N):
                b_after = before[STEPS - k][n]
                b_of_state = g[n] + w_C[n] * b_grad
                b_of_drive += b_of_state * w_B[n]
                b_y += w_C[n] * b_after
                b_of_B = b_of_state * b_step * b_x
                b_of_C = b_after * b_grad
                if CONSTANT_B:
                    new_B = new_B + (sums_B[n] + b_of_B,)
                else:
                    tl.store(p_grad_B + o_t * grad_weight_l + n, tl.sum(b_of_B, 0))
                if CONSTANT_C:
                    new_C = new_C + (sums_C[n] + b_of_C,)
                else:
                    tl.store(p_grad_C + o_t * grad_weight_l + n, tl.sum(b_of_C, 0))
                b_carried = b_of_state * tl.exp2(b_step * b_A[n])
                b_before = before[STEPS - 1 - k][n]
                if p_reset is not None:
                    b_before = tl.where(b_reset, 0.0, b_before)
                b_of_decay = b_carried * b_before
                if p_reset is not None:
                    b_carried = tl.where(b_reset, 0.0, b_carried)
                b_of_step += b_of_decay * b_A[n]
                new_g = new_g + (b_carried,)
                new_A = new_A + (sums_A[n] + b_of_decay * b_step,)
            g = new_g
            sums_A = new_A
            if CONSTANT_B:
                sums_B = new_B
            if CONSTANT_C:
                sums_C = new_C
            b_of_step *= 1.0 / LOG2E  # b_A is A over ln 2

            b_y = _add_partial(b_y, p_partial, o_t * dim, mask, FIRST)
            b_of_drive = _add_partial(b_of_drive, p_partial, o_t * dim + partial_l, mask, FIRST)
            b_of_step = _add_partial(b_of_step, p_partial, o_t * dim + 2 * partial_l, mask, FIRST)
            if LAST:
                b_of_u = b_of_drive * b_step + b_D * b_grad
                b_of_delta = b_of_drive * b_x + b_of_step
                if SOFTPLUS:
                    b_raw = b_delta[STEPS - 1 - k] + b_bias
                    b_of_delta *= tl.where(b_raw > 20.0, 1.0, sigmoid(b_raw))
                tl.store(p_grad_u + o_t * dim, b_of_u.to(p_grad_u.dtype.element_ty), mask=mask)
                tl.store(p_grad_delta + o_t * dim, b_of_delta.to(p_grad_delta.dtype.element_ty), mask=mask)
                if p_z is not None:
                    b_slope = b_gate * (1.0 + b_z[STEPS - 1 - k] * (1.0 - b_gate))
                    b_of_z = b_grad_y[STEPS - 1 - k] * (b_y + b_D * b_x) * b_slope
                    tl.store(p_grad_z + o_t * dim, b_of_z.to(p_grad_z.dtype.element_ty), mask=mask)
                b_sum_D += b_grad * b_x
                b_sum_bias += b_of_delta
            else:
                tl.store(p_partial + o_t * dim, b_y, mask=mask)
                tl.store(p_partial + o_t * dim + partial_l, b_of_drive, mask=mask)
                tl.store(p_partial + o_t * dim + 2 * partial_l, b_of_step, mask=mask)
    return g, sums_A, sums_B, sums_C, b_sum_D, b_sum_bias


@triton.jit
def backward_kernel(
    p_grad_y, p_u, p_delta, p_A, p_B, p_C, p_D, p_z, p_bias, p_reset, p_checkpoint, p_from_later, p_partial,
    p_grad_u, p_grad_delta, p_grad_z, p_grad_A, p_grad_B, p_grad_C, p_grad_D, p_grad_bias, p_grad_start,
    length, dim, states, width, chunk,
    grad_y_b, grad_y_l, grad_y_d, u_b, u_l, u_d, delta_b, delta_l, delta_d, z_b, z_l, z_d,
    B_b, B_l, B_g, B_n, C_b, C_l, C_g, C_n, reset_b, reset_l,
    N: tl.constexpr, BLOCK: tl.constexpr, CONSTANT_B: tl.constexpr, CONSTANT_C: tl.constexpr, SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr, GRAD_Y_ALONG: tl.constexpr, U_ALONG: tl.constexpr, DELTA_ALONG: tl.constexpr,
    Z_ALONG: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """g_t = C_t ∂y_t + Ā_{t+1} g_{t+1} over one chunk, against the order of the forward, and all gradients from it.

    `from_later` (chunks, batch, dim, states) is what the steps run after the chunk send to its last state. Gradients of
    parameters are partial sums (chunks, batch, …), those of grouped B and C (blocks of a group, batch, length, groups,
    states). `partial` (3, batch, length, dim) passes y and the gradients of Δu and Δ on between blocks of states.
    """
    i_batch, i_chunk = tl.program_id(1).to(tl.int64), tl.program_id(2)
    i_group, o_channel, mask = channels(width, BLOCK)
    batch = tl.num_programs(1).to(tl.int64)
    o_state = (i_batch * dim + o_channel) * states
    all_states = batch * dim * states
    b_A = load_A(p_A, o_channel, states, mask, N)
    b_D = load_channels(p_D, o_channel, mask)
    b_bias = load_channels(p_bias, o_channel, mask)
    p_grad_y += i_batch * grad_y_b + o_channel.to(tl.int64) * grad_y_d
    p_u += i_batch * u_b + o_channel.to(tl.int64) * u_d
    p_delta += i_batch * delta_b + o_channel.to(tl.int64) * delta_d
    if p_z is not None:
        p_z += i_batch * z_b + o_channel.to(tl.int64) * z_d
    p_B = weights_of(p_B, o_channel, i_batch, i_group, B_b, B_g, CONSTANT_B)
    p_C = weights_of(p_C, o_channel, i_batch, i_group, C_b, C_g, CONSTANT_C)
    if p_reset is not None:
        p_reset += i_batch * reset_b
    o_sequence = i_batch * length * dim + o_channel
    if p_partial is not None:
        p_partial += o_sequence
    p_grad_u += o_sequence
    p_grad_delta += o_sequence
    if p_grad_z is not None:
        p_grad_z += o_sequence
    groups = dim // width
    i_in_group = tl.program_id(0) % tl.cdiv(width, BLOCK)
    o_weight = ((i_in_group * batch + i_batch) * length * groups + i_group) * states
    p_of_B = p_grad_B
    p_of_C = p_grad_C
    if not CONSTANT_B:
        p_of_B += o_weight
    if not CONSTANT_C:
        p_of_C += o_weight
    p_checkpoint += o_state
    g = load_states(p_from_later + o_state + i_chunk * all_states, mask, N)
    sums_A = load_states(None, mask, N)
    sums_B = ()
    sums_C = ()
    if CONSTANT_B:
        sums_B = load_states(None, mask, N)
    if CONSTANT_C:
        sums_C = load_states(None, mask, N)
    b_sum_D = tl.zeros((BLOCK,), tl.float32)
    b_sum_bias = tl.zeros((BLOCK,), tl.float32)

    first = i_chunk * chunk
    wide, rest = split_chunk(first, chunk, length, WIDE)
    for i_part in tl.static_range(2):
        if (i_part == 0) == REVERSE:
            g, sums_A, sums_B, sums_C, b_sum_D, b_sum_bias = _backward_steps(
                g, sums_A, sums_B, sums_C, b_sum_D, b_sum_bias, b_A, b_D, b_bias, mask, first, wide, first // WIDE,
                p_grad_y, p_u, p_delta, p_B, p_C, p_z, p_reset, p_checkpoint, p_partial,
                p_grad_u, p_grad_delta, p_grad_z, p_of_B, p_of_C,
                grad_y_l, u_l, delta_l, z_l, B_l, B_n, C_l, C_n, reset_l, dim, all_states, batch * length * dim,
                groups * states,
                N, WIDE, CONSTANT_B, CONSTANT_C, SOFTPLUS, REVERSE, GRAD_Y_ALONG, U_ALONG, DELTA_ALONG, Z_ALONG, FIRST,
                LAST,
            )  # fmt: skip
        else:
            g, sums_A, sums_B, sums_C, b_sum_D, b_sum_bias = _backward_steps(
                g, sums_A, sums_B, sums_C, b_sum_D, b_sum_bias, b_A, b_D, b_bias, mask, first + WIDE * wide, rest,
                first // WIDE + wide,
                p_grad_y, p_u, p_delta, p_B, p_C, p_z, p_reset, p_checkpoint, p_partial,
                p_grad_u, p_grad_delta, p_grad_z, p_of_B, p_of_C,
                grad_y_l, u_l, delta_l, z_l, B_l, B_n, C_l, C_n, reset_l, dim, all_states, batch * length * dim,
                groups * states,
                N, 1, CONSTANT_B, CONSTANT_C, SOFTPLUS, REVERSE, GRAD_Y_ALONG, U_ALONG, DELTA_ALONG, Z_ALONG, FIRST,
                LAST,
            )  # fmt: skip
    if i_chunk == run_position(0, tl.num_programs(2), REVERSE):
        store_states(p_grad_start + o_state, g, mask, N)
    o_chunk = i_chunk * batch + i_batch
    o_sum = (o_chunk * dim + o_channel) * states
    store_states(p_grad_A + o_sum, sums_A, mask, N)
    if CONSTANT_B:
        store_states(p_grad_B + o_sum, sums_B, mask, N)
    if CONSTANT_C:
        store_states(p_grad_C + o_sum, sums_C, mask, N)
    if LAST:
        tl.store(p_grad_D + o_chunk * dim + o_channel, b_sum_D, mask=mask)
        tl.store(p_grad_bias + o_chunk * dim + o_channel, b_sum_bias, mask=mask)
