"""The oracle itself, against the recurrence in plain Python numbers and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from scan_cases import DIFFERENTIABLE, FORMS, Case, Inputs, make_inputs, map_tensors, op_arguments, tensors_of
from torch import Tensor
from torch.nn import functional as F

from mvc.kernels.scan import reference

# A float64 sum of some ten terms of the tests' sizes (up to 1e2) may differ in its last bits.
FLOAT64 = {"rtol": 1e-12, "atol": 1e-12}


def selective_scan(**inputs: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    return reference.selective_scan(*op_arguments({"delta_softplus": False, "reverse": False} | inputs))


def held(inputs: Inputs) -> Inputs:
    """The zero-order hold of the papers, B̄ = (ΔA)⁻¹(exp(ΔA) − I)ΔB, as a B of its own for each channel."""
    delta, A, B, dim = inputs["delta"], inputs["A"], inputs["B"], inputs["u"].shape[2]
    if "delta_bias" in inputs:
        delta = delta + inputs["delta_bias"]
    if inputs["delta_softplus"]:
        delta = F.softplus(delta)
    delta_A = delta.unsqueeze(-1) * A
    B = B.expand(*delta.shape, -1) if B.dim() == 2 else B.repeat_interleave(dim // B.shape[2], dim=2)
    return inputs | {"B": torch.expm1(delta_A) / delta_A * B}


def lti_convolution(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The scan with constant step, B and C, as the convolution y = u * K, K = (CB̄, CĀB̄, …, CĀ^(T-1)B̄).

    Mamba (arXiv 2312.00752), eq. 3, with the simplified discretisation.

    Args:
        u: (batch, length, dim). delta: (dim,). A: (dim, N). B, C: (N,).

    Returns:
        y: (batch, length, dim).
    """
    length = u.shape[1]
    steps = torch.arange(length, dtype=u.dtype, device=u.device)
    delta_A = delta[:, None] * A
    powers = torch.exp(steps[:, None, None] * delta_A)  # Āᵗ: (length, dim, N)
    kernel = (C * powers * delta[:, None] * B).sum(-1)  # (length, dim)
    padded = F.pad(u.transpose(1, 2), (length - 1, 0))
    y = F.conv1d(padded, kernel.flip(0).t().unsqueeze(1), groups=u.shape[2])
    return y.transpose(1, 2)


def scalar_scan(inputs: Inputs, discretization: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence in Python's floats, one number at a time."""
    given = {name: tensor.tolist() for name, tensor in tensors_of(inputs).items()}
    u, delta, A = (given[name] for name in ("u", "delta", "A"))
    batch, length, dim = inputs["u"].shape
    states = inputs["A"].shape[1]
    order = range(length - 1, -1, -1) if inputs["reverse"] else range(length)

    def weights(name: str, b: int, t: int, d: int) -> list[float]:
        if inputs[name].dim() == 2:
            return given[name][d]
        of_groups = given[name][b][t]
        return of_groups[d // (dim // len(of_groups))]

    y = torch.zeros(batch, length, dim, dtype=torch.float64)
    last = torch.zeros(batch, dim, states, dtype=torch.float64)
    for b in range(batch):
        for d in range(dim):
            h = list(given["initial_state"][b][d]) if "initial_state" in given else [0.0] * states
            for t in order:
                if "reset" in given and given["reset"][b][t]:
                    h = [0.0] * states
                B, C = weights("B", b, t, d), weights("C", b, t, d)
                step = delta[b][t][d] + (given["delta_bias"][d] if "delta_bias" in given else 0.0)
                if inputs["delta_softplus"]:
                    step = math.log1p(math.exp(step)) if step <= 20 else step
                for n in range(states):
                    held = math.expm1(step * A[d][n]) / A[d][n] if discretization == "zoh" else step
                    h[n] = math.exp(step * A[d][n]) * h[n] + held * B[n] * u[b][t][d]
                out = sum(C[n] * h[n] for n in range(states))
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
        Case(length=5, states=3, options=("reset",)),
        Case(length=5, states=3, options=("reset", "reverse", "initial_state")),
        Case(length=5, states=3, groups=2).plus("reverse"),
        Case(length=5, states=3, groups=2).plus("constant_B"),
        Case(length=5, states=3, groups=3).plus("constant_C"),
        Case(length=5, states=3, options=FORMS),
        Case(batch=1, length=1, dim=1, states=1),
        Case(length=0),
        Case(length=0).plus("reverse"),
    ],
    ids=str,
)
def test_recurrence_in_plain_numbers(case, discretization):
    inputs = make_inputs(case, torch.float64)
    y, last_state = selective_scan(**(held(inputs) if discretization == "zoh" else inputs))
    y_expected, last_expected = scalar_scan(inputs, discretization)
    torch.testing.assert_close(y, y_expected, **FLOAT64)
    torch.testing.assert_close(last_state, last_expected, **FLOAT64)


def test_zero_order_hold_is_the_exact_step_of_the_differential_equation():
    """With x held for Δ, h' = Ah + Bx solves to the upper right block of exp([[ΔA, ΔB], [0, 0]])."""
    inputs = make_inputs(Case(batch=1, length=1, dim=3, states=4, options=()), torch.float64)
    _, last_state = selective_scan(**held(inputs))
    for d in range(3):
        block = torch.zeros(5, 5, dtype=torch.float64)
        block[:4, :4], block[:4, 4] = torch.diag(inputs["A"][d]), inputs["B"][0, 0, 0]
        B_bar = torch.linalg.matrix_exp(inputs["delta"][0, 0, d] * block)[:4, 4]
        torch.testing.assert_close(last_state[0, d], B_bar * inputs["u"][0, 0, d], **FLOAT64)


def test_discretizations_agree_for_small_steps():
    """(ΔA)⁻¹(exp(ΔA) − I)Δ = Δ(1 + ΔA/2 + …): the two differ by about |ΔA|/2."""
    inputs = make_inputs(Case(length=1, options=()), torch.float64)
    inputs["delta"] = torch.full_like(inputs["delta"], 1e-6)
    exact, simplified = (selective_scan(**given)[1] for given in (held(inputs), inputs))
    expected = simplified * (1 + 1e-6 * inputs["A"] / 2)
    next_term = (1e-6 * inputs["A"]).abs().max().item() ** 2
    torch.testing.assert_close(exact, expected, rtol=next_term, atol=0)


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


@pytest.mark.parametrize("forms", [(), ("reverse",), ("constant_B",), FORMS], ids="+".join)
def test_gradients(forms):
    case = Case(batch=1, length=4, dim=2, states=2, groups=2).plus(*forms)
    inputs = make_inputs(case, torch.float64)
    inputs["reset"] = torch.tensor([[False, False, True, False]])
    leaves = {name: inputs[name].requires_grad_() for name in DIFFERENTIABLE}

    def scan(*tensors):
        given = inputs | dict(zip(leaves, tensors, strict=True))
        return selective_scan(**given)

    assert torch.autograd.gradcheck(scan, tuple(leaves.values()))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_nothing_passes_a_reset(reverse):
    """Not the state, not an infinite one, not a gradient."""
    inputs = make_inputs(Case(batch=1, options=("initial_state",)), torch.float64) | {"reverse": reverse}
    inputs["initial_state"].fill_(math.inf)
    first = -1 if reverse else 0
    reset = torch.zeros(1, 7, dtype=torch.bool)
    reset[0, first] = True
    inputs["u"].requires_grad_()
    y, last_state = selective_scan(**inputs, reset=reset)
    fresh, fresh_last = selective_scan(**(inputs | {"initial_state": None}))
    assert torch.equal(y, fresh)
    assert torch.equal(last_state, fresh_last)
    reset[0, 3] = True
    y, _ = selective_scan(**inputs, reset=reset)
    before = slice(4, None) if reverse else slice(0, 3)
    after = 0 if reverse else -1
    (gradient,) = torch.autograd.grad(y[:, after].sum(), inputs["u"])
    assert gradient[:, after].ne(0).all()
    assert gradient[:, before].eq(0).all()
