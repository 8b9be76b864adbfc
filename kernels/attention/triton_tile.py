"""What the kernels of attention share: tiles of rows and channels, products of them, and where they lie in memory.

Sizes of tiles are powers of two, and a head of 40 channels would leave a third of 64 empty, as 196 keys a quarter of
256. So channels are cut in two parts, 32 + 16, and keys in as many as their number, rounded up to 16, has bits:
128 + 64 + 16. A tensor in parts is a tuple.
"""

import triton
import triton.language as tl

from mvc.kernels.scan.triton_tile import wide


@triton.jit
def start(i_batch, stride_b, i_head, stride_h, ALIGNED: tl.constexpr):
    """Where a head starts; ALIGNED: elements of which strides are multiples, which the compiler need not know."""
    stride_b = stride_b // ALIGNED * ALIGNED
    return i_batch.to(tl.int64) * stride_b + i_head.to(tl.int64) * (stride_h // ALIGNED * ALIGNED)


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


@triton.jit
def product(x, y, REST: tl.constexpr, PRECISION: tl.constexpr):
    """x yᵀ over the channels of both."""
    z = tl.dot(x[0], tl.trans(y[0]), input_precision=PRECISION)
    if REST > 0:
        z = tl.dot(x[1], tl.trans(y[1]), z, input_precision=PRECISION)
    return z


@triton.jit
def zeros(ROWS: tl.constexpr, WIDE: tl.constexpr, REST: tl.constexpr):
    parts = (tl.zeros((ROWS, WIDE), tl.float32),)
    if REST > 0:
        parts = parts + (tl.zeros((ROWS, REST), tl.float32),)
    return parts


@triton.jit
def weighted(weights, x, parts, REST: tl.constexpr, PRECISION: tl.constexpr):
    """The parts plus the sums of x's rows with these weights, which are rounded to x's dtype."""
    weights = weights.to(x[0].dtype)
    sums = (tl.dot(weights, x[0], parts[0], input_precision=PRECISION),)
    if REST > 0:
        sums = sums + (tl.dot(weights, x[1], parts[1], input_precision=PRECISION),)
    return sums


@triton.jit
def times(parts, factor, REST: tl.constexpr):
    scaled = (parts[0] * factor,)
    if REST > 0:
        scaled = scaled + (parts[1] * factor,)
    return scaled


@triton.jit
def row_sums(x, y, REST: tl.constexpr):
    """Of x y, in float32."""
    sums = tl.sum(x[0].to(tl.float32) * y[0].to(tl.float32), 1)
    if REST > 0:
        sums += tl.sum(x[1].to(tl.float32) * y[1].to(tl.float32), 1)
    return sums


@triton.jit
def from_bits(ROWS: tl.constexpr, i: tl.constexpr):
    """The rows of the part that stands for bit 8 - i of ROWS, when the parts of higher bits come first."""
    return (ROWS >> (9 - i) << (9 - i)) + tl.arange(0, 256 >> i)


@triton.jit
def finite(x):
    """x with zero for minus infinity: what is subtracted where no score is finite, so that all weights are 0."""
    return tl.where(x == float("-inf"), 0.0, x)
