"""The selective scan in linear time from torch's own operations, for any device; forward and backward.

The recurrence is that of `mvc.kernels.recurrence.chunked`. Only decays exp(ΔA) are ever multiplied: no positive sum is
exponentiated, so nothing overflows however fast a state decays.

Internally a tensor of states is (batch, length, groups, N, width) with width = dim / groups: the channels, the longest
axis, are contiguous, and every broadcast runs along them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mvc.kernels.recurrence.chunked import cleared, known_product, limit, linear_recurrence, order, settled
from mvc.kernels.schemas import ScanInputs

# So many states are held at once: on a CPU what its caches hold, elsewhere what memory can spare.
STATES_PER_PIECE = {"cpu": 2**19, "cuda": 2**28}


def selective_scan(*inputs: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    """y and the last state of `mvc.kernels.scan.selective_scan`, from the fields of `ScanInputs`.

    Runs piece by piece along the length, so that the states of a piece stay in the cache; in one piece where the length
    is unknown while tracing.
    """
    given = _given(inputs)
    run_order = order(given.reverse)
    outputs, state = [], given.initial_state
    for u, delta, B, C, z, reset in _pieces(given)[run_order]:
        piece = given._replace(u=u, delta=delta, B=B, C=C, z=z, reset=reset, initial_state=state)
        y, state = _scan_piece(piece)
        outputs.append(y)
    return torch.cat(outputs[run_order], dim=1).contiguous(), state


def _given(inputs: tuple[Tensor | bool | None, ...]) -> ScanInputs:
    """The inputs by name; `reset` is (batch, length, 1), as what has two axes has no length."""
    given = ScanInputs(*inputs)
    return given if given.reset is None else given._replace(reset=given.reset.unsqueeze(2))


def _pieces(given: ScanInputs) -> list[tuple[Tensor | None, ...]]:
    """u, delta, B, C, z and reset of each piece, from the first step to the last."""
    along = (given.u, given.delta, given.B, given.C, given.z, given.reset)
    length = settled(given.u.shape[1])
    if not isinstance(length, int):
        return [along]
    states_per_step = known_product((given.u.shape[0], *given.A.shape))
    steps = max(1, limit(STATES_PER_PIECE, given.u.device) // max(1, states_per_step))
    return list(zip(*(_cut(tensor, steps, length) for tensor in along), strict=True))


def _cut(tensor: Tensor | None, steps: int, length: int) -> tuple[Tensor | None, ...]:
    """(batch, length, ...) in pieces of so many steps, one where there are none; what has no length, once for each."""
    if tensor is None or tensor.dim() == 2:
        return (tensor,) * max(1, math.ceil(length / steps))
    return tensor.split(steps, dim=1)


def _scan_piece(given: ScanInputs) -> tuple[Tensor, Tensor]:
    terms = _terms(given)
    states = _states(terms, _decay(terms), given.reverse)
    y = _ungated(terms, states, given.D)
    if given.z is not None:
        y = y * F.silu(given.z.to(y.dtype))
    return y.to(given.u.dtype), _join_channels(_latest(terms.initial, _first(states, not given.reverse)))


def selective_scan_backward(
    grad_y: Tensor, grad_last_state: Tensor, *inputs: Tensor | bool | None
) -> tuple[Tensor | None, ...]:
    """Gradients of the fields of `ScanInputs` up to initial_state, in their dtypes; None for an absent input.

    The states are computed again rather than kept. Their gradient g_t = C_t ∂y_t + Ā_{t+1} g_{t+1} is the same
    recurrence run from the other end.
    """
    given = _given(inputs)
    u, D, reverse = given.u, given.D, given.reverse
    terms = _terms(given)
    decay = _decay(terms)
    states = _states(terms, decay, reverse)
    grad_y, grad_z = _grad_gate(grad_y.to(decay.dtype), given.z, lambda: _ungated(terms, states, D))
    grad_out = grad_y.unflatten(2, terms.u.shape[2:])
    grad_last = _split_channels(grad_last_state.to(decay.dtype), terms.u.shape[2:])
    grad_states = _grad_states(terms, decay, grad_out, grad_last, reverse)

    grad_drive = _read_out(terms.B, grad_states)  # of Δu
    grad_B = _grad_weights(grad_states, terms.delta * terms.u, given.B)
    grad_C = _grad_weights(states, grad_out, given.C)
    before = cleared(_shifted(states, terms.initial, reverse), terms.reset)  # h_{t-1}
    carried = grad_states * decay  # Ā_t g_t: of h_{t-1}
    grad_delta_A = carried * before
    first_reset = None if terms.reset is None else _first(terms.reset, reverse)
    grad_initial = _join_channels(_latest(grad_last, cleared(_first(carried, reverse), first_reset)))

    grad_u = grad_drive * terms.delta
    grad_delta = grad_drive * terms.u + (grad_delta_A * terms.A).sum(-2)
    grad_A = (grad_delta_A * terms.delta.unsqueeze(-2)).sum((0, 1))
    grad_u, grad_delta = grad_u.flatten(2), grad_delta.flatten(2)
    if D is not None:
        grad_u = torch.addcmul(grad_u, grad_y, D.to(grad_y.dtype))
    if given.delta_softplus:
        # The slope of softplus, with the linear branch above 20 that the forward takes.
        raw = terms.raw_delta
        grad_delta = grad_delta * torch.where(raw > 20, 1.0, torch.sigmoid(raw))

    def like(gradient: Tensor, original: Tensor | None) -> Tensor | None:
        return None if original is None else gradient.to(original.dtype).contiguous()

    return (
        like(grad_u, u),
        like(grad_delta, given.delta),
        like(_join_channels(grad_A.unsqueeze(0)).squeeze(0), given.A),
        like(grad_B, given.B),
        like(grad_C, given.C),
        like((grad_y * u.to(grad_y.dtype)).sum((0, 1)), D),
        like(grad_z, given.z),
        like(grad_delta.sum((0, 1)), given.delta_bias),
        like(grad_initial, given.initial_state),
    )


class _Terms(NamedTuple):
    """The inputs in the dtype of the sums and in the internal shapes."""

    u: Tensor  # (batch, length, groups, width)
    raw_delta: Tensor  # (batch, length, dim), before softplus
    delta: Tensor  # (batch, length, groups, width)
    A: Tensor  # (groups, N, width)
    B: Tensor  # (batch, length, groups, N, 1), or (groups, N, width) where it is constant
    C: Tensor  # like B
    initial: Tensor  # (batch, groups, N, width)
    reset: Tensor | None  # (batch, length, 1, 1, 1)


def _terms(given: ScanInputs) -> _Terms:
    u, weights = given.u, (given.B, given.C)
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    batch, _, dim = u.shape
    groups = next((t.shape[2] for t in weights if t.dim() == 4), 1)
    split = (groups, dim // groups)
    raw_delta = given.delta.to(dtype)
    if given.delta_bias is not None:
        raw_delta = raw_delta + given.delta_bias.to(dtype)
    delta = F.softplus(raw_delta) if given.delta_softplus else raw_delta
    if given.initial_state is None:
        initial = u.new_zeros((batch, groups, given.A.shape[1], dim // groups), dtype=dtype)
    else:
        initial = _split_channels(given.initial_state.to(dtype), split)
    return _Terms(
        u.to(dtype).unflatten(2, split),
        raw_delta,
        delta.unflatten(2, split),
        _per_group(given.A.to(dtype), split),
        *(_per_group(t.to(dtype), split) if t.dim() == 2 else t.to(dtype).unsqueeze(-1) for t in weights),
        initial,
        None if given.reset is None else given.reset[..., None, None],
    )


def _decay(terms: _Terms) -> Tensor:
    """Ā = exp(ΔA): (batch, length, groups, N, width)."""
    return (terms.delta.unsqueeze(-2) * terms.A).exp()


def _states(terms: _Terms, decay: Tensor, reverse: bool) -> Tensor:
    """h: (batch, length, groups, N, width)."""
    drive = (terms.delta * terms.u).unsqueeze(-2) * terms.B
    return linear_recurrence(decay, drive, terms.initial, reset=terms.reset, reverse=reverse)


def _grad_states(terms: _Terms, decay: Tensor, grad_out: Tensor, grad_last: Tensor, reverse: bool) -> Tensor:
    """g: (batch, length, groups, N, width), from ∂y (batch, length, groups, width) and the last state's gradient."""
    decay_after = _shifted(decay, torch.ones_like(grad_last), not reverse)
    reset_after = None
    if terms.reset is not None:
        after_last = terms.reset.new_zeros((grad_last.shape[0], 1, 1, 1))
        reset_after = _shifted(terms.reset, after_last, not reverse)
    drive = terms.C * grad_out.unsqueeze(-2)
    # What a reset cuts off is left out with its decay, which may be infinite.
    decay_after = cleared(decay_after, reset_after)
    return linear_recurrence(decay_after, drive, grad_last, reset=reset_after, reverse=not reverse)


def _shifted(values: Tensor, first: Tensor, reverse: bool) -> Tensor:
    """At each step the value (batch, length, ...) of the step that is run before it; `first` where there is none."""
    if reverse:
        return torch.cat((values, first.unsqueeze(1)), dim=1)[:, 1:]
    return torch.cat((first.unsqueeze(1), values), dim=1)[:, : values.shape[1]]


def _first(values: Tensor, reverse: bool) -> Tensor:
    """Of (batch, length, ...) the step that runs first, (batch, 1, ...), or none if there is none."""
    return values[:, -1:] if reverse else values[:, :1]


def _latest(initial: Tensor, last: Tensor) -> Tensor:
    """`last` of (batch, 1, ...) without the axis of one step; `initial` where it holds none."""
    return torch.cat((initial.unsqueeze(1), last), dim=1)[:, -1]


def _grad_weights(states: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
    """Gradient of B or C, `weights`, from a tensor of states and one of channels (batch, length, groups, width)."""
    if weights.dim() == 2:
        return _join_channels((states * inputs.unsqueeze(-2)).sum((0, 1)).unsqueeze(0)).squeeze(0)
    return (states * inputs.unsqueeze(-2)).sum(-1)


def _grad_gate(grad_y: Tensor, z: Tensor | None, ungated) -> tuple[Tensor, Tensor | None]:
    """Gradients of y before the gate y·SiLU(z), and of z; `ungated()` computes that y."""
    if z is None:
        return grad_y, None
    z = z.to(grad_y.dtype)
    sigmoid = torch.sigmoid(z)
    return grad_y * z * sigmoid, grad_y * ungated() * sigmoid * (1 + z * (1 - sigmoid))


def _ungated(terms: _Terms, states: Tensor, D: Tensor | None) -> Tensor:
    """C·h + D u: (batch, length, dim)."""
    y = _read_out(terms.C, states).flatten(2)
    return y if D is None else torch.addcmul(y, terms.u.flatten(2), D.to(y.dtype))


def _read_out(weights: Tensor, states: Tensor) -> Tensor:
    """Sum over the N states: (..., N, 1) or (groups, N, width), and (..., N, width) -> (..., width).

    No matrix product: torch may compute those in TF32 or bfloat16 (`torch.set_float32_matmul_precision`).
    """
    return (weights * states).sum(-2)


def _per_group(weights: Tensor, split: tuple[int, int]) -> Tensor:
    """(dim, N) -> (groups, N, width), `split` being (groups, width); contiguous, so that what broadcasts it is."""
    return weights.unflatten(0, split).transpose(1, 2).contiguous()


def _split_channels(state: Tensor, split: tuple[int, int]) -> Tensor:
    """(batch, dim, N) -> (batch, groups, N, width), `split` being (groups, width)."""
    return state.unflatten(1, split).transpose(2, 3)


def _join_channels(state: Tensor) -> Tensor:
    """(batch, groups, N, width) -> (batch, dim, N), a copy."""
    return state.transpose(2, 3).flatten(1, 2).clone(memory_format=torch.contiguous_format)
