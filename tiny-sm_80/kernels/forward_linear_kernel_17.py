

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 2, 'num_stages': 4}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['BM', 'BN', 'BK', 'GROUP', 'STAGES', 'SPLIT', 'OF_N', 'OF_K', 'OF_ROWS', 'NORM_EPS', 'ACTIVATION'], 'kernel_name': 'linear_kernel_17', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': '*bf16', 'p_norm_weight': '*bf16', 'p_norm_bias': '*bf16', 'p_scale': 'constexpr', 'p_residual': 'constexpr', 'p_y': '*bf16', 'rows': 'i32', 'columns': 'i32', 'inner': 'i32', 'x_m': 'i32', 'x_k': 'constexpr', 'weight_n': 'i32', 'weight_k': 'constexpr', 'residual_m': 'i32', 'residual_n': 'i32', 'BM': 'constexpr', 'BN': 'constexpr', 'BK': 'constexpr', 'GROUP': 'constexpr', 'STAGES': 'constexpr', 'SPLIT': 'constexpr', 'OF_N': 'constexpr', 'OF_K': 'constexpr', 'OF_ROWS': 'constexpr', 'NORM_EPS': 'constexpr', 'ACTIVATION': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_scale': None, 'p_residual': None, 'x_k': 1, 'weight_k': 1, 'BM': 16, 'BN': 32, 'BK': 128, 'GROUP': 8, 'STAGES': 4, 'SPLIT': False, 'OF_N': 32, 'OF_K': 128, 'OF_ROWS': 16, 'NORM_EPS': 1e-05, 'ACTIVATION': 'gelu'}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (3,): [['tt.divisibility', 16]], (4,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (9,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]], (16,): [['tt.divisibility', 16]]}]},
    filename=__file__,
    custom_kernel=True,
)
@triton.jit
def linear_kernel(
    p_x, p_weight, p_bias, p_norm_weight, p_norm_bias, p_scale, p_residual, p_y,
    rows, columns, inner, x_m, x_k, weight_n, weight_k, residual_m, residual_n,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, STAGES: tl.constexpr,
    SPLIT: tl.constexpr, OF_N: tl.constexpr, OF_K: tl.constexpr, OF_ROWS: tl.constexpr,
    NORM_EPS: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """y = residual + scale * activation(LN(x) @ weight.T + bias), y (rows, columns) contiguous.

    NORM_EPS: of the LayerNorm, or None where there is none. OF_N, OF_K, OF_ROWS: what columns, inner, and the distance
    between rows of each tensor are multiples of, which decides how many elements are read at once.
    """
    EVEN_N: tl.constexpr = OF_N >= BN
    EVEN_K: tl.constexpr = OF_K >= BK
    columns = columns // OF_N * OF_N
    inner = inner // OF_K * OF_K
    x_m = x_m // OF_ROWS * OF_ROWS
    weight_n = weight_n // OF_ROWS * OF_ROWS
    x_k, weight_k = wide(x_k), wide(weight_k)
    residual_m = residual_m // OF_ROWS * OF_ROWS
    i_m, i_n = _block(rows, columns, BM, BN, GROUP)
    o_m = i_m * BM + tl.arange(0, BM)
    o_n = i_n * BN + tl.arange(0, BN)
    o_k = tl.arange(0, BK)
    # What lies outside is read from the last row or column instead, and never stored.
    o_row = tl.minimum(o_m, rows - 1).to(tl.int64)
    o_column = (o_n if EVEN_N else tl.minimum(o_n, columns - 1)).to(tl.int64)
    q_x = p_x + o_row[:, None] * x_m
    q_weight = p_weight + o_column[None, :] * weight_n
    if NORM_EPS is not None:
        BS: tl.constexpr = BK if BM <= 128 else BK // 2  # two sums of each element have to fit into registers
        rate, shift = _statistics(q_x, x_k, inner, NORM_EPS, BM, BS, EVEN_K, STAGES)
    q_x += o_k[None, :] * x_k
    q_weight += o_k[:, None] * weight_k

    acc = tl.zeros((BM, BN), tl.float32)
    for start in range(0, inner, BK):
        inside = tl.full((BK,), EVEN_K, tl.int1) | (o_k < inner - start)
        b_x = _piece(q_x, inside[None, :], EVEN_K)
        b_weight = _piece(q_weight, inside[:, None], EVEN_K)
        if NORM_EPS is not None:
            normalised = (b_x.to(tl.float32) * rate + shift) * _vector(p_norm_weight, start + o_k, inside, 1.0)
            b_x = (normalised + _vector(p_norm_bias, start + o_k, inside, 0.0)).to(b_x.dtype)
        acc = tl.dot(b_x, b_weight, acc, input_precision="ieee")
        q_x += BK * x_k
        q_weight += BK * weight_k

    if SPLIT:
        left, right = tl.split(tl.permute(tl.reshape(acc, (BM, 2, BN // 2)), (0, 2, 1)))
        o_n = i_n * BN + tl.arange(0, BN // 2)
        _finish(
            left, o_m, o_n, p_bias, p_scale, p_residual, p_y, rows, columns, residual_m, residual_n, EVEN_N, ACTIVATION
        )
        _finish(
            right, o_m, o_n + BN // 2, p_bias, p_scale, p_residual, p_y, rows, columns, residual_m, residual_n,
            EVEN_N, ACTIVATION,
        )  # fmt: skip
    else:
        _finish(
            acc, o_m, o_n, p_bias, p_scale, p_residual, p_y, rows, columns, residual_m, residual_n, EVEN_N, ACTIVATION
        )

@triton.jit
def wide(x):
    """An integer in 64 bits; a size of 1 is known when a kernel is compiled, and has no type of its own."""
    return tl.zeros((), tl.int64) + x

@triton.jit
def _block(rows, columns, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr):
    """Which block of rows and which of columns this program computes."""
    i_program = tl.program_id(0)
    blocks = tl.cdiv(columns, BN)
    first = i_program // (GROUP * blocks) * GROUP
    height = tl.minimum(tl.cdiv(rows, BM) - first, GROUP)
    place = i_program % (GROUP * blocks)
    return first + place % height, place // height

@triton.jit
def _statistics(q_x, x_k, inner, eps, BM: tl.constexpr, BS: tl.constexpr, EVEN: tl.constexpr, STAGES: tl.constexpr):
    """The reciprocal deviation of rows, and minus the mean times that, (BM, 1) each.

    One pass sums what is left of numbers and squares around the mean of the first piece. That mean is at most
    sqrt(inner / BS) deviations away from the row's, so the variance loses no more digits than inner / BS takes.
    """
    o_k = tl.arange(0, BS)[None, :]
    q_x += o_k * x_k
    first = _piece(q_x, o_k < inner, EVEN).to(tl.float32)
    middle = tl.sum(first, 1, keep_dims=True) / tl.minimum(inner, BS)
    total = tl.zeros((BM, BS), tl.float32)
    squares = tl.zeros((BM, BS), tl.float32)
    for start in tl.range(0, inner, BS, num_stages=STAGES):
        inside = o_k < inner - start
        around = _piece(q_x, inside, EVEN).to(tl.float32) - middle
        if not EVEN:
            around = tl.where(inside, around, 0.0)
        total += around
        squares += around * around
        q_x += BS * x_k
    offset = tl.sum(total, 1, keep_dims=True) / inner
    variance = tl.sum(squares, 1, keep_dims=True) / inner - offset * offset
    rate = tl.rsqrt(tl.maximum(variance, 0.0, propagate_nan=tl.PropagateNan.ALL) + eps)
    return rate, -(middle + offset) * rate

@triton.jit
def _piece(q, inside, EVEN: tl.constexpr):
    """A block whose elements are all there, or those inside and zeros."""
    if EVEN:
        return tl.load(q)
    else:
        return tl.load(q, mask=inside, other=0.0)

@triton.jit
def _vector(pointer, o, inside, default: tl.constexpr):
    """Elements of a parameter as a row, or the default where it is absent."""
    if pointer is None:
        return default
    else:
        return tl.load(pointer + o, mask=inside, other=0.0).to(tl.float32)[None, :]

@triton.jit
def _finish(
    acc, o_m, o_n, p_bias, p_scale, p_residual, p_y, rows, columns, residual_m, residual_n,
    EVEN_N: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Store what becomes of sums at rows o_m and columns o_n."""
    is_column = tl.full(o_n.shape, EVEN_N, tl.int1) | (o_n < columns)
    is_inside = (o_m < rows)[:, None] & is_column[None, :]
    o_row = o_m.to(tl.int64)[:, None]
    y = activated(acc + _vector(p_bias, o_n, is_column, 0.0), ACTIVATION)
    y *= _vector(p_scale, o_n, is_column, 1.0)
    if p_residual is not None:
        q_residual = p_residual + o_row * residual_m + o_n[None, :].to(tl.int64) * residual_n
        y += tl.load(q_residual, mask=is_inside, other=0.0).to(tl.float32)
    tl.store(p_y + o_row * columns + o_n[None, :], y.to(p_y.dtype.element_ty), mask=is_inside)

@triton.jit
def activated(x, ACTIVATION: tl.constexpr):
    """The activation of a float32 block, with NaN and infinities as torch has them; "none" leaves it as it is.

    Both forms of GELU are x σ(l), where l is an odd polynomial of x. An error function would take twice the
    instructions, as many as the product before it, and loses digits where 1 + erf(x/√2) cancels.
    """
    if ACTIVATION == "none":
        return x
    elif ACTIVATION == "relu":
        return tl.where(x < 0.0, 0.0, x)  # a NaN stays
    elif ACTIVATION == "silu":
        return x / (1.0 + tl.exp2(x * BITS))
    elif ACTIVATION == "gelu":
        return x / (1.0 + tl.exp2(x * BITS * _logit(x * x)))
    else:
        tl.static_assert(ACTIVATION == "gelu_tanh", "an unknown activation")
        return x / (1.0 + tl.exp2(x * BITS * (1.5957691216057308 + 0.0713548162726009 * x * x)))

BITS = tl.constexpr(-1.4426950408889634)

@triton.jit
def _logit(s):
    """The logit of the normal distribution function at x over x, for s = x²: the polynomial for which x σ(x logit)
    differs least from GELU, by 8e-8 at most."""
    p = 7.87473674e-6 + s * (-2.62591947e-7 + s * 3.50555065e-9)
    return 1.59576778 + s * (7.26702633e-2 + s * (-6.75755690e-5 + s * (-1.10055411e-4 + s * p)))
