"""The Triton kernel of a linear layer with what surrounds it.

A program computes a block of y, (BM, BN). Programs that run at the same time share rows of x and of the weight, which
so stay in the L2 cache::

        weight, transposed          GROUP blocks of rows, then the next block of columns:
           ┌──┬──┬──┐
           └──┴──┴──┘                   0  2  4
      ┌─┐  ┌──┬──┬──┐                   1  3  5
    x ├─┤  │  │y │  │                   6  8 10
      └─┘  └──┴──┴──┘                   7  9 11

Where the layer follows a LayerNorm, each program first finds the mean and the variance of its rows, a piece of BS
elements at a time, and then normalises what it multiplies.
"""

import triton
import triton.language as tl

from mvc.kernels.triton_epilogue import activated


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
def _statistics(q_x, x_k, inner, eps, BM: tl.constexpr, BS: tl.constexpr):
    """The mean and the reciprocal deviation of rows, (BM, 1). Each piece has a mean and a sum of squares around it, and
    joins those before it as if they had been one: a large mean costs no digits."""
    mean = tl.zeros((BM, 1), tl.float32)
    squares = tl.zeros((BM, 1), tl.float32)
    o_k = tl.arange(0, BS)[None, :]
    for start in range(0, inner, BS):
        inside = o_k < inner - start
        b_x = tl.load(q_x + (start + o_k) * x_k, mask=inside, other=0.0).to(tl.float32)
        count = tl.minimum(inner - start, BS)
        own = tl.sum(b_x, 1, keep_dims=True) / count
        around = tl.where(inside, b_x - own, 0.0)
        step = own - mean
        share = count / (start + count)
        mean += step * share
        squares += tl.sum(around * around, 1, keep_dims=True) + step * step * (start * share)
    return mean, tl.rsqrt(squares / inner + eps)


@triton.jit
def _vector(pointer, o, inside, default: tl.constexpr):
    """Elements of a parameter as a row, or the default where it is absent."""
    if pointer is None:
        return default
    else:
        return tl.load(pointer + o, mask=inside, other=0.0).to(tl.float32)[None, :]


@triton.jit
def linear_kernel(
    p_x, p_weight, p_bias, p_norm_weight, p_norm_bias, p_scale, p_residual, p_y,
    rows, columns, inner, x_m, x_k, weight_n, weight_k, residual_m, residual_n,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BS: tl.constexpr, GROUP: tl.constexpr,
    EVEN_N: tl.constexpr, EVEN_K: tl.constexpr, NORM_EPS: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """y = residual + scale * activation(LN(x) @ weight.T + bias), y (rows, columns) contiguous.

    NORM_EPS: of the LayerNorm, or None where there is none. EVEN_N, EVEN_K: columns and inner are multiples of BN, BK.
    """
    i_m, i_n = _block(rows, columns, BM, BN, GROUP)
    o_m = i_m * BM + tl.arange(0, BM)
    o_n = i_n * BN + tl.arange(0, BN)
    o_k = tl.arange(0, BK)
    is_row = o_m < rows
    is_column = tl.full((BN,), EVEN_N, tl.int1) | (o_n < columns)
    # What lies outside is read from the last row or column instead, and never stored.
    o_row = tl.minimum(o_m, rows - 1).to(tl.int64)
    o_column = (o_n if EVEN_N else tl.minimum(o_n, columns - 1)).to(tl.int64)
    q_x = p_x + o_row[:, None] * x_m
    q_weight = p_weight + o_column[None, :] * weight_n
    if NORM_EPS is not None:
        mean, rate = _statistics(q_x, x_k, inner, NORM_EPS, BM, BS)
    q_x += o_k[None, :] * x_k
    q_weight += o_k[:, None] * weight_k

    acc = tl.zeros((BM, BN), tl.float32)
    for start in range(0, inner, BK):
        inside = tl.full((BK,), EVEN_K, tl.int1) | (o_k < inner - start)
        if EVEN_K:
            b_x = tl.load(q_x)
            b_weight = tl.load(q_weight)
        else:
            b_x = tl.load(q_x, mask=inside[None, :], other=0.0)
            b_weight = tl.load(q_weight, mask=inside[:, None], other=0.0)
        if NORM_EPS is not None:
            normalised = (b_x.to(tl.float32) - mean) * rate * _vector(p_norm_weight, start + o_k, inside, 1.0)
            b_x = (normalised + _vector(p_norm_bias, start + o_k, inside, 0.0)).to(b_x.dtype)
        acc = tl.dot(b_x, b_weight, acc, input_precision="ieee")
        q_x += BK * x_k
        q_weight += BK * weight_k

    y = activated(acc + _vector(p_bias, o_n, is_column, 0.0), ACTIVATION)
    y *= _vector(p_scale, o_n, is_column, 1.0)
    is_inside = is_row[:, None] & is_column[None, :]
    if p_residual is not None:
        q_residual = p_residual + o_row[:, None] * residual_m + o_column[None, :] * residual_n
        y += tl.load(q_residual, mask=is_inside, other=0.0).to(tl.float32)
    q_y = p_y + o_row[:, None] * columns + o_n[None, :]
    tl.store(q_y, y.to(p_y.dtype.element_ty), mask=is_inside)
