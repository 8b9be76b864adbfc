"""The Triton kernels of attention's backward: weights are computed again from what the forward kept of the softmax.

No two programs write to one place: one kernel runs over the keys of a block of queries, the other over the queries of a
block of keys, which alone does it all where a window is one block.
"""

import triton
import triton.language as tl

from mvc.kernels.attention.triton_tile import (
    finite,
    from_bits,
    product,
    read,
    row_sums,
    start,
    times,
    weighted,
    write,
    zeros,
)
from mvc.kernels.scan.triton_tile import LOG2E


@triton.jit
def _query_gradient(
    b_q, b_grad, lse, delta, k, v, first, length, scale, k_l, k_d, v_l, v_d, acc,
    KEYS: tl.constexpr, MASKED: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, REST: tl.constexpr,
    K_ALIGNED: tl.constexpr, V_ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """acc and what KEYS keys from the first on add to it; MASKED: the last of them may be beyond the length."""
    for i in tl.static_range(5):
        if KEYS & (256 >> i) != 0:
            o_key = first + from_bits(KEYS, i)
            is_last = MASKED and KEYS % (256 >> i) == 0
            b_k = read(k, o_key, k_l, k_d, length, WIDE, REST, D, is_last, K_ALIGNED)
            b_v = read(v, o_key, v_l, v_d, length, WIDE, REST, D, is_last, V_ALIGNED)
            weights = tl.exp2(product(b_q, b_k, REST, PRECISION) * scale - lse[:, None])
            if is_last:
                weights = tl.where((o_key < length)[None, :], weights, 0.0)
            b_ds = weights * (product(b_grad, b_v, REST, PRECISION) - delta[:, None])
            acc = weighted(b_ds, b_k, acc, REST, PRECISION)
    return acc


@triton.jit
def attention_query_kernel(
    p_q, p_k, p_v, p_out, p_lse, p_grad_out, p_delta, p_dq, length, heads, scale,
    q_b, q_h, q_l, q_d, k_b, k_h, k_l, k_d, v_b, v_h, v_l, v_d, out_b, out_h, out_l, out_d,
    grad_b, grad_h, grad_l, grad_d, new_b, new_l,
    D: tl.constexpr, WIDE: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
    STAGES: tl.constexpr, KEYS: tl.constexpr, Q_ALIGNED: tl.constexpr, K_ALIGNED: tl.constexpr, V_ALIGNED: tl.constexpr,
    OUT_ALIGNED: tl.constexpr, GRAD_ALIGNED: tl.constexpr, NEW_ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq of a block of queries, and delta, their sums of out times its gradient, which the other kernel reads."""
    i_batch = tl.program_id(0) // heads
    i_head = tl.program_id(0) % heads
    k = p_k + start(i_batch, k_b, i_head, k_h, K_ALIGNED)
    v = p_v + start(i_batch, v_b, i_head, v_h, V_ALIGNED)
    o_row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    q = p_q + start(i_batch, q_b, i_head, q_h, Q_ALIGNED)
    b_q = read(q, o_row, q_l, q_d, length, WIDE, REST, D, True, Q_ALIGNED)
    out = p_out + start(i_batch, out_b, i_head, out_h, OUT_ALIGNED)
    b_out = read(out, o_row, out_l, out_d, length, WIDE, REST, D, True, OUT_ALIGNED)
    grad = p_grad_out + start(i_batch, grad_b, i_head, grad_h, GRAD_ALIGNED)
    b_grad = read(grad, o_row, grad_l, grad_d, length, WIDE, REST, D, True, GRAD_ALIGNED)
    o_lse = tl.program_id(0).to(tl.int64) * length + o_row
    lse = finite(tl.load(p_lse + o_lse, mask=o_row < length, other=0.0)) * LOG2E
    delta = row_sums(b_out, b_grad, REST)
    tl.store(p_delta + o_lse, delta, mask=o_row < length)
    scale = tl.full((), scale, tl.float32)  # in whichever precision it is given
    log_scale = scale * LOG2E
    acc = zeros(ROWS, WIDE, REST)
    last = 0
    if CHUNK > 0:
        last = (length - 1) // CHUNK * CHUNK
        for first in tl.range(0, last, CHUNK, num_stages=STAGES):
            acc = _query_gradient(
                b_q, b_grad, lse, delta, k, v, first, length, log_scale, k_l, k_d, v_l, v_d, acc,
                CHUNK, False, D, WIDE, REST, K_ALIGNED, V_ALIGNED, PRECISION,
            )  # fmt: skip
    acc = _query_gradient(
        b_q, b_grad, lse, delta, k, v, last, length, log_scale, k_l, k_d, v_l, v_d, acc,
        KEYS, True, D, WIDE, REST, K_ALIGNED, V_ALIGNED, PRECISION,
    )  # fmt: skip
    dq = p_dq + start(i_batch, new_b, i_head, D, NEW_ALIGNED)
    write(dq, o_row, new_l, length, times(acc, scale, REST), WIDE, REST, D, NEW_ALIGNED)


@triton.jit
def _key_gradients(
    b_k, b_v, o_key, q, out, grad, dq, p_lse, p_delta, o_lse, first, length, scale, new_l,
    q_l, q_d, out_l, out_d, grad_l, grad_d, acc_k, acc_v,
    QUERIES: tl.constexpr, MASKED: tl.constexpr, WHOLE: tl.constexpr,
    D: tl.constexpr, WIDE: tl.constexpr, REST: tl.constexpr, Q_ALIGNED: tl.constexpr, OUT_ALIGNED: tl.constexpr,
    GRAD_ALIGNED: tl.constexpr, NEW_ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The sums and what QUERIES queries from the first on add to them; MASKED: the last may be beyond the length."""
    log_scale = scale * LOG2E
    for i in tl.static_range(5):
        if QUERIES & (256 >> i) != 0:
            o_query = first + from_bits(QUERIES, i)
            is_last = MASKED and QUERIES % (256 >> i) == 0
            is_query = o_query < length
            b_q = read(q, o_query, q_l, q_d, length, WIDE, REST, D, is_last, Q_ALIGNED)
            b_grad = read(grad, o_query, grad_l, grad_d, length, WIDE, REST, D, is_last, GRAD_ALIGNED)
            lse = finite(tl.load(p_lse + o_lse + o_query, mask=is_query, other=0.0)) * LOG2E
            if WHOLE:
                b_out = read(out, o_query, out_l, out_d, length, WIDE, REST, D, is_last, OUT_ALIGNED)
                delta = row_sums(b_out, b_grad, REST)
            else:
                delta = tl.load(p_delta + o_lse + o_query, mask=is_query, other=0.0)
            weights = tl.exp2(product(b_k, b_q, REST, PRECISION) * log_scale - lse[None, :])
            if WHOLE:
                weights = tl.where((o_key < length)[:, None], weights, 0.0)
            b_ds = weights * (product(b_v, b_grad, REST, PRECISION) - delta[None, :])
            if is_last:  # zeros that infinite keys or values were multiplied by
                weights = tl.where(is_query[None, :], weights, 0.0)
                b_ds = tl.where(is_query[None, :], b_ds, 0.0)
            acc_v = weighted(weights, b_grad, acc_v, REST, PRECISION)
            acc_k = weighted(b_ds, b_q, acc_k, REST, PRECISION)
            if WHOLE:
                acc_q = weighted(tl.trans(b_ds), b_k, zeros(256 >> i, WIDE, REST), REST, PRECISION)
                write(dq, o_query, new_l, length, times(acc_q, scale, REST), WIDE, REST, D, NEW_ALIGNED)
    return acc_k, acc_v


@triton.jit
def attention_key_kernel(
    p_q, p_k, p_v, p_out, p_lse, p_grad_out, p_delta, p_dq, p_dk, p_dv, length, heads, scale,
    q_b, q_h, q_l, q_d, k_b, k_h, k_l, k_d, v_b, v_h, v_l, v_d, out_b, out_h, out_l, out_d,
    grad_b, grad_h, grad_l, grad_d, new_b, new_l,
    D: tl.constexpr, WIDE: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
    STAGES: tl.constexpr, KEYS: tl.constexpr, Q_ALIGNED: tl.constexpr, K_ALIGNED: tl.constexpr, V_ALIGNED: tl.constexpr,
    OUT_ALIGNED: tl.constexpr, GRAD_ALIGNED: tl.constexpr, NEW_ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk and dv of a block of keys; dq, too, where delta is absent and the block holds the window."""
    WHOLE: tl.constexpr = p_delta is None
    i_batch = tl.program_id(0) // heads
    i_head = tl.program_id(0) % heads
    q = p_q + start(i_batch, q_b, i_head, q_h, Q_ALIGNED)
    out = p_q  # stands for what only a whole window needs
    new = start(i_batch, new_b, i_head, D, NEW_ALIGNED)
    dq = p_dk
    if WHOLE:
        out = p_out + start(i_batch, out_b, i_head, out_h, OUT_ALIGNED)
        dq = p_dq + new
    grad = p_grad_out + start(i_batch, grad_b, i_head, grad_h, GRAD_ALIGNED)
    o_lse = tl.program_id(0).to(tl.int64) * length
    o_key = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    k = p_k + start(i_batch, k_b, i_head, k_h, K_ALIGNED)
    b_k = read(k, o_key, k_l, k_d, length, WIDE, REST, D, True, K_ALIGNED)
    v = p_v + start(i_batch, v_b, i_head, v_h, V_ALIGNED)
    b_v = read(v, o_key, v_l, v_d, length, WIDE, REST, D, True, V_ALIGNED)
    acc_k = zeros(ROWS, WIDE, REST)
    acc_v = zeros(ROWS, WIDE, REST)
    scale = tl.full((), scale, tl.float32)  # in whichever precision it is given
    last = 0
    if CHUNK > 0:
        last = (length - 1) // CHUNK * CHUNK
        for first in tl.range(0, last, CHUNK, num_stages=STAGES):
            acc_k, acc_v = _key_gradients(
                b_k, b_v, o_key, q, out, grad, dq, p_lse, p_delta, o_lse, first, length, scale, new_l,
                q_l, q_d, out_l, out_d, grad_l, grad_d, acc_k, acc_v,
                CHUNK, False, WHOLE, D, WIDE, REST, Q_ALIGNED, OUT_ALIGNED, GRAD_ALIGNED, NEW_ALIGNED, PRECISION,
            )  # fmt: skip
    acc_k, acc_v = _key_gradients(
        b_k, b_v, o_key, q, out, grad, dq, p_lse, p_delta, o_lse, last, length, scale, new_l,
        q_l, q_d, out_l, out_d, grad_l, grad_d, acc_k, acc_v,
        KEYS, True, WHOLE, D, WIDE, REST, Q_ALIGNED, OUT_ALIGNED, GRAD_ALIGNED, NEW_ALIGNED, PRECISION,
    )  # fmt: skip
    write(p_dk + new, o_key, new_l, length, times(acc_k, scale, REST), WIDE, REST, D, NEW_ALIGNED)
    write(p_dv + new, o_key, new_l, length, acc_v, WIDE, REST, D, NEW_ALIGNED)
