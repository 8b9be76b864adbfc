"""causal-conv1d's functions against sums written out here."""

from __future__ import annotations

import pytest
import torch
from compat_cases import assert_like
from torch import Tensor
from torch.nn import functional as F

from mvc.compat.causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from mvc.errors import UserError

BATCH, DIM, LENGTH = 2, 3, 7


def convolution(x, weight, bias=None, initial_states=None, seq_idx=None, activation=None, return_final_states=False):
    """One output at a time."""
    width = weight.shape[1]
    past = x.new_zeros(*x.shape[:2], width - 1) if initial_states is None else initial_states
    steps, columns = torch.cat((past, x), dim=2), []
    for t in range(x.shape[2]):
        taps = [weight[:, width - 1 - back] * steps[..., width - 1 + t - back] for back in range(width)]
        if seq_idx is not None:
            numbers = F.pad(seq_idx, (width - 1, 0), value=-1)
            same = [numbers[:, width - 1 + t - back] == seq_idx[:, t] for back in range(width)]
            taps = [tap * keep[:, None] for tap, keep in zip(taps, same, strict=True)]
        total = sum(taps) if bias is None else sum(taps) + bias
        columns.append(total if seq_idx is None else total * (seq_idx[:, t] >= 0)[:, None])
    y = torch.stack(columns, dim=2)
    y = y if activation is None else F.silu(y)
    return (y, steps[..., steps.shape[2] - width + 1 :]) if return_final_states else y


def conv_inputs(*options: str, width: int = 4, length: int = LENGTH) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (BATCH, DIM, length), "weight": (DIM, width)}
    more = {"bias": (DIM,), "initial_states": (BATCH, DIM, width - 1)}
    shapes |= {name: more[name] for name in options}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("activation", [None, "silu", "swish"])
@pytest.mark.parametrize("options", [(), ("bias",), ("bias", "initial_states")], ids=lambda o: "+".join(o) or "plain")
@pytest.mark.parametrize("width", [1, 3, 4])
def test_causal_conv1d_fn(activation, options, width):
    assert_like(causal_conv1d_fn, convolution, conv_inputs(*options, width=width) | {"activation": activation})


@pytest.mark.parametrize("length", [2, LENGTH], ids=["shorter than the state", "longer"])
def test_final_states(length):
    inputs = conv_inputs("bias", "initial_states", length=length) | {"return_final_states": True}
    assert_like(causal_conv1d_fn, convolution, inputs)
    out = torch.full((BATCH, DIM, 3), torch.nan)
    _, states = causal_conv1d_fn(**inputs, final_states_out=out)
    assert states is out
    assert torch.equal(out, causal_conv1d_fn(**inputs)[1])


def test_halves_make_the_whole():
    inputs = conv_inputs("bias", "initial_states")
    first, second = inputs["x"].split((4, 3), dim=2)
    y, states = causal_conv1d_fn(**inputs | {"x": first}, return_final_states=True)
    rest = causal_conv1d_fn(**inputs | {"x": second, "initial_states": states})
    torch.testing.assert_close(torch.cat((y, rest), dim=2), causal_conv1d_fn(**inputs))


def test_packed_sequences_do_not_see_each_other():
    numbers = torch.tensor([[0, 0, 1, 1, 1, -1, -1], [5, 5, 5, 5, 5, 5, 2]], dtype=torch.int32)
    inputs = conv_inputs("bias") | {"activation": "silu"}
    assert_like(
        lambda **given: causal_conv1d_fn(**given, seq_idx=numbers),
        lambda **given: convolution(**given, seq_idx=numbers),
        inputs,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_beside_a_float32_weight(dtype):
    inputs = conv_inputs("bias")
    mixed = inputs | {"x": inputs["x"].to(dtype)}
    y = causal_conv1d_fn(**mixed, activation="silu")
    assert y.dtype == dtype
    expected = convolution(**{name: t.double() for name, t in mixed.items()}, activation="silu")
    torch.testing.assert_close(y.double(), expected, rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps / 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(causal_conv1d_fn(**mixed, activation="silu"), y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_packed_sequences_in_half_precision_are_rounded_once(dtype):
    numbers = torch.tensor([[0, 0, 1, 1, 1, -1, -1], [5, 5, 5, 5, 5, 5, 2]])
    inputs = {name: t.to(dtype) for name, t in conv_inputs("bias").items()}
    y = causal_conv1d_fn(**inputs, seq_idx=numbers)
    assert y.dtype == dtype
    expected = convolution(**{name: t.double() for name, t in inputs.items()}, seq_idx=numbers)
    torch.testing.assert_close(y.double(), expected, rtol=torch.finfo(dtype).eps / 2, atol=1e-6)


def test_any_strides():
    inputs = conv_inputs("bias")
    channels_last = inputs | {"x": inputs["x"].transpose(1, 2).contiguous().transpose(1, 2)}
    torch.testing.assert_close(causal_conv1d_fn(**channels_last), causal_conv1d_fn(**inputs))


@pytest.mark.parametrize("state_length", [3, 4, 6])
@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("circular", [False, True], ids=["shifted", "circular"])
def test_updates_make_the_sequence(state_length, at_once, circular):
    inputs = conv_inputs("bias", length=6) | {"activation": "silu"}
    x, state, steps = inputs.pop("x"), torch.zeros(BATCH, DIM, state_length), []
    for t in range(0, 6, at_once):
        seen = torch.full((BATCH,), t, dtype=torch.int32) if circular else None
        piece = x[..., t] if at_once == 1 else x[..., t : t + at_once]
        y = causal_conv1d_update(piece, state, **inputs, cache_seqlens=seen)
        assert y.shape == piece.shape
        steps.append(y.unsqueeze(-1) if at_once == 1 else y)
    torch.testing.assert_close(torch.cat(steps, dim=2), convolution(x, **inputs))
    last = x[..., 6 - state_length :]
    expected = last.roll(6 % state_length, dims=2) if circular else last
    assert torch.equal(state, expected), "the state holds the last inputs"


def test_update_of_chosen_rows():
    inputs = conv_inputs("bias")
    x, rows = inputs.pop("x")[..., 0], torch.tensor([4, 1])
    states = torch.randn(5, DIM, 4)
    before, chosen = states.clone(), states[rows].clone()
    y = causal_conv1d_update(x, states, **inputs, conv_state_indices=rows)
    assert torch.equal(y, causal_conv1d_update(x, chosen, **inputs))
    assert torch.equal(states[rows], chosen)
    others = torch.tensor([0, 2, 3])
    assert torch.equal(states[others], before[others]), "the rows of other sequences changed"


def test_update_keeps_dtypes_and_passes_no_gradient():
    inputs = conv_inputs()
    state = torch.zeros(BATCH, DIM, 4)
    y = causal_conv1d_update(inputs["x"][..., 0].bfloat16(), state, inputs["weight"].requires_grad_())
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert not y.requires_grad
    assert not state.requires_grad


def test_compiled_in_one_graph():
    inputs, states = conv_inputs("bias"), [torch.ones(BATCH, DIM, 4) for _ in range(2)]

    def both(x, weight, bias, state):
        step = causal_conv1d_update(x[..., 0], state, weight, bias, "silu")
        return step, *causal_conv1d_fn(x, weight, bias, return_final_states=True, activation="silu")

    expected = both(**inputs, state=states[0])
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")(**inputs, state=states[1])
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(*states)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": torch.ones(4, DIM)}, ValueError, r"weight must be \(dim, width\) with dim 3, got shape \(4, 3\)"),
        ({"activation": "gelu"}, UserError, 'activation is \'gelu\'; it must be None, "silu" or "swish"'),
        (
            {"initial_states": torch.ones(BATCH, DIM, 4)},
            ValueError,
            "initial_states and .* must hold width - 1 = 3 steps, got 4",
        ),
        ({"seq_idx": "silu"}, TypeError, "seq_idx must be a tensor, got str"),
        (
            {"seq_idx": torch.ones(BATCH, LENGTH)},
            TypeError,
            "seq_idx must be an int32 or int64 tensor, got torch.float",
        ),
        ({"seq_idx": torch.ones(BATCH, 2, dtype=torch.int32)}, ValueError, r"seq_idx must have shape \(2, 7\)"),
        (
            {"seq_idx": torch.ones(BATCH, LENGTH, dtype=torch.int32), "return_final_states": True},
            ValueError,
            "seq_idx cannot be combined with",
        ),
        ({"final_states_out": torch.ones(BATCH, DIM, 3)}, ValueError, "with return_final_states=True only"),
    ],
)
def test_causal_conv1d_fn_says_what_is_wrong(change, error, message):
    with pytest.raises(error, match=message):
        causal_conv1d_fn(**conv_inputs() | change)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"conv_state": torch.ones(BATCH, DIM, 2)}, ValueError, "conv_state must hold at least 3 steps"),
        (
            {"conv_state": torch.ones(1, DIM, 4)},
            ValueError,
            r"conv_state must be .* with batch 2, dim 3, got .*\(1, 3, 4",
        ),
        ({"cache_seqlens": torch.ones(BATCH)}, TypeError, "cache_seqlens must be an int32 or int64 tensor"),
        ({"activation": 1}, UserError, "activation is 1"),
    ],
)
def test_causal_conv1d_update_says_what_is_wrong(change, error, message):
    step = conv_inputs()
    step = {"x": step["x"][..., 0], "weight": step["weight"], "conv_state": torch.zeros(BATCH, DIM, 4)}
    with pytest.raises(error, match=message):
        causal_conv1d_update(**step | change)
