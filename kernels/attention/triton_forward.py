"""The Triton kernel of attention's forward: the scores of a block of queries stay in registers."""

import triton
import triton.language as tl

from mvc.kernels.attention.triton_tile import finite, from_bits, product, read, start, times, weighted, write, zeros
from mvc.kernels.scan.triton_tile import LOG2E

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _read_keys(
    q, first, stride, stride_d, length,
    KEYS: tl.constexpr, MASKED: tl.constexpr,
    WIDE: tl.constexpr, REST: tl.constexpr, D: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """KEYS rows from the first on, in parts as wide as the bits of KEYS; MASKED: the last may go beyond the length."""
    tiles = ()
    for i in tl.static_range(5):
        if KEYS & (256 >> i) != 0:
            o_row = first + from_bits(KEYS, i)
            is_last = KEYS % (256 >> i) == 0
            tiles = tiles + (read(q, o_row, stride, stride_d, length, WIDE, REST, D, MASKED and is_last, ALIGNED),)
    return tiles


@triton.jit
def _attend(
    b_q, k_tiles, v_tiles, first, length, scale, m, total, acc,
    KEYS: tl.constexpr, MASKED: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Go on by KEYS keys, part by part.

    m is the largest score so far, total and acc the sums of w = exp2(scale (s - m)) and of values by w. Only the FIRST
    keys find nothing that has to shrink with a larger m.
    """
    for i in tl.static_range(len(k_tiles)):
        s = product(b_q, k_tiles[i], REST, PRECISION)
        if MASKED and i == len(k_tiles) - 1:
            s = tl.where((length - first - KEYS + s.shape[1] > tl.arange(0, s.shape[1]))[None, :], s, float("-inf"))
        largest = tl.maximum(m, tl.max(s, 1))
        below = finite(largest) * scale
        if not (FIRST and i == 0):
            shrunk = tl.exp2(m * scale - below)
            total = total * shrunk
            acc = times(acc, shrunk[:, None], REST)
        m = largest
        weights = tl.exp2(s * scale - below[:, None])
        total += tl.sum(weights, 1)
        acc = weighted(weights, v_tiles[i], acc, REST, PRECISION)
    return m, total, acc


@triton.jit
def attention_forward_kernel(
    p_q, p_k, p_v, p_out, p_lse, length, heads, scale,
    q_b, q_h, q_l, q_d, k_b, k_h, k_l, k_d, v_b, v_h, v_l, v_d, new_b, new_l,
    D: tl.constexpr, WIDE: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
    STAGES: tl.constexpr, KEYS: tl.constexpr, Q_ALIGNED: tl.constexpr, K_ALIGNED: tl.constexpr, V_ALIGNED: tl.constexpr,
    NEW_ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out = softmax(scale q kᵀ) v and the logarithms of the softmax's sums, by blocks of ROWS queries of one head.

    Chunks of CHUNK keys come first, of which there are none where it is 0, then the last KEYS keys. These are read once
    for all blocks of queries that a program runs.
    """
    i_batch = tl.program_id(0) // heads
    i_head = tl.program_id(0) % heads
    q = p_q + start(i_batch, q_b, i_head, q_h, Q_ALIGNED)
    k = p_k + start(i_batch, k_b, i_head, k_h, K_ALIGNED)
    v = p_v + start(i_batch, v_b, i_head, v_h, V_ALIGNED)
    out = p_out + start(i_batch, new_b, i_head, D, NEW_ALIGNED)
    lse = p_lse + tl.program_id(0).to(tl.int64) * length
    scale = tl.full((), scale, tl.float32) * LOG2E  # in whichever precision it is given
    last = 0
    if CHUNK > 0:
        last = (length - 1) // CHUNK * CHUNK
    k_last = _read_keys(k, last, k_l, k_d, length, KEYS, True, WIDE, REST, D, K_ALIGNED)
    v_last = _read_keys(v, last, v_l, v_d, length, KEYS, True, WIDE, REST, D, V_ALIGNED)
    for i_block in tl.range(tl.program_id(1), tl.cdiv(length, ROWS), tl.num_programs(1), num_stages=1):
        o_row = i_block * ROWS + tl.arange(0, ROWS)
        b_q = read(q, o_row, q_l, q_d, length, WIDE, REST, D, True, Q_ALIGNED)
        m = tl.full((ROWS,), float("-inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        acc = zeros(ROWS, WIDE, REST)
        if CHUNK > 0:
            for first in tl.range(0, last, CHUNK, num_stages=STAGES):
                b_k = _read_keys(k, first, k_l, k_d, length, CHUNK, False, WIDE, REST, D, K_ALIGNED)
                b_v = _read_keys(v, first, v_l, v_d, length, CHUNK, False, WIDE, REST, D, V_ALIGNED)
                m, total, acc = _attend(
                    b_q, b_k, b_v, first, length, scale, m, total, acc, CHUNK, False, False, REST, PRECISION
                )
        m, total, acc = _attend(
            b_q, k_last, v_last, last, length, scale, m, total, acc, KEYS, True, CHUNK == 0, REST, PRECISION
        )
        tl.store(lse + o_row, (m * scale + tl.log2(total)) * LN2, mask=o_row < length)
        factor = 1.0 / tl.where(total == 0.0, 1.0, total)
        write(out, o_row, new_l, length, times(acc, factor[:, None], REST), WIDE, REST, D, NEW_ALIGNED)
