

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 4, 'num_stages': 3}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['D', 'WIDE', 'REST', 'ROWS', 'CHUNK', 'STAGES', 'KEYS', 'Q_ALIGNED', 'K_ALIGNED', 'V_ALIGNED', 'NEW_ALIGNED', 'PRECISION'], 'kernel_name': 'attention_forward_kernel_20', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_q': '*bf16', 'p_k': '*bf16', 'p_v': '*bf16', 'p_out': '*bf16', 'p_lse': '*fp32', 'length': 'i32', 'heads': 'i32', 'scale': 'fp64', 'q_b': 'i32', 'q_h': 'i32', 'q_l': 'i32', 'q_d': 'constexpr', 'k_b': 'i32', 'k_h': 'i32', 'k_l': 'i32', 'k_d': 'constexpr', 'v_b': 'i32', 'v_h': 'i32', 'v_l': 'i32', 'v_d': 'constexpr', 'new_b': 'i32', 'new_l': 'i32', 'D': 'constexpr', 'WIDE': 'constexpr', 'REST': 'constexpr', 'ROWS': 'constexpr', 'CHUNK': 'constexpr', 'STAGES': 'constexpr', 'KEYS': 'constexpr', 'Q_ALIGNED': 'constexpr', 'K_ALIGNED': 'constexpr', 'V_ALIGNED': 'constexpr', 'NEW_ALIGNED': 'constexpr', 'PRECISION': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'q_d': 1, 'k_d': 1, 'v_d': 1, 'D': 32, 'WIDE': 32, 'REST': 0, 'ROWS': 64, 'CHUNK': 0, 'STAGES': 2, 'KEYS': 16, 'Q_ALIGNED': 8, 'K_ALIGNED': 8, 'V_ALIGNED': 8, 'NEW_ALIGNED': 8, 'PRECISION': 'tf32'}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (3,): [['tt.divisibility', 16]], (4,): [['tt.divisibility', 16]], (8,): [['tt.divisibility', 16]], (9,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (12,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (14,): [['tt.divisibility', 16]], (16,): [['tt.divisibility', 16]], (17,): [['tt.divisibility', 16]], (18,): [['tt.divisibility', 16]], (20,): [['tt.divisibility', 16]], (21,): [['tt.divisibility', 16]]}]},
    filename=__file__,
    custom_kernel=True,
)
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

@triton.jit
def start(i_batch, stride_b, i_head, stride_h, ALIGNED: tl.constexpr):
    """Where a head starts; ALIGNED: elements of which strides are multiples, which the compiler need not know."""
    stride_b = stride_b // ALIGNED * ALIGNED
    return i_batch.to(tl.int64) * stride_b + i_head.to(tl.int64) * (stride_h // ALIGNED * ALIGNED)

LOG2E = tl.constexpr(1.4426950408889634)

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
def from_bits(ROWS: tl.constexpr, i: tl.constexpr):
    """The rows of the part that stands for bit 8 - i of ROWS, when the parts of higher bits come first."""
    return (ROWS >> (9 - i) << (9 - i)) + tl.arange(0, 256 >> i)

@triton.jit
def read(
    q, o_row, stride, stride_d, length,
    WIDE: tl.constexpr, REST: tl.constexpr, D: tl.constexpr, MASKED: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Rows of a head in parts of WIDE and REST channels; beyond D and, if MASKED, beyond the length they are zero."""
    stride = stride // ALIGNED * ALIGNED
    parts = (_read_part(q, o_row, stride, stride_d, length, 0, WIDE, D, MASKED),)
    if REST > 0:
        parts = parts + (_read_part(q, o_row, stride, stride_d, length, WIDE, REST, D, MASKED),)
    return parts

@triton.jit
def _read_part(
    q, o_row, stride, stride_d, length, FIRST: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, MASKED: tl.constexpr
):
    o_d = FIRST + tl.arange(0, WIDTH)
    q = q + o_row.to(tl.int64)[:, None] * stride + o_d[None, :] * wide(stride_d)
    PADDED: tl.constexpr = FIRST + WIDTH > D
    if MASKED and PADDED:
        return tl.load(q, mask=(o_row < length)[:, None] & (o_d < D)[None, :], other=0.0)
    elif MASKED:
        return tl.load(q, mask=(o_row < length)[:, None], other=0.0)
    elif PADDED:
        return tl.load(q, mask=(o_d < D)[None, :], other=0.0)
    else:
        return tl.load(q)

@triton.jit
def wide(x):
    """An integer in 64 bits; a size of 1 is known when a kernel is compiled, and has no type of its own."""
    return tl.zeros((), tl.int64) + x

@triton.jit
def zeros(ROWS: tl.constexpr, WIDE: tl.constexpr, REST: tl.constexpr):
    parts = (tl.zeros((ROWS, WIDE), tl.float32),)
    if REST > 0:
        parts = parts + (tl.zeros((ROWS, REST), tl.float32),)
    return parts

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
def product(x, y, REST: tl.constexpr, PRECISION: tl.constexpr):
    """x yᵀ over the channels of both."""
    z = tl.dot(x[0], tl.trans(y[0]), input_precision=PRECISION)
    if REST > 0:
        z = tl.dot(x[1], tl.trans(y[1]), z, input_precision=PRECISION)
    return z

@triton.jit
def finite(x):
    """x with zero for minus infinity: what is subtracted where no score is finite, so that all weights are 0."""
    return tl.where(x == float("-inf"), 0.0, x)

@triton.jit
def times(parts, factor, REST: tl.constexpr):
    scaled = (parts[0] * factor,)
    if REST > 0:
        scaled = scaled + (parts[1] * factor,)
    return scaled

@triton.jit
def weighted(weights, x, parts, REST: tl.constexpr, PRECISION: tl.constexpr):
    """The parts plus the sums of x's rows with these weights, which are rounded to x's dtype."""
    weights = weights.to(x[0].dtype)
    sums = (tl.dot(weights, x[0], parts[0], input_precision=PRECISION),)
    if REST > 0:
        sums = sums + (tl.dot(weights, x[1], parts[1], input_precision=PRECISION),)
    return sums

LN2 = tl.constexpr(0.6931471805599453)

@triton.jit
def write(
    q, o_row, stride, length, parts,
    WIDE: tl.constexpr, REST: tl.constexpr, D: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """The inverse, into memory whose channels are neighbours."""
    q = q + o_row.to(tl.int64)[:, None] * (stride // ALIGNED * ALIGNED)
    is_row = (o_row < length)[:, None]
    dtype = q.dtype.element_ty
    o_d = tl.arange(0, WIDE)[None, :]
    tl.store(q + o_d, parts[0].to(dtype), mask=is_row & (o_d < D))
    if REST > 0:
        o_d = WIDE + tl.arange(0, REST)[None, :]
        tl.store(q + o_d, parts[1].to(dtype), mask=is_row & (o_d < D))
