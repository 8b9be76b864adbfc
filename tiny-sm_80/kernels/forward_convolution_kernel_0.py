

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 4, 'num_stages': 3}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['C', 'OUTPUTS', 'KERNEL_H', 'KERNEL_W', 'STRIDE_H', 'STRIDE_W', 'PADDING_H', 'PADDING_W', 'X_MULTIPLE', 'RESIDUAL_MULTIPLE', 'ACTIVATION', 'B_N', 'B_H', 'B_W', 'WIDE', 'NARROW', 'INNER', 'STAGES'], 'kernel_name': 'convolution_kernel_0', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': '*bf16', 'p_residual': 'constexpr', 'p_y': '*bf16', 'batch': 'i32', 'height': 'i32', 'width': 'i32', 'y_height': 'i32', 'y_width': 'i32', 'x_n': 'i32', 'x_h': 'i32', 'x_w': 'i32', 'residual_n': 'i32', 'residual_h': 'i32', 'residual_w': 'i32', 'C': 'constexpr', 'OUTPUTS': 'constexpr', 'KERNEL_H': 'constexpr', 'KERNEL_W': 'constexpr', 'STRIDE_H': 'constexpr', 'STRIDE_W': 'constexpr', 'PADDING_H': 'constexpr', 'PADDING_W': 'constexpr', 'X_MULTIPLE': 'constexpr', 'RESIDUAL_MULTIPLE': 'constexpr', 'ACTIVATION': 'constexpr', 'B_N': 'constexpr', 'B_H': 'constexpr', 'B_W': 'constexpr', 'WIDE': 'constexpr', 'NARROW': 'constexpr', 'INNER': 'constexpr', 'STAGES': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_residual': None, 'C': 3, 'OUTPUTS': 8, 'KERNEL_H': 3, 'KERNEL_W': 3, 'STRIDE_H': 2, 'STRIDE_W': 2, 'PADDING_H': 1, 'PADDING_W': 1, 'X_MULTIPLE': 1, 'RESIDUAL_MULTIPLE': 8, 'ACTIVATION': 'relu', 'B_N': 1, 'B_H': 4, 'B_W': 8, 'WIDE': 16, 'NARROW': 0, 'INNER': 64, 'STAGES': 4}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (4,): [['tt.divisibility', 16]], (6,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (8,): [['tt.divisibility', 16]], (9,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (14,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]]}]},
    filename=__file__,
    custom_kernel=True,
)
@triton.jit
def convolution_kernel(
    p_x, p_weight, p_bias, p_residual, p_y, batch, height, width, y_height, y_width, x_n, x_h, x_w,
    residual_n, residual_h, residual_w, C: tl.constexpr, OUTPUTS: tl.constexpr, KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr, X_MULTIPLE: tl.constexpr, RESIDUAL_MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    B_N: tl.constexpr, B_H: tl.constexpr, B_W: tl.constexpr, WIDE: tl.constexpr, NARROW: tl.constexpr,
    INNER: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """y[n, h, w] = residual[n, h, w] + activation(weight · x[n, h s - p : … + kernel, w s - p : … + kernel] + bias).

    Strides s and paddings p of lines and of columns; what lies beyond an image is zero. X_MULTIPLE divides the strides
    of x in memory: so many channels are one aligned piece of it. RESIDUAL_MULTIPLE is the same of the residual.
    """
    K: tl.constexpr = KERNEL_H * KERNEL_W * C
    BLOCK: tl.constexpr = WIDE + NARROW
    BLOCKS: tl.constexpr = (OUTPUTS + BLOCK - 1) // BLOCK
    x_n, x_h, x_w = _multiples(x_n, x_h, x_w, X_MULTIPLE)
    residual_n, residual_h, residual_w = _multiples(residual_n, residual_h, residual_w, RESIDUAL_MULTIPLE)
    i_tile = tl.program_id(0) // BLOCKS
    tiles_w, tiles_h = tl.cdiv(y_width, B_W), tl.cdiv(y_height, B_H)
    o_row = tl.arange(0, B_N * B_H * B_W)
    o_w = i_tile % tiles_w * B_W + o_row % B_W
    o_h = i_tile // tiles_w % tiles_h * B_H + o_row // B_W % B_H
    i_n = (i_tile // tiles_w // tiles_h * B_N).to(tl.int64)
    is_row = (o_h < y_height) & (o_w < y_width)
    x_line, x_column = o_h * STRIDE_H - PADDING_H, o_w * STRIDE_W - PADDING_W
    p_row = p_x + i_n * x_n + (x_line * x_h + x_column * x_w)
    p_y += i_n * y_height * y_width * OUTPUTS
    o_y = (o_h * y_width + o_w) * OUTPUTS
    o_residual = i_n * residual_n + (o_h * residual_h + o_w * residual_w)
    if B_N > 1:  # offsets within an image take 32 bits, those of images 64
        o_n = (o_row // (B_W * B_H)).to(tl.int64)
        is_row = is_row & (i_n + o_n < batch)
        p_row += o_n * x_n
        o_y += o_n * y_height * y_width * OUTPUTS
        o_residual += o_n * residual_n

    x_line = tl.where(is_row, x_line, NO_ROW)
    lines = (tl.zeros((1, 1), tl.int32) + height).to(tl.uint32)
    columns = (tl.zeros((1, 1), tl.int32) + width).to(tl.uint32)

    o_out = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, WIDE)
    b_y = tl.zeros((B_N * B_H * B_W, WIDE), tl.float32)
    if NARROW:
        o_narrow = tl.program_id(0) % BLOCKS * BLOCK + WIDE + tl.arange(0, NARROW)
        b_narrow = tl.zeros((B_N * B_H * B_W, NARROW), tl.float32)
    for i_step in tl.range(0, tl.cdiv(K, INNER), num_stages=STAGES):
        o_k = i_step * INNER + tl.arange(0, INNER)
        o_tap = o_k // C
        tap_h, tap_w = o_tap // KERNEL_W, o_tap % KERNEL_W
        p_taps = p_row[:, None] + (tap_h * x_h + tap_w * x_w + o_k % C)[None, :]
        line = (x_line[:, None] + tl.where(o_k < K, tap_h, NO_TAP)[None, :]).to(tl.uint32, bitcast=True)
        column = (x_column[:, None] + tap_w[None, :]).to(tl.uint32, bitcast=True)
        b_x = tl.load(p_taps, mask=(line < lines) & (column < columns), other=0.0)
        b_weight = _load_weight(p_weight, o_out, o_k, OUTPUTS, K)
        b_y = tl.dot(b_x, b_weight.T, b_y, input_precision="ieee")
        if NARROW:
            b_weight = _load_weight(p_weight, o_narrow, o_k, OUTPUTS, K)
            b_narrow = tl.dot(b_x, b_weight.T, b_narrow, input_precision="ieee")

    _store(b_y, o_out, p_bias, p_residual, p_y, o_residual, o_y, is_row, OUTPUTS, ACTIVATION)
    if NARROW:
        _store(b_narrow, o_narrow, p_bias, p_residual, p_y, o_residual, o_y, is_row, OUTPUTS, ACTIVATION)

@triton.jit
def _multiples(stride_n, stride_h, stride_w, MULTIPLE: tl.constexpr):
    """The strides, so that the compiler knows them to be multiples: of a number it only asks whether 16 divides it."""
    if MULTIPLE > 1:
        stride_n = stride_n // MULTIPLE * MULTIPLE
        stride_h = stride_h // MULTIPLE * MULTIPLE
        stride_w = stride_w // MULTIPLE * MULTIPLE
    return stride_n, stride_h, stride_w

NO_ROW = tl.constexpr(-1073741824)

NO_TAP = tl.constexpr(536870912)

@triton.jit
def _load_weight(p_weight, o_out, o_k, OUTPUTS: tl.constexpr, K: tl.constexpr):
    """(outputs, INNER), zero beyond both ends."""
    exists = (o_out < OUTPUTS)[:, None] & (o_k < K)[None, :]
    return tl.load(p_weight + o_out[:, None].to(tl.int64) * K + o_k[None, :], mask=exists, other=0.0)

@triton.jit
def _store(
    b_y, o_out, p_bias, p_residual, p_y, o_residual, o_y, is_row, OUTPUTS: tl.constexpr, ACTIVATION: tl.constexpr
):
    """residual + activation(b_y + bias), rounded once; o_residual and o_y: where each row starts."""
    is_out = o_out < OUTPUTS
    exists = is_row[:, None] & is_out[None, :]
    if p_bias is not None:
        b_y += tl.load(p_bias + o_out, mask=is_out, other=0.0).to(tl.float32)[None, :]
    b_y = activated(b_y, ACTIVATION)
    if p_residual is not None:
        b_y += tl.load(p_residual + o_residual[:, None] + o_out[None, :], mask=exists, other=0.0).to(tl.float32)
    tl.store(p_y + o_y[:, None] + o_out[None, :], b_y.to(p_y.dtype.element_ty), mask=exists)

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
