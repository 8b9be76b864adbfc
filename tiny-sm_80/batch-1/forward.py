# AOT ID: ['0_inference']
from ctypes import c_void_p, c_long, c_int
import torch
import math
import random
import os
import tempfile
from math import inf, nan
from cmath import nanj
from torch._inductor.hooks import run_intermediate_hooks
from torch._inductor.utils import maybe_profile
from torch._inductor.codegen.memory_planning import _align as align
from torch import device, empty_strided
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.select_algorithm import extern_kernels
from torch._C._dynamo.guards import copy_if_misaligned
import triton
import triton.language as tl
from torch._inductor.runtime.triton_heuristics import start_graph, end_graph
from torch._C import _cuda_getCurrentRawStream as get_raw_stream
from torch._inductor.runtime.runtime_utils import assert_tensor_metadata

aten = torch.ops.aten
inductor_ops = torch.ops.inductor
_quantized = torch.ops._quantized
assert_size_stride = torch._C._dynamo.guards.assert_size_stride
assert_size_stride_grouped = torch._C._dynamo.guards.assert_size_stride_grouped
assert_alignment = torch._C._dynamo.guards.assert_alignment
empty_strided_cpu = torch._C._dynamo.guards._empty_strided_cpu
empty_strided_cpu_pinned = torch._C._dynamo.guards._empty_strided_cpu_pinned
empty_strided_cuda = torch._C._dynamo.guards._empty_strided_cuda
empty_strided_xpu = torch._C._dynamo.guards._empty_strided_xpu
empty_strided_mtia = torch._C._dynamo.guards._empty_strided_mtia
reinterpret_tensor = torch._C._dynamo.guards._reinterpret_tensor
alloc_from_pool = torch.ops.inductor._alloc_from_pool
async_compile = AsyncCompile()
empty_strided_p2p = torch._C._distributed_c10d._SymmetricMemory.empty_strided_p2p


# Original path: /work/main/kernels/convolution/triton_kernel.py:53
convolution_kernel_0 = async_compile.triton('convolution_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 4, 'num_stages': 3}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['C', 'OUTPUTS', 'KERNEL_H', 'KERNEL_W', 'STRIDE_H', 'STRIDE_W', 'PADDING_H', 'PADDING_W', 'X_MULTIPLE', 'RESIDUAL_MULTIPLE', 'ACTIVATION', 'B_N', 'B_H', 'B_W', 'WIDE', 'NARROW', 'INNER', 'STAGES'], 'kernel_name': 'convolution_kernel_0', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': '*bf16', 'p_residual': 'constexpr', 'p_y': '*bf16', 'batch': 'constexpr', 'height': 'i32', 'width': 'i32', 'y_height': 'i32', 'y_width': 'i32', 'x_n': 'i32', 'x_h': 'i32', 'x_w': 'i32', 'residual_n': 'i32', 'residual_h': 'i32', 'residual_w': 'i32', 'C': 'constexpr', 'OUTPUTS': 'constexpr', 'KERNEL_H': 'constexpr', 'KERNEL_W': 'constexpr', 'STRIDE_H': 'constexpr', 'STRIDE_W': 'constexpr', 'PADDING_H': 'constexpr', 'PADDING_W': 'constexpr', 'X_MULTIPLE': 'constexpr', 'RESIDUAL_MULTIPLE': 'constexpr', 'ACTIVATION': 'constexpr', 'B_N': 'constexpr', 'B_H': 'constexpr', 'B_W': 'constexpr', 'WIDE': 'constexpr', 'NARROW': 'constexpr', 'INNER': 'constexpr', 'STAGES': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_residual': None, 'batch': 1, 'C': 3, 'OUTPUTS': 8, 'KERNEL_H': 3, 'KERNEL_W': 3, 'STRIDE_H': 2, 'STRIDE_W': 2, 'PADDING_H': 1, 'PADDING_W': 1, 'X_MULTIPLE': 1, 'RESIDUAL_MULTIPLE': 8, 'ACTIVATION': 'relu', 'B_N': 1, 'B_H': 4, 'B_W': 8, 'WIDE': 16, 'NARROW': 0, 'INNER': 64, 'STAGES': 4}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (4,): [['tt.divisibility', 16]], (6,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (8,): [['tt.divisibility', 16]], (9,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (14,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]]}]},
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
''', device_str='cuda')


# Original path: /work/main/kernels/convolution/triton_kernel.py:53
convolution_kernel_1 = async_compile.triton('convolution_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 4, 'num_stages': 3}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['C', 'OUTPUTS', 'KERNEL_H', 'KERNEL_W', 'STRIDE_H', 'STRIDE_W', 'PADDING_H', 'PADDING_W', 'X_MULTIPLE', 'RESIDUAL_MULTIPLE', 'ACTIVATION', 'B_N', 'B_H', 'B_W', 'WIDE', 'NARROW', 'INNER', 'STAGES'], 'kernel_name': 'convolution_kernel_1', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': '*bf16', 'p_residual': 'constexpr', 'p_y': '*bf16', 'batch': 'constexpr', 'height': 'i32', 'width': 'i32', 'y_height': 'i32', 'y_width': 'i32', 'x_n': 'i32', 'x_h': 'i32', 'x_w': 'i32', 'residual_n': 'i32', 'residual_h': 'i32', 'residual_w': 'i32', 'C': 'constexpr', 'OUTPUTS': 'constexpr', 'KERNEL_H': 'constexpr', 'KERNEL_W': 'constexpr', 'STRIDE_H': 'constexpr', 'STRIDE_W': 'constexpr', 'PADDING_H': 'constexpr', 'PADDING_W': 'constexpr', 'X_MULTIPLE': 'constexpr', 'RESIDUAL_MULTIPLE': 'constexpr', 'ACTIVATION': 'constexpr', 'B_N': 'constexpr', 'B_H': 'constexpr', 'B_W': 'constexpr', 'WIDE': 'constexpr', 'NARROW': 'constexpr', 'INNER': 'constexpr', 'STAGES': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_residual': None, 'batch': 1, 'C': 8, 'OUTPUTS': 16, 'KERNEL_H': 3, 'KERNEL_W': 3, 'STRIDE_H': 2, 'STRIDE_W': 2, 'PADDING_H': 1, 'PADDING_W': 1, 'X_MULTIPLE': 8, 'RESIDUAL_MULTIPLE': 8, 'ACTIVATION': 'relu', 'B_N': 1, 'B_H': 4, 'B_W': 8, 'WIDE': 16, 'NARROW': 0, 'INNER': 64, 'STAGES': 4}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (4,): [['tt.divisibility', 16]], (6,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (8,): [['tt.divisibility', 16]], (9,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (14,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]]}]},
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
''', device_str='cuda')


# Original path: /work/main/kernels/convolution/triton_kernel.py:53
convolution_kernel_2 = async_compile.triton('convolution_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 4, 'num_stages': 3}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['C', 'OUTPUTS', 'KERNEL_H', 'KERNEL_W', 'STRIDE_H', 'STRIDE_W', 'PADDING_H', 'PADDING_W', 'X_MULTIPLE', 'RESIDUAL_MULTIPLE', 'ACTIVATION', 'B_N', 'B_H', 'B_W', 'WIDE', 'NARROW', 'INNER', 'STAGES'], 'kernel_name': 'convolution_kernel_2', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': '*bf16', 'p_residual': 'constexpr', 'p_y': '*bf16', 'batch': 'constexpr', 'height': 'i32', 'width': 'i32', 'y_height': 'i32', 'y_width': 'i32', 'x_n': 'i32', 'x_h': 'i32', 'x_w': 'i32', 'residual_n': 'i32', 'residual_h': 'i32', 'residual_w': 'i32', 'C': 'constexpr', 'OUTPUTS': 'constexpr', 'KERNEL_H': 'constexpr', 'KERNEL_W': 'constexpr', 'STRIDE_H': 'constexpr', 'STRIDE_W': 'constexpr', 'PADDING_H': 'constexpr', 'PADDING_W': 'constexpr', 'X_MULTIPLE': 'constexpr', 'RESIDUAL_MULTIPLE': 'constexpr', 'ACTIVATION': 'constexpr', 'B_N': 'constexpr', 'B_H': 'constexpr', 'B_W': 'constexpr', 'WIDE': 'constexpr', 'NARROW': 'constexpr', 'INNER': 'constexpr', 'STAGES': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_residual': None, 'batch': 1, 'C': 16, 'OUTPUTS': 16, 'KERNEL_H': 3, 'KERNEL_W': 3, 'STRIDE_H': 1, 'STRIDE_W': 1, 'PADDING_H': 1, 'PADDING_W': 1, 'X_MULTIPLE': 8, 'RESIDUAL_MULTIPLE': 8, 'ACTIVATION': 'gelu_tanh', 'B_N': 1, 'B_H': 4, 'B_W': 8, 'WIDE': 16, 'NARROW': 0, 'INNER': 64, 'STAGES': 4}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (4,): [['tt.divisibility', 16]], (6,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (8,): [['tt.divisibility', 16]], (9,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (12,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (14,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]]}]},
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
''', device_str='cuda')


# Original path: /work/main/kernels/convolution/triton_kernel.py:53
convolution_kernel_3 = async_compile.triton('convolution_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 4, 'num_stages': 3}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['C', 'OUTPUTS', 'KERNEL_H', 'KERNEL_W', 'STRIDE_H', 'STRIDE_W', 'PADDING_H', 'PADDING_W', 'X_MULTIPLE', 'RESIDUAL_MULTIPLE', 'ACTIVATION', 'B_N', 'B_H', 'B_W', 'WIDE', 'NARROW', 'INNER', 'STAGES'], 'kernel_name': 'convolution_kernel_3', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': '*bf16', 'p_residual': '*bf16', 'p_y': '*bf16', 'batch': 'constexpr', 'height': 'i32', 'width': 'i32', 'y_height': 'i32', 'y_width': 'i32', 'x_n': 'i32', 'x_h': 'i32', 'x_w': 'i32', 'residual_n': 'i32', 'residual_h': 'i32', 'residual_w': 'i32', 'C': 'constexpr', 'OUTPUTS': 'constexpr', 'KERNEL_H': 'constexpr', 'KERNEL_W': 'constexpr', 'STRIDE_H': 'constexpr', 'STRIDE_W': 'constexpr', 'PADDING_H': 'constexpr', 'PADDING_W': 'constexpr', 'X_MULTIPLE': 'constexpr', 'RESIDUAL_MULTIPLE': 'constexpr', 'ACTIVATION': 'constexpr', 'B_N': 'constexpr', 'B_H': 'constexpr', 'B_W': 'constexpr', 'WIDE': 'constexpr', 'NARROW': 'constexpr', 'INNER': 'constexpr', 'STAGES': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'batch': 1, 'C': 16, 'OUTPUTS': 16, 'KERNEL_H': 3, 'KERNEL_W': 3, 'STRIDE_H': 1, 'STRIDE_W': 1, 'PADDING_H': 1, 'PADDING_W': 1, 'X_MULTIPLE': 8, 'RESIDUAL_MULTIPLE': 8, 'ACTIVATION': 'none', 'B_N': 1, 'B_H': 4, 'B_W': 8, 'WIDE': 16, 'NARROW': 0, 'INNER': 64, 'STAGES': 4}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (3,): [['tt.divisibility', 16]], (4,): [['tt.divisibility', 16]], (6,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (8,): [['tt.divisibility', 16]], (9,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (12,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (14,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]]}]},
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
''', device_str='cuda')


# Original path: /work/main/kernels/convolution/triton_kernel.py:53
convolution_kernel_4 = async_compile.triton('convolution_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 4, 'num_stages': 3}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['C', 'OUTPUTS', 'KERNEL_H', 'KERNEL_W', 'STRIDE_H', 'STRIDE_W', 'PADDING_H', 'PADDING_W', 'X_MULTIPLE', 'RESIDUAL_MULTIPLE', 'ACTIVATION', 'B_N', 'B_H', 'B_W', 'WIDE', 'NARROW', 'INNER', 'STAGES'], 'kernel_name': 'convolution_kernel_4', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': '*bf16', 'p_residual': 'constexpr', 'p_y': '*bf16', 'batch': 'constexpr', 'height': 'i32', 'width': 'i32', 'y_height': 'i32', 'y_width': 'i32', 'x_n': 'i32', 'x_h': 'i32', 'x_w': 'i32', 'residual_n': 'i32', 'residual_h': 'i32', 'residual_w': 'i32', 'C': 'constexpr', 'OUTPUTS': 'constexpr', 'KERNEL_H': 'constexpr', 'KERNEL_W': 'constexpr', 'STRIDE_H': 'constexpr', 'STRIDE_W': 'constexpr', 'PADDING_H': 'constexpr', 'PADDING_W': 'constexpr', 'X_MULTIPLE': 'constexpr', 'RESIDUAL_MULTIPLE': 'constexpr', 'ACTIVATION': 'constexpr', 'B_N': 'constexpr', 'B_H': 'constexpr', 'B_W': 'constexpr', 'WIDE': 'constexpr', 'NARROW': 'constexpr', 'INNER': 'constexpr', 'STAGES': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_residual': None, 'batch': 1, 'C': 32, 'OUTPUTS': 32, 'KERNEL_H': 3, 'KERNEL_W': 3, 'STRIDE_H': 1, 'STRIDE_W': 1, 'PADDING_H': 1, 'PADDING_W': 1, 'X_MULTIPLE': 8, 'RESIDUAL_MULTIPLE': 8, 'ACTIVATION': 'gelu_tanh', 'B_N': 1, 'B_H': 4, 'B_W': 8, 'WIDE': 32, 'NARROW': 0, 'INNER': 64, 'STAGES': 4}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (4,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (12,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (14,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]]}]},
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
''', device_str='cuda')


# Original path: /work/main/kernels/convolution/triton_kernel.py:53
convolution_kernel_5 = async_compile.triton('convolution_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 4, 'num_stages': 3}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['C', 'OUTPUTS', 'KERNEL_H', 'KERNEL_W', 'STRIDE_H', 'STRIDE_W', 'PADDING_H', 'PADDING_W', 'X_MULTIPLE', 'RESIDUAL_MULTIPLE', 'ACTIVATION', 'B_N', 'B_H', 'B_W', 'WIDE', 'NARROW', 'INNER', 'STAGES'], 'kernel_name': 'convolution_kernel_5', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': '*bf16', 'p_residual': '*bf16', 'p_y': '*bf16', 'batch': 'constexpr', 'height': 'i32', 'width': 'i32', 'y_height': 'i32', 'y_width': 'i32', 'x_n': 'i32', 'x_h': 'i32', 'x_w': 'i32', 'residual_n': 'i32', 'residual_h': 'i32', 'residual_w': 'i32', 'C': 'constexpr', 'OUTPUTS': 'constexpr', 'KERNEL_H': 'constexpr', 'KERNEL_W': 'constexpr', 'STRIDE_H': 'constexpr', 'STRIDE_W': 'constexpr', 'PADDING_H': 'constexpr', 'PADDING_W': 'constexpr', 'X_MULTIPLE': 'constexpr', 'RESIDUAL_MULTIPLE': 'constexpr', 'ACTIVATION': 'constexpr', 'B_N': 'constexpr', 'B_H': 'constexpr', 'B_W': 'constexpr', 'WIDE': 'constexpr', 'NARROW': 'constexpr', 'INNER': 'constexpr', 'STAGES': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'batch': 1, 'C': 32, 'OUTPUTS': 32, 'KERNEL_H': 3, 'KERNEL_W': 3, 'STRIDE_H': 1, 'STRIDE_W': 1, 'PADDING_H': 1, 'PADDING_W': 1, 'X_MULTIPLE': 8, 'RESIDUAL_MULTIPLE': 8, 'ACTIVATION': 'none', 'B_N': 1, 'B_H': 4, 'B_W': 8, 'WIDE': 32, 'NARROW': 0, 'INNER': 64, 'STAGES': 4}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (3,): [['tt.divisibility', 16]], (4,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (12,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (14,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]]}]},
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
''', device_str='cuda')


# kernel path: /tmp/aa/mvc-offline-zvc86n8v/inductor/ae/cae3nw3tvtetqomr2hjhgzl474lvl55uug44jwnnucx4l2v2iilr.py
# Topologically Sorted Source Nodes: [x_3, reshape, x_4, tokens, fused_linear_triton_default, fused_linear_triton_default_1], Original ATen: [aten.permute, aten.view, aten.transpose, aten.clone, aten._unsafe_view]
# Source node to ATen node mapping:
#   fused_linear_triton_default => triton_kernel_wrapper_mutation_19, view_8
#   fused_linear_triton_default_1 => triton_kernel_wrapper_mutation_17, view_12, view_13
#   reshape => view_6
#   tokens => clone, view_7
#   x_3 => permute_24
#   x_4 => permute_25
# Graph fragment:
#   %convolution_1 : Tensor "bf16[1, 64, 4, 4][1024, 1, 256, 64]cuda:0" = PlaceHolder[target=convolution_1]
#   %permute_24 : Tensor "bf16[1, 4, 4, 64][1024, 256, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.permute.default](args = (%convolution_1, [0, 2, 3, 1]), kwargs = {})
#   %view_6 : Tensor "bf16[1, 2, 2, 2, 2, 64][1024, 512, 256, 128, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.reshape.default](args = (%permute_24, [1, 2, 2, 2, 2, 64]), kwargs = {})
#   %permute_25 : Tensor "bf16[1, 2, 2, 2, 2, 64][1024, 512, 128, 256, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.permute.default](args = (%view_6, [0, 1, 3, 2, 4, 5]), kwargs = {})
#   %clone : Tensor "bf16[1, 2, 2, 2, 2, 64][1024, 512, 256, 128, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.clone.default](args = (%permute_25,), kwargs = {memory_format: torch.contiguous_format})
#   %view_7 : Tensor "bf16[4, 4, 64][256, 64, 1]cuda:0"[num_users=2] = call_function[target=torch.ops.aten.reshape.default](args = (%clone, [4, 4, 64]), kwargs = {})
#   %view_8 : Tensor "bf16[16, 64][64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.reshape.default](args = (%view_7, [16, 64]), kwargs = {})
#   %triton_kernel_wrapper_mutation_19 : [num_users=0] = call_function[target=torch.ops.higher_order.triton_kernel_wrapper_mutation](args = (), kwargs = {kernel_idx: 86, constant_args_idx: 82, grid: [(2, 1, 1)], tma_descriptor_metadata: {}, kwargs: {p_x: %view_8, p_weight: %arg5_1, p_norm_weight: %arg3_1, p_norm_bias: %arg4_1, p_y: %empty_6, rows: 16, columns: 64, inner: 64, x_m: 64, x_k: 1, weight_n: 64, weight_k: 1, residual_m: 0, residual_n: 0, BM: 16, BN: 32, BK: 128, GROUP: 8, STAGES: 4, SPLIT: False, OF_N: 32, OF_K: 64, OF_ROWS: 16, NORM_EPS: 1e-05, ACTIVATION: none}, launch_kwargs: (BM, BN, BK, GROUP, STAGES, SPLIT, OF_N, OF_K, OF_ROWS, NORM_EPS, ACTIVATION)})
#   %view_13 : Tensor "bf16[16, 64][64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.reshape.default](args = (%convert_element_type_3, [16, 64]), kwargs = {})
#   %view_12 : Tensor "bf16[16, 64][64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.reshape.default](args = (%view_7, [16, 64]), kwargs = {})
#   %triton_kernel_wrapper_mutation_17 : [num_users=0] = call_function[target=torch.ops.higher_order.triton_kernel_wrapper_mutation](args = (), kwargs = {kernel_idx: 88, constant_args_idx: 84, grid: [(2, 1, 1)], tma_descriptor_metadata: {}, kwargs: {p_x: %view_13, p_weight: %arg7_1, p_residual: %view_12, p_y: %empty_7, rows: 16, columns: 64, inner: 64, x_m: 64, x_k: 1, weight_n: 64, weight_k: 1, residual_m: 64, residual_n: 1, BM: 16, BN: 32, BK: 128, GROUP: 8, STAGES: 4, SPLIT: False, OF_N: 32, OF_K: 64, OF_ROWS: 16, ACTIVATION: none}, launch_kwargs: (BM, BN, BK, GROUP, STAGES, SPLIT, OF_N, OF_K, OF_ROWS, NORM_EPS, ACTIVATION)})
#   return %buf15,%buf22
triton_poi_fused__unsafe_view_clone_permute_transpose_view_0 = async_compile.triton('triton_poi_fused__unsafe_view_clone_permute_transpose_view_0', '''
import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties
triton_helpers.set_driver_to_gpu()

@triton_heuristics.pointwise(
    size_hints={'x': 1024}, 
    filename=__file__,
    triton_meta={'signature': {'in_ptr0': '*bf16', 'out_ptr0': '*bf16', 'out_ptr1': '*bf16', 'xnumel': 'i32', 'XBLOCK': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {}, 'native_matmul': False, 'enable_fp_fusion': True, 'launch_pdl': False, 'disable_ftz': False, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (3,): [['tt.divisibility', 16]]}]},
    inductor_meta={'grid_type': 'Grid1D', 'kernel_name': 'triton_poi_fused__unsafe_view_clone_permute_transpose_view_0', 'mutated_arg_names': [], 'optimize_mem': True, 'no_x_dim': False, 'atomic_add_found': False, 'num_load': 1, 'num_store': 2, 'num_reduction': 0, 'autotune_hints': set(), 'tiling_scores': {'x': 10240}, 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    min_elem_per_thread=0
)
@triton.jit
def triton_poi_fused__unsafe_view_clone_permute_transpose_view_0(in_ptr0, out_ptr0, out_ptr1, xnumel, XBLOCK : tl.constexpr):
    xnumel = 1024
    xoffset = tl.program_id(0) * XBLOCK
    xindex = xoffset + tl.arange(0, XBLOCK)[:]
    xmask = xindex < xnumel
    x0 = (xindex % 64)
    x1 = xindex // 64
    x2 = xindex
    tmp0 = tl.load(in_ptr0 + (x0 + 64*((x1 % 2)) + 128*(((x1 // 4) % 2)) + 256*(((x1 // 2) % 2)) + 512*(x1 // 8)), xmask).to(tl.float32)
    tl.store(out_ptr0 + (x2), tmp0, xmask)
    tl.store(out_ptr1 + (x2), tmp0, xmask)
''', device_str='cuda')


# Original path: /work/main/kernels/linear/triton_kernel.py:97
linear_kernel_6 = async_compile.triton('linear_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 2, 'num_stages': 4}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['BM', 'BN', 'BK', 'GROUP', 'STAGES', 'SPLIT', 'OF_N', 'OF_K', 'OF_ROWS', 'NORM_EPS', 'ACTIVATION'], 'kernel_name': 'linear_kernel_6', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': 'constexpr', 'p_norm_weight': '*bf16', 'p_norm_bias': '*bf16', 'p_scale': 'constexpr', 'p_residual': 'constexpr', 'p_y': '*bf16', 'rows': 'i32', 'columns': 'i32', 'inner': 'i32', 'x_m': 'i32', 'x_k': 'constexpr', 'weight_n': 'i32', 'weight_k': 'constexpr', 'residual_m': 'i32', 'residual_n': 'i32', 'BM': 'constexpr', 'BN': 'constexpr', 'BK': 'constexpr', 'GROUP': 'constexpr', 'STAGES': 'constexpr', 'SPLIT': 'constexpr', 'OF_N': 'constexpr', 'OF_K': 'constexpr', 'OF_ROWS': 'constexpr', 'NORM_EPS': 'constexpr', 'ACTIVATION': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_bias': None, 'p_scale': None, 'p_residual': None, 'x_k': 1, 'weight_k': 1, 'BM': 16, 'BN': 32, 'BK': 128, 'GROUP': 8, 'STAGES': 4, 'SPLIT': False, 'OF_N': 32, 'OF_K': 64, 'OF_ROWS': 16, 'NORM_EPS': 1e-05, 'ACTIVATION': 'none'}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (3,): [['tt.divisibility', 16]], (4,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (8,): [['tt.divisibility', 16]], (9,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]], (16,): [['tt.divisibility', 16]]}]},
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
''', device_str='cuda')


# kernel path: /tmp/aa/mvc-offline-zvc86n8v/inductor/7m/c7mke7t3megwixwbcwjxrkl3zmuztjljowkrar6kpbyhodlt76j3.py
# Topologically Sorted Source Nodes: [to_2, pad, getitem_27, getitem_24, mul, getitem_25, mul_1, add_12, getitem_31, getitem_26, mul_2, add_13, to_4, silu_6], Original ATen: [aten._to_copy, aten.constant_pad_nd, aten.slice, aten.select, aten.mul, aten.add, aten.silu]
# Source node to ATen node mapping:
#   add_12 => add
#   add_13 => add_1
#   getitem_24 => select, select_1
#   getitem_25 => select_2, select_3
#   getitem_26 => select_4, select_5
#   getitem_27 => slice_1
#   getitem_31 => slice_2
#   mul => mul
#   mul_1 => mul_1
#   mul_2 => mul_2
#   pad => constant_pad_nd
#   silu_6 => add_2, convert_element_type_2, convert_element_type_3, div, exp, neg
#   to_2 => convert_element_type
#   to_4 => convert_element_type_1
# Graph fragment:
#   %buf16 : Tensor  = PlaceHolder[target=buf16]
#   %arg68_1 : Tensor "f32[64, 1, 3][3, 3, 1]cuda:0" = PlaceHolder[target=arg68_1]
#   %convert_element_type_2 : Tensor "f32[4, 4, 64][256, 64, 1]cuda:0" = PlaceHolder[target=convert_element_type_2]
#   %convert_element_type : Tensor "f32[4, 4, 64][256, 64, 1]cuda:0"[num_users=2] = call_function[target=torch.ops.prims.convert_element_type.default](args = (%empty_6, torch.float32), kwargs = {})
#   %constant_pad_nd : Tensor "f32[4, 6, 64][384, 64, 1]cuda:0"[num_users=2] = call_function[target=torch.ops.aten.constant_pad_nd.default](args = (%convert_element_type, [0, 0, 1, 1], 0.0), kwargs = {})
#   %slice_1 : Tensor "f32[4, 4, 64][384, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.slice.Tensor](args = (%constant_pad_nd, 1, 0, -2), kwargs = {})
#   %select : Tensor "f32[64, 3][3, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.select.int](args = (%arg68_1, 1, 0), kwargs = {})
#   %select_1 : Tensor "f32[64][3]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.select.int](args = (%select, 1, 0), kwargs = {})
#   %mul : Tensor "f32[4, 4, 64][256, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.mul.Tensor](args = (%slice_1, %select_1), kwargs = {})
#   %select_2 : Tensor "f32[64, 3][3, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.select.int](args = (%arg68_1, 1, 0), kwargs = {})
#   %select_3 : Tensor "f32[64][3]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.select.int](args = (%select_2, 1, 1), kwargs = {})
#   %mul_1 : Tensor "f32[4, 4, 64][256, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.mul.Tensor](args = (%convert_element_type, %select_3), kwargs = {})
#   %add : Tensor "f32[4, 4, 64][256, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.add.Tensor](args = (%mul, %mul_1), kwargs = {})
#   %slice_2 : Tensor "f32[4, 4, 64][384, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.slice.Tensor](args = (%constant_pad_nd, 1, 2, 9223372036854775807), kwargs = {})
#   %select_4 : Tensor "f32[64, 3][3, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.select.int](args = (%arg68_1, 1, 0), kwargs = {})
#   %select_5 : Tensor "f32[64][3]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.select.int](args = (%select_4, 1, 2), kwargs = {})
#   %mul_2 : Tensor "f32[4, 4, 64][256, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.mul.Tensor](args = (%slice_2, %select_5), kwargs = {})
#   %add_1 : Tensor "f32[4, 4, 64][256, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.add.Tensor](args = (%add, %mul_2), kwargs = {})
#   %convert_element_type_1 : Tensor "bf16[4, 4, 64][256, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.prims.convert_element_type.default](args = (%add_1, torch.bfloat16), kwargs = {})
#   %convert_element_type_2 : Tensor "f32[4, 4, 64][256, 64, 1]cuda:0"[num_users=2] = call_function[target=torch.ops.prims.convert_element_type.default](args = (%convert_element_type_1, torch.float32), kwargs = {})
#   %neg : Tensor "f32[4, 4, 64][256, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.neg.default](args = (%convert_element_type_2,), kwargs = {})
#   %exp : Tensor "f32[4, 4, 64][256, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.exp.default](args = (%neg,), kwargs = {})
#   %add_2 : Tensor "f32[4, 4, 64][256, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.add.Tensor](args = (%exp, 1), kwargs = {})
#   %div : Tensor "f32[4, 4, 64][256, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.div.Tensor](args = (%convert_element_type_2, %add_2), kwargs = {})
#   %convert_element_type_3 : Tensor "bf16[4, 4, 64][256, 64, 1]cuda:0"[num_users=4] = call_function[target=torch.ops.prims.convert_element_type.default](args = (%div, torch.bfloat16), kwargs = {})
#   return %convert_element_type_2,%convert_element_type_3
triton_poi_fused__to_copy_add_constant_pad_nd_mul_select_silu_slice_1 = async_compile.triton('triton_poi_fused__to_copy_add_constant_pad_nd_mul_select_silu_slice_1', '''
import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties
triton_helpers.set_driver_to_gpu()

@triton_heuristics.pointwise(
    size_hints={'x': 1024}, 
    filename=__file__,
    triton_meta={'signature': {'in_ptr0': '*bf16', 'in_ptr1': '*fp32', 'out_ptr1': '*bf16', 'xnumel': 'i32', 'XBLOCK': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {}, 'native_matmul': False, 'enable_fp_fusion': True, 'launch_pdl': False, 'disable_ftz': False, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (3,): [['tt.divisibility', 16]]}]},
    inductor_meta={'grid_type': 'Grid1D', 'kernel_name': 'triton_poi_fused__to_copy_add_constant_pad_nd_mul_select_silu_slice_1', 'mutated_arg_names': [], 'optimize_mem': True, 'no_x_dim': False, 'atomic_add_found': False, 'num_load': 6, 'num_store': 1, 'num_reduction': 0, 'autotune_hints': set(), 'tiling_scores': {'x': 4096}, 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    min_elem_per_thread=0
)
@triton.jit
def triton_poi_fused__to_copy_add_constant_pad_nd_mul_select_silu_slice_1(in_ptr0, in_ptr1, out_ptr1, xnumel, XBLOCK : tl.constexpr):
    xnumel = 1024
    xoffset = tl.program_id(0) * XBLOCK
    xindex = xoffset + tl.arange(0, XBLOCK)[:]
    xmask = xindex < xnumel
    x1 = ((xindex // 64) % 4)
    x3 = xindex
    x0 = (xindex % 64)
    tmp10 = tl.load(in_ptr1 + (3*x0), xmask, eviction_policy='evict_last')
    tmp12 = tl.load(in_ptr0 + (x3), xmask).to(tl.float32)
    tmp14 = tl.load(in_ptr1 + (1 + 3*x0), xmask, eviction_policy='evict_last')
    tmp25 = tl.load(in_ptr1 + (2 + 3*x0), xmask, eviction_policy='evict_last')
    tmp0 = ((-1) + x1).to(tl.int32)
    tmp1 = tl.full([1], 0, tl.int64)
    tmp2 = tmp0 >= tmp1
    tmp3 = tl.full([1], 4, tl.int64)
    tmp4 = tmp0 < tmp3
    tmp5 = tmp2 & tmp4
    tmp6 = tl.load(in_ptr0 + ((-64) + x3), tmp5 & xmask, other=0.0).to(tl.float32)
    tmp7 = tmp6.to(tl.float32)
    tmp8 = tl.full(tmp7.shape, 0.0, tmp7.dtype)
    tmp9 = tl.where(tmp5, tmp7, tmp8)
    tmp11 = tmp9 * tmp10
    tmp13 = tmp12.to(tl.float32)
    tmp15 = tmp13 * tmp14
    tmp16 = tmp11 + tmp15
    tmp17 = (1 + x1).to(tl.int32)
    tmp18 = tmp17 >= tmp1
    tmp19 = tmp17 < tmp3
    tmp20 = tmp18 & tmp19
    tmp21 = tl.load(in_ptr0 + (64 + x3), tmp20 & xmask, other=0.0).to(tl.float32)
    tmp22 = tmp21.to(tl.float32)
    tmp23 = tl.full(tmp22.shape, 0.0, tmp22.dtype)
    tmp24 = tl.where(tmp20, tmp22, tmp23)
    tmp26 = tmp24 * tmp25
    tmp27 = tmp16 + tmp26
    tmp28 = tmp27.to(tl.float32)
    tmp29 = tmp28.to(tl.float32)
    tmp30 = -tmp29
    tmp31 = libdevice.exp(tmp30)
    tmp32 = tl.full([1], 1.0, tl.float32)
    tmp33 = tmp31 + tmp32
    tmp34 = (tmp29 / tmp33)
    tmp35 = tmp34.to(tl.float32)
    tl.store(out_ptr1 + (x3), tmp35, xmask)
''', device_str='cuda')


# Original path: /work/main/kernels/scan/triton_forward.py:55
forward_kernel_7 = async_compile.triton('forward_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 4, 'num_stages': 3}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['CH', 'G', 'W', 'R', 'S', 'EVEN', 'PADDED', 'CONSTANT_B', 'CONSTANT_C', 'SOFTPLUS', 'REVERSE', 'EVERY'], 'kernel_name': 'forward_kernel_7', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_u': '*bf16', 'p_delta': '*bf16', 'p_A': '*fp32', 'p_B': '*bf16', 'p_C': '*bf16', 'p_D': '*fp32', 'p_z': 'constexpr', 'p_bias': '*fp32', 'p_start': 'constexpr', 'p_reset': 'constexpr', 'p_y': '*bf16', 'p_last': 'constexpr', 'p_states': 'constexpr', 'length': 'i32', 'dim': 'i32', 'states': 'i32', 'width': 'i32', 'chunk': 'i32', 'u_b': 'i32', 'u_l': 'i32', 'u_d': 'constexpr', 'delta_b': 'i32', 'delta_l': 'i32', 'delta_d': 'constexpr', 'z_b': 'i32', 'z_l': 'i32', 'z_d': 'i32', 'B_b': 'i32', 'B_l': 'i32', 'B_g': 'i32', 'B_n': 'constexpr', 'C_b': 'i32', 'C_l': 'i32', 'C_g': 'i32', 'C_n': 'constexpr', 'reset_b': 'i32', 'reset_l': 'i32', 'y_b': 'i32', 'y_l': 'i32', 'CH': 'constexpr', 'G': 'constexpr', 'W': 'constexpr', 'R': 'constexpr', 'S': 'constexpr', 'EVEN': 'constexpr', 'PADDED': 'constexpr', 'CONSTANT_B': 'constexpr', 'CONSTANT_C': 'constexpr', 'SOFTPLUS': 'constexpr', 'REVERSE': 'constexpr', 'EVERY': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_z': None, 'p_start': None, 'p_reset': None, 'p_last': None, 'p_states': None, 'u_d': 1, 'delta_d': 1, 'B_n': 1, 'C_n': 1, 'CH': 4, 'G': 8, 'W': 8, 'R': 2, 'S': 4, 'EVEN': True, 'PADDED': False, 'CONSTANT_B': False, 'CONSTANT_C': False, 'SOFTPLUS': True, 'REVERSE': False, 'EVERY': 1}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (3,): [['tt.divisibility', 16]], (4,): [['tt.divisibility', 16]], (5,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (14,): [['tt.divisibility', 16]], (16,): [['tt.divisibility', 16]], (17,): [['tt.divisibility', 16]], (18,): [['tt.divisibility', 16]], (19,): [['tt.divisibility', 16]], (21,): [['tt.divisibility', 16]], (22,): [['tt.divisibility', 16]], (24,): [['tt.divisibility', 16]], (25,): [['tt.divisibility', 16]], (26,): [['tt.divisibility', 16]], (27,): [['tt.divisibility', 16]], (28,): [['tt.divisibility', 16]], (31,): [['tt.divisibility', 16]], (32,): [['tt.divisibility', 16]], (35,): [['tt.divisibility', 16]], (36,): [['tt.divisibility', 16]], (37,): [['tt.divisibility', 16]], (38,): [['tt.divisibility', 16]]}]},
    filename=__file__,
    custom_kernel=True,
)
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

@triton.jit
def channels(width, SPAN: tl.constexpr, EVEN: tl.constexpr):
    """This program's group, which of the group's programs it is, its first channel, and how many of the SPAN channels
    from there are in the group: no program reaches into the next one. EVEN: SPAN divides the width of a group."""
    programs = tl.cdiv(width, SPAN)
    i_group = tl.program_id(0) // programs
    i_in_group = tl.program_id(0) % programs
    if EVEN:
        first = tl.program_id(0) * SPAN  # the same, and known to be a multiple of SPAN
    else:
        first = i_group * width + i_in_group * SPAN
    return i_group, i_in_group, first, width - i_in_group * SPAN

@triton.jit
def among(count, CH: tl.constexpr, EVEN: tl.constexpr):
    """Which of CH channels are among so many."""
    return tl.full((CH,), EVEN, tl.int1) | (tl.arange(0, CH) < count)

@triton.jit
def state_offsets(R: tl.constexpr, S: tl.constexpr):
    """The numbers of the states, (R, 1, S, 1)."""
    return tl.arange(0, S)[None, None, :, None] * R + tl.arange(0, R)[:, None, None, None]

@triton.jit
def finite(A):
    """Infinities as the largest numbers: zero times A is then zero, so that steps beyond the end change no state."""
    return tl.clamp(A, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL)

LARGEST = tl.constexpr(3.4028234663852886e+38)

LOG2E = tl.constexpr(1.4426950408889634)

@triton.jit
def load_channels(pointer, o_channel, inside):
    """A parameter of each channel, (1, CH); zero where it is absent."""
    if pointer is None:
        return tl.zeros(inside.shape, tl.float32)[None, :]
    else:
        return tl.load(pointer + o_channel, mask=inside, other=0.0).to(tl.float32)[None, :]

@triton.jit
def run_first(pointer, i_batch, stride_b, stride_l, length, REVERSE: tl.constexpr):
    """Where the step of a sequence lies that runs first, and how far from each step the next one is."""
    if REVERSE:
        return pointer + i_batch * stride_b + wide(length - 1) * stride_l, -stride_l
    else:
        return pointer + i_batch * stride_b, stride_l

@triton.jit
def wide(x):
    """An integer in 64 bits; a size of 1 is known when a kernel is compiled, and has no type of its own."""
    return tl.zeros((), tl.int64) + x

@triton.jit
def load_constant(pointer, o_channel, o_state, mask, stride_d, stride_n):
    """Constant B or C, (R, 1, CH, S, 1)."""
    o_cell = wide(o_channel[None, :, None, None]) * stride_d + o_state * stride_n
    return tl.load(pointer + o_cell, mask=mask, other=0.0).to(tl.float32)[:, None]

@triton.jit
def step_size(b_raw, SOFTPLUS: tl.constexpr):
    """Δ from delta + delta_bias, and its slope, from one exponential."""
    if SOFTPLUS:
        e = tl.exp2(-tl.abs(b_raw) * LOG2E)
        return tl.maximum(b_raw, 0.0) + log1p(e), tl.where(b_raw >= 0.0, 1.0, e) / (1.0 + e)
    else:
        return b_raw, tl.full(b_raw.shape, 1.0, tl.float32)

@triton.jit
def log1p(e):
    """log(1 + e) for e in [0, 1]: e times the minimax polynomial of degree 8, to 2e-7 of the value."""
    p = e * 0.005232693627476692 - 0.02950523979961872
    p = p * e + 0.07822596281766891
    p = p * e - 0.13663247227668762
    p = p * e + 0.19106008112430573
    p = p * e - 0.2484298199415207
    p = p * e + 0.3331909775733948
    p = p * e - 0.4999949336051941
    p = p * e + 0.9999999403953552
    return p * e

@triton.jit
def spread(x, y):
    """Both as they are: joined and split, they are computed where they were read and change their layout after that.
    triton 3.6 moves a change of layout ahead of a cast otherwise, so that every lane repeats the work."""
    return tl.split(tl.join(x, y))

@triton.jit
def placed(x, R: tl.constexpr, G: tl.constexpr, CH: tl.constexpr, S: tl.constexpr, W: tl.constexpr):
    """x broadcast to the tile, in the layout of the tile: the condition always holds, but Triton does not know, and
    does not go on in the layout of x; the machine code has no trace of it."""
    g = tl.arange(0, G)[None, :, None, None, None]
    return tl.where(g < G, x, tl.zeros((R, G, CH, S, W), x.dtype))

@triton.jit
def of_states(x, W: tl.constexpr, G: tl.constexpr, R: tl.constexpr, S: tl.constexpr):
    """(W * G, S * R) as (R, G, 1, S, W)."""
    return tl.permute(tl.reshape(x, (W, G, S, R)), (3, 1, 2, 0))[:, :, None, :, :]

@triton.jit
def of_steps(x, W: tl.constexpr, G: tl.constexpr, CH: tl.constexpr):
    """(W * G, CH) as (1, G, CH, 1, W)."""
    return tl.permute(tl.reshape(x, (W, G, CH)), (1, 2, 0))[None, :, :, None, :]

@triton.jit
def of_real_states(x, o_state, states, G: tl.constexpr, CH: tl.constexpr, W: tl.constexpr):
    """x of a tile; zero for the states that pad N, where zero times an infinite Δu would be NaN."""
    R: tl.constexpr = o_state.shape[0]
    S: tl.constexpr = o_state.shape[2]
    real = placed((o_state < states).to(tl.int32)[:, None], R, G, CH, S, W)
    return tl.where(real != 0, x, 0.0)

@triton.jit
def from_zero(a, b, resets):
    """Steps that reset: their decay is RESETS, and what it makes of a zero state, which may be NaN, is in b."""
    return tl.where(resets != 0, RESETS, a), tl.where(resets != 0, a * 0.0 + b, b)

RESETS = tl.constexpr(-1.0)

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
def row_decay(steps, resets, A, MAY_RESET: tl.constexpr, EXACT: tl.constexpr):
    """exp(A ΣΔ) over each row, or RESETS, (R, CH, S, W); A (R, CH, S, 1) is over ln 2.

    EXACT: it does not underflow, so that an infinite state stays infinite. It becomes NaN else, which serves gradients:
    they are to be finite in the same elements, no more.
    """
    if EXACT:
        p = decay_over(tl.sum(steps, 1), tl.min(steps, 1), tl.max(steps, 1), A)
    else:
        p = tl.exp2(tl.sum(steps, 1) * A)
    if MAY_RESET:
        p = tl.where(tl.max(resets, 1) != 0, RESETS, p)
    return p

@triton.jit
def decay_over(total, least, most, A):
    """exp(A ΣΔ) over steps of which the sum, the least and the most are known; A is over ln 2."""
    return never_vanishing(tl.exp2(total * A), tl.minimum(least * A, most * A))

@triton.jit
def never_vanishing(product, exponent):
    """A product of decays that may have underflowed: zero only where the smallest of them, two to this exponent, is
    one that GPUs may flush to zero, since an infinite state that decays stays infinite."""
    return tl.where((exponent >= -126.0) & (product < SMALLEST_NORMAL), SMALLEST_NORMAL, product)

SMALLEST_NORMAL = tl.constexpr(1.1754943508222875e-38)

@triton.jit
def forward_starts(a, b, p, h, W: tl.constexpr, G: tl.constexpr, MAY_RESET: tl.constexpr, EXACT: tl.constexpr):
    """`row_starts` of h ← a h + b. One row runs from where it starts: it needs no p."""
    if W == 1:
        start = h
        for j in tl.static_range(G):
            h = run(step(a, j, G), step(b, j, G), h, MAY_RESET)
        return start, h
    v = step(b, 0, G)
    for j in tl.static_range(1, G):
        v = run(step(a, j, G), step(b, j, G), v, MAY_RESET)
    return row_starts(p, v, h, W, MAY_RESET, False, EXACT)

@triton.jit
def run(p, v, h, MAY_RESET: tl.constexpr):
    """p h + v, or v where p resets, whatever h is."""
    if MAY_RESET:
        return tl.where(p < 0.0, v, p * h + v)
    else:
        return p * h + v

@triton.jit
def step(x, j: tl.constexpr, G: tl.constexpr):
    """x[:, j] of a tile. G lies in registers: this costs nothing, and so does `put`; a sum of floats would,
    since x + 0.0 is not always x."""
    bits = tl.where(tl.arange(0, G)[None, :, None, None, None] == j, x.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 1).to(tl.float32, bitcast=True)

@triton.jit
def row_starts(p, v, h, W: tl.constexpr, MAY_RESET: tl.constexpr, REVERSE: tl.constexpr, EXACT: tl.constexpr):
    """What each of several rows starts from, and what the last one ends with, where a row makes p h + v of h: all
    (R, CH, S, W).

    h is what the first row starts from, the same in all rows. REVERSE: rows run from the last to the first.
    """
    w = tl.arange(0, W)[None, None, None, :] + tl.zeros(v.shape, tl.int32)
    if REVERSE:
        p = tl.gather(p, W - 1 - w, 3)
        v = tl.gather(v, W - 1 - w, 3)
    v = tl.where(w == 0, run(p, v, h, MAY_RESET), v)
    if MAY_RESET:
        _, ends = tl.associative_scan((p, v), 3, rows_or_reset if EXACT else pair_or_reset)
    else:
        _, ends = tl.associative_scan((p, v), 3, rows if EXACT else pair)
    if REVERSE:
        starts = tl.where(w == W - 1, h, tl.gather(ends, tl.maximum(W - 2 - w, 0), 3))
    else:
        starts = tl.where(w == 0, h, tl.gather(ends, tl.maximum(w - 1, 0), 3))
    return starts, tl.gather(ends, w * 0 + (W - 1), 3)

@triton.jit
def rows_or_reset(p1, v1, p2, v2):
    """The same where either may reset."""
    return tl.where((p1 < 0.0) | (p2 < 0.0), RESETS, row_product(p1, p2)), tl.where(p2 < 0.0, v2, v1 * p2 + v2)

@triton.jit
def row_product(p1, p2):
    """Of the decays of rows: zero only where one of them is, since an infinite state that decays stays infinite."""
    return tl.maximum(p1 * p2, tl.minimum(tl.minimum(p1, p2), SMALLEST_NORMAL))

@triton.jit
def pair_or_reset(p1, v1, p2, v2):
    """The same where either may reset."""
    return tl.where((p1 < 0.0) | (p2 < 0.0), RESETS, p1 * p2), tl.where(p2 < 0.0, v2, v1 * p2 + v2)

@triton.jit
def rows(p1, v1, p2, v2):
    """`pair` for rows."""
    return row_product(p1, p2), v1 * p2 + v2

@triton.jit
def pair(p1, v1, p2, v2):
    """Two maps h → p h + v, one after the other."""
    return p1 * p2, v1 * p2 + v2

@triton.jit
def of_lanes(x, W: tl.constexpr, G: tl.constexpr, CH: tl.constexpr, S: tl.constexpr):
    """The sum over S of (G, CH, S, W), as (W * G, CH)."""
    total = halved(tl.permute(x, (0, 1, 3, 2)), S)  # (G, CH, W)
    return tl.reshape(tl.permute(total, (2, 0, 1)), (W * G, CH))

@triton.jit
def halved(x, n: tl.constexpr):
    """The sum over the last axis, n long. A split wants both halves in one thread: they meet through one change of
    layout, where a reduction over lanes or warps takes log n shuffles and additions for every element."""
    if n == 1:
        return tl.reshape(x, x.shape[:-1])
    else:
        a, b = tl.split(tl.reshape(x, x.shape[:-1] + [n // 2, 2]))
        return halved(a + b, n // 2)

@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))
''', device_str='cuda')


# Original path: /work/main/kernels/linear/triton_kernel.py:97
linear_kernel_8 = async_compile.triton('linear_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 2, 'num_stages': 4}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['BM', 'BN', 'BK', 'GROUP', 'STAGES', 'SPLIT', 'OF_N', 'OF_K', 'OF_ROWS', 'NORM_EPS', 'ACTIVATION'], 'kernel_name': 'linear_kernel_8', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': 'constexpr', 'p_norm_weight': 'constexpr', 'p_norm_bias': 'constexpr', 'p_scale': 'constexpr', 'p_residual': '*bf16', 'p_y': '*bf16', 'rows': 'i32', 'columns': 'i32', 'inner': 'i32', 'x_m': 'i32', 'x_k': 'constexpr', 'weight_n': 'i32', 'weight_k': 'constexpr', 'residual_m': 'i32', 'residual_n': 'constexpr', 'BM': 'constexpr', 'BN': 'constexpr', 'BK': 'constexpr', 'GROUP': 'constexpr', 'STAGES': 'constexpr', 'SPLIT': 'constexpr', 'OF_N': 'constexpr', 'OF_K': 'constexpr', 'OF_ROWS': 'constexpr', 'NORM_EPS': 'constexpr', 'ACTIVATION': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_bias': None, 'p_norm_weight': None, 'p_norm_bias': None, 'p_scale': None, 'x_k': 1, 'weight_k': 1, 'residual_n': 1, 'BM': 16, 'BN': 32, 'BK': 128, 'GROUP': 8, 'STAGES': 4, 'SPLIT': False, 'OF_N': 32, 'OF_K': 64, 'OF_ROWS': 16, 'NORM_EPS': None, 'ACTIVATION': 'none'}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (6,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (8,): [['tt.divisibility', 16]], (9,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]]}]},
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
''', device_str='cuda')


# Original path: /work/main/kernels/linear/triton_kernel.py:97
linear_kernel_9 = async_compile.triton('linear_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 2, 'num_stages': 4}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['BM', 'BN', 'BK', 'GROUP', 'STAGES', 'SPLIT', 'OF_N', 'OF_K', 'OF_ROWS', 'NORM_EPS', 'ACTIVATION'], 'kernel_name': 'linear_kernel_9', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': '*bf16', 'p_norm_weight': '*bf16', 'p_norm_bias': '*bf16', 'p_scale': 'constexpr', 'p_residual': 'constexpr', 'p_y': '*bf16', 'rows': 'i32', 'columns': 'i32', 'inner': 'i32', 'x_m': 'i32', 'x_k': 'constexpr', 'weight_n': 'i32', 'weight_k': 'constexpr', 'residual_m': 'i32', 'residual_n': 'i32', 'BM': 'constexpr', 'BN': 'constexpr', 'BK': 'constexpr', 'GROUP': 'constexpr', 'STAGES': 'constexpr', 'SPLIT': 'constexpr', 'OF_N': 'constexpr', 'OF_K': 'constexpr', 'OF_ROWS': 'constexpr', 'NORM_EPS': 'constexpr', 'ACTIVATION': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_scale': None, 'p_residual': None, 'x_k': 1, 'weight_k': 1, 'BM': 16, 'BN': 32, 'BK': 128, 'GROUP': 8, 'STAGES': 4, 'SPLIT': False, 'OF_N': 32, 'OF_K': 64, 'OF_ROWS': 16, 'NORM_EPS': 1e-05, 'ACTIVATION': 'gelu'}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (3,): [['tt.divisibility', 16]], (4,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (8,): [['tt.divisibility', 16]], (9,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]], (16,): [['tt.divisibility', 16]]}]},
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
''', device_str='cuda')


# Original path: /work/main/kernels/linear/triton_kernel.py:97
linear_kernel_10 = async_compile.triton('linear_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 2, 'num_stages': 4}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['BM', 'BN', 'BK', 'GROUP', 'STAGES', 'SPLIT', 'OF_N', 'OF_K', 'OF_ROWS', 'NORM_EPS', 'ACTIVATION'], 'kernel_name': 'linear_kernel_10', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': '*bf16', 'p_norm_weight': 'constexpr', 'p_norm_bias': 'constexpr', 'p_scale': 'constexpr', 'p_residual': '*bf16', 'p_y': '*bf16', 'rows': 'i32', 'columns': 'i32', 'inner': 'i32', 'x_m': 'i32', 'x_k': 'constexpr', 'weight_n': 'i32', 'weight_k': 'constexpr', 'residual_m': 'i32', 'residual_n': 'constexpr', 'BM': 'constexpr', 'BN': 'constexpr', 'BK': 'constexpr', 'GROUP': 'constexpr', 'STAGES': 'constexpr', 'SPLIT': 'constexpr', 'OF_N': 'constexpr', 'OF_K': 'constexpr', 'OF_ROWS': 'constexpr', 'NORM_EPS': 'constexpr', 'ACTIVATION': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_norm_weight': None, 'p_norm_bias': None, 'p_scale': None, 'x_k': 1, 'weight_k': 1, 'residual_n': 1, 'BM': 16, 'BN': 32, 'BK': 128, 'GROUP': 8, 'STAGES': 4, 'SPLIT': False, 'OF_N': 32, 'OF_K': 128, 'OF_ROWS': 16, 'NORM_EPS': None, 'ACTIVATION': 'none'}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (6,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (8,): [['tt.divisibility', 16]], (9,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]]}]},
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
''', device_str='cuda')


# Original path: /work/main/kernels/linear/triton_kernel.py:97
linear_kernel_11 = async_compile.triton('linear_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 2, 'num_stages': 4}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['BM', 'BN', 'BK', 'GROUP', 'STAGES', 'SPLIT', 'OF_N', 'OF_K', 'OF_ROWS', 'NORM_EPS', 'ACTIVATION'], 'kernel_name': 'linear_kernel_11', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': '*bf16', 'p_norm_weight': '*bf16', 'p_norm_bias': '*bf16', 'p_scale': 'constexpr', 'p_residual': 'constexpr', 'p_y': '*bf16', 'rows': 'i32', 'columns': 'i32', 'inner': 'i32', 'x_m': 'i32', 'x_k': 'constexpr', 'weight_n': 'i32', 'weight_k': 'constexpr', 'residual_m': 'i32', 'residual_n': 'i32', 'BM': 'constexpr', 'BN': 'constexpr', 'BK': 'constexpr', 'GROUP': 'constexpr', 'STAGES': 'constexpr', 'SPLIT': 'constexpr', 'OF_N': 'constexpr', 'OF_K': 'constexpr', 'OF_ROWS': 'constexpr', 'NORM_EPS': 'constexpr', 'ACTIVATION': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_scale': None, 'p_residual': None, 'x_k': 1, 'weight_k': 1, 'BM': 16, 'BN': 32, 'BK': 128, 'GROUP': 8, 'STAGES': 4, 'SPLIT': False, 'OF_N': 32, 'OF_K': 64, 'OF_ROWS': 16, 'NORM_EPS': 1e-05, 'ACTIVATION': 'none'}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (3,): [['tt.divisibility', 16]], (4,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (8,): [['tt.divisibility', 16]], (9,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]], (16,): [['tt.divisibility', 16]]}]},
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
''', device_str='cuda')


# Original path: /work/main/kernels/attention/triton_forward.py:55
attention_forward_kernel_12 = async_compile.triton('attention_forward_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 4, 'num_stages': 3}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['D', 'WIDE', 'REST', 'ROWS', 'CHUNK', 'STAGES', 'KEYS', 'Q_ALIGNED', 'K_ALIGNED', 'V_ALIGNED', 'NEW_ALIGNED', 'PRECISION'], 'kernel_name': 'attention_forward_kernel_12', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
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
''', device_str='cuda')


# Original path: /work/main/kernels/linear/triton_kernel.py:97
linear_kernel_13 = async_compile.triton('linear_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 2, 'num_stages': 4}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['BM', 'BN', 'BK', 'GROUP', 'STAGES', 'SPLIT', 'OF_N', 'OF_K', 'OF_ROWS', 'NORM_EPS', 'ACTIVATION'], 'kernel_name': 'linear_kernel_13', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': '*bf16', 'p_norm_weight': 'constexpr', 'p_norm_bias': 'constexpr', 'p_scale': 'constexpr', 'p_residual': '*bf16', 'p_y': '*bf16', 'rows': 'i32', 'columns': 'i32', 'inner': 'i32', 'x_m': 'i32', 'x_k': 'constexpr', 'weight_n': 'i32', 'weight_k': 'constexpr', 'residual_m': 'i32', 'residual_n': 'constexpr', 'BM': 'constexpr', 'BN': 'constexpr', 'BK': 'constexpr', 'GROUP': 'constexpr', 'STAGES': 'constexpr', 'SPLIT': 'constexpr', 'OF_N': 'constexpr', 'OF_K': 'constexpr', 'OF_ROWS': 'constexpr', 'NORM_EPS': 'constexpr', 'ACTIVATION': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_norm_weight': None, 'p_norm_bias': None, 'p_scale': None, 'x_k': 1, 'weight_k': 1, 'residual_n': 1, 'BM': 16, 'BN': 32, 'BK': 128, 'GROUP': 8, 'STAGES': 4, 'SPLIT': False, 'OF_N': 32, 'OF_K': 64, 'OF_ROWS': 16, 'NORM_EPS': None, 'ACTIVATION': 'none'}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (6,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (8,): [['tt.divisibility', 16]], (9,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]]}]},
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
''', device_str='cuda')


# kernel path: /tmp/aa/mvc-offline-zvc86n8v/inductor/4j/c4jarw534gnor2bcy4ktcvu4lpl2q6qdo2afusmbpzkdcvbo7wwf.py
# Topologically Sorted Source Nodes: [x_17], Original ATen: [aten.view, aten.transpose, aten.clone]
# Source node to ATen node mapping:
#   x_17 => clone_2, permute_43, view_43
# Graph fragment:
#   %buf39 : Tensor  = PlaceHolder[target=buf39]
#   %view_43 : Tensor "bf16[1, 2, 2, 2, 2, 64][1024, 512, 256, 128, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.reshape.default](args = (%empty_15, [1, 2, 2, 2, 2, 64]), kwargs = {})
#   %permute_43 : Tensor "bf16[1, 2, 2, 2, 2, 64][1024, 512, 128, 256, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.permute.default](args = (%view_43, [0, 1, 3, 2, 4, 5]), kwargs = {})
#   %clone_2 : Tensor "bf16[1, 2, 2, 2, 2, 64][1024, 512, 256, 128, 64, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.clone.default](args = (%permute_43,), kwargs = {memory_format: torch.contiguous_format})
#   return %clone_2
triton_poi_fused_clone_transpose_view_2 = async_compile.triton('triton_poi_fused_clone_transpose_view_2', '''
import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties
triton_helpers.set_driver_to_gpu()

@triton_heuristics.pointwise(
    size_hints={'x': 1024}, 
    filename=__file__,
    triton_meta={'signature': {'in_ptr0': '*bf16', 'out_ptr0': '*bf16', 'xnumel': 'i32', 'XBLOCK': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {}, 'native_matmul': False, 'enable_fp_fusion': True, 'launch_pdl': False, 'disable_ftz': False, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]]}]},
    inductor_meta={'grid_type': 'Grid1D', 'kernel_name': 'triton_poi_fused_clone_transpose_view_2', 'mutated_arg_names': [], 'optimize_mem': True, 'no_x_dim': False, 'atomic_add_found': False, 'num_load': 1, 'num_store': 1, 'num_reduction': 0, 'autotune_hints': set(), 'tiling_scores': {'x': 4096}, 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    min_elem_per_thread=0
)
@triton.jit
def triton_poi_fused_clone_transpose_view_2(in_ptr0, out_ptr0, xnumel, XBLOCK : tl.constexpr):
    xnumel = 1024
    xoffset = tl.program_id(0) * XBLOCK
    xindex = xoffset + tl.arange(0, XBLOCK)[:]
    xmask = xindex < xnumel
    x0 = (xindex % 128)
    x1 = ((xindex // 128) % 2)
    x2 = ((xindex // 256) % 2)
    x3 = xindex // 512
    x4 = xindex
    tmp0 = tl.load(in_ptr0 + (x0 + 128*x2 + 256*x1 + 512*x3), xmask).to(tl.float32)
    tl.store(out_ptr0 + (x4), tmp0, xmask)
''', device_str='cuda')


# Original path: /work/main/kernels/linear/triton_kernel.py:97
linear_kernel_14 = async_compile.triton('linear_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 2, 'num_stages': 4}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['BM', 'BN', 'BK', 'GROUP', 'STAGES', 'SPLIT', 'OF_N', 'OF_K', 'OF_ROWS', 'NORM_EPS', 'ACTIVATION'], 'kernel_name': 'linear_kernel_14', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': 'constexpr', 'p_norm_weight': '*bf16', 'p_norm_bias': '*bf16', 'p_scale': 'constexpr', 'p_residual': 'constexpr', 'p_y': '*bf16', 'rows': 'i32', 'columns': 'i32', 'inner': 'i32', 'x_m': 'i32', 'x_k': 'constexpr', 'weight_n': 'i32', 'weight_k': 'constexpr', 'residual_m': 'i32', 'residual_n': 'i32', 'BM': 'constexpr', 'BN': 'constexpr', 'BK': 'constexpr', 'GROUP': 'constexpr', 'STAGES': 'constexpr', 'SPLIT': 'constexpr', 'OF_N': 'constexpr', 'OF_K': 'constexpr', 'OF_ROWS': 'constexpr', 'NORM_EPS': 'constexpr', 'ACTIVATION': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_bias': None, 'p_scale': None, 'p_residual': None, 'x_k': 1, 'weight_k': 1, 'BM': 16, 'BN': 32, 'BK': 128, 'GROUP': 8, 'STAGES': 4, 'SPLIT': False, 'OF_N': 32, 'OF_K': 128, 'OF_ROWS': 16, 'NORM_EPS': 1e-05, 'ACTIVATION': 'none'}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (3,): [['tt.divisibility', 16]], (4,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (9,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]], (16,): [['tt.divisibility', 16]]}]},
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
''', device_str='cuda')


# kernel path: /tmp/aa/mvc-offline-zvc86n8v/inductor/k4/ck43qige4cneusitrncfp3rdgbwxrju4mojripd573kwiorpdiu3.py
# Topologically Sorted Source Nodes: [to_5, pad_1, getitem_36, getitem_33, mul_3, getitem_34, mul_4, add_14, getitem_40, getitem_35, mul_5, add_15, to_7, silu_7], Original ATen: [aten._to_copy, aten.constant_pad_nd, aten.slice, aten.select, aten.mul, aten.add, aten.silu]
# Source node to ATen node mapping:
#   add_14 => add_3
#   add_15 => add_4
#   getitem_33 => select_6, select_7
#   getitem_34 => select_8, select_9
#   getitem_35 => select_10, select_11
#   getitem_36 => slice_7
#   getitem_40 => slice_8
#   mul_3 => mul_3
#   mul_4 => mul_4
#   mul_5 => mul_5
#   pad_1 => constant_pad_nd_1
#   silu_7 => add_5, convert_element_type_8, convert_element_type_9, div_1, exp_1, neg_1
#   to_5 => convert_element_type_6
#   to_7 => convert_element_type_7
# Graph fragment:
#   %buf43 : Tensor  = PlaceHolder[target=buf43]
#   %arg72_1 : Tensor "f32[128, 1, 3][3, 3, 1]cuda:0" = PlaceHolder[target=arg72_1]
#   %convert_element_type_8 : Tensor "f32[1, 4, 128][512, 128, 1]cuda:0" = PlaceHolder[target=convert_element_type_8]
#   %convert_element_type_6 : Tensor "f32[1, 4, 128][512, 128, 1]cuda:0"[num_users=2] = call_function[target=torch.ops.prims.convert_element_type.default](args = (%empty_16, torch.float32), kwargs = {})
#   %constant_pad_nd_1 : Tensor "f32[1, 6, 128][768, 128, 1]cuda:0"[num_users=2] = call_function[target=torch.ops.aten.constant_pad_nd.default](args = (%convert_element_type_6, [0, 0, 1, 1], 0.0), kwargs = {})
#   %slice_7 : Tensor "f32[1, 4, 128][768, 128, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.slice.Tensor](args = (%constant_pad_nd_1, 1, 0, -2), kwargs = {})
#   %select_6 : Tensor "f32[128, 3][3, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.select.int](args = (%arg72_1, 1, 0), kwargs = {})
#   %select_7 : Tensor "f32[128][3]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.select.int](args = (%select_6, 1, 0), kwargs = {})
#   %mul_3 : Tensor "f32[1, 4, 128][512, 128, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.mul.Tensor](args = (%slice_7, %select_7), kwargs = {})
#   %select_8 : Tensor "f32[128, 3][3, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.select.int](args = (%arg72_1, 1, 0), kwargs = {})
#   %select_9 : Tensor "f32[128][3]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.select.int](args = (%select_8, 1, 1), kwargs = {})
#   %mul_4 : Tensor "f32[1, 4, 128][512, 128, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.mul.Tensor](args = (%convert_element_type_6, %select_9), kwargs = {})
#   %add_3 : Tensor "f32[1, 4, 128][512, 128, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.add.Tensor](args = (%mul_3, %mul_4), kwargs = {})
#   %slice_8 : Tensor "f32[1, 4, 128][768, 128, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.slice.Tensor](args = (%constant_pad_nd_1, 1, 2, 9223372036854775807), kwargs = {})
#   %select_10 : Tensor "f32[128, 3][3, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.select.int](args = (%arg72_1, 1, 0), kwargs = {})
#   %select_11 : Tensor "f32[128][3]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.select.int](args = (%select_10, 1, 2), kwargs = {})
#   %mul_5 : Tensor "f32[1, 4, 128][512, 128, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.mul.Tensor](args = (%slice_8, %select_11), kwargs = {})
#   %add_4 : Tensor "f32[1, 4, 128][512, 128, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.add.Tensor](args = (%add_3, %mul_5), kwargs = {})
#   %convert_element_type_7 : Tensor "bf16[1, 4, 128][512, 128, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.prims.convert_element_type.default](args = (%add_4, torch.bfloat16), kwargs = {})
#   %convert_element_type_8 : Tensor "f32[1, 4, 128][512, 128, 1]cuda:0"[num_users=2] = call_function[target=torch.ops.prims.convert_element_type.default](args = (%convert_element_type_7, torch.float32), kwargs = {})
#   %neg_1 : Tensor "f32[1, 4, 128][512, 128, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.neg.default](args = (%convert_element_type_8,), kwargs = {})
#   %exp_1 : Tensor "f32[1, 4, 128][512, 128, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.exp.default](args = (%neg_1,), kwargs = {})
#   %add_5 : Tensor "f32[1, 4, 128][512, 128, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.add.Tensor](args = (%exp_1, 1), kwargs = {})
#   %div_1 : Tensor "f32[1, 4, 128][512, 128, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.div.Tensor](args = (%convert_element_type_8, %add_5), kwargs = {})
#   %convert_element_type_9 : Tensor "bf16[1, 4, 128][512, 128, 1]cuda:0"[num_users=4] = call_function[target=torch.ops.prims.convert_element_type.default](args = (%div_1, torch.bfloat16), kwargs = {})
#   return %convert_element_type_8,%convert_element_type_9
triton_poi_fused__to_copy_add_constant_pad_nd_mul_select_silu_slice_3 = async_compile.triton('triton_poi_fused__to_copy_add_constant_pad_nd_mul_select_silu_slice_3', '''
import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties
triton_helpers.set_driver_to_gpu()

@triton_heuristics.pointwise(
    size_hints={'x': 512}, 
    filename=__file__,
    triton_meta={'signature': {'in_ptr0': '*bf16', 'in_ptr1': '*fp32', 'out_ptr1': '*bf16', 'xnumel': 'i32', 'XBLOCK': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {}, 'native_matmul': False, 'enable_fp_fusion': True, 'launch_pdl': False, 'disable_ftz': False, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (3,): [['tt.divisibility', 16]]}]},
    inductor_meta={'grid_type': 'Grid1D', 'kernel_name': 'triton_poi_fused__to_copy_add_constant_pad_nd_mul_select_silu_slice_3', 'mutated_arg_names': [], 'optimize_mem': True, 'no_x_dim': False, 'atomic_add_found': False, 'num_load': 6, 'num_store': 1, 'num_reduction': 0, 'autotune_hints': set(), 'tiling_scores': {'x': 2048}, 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    min_elem_per_thread=0
)
@triton.jit
def triton_poi_fused__to_copy_add_constant_pad_nd_mul_select_silu_slice_3(in_ptr0, in_ptr1, out_ptr1, xnumel, XBLOCK : tl.constexpr):
    xnumel = 512
    xoffset = tl.program_id(0) * XBLOCK
    xindex = xoffset + tl.arange(0, XBLOCK)[:]
    xmask = xindex < xnumel
    x1 = xindex // 128
    x2 = xindex
    x0 = (xindex % 128)
    tmp10 = tl.load(in_ptr1 + (3*x0), xmask, eviction_policy='evict_last')
    tmp12 = tl.load(in_ptr0 + (x2), xmask).to(tl.float32)
    tmp14 = tl.load(in_ptr1 + (1 + 3*x0), xmask, eviction_policy='evict_last')
    tmp25 = tl.load(in_ptr1 + (2 + 3*x0), xmask, eviction_policy='evict_last')
    tmp0 = ((-1) + x1).to(tl.int32)
    tmp1 = tl.full([1], 0, tl.int64)
    tmp2 = tmp0 >= tmp1
    tmp3 = tl.full([1], 4, tl.int64)
    tmp4 = tmp0 < tmp3
    tmp5 = tmp2 & tmp4
    tmp6 = tl.load(in_ptr0 + ((-128) + x2), tmp5 & xmask, other=0.0).to(tl.float32)
    tmp7 = tmp6.to(tl.float32)
    tmp8 = tl.full(tmp7.shape, 0.0, tmp7.dtype)
    tmp9 = tl.where(tmp5, tmp7, tmp8)
    tmp11 = tmp9 * tmp10
    tmp13 = tmp12.to(tl.float32)
    tmp15 = tmp13 * tmp14
    tmp16 = tmp11 + tmp15
    tmp17 = (1 + x1).to(tl.int32)
    tmp18 = tmp17 >= tmp1
    tmp19 = tmp17 < tmp3
    tmp20 = tmp18 & tmp19
    tmp21 = tl.load(in_ptr0 + (128 + x2), tmp20 & xmask, other=0.0).to(tl.float32)
    tmp22 = tmp21.to(tl.float32)
    tmp23 = tl.full(tmp22.shape, 0.0, tmp22.dtype)
    tmp24 = tl.where(tmp20, tmp22, tmp23)
    tmp26 = tmp24 * tmp25
    tmp27 = tmp16 + tmp26
    tmp28 = tmp27.to(tl.float32)
    tmp29 = tmp28.to(tl.float32)
    tmp30 = -tmp29
    tmp31 = libdevice.exp(tmp30)
    tmp32 = tl.full([1], 1.0, tl.float32)
    tmp33 = tmp31 + tmp32
    tmp34 = (tmp29 / tmp33)
    tmp35 = tmp34.to(tl.float32)
    tl.store(out_ptr1 + (x2), tmp35, xmask)
''', device_str='cuda')


# Original path: /work/main/kernels/scan/triton_forward.py:55
forward_kernel_15 = async_compile.triton('forward_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 4, 'num_stages': 3}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['CH', 'G', 'W', 'R', 'S', 'EVEN', 'PADDED', 'CONSTANT_B', 'CONSTANT_C', 'SOFTPLUS', 'REVERSE', 'EVERY'], 'kernel_name': 'forward_kernel_15', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_u': '*bf16', 'p_delta': '*bf16', 'p_A': '*fp32', 'p_B': '*bf16', 'p_C': '*bf16', 'p_D': '*fp32', 'p_z': 'constexpr', 'p_bias': '*fp32', 'p_start': 'constexpr', 'p_reset': 'constexpr', 'p_y': '*bf16', 'p_last': 'constexpr', 'p_states': 'constexpr', 'length': 'i32', 'dim': 'i32', 'states': 'i32', 'width': 'i32', 'chunk': 'i32', 'u_b': 'i32', 'u_l': 'i32', 'u_d': 'constexpr', 'delta_b': 'i32', 'delta_l': 'i32', 'delta_d': 'constexpr', 'z_b': 'i32', 'z_l': 'i32', 'z_d': 'i32', 'B_b': 'i32', 'B_l': 'i32', 'B_g': 'i32', 'B_n': 'constexpr', 'C_b': 'i32', 'C_l': 'i32', 'C_g': 'i32', 'C_n': 'constexpr', 'reset_b': 'i32', 'reset_l': 'i32', 'y_b': 'i32', 'y_l': 'i32', 'CH': 'constexpr', 'G': 'constexpr', 'W': 'constexpr', 'R': 'constexpr', 'S': 'constexpr', 'EVEN': 'constexpr', 'PADDED': 'constexpr', 'CONSTANT_B': 'constexpr', 'CONSTANT_C': 'constexpr', 'SOFTPLUS': 'constexpr', 'REVERSE': 'constexpr', 'EVERY': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_z': None, 'p_start': None, 'p_reset': None, 'p_last': None, 'p_states': None, 'u_d': 1, 'delta_d': 1, 'B_n': 1, 'C_n': 1, 'CH': 4, 'G': 8, 'W': 8, 'R': 2, 'S': 4, 'EVEN': True, 'PADDED': False, 'CONSTANT_B': False, 'CONSTANT_C': False, 'SOFTPLUS': True, 'REVERSE': False, 'EVERY': 1}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (3,): [['tt.divisibility', 16]], (4,): [['tt.divisibility', 16]], (5,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (14,): [['tt.divisibility', 16]], (16,): [['tt.divisibility', 16]], (17,): [['tt.divisibility', 16]], (18,): [['tt.divisibility', 16]], (19,): [['tt.divisibility', 16]], (21,): [['tt.divisibility', 16]], (22,): [['tt.divisibility', 16]], (24,): [['tt.divisibility', 16]], (25,): [['tt.divisibility', 16]], (26,): [['tt.divisibility', 16]], (27,): [['tt.divisibility', 16]], (28,): [['tt.divisibility', 16]], (31,): [['tt.divisibility', 16]], (32,): [['tt.divisibility', 16]], (35,): [['tt.divisibility', 16]], (36,): [['tt.divisibility', 16]], (37,): [['tt.divisibility', 16]], (38,): [['tt.divisibility', 16]]}]},
    filename=__file__,
    custom_kernel=True,
)
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

@triton.jit
def channels(width, SPAN: tl.constexpr, EVEN: tl.constexpr):
    """This program's group, which of the group's programs it is, its first channel, and how many of the SPAN channels
    from there are in the group: no program reaches into the next one. EVEN: SPAN divides the width of a group."""
    programs = tl.cdiv(width, SPAN)
    i_group = tl.program_id(0) // programs
    i_in_group = tl.program_id(0) % programs
    if EVEN:
        first = tl.program_id(0) * SPAN  # the same, and known to be a multiple of SPAN
    else:
        first = i_group * width + i_in_group * SPAN
    return i_group, i_in_group, first, width - i_in_group * SPAN

@triton.jit
def among(count, CH: tl.constexpr, EVEN: tl.constexpr):
    """Which of CH channels are among so many."""
    return tl.full((CH,), EVEN, tl.int1) | (tl.arange(0, CH) < count)

@triton.jit
def state_offsets(R: tl.constexpr, S: tl.constexpr):
    """The numbers of the states, (R, 1, S, 1)."""
    return tl.arange(0, S)[None, None, :, None] * R + tl.arange(0, R)[:, None, None, None]

@triton.jit
def finite(A):
    """Infinities as the largest numbers: zero times A is then zero, so that steps beyond the end change no state."""
    return tl.clamp(A, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL)

LARGEST = tl.constexpr(3.4028234663852886e+38)

LOG2E = tl.constexpr(1.4426950408889634)

@triton.jit
def load_channels(pointer, o_channel, inside):
    """A parameter of each channel, (1, CH); zero where it is absent."""
    if pointer is None:
        return tl.zeros(inside.shape, tl.float32)[None, :]
    else:
        return tl.load(pointer + o_channel, mask=inside, other=0.0).to(tl.float32)[None, :]

@triton.jit
def run_first(pointer, i_batch, stride_b, stride_l, length, REVERSE: tl.constexpr):
    """Where the step of a sequence lies that runs first, and how far from each step the next one is."""
    if REVERSE:
        return pointer + i_batch * stride_b + wide(length - 1) * stride_l, -stride_l
    else:
        return pointer + i_batch * stride_b, stride_l

@triton.jit
def wide(x):
    """An integer in 64 bits; a size of 1 is known when a kernel is compiled, and has no type of its own."""
    return tl.zeros((), tl.int64) + x

@triton.jit
def load_constant(pointer, o_channel, o_state, mask, stride_d, stride_n):
    """Constant B or C, (R, 1, CH, S, 1)."""
    o_cell = wide(o_channel[None, :, None, None]) * stride_d + o_state * stride_n
    return tl.load(pointer + o_cell, mask=mask, other=0.0).to(tl.float32)[:, None]

@triton.jit
def step_size(b_raw, SOFTPLUS: tl.constexpr):
    """Δ from delta + delta_bias, and its slope, from one exponential."""
    if SOFTPLUS:
        e = tl.exp2(-tl.abs(b_raw) * LOG2E)
        return tl.maximum(b_raw, 0.0) + log1p(e), tl.where(b_raw >= 0.0, 1.0, e) / (1.0 + e)
    else:
        return b_raw, tl.full(b_raw.shape, 1.0, tl.float32)

@triton.jit
def log1p(e):
    """log(1 + e) for e in [0, 1]: e times the minimax polynomial of degree 8, to 2e-7 of the value."""
    p = e * 0.005232693627476692 - 0.02950523979961872
    p = p * e + 0.07822596281766891
    p = p * e - 0.13663247227668762
    p = p * e + 0.19106008112430573
    p = p * e - 0.2484298199415207
    p = p * e + 0.3331909775733948
    p = p * e - 0.4999949336051941
    p = p * e + 0.9999999403953552
    return p * e

@triton.jit
def spread(x, y):
    """Both as they are: joined and split, they are computed where they were read and change their layout after that.
    triton 3.6 moves a change of layout ahead of a cast otherwise, so that every lane repeats the work."""
    return tl.split(tl.join(x, y))

@triton.jit
def placed(x, R: tl.constexpr, G: tl.constexpr, CH: tl.constexpr, S: tl.constexpr, W: tl.constexpr):
    """x broadcast to the tile, in the layout of the tile: the condition always holds, but Triton does not know, and
    does not go on in the layout of x; the machine code has no trace of it."""
    g = tl.arange(0, G)[None, :, None, None, None]
    return tl.where(g < G, x, tl.zeros((R, G, CH, S, W), x.dtype))

@triton.jit
def of_states(x, W: tl.constexpr, G: tl.constexpr, R: tl.constexpr, S: tl.constexpr):
    """(W * G, S * R) as (R, G, 1, S, W)."""
    return tl.permute(tl.reshape(x, (W, G, S, R)), (3, 1, 2, 0))[:, :, None, :, :]

@triton.jit
def of_steps(x, W: tl.constexpr, G: tl.constexpr, CH: tl.constexpr):
    """(W * G, CH) as (1, G, CH, 1, W)."""
    return tl.permute(tl.reshape(x, (W, G, CH)), (1, 2, 0))[None, :, :, None, :]

@triton.jit
def of_real_states(x, o_state, states, G: tl.constexpr, CH: tl.constexpr, W: tl.constexpr):
    """x of a tile; zero for the states that pad N, where zero times an infinite Δu would be NaN."""
    R: tl.constexpr = o_state.shape[0]
    S: tl.constexpr = o_state.shape[2]
    real = placed((o_state < states).to(tl.int32)[:, None], R, G, CH, S, W)
    return tl.where(real != 0, x, 0.0)

@triton.jit
def from_zero(a, b, resets):
    """Steps that reset: their decay is RESETS, and what it makes of a zero state, which may be NaN, is in b."""
    return tl.where(resets != 0, RESETS, a), tl.where(resets != 0, a * 0.0 + b, b)

RESETS = tl.constexpr(-1.0)

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
def row_decay(steps, resets, A, MAY_RESET: tl.constexpr, EXACT: tl.constexpr):
    """exp(A ΣΔ) over each row, or RESETS, (R, CH, S, W); A (R, CH, S, 1) is over ln 2.

    EXACT: it does not underflow, so that an infinite state stays infinite. It becomes NaN else, which serves gradients:
    they are to be finite in the same elements, no more.
    """
    if EXACT:
        p = decay_over(tl.sum(steps, 1), tl.min(steps, 1), tl.max(steps, 1), A)
    else:
        p = tl.exp2(tl.sum(steps, 1) * A)
    if MAY_RESET:
        p = tl.where(tl.max(resets, 1) != 0, RESETS, p)
    return p

@triton.jit
def decay_over(total, least, most, A):
    """exp(A ΣΔ) over steps of which the sum, the least and the most are known; A is over ln 2."""
    return never_vanishing(tl.exp2(total * A), tl.minimum(least * A, most * A))

@triton.jit
def never_vanishing(product, exponent):
    """A product of decays that may have underflowed: zero only where the smallest of them, two to this exponent, is
    one that GPUs may flush to zero, since an infinite state that decays stays infinite."""
    return tl.where((exponent >= -126.0) & (product < SMALLEST_NORMAL), SMALLEST_NORMAL, product)

SMALLEST_NORMAL = tl.constexpr(1.1754943508222875e-38)

@triton.jit
def forward_starts(a, b, p, h, W: tl.constexpr, G: tl.constexpr, MAY_RESET: tl.constexpr, EXACT: tl.constexpr):
    """`row_starts` of h ← a h + b. One row runs from where it starts: it needs no p."""
    if W == 1:
        start = h
        for j in tl.static_range(G):
            h = run(step(a, j, G), step(b, j, G), h, MAY_RESET)
        return start, h
    v = step(b, 0, G)
    for j in tl.static_range(1, G):
        v = run(step(a, j, G), step(b, j, G), v, MAY_RESET)
    return row_starts(p, v, h, W, MAY_RESET, False, EXACT)

@triton.jit
def run(p, v, h, MAY_RESET: tl.constexpr):
    """p h + v, or v where p resets, whatever h is."""
    if MAY_RESET:
        return tl.where(p < 0.0, v, p * h + v)
    else:
        return p * h + v

@triton.jit
def step(x, j: tl.constexpr, G: tl.constexpr):
    """x[:, j] of a tile. G lies in registers: this costs nothing, and so does `put`; a sum of floats would,
    since x + 0.0 is not always x."""
    bits = tl.where(tl.arange(0, G)[None, :, None, None, None] == j, x.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 1).to(tl.float32, bitcast=True)

@triton.jit
def row_starts(p, v, h, W: tl.constexpr, MAY_RESET: tl.constexpr, REVERSE: tl.constexpr, EXACT: tl.constexpr):
    """What each of several rows starts from, and what the last one ends with, where a row makes p h + v of h: all
    (R, CH, S, W).

    h is what the first row starts from, the same in all rows. REVERSE: rows run from the last to the first.
    """
    w = tl.arange(0, W)[None, None, None, :] + tl.zeros(v.shape, tl.int32)
    if REVERSE:
        p = tl.gather(p, W - 1 - w, 3)
        v = tl.gather(v, W - 1 - w, 3)
    v = tl.where(w == 0, run(p, v, h, MAY_RESET), v)
    if MAY_RESET:
        _, ends = tl.associative_scan((p, v), 3, rows_or_reset if EXACT else pair_or_reset)
    else:
        _, ends = tl.associative_scan((p, v), 3, rows if EXACT else pair)
    if REVERSE:
        starts = tl.where(w == W - 1, h, tl.gather(ends, tl.maximum(W - 2 - w, 0), 3))
    else:
        starts = tl.where(w == 0, h, tl.gather(ends, tl.maximum(w - 1, 0), 3))
    return starts, tl.gather(ends, w * 0 + (W - 1), 3)

@triton.jit
def rows_or_reset(p1, v1, p2, v2):
    """The same where either may reset."""
    return tl.where((p1 < 0.0) | (p2 < 0.0), RESETS, row_product(p1, p2)), tl.where(p2 < 0.0, v2, v1 * p2 + v2)

@triton.jit
def row_product(p1, p2):
    """Of the decays of rows: zero only where one of them is, since an infinite state that decays stays infinite."""
    return tl.maximum(p1 * p2, tl.minimum(tl.minimum(p1, p2), SMALLEST_NORMAL))

@triton.jit
def pair_or_reset(p1, v1, p2, v2):
    """The same where either may reset."""
    return tl.where((p1 < 0.0) | (p2 < 0.0), RESETS, p1 * p2), tl.where(p2 < 0.0, v2, v1 * p2 + v2)

@triton.jit
def rows(p1, v1, p2, v2):
    """`pair` for rows."""
    return row_product(p1, p2), v1 * p2 + v2

@triton.jit
def pair(p1, v1, p2, v2):
    """Two maps h → p h + v, one after the other."""
    return p1 * p2, v1 * p2 + v2

@triton.jit
def of_lanes(x, W: tl.constexpr, G: tl.constexpr, CH: tl.constexpr, S: tl.constexpr):
    """The sum over S of (G, CH, S, W), as (W * G, CH)."""
    total = halved(tl.permute(x, (0, 1, 3, 2)), S)  # (G, CH, W)
    return tl.reshape(tl.permute(total, (2, 0, 1)), (W * G, CH))

@triton.jit
def halved(x, n: tl.constexpr):
    """The sum over the last axis, n long. A split wants both halves in one thread: they meet through one change of
    layout, where a reduction over lanes or warps takes log n shuffles and additions for every element."""
    if n == 1:
        return tl.reshape(x, x.shape[:-1])
    else:
        a, b = tl.split(tl.reshape(x, x.shape[:-1] + [n // 2, 2]))
        return halved(a + b, n // 2)

@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))
''', device_str='cuda')


# Original path: /work/main/kernels/linear/triton_kernel.py:97
linear_kernel_16 = async_compile.triton('linear_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 2, 'num_stages': 4}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['BM', 'BN', 'BK', 'GROUP', 'STAGES', 'SPLIT', 'OF_N', 'OF_K', 'OF_ROWS', 'NORM_EPS', 'ACTIVATION'], 'kernel_name': 'linear_kernel_16', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': 'constexpr', 'p_norm_weight': 'constexpr', 'p_norm_bias': 'constexpr', 'p_scale': 'constexpr', 'p_residual': '*bf16', 'p_y': '*bf16', 'rows': 'i32', 'columns': 'i32', 'inner': 'i32', 'x_m': 'i32', 'x_k': 'constexpr', 'weight_n': 'i32', 'weight_k': 'constexpr', 'residual_m': 'i32', 'residual_n': 'constexpr', 'BM': 'constexpr', 'BN': 'constexpr', 'BK': 'constexpr', 'GROUP': 'constexpr', 'STAGES': 'constexpr', 'SPLIT': 'constexpr', 'OF_N': 'constexpr', 'OF_K': 'constexpr', 'OF_ROWS': 'constexpr', 'NORM_EPS': 'constexpr', 'ACTIVATION': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_bias': None, 'p_norm_weight': None, 'p_norm_bias': None, 'p_scale': None, 'x_k': 1, 'weight_k': 1, 'residual_n': 1, 'BM': 16, 'BN': 32, 'BK': 128, 'GROUP': 8, 'STAGES': 4, 'SPLIT': False, 'OF_N': 32, 'OF_K': 128, 'OF_ROWS': 16, 'NORM_EPS': None, 'ACTIVATION': 'none'}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (6,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (9,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]]}]},
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
''', device_str='cuda')


# Original path: /work/main/kernels/linear/triton_kernel.py:97
linear_kernel_17 = async_compile.triton('linear_kernel', '''

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
''', device_str='cuda')


# Original path: /work/main/kernels/linear/triton_kernel.py:97
linear_kernel_18 = async_compile.triton('linear_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 2, 'num_stages': 4}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['BM', 'BN', 'BK', 'GROUP', 'STAGES', 'SPLIT', 'OF_N', 'OF_K', 'OF_ROWS', 'NORM_EPS', 'ACTIVATION'], 'kernel_name': 'linear_kernel_18', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': '*bf16', 'p_norm_weight': 'constexpr', 'p_norm_bias': 'constexpr', 'p_scale': 'constexpr', 'p_residual': '*bf16', 'p_y': '*bf16', 'rows': 'i32', 'columns': 'i32', 'inner': 'i32', 'x_m': 'i32', 'x_k': 'constexpr', 'weight_n': 'i32', 'weight_k': 'constexpr', 'residual_m': 'i32', 'residual_n': 'constexpr', 'BM': 'constexpr', 'BN': 'constexpr', 'BK': 'constexpr', 'GROUP': 'constexpr', 'STAGES': 'constexpr', 'SPLIT': 'constexpr', 'OF_N': 'constexpr', 'OF_K': 'constexpr', 'OF_ROWS': 'constexpr', 'NORM_EPS': 'constexpr', 'ACTIVATION': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_norm_weight': None, 'p_norm_bias': None, 'p_scale': None, 'x_k': 1, 'weight_k': 1, 'residual_n': 1, 'BM': 16, 'BN': 32, 'BK': 128, 'GROUP': 8, 'STAGES': 4, 'SPLIT': False, 'OF_N': 32, 'OF_K': 128, 'OF_ROWS': 16, 'NORM_EPS': None, 'ACTIVATION': 'none'}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (6,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (9,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]]}]},
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
''', device_str='cuda')


# Original path: /work/main/kernels/linear/triton_kernel.py:97
linear_kernel_19 = async_compile.triton('linear_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 2, 'num_stages': 4}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['BM', 'BN', 'BK', 'GROUP', 'STAGES', 'SPLIT', 'OF_N', 'OF_K', 'OF_ROWS', 'NORM_EPS', 'ACTIVATION'], 'kernel_name': 'linear_kernel_19', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': '*bf16', 'p_norm_weight': '*bf16', 'p_norm_bias': '*bf16', 'p_scale': 'constexpr', 'p_residual': 'constexpr', 'p_y': '*bf16', 'rows': 'i32', 'columns': 'i32', 'inner': 'i32', 'x_m': 'i32', 'x_k': 'constexpr', 'weight_n': 'i32', 'weight_k': 'constexpr', 'residual_m': 'i32', 'residual_n': 'i32', 'BM': 'constexpr', 'BN': 'constexpr', 'BK': 'constexpr', 'GROUP': 'constexpr', 'STAGES': 'constexpr', 'SPLIT': 'constexpr', 'OF_N': 'constexpr', 'OF_K': 'constexpr', 'OF_ROWS': 'constexpr', 'NORM_EPS': 'constexpr', 'ACTIVATION': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_scale': None, 'p_residual': None, 'x_k': 1, 'weight_k': 1, 'BM': 16, 'BN': 32, 'BK': 128, 'GROUP': 8, 'STAGES': 4, 'SPLIT': False, 'OF_N': 32, 'OF_K': 128, 'OF_ROWS': 16, 'NORM_EPS': 1e-05, 'ACTIVATION': 'none'}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (3,): [['tt.divisibility', 16]], (4,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (9,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]], (16,): [['tt.divisibility', 16]]}]},
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
''', device_str='cuda')


# Original path: /work/main/kernels/attention/triton_forward.py:55
attention_forward_kernel_20 = async_compile.triton('attention_forward_kernel', '''

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
''', device_str='cuda')


# Original path: /work/main/kernels/linear/triton_kernel.py:97
linear_kernel_21 = async_compile.triton('linear_kernel', '''

import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties

@triton_heuristics.user_autotune(
    configs=[{'num_warps': 2, 'num_stages': 4}],
    inductor_meta={'grid_type': 'FixedGrid', 'fixed_grid': ['_grid_0', '_grid_1', '_grid_2'], 'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2'], 'declared_constexpr_names': ['BM', 'BN', 'BK', 'GROUP', 'STAGES', 'SPLIT', 'OF_N', 'OF_K', 'OF_ROWS', 'NORM_EPS', 'ACTIVATION'], 'kernel_name': 'linear_kernel_21', 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    triton_meta={'signature': {'p_x': '*bf16', 'p_weight': '*bf16', 'p_bias': '*bf16', 'p_norm_weight': 'constexpr', 'p_norm_bias': 'constexpr', 'p_scale': 'constexpr', 'p_residual': '*bf16', 'p_y': '*bf16', 'rows': 'i32', 'columns': 'i32', 'inner': 'i32', 'x_m': 'i32', 'x_k': 'constexpr', 'weight_n': 'i32', 'weight_k': 'constexpr', 'residual_m': 'i32', 'residual_n': 'constexpr', 'BM': 'constexpr', 'BN': 'constexpr', 'BK': 'constexpr', 'GROUP': 'constexpr', 'STAGES': 'constexpr', 'SPLIT': 'constexpr', 'OF_N': 'constexpr', 'OF_K': 'constexpr', 'OF_ROWS': 'constexpr', 'NORM_EPS': 'constexpr', 'ACTIVATION': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {'p_norm_weight': None, 'p_norm_bias': None, 'p_scale': None, 'x_k': 1, 'weight_k': 1, 'residual_n': 1, 'BM': 16, 'BN': 32, 'BK': 128, 'GROUP': 8, 'STAGES': 4, 'SPLIT': False, 'OF_N': 32, 'OF_K': 128, 'OF_ROWS': 16, 'NORM_EPS': None, 'ACTIVATION': 'none'}, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (6,): [['tt.divisibility', 16]], (7,): [['tt.divisibility', 16]], (9,): [['tt.divisibility', 16]], (10,): [['tt.divisibility', 16]], (11,): [['tt.divisibility', 16]], (13,): [['tt.divisibility', 16]], (15,): [['tt.divisibility', 16]]}]},
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
''', device_str='cuda')


# kernel path: /tmp/aa/mvc-offline-zvc86n8v/inductor/uz/cuz7q6othipdjzzelavjp34e2f562l755tcmt6qzglvhgy554frl.py
# Topologically Sorted Source Nodes: [batch_norm_6, mean], Original ATen: [aten.view, aten.transpose, aten.permute, aten._native_batch_norm_legit_no_training, aten.mean]
# Source node to ATen node mapping:
#   batch_norm_6 => add_6, add_7, convert_element_type_12, convert_element_type_13, convert_element_type_14, mul_6, mul_7, permute_67, permute_68, rsqrt, sub, unsqueeze_10, unsqueeze_11, unsqueeze_4, unsqueeze_5, unsqueeze_6, unsqueeze_7, unsqueeze_8, unsqueeze_9, view_86, view_87
#   mean => mean
# Graph fragment:
#   %buf65 : Tensor  = PlaceHolder[target=buf65]
#   %arg50_1 : Tensor "bf16[128][1]cuda:0" = PlaceHolder[target=arg50_1]
#   %arg51_1 : Tensor "bf16[128][1]cuda:0" = PlaceHolder[target=arg51_1]
#   %arg52_1 : Tensor "bf16[128][1]cuda:0" = PlaceHolder[target=arg52_1]
#   %arg53_1 : Tensor "bf16[128][1]cuda:0" = PlaceHolder[target=arg53_1]
#   %view_86 : Tensor "bf16[1, 1, 1, 2, 2, 128][512, 512, 512, 256, 128, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.reshape.default](args = (%empty_25, [1, 1, 1, 2, 2, 128]), kwargs = {})
#   %permute_67 : Tensor "bf16[1, 1, 2, 1, 2, 128][512, 512, 256, 512, 128, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.permute.default](args = (%view_86, [0, 1, 3, 2, 4, 5]), kwargs = {})
#   %view_87 : Tensor "bf16[1, 2, 2, 128][512, 256, 128, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.reshape.default](args = (%permute_67, [1, 2, 2, 128]), kwargs = {})
#   %permute_68 : Tensor "bf16[1, 128, 2, 2][512, 1, 256, 128]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.permute.default](args = (%view_87, [0, 3, 1, 2]), kwargs = {})
#   %convert_element_type_12 : Tensor "f32[128][1]cuda:0"[num_users=1] = call_function[target=torch.ops.prims.convert_element_type.default](args = (%arg50_1, torch.float32), kwargs = {})
#   %unsqueeze_4 : Tensor "f32[128, 1][1, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.unsqueeze.default](args = (%convert_element_type_12, -1), kwargs = {})
#   %unsqueeze_5 : Tensor "f32[128, 1, 1][1, 1, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.unsqueeze.default](args = (%unsqueeze_4, -1), kwargs = {})
#   %sub : Tensor "f32[1, 128, 2, 2][512, 1, 256, 128]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.sub.Tensor](args = (%permute_68, %unsqueeze_5), kwargs = {})
#   %convert_element_type_13 : Tensor "f32[128][1]cuda:0"[num_users=1] = call_function[target=torch.ops.prims.convert_element_type.default](args = (%arg51_1, torch.float32), kwargs = {})
#   %add_6 : Tensor "f32[128][1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.add.Tensor](args = (%convert_element_type_13, 1e-05), kwargs = {})
#   %rsqrt : Tensor "f32[128][1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.rsqrt.default](args = (%add_6,), kwargs = {})
#   %unsqueeze_6 : Tensor "f32[128, 1][1, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.unsqueeze.default](args = (%rsqrt, -1), kwargs = {})
#   %unsqueeze_7 : Tensor "f32[128, 1, 1][1, 1, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.unsqueeze.default](args = (%unsqueeze_6, -1), kwargs = {})
#   %mul_6 : Tensor "f32[1, 128, 2, 2][512, 1, 256, 128]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.mul.Tensor](args = (%sub, %unsqueeze_7), kwargs = {})
#   %unsqueeze_8 : Tensor "bf16[128, 1][1, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.unsqueeze.default](args = (%arg52_1, -1), kwargs = {})
#   %unsqueeze_9 : Tensor "bf16[128, 1, 1][1, 1, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.unsqueeze.default](args = (%unsqueeze_8, -1), kwargs = {})
#   %mul_7 : Tensor "f32[1, 128, 2, 2][512, 1, 256, 128]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.mul.Tensor](args = (%mul_6, %unsqueeze_9), kwargs = {})
#   %unsqueeze_10 : Tensor "bf16[128, 1][1, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.unsqueeze.default](args = (%arg53_1, -1), kwargs = {})
#   %unsqueeze_11 : Tensor "bf16[128, 1, 1][1, 1, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.unsqueeze.default](args = (%unsqueeze_10, -1), kwargs = {})
#   %add_7 : Tensor "f32[1, 128, 2, 2][512, 1, 256, 128]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.add.Tensor](args = (%mul_7, %unsqueeze_11), kwargs = {})
#   %convert_element_type_14 : Tensor "bf16[1, 128, 2, 2][512, 1, 256, 128]cuda:0"[num_users=1] = call_function[target=torch.ops.prims.convert_element_type.default](args = (%add_7, torch.bfloat16), kwargs = {})
#   %mean : Tensor "bf16[1, 128][128, 1]cuda:0"[num_users=1] = call_function[target=torch.ops.aten.mean.dim](args = (%convert_element_type_14, [2, 3]), kwargs = {})
#   return %mean
triton_poi_fused__native_batch_norm_legit_no_training_mean_permute_transpose_view_4 = async_compile.triton('triton_poi_fused__native_batch_norm_legit_no_training_mean_permute_transpose_view_4', '''
import triton
import triton.language as tl

from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
from torch._inductor.runtime.hints import AutotuneHint, ReductionHint, TileHint, DeviceProperties
triton_helpers.set_driver_to_gpu()

@triton_heuristics.pointwise(
    size_hints={'x': 128}, 
    filename=__file__,
    triton_meta={'signature': {'in_ptr0': '*bf16', 'in_ptr1': '*bf16', 'in_ptr2': '*bf16', 'in_ptr3': '*bf16', 'in_ptr4': '*bf16', 'out_ptr0': '*bf16', 'xnumel': 'i32', 'XBLOCK': 'constexpr'}, 'device': DeviceProperties(type='cuda', index=0, multi_processor_count=108, cc=80, major=8, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32), 'constants': {}, 'native_matmul': False, 'enable_fp_fusion': True, 'launch_pdl': False, 'disable_ftz': False, 'configs': [{(0,): [['tt.divisibility', 16]], (1,): [['tt.divisibility', 16]], (2,): [['tt.divisibility', 16]], (3,): [['tt.divisibility', 16]], (4,): [['tt.divisibility', 16]], (5,): [['tt.divisibility', 16]], (6,): [['tt.divisibility', 16]]}]},
    inductor_meta={'grid_type': 'Grid1D', 'kernel_name': 'triton_poi_fused__native_batch_norm_legit_no_training_mean_permute_transpose_view_4', 'mutated_arg_names': [], 'optimize_mem': True, 'no_x_dim': False, 'atomic_add_found': False, 'num_load': 8, 'num_store': 1, 'num_reduction': 0, 'autotune_hints': set(), 'tiling_scores': {'x': 1536}, 'backend_hash': '2716295282CDC05548E165602E8B093CF1AD3C94E3C2B41BB25E6387DE0608A0', 'assert_indirect_indexing': True, 'autotune_local_cache': True, 'autotune_pointwise': True, 'autotune_remote_cache': None, 'force_disable_caches': False, 'dynamic_scale_rblock': True, 'incremental_autotune': False, 'max_autotune': False, 'max_autotune_pointwise': False, 'min_split_scan_rblock': 256, 'spill_threshold': 16, 'store_cubin': False, 'deterministic': False, 'batch_invariant': False, 'force_filter_reduction_configs': False, 'mix_order_reduction_allow_multi_stages': True, 'dynamic_disable_pipelining': True, 'are_deterministic_algorithms_enabled': False},
    min_elem_per_thread=0
)
@triton.jit
def triton_poi_fused__native_batch_norm_legit_no_training_mean_permute_transpose_view_4(in_ptr0, in_ptr1, in_ptr2, in_ptr3, in_ptr4, out_ptr0, xnumel, XBLOCK : tl.constexpr):
    xnumel = 128
    xoffset = tl.program_id(0) * XBLOCK
    xindex = xoffset + tl.arange(0, XBLOCK)[:]
    xmask = xindex < xnumel
    x0 = xindex
    tmp0 = tl.load(in_ptr0 + (x0), xmask).to(tl.float32)
    tmp2 = tl.load(in_ptr1 + (x0), xmask).to(tl.float32)
    tmp5 = tl.load(in_ptr2 + (x0), xmask).to(tl.float32)
    tmp11 = tl.load(in_ptr3 + (x0), xmask).to(tl.float32)
    tmp14 = tl.load(in_ptr4 + (x0), xmask).to(tl.float32)
    tmp19 = tl.load(in_ptr0 + (128 + x0), xmask).to(tl.float32)
    tmp28 = tl.load(in_ptr0 + (256 + x0), xmask).to(tl.float32)
    tmp37 = tl.load(in_ptr0 + (384 + x0), xmask).to(tl.float32)
    tmp1 = tmp0.to(tl.float32)
    tmp3 = tmp2.to(tl.float32)
    tmp4 = tmp1 - tmp3
    tmp6 = tmp5.to(tl.float32)
    tmp7 = tl.full([1], 1e-05, tl.float32)
    tmp8 = tmp6 + tmp7
    tmp9 = libdevice.rsqrt(tmp8)
    tmp10 = tmp4 * tmp9
    tmp12 = tmp11.to(tl.float32)
    tmp13 = tmp10 * tmp12
    tmp15 = tmp14.to(tl.float32)
    tmp16 = tmp13 + tmp15
    tmp17 = tmp16.to(tl.float32)
    tmp18 = tmp17.to(tl.float32)
    tmp20 = tmp19.to(tl.float32)
    tmp21 = tmp20 - tmp3
    tmp22 = tmp21 * tmp9
    tmp23 = tmp22 * tmp12
    tmp24 = tmp23 + tmp15
    tmp25 = tmp24.to(tl.float32)
    tmp26 = tmp25.to(tl.float32)
    tmp27 = tmp18 + tmp26
    tmp29 = tmp28.to(tl.float32)
    tmp30 = tmp29 - tmp3
    tmp31 = tmp30 * tmp9
    tmp32 = tmp31 * tmp12
    tmp33 = tmp32 + tmp15
    tmp34 = tmp33.to(tl.float32)
    tmp35 = tmp34.to(tl.float32)
    tmp36 = tmp27 + tmp35
    tmp38 = tmp37.to(tl.float32)
    tmp39 = tmp38 - tmp3
    tmp40 = tmp39 * tmp9
    tmp41 = tmp40 * tmp12
    tmp42 = tmp41 + tmp15
    tmp43 = tmp42.to(tl.float32)
    tmp44 = tmp43.to(tl.float32)
    tmp45 = tmp36 + tmp44
    tmp46 = tl.full([1], 4.0, tl.float32)
    tmp47 = (tmp45 / tmp46)
    tmp48 = tmp47.to(tl.float32)
    tl.store(out_ptr0 + (x0), tmp48, xmask)
''', device_str='cuda')


async_compile.wait(globals())
del async_compile

class Runner:
    def __init__(self, partitions):
        self.partitions = partitions

    def recursively_apply_fns(self, fns):
        new_callables = []
        for fn, c in zip(fns, self.partitions):
            new_callables.append(fn(c))
        self.partitions = new_callables

    def call(self, args):
        arg0_1, arg1_1, arg2_1, arg3_1, arg4_1, arg5_1, arg6_1, arg7_1, arg8_1, arg9_1, arg10_1, arg11_1, arg12_1, arg13_1, arg14_1, arg15_1, arg16_1, arg17_1, arg18_1, arg19_1, arg20_1, arg21_1, arg22_1, arg23_1, arg24_1, arg25_1, arg26_1, arg27_1, arg28_1, arg29_1, arg30_1, arg31_1, arg32_1, arg33_1, arg34_1, arg35_1, arg36_1, arg37_1, arg38_1, arg39_1, arg40_1, arg41_1, arg42_1, arg43_1, arg44_1, arg45_1, arg46_1, arg47_1, arg48_1, arg49_1, arg50_1, arg51_1, arg52_1, arg53_1, arg54_1, arg55_1, arg56_1, arg57_1, arg58_1, arg59_1, arg60_1, arg61_1, arg62_1, arg63_1, arg64_1, arg65_1, arg66_1, arg67_1, arg68_1, arg69_1, arg70_1, arg71_1, arg72_1, arg73_1, arg74_1, arg75_1 = args
        args.clear()
        with torch.cuda._DeviceGuard(0):
            torch.cuda.set_device(0)
            buf0 = empty_strided_cuda((1, 32, 32, 8), (8192, 256, 8, 1), torch.bfloat16)
            assert_size_stride_grouped((arg0_1, arg56_1, arg57_1), ((1, 3, 64, 64), (8, 3, 3, 3), (8, )), ((12288, 1, 192, 3), (27, 1, 9, 3), (1, )), 'input')
            arg0_1 = copy_if_misaligned(arg0_1)
            # Topologically Sorted Source Nodes: [fused_conv2d_triton_default], Original ATen: [aten.permute, aten.view]
            raw_stream0 = get_raw_stream(0)
            convolution_kernel_0.run(arg0_1, reinterpret_tensor(arg56_1, (8, 27), (27, 1), 0), arg57_1, -1, reinterpret_tensor(buf0, (1, 8, 32, 32), (8192, 1, 256, 8), 0), 1, 64, 64, 32, 32, 12288, 192, 3, 0, 0, 0, 32, 1, 1, stream=raw_stream0)
            del arg0_1
            del arg56_1
            del arg57_1
            buf2 = empty_strided_cuda((1, 16, 16, 16), (4096, 256, 16, 1), torch.bfloat16)
            assert_size_stride_grouped((arg58_1, arg59_1), ((16, 8, 3, 3), (16, )), ((72, 1, 24, 8), (1, )), 'input')
            # Topologically Sorted Source Nodes: [fused_conv2d_triton_default, fused_conv2d_triton_default_1], Original ATen: [aten.permute, aten.view]
            raw_stream0 = get_raw_stream(0)
            convolution_kernel_1.run(reinterpret_tensor(buf0, (1, 8, 32, 32), (8192, 1, 256, 8), 0), reinterpret_tensor(arg58_1, (16, 72), (72, 1), 0), arg59_1, -1, reinterpret_tensor(buf2, (1, 16, 16, 16), (4096, 1, 256, 16), 0), 1, 32, 32, 16, 16, 8192, 256, 8, 0, 0, 0, 8, 1, 1, stream=raw_stream0)
            del arg58_1
            del arg59_1
            del buf0
            buf4 = empty_strided_cuda((1, 16, 16, 16), (4096, 256, 16, 1), torch.bfloat16)
            assert_size_stride_grouped((arg60_1, arg61_1), ((16, 16, 3, 3), (16, )), ((144, 1, 48, 16), (1, )), 'input')
            # Topologically Sorted Source Nodes: [fused_conv2d_triton_default_1, fused_conv2d_triton_default_2], Original ATen: [aten.permute, aten.view]
            raw_stream0 = get_raw_stream(0)
            convolution_kernel_2.run(reinterpret_tensor(buf2, (1, 16, 16, 16), (4096, 1, 256, 16), 0), reinterpret_tensor(arg60_1, (16, 144), (144, 1), 0), arg61_1, -1, reinterpret_tensor(buf4, (1, 16, 16, 16), (4096, 1, 256, 16), 0), 1, 16, 16, 16, 16, 4096, 256, 16, 0, 0, 0, 8, 1, 1, stream=raw_stream0)
            del arg60_1
            del arg61_1
            buf6 = empty_strided_cuda((1, 16, 16, 16), (4096, 256, 16, 1), torch.bfloat16)
            assert_size_stride_grouped((arg62_1, arg63_1), ((16, 16, 3, 3), (16, )), ((144, 1, 48, 16), (1, )), 'input')
            # Topologically Sorted Source Nodes: [fused_conv2d_triton_default_1, fused_conv2d_triton_default_2, fused_conv2d_triton_default_3], Original ATen: [aten.permute, aten.view]
            raw_stream0 = get_raw_stream(0)
            convolution_kernel_3.run(reinterpret_tensor(buf4, (1, 16, 16, 16), (4096, 1, 256, 16), 0), reinterpret_tensor(arg62_1, (16, 144), (144, 1), 0), arg63_1, reinterpret_tensor(buf2, (1, 16, 16, 16), (4096, 1, 256, 16), 0), reinterpret_tensor(buf6, (1, 16, 16, 16), (4096, 1, 256, 16), 0), 1, 16, 16, 16, 16, 4096, 256, 16, 4096, 256, 16, 8, 1, 1, stream=raw_stream0)
            del arg62_1
            del arg63_1
            del buf2
            del buf4
            assert_size_stride(arg1_1, (32, 16, 3, 3), (144, 1, 48, 16), 'input')
            # Topologically Sorted Source Nodes: [fused_conv2d_triton_default_3, input_7], Original ATen: [aten.permute, aten.convolution]
            buf8 = extern_kernels.convolution(reinterpret_tensor(buf6, (1, 16, 16, 16), (4096, 1, 256, 16), 0), arg1_1, stride=(2, 2), padding=(1, 1), dilation=(1, 1), transposed=False, output_padding=(0, 0), groups=1, bias=None)
            assert_tensor_metadata(buf8, (1, 32, 8, 8), (2048, 1, 256, 32), torch.bfloat16, 'torch.ops.aten.convolution.default')
            del arg1_1
            buf9 = empty_strided_cuda((1, 8, 8, 32), (2048, 256, 32, 1), torch.bfloat16)
            assert_size_stride_grouped((arg64_1, arg65_1), ((32, 32, 3, 3), (32, )), ((288, 1, 96, 32), (1, )), 'input')
            # Topologically Sorted Source Nodes: [fused_conv2d_triton_default_4], Original ATen: [aten.permute, aten.view]
            raw_stream0 = get_raw_stream(0)
            convolution_kernel_4.run(buf8, reinterpret_tensor(arg64_1, (32, 288), (288, 1), 0), arg65_1, -1, reinterpret_tensor(buf9, (1, 32, 8, 8), (2048, 1, 256, 32), 0), 1, 8, 8, 8, 8, 2048, 256, 32, 0, 0, 0, 2, 1, 1, stream=raw_stream0)
            del arg64_1
            del arg65_1
            buf11 = empty_strided_cuda((1, 8, 8, 32), (2048, 256, 32, 1), torch.bfloat16)
            assert_size_stride_grouped((arg66_1, arg67_1), ((32, 32, 3, 3), (32, )), ((288, 1, 96, 32), (1, )), 'input')
            # Topologically Sorted Source Nodes: [fused_conv2d_triton_default_4, fused_conv2d_triton_default_5], Original ATen: [aten.permute, aten.view]
            raw_stream0 = get_raw_stream(0)
            convolution_kernel_5.run(reinterpret_tensor(buf9, (1, 32, 8, 8), (2048, 1, 256, 32), 0), reinterpret_tensor(arg66_1, (32, 288), (288, 1), 0), arg67_1, buf8, reinterpret_tensor(buf11, (1, 32, 8, 8), (2048, 1, 256, 32), 0), 1, 8, 8, 8, 8, 2048, 256, 32, 2048, 256, 32, 2, 1, 1, stream=raw_stream0)
            del arg66_1
            del arg67_1
            del buf8
            del buf9
            assert_size_stride(arg2_1, (64, 32, 3, 3), (288, 1, 96, 32), 'input')
            # Topologically Sorted Source Nodes: [fused_conv2d_triton_default_5, input_8], Original ATen: [aten.permute, aten.convolution]
            buf13 = extern_kernels.convolution(reinterpret_tensor(buf11, (1, 32, 8, 8), (2048, 1, 256, 32), 0), arg2_1, stride=(2, 2), padding=(1, 1), dilation=(1, 1), transposed=False, output_padding=(0, 0), groups=1, bias=None)
            assert_tensor_metadata(buf13, (1, 64, 4, 4), (1024, 1, 256, 64), torch.bfloat16, 'torch.ops.aten.convolution.default')
            del arg2_1
            del buf11
            buf14 = empty_strided_cuda((4, 4, 64), (256, 64, 1), torch.bfloat16)
            buf15 = empty_strided_cuda((16, 64), (64, 1), torch.bfloat16)
            buf22 = empty_strided_cuda((16, 64), (64, 1), torch.bfloat16)
            # Topologically Sorted Source Nodes: [x_3, reshape, x_4, tokens, fused_linear_triton_default, fused_linear_triton_default_1], Original ATen: [aten.permute, aten.view, aten.transpose, aten.clone, aten._unsafe_view]
            raw_stream0 = get_raw_stream(0)
            triton_poi_fused__unsafe_view_clone_permute_transpose_view_0.run(buf13, buf15, buf22, 1024, stream=raw_stream0)
            del buf13
            assert_size_stride_grouped((arg5_1, arg3_1, arg4_1), ((64, 64), (64, ), (64, )), ((64, 1), (1, ), (1, )), 'input')
            # Topologically Sorted Source Nodes: [x_3, reshape, x_4, tokens, fused_linear_triton_default], Original ATen: [aten.permute, aten.view, aten.transpose, aten.clone, aten._unsafe_view]
            raw_stream0 = get_raw_stream(0)
            linear_kernel_6.run(buf15, arg5_1, -1, arg3_1, arg4_1, -1, -1, buf14, 16, 64, 64, 64, 1, 64, 1, 0, 0, 2, 1, 1, stream=raw_stream0)
            del arg3_1
            del arg4_1
            del arg5_1
            assert_size_stride(arg68_1, (64, 1, 3), (3, 3, 1), 'input')
            buf18 = reinterpret_tensor(buf15, (4, 4, 64), (256, 64, 1), 0); del buf15  # reuse
            # Topologically Sorted Source Nodes: [to_2, pad, getitem_27, getitem_24, mul, getitem_25, mul_1, add_12, getitem_31, getitem_26, mul_2, add_13, to_4, silu_6], Original ATen: [aten._to_copy, aten.constant_pad_nd, aten.slice, aten.select, aten.mul, aten.add, aten.silu]
            raw_stream0 = get_raw_stream(0)
            triton_poi_fused__to_copy_add_constant_pad_nd_mul_select_silu_slice_1.run(buf14, arg68_1, buf18, 1024, stream=raw_stream0)
            del arg68_1
            assert_size_stride(arg69_1, (48, 32), (32, 1), 'input')
            buf19 = empty_strided_cuda((16, 48), (48, 1), torch.bfloat16)
            # Topologically Sorted Source Nodes: [silu_6, chunk_2, flatten_2, linear_23], Original ATen: [aten.silu, aten.split, aten.view, aten.t, aten.mm]
            extern_kernels.mm(reinterpret_tensor(buf18, (16, 32), (64, 1), 0), reinterpret_tensor(arg69_1, (32, 48), (1, 32), 0), out=buf19)
            del arg69_1
            assert_size_stride_grouped((arg70_1, arg6_1, arg71_1), ((32, 8), (32, ), (32, )), ((8, 1), (1, ), (1, )), 'input')
            # Topologically Sorted Source Nodes: [silu_6, selective_scan_triton_cat_default, view_6, narrow, narrow_1, unsqueeze, narrow_2, unsqueeze_1], Original ATen: [aten.silu, aten.slice, aten.view, aten.unsqueeze]
            raw_stream0 = get_raw_stream(0)
            forward_kernel_7.run(reinterpret_tensor(buf18, (4, 4, 32), (256, 64, 1), 0), reinterpret_tensor(buf19, (4, 4, 32), (192, 48, 1), 0), arg70_1, reinterpret_tensor(buf19, (4, 4, 1, 8), (192, 48, 8, 1), 32), reinterpret_tensor(buf19, (4, 4, 1, 8), (192, 48, 8, 1), 40), arg6_1, -1, arg71_1, -1, -1, buf18, -1, -1, 4, 32, 8, 32, 64, 256, 64, 1, 192, 48, 1, 0, 0, 0, 192, 48, 8, 1, 192, 48, 8, 1, 0, 0, 256, 64, 8, 4, 1, stream=raw_stream0)
            del arg6_1
            del arg70_1
            del arg71_1
            del buf19
            buf21 = buf14; del buf14  # reuse
            assert_size_stride(arg7_1, (64, 64), (64, 1), 'input')
            # Topologically Sorted Source Nodes: [x_3, reshape, x_4, tokens, fused_linear_triton_default_1], Original ATen: [aten.permute, aten.view, aten.transpose, aten.clone, aten._unsafe_view]
            raw_stream0 = get_raw_stream(0)
            linear_kernel_8.run(reinterpret_tensor(buf18, (16, 64), (64, 1), 0), arg7_1, -1, -1, -1, -1, buf22, buf21, 16, 64, 64, 64, 1, 64, 1, 64, 1, 2, 1, 1, stream=raw_stream0)
            del arg7_1
            buf24 = reinterpret_tensor(buf6, (4, 4, 256), (1024, 256, 1), 0); del buf6  # reuse
            assert_size_stride_grouped((arg10_1, arg11_1, arg8_1, arg9_1), ((256, 64), (256, ), (64, ), (64, )), ((64, 1), (1, ), (1, ), (1, )), 'input')
            # Topologically Sorted Source Nodes: [fused_linear_triton_default_2], Original ATen: [aten.view]
            raw_stream0 = get_raw_stream(0)
            linear_kernel_9.run(reinterpret_tensor(buf21, (16, 64), (64, 1), 0), arg10_1, arg11_1, arg8_1, arg9_1, -1, -1, buf24, 16, 256, 64, 64, 1, 64, 1, 0, 0, 8, 1, 1, stream=raw_stream0)
            del arg10_1
            del arg11_1
            del arg8_1
            del arg9_1
            buf26 = reinterpret_tensor(buf22, (4, 4, 64), (256, 64, 1), 0); del buf22  # reuse
            assert_size_stride_grouped((arg12_1, arg13_1), ((64, 256), (64, )), ((256, 1), (1, )), 'input')
            # Topologically Sorted Source Nodes: [fused_linear_triton_default_3], Original ATen: [aten.view]
            raw_stream0 = get_raw_stream(0)
            linear_kernel_10.run(reinterpret_tensor(buf24, (16, 256), (256, 1), 0), arg12_1, arg13_1, -1, -1, -1, reinterpret_tensor(buf21, (16, 64), (64, 1), 0), buf26, 16, 64, 256, 256, 1, 256, 1, 64, 1, 2, 1, 1, stream=raw_stream0)
            del arg12_1
            del arg13_1
            buf28 = empty_strided_cuda((4, 4, 192), (768, 192, 1), torch.bfloat16)
            assert_size_stride_grouped((arg16_1, arg17_1, arg14_1, arg15_1), ((192, 64), (192, ), (64, ), (64, )), ((64, 1), (1, ), (1, ), (1, )), 'input')
            # Topologically Sorted Source Nodes: [fused_linear_triton_default_4], Original ATen: [aten.view]
            raw_stream0 = get_raw_stream(0)
            linear_kernel_11.run(reinterpret_tensor(buf26, (16, 64), (64, 1), 0), arg16_1, arg17_1, arg14_1, arg15_1, -1, -1, buf28, 16, 192, 64, 64, 1, 64, 1, 0, 0, 6, 1, 1, stream=raw_stream0)
            del arg14_1
            del arg15_1
            del arg16_1
            del arg17_1
            buf30 = reinterpret_tensor(buf21, (4, 4, 2, 32), (256, 64, 32, 1), 0); del buf21  # reuse
            buf31 = empty_strided_cuda((4, 2, 4), (8, 4, 1), torch.float32)
            # Topologically Sorted Source Nodes: [window_attention_triton_default], Original ATen: [aten.view, aten.transpose, aten.unbind]
            raw_stream0 = get_raw_stream(0)
            attention_forward_kernel_12.run(reinterpret_tensor(buf28, (4, 2, 4, 32), (768, 32, 192, 1), 0), reinterpret_tensor(buf28, (4, 2, 4, 32), (768, 32, 192, 1), 64), reinterpret_tensor(buf28, (4, 2, 4, 32), (768, 32, 192, 1), 128), reinterpret_tensor(buf30, (4, 2, 4, 32), (256, 32, 64, 1), 0), buf31, 4, 2, 0.1767766952966369, 768, 32, 192, 1, 768, 32, 192, 1, 768, 32, 192, 1, 256, 64, 8, 1, 1, stream=raw_stream0)
            del buf28
            del buf31
            buf34 = buf18; del buf18  # reuse
            assert_size_stride_grouped((arg18_1, arg19_1), ((64, 64), (64, )), ((64, 1), (1, )), 'input')
            # Topologically Sorted Source Nodes: [window_attention_triton_default, fused_linear_triton_default_5], Original ATen: [aten.transpose, aten.view]
            raw_stream0 = get_raw_stream(0)
            linear_kernel_13.run(reinterpret_tensor(buf30, (16, 64), (64, 1), 0), arg18_1, arg19_1, -1, -1, -1, reinterpret_tensor(buf26, (16, 64), (64, 1), 0), buf34, 16, 64, 64, 64, 1, 64, 1, 64, 1, 2, 1, 1, stream=raw_stream0)
            del arg18_1
            del arg19_1
            del buf26
            buf36 = buf24; del buf24  # reuse
            assert_size_stride_grouped((arg22_1, arg23_1, arg20_1, arg21_1), ((256, 64), (256, ), (64, ), (64, )), ((64, 1), (1, ), (1, ), (1, )), 'input')
            # Topologically Sorted Source Nodes: [fused_linear_triton_default_6], Original ATen: [aten.view]
            raw_stream0 = get_raw_stream(0)
            linear_kernel_9.run(reinterpret_tensor(buf34, (16, 64), (64, 1), 0), arg22_1, arg23_1, arg20_1, arg21_1, -1, -1, buf36, 16, 256, 64, 64, 1, 64, 1, 0, 0, 8, 1, 1, stream=raw_stream0)
            del arg20_1
            del arg21_1
            del arg22_1
            del arg23_1
            buf38 = reinterpret_tensor(buf30, (4, 4, 64), (256, 64, 1), 0); del buf30  # reuse
            assert_size_stride_grouped((arg24_1, arg25_1), ((64, 256), (64, )), ((256, 1), (1, )), 'input')
            # Topologically Sorted Source Nodes: [fused_linear_triton_default_7], Original ATen: [aten.view]
            raw_stream0 = get_raw_stream(0)
            linear_kernel_10.run(reinterpret_tensor(buf36, (16, 256), (256, 1), 0), arg24_1, arg25_1, -1, -1, -1, reinterpret_tensor(buf34, (16, 64), (64, 1), 0), buf38, 16, 64, 256, 256, 1, 256, 1, 64, 1, 2, 1, 1, stream=raw_stream0)
            del arg24_1
            del arg25_1
            del buf36
            buf40 = reinterpret_tensor(buf34, (1, 2, 2, 2, 2, 64), (1024, 512, 256, 128, 64, 1), 0); del buf34  # reuse
            # Topologically Sorted Source Nodes: [x_17], Original ATen: [aten.view, aten.transpose, aten.clone]
            raw_stream0 = get_raw_stream(0)
            triton_poi_fused_clone_transpose_view_2.run(buf38, buf40, 1024, stream=raw_stream0)
            del buf38
            assert_size_stride(arg26_1, (128, 64, 3, 3), (576, 1, 192, 64), 'input')
            # Topologically Sorted Source Nodes: [x_17, x_18, input_9], Original ATen: [aten.view, aten.transpose, aten.clone, aten._unsafe_view, aten.permute, aten.convolution]
            buf41 = extern_kernels.convolution(reinterpret_tensor(buf40, (1, 64, 4, 4), (0, 1, 256, 64), 0), arg26_1, stride=(2, 2), padding=(1, 1), dilation=(1, 1), transposed=False, output_padding=(0, 0), groups=1, bias=None)
            assert_tensor_metadata(buf41, (1, 128, 2, 2), (512, 1, 256, 128), torch.bfloat16, 'torch.ops.aten.convolution.default')
            del arg26_1
            del buf40
            buf42 = empty_strided_cuda((1, 4, 128), (512, 128, 1), torch.bfloat16)
            assert_size_stride_grouped((arg29_1, arg27_1, arg28_1), ((128, 128), (128, ), (128, )), ((128, 1), (1, ), (1, )), 'input')
            # Topologically Sorted Source Nodes: [x_19, reshape_4, x_20, tokens_1, fused_linear_triton_default_8], Original ATen: [aten.permute, aten.view, aten.transpose]
            raw_stream0 = get_raw_stream(0)
            linear_kernel_14.run(reinterpret_tensor(buf41, (4, 128), (128, 1), 0), arg29_1, -1, arg27_1, arg28_1, -1, -1, buf42, 4, 128, 128, 128, 1, 128, 1, 0, 0, 4, 1, 1, stream=raw_stream0)
            del arg27_1
            del arg28_1
            del arg29_1
            assert_size_stride(arg72_1, (128, 1, 3), (3, 3, 1), 'input')
            buf45 = empty_strided_cuda((1, 4, 128), (512, 128, 1), torch.bfloat16)
            # Topologically Sorted Source Nodes: [to_5, pad_1, getitem_36, getitem_33, mul_3, getitem_34, mul_4, add_14, getitem_40, getitem_35, mul_5, add_15, to_7, silu_7], Original ATen: [aten._to_copy, aten.constant_pad_nd, aten.slice, aten.select, aten.mul, aten.add, aten.silu]
            raw_stream0 = get_raw_stream(0)
            triton_poi_fused__to_copy_add_constant_pad_nd_mul_select_silu_slice_3.run(buf42, arg72_1, buf45, 512, stream=raw_stream0)
            del arg72_1
            assert_size_stride(arg73_1, (80, 64), (64, 1), 'input')
            buf46 = empty_strided_cuda((4, 80), (80, 1), torch.bfloat16)
            # Topologically Sorted Source Nodes: [silu_7, chunk_3, flatten_3, linear_24], Original ATen: [aten.silu, aten.split, aten.view, aten.t, aten.mm]
            extern_kernels.mm(reinterpret_tensor(buf45, (4, 64), (128, 1), 0), reinterpret_tensor(arg73_1, (64, 80), (1, 64), 0), out=buf46)
            del arg73_1
            assert_size_stride_grouped((arg74_1, arg30_1, arg75_1), ((64, 8), (64, ), (64, )), ((8, 1), (1, ), (1, )), 'input')
            # Topologically Sorted Source Nodes: [silu_7, selective_scan_triton_cat_default_1, view_7, narrow_3, narrow_4, unsqueeze_2, narrow_5, unsqueeze_3], Original ATen: [aten.silu, aten.slice, aten.view, aten.unsqueeze]
            raw_stream0 = get_raw_stream(0)
            forward_kernel_15.run(reinterpret_tensor(buf45, (1, 4, 64), (512, 128, 1), 0), reinterpret_tensor(buf46, (1, 4, 64), (320, 80, 1), 0), arg74_1, reinterpret_tensor(buf46, (1, 4, 1, 8), (320, 80, 8, 1), 64), reinterpret_tensor(buf46, (1, 4, 1, 8), (320, 80, 8, 1), 72), arg30_1, -1, arg75_1, -1, -1, buf45, -1, -1, 4, 64, 8, 64, 64, 512, 128, 1, 320, 80, 1, 0, 0, 0, 320, 80, 8, 1, 320, 80, 8, 1, 0, 0, 512, 128, 16, 1, 1, stream=raw_stream0)
            del arg30_1
            del arg74_1
            del arg75_1
            del buf46
            buf48 = buf42; del buf42  # reuse
            assert_size_stride(arg31_1, (128, 128), (128, 1), 'input')
            # Topologically Sorted Source Nodes: [x_19, reshape_4, x_20, tokens_1, fused_linear_triton_default_9], Original ATen: [aten.permute, aten.view, aten.transpose]
            raw_stream0 = get_raw_stream(0)
            linear_kernel_16.run(reinterpret_tensor(buf45, (4, 128), (128, 1), 0), arg31_1, -1, -1, -1, -1, reinterpret_tensor(buf41, (4, 128), (128, 1), 0), buf48, 4, 128, 128, 128, 1, 128, 1, 128, 1, 4, 1, 1, stream=raw_stream0)
            del arg31_1
            buf50 = empty_strided_cuda((1, 4, 512), (2048, 512, 1), torch.bfloat16)
            assert_size_stride_grouped((arg34_1, arg35_1, arg32_1, arg33_1), ((512, 128), (512, ), (128, ), (128, )), ((128, 1), (1, ), (1, ), (1, )), 'input')
            # Topologically Sorted Source Nodes: [fused_linear_triton_default_10], Original ATen: [aten.view]
            raw_stream0 = get_raw_stream(0)
            linear_kernel_17.run(reinterpret_tensor(buf48, (4, 128), (128, 1), 0), arg34_1, arg35_1, arg32_1, arg33_1, -1, -1, buf50, 4, 512, 128, 128, 1, 128, 1, 0, 0, 16, 1, 1, stream=raw_stream0)
            del arg32_1
            del arg33_1
            del arg34_1
            del arg35_1
            buf52 = buf45; del buf45  # reuse
            assert_size_stride_grouped((arg36_1, arg37_1), ((128, 512), (128, )), ((512, 1), (1, )), 'input')
            # Topologically Sorted Source Nodes: [fused_linear_triton_default_11], Original ATen: [aten.view]
            raw_stream0 = get_raw_stream(0)
            linear_kernel_18.run(reinterpret_tensor(buf50, (4, 512), (512, 1), 0), arg36_1, arg37_1, -1, -1, -1, reinterpret_tensor(buf48, (4, 128), (128, 1), 0), buf52, 4, 128, 512, 512, 1, 512, 1, 128, 1, 4, 1, 1, stream=raw_stream0)
            del arg36_1
            del arg37_1
            buf54 = empty_strided_cuda((1, 4, 384), (1536, 384, 1), torch.bfloat16)
            assert_size_stride_grouped((arg40_1, arg41_1, arg38_1, arg39_1), ((384, 128), (384, ), (128, ), (128, )), ((128, 1), (1, ), (1, ), (1, )), 'input')
            # Topologically Sorted Source Nodes: [fused_linear_triton_default_12], Original ATen: [aten.view]
            raw_stream0 = get_raw_stream(0)
            linear_kernel_19.run(reinterpret_tensor(buf52, (4, 128), (128, 1), 0), arg40_1, arg41_1, arg38_1, arg39_1, -1, -1, buf54, 4, 384, 128, 128, 1, 128, 1, 0, 0, 12, 1, 1, stream=raw_stream0)
            del arg38_1
            del arg39_1
            del arg40_1
            del arg41_1
            buf56 = reinterpret_tensor(buf48, (1, 4, 4, 32), (512, 128, 32, 1), 0); del buf48  # reuse
            buf57 = empty_strided_cuda((1, 4, 4), (16, 4, 1), torch.float32)
            # Topologically Sorted Source Nodes: [window_attention_triton_default_1], Original ATen: [aten.view, aten.transpose, aten.unbind]
            raw_stream0 = get_raw_stream(0)
            attention_forward_kernel_20.run(reinterpret_tensor(buf54, (1, 4, 4, 32), (1536, 32, 384, 1), 0), reinterpret_tensor(buf54, (1, 4, 4, 32), (1536, 32, 384, 1), 128), reinterpret_tensor(buf54, (1, 4, 4, 32), (1536, 32, 384, 1), 256), reinterpret_tensor(buf56, (1, 4, 4, 32), (512, 32, 128, 1), 0), buf57, 4, 4, 0.1767766952966369, 1536, 32, 384, 1, 1536, 32, 384, 1, 1536, 32, 384, 1, 512, 128, 4, 1, 1, stream=raw_stream0)
            del buf54
            del buf57
            buf60 = reinterpret_tensor(buf41, (1, 4, 128), (512, 128, 1), 0); del buf41  # reuse
            assert_size_stride_grouped((arg42_1, arg43_1), ((128, 128), (128, )), ((128, 1), (1, )), 'input')
            # Topologically Sorted Source Nodes: [window_attention_triton_default_1, fused_linear_triton_default_13], Original ATen: [aten.transpose, aten.view]
            raw_stream0 = get_raw_stream(0)
            linear_kernel_21.run(reinterpret_tensor(buf56, (4, 128), (128, 1), 0), arg42_1, arg43_1, -1, -1, -1, reinterpret_tensor(buf52, (4, 128), (128, 1), 0), buf60, 4, 128, 128, 128, 1, 128, 1, 128, 1, 4, 1, 1, stream=raw_stream0)
            del arg42_1
            del arg43_1
            del buf52
            buf62 = buf50; del buf50  # reuse
            assert_size_stride_grouped((arg46_1, arg47_1, arg44_1, arg45_1), ((512, 128), (512, ), (128, ), (128, )), ((128, 1), (1, ), (1, ), (1, )), 'input')
            # Topologically Sorted Source Nodes: [fused_linear_triton_default_14], Original ATen: [aten.view]
            raw_stream0 = get_raw_stream(0)
            linear_kernel_17.run(reinterpret_tensor(buf60, (4, 128), (128, 1), 0), arg46_1, arg47_1, arg44_1, arg45_1, -1, -1, buf62, 4, 512, 128, 128, 1, 128, 1, 0, 0, 16, 1, 1, stream=raw_stream0)
            del arg44_1
            del arg45_1
            del arg46_1
            del arg47_1
            buf64 = reinterpret_tensor(buf56, (1, 4, 128), (512, 128, 1), 0); del buf56  # reuse
            assert_size_stride_grouped((arg48_1, arg49_1), ((128, 512), (128, )), ((512, 1), (1, )), 'input')
            # Topologically Sorted Source Nodes: [fused_linear_triton_default_15], Original ATen: [aten.view]
            raw_stream0 = get_raw_stream(0)
            linear_kernel_18.run(reinterpret_tensor(buf62, (4, 512), (512, 1), 0), arg48_1, arg49_1, -1, -1, -1, reinterpret_tensor(buf60, (4, 128), (128, 1), 0), buf64, 4, 128, 512, 512, 1, 512, 1, 128, 1, 4, 1, 1, stream=raw_stream0)
            del arg48_1
            del arg49_1
            del buf60
            del buf62
            assert_size_stride_grouped((arg50_1, arg51_1, arg52_1, arg53_1), ((128, ), (128, ), (128, ), (128, )), ((1, ), (1, ), (1, ), (1, )), 'input')
            buf66 = empty_strided_cuda((1, 128), (128, 1), torch.bfloat16)
            # Topologically Sorted Source Nodes: [batch_norm_6, mean], Original ATen: [aten.view, aten.transpose, aten.permute, aten._native_batch_norm_legit_no_training, aten.mean]
            raw_stream0 = get_raw_stream(0)
            triton_poi_fused__native_batch_norm_legit_no_training_mean_permute_transpose_view_4.run(buf64, arg50_1, arg51_1, arg52_1, arg53_1, buf66, 128, stream=raw_stream0)
            del arg50_1
            del arg51_1
            del arg52_1
            del arg53_1
            del buf64
            assert_size_stride_grouped((arg55_1, arg54_1), ((10, ), (10, 128)), ((1, ), (128, 1)), 'input')
            buf67 = empty_strided_cuda((1, 10), (10, 1), torch.bfloat16)
            # Topologically Sorted Source Nodes: [linear_20], Original ATen: [aten.t, aten.addmm]
            extern_kernels.addmm(arg55_1, buf66, reinterpret_tensor(arg54_1, (128, 10), (1, 128), 0), alpha=1, beta=1, out=buf67)
            del arg54_1
            del arg55_1
            del buf66
        return (buf67, )

runner = Runner(partitions=[])
call = runner.call
recursively_apply_fns = runner.recursively_apply_fns


def get_args():
    from torch._dynamo.testing import rand_strided
    arg0_1 = rand_strided((1, 3, 64, 64), (12288, 1, 192, 3), device='cuda:0', dtype=torch.bfloat16)
    arg1_1 = rand_strided((32, 16, 3, 3), (144, 1, 48, 16), device='cuda:0', dtype=torch.bfloat16)
    arg2_1 = rand_strided((64, 32, 3, 3), (288, 1, 96, 32), device='cuda:0', dtype=torch.bfloat16)
    arg3_1 = rand_strided((64, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg4_1 = rand_strided((64, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg5_1 = rand_strided((64, 64), (64, 1), device='cuda:0', dtype=torch.bfloat16)
    arg6_1 = rand_strided((32, ), (1, ), device='cuda:0', dtype=torch.float32)
    arg7_1 = rand_strided((64, 64), (64, 1), device='cuda:0', dtype=torch.bfloat16)
    arg8_1 = rand_strided((64, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg9_1 = rand_strided((64, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg10_1 = rand_strided((256, 64), (64, 1), device='cuda:0', dtype=torch.bfloat16)
    arg11_1 = rand_strided((256, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg12_1 = rand_strided((64, 256), (256, 1), device='cuda:0', dtype=torch.bfloat16)
    arg13_1 = rand_strided((64, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg14_1 = rand_strided((64, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg15_1 = rand_strided((64, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg16_1 = rand_strided((192, 64), (64, 1), device='cuda:0', dtype=torch.bfloat16)
    arg17_1 = rand_strided((192, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg18_1 = rand_strided((64, 64), (64, 1), device='cuda:0', dtype=torch.bfloat16)
    arg19_1 = rand_strided((64, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg20_1 = rand_strided((64, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg21_1 = rand_strided((64, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg22_1 = rand_strided((256, 64), (64, 1), device='cuda:0', dtype=torch.bfloat16)
    arg23_1 = rand_strided((256, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg24_1 = rand_strided((64, 256), (256, 1), device='cuda:0', dtype=torch.bfloat16)
    arg25_1 = rand_strided((64, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg26_1 = rand_strided((128, 64, 3, 3), (576, 1, 192, 64), device='cuda:0', dtype=torch.bfloat16)
    arg27_1 = rand_strided((128, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg28_1 = rand_strided((128, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg29_1 = rand_strided((128, 128), (128, 1), device='cuda:0', dtype=torch.bfloat16)
    arg30_1 = rand_strided((64, ), (1, ), device='cuda:0', dtype=torch.float32)
    arg31_1 = rand_strided((128, 128), (128, 1), device='cuda:0', dtype=torch.bfloat16)
    arg32_1 = rand_strided((128, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg33_1 = rand_strided((128, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg34_1 = rand_strided((512, 128), (128, 1), device='cuda:0', dtype=torch.bfloat16)
    arg35_1 = rand_strided((512, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg36_1 = rand_strided((128, 512), (512, 1), device='cuda:0', dtype=torch.bfloat16)
    arg37_1 = rand_strided((128, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg38_1 = rand_strided((128, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg39_1 = rand_strided((128, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg40_1 = rand_strided((384, 128), (128, 1), device='cuda:0', dtype=torch.bfloat16)
    arg41_1 = rand_strided((384, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg42_1 = rand_strided((128, 128), (128, 1), device='cuda:0', dtype=torch.bfloat16)
    arg43_1 = rand_strided((128, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg44_1 = rand_strided((128, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg45_1 = rand_strided((128, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg46_1 = rand_strided((512, 128), (128, 1), device='cuda:0', dtype=torch.bfloat16)
    arg47_1 = rand_strided((512, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg48_1 = rand_strided((128, 512), (512, 1), device='cuda:0', dtype=torch.bfloat16)
    arg49_1 = rand_strided((128, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg50_1 = rand_strided((128, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg51_1 = rand_strided((128, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg52_1 = rand_strided((128, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg53_1 = rand_strided((128, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg54_1 = rand_strided((10, 128), (128, 1), device='cuda:0', dtype=torch.bfloat16)
    arg55_1 = rand_strided((10, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg56_1 = rand_strided((8, 3, 3, 3), (27, 1, 9, 3), device='cuda:0', dtype=torch.bfloat16)
    arg57_1 = rand_strided((8, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg58_1 = rand_strided((16, 8, 3, 3), (72, 1, 24, 8), device='cuda:0', dtype=torch.bfloat16)
    arg59_1 = rand_strided((16, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg60_1 = rand_strided((16, 16, 3, 3), (144, 1, 48, 16), device='cuda:0', dtype=torch.bfloat16)
    arg61_1 = rand_strided((16, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg62_1 = rand_strided((16, 16, 3, 3), (144, 1, 48, 16), device='cuda:0', dtype=torch.bfloat16)
    arg63_1 = rand_strided((16, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg64_1 = rand_strided((32, 32, 3, 3), (288, 1, 96, 32), device='cuda:0', dtype=torch.bfloat16)
    arg65_1 = rand_strided((32, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg66_1 = rand_strided((32, 32, 3, 3), (288, 1, 96, 32), device='cuda:0', dtype=torch.bfloat16)
    arg67_1 = rand_strided((32, ), (1, ), device='cuda:0', dtype=torch.bfloat16)
    arg68_1 = rand_strided((64, 1, 3), (3, 3, 1), device='cuda:0', dtype=torch.float32)
    arg69_1 = rand_strided((48, 32), (32, 1), device='cuda:0', dtype=torch.bfloat16)
    arg70_1 = rand_strided((32, 8), (8, 1), device='cuda:0', dtype=torch.float32)
    arg71_1 = rand_strided((32, ), (1, ), device='cuda:0', dtype=torch.float32)
    arg72_1 = rand_strided((128, 1, 3), (3, 3, 1), device='cuda:0', dtype=torch.float32)
    arg73_1 = rand_strided((80, 64), (64, 1), device='cuda:0', dtype=torch.bfloat16)
    arg74_1 = rand_strided((64, 8), (8, 1), device='cuda:0', dtype=torch.float32)
    arg75_1 = rand_strided((64, ), (1, ), device='cuda:0', dtype=torch.float32)
    return [arg0_1, arg1_1, arg2_1, arg3_1, arg4_1, arg5_1, arg6_1, arg7_1, arg8_1, arg9_1, arg10_1, arg11_1, arg12_1, arg13_1, arg14_1, arg15_1, arg16_1, arg17_1, arg18_1, arg19_1, arg20_1, arg21_1, arg22_1, arg23_1, arg24_1, arg25_1, arg26_1, arg27_1, arg28_1, arg29_1, arg30_1, arg31_1, arg32_1, arg33_1, arg34_1, arg35_1, arg36_1, arg37_1, arg38_1, arg39_1, arg40_1, arg41_1, arg42_1, arg43_1, arg44_1, arg45_1, arg46_1, arg47_1, arg48_1, arg49_1, arg50_1, arg51_1, arg52_1, arg53_1, arg54_1, arg55_1, arg56_1, arg57_1, arg58_1, arg59_1, arg60_1, arg61_1, arg62_1, arg63_1, arg64_1, arg65_1, arg66_1, arg67_1, arg68_1, arg69_1, arg70_1, arg71_1, arg72_1, arg73_1, arg74_1, arg75_1]


def benchmark_compiled_module(args, times=10, repeat=10):
    from torch._inductor.utils import print_performance
    fn = lambda: call(list(args))
    return print_performance(fn, times=times, repeat=repeat, device='cuda')


if __name__ == "__main__":
    from torch._inductor.wrapper_benchmark import compiled_module_main
    args = get_args()
    compiled_module_main('None', lambda times, repeat: benchmark_compiled_module(args, times=times, repeat=repeat))
