"""mamba-ssm's normalisations and its block, against formulas written out here."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from compat_cases import assert_like
from torch import Tensor, nn

from mvc.compat import block, mamba_simple
from mvc.compat.layer_norm import RMSNorm, layer_norm_fn, rms_norm_fn
from mvc.errors import UserError

ROWS, FEATURES, EPS = (2, 3), 5, 1e-3
SHAPES = dict.fromkeys(("x", "residual", "x1"), (*ROWS, FEATURES)) | {"rowscale": ROWS}
SHAPES |= dict.fromkeys(("weight", "bias", "weight1", "bias1"), (FEATURES,))


def norm(x, weight, bias, rms):
    centred = x if rms else x - x.mean(-1, keepdim=True)
    y = centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt() * weight
    return y if bias is None else y + bias


def formula(x, weight, bias, *, rms, residual=None, x1=None, weight1=None, bias1=None, rowscale=None):
    """With the sum, as `prenorm` asks for."""
    total = x if rowscale is None else x * rowscale[..., None]
    total = total if x1 is None else total + x1
    total = total if residual is None else total + residual
    results = [norm(total, weight, bias, rms)] + ([] if weight1 is None else [norm(total, weight1, bias1, rms)])
    return *results, total


def norm_inputs(*options: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    names = ("x", "weight", "bias", *options)
    return {name: 1 + torch.randn(SHAPES[name], generator=generator) for name in names}


@pytest.mark.parametrize("rms", [False, True], ids=["layer", "rms"])
@pytest.mark.parametrize(
    "options",
    [(), ("residual",), ("residual", "x1"), ("residual", "x1", "weight1"), ("weight1", "bias1"), ("rowscale",)],
    ids=lambda options: "+".join(options) or "plain",
)
def test_the_sum_is_normalised(rms, options):
    assert_like(
        partial(layer_norm_fn, eps=EPS, prenorm=True, is_rms_norm=rms), partial(formula, rms=rms), norm_inputs(*options)
    )


@pytest.mark.parametrize("rms", [False, True], ids=["layer", "rms"])
def test_half_precision_rounds_only_its_results(rms):
    inputs = {name: t.bfloat16() for name, t in norm_inputs("residual").items()}
    inputs |= {"weight": inputs["weight"].float(), "residual": inputs["residual"].float()}
    y, total = layer_norm_fn(**inputs, eps=EPS, prenorm=True, is_rms_norm=rms)
    assert (y.dtype, total.dtype) == (torch.bfloat16, torch.float32)
    expected, sum_ = formula(**{name: t.double() for name, t in inputs.items()}, rms=rms)
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=2**-16)
    torch.testing.assert_close(total.double(), sum_)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again, _ = layer_norm_fn(**inputs, eps=EPS, prenorm=True, is_rms_norm=rms)
    assert torch.equal(again, y)


def test_the_dtype_of_the_sum():
    x, weight = torch.ones(*ROWS, FEATURES).half(), torch.ones(FEATURES)
    assert layer_norm_fn(x, weight, None, prenorm=True)[1].dtype == torch.float16
    assert layer_norm_fn(x, weight, None, prenorm=True, residual_in_fp32=True)[1].dtype == torch.float32
    kept = layer_norm_fn(x, weight, None, residual=x.bfloat16(), prenorm=True, residual_in_fp32=True)[1]
    assert kept.dtype == torch.bfloat16, "a residual keeps its dtype"


def test_dropout_is_of_x_and_x1_and_not_of_the_residual():
    inputs = norm_inputs("residual", "x1")
    inputs |= {name: torch.ones(*ROWS, FEATURES) for name in ("x", "residual", "x1")}
    torch.manual_seed(0)
    *_, total = layer_norm_fn(**inputs, dropout_p=0.5, prenorm=True)
    assert set(total.unique().tolist()) == {1.0, 3.0, 5.0}, "each of two terms is 0 or 2, and the residual is 1"


def test_positional_arguments_are_those_of_1x():
    x, weight, bias, residual = norm_inputs("residual").values()
    named = {"residual": residual, "eps": EPS, "prenorm": True, "residual_in_fp32": True}
    assert_same = partial(torch.testing.assert_close, rtol=0, atol=0)
    assert_same(layer_norm_fn(x, weight, bias, residual, EPS, True, True), layer_norm_fn(x, weight, bias, **named))
    assert_same(rms_norm_fn(x, weight, bias, residual, True, True, EPS), rms_norm_fn(x, weight, bias, **named))


def test_rms_norm_module():
    module, inputs = RMSNorm(FEATURES, eps=EPS, dtype=torch.float64), norm_inputs("residual")
    assert list(module.state_dict()) == ["weight"]
    assert module.bias is None
    x, residual = inputs["x"].double(), inputs["residual"].double()
    expected, total = formula(x, module.weight, None, rms=True, residual=residual)
    torch.testing.assert_close(module(x, residual, prenorm=True), (expected, total))
    torch.testing.assert_close(module(x), formula(x, module.weight, None, rms=True)[0])
    assert RMSNorm(FEATURES, device="meta").weight.is_meta


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"return_dropout_mask": True}, NotImplementedError, "return_dropout_mask is not supported"),
        (
            {"residual": torch.ones(3, FEATURES)},
            ValueError,
            r"residual must be \(axis 0, axis 1, features\) .*got shape \(3, 5\)",
        ),
        ({"weight": torch.ones(4)}, ValueError, r"weight must be \(features,\) with features 5, got shape \(4,\)"),
        ({"rowscale": torch.ones(3)}, ValueError, r"rowscale must be \(axis 0, axis 1\) .*got shape \(3,\)"),
        ({"bias1": torch.ones(FEATURES)}, ValueError, "bias1 is used with weight1 only"),
        ({"dropout_p": 1.5}, UserError, "dropout_p is 1.5"),
        ({"eps": torch.ones(FEATURES)}, UserError, "eps is a Tensor"),
        ({"prenorm": 1}, TypeError, "prenorm must be True or False"),
    ],
)
def test_what_is_wrong_is_said(change, error, message):
    with pytest.raises(error, match=message):
        layer_norm_fn(**norm_inputs() | change)


class Mixer(nn.Linear):
    """Stands for a mixer; keeps the arguments that it was called with."""

    def __init__(self, dim):
        super().__init__(dim, dim)

    def forward(self, x, inference_params=None, **options):
        self.seen = (inference_params, options)
        return super().forward(x)


def two_blocks(cls, fused: bool, norm_cls=nn.LayerNorm, **options) -> nn.ModuleList:
    torch.manual_seed(0)
    blocks = [cls(FEATURES, Mixer, norm_cls=norm_cls, fused_add_norm=fused, **options) for _ in range(2)]
    return nn.ModuleList(blocks).double()


@pytest.mark.parametrize("fused", [False, True], ids=["apart", "fused"])
@pytest.mark.parametrize("norm_cls", [nn.LayerNorm, RMSNorm], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("mlp", [False, True], ids=["1.x", "2.x with an MLP"])
def test_blocks_add_normalise_and_mix(fused, norm_cls, mlp):
    blocks = two_blocks(block.Block, fused, norm_cls, mlp_cls=lambda dim: nn.Linear(dim, dim)) if mlp else None
    blocks = blocks or two_blocks(mamba_simple.Block, fused, norm_cls)
    x = torch.randn(2, 4, FEATURES, dtype=torch.float64)
    hidden, residual = x, None
    for each in blocks:
        hidden, residual = each(hidden, residual)
    expected, total = x, torch.zeros_like(x)
    for each in blocks:
        for mix in ("mixer", "mlp") if mlp else ("mixer",):
            total = total + expected
            expected = getattr(each, mix)((each.norm if mix == "mixer" else each.norm2)(total))
    torch.testing.assert_close((hidden, residual), (expected, total))


def test_parameters_of_a_block():
    names = {name.rpartition(".")[0] for name in two_blocks(mamba_simple.Block, True)[0].state_dict()}
    assert names == {"norm", "mixer"}
    full = block.Block(FEATURES, Mixer, lambda dim: nn.Linear(dim, dim))
    assert {name.rpartition(".")[0] for name in full.state_dict()} == {"norm", "mixer", "norm2", "mlp"}
    assert block.Block(FEATURES, Mixer, nn.Identity).mlp is None


@pytest.mark.parametrize("fused", [False, True], ids=["apart", "fused"])
def test_a_residual_in_float32(fused):
    module = mamba_simple.Block(FEATURES, Mixer, fused_add_norm=fused, residual_in_fp32=True).bfloat16()
    hidden, residual = module(torch.ones(1, 2, FEATURES).bfloat16())
    assert (hidden.dtype, residual.dtype) == (torch.bfloat16, torch.float32)
    hidden, residual = module(hidden, residual)
    assert (hidden.dtype, residual.dtype) == (torch.bfloat16, torch.float32)


def test_a_block_passes_arguments_to_its_mixer():
    module = mamba_simple.Block(FEATURES, Mixer)
    module(torch.ones(1, 2, FEATURES), inference_params="params", seq_idx="numbers")
    assert module.mixer.seen == ("params", {"seq_idx": "numbers"})


def test_fused_needs_a_norm_that_it_knows():
    with pytest.raises(UserError, match="norm_cls makes a BatchNorm1d; fused_add_norm needs"):
        mamba_simple.Block(FEATURES, Mixer, nn.BatchNorm1d, fused_add_norm=True)
