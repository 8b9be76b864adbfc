"""The entry points of mamba-ssm's and VMamba's CUDA extensions, inside the functions that users wrote around them."""

from __future__ import annotations

import pytest
import torch
from compat_cases import BATCH, DIM, GROUPS, LENGTH, N, assert_like, recurrence, scan_inputs
from torch import Tensor

from mvc.compat import selective_scan_cuda, selective_scan_cuda_core, selective_scan_cuda_oflex
from mvc.errors import UserError


class Core(torch.autograd.Function):
    """As VMamba's code calls its core extension; the output flex of the other is one more argument."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, delta_bias, delta_softplus, *out_float):
        extension = selective_scan_cuda_oflex if out_float else selective_scan_cuda_core
        out, x, *rest = extension.fwd(u, delta, A, B, C, D, delta_bias, delta_softplus, 1, *out_float)
        assert not rest
        ctx.delta_softplus = delta_softplus
        ctx.save_for_backward(u, delta, A, B, C, D, delta_bias, x)
        return out

    @staticmethod
    def backward(ctx, dout):
        u, delta, A, B, C, D, delta_bias, x = ctx.saved_tensors
        dout = dout if dout.stride(-1) == 1 else dout.contiguous()
        found = selective_scan_cuda_oflex.bwd(u, delta, A, B, C, D, delta_bias, dout, x, ctx.delta_softplus, 1)
        du, ddelta, dA, dB, dC, dD, ddelta_bias, *rest = found
        assert not rest
        return du, ddelta, dA, dB, dC, dD, ddelta_bias, None, None


class Gated(torch.autograd.Function):
    """As mamba-ssm 1.x's code calls its extension."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        out, x, *rest = selective_scan_cuda.fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
        ctx.delta_softplus = delta_softplus
        ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, x, out)
        return rest[0] if z is not None else out

    @staticmethod
    def backward(ctx, dout):
        u, delta, A, B, C, D, z, delta_bias, x, out = ctx.saved_tensors
        dz = None if z is None else torch.full_like(z, torch.nan)
        inputs = (u, delta, A, B, C, D, z, delta_bias)
        found = selective_scan_cuda.bwd(*inputs, dout, x, out, dz, ctx.delta_softplus, z is not None)
        du, ddelta, dA, dB, dC, dD, ddelta_bias, *rest = found
        if z is not None:
            assert rest[0] is dz, "dz is written to"
            torch.testing.assert_close(rest[1], selective_scan_cuda.fwd(*inputs, ctx.delta_softplus)[2])
        return du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, None


def vmamba_inputs(options: bool = True) -> dict[str, Tensor | bool]:
    inputs = scan_inputs("grouped", "grouped", options)
    inputs.pop("z", None)
    return inputs


def core(u, delta, A, B, C, D=None, delta_bias=None, delta_softplus=False):
    return Core.apply(u, delta, A, B, C, D, delta_bias, delta_softplus)


def flexible(u, delta, A, B, C, D=None, delta_bias=None, delta_softplus=False):
    return Core.apply(u, delta, A, B, C, D, delta_bias, delta_softplus, True)


def gated(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    return Gated.apply(u, delta, A, B, C, D, z, delta_bias, delta_softplus)


def only_y(**inputs):
    return recurrence(**inputs)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [True, False], ids=["options", "plain"])
def test_core(options, dtype):
    inputs = vmamba_inputs(options)
    assert_like(core, only_y, inputs, dtype)
    if options:
        assert_like(lambda **given: flexible(**given).to(dtype), only_y, inputs, dtype)


@pytest.mark.parametrize("options", [True, False], ids=["options", "plain"])
@pytest.mark.parametrize(("B", "C"), [("grouped", "grouped"), ("shared", "constant")])
def test_gated(options, B, C):
    assert_like(gated, only_y, scan_inputs(B, C, options))


def test_the_last_state_is_where_users_read_it():
    inputs = vmamba_inputs()
    out, x = selective_scan_cuda_core.fwd(*inputs.values(), 1)
    y, last_state = recurrence(**inputs)
    assert x.shape == (BATCH, DIM, 1, 2 * N)
    torch.testing.assert_close((out, x[:, :, -1, 1::2]), (y, last_state))


def test_output_in_float32_is_not_rounded():
    inputs = {name: t.bfloat16() if name in ("u", "delta", "B", "C") else t for name, t in vmamba_inputs().items()}
    out, _ = selective_scan_cuda_oflex.fwd(*inputs.values(), 1, True)
    assert out.dtype == torch.float32
    wide = {name: t.float() if torch.is_tensor(t) else t for name, t in inputs.items()}
    torch.testing.assert_close(out, recurrence(**wide)[0])
    dtypes = [t.dtype for t in inputs.values() if torch.is_tensor(t)]
    given = [*inputs.values()]
    gradients = selective_scan_cuda_oflex.bwd(*given[:7], torch.ones_like(out), None, True, 1)
    assert [t.dtype for t in gradients] == dtypes
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again, _ = selective_scan_cuda_oflex.fwd(*given, 1, True)
    assert torch.equal(again, out)


def test_compiled_around_breaks():
    """VMamba's own function asks for strides in its backward, which breaks the graph; the results stay."""
    inputs, results = vmamba_inputs(), []
    for function in (core, torch.compile(core, backend="aot_eager")):
        u = inputs["u"].clone().requires_grad_()
        y = function(**inputs | {"u": u})
        results.append((y, *torch.autograd.grad(y.square().sum(), u)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("few", [1, 2])
def test_a_channel_of_delta_serves_neighbours(few):
    inputs = vmamba_inputs()
    inputs |= {"delta": inputs["delta"][:, :few], "delta_bias": inputs["delta_bias"][:few]}

    def repeated(delta, delta_bias, **others):
        delta, delta_bias = delta.repeat_interleave(DIM // few, 1), delta_bias.repeat_interleave(DIM // few)
        return only_y(delta=delta, delta_bias=delta_bias, **others)

    assert_like(core, repeated, inputs)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"nrows": 5}, UserError, "nrows is 5; it must be 1, 2, 3 or 4"),
        ({"B": torch.ones(BATCH, N, LENGTH)}, ValueError, r"B must be \(batch, groups, N, length\)"),
        (
            {"C": torch.ones(BATCH, GROUPS - 1, N, LENGTH)},
            ValueError,
            r"C must be .* with .*groups 3.*got .*\(2, 2, 5, 9\)",
        ),
        (
            {"delta": torch.ones(BATCH, 4, LENGTH)},
            ValueError,
            "delta has 4 channels; their number must divide u's dim 6",
        ),
        ({"A": torch.ones(DIM, N).bfloat16()}, TypeError, "A must be torch.float32"),
    ],
)
def test_what_is_wrong_is_said(change, error, message):
    inputs = vmamba_inputs(options=False) | {"D": None, "delta_bias": None, "delta_softplus": False, "nrows": 1}
    with pytest.raises(error, match=message):
        selective_scan_cuda_core.fwd(**inputs | change)


def test_the_backward_says_what_is_wrong():
    inputs = scan_inputs("grouped", "grouped", options=False)
    given = [inputs[name] for name in ("u", "delta", "A", "B", "C")] + [None, None, None]
    dout = torch.ones(BATCH, DIM, LENGTH)
    with pytest.raises(ValueError, match="dz and recompute_out_z need z"):
        selective_scan_cuda.bwd(*given, dout, None, None, dout, False, False)
    with pytest.raises(ValueError, match=r"dout must be \(batch, dim, length\) with batch 2, dim 6, length 9, got"):
        selective_scan_cuda.bwd(*given, dout[:, :3], None, None, None, False, False)
    given[6] = dout
    with pytest.raises(ValueError, match="recompute_out_z needs out"):
        selective_scan_cuda.bwd(*given, dout, None, None, None, False, True)
