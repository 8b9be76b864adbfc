"""mamba-ssm's functions of Mamba-2 against recurrences written out here."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from compat_cases import assert_like
from torch import Tensor
from torch.nn import functional as F

from mvc.compat.layer_norm_gated import RMSNorm, rmsnorm_fn
from mvc.compat.ssd import mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined

BATCH, LENGTH, HEADS, WIDTH, GROUPS, N, CHUNK = 2, 9, 4, 3, 2, 5, 4
SEQ_IDX = torch.tensor([[0, 0, 1, 1, 1, 1, 2, 2, 2], [3, 3, 3, 3, 3, 3, 3, 3, 5]])


def recurrence(
    x, dt, A, B, C, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None, softplus=True, limit=(0, math.inf)
):
    """Mamba-2's scan step by step, in the dtype of A, at least float32; y in x's dtype."""
    out = x.dtype
    tensors = (x, dt, B, C, D, z, dt_bias, initial_states)
    x, dt, B, C, D, z, dt_bias, state = (None if t is None else t.to(A.dtype) for t in tensors)
    dt = dt if dt_bias is None else dt + dt_bias
    dt = (F.softplus(dt) if softplus else dt).clamp(*limit)
    B, C = (t.repeat_interleave(x.shape[2] // t.shape[2], dim=2) for t in (B, C))
    if state is None:
        state = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1])
    ys = []
    for t in range(x.shape[1]):
        if seq_idx is not None and t:
            state = state * (seq_idx[:, t] == seq_idx[:, t - 1])[:, None, None, None]
        step = dt[:, t, :, None, None]
        state = torch.exp(step * A[:, None, None]) * state + step * x[:, t, :, :, None] * B[:, t, :, None]
        ys.append((state * C[:, t, :, None]).sum(-1))
    y = torch.stack(ys, dim=1)
    if D is not None:
        y = y + (D if D.dim() == 2 else D[:, None]) * x
    return (y if z is None else y * F.silu(z)).to(out), state


def norm(x, weight, z, eps, groups, before):
    """The gated norm in groups, in the dtype of x."""
    gated = x if z is None or before else x * F.silu(z)
    parts = gated.unflatten(-1, (groups, -1))
    y = (parts / (parts.square().mean(-1, keepdim=True) + eps).sqrt()).flatten(-2) * weight
    return y * F.silu(z) if z is not None and before else y


def make(*options: str, batch: int = BATCH, length: int = LENGTH, groups: int = GROUPS) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (batch, length, HEADS, WIDTH), "dt": (batch, length, HEADS), "A": (HEADS,)}
    shapes |= dict.fromkeys("BC", (batch, length, groups, N))
    more = {"D": (HEADS,), "z": shapes["x"], "dt_bias": (HEADS,), "initial_states": (batch, HEADS, WIDTH, N)}
    more["D of channels"] = (HEADS, WIDTH)
    shapes |= {name.partition(" ")[0]: more[name] for name in options}
    inputs = {name: torch.randn(shape, generator=generator).bfloat16().float() for name, shape in shapes.items()}
    return inputs | {"A": -inputs["A"].exp()}


def scan(*args, softplus=True, limit=(0, math.inf), **options):
    more = {"dt_softplus": softplus, "dt_limit": limit, "return_final_states": True}
    return mamba_chunk_scan_combined(*args, chunk_size=CHUNK, **options, **more)


@pytest.mark.parametrize(
    ("names", "options"),
    [
        ((), {}),
        (("D", "z", "dt_bias"), {}),
        (("D of channels", "initial_states"), {"softplus": False, "limit": (0.1, 0.6)}),
        (("dt_bias", "initial_states", "z"), {"seq_idx": SEQ_IDX, "limit": (0.5, 1.0)}),
        (("D",), {"softplus": False, "limit": (-math.inf, math.inf)}),
    ],
    ids=["plain", "D-z-bias", "D-of-channels-initial-limit", "packed-limit", "negative-steps"],
)
def test_scan_is_the_recurrence(names, options):
    assert_like(partial(scan, **options), partial(recurrence, **options), make(*names))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_scan_in_half_precision_rounds_its_output_alone(dtype):
    assert_like(scan, recurrence, make("D", "z", "dt_bias"), dtype=dtype)


@pytest.mark.parametrize(("length", "groups"), [(1, 1), (CHUNK, 4), (3 * CHUNK + 1, 1)])
def test_scan_of_any_length_and_groups(length, groups):
    assert_like(scan, recurrence, make("D", "dt_bias", length=length, groups=groups))


def test_scan_in_float64_of_strided_tensors():
    inputs = {name: t.double() for name, t in make("z", "initial_states").items()}
    strided = {name: t.transpose(-1, 0).contiguous().transpose(-1, 0) for name, t in inputs.items()}
    for actual, expected in zip(scan(**strided), recurrence(**inputs), strict=True):
        torch.testing.assert_close(actual, expected)


def test_autocast_rounds_nothing():
    inputs = make("D", "dt_bias")
    with torch.autocast("cpu", torch.bfloat16):
        y, states = scan(**inputs)
    expected, expected_states = scan(**inputs)
    assert torch.equal(y, expected), "y"
    assert torch.equal(states, expected_states), "states"


@pytest.mark.parametrize("form", ["seq_idx", "cu_seqlens", "states of all"])
def test_packed_sequences_do_not_see_each_other(form):
    inputs, lengths = make("z", batch=1), [2, 0, 6, 1]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    along = {name: t.split(lengths, dim=1) for name, t in inputs.items() if name != "A"}
    alone = [scan(A=inputs["A"], **{name: t[i] for name, t in along.items()}) for i in range(4)]
    options = {"cu_seqlens": offsets}
    if form == "seq_idx":
        options = {"seq_idx": torch.arange(4).repeat_interleave(torch.tensor(lengths))[None]}
    elif form == "states of all":
        options["return_varlen_states"] = True
    y, final, *of_each = scan(**inputs, **options)
    torch.testing.assert_close(y, torch.cat([each[0] for each in alone], dim=1))
    torch.testing.assert_close(final, alone[-1][1])
    for states in of_each:
        torch.testing.assert_close(states, torch.cat([each[1] for each in alone]))
    assert len(of_each) == (form == "states of all")


def block(mlp: int, zxbcdt, conv1d_weight, dt_bias, A, D, conv1d_bias=None, seq_idx=None, **options):
    """Mamba-2's block without its projection in, in the dtype of A."""
    given = (zxbcdt, conv1d_weight, dt_bias, D, conv1d_bias)
    zxbcdt, conv1d_weight, dt_bias, D, conv1d_bias = (None if t is None else t.to(A.dtype) for t in given)
    dim, weights = HEADS * WIDTH, GROUPS * N
    gate, value, z, xBC, dt = zxbcdt.split((mlp, mlp, dim, dim + 2 * weights, HEADS), dim=-1)
    sums = torch.zeros_like(xBC) if conv1d_bias is None else conv1d_bias + torch.zeros_like(xBC)
    taps = conv1d_weight.shape[1]
    rows = []
    for t in range(xBC.shape[1]):
        row = sums[:, t]
        for tap in range(taps):
            past = t - (taps - 1) + tap
            if past >= 0:
                seen = 1 if seq_idx is None else (seq_idx[:, past] == seq_idx[:, t])[:, None]
                row = row + seen * xBC[:, past] * conv1d_weight[:, tap]
        rows.append(row)
    xBC = torch.stack(rows, dim=1)
    xBC = xBC if options["activation"] is None else F.silu(xBC)
    x, B, C = xBC.split((dim, weights, weights), dim=-1)
    x, z = (t.unflatten(-1, (HEADS, WIDTH)) for t in (x, z))
    B, C = (t.unflatten(-1, (GROUPS, N)) for t in (B, C))
    weight = options.get("rmsnorm_weight")
    initial, limit = options.get("initial_states"), options.get("dt_limit", (0, math.inf))
    y, state = recurrence(x, dt, A, B, C, D, z if weight is None else None, dt_bias, initial, seq_idx, limit=limit)
    y = y.flatten(2)
    if weight is not None:
        y = norm(y, weight.to(A.dtype), z.flatten(2), options["rmsnorm_eps"], GROUPS, options["norm_before_gate"])
    y = torch.cat((F.silu(gate) * value, y), dim=-1)
    if "outproj_weight" in options:
        y = F.linear(y, options["outproj_weight"].to(A.dtype))
    return y, state


@pytest.mark.parametrize(
    ("mlp", "names", "options"),
    [
        (0, (), {"activation": None}),
        (2, ("conv1d_bias", "rmsnorm_weight", "outproj_weight"), {"activation": "silu", "norm_before_gate": False}),
        (1, ("rmsnorm_weight",), {"activation": "swish", "norm_before_gate": True, "seq_idx": SEQ_IDX}),
        (0, ("outproj_weight", "initial_states"), {"activation": "silu", "dt_limit": (0.3, 0.9)}),
    ],
    ids=["bare", "all", "norm-before-gate-packed", "no-norm-initial-limit"],
)
def test_fused_block_is_its_parts(mlp, names, options):
    generator = torch.Generator().manual_seed(0)
    dim, channels = HEADS * WIDTH, HEADS * WIDTH + 2 * GROUPS * N
    shapes = {"zxbcdt": (BATCH, LENGTH, 2 * mlp + dim + channels + HEADS), "conv1d_weight": (channels, 4)}
    shapes |= dict.fromkeys(("dt_bias", "A", "D"), (HEADS,))
    more = {"conv1d_bias": (channels,), "rmsnorm_weight": (dim,), "outproj_weight": (6, mlp + dim)}
    more["initial_states"] = (BATCH, HEADS, WIDTH, N)
    inputs = {
        name: torch.randn(shape, generator=generator) for name, shape in (shapes | {n: more[n] for n in names}).items()
    }
    inputs["A"] = -inputs["A"].exp()
    options = options | ({"rmsnorm_eps": 1e-3} if "rmsnorm_weight" in names else {})

    def fused(conv1d_bias=None, **given):
        more = {"chunk_size": CHUNK, "headdim": WIDTH, "ngroups": GROUPS, "return_final_states": True}
        return mamba_split_conv1d_scan_combined(conv1d_bias=conv1d_bias, **given, **more)

    assert_like(partial(fused, **options), partial(block, mlp, **options), inputs)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("group_size", [None, 2])
def test_gated_norm(before, group_size):
    module = RMSNorm(6, eps=1e-3, group_size=group_size, norm_before_gate=before, dtype=torch.float64)
    assert [name for name, _ in module.named_parameters()] == ["weight"]
    x, z = torch.randn(2, 3, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.no_grad():
        module.weight.copy_(torch.arange(6))
    expected = norm(x, module.weight, z, 1e-3, 1 if group_size is None else 3, before)
    torch.testing.assert_close(module(x, z), expected)
    gradients = (torch.autograd.grad(y.square().sum(), (x, z, module.weight)) for y in (module(x, z), expected))
    for actual, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, wanted)
    torch.testing.assert_close(module(x), norm(x, module.weight, None, 1e-3, 1 if group_size is None else 3, before))
    half = rmsnorm_fn(x.half(), module.weight.half(), torch.ones(6), z.half(), 1e-3, group_size, before)
    assert half.dtype == torch.float16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"dt_limit": (1, 0)}, r"dt_limit is \(1, 0\)"),
        (
            {"B": torch.ones(2, 9, 3, 5), "C": torch.ones(2, 9, 3, 5)},
            "number of groups is 3; it must be a divisor of 4",
        ),
        ({"D": torch.ones(3)}, r"D must be \(heads,\) or \(heads, headdim\) with heads 4"),
        ({"seq_idx": torch.zeros(2, 8, dtype=torch.int32)}, r"seq_idx's shape is \(2, 8\)"),
        ({"seq_idx": torch.zeros(2, 9)}, "seq_idx's dtype is torch.float32"),
        ({"cu_seqlens": torch.tensor([0, 9])}, "the batch beside cu_seqlens is 2"),
        ({"return_varlen_states": True}, "cu_seqlens is None"),
    ],
)
def test_malformed_calls_of_the_scan(changes, message):
    with pytest.raises(ValueError, match=message):
        mamba_chunk_scan_combined(**make() | {"chunk_size": 4} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"headdim": None}, "headdim is None"),
        ({"D": torch.ones(4, 3), "headdim": 2}, "headdim is 2; it must be 3, as in D"),
        ({"ngroups": 3}, "ngroups is 3"),
        ({"conv1d_weight": torch.ones(12, 4)}, "conv1d_weight's number of rows is 12"),
        ({"zxbcdt": torch.ones(1, 2, 37)}, "zxbcdt's number of features is 37"),
        ({"activation": "gelu"}, "activation is 'gelu'"),
    ],
)
def test_malformed_calls_of_the_fused_block(changes, message):
    options = {"zxbcdt": torch.ones(1, 2, 12 + 22 + 4), "conv1d_weight": torch.ones(22, 4), "conv1d_bias": None}
    options |= dict.fromkeys(("dt_bias", "A", "D"), torch.ones(4)) | {"chunk_size": 4, "headdim": 3}
    with pytest.raises(ValueError, match=message):
        mamba_split_conv1d_scan_combined(**options | changes)
