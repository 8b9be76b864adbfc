"""What kernels apply to a block of results before they store it: activations."""

import triton
import triton.language as tl

ACTIVATIONS = ("none", "relu", "silu", "gelu", "gelu_tanh")
BITS = tl.constexpr(-1.4426950408889634)  # -1 / ln 2: exp(-x) is exp2(x * BITS), which is one instruction


@triton.jit
def _logit(s):
    """The logit of the normal distribution function at x over x, for s = x²: the polynomial for which x σ(x logit)
    differs least from GELU, by 8e-8 at most."""
    p = 7.87473674e-6 + s * (-2.62591947e-7 + s * 3.50555065e-9)
    return 1.59576778 + s * (7.26702633e-2 + s * (-6.75755690e-5 + s * (-1.10055411e-4 + s * p)))


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
