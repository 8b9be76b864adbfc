"""What kernels apply to a block of results before they store it: activations."""

import triton
import triton.language as tl

ACTIVATIONS = ("none", "relu", "silu", "gelu", "gelu_tanh")


@triton.jit
def activated(x, ACTIVATION: tl.constexpr):
    """The activation of a float32 block, with NaN and infinities as torch has them; "none" leaves it as it is.

    GELU's tanh form is x σ(2y), the same as x (1 + tanh y) / 2.
    """
    if ACTIVATION == "relu":
        return tl.where(x < 0.0, 0.0, x)  # a NaN stays
    elif ACTIVATION == "silu":
        return x / (1.0 + tl.exp(-x))
    elif ACTIVATION == "gelu":
        return 0.5 * x * (1.0 + tl.erf(0.7071067811865476 * x))
    elif ACTIVATION == "gelu_tanh":
        return x / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))
    else:
        tl.static_assert(ACTIVATION == "none", "an unknown activation")
        return x
