"""What the Triton kernels of the selective scan share.

A program runs BLOCK channels of one group, one vector of them for each of its N states, so that nothing is exchanged
between threads in the forward's loop. Sequences are read STEPS steps at a time: where the length is contiguous, as one
wide load of each channel. Names: `p_` pointers, `o_` offsets, `i_` program indices and counters, `b_` values of
channels.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
SMALLEST_NORMAL = tl.constexpr(1.1754943508222875e-38)


@triton.jit
def log1p(e):
    """log(1 + e) for e in [0, 1], as 2 artanh(e / (2 + e))."""
    s = e / (e + 2.0)
    q = s * s
    p = q * (2.0 / 15.0) + 2.0 / 13.0
    p = p * q + 2.0 / 11.0
    p = p * q + 2.0 / 9.0
    p = p * q + 2.0 / 7.0
    p = p * q + 2.0 / 5.0
    p = p * q + 2.0 / 3.0
    return p * q * s + 2.0 * s


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))


@triton.jit
def never_vanishing(b_product, b_exponent):
    """A product of decays that may have underflowed: zero only where the smallest of them, two to this exponent, is
    one that GPUs may flush to zero, since an infinite state that decays stays infinite."""
    return tl.where((b_exponent >= -126.0) & (b_product < SMALLEST_NORMAL), SMALLEST_NORMAL, b_product)


@triton.jit
def step_size(b_raw, SOFTPLUS: tl.constexpr):
    """Δ from delta + delta_bias."""
    if SOFTPLUS:
        return tl.maximum(b_raw, 0.0) + log1p(tl.exp2(-tl.abs(b_raw) * LOG2E))
    else:
        return b_raw


@triton.jit
def position(t, j, STEPS: tl.constexpr, REVERSE: tl.constexpr):
    """Where in the sequence the step stands that runs as number j of the STEPS from t on."""
    if REVERSE:
        return (t + STEPS - 1 - j).to(tl.int64)
    else:
        return (t + j).to(tl.int64)


@triton.jit
def run_position(i, count, REVERSE: tl.constexpr):
    if REVERSE:
        return count - 1 - i
    else:
        return i


@triton.jit
def columns(b_tile, ROWS: tl.constexpr, STEPS: tl.constexpr, REVERSE: tl.constexpr):
    """The columns of a tile whose rows lie in one thread each: two or four."""
    if STEPS == 2:
        b_0, b_1 = tl.split(b_tile)
        if REVERSE:
            return (b_1, b_0)
        else:
            return (b_0, b_1)
    else:
        b_even, b_odd = tl.split(tl.reshape(b_tile, (ROWS, 2, 2)))
        b_0, b_2 = tl.split(b_even)
        b_1, b_3 = tl.split(b_odd)
        if REVERSE:
            return (b_3, b_2, b_1, b_0)
        else:
            return (b_0, b_1, b_2, b_3)


@triton.jit
def load_steps(p_channels, t, stride, mask, STEPS: tl.constexpr, ALONG_LENGTH: tl.constexpr, REVERSE: tl.constexpr):
    """STEPS vectors (BLOCK,) float32 from step t on, in the order in which they run."""
    out = ()
    if ALONG_LENGTH and STEPS > 1:
        o_step = tl.multiple_of(t, STEPS) + tl.arange(0, STEPS)
        b_tile = tl.load(p_channels[:, None] + o_step[None, :], mask=mask[:, None], other=0.0).to(tl.float32)
        out = columns(b_tile, mask.shape[0], STEPS, REVERSE)
    else:
        for j in tl.static_range(STEPS):
            o_step = position(t, j, STEPS, REVERSE) * stride
            out = out + (tl.load(p_channels + o_step, mask=mask, other=0.0).to(tl.float32),)
    return out


@triton.jit
def weights(p_step, stride, mask, N: tl.constexpr, CONSTANT: tl.constexpr):
    """B or C of one step: N scalars of the group, or N vectors of the channels."""
    out = ()
    for n in tl.static_range(N):
        if CONSTANT:
            out = out + (tl.load(p_step + n * stride, mask=mask, other=0.0).to(tl.float32),)
        else:
            out = out + (tl.load(p_step + n * stride).to(tl.float32),)
    return out


@triton.jit
def channels(width, BLOCK: tl.constexpr):
    """This program's group, channels, and which of them exist: blocks do not reach over a group's end."""
    blocks_per_group = tl.cdiv(width, BLOCK)
    i_block = tl.program_id(0)
    i_group = i_block // blocks_per_group
    o_in_group = (i_block % blocks_per_group) * BLOCK + tl.arange(0, BLOCK)
    return i_group, i_group * width + o_in_group, o_in_group < width


@triton.jit
def load_A(p_A, o_channel, states, mask, N: tl.constexpr):
    """A over ln 2, so that exp(ΔA) is one exp2."""
    out = ()
    for n in tl.static_range(N):
        out = out + (tl.load(p_A + o_channel * states + n, mask=mask, other=0.0) * LOG2E,)
    return out


@triton.jit
def load_channels(pointer, o_channel, mask):
    """A parameter of each channel, zero where it is absent."""
    if pointer is None:
        return tl.zeros(mask.shape, tl.float32)
    else:
        return tl.load(pointer + o_channel, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def weights_of(pointer, o_channel, i_batch, i_group, stride_b, stride_g, CONSTANT: tl.constexpr):
    """Where B or C starts for this program; constant ones have their stride over channels in place of groups'."""
    if CONSTANT:
        return pointer + o_channel * stride_g
    else:
        return pointer + i_batch * stride_b + i_group * stride_g


@triton.jit
def load_states(p_channels, mask, N: tl.constexpr):
    """N vectors (BLOCK,) from rows of states; zeros without a pointer."""
    out = ()
    for n in tl.static_range(N):
        if p_channels is None:
            out = out + (tl.zeros(mask.shape, tl.float32),)
        else:
            out = out + (tl.load(p_channels + n, mask=mask, other=0.0).to(tl.float32),)
    return out


@triton.jit
def store_states(p_channels, states, mask, N: tl.constexpr):
    for n in tl.static_range(N):
        tl.store(p_channels + n, states[n], mask=mask)


@triton.jit
def split_chunk(first, chunk, length, WIDE: tl.constexpr):
    """How many groups of WIDE steps a chunk has, and how many steps beyond them."""
    steps = tl.minimum(first + chunk, length) - first
    return steps // WIDE, steps % WIDE
