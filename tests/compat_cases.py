"""Mamba's formulas in mamba-ssm's layout, inputs for them, and how what stands for mamba-ssm is compared with them."""

from __future__ import annotations

import torch
from scan_cases import assert_within_budget
from torch import Tensor
from torch.nn import functional as F

BATCH, DIM, LENGTH, N, GROUPS, RANK, WIDTH = 2, 6, 9, 5, 3, 2, 4
WEIGHTS = {"constant": (DIM, N), "shared": (BATCH, N, LENGTH), "grouped": (BATCH, GROUPS, N, LENGTH)}


def recurrence(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """Mamba's scan in mamba-ssm's layout, in the dtype of A: one step at a time."""
    dtype, u_dtype = A.dtype, u.dtype
    u, delta, B, C, D, z, delta_bias = (None if t is None else t.to(dtype) for t in (u, delta, B, C, D, z, delta_bias))

    def at(weights: Tensor, t: int) -> Tensor:
        """(dim, N) or (batch, dim or 1, N), what multiplies the state of step t."""
        if weights.dim() == 2:
            return weights
        weights = weights[:, None] if weights.dim() == 3 else weights
        return weights[..., t].repeat_interleave(u.shape[1] // weights.shape[1], dim=1)

    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    state, outputs = u.new_zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[2]):
        step = delta[..., t, None]
        state = torch.exp(step * A) * state + step * at(B, t) * u[..., t, None]
        outputs.append((state * at(C, t)).sum(-1))
    y = torch.stack(outputs, dim=2)
    y = y if D is None else y + D[:, None] * u
    y = y if z is None else y * F.silu(z)
    return y.to(u_dtype), state


def inner_scans(
    xz,
    conv1d_weight,
    conv1d_bias,
    x_proj_weight,
    delta_proj_weight,
    A,
    B=None,
    C=None,
    **options,
):
    """Mamba's block up to its gate, (batch, dim, length), in the dtype of its tensors; the scan in that of A.

    With A_b a second scan, of the flipped sequence, is added.
    """

    def norm(tensor: Tensor, axis: int, name: str) -> Tensor:
        weight = options.get(f"{name}_rms_weight")
        if weight is None:
            return tensor
        scaled = tensor * torch.rsqrt(tensor.square().mean(axis, keepdim=True) + options["b_c_dt_rms_eps"])
        return (scaled.movedim(axis, -1) * weight).movedim(-1, axis)

    x, z = xz.chunk(2, dim=1)
    x = F.silu(F.conv1d(F.pad(x, (conv1d_weight.shape[-1] - 1, 0)), conv1d_weight, conv1d_bias, groups=x.shape[1]))
    projected = x_proj_weight @ x  # (batch, R + 2N, length)
    rank, states = delta_proj_weight.shape[1], A.shape[1]
    delta = delta_proj_weight @ projected[:, :rank]
    if B is None:
        B = projected[:, rank : rank + states] + options.get("B_proj_bias", torch.zeros(1, dtype=xz.dtype))[:, None]
    if C is None:
        C = projected[:, -states:] + options.get("C_proj_bias", torch.zeros(1, dtype=xz.dtype))[:, None]
    delta, B, C = norm(delta, 1, "dt"), norm(B, 1 if B.dim() < 4 else 2, "b"), norm(C, 1 if C.dim() < 4 else 2, "c")
    softplus = options.get("delta_softplus", True)
    more = (options.get("delta_bias"), softplus)
    y, _ = recurrence(x, delta, A, B, C, options.get("D"), z, *more)
    if "A_b" in options:
        x, delta, z = (t.flip(-1) for t in (x, delta, z))
        B, C = (t if t.dim() == 2 else t.flip(-1) for t in (B, C))
        y = y + recurrence(x, delta, options["A_b"], B, C, options.get("D"), z, *more)[0].flip(-1)
    return y


def inner(*, out_proj_weight, out_proj_bias, **options):
    """Mamba's block, (batch, length, features)."""
    return F.linear(inner_scans(**options).transpose(1, 2), out_proj_weight, out_proj_bias)


def scan_inputs(B: str = "shared", C: str = "shared", options: bool = True) -> dict[str, Tensor | bool]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"u": (BATCH, DIM, LENGTH), "delta": (BATCH, DIM, LENGTH), "A": (DIM, N), "B": WEIGHTS[B], "C": WEIGHTS[C]}
    if options:
        shapes |= {"D": (DIM,), "z": (BATCH, DIM, LENGTH), "delta_bias": (DIM,)}
    inputs = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    inputs["A"] = -inputs["A"].exp()
    if not options:
        inputs["delta"] = inputs["delta"].abs() / 4
    return inputs | {"delta_softplus": options}


def inner_inputs(*options: str) -> dict[str, Tensor]:
    """Positional arguments of `mamba_inner_fn` by name; the options are names of further ones."""
    generator = torch.Generator().manual_seed(0)
    given = sum(name in ("B", "C") for name in options)
    shapes = {
        "xz": (BATCH, 2 * DIM, LENGTH),
        "conv1d_weight": (DIM, 1, WIDTH),
        "conv1d_bias": (DIM,),
        "x_proj_weight": (RANK + (2 - given) * N, DIM),
        "delta_proj_weight": (DIM, RANK),
        "out_proj_weight": (7, DIM),
        "out_proj_bias": (7,),
        "A": (DIM, N),
    }
    more = {
        "B": WEIGHTS["constant"],
        "C": WEIGHTS["shared"],
        "D": (DIM,),
        "delta_bias": (DIM,),
        "dt_rms_weight": (DIM,),
        "A_b": (DIM, N),
    }
    more |= dict.fromkeys(("B_proj_bias", "C_proj_bias", "b_rms_weight", "c_rms_weight"), (N,))
    shapes |= {name: more[name] for name in options}
    inputs = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return inputs | {name: -inputs[name].exp() for name in ("A", "A_b") if name in inputs}


def results(function, inputs: dict, dtype: torch.dtype, state_dtype: torch.dtype) -> dict[str, Tensor]:
    """All outputs and, for fixed gradients of them, the gradient of each tensor; A is in `state_dtype`."""
    inputs = {
        name: value.detach().to(state_dtype if name in ("A", "A_b") else dtype).requires_grad_()
        if torch.is_tensor(value)
        else value
        for name, value in inputs.items()
    }
    outputs = function(**inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(t.shape, generator=generator).bfloat16().to(t.dtype) for t in outputs]
    leaves = {name: t for name, t in inputs.items() if torch.is_tensor(t)}
    found = {f"output {index}": t.detach() for index, t in enumerate(outputs)}
    gradients = torch.autograd.grad(outputs, leaves.values(), grads)
    return found | {f"gradient of {name}": t for name, t in zip(leaves, gradients, strict=True)}


def assert_like(function, written_out, inputs: dict, dtype: torch.dtype = torch.float32) -> None:
    inputs = {name: t.to(dtype) if torch.is_tensor(t) and name not in ("A", "A_b") else t for name, t in inputs.items()}
    actual = results(function, inputs, dtype, torch.float32)
    baseline = results(written_out, inputs, dtype, torch.float32)
    oracle = results(written_out, inputs, torch.float64, torch.float64)
    for name, expected in oracle.items():
        assert actual[name].dtype == baseline[name].dtype, name
        assert_within_budget(actual[name], expected, baseline[name], name)
