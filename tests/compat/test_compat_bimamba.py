"""The variants of `mamba_inner_fn` against formulas written out in `compat_cases`."""

from __future__ import annotations

import pytest
import torch
from compat_cases import assert_like, inner, inner_inputs, inner_scans

from mvc.compat.bimamba import bimamba_inner_fn, bimamba_inner_ref, mamba_inner_fn_no_out_proj, mamba_inner_ref

OPTIONS = ("D", "delta_bias", "B_proj_bias", "C_proj_bias")


@pytest.mark.parametrize("function", [bimamba_inner_fn, bimamba_inner_ref], ids=lambda f: f.__name__)
@pytest.mark.parametrize("options", [OPTIONS, ("B", "C")], ids="+".join)
def test_two_directions(function, options):
    assert_like(function, inner, inner_inputs("A_b", *options))


def test_two_directions_in_half_precision():
    assert_like(bimamba_inner_fn, inner, inner_inputs("A_b", *OPTIONS), torch.bfloat16)


def test_mamba_inner_ref():
    """Without softplus too, where the published reference applies it nevertheless."""
    assert_like(mamba_inner_ref, inner, inner_inputs(*OPTIONS))
    inputs = inner_inputs("D") | {"delta_softplus": False}
    assert_like(mamba_inner_ref, inner, inputs | {"delta_proj_weight": inputs["delta_proj_weight"] / 8})


def test_references_can_be_differentiated_twice():
    for function, inputs in ((mamba_inner_ref, inner_inputs("D")), (bimamba_inner_ref, inner_inputs("A_b"))):
        xz = inputs["xz"].requires_grad_()
        (gradient,) = torch.autograd.grad(function(**inputs).square().sum(), xz, create_graph=True)
        assert torch.autograd.grad(gradient.sum(), xz)[0].abs().max() > 0


def test_without_the_projection_out():
    inputs = inner_inputs(*OPTIONS)
    del inputs["out_proj_weight"], inputs["out_proj_bias"]
    assert_like(mamba_inner_fn_no_out_proj, inner_scans, inputs)


def test_the_order_of_positional_arguments():
    inputs = inner_inputs("A_b", "D", "delta_bias")
    names = ("xz", "conv1d_weight", "conv1d_bias", "x_proj_weight", "delta_proj_weight")
    first, out = [inputs[name] for name in names], [inputs["out_proj_weight"], inputs["out_proj_bias"]]
    rest = (None, None, inputs["D"], inputs["delta_bias"])
    both = bimamba_inner_fn(*first, *out, inputs["A"], inputs["A_b"], *rest)
    assert torch.equal(both, bimamba_inner_fn(**inputs))
    one = inputs | {"A_b": None}
    del one["A_b"]
    assert torch.equal(mamba_inner_ref(*first, *out, inputs["A"], *rest), mamba_inner_ref(**one))
    y = mamba_inner_fn_no_out_proj(*first, inputs["A"], *rest)
    assert y.shape == (inputs["xz"].shape[0], inputs["A"].shape[0], inputs["xz"].shape[2])


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match=r"A_b must be \(dim, N\) with dim 6, N 5, got shape \(5, 6\)"):
        bimamba_inner_fn(**inner_inputs("A_b") | {"A_b": torch.ones(5, 6)})
    with pytest.raises(TypeError, match="A_b must be a tensor, got NoneType"):
        bimamba_inner_fn(**inner_inputs("A_b") | {"A_b": None})
