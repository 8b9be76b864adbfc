"""The Triton kernels that run the recurrence: for y, for checkpoints, and over chunks of a long sequence."""

import triton
import triton.language as tl
from mvc.kernels.triton_steps import (
    channels,
    load_A,
    load_channels,
    load_states,
    load_steps,
    never_vanishing,
    position,
    run_position,
    sigmoid,
    split_chunk,
    step_size,
    store_states,
    weights,
    weights_of,
)

RESETS = tl.constexpr(-1.0)  # in place of the decay over a chunk that resets; no scan's decay is negative


@triton.jit
def _forward_steps(
    h, b_A, b_D, b_bias, mask, t_first, i_groups, i_slot,
    p_u, p_delta, p_B, p_C, p_z, p_reset, p_partial, p_y, p_checkpoint,
    u_l, delta_l, z_l, B_l, B_n, C_l, C_n, reset_l, y_l, dim, checkpoint_l,
    N: tl.constexpr, STEPS: tl.constexpr, CONSTANT_B: tl.constexpr, CONSTANT_C: tl.constexpr, SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr, U_ALONG: tl.constexpr, DELTA_ALONG: tl.constexpr, Z_ALONG: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """h after `i_groups` groups of STEPS steps from t_first on; stores y of them, or the states before each group."""
    for i in range(i_groups):
        o_group = run_position(i, i_groups, REVERSE)
        t = t_first + o_group * STEPS
        if p_checkpoint is not None:
            store_states(p_checkpoint + (i_slot + o_group).to(tl.int64) * checkpoint_l, h, mask, N)
        b_u = load_steps(p_u, t, u_l, mask, STEPS, U_ALONG, REVERSE)
        b_delta = load_steps(p_delta, t, delta_l, mask, STEPS, DELTA_ALONG, REVERSE)
        if p_checkpoint is None and LAST and p_z is not None and Z_ALONG:
            b_z = load_steps(p_z, t, z_l, mask, STEPS, Z_ALONG, REVERSE)
        for j in tl.static_range(STEPS):
            o_t = position(t, j, STEPS, REVERSE)
            b_step = step_size(b_delta[j] + b_bias, SOFTPLUS)
            b_drive = b_step * b_u[j]
            w_B = weights(p_B + o_t * B_l, B_n, mask, N, CONSTANT_B)
            if p_reset is not None:
                b_reset = tl.load(p_reset + o_t * reset_l) != 0
            new = ()
            for n in tl.static_range(N):
                b_h = h[n]
                if p_reset is not None:
                    b_h = tl.where(b_reset, 0.0, b_h)
                new = new + (tl.exp2(b_step * b_A[n]) * b_h + b_drive * w_B[n],)
            h = new
            if p_checkpoint is None:
                w_C = weights(p_C + o_t * C_l, C_n, mask, N, CONSTANT_C)
                b_y = w_C[0] * h[0]
                for n in tl.static_range(1, N):
                    b_y += w_C[n] * h[n]
                if not FIRST:
                    b_y += tl.load(p_partial + o_t * dim, mask=mask, other=0.0)
                if LAST:
                    b_y += b_D * b_u[j]
                    if p_z is not None:
                        if Z_ALONG:
                            b_y *= b_z[j] * sigmoid(b_z[j])
                        else:  # read late, to hold fewer registers
                            b_gate = tl.load(p_z + o_t * z_l, mask=mask, other=0.0).to(tl.float32)
                            b_y *= b_gate * sigmoid(b_gate)
                    tl.store(p_y + o_t * y_l, b_y.to(p_y.dtype.element_ty), mask=mask)
                else:
                    tl.store(p_partial + o_t * dim, b_y, mask=mask)
    return h


@triton.jit
def forward_kernel(
    p_u, p_delta, p_A, p_B, p_C, p_D, p_z, p_bias, p_start, p_reset, p_partial, p_y, p_end, p_checkpoint,
    length, dim, states, width, chunk,
    u_b, u_l, u_d, delta_b, delta_l, delta_d, z_b, z_l, z_d,
    B_b, B_l, B_g, B_n, C_b, C_l, C_g, C_n, reset_b, reset_l, y_b, y_l,
    N: tl.constexpr, BLOCK: tl.constexpr, CONSTANT_B: tl.constexpr, CONSTANT_C: tl.constexpr, SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr, U_ALONG: tl.constexpr, DELTA_ALONG: tl.constexpr, Z_ALONG: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t u_t B_t, y_t = C_t·h_t + D u_t, then y_t SiLU(z_t), over one chunk of the length.

    N of `states` states; what other states gave to y lies in `partial` unless these are the FIRST, and goes there
    unless they are the LAST. With `checkpoint` (groups, batch, dim, states) the states before each group of WIDE steps,
    and before each step beyond them, are stored instead. `y` may lie in the memory of `u`: each program reads a step of
    its channels before it writes it.
    """
    i_batch, i_chunk = tl.program_id(1).to(tl.int64), tl.program_id(2)
    i_group, o_channel, mask = channels(width, BLOCK)
    o_state = (i_batch * dim + o_channel) * states
    all_states = tl.num_programs(1).to(tl.int64) * dim * states
    b_A = load_A(p_A, o_channel, states, mask, N)
    b_D = load_channels(p_D, o_channel, mask)
    b_bias = load_channels(p_bias, o_channel, mask)
    p_u += i_batch * u_b + o_channel.to(tl.int64) * u_d
    p_delta += i_batch * delta_b + o_channel.to(tl.int64) * delta_d
    if p_z is not None:
        p_z += i_batch * z_b + o_channel.to(tl.int64) * z_d
    p_B = weights_of(p_B, o_channel, i_batch, i_group, B_b, B_g, CONSTANT_B)
    p_C = weights_of(p_C, o_channel, i_batch, i_group, C_b, C_g, CONSTANT_C)
    if p_reset is not None:
        p_reset += i_batch * reset_b
    if p_partial is not None:
        p_partial += i_batch * length * dim + o_channel
    if p_y is not None:
        p_y += i_batch * y_b + o_channel
    if p_checkpoint is not None:
        p_checkpoint += o_state
    if p_start is not None:
        p_start += o_state + i_chunk * all_states
    h = load_states(p_start, mask, N)

    first = i_chunk * chunk
    wide, rest = split_chunk(first, chunk, length, WIDE)
    for i_part in tl.static_range(2):
        if (i_part == 0) != REVERSE:
            h = _forward_steps(
                h, b_A, b_D, b_bias, mask, first, wide, first // WIDE,
                p_u, p_delta, p_B, p_C, p_z, p_reset, p_partial, p_y, p_checkpoint,
                u_l, delta_l, z_l, B_l, B_n, C_l, C_n, reset_l, y_l, dim, all_states,
                N, WIDE, CONSTANT_B, CONSTANT_C, SOFTPLUS, REVERSE, U_ALONG, DELTA_ALONG, Z_ALONG, FIRST, LAST,
            )  # fmt: skip
        else:
            h = _forward_steps(
                h, b_A, b_D, b_bias, mask, first + WIDE * wide, rest, first // WIDE + wide,
                p_u, p_delta, p_B, p_C, p_z, p_reset, p_partial, p_y, p_checkpoint,
                u_l, delta_l, z_l, B_l, B_n, C_l, C_n, reset_l, y_l, dim, all_states,
                N, 1, CONSTANT_B, CONSTANT_C, SOFTPLUS, REVERSE, U_ALONG, DELTA_ALONG, Z_ALONG, FIRST, LAST,
            )  # fmt: skip
    if p_end is not None:
        is_last = i_chunk == run_position(tl.num_programs(2) - 1, tl.num_programs(2), REVERSE)
        if is_last:
            store_states(p_end + o_state, h, mask, N)


@triton.jit
def _gated(p_grad_y, p_z, o_t, grad_y_l, z_l, mask):
    """∂y of one step before the gate."""
    b_grad = tl.load(p_grad_y + o_t * grad_y_l, mask=mask, other=0.0).to(tl.float32)
    if p_z is not None:
        b_z = tl.load(p_z + o_t * z_l, mask=mask, other=0.0).to(tl.float32)
        b_grad *= b_z * sigmoid(b_z)
    return b_grad


@triton.jit
def summary_kernel(
    p_x, p_delta, p_A, p_W, p_z, p_bias, p_reset, p_own, p_decay,
    length, dim, states, width, chunk,
    x_b, x_l, x_d, delta_b, delta_l, delta_d, z_b, z_l, z_d, W_b, W_l, W_g, W_n, reset_b, reset_l,
    N: tl.constexpr, BLOCK: tl.constexpr, CONSTANT: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
    ADJOINT: tl.constexpr,
):  # fmt: skip
    """What one chunk makes of a zero state, into own, and the decay over it, or RESETS: (chunks, batch, dim, states).

    Forward (x is u, W is B): h ← exp(ΔA) h + Δ u B. ADJOINT (x is ∂y, W is C), with REVERSE the other way round:
    g ← exp(ΔA) (g + ∂y C).
    """
    i_batch, i_chunk = tl.program_id(1).to(tl.int64), tl.program_id(2)
    i_group, o_channel, mask = channels(width, BLOCK)
    b_A = load_A(p_A, o_channel, states, mask, N)
    b_bias = load_channels(p_bias, o_channel, mask)
    p_x += i_batch * x_b + o_channel.to(tl.int64) * x_d
    p_delta += i_batch * delta_b + o_channel.to(tl.int64) * delta_d
    if p_z is not None:
        p_z += i_batch * z_b + o_channel.to(tl.int64) * z_d
    p_W = weights_of(p_W, o_channel, i_batch, i_group, W_b, W_g, CONSTANT)
    if p_reset is not None:
        p_reset += i_batch * reset_b
    h = load_states(None, mask, N)
    b_total = tl.zeros((BLOCK,), tl.float32)  # ΣΔ
    b_least = tl.full((BLOCK,), float("inf"), tl.float32)  # of Δ
    b_most = tl.full((BLOCK,), float("-inf"), tl.float32)
    resets = False

    first = i_chunk * chunk
    steps = tl.minimum(first + chunk, length) - first
    for i in range(steps):
        o_t = (first + run_position(i, steps, REVERSE)).to(tl.int64)
        b_raw = tl.load(p_delta + o_t * delta_l, mask=mask, other=0.0).to(tl.float32) + b_bias
        b_step = step_size(b_raw, SOFTPLUS)
        b_total += b_step
        b_least = tl.minimum(b_least, b_step)
        b_most = tl.maximum(b_most, b_step)
        b_x = _gated(p_x, p_z, o_t, x_l, z_l, mask)
        w = weights(p_W + o_t * W_l, W_n, mask, N, CONSTANT)
        if p_reset is not None:
            b_reset = tl.load(p_reset + o_t * reset_l) != 0
            resets |= b_reset
        new = ()
        for n in tl.static_range(N):
            b_decay = tl.exp2(b_step * b_A[n])
            if ADJOINT:
                b_h = b_decay * (h[n] + b_x * w[n])
                if p_reset is not None:
                    b_h = tl.where(b_reset, 0.0, b_h)
            else:
                b_h = h[n]
                if p_reset is not None:
                    b_h = tl.where(b_reset, 0.0, b_h)
                b_h = b_decay * b_h + b_step * b_x * w[n]
            new = new + (b_h,)
        h = new
    o_state = ((i_chunk * tl.num_programs(1).to(tl.int64) + i_batch) * dim + o_channel) * states
    for n in tl.static_range(N):
        tl.store(p_own + o_state + n, h[n], mask=mask)
        b_decay = never_vanishing(tl.exp2(b_total * b_A[n]), tl.minimum(b_least * b_A[n], b_most * b_A[n]))
        if p_reset is not None:
            b_decay = tl.where(resets, RESETS, b_decay)
        tl.store(p_decay + o_state + n, b_decay, mask=mask)


@triton.jit
def combine_kernel(
    p_own, p_decay, p_initial, count, chunks, BLOCK: tl.constexpr, REVERSE: tl.constexpr, MAY_RESET: tl.constexpr
):
    """Replaces what each chunk makes of a zero state by the state that it starts from: x ← decay x + own."""
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = o < count
    stride = tl.zeros((), tl.int64) + count
    if p_initial is None:
        b_x = tl.zeros((BLOCK,), tl.float32)
    else:
        b_x = tl.load(p_initial + o, mask=mask, other=0.0)
    for i in range(chunks):
        o_chunk = o + run_position(i, chunks, REVERSE) * stride
        b_own = tl.load(p_own + o_chunk, mask=mask, other=0.0)
        b_decay = tl.load(p_decay + o_chunk, mask=mask, other=0.0)
        tl.store(p_own + o_chunk, b_x, mask=mask)
        b_alone = b_x == 0.0  # the chunk has run from zero: its end is right, whatever its decay
        if MAY_RESET:
            b_alone |= b_decay == RESETS
        b_x = tl.where(b_alone, b_own, b_decay * b_x + b_own)
