"""What kind of work a kernel does, by its name."""

from __future__ import annotations

import re

# In the order of showing.
FAMILIES: tuple[str, ...] = (
    "convolution",
    "matrix product",
    "attention",
    "scan",
    "generated: GELU",
    "generated: LayerNorm",
    "generated: other",
    "copies and memsets",
    "other",
)

# The first pattern found in a name decides. What Inductor generated comes first, since its names list what was fused,
# and the convolutions and products beside it; attention comes before convolutions, since cuDNN names its own like them.
_PATTERNS = (
    (r"^triton_tem_\w*conv", "convolution"),
    (r"^triton_tem_\w*attention", "attention"),
    (r"^triton_tem_", "matrix product"),
    (r"^(triton|cpp)_\w*gelu", "generated: GELU"),
    (r"^(triton|cpp)_\w*layer_norm", "generated: LayerNorm"),
    (r"^(triton|cpp)_", "generated: other"),
    # The Triton kernels of mvc.kernels, which Inductor's wrappers number, and other people's scans.
    (r"^(forward|summary|combine|backward|recurrence|step|\w+_scan)_kernel(_\d+)?$|selective_scan_(fwd|bwd)", "scan"),
    (r"^(\w+_)?linear_kernel(_\d+)?$", "matrix product"),
    (r"^(\w+_)?convolution_kernel(_\d+)?$", "convolution"),
    (r"^(\w+_)?attention_(\w+_)?kernel(_\d+)?$", "attention"),
    (r"sdpa|fmha|flash|attention|cudnn::fusion::(compute_dot_do_o|convert_dq)", "attention"),
    (r"^Mem(cpy|set)|copy_kernel|CatArrayBatchedCopy|FillFunctor", "copies and memsets"),
    (r"conv(?!ert)|[fd]prop|[dw]grad|implicit_gemm|nchwToNhwc|nhwcToNchw|winograd", "convolution"),
    (r"gemm|gemv|nvjet|cublas|cutlass", "matrix product"),
)
_COMPILED = [(re.compile(pattern), family) for pattern, family in _PATTERNS]


def family(kernel: str) -> str:
    """Which of `FAMILIES` a kernel belongs to.

    Args:
        kernel: a name as torch.profiler reports it, or of a kernel that Inductor generated.
    """
    return next((family for pattern, family in _COMPILED if pattern.search(kernel)), "other")
