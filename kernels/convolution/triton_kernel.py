"""The Triton kernel of a convolution over channels_last images, with bias, activation and residual in its epilogue.

A program makes a tile of B_N images x B_H x B_W pixels x (WIDE + NARROW) outputs. It is a matrix product whose inner
axis is (tap, input channel), flattened as the weight's memory has it, so that no channel is padded: 80 channels of 9
taps are 720 numbers, 11.25 steps of 64. Outputs may be the sum of two powers of two for the same reason (80 is
64 + 16); both parts read the one tile of x. A thread's piece of the inner axis belongs to one tap where the channels
are a multiple of that piece, so it computes the tap once a step, and of each pixel only whether the tap lies in the
image.
"""

import triton
import triton.language as tl

from mvc.kernels.triton_epilogue import activated

# Added to a row's first line, or to a tap's line: their sum, taken as unsigned, is in no image of less than FAR lines.
NO_ROW = tl.constexpr(-(1 << 30))
NO_TAP = tl.constexpr(1 << 29)


@triton.jit
def _multiples(stride_n, stride_h, stride_w, MULTIPLE: tl.constexpr):
    """The strides, so that the compiler knows them to be multiples: of a number it only asks whether 16 divides it."""
    if MULTIPLE > 1:
        stride_n = stride_n // MULTIPLE * MULTIPLE
        stride_h = stride_h // MULTIPLE * MULTIPLE
        stride_w = stride_w // MULTIPLE * MULTIPLE
    return stride_n, stride_h, stride_w


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
