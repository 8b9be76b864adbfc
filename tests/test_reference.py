"""The oracle itself, against the recurrence in plain Python numbers and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from mvc.kernels.reference import lti_convolution, selective_scan
from scan_cases import Case, Inputs, make_inputs, map_tensors, op_arguments, tensors_of

# A float64 sum of some ten terms of the tests' sizes (up to 1e2) may differ in its last bits.
FLOAT64 = {"rtol": 1e-12, "atol": 1e-12}


def scalar_scan(inputs: Inputs, discretization: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence in Python's floats, one number at a time."""
    given = {name: tensor.tolist() for name, tensor in tensors_of(inputs).items()}
    u, delta, A, B, C = (given[name] for name in ("u", "delta", "A", "B", "C"))
    batch, length, dim = inputs["u"].shape
    states, groups = inputs["A"].shape[1], inputs["B"].shape[2]
    y = torch.zeros(batch, length, dim, dtype=torch.float64)
    last = torch.zeros(batch, dim, states, dtype=torch.float64)
    for b in range(batch):
        for d in range(dim):
            group = d // (dim // groups)
            h = list(given["initial_state"][b][d]) if "initial_state" in given else [0.0] * states
            for t in range(length):
                step = delta[b][t][d] + (given["delta_bias"][d] if "delta_bias" in given else 0.0)
                if inputs["delta_softplus"]:
                    step = math.log1p(math.exp(step)) if step <= 20 else step
                for n in range(states):
                    held = math.expm1(step * A[d][n]) / A[d][n] if discretization == "zoh" else step
                    h[n] = math.exp(step * A[d][n]) * h[n] + held * B[b][t][group][n] * u[b][t][d]
                out = sum(C[b][t][group][n] * h[n] for n in range(states))
                out += given["D"][d] * u[b][t][d] if "D" in given else 0.0
                if "z" in given:
                    out *= given["z"][b][t][d] / (1 + math.exp(-given["z"][b][t][d]))
                y[b, t, d] = out
            last[b, d] = torch.tensor(h, dtype=torch.float64)
    return y, last


@pytest.mark.parametrize("discretization", ["simplified", "zoh"])
@pytest.mark.parametrize(
    "case",
    [
        Case(length=5, states=3),
        Case(length=5, states=3, groups=2),
        Case(length=5, states=3, groups=3),
        Case(length=5, states=3, options=()),
        Case(length=5, states=3, options=("softplus",)),
        Case(length=5, states=3, options=("delta_bias",)),
        Case(batch=1, length=1, dim=1, states=1),
        Case(length=0),
    ],
    ids=str,
)
def test_recurrence_in_plain_numbers(case, discretization):
    inputs = make_inputs(case, torch.float64)
    y, last_state = selective_scan(**inputs, discretization=discretization)
    y_expected, last_expected = scalar_scan(inputs, discretization)
    torch.testing.assert_close(y, y_expected, **FLOAT64)
    torch.testing.assert_close(last_state, last_expected, **FLOAT64)


def test_zero_order_hold_is_the_exact_step_of_the_differential_equation():
    """With x held for Δ, h' = Ah + Bx solves to the upper right block of exp([[ΔA, ΔB], [0, 0]])."""
    inputs = make_inputs(Case(batch=1, length=1, dim=3, states=4, options=()), torch.float64)
    _, last_state = selective_scan(**inputs, discretization="zoh")
    for d in range(3):
        block = torch.zeros(5, 5, dtype=torch.float64)
        block[:4, :4], block[:4, 4] = torch.diag(inputs["A"][d]), inputs["B"][0, 0, 0]
        B_bar = torch.linalg.matrix_exp(inputs["delta"][0, 0, d] * block)[:4, 4]
        torch.testing.assert_close(last_state[0, d], B_bar * inputs["u"][0, 0, d], **FLOAT64)


def test_discretizations_agree_for_small_steps():
    """(ΔA)⁻¹(exp(ΔA) − I)Δ = Δ(1 + ΔA/2 + …): the two differ by about |ΔA|/2."""
    inputs = make_inputs(Case(length=1, options=()), torch.float64)
    inputs["delta"] = torch.full_like(inputs["delta"], 1e-6)
    held, simplified = (selective_scan(**inputs, discretization=name)[1] for name in ("zoh", "simplified"))
    expected = simplified * (1 + 1e-6 * inputs["A"] / 2)
    next_term = (1e-6 * inputs["A"]).abs().max().item() ** 2
    torch.testing.assert_close(held, expected, rtol=next_term, atol=0)


@pytest.mark.parametrize("length", [1, 2, 63])
def test_constant_scan_is_a_convolution(length):
    case = Case(length=length, options=())
    inputs = make_inputs(case, torch.float64)
    delta, B, C = inputs["delta"][0, 0], inputs["B"][0, 0, 0], inputs["C"][0, 0, 0]
    constant = {name: t.expand_as(inputs[name]) for name, t in {"delta": delta, "B": B, "C": C}.items()}
    y, _ = selective_scan(**(inputs | constant))
    torch.testing.assert_close(lti_convolution(inputs["u"], delta, inputs["A"], B, C), y, **FLOAT64)


def test_convolution_kernel():
    """An impulse gives back K = (CB̄, CĀB̄, CĀ²B̄)."""
    delta, A, B, C = 0.5, -2.0, 3.0, 5.0
    arguments = ([[[1.0], [0.0], [0.0]]], [delta], [[A]], [B], [C])
    y = lti_convolution(*(torch.tensor(value, dtype=torch.float64) for value in arguments))
    expected = [C * math.exp(delta * A) ** t * delta * B for t in range(3)]
    torch.testing.assert_close(y.flatten().tolist(), expected, **FLOAT64)


def test_B_and_C_without_groups():
    inputs = make_inputs(Case())
    y, _ = selective_scan(**inputs)
    y_flat, _ = selective_scan(**(inputs | {name: inputs[name].squeeze(2) for name in ("B", "C")}))
    assert torch.equal(y_flat, y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("length", [0, 5])
def test_dtypes(dtype, length):
    y, last_state = selective_scan(**make_inputs(Case(length=length), dtype))
    assert y.dtype == dtype
    assert last_state.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_rounds_only_the_output(dtype):
    inputs = make_inputs(Case(length=19), dtype)
    y, last_state = selective_scan(**inputs)
    y_float, last_float = selective_scan(**map_tensors(torch.Tensor.float, inputs))
    assert torch.equal(y, y_float.to(dtype))
    assert torch.equal(last_state, last_float)


@pytest.mark.parametrize("discretization", ["simplified", "zoh"])
def test_gradients(discretization):
    inputs = make_inputs(Case(batch=1, length=4, dim=2, states=2, groups=2), torch.float64)
    leaves = [tensor.requires_grad_() for tensor in op_arguments(inputs)[:-1]]

    def scan(u, delta, A, B, C, D, z, delta_bias, initial_state):
        options = {"D": D, "z": z, "delta_bias": delta_bias, "initial_state": initial_state}
        return selective_scan(u, delta, A, B, C, **options, delta_softplus=True, discretization=discretization)

    assert torch.autograd.gradcheck(scan, leaves)
