"""The FLOPs of Triton kernels that a graph holds: those of torch's ops for the same tensors."""

import pytest
import torch
from torch.nn import functional as F

from mvc.measure import flops
from mvc.offline import own_kernels


def empty(*size):
    return torch.empty(size, device="meta")


def test_products_count_as_torchs():
    x, weight = empty(3, 5, 7), empty(11, 7)
    seen = own_kernels.flops("fused_linear_kernel_0", {"x": (3, 5, 7), "weight": (11, 7), "y": (3, 5, 11)})
    assert seen == flops.count(lambda: F.linear(x, weight))


def test_convolutions_count_as_torchs():
    x, weight = empty(2, 3, 9, 8), empty(5, 3, 3, 2)
    y = F.conv2d(x, weight, stride=2, padding=1)
    sizes = {"x": tuple(x.shape), "weight": tuple(weight.shape), "y": tuple(y.shape)}
    assert own_kernels.flops("fused_convolution_kernel_1", sizes) == flops.count(
        lambda: F.conv2d(x, weight, stride=2, padding=1)
    )


def test_attention_counts_as_torchs():
    q, k = (empty(2, 3, length, 40).requires_grad_() for length in (7, 5))
    sizes = {"q": tuple(q.shape), "k": tuple(k.shape), "v": tuple(k.shape)}
    forward = flops.count(lambda: F.scaled_dot_product_attention(q, k, k))
    assert own_kernels.flops("attention_forward_kernel_0", sizes) == forward
    # torch on "meta" keeps the weights; the kernels compute them once more.
    both = flops.count(lambda: F.scaled_dot_product_attention(q, k, k).sum().backward())
    backward = own_kernels.flops(
        "attention_backward_kernel_0", {**sizes, "grad_out": tuple(q.shape), "dq": (), "dk": (), "dv": ()}
    )
    assert backward == both - forward + forward // 2


def test_what_only_combines_and_what_is_unknown_count_nothing():
    assert own_kernels.flops("combine_kernel_0", {"p_state": (2, 3)}) == 0
    assert own_kernels.flops("anyones_kernel_0", {"x": (2, 3)}) == 0


@pytest.mark.parametrize("sizes", [{}, {"x": (2, 3), "weight": (3,)}])
def test_a_product_whose_arguments_are_others_is_an_error(sizes):
    with pytest.raises(RuntimeError, match=r"the FLOPs of linear_kernel_0 cannot be counted from its arguments"):
        own_kernels.flops("linear_kernel_0", sizes)


def test_only_scans_go_step_by_step():
    assert own_kernels.steps("forward_kernel_0", 196) == 196
    assert own_kernels.steps("attention_forward_kernel_0", 196) == 0
