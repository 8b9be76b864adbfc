"""The selective scan in linear time from torch's own operations, for any device; forward and backward.

Two levels: the steps of a chunk run in order, all chunks at once, each from a zero state; then the carries run from
chunk to chunk; then all chunks run again, each from what it receives. Only decays exp(ΔA) are ever multiplied: no
positive sum is exponentiated, so nothing overflows however fast a state decays. A reset selects: the state before it is
not multiplied by zero but left out, NaN or infinite as it may be.

Internally a tensor of states is (batch, length, groups, N, width) with width = dim / groups: the channels, the longest
axis, are contiguous, and every broadcast runs along them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# A step of the recurrence should touch this many states, or the cost of starting an operation dominates.
STATES_PER_STEP = {"cpu": 2**13, "cuda": 2**20}
# So many states are held at once: on a CPU what its caches hold, elsewhere what memory can spare.
STATES_PER_PIECE = {"cpu": 2**19, "cuda": 2**28}


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """y and the last state of `mvc.kernels.scan.selective_scan`; B and C are (batch, length, groups, N) or (dim, N).

    Runs piece by piece along the length, so that the states of a piece stay in the cache.
    """
    states_per_step = u.shape[0] * A.numel()
    steps = max(1, _limit(STATES_PER_PIECE, u.device) // max(1, states_per_step))
    if reset is not None:
        reset = reset.unsqueeze(2)
    order = _order(reverse)
    pieces = list(zip(*(_pieces(t, steps, u.shape[1]) for t in (u, delta, B, C, z, reset)), strict=True))
    outputs, state = [], initial_state
    for piece in pieces[order]:
        y, state = _scan_piece(*piece, A, D, delta_bias, state, delta_softplus, reverse)
        outputs.append(y)
    return torch.cat(outputs[order], dim=1).contiguous(), state


def _pieces(tensor: Tensor | None, steps: int, length: int) -> tuple[Tensor | None, ...]:
    """(batch, length, ...) in pieces of so many steps, one where there are none; what has no length, once for each."""
    if tensor is None or tensor.dim() == 2:
        return (tensor,) * max(1, math.ceil(length / steps))
    return tensor.split(steps, dim=1)


def _scan_piece(
    u: Tensor,
    delta: Tensor,
    B: Tensor,
    C: Tensor,
    z: Tensor | None,
    reset: Tensor | None,
    A: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    terms = _terms(u, delta, A, B, C, delta_bias, initial_state, reset, delta_softplus)
    states = _states(terms, _decay(terms), reverse)
    y = _ungated(terms, states, D)
    if z is not None:
        y = y * F.silu(z.to(y.dtype))
    return y.to(u.dtype), _join_channels(states[:, 0 if reverse else -1] if u.shape[1] else terms.initial)


def selective_scan_backward(
    grad_y: Tensor,
    grad_last_state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias and initial_state, in their dtypes; None for an absent input.

    The states are computed again rather than kept. Their gradient g_t = C_t ∂y_t + Ā_{t+1} g_{t+1} is the same
    recurrence run from the other end.
    """
    if reset is not None:
        reset = reset.unsqueeze(2)
    terms = _terms(u, delta, A, B, C, delta_bias, initial_state, reset, delta_softplus)
    decay = _decay(terms)
    states = _states(terms, decay, reverse)
    grad_y, grad_z = _grad_gate(grad_y.to(decay.dtype), z, lambda: _ungated(terms, states, D))
    grad_out = grad_y.unflatten(2, terms.u.shape[2:])
    grad_last = _split_channels(grad_last_state.to(decay.dtype), terms.u.shape[2:])
    grad_states = _grad_states(terms, decay, grad_out, grad_last, reverse)

    grad_drive = _read_out(terms.B, grad_states)  # of Δu
    grad_B = _grad_weights(grad_states, terms.delta * terms.u, B)
    grad_C = _grad_weights(states, grad_out, C)
    before = _cleared(_shifted(states, terms.initial, reverse), terms.reset)  # h_{t-1}
    carried = grad_states * decay  # Ā_t g_t: of h_{t-1}
    grad_delta_A = carried * before
    grad_initial = grad_last
    if u.shape[1]:
        first = slice(-1, None) if reverse else slice(1)
        grad_initial = _cleared(carried[:, first], None if reset is None else terms.reset[:, first]).squeeze(1)
    grad_initial = _join_channels(grad_initial)

    grad_u = grad_drive * terms.delta
    grad_delta = grad_drive * terms.u + (grad_delta_A * terms.A).sum(-2)
    grad_A = (grad_delta_A * terms.delta.unsqueeze(-2)).sum((0, 1))
    grad_u, grad_delta = grad_u.flatten(2), grad_delta.flatten(2)
    if D is not None:
        grad_u = torch.addcmul(grad_u, grad_y, D.to(grad_y.dtype))
    if delta_softplus:
        # The slope of softplus, with the linear branch above 20 that the forward takes.
        raw = terms.raw_delta
        grad_delta = grad_delta * torch.where(raw > 20, 1.0, torch.sigmoid(raw))

    def like(gradient: Tensor, original: Tensor | None) -> Tensor | None:
        return None if original is None else gradient.to(original.dtype).contiguous()

    return (
        like(grad_u, u),
        like(grad_delta, delta),
        like(_join_channels(grad_A.unsqueeze(0)).squeeze(0), A),
        like(grad_B, B),
        like(grad_C, C),
        like((grad_y * u.to(grad_y.dtype)).sum((0, 1)), D),
        like(grad_z, z),
        like(grad_delta.sum((0, 1)), delta_bias),
        like(grad_initial, initial_state),
    )


def linear_recurrence(
    decay: Tensor, drive: Tensor, initial: Tensor, *, reset: Tensor | None = None, reverse: bool = False
) -> Tensor:
    """h_t = decay_t h_{t-1} + drive_t for every t; `reverse` runs from the end.

    Args:
        decay, drive: (batch, length, ...). initial: (batch, ...), the state before the first step.
        reset: (batch, length, 1, ...), bool, where h_{t-1} is taken for zero.

    Returns:
        h: (batch, length, ...).
    """
    length = decay.shape[1]
    if drive.numel() == 0:
        return drive
    order = _order(reverse)
    steps = _steps_per_chunk(length, initial.numel(), decay.device)
    if steps >= length:
        return torch.stack([*_run_steps(decay, drive, initial, reset, reverse)][order], dim=1)

    # Steps that fill the last chunk pass the state on: decay 1, drive 0.
    decay, drive = (_in_chunks(t, steps, fill) for t, fill in ((decay, 1.0), (drive, 0.0)))
    if reset is not None:
        reset = _in_chunks(reset, steps, False)
    ends = _last(_run_steps(decay, drive, torch.zeros_like(drive[:, 0]), reset, reverse))
    received = _run_chunks(_whole_decay(decay), ends, initial, None if reset is None else reset.any(1), reverse)
    states = [*_run_steps(decay, drive, received, reset, reverse)]
    return torch.stack(states[order], dim=2).flatten(1, 2)[:, :length]


def _order(reverse: bool) -> slice:
    return slice(None, None, -1 if reverse else 1)


def _in_chunks(values: Tensor, steps: int, fill: float | bool) -> Tensor:
    """(batch, length, ...) -> (batch, steps, chunks, ...)."""
    missing = (0, 0) * (values.dim() - 2) + (0, -values.shape[1] % steps)
    return F.pad(values, missing, value=fill).unflatten(1, (-1, steps)).transpose(1, 2)


def _run_steps(decay: Tensor, drive: Tensor, state: Tensor, reset: Tensor | None, reverse: bool) -> Iterator[Tensor]:
    """The recurrence over axis 1: the state after each step, in the order in which they run."""
    order = _order(reverse)
    resets = (None,) * decay.shape[1] if reset is None else reset.unbind(1)[order]
    for factor, step, cleared in zip(decay.unbind(1)[order], drive.unbind(1)[order], resets, strict=True):
        state = torch.addcmul(step, factor, _cleared(state, cleared))
        yield state


def _last(states: Iterable[Tensor]) -> Tensor:
    for state in states:  # noqa: B007  what is not last is freed at once
        pass
    return state


def _whole_decay(decay: Tensor) -> Tensor:
    """The decay over each chunk, (batch, steps, chunks, ...) -> (batch, chunks, ...).

    Zero only where a step's is, however small: an infinite state decays for ever and stays infinite.
    """
    product = decay.prod(1)
    smallest = torch.full_like(product, torch.finfo(product.dtype).tiny).copysign(product)
    return torch.where((product == 0) & (decay.abs().amin(1) > 0), smallest, product)


def _run_chunks(decay: Tensor, ends: Tensor, initial: Tensor, resets: Tensor | None, reverse: bool) -> Tensor:
    """What each chunk receives from the one before it, given the decay over a chunk, its own end, and if it resets."""
    order = _order(reverse)
    unbounded = ~decay.isfinite()
    resets = (None,) * decay.shape[1] if resets is None else resets.unbind(1)[order]
    state, received = initial, []
    steps = (t.unbind(1)[order] for t in (decay, ends, unbounded))
    for factor, end, overflows, cleared in zip(*steps, resets, strict=True):
        received.append(state)
        alone = overflows & (state == 0)  # the chunk has run from zero: its end is right, whatever the product
        if cleared is not None:
            alone = alone | cleared
        state = torch.where(alone, end, torch.addcmul(end, factor, state))
    return torch.stack(received[order], dim=1)


def _limit(limits: dict[str, int], device: torch.device) -> int:
    return limits.get(device.type, limits["cuda"])


def _steps_per_chunk(length: int, states: int, device: torch.device) -> int:
    """All steps in one chunk where a single step is work enough; otherwise chunks, at most as many as their steps."""
    chunks = min(_limit(STATES_PER_STEP, device) / states, math.sqrt(length))
    return length if chunks < 2 else math.ceil(length / chunks)


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


def _terms(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
) -> _Terms:
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    batch, _, dim = u.shape
    groups = next((t.shape[2] for t in (B, C) if t.dim() == 4), 1)
    split = (groups, dim // groups)
    raw_delta = delta.to(dtype)
    if delta_bias is not None:
        raw_delta = raw_delta + delta_bias.to(dtype)
    delta = F.softplus(raw_delta) if delta_softplus else raw_delta
    if initial_state is None:
        initial = u.new_zeros((batch, groups, A.shape[1], dim // groups), dtype=dtype)
    else:
        initial = _split_channels(initial_state.to(dtype), split)
    return _Terms(
        u.to(dtype).unflatten(2, split),
        raw_delta,
        delta.unflatten(2, split),
        _per_group(A.to(dtype), split),
        *(_per_group(t.to(dtype), split) if t.dim() == 2 else t.to(dtype).unsqueeze(-1) for t in (B, C)),
        initial,
        None if reset is None else reset[..., None, None],
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
    decay_after = _cleared(decay_after, reset_after)
    return linear_recurrence(decay_after, drive, grad_last, reset=reset_after, reverse=not reverse)


def _cleared(values: Tensor, reset: Tensor | None) -> Tensor:
    return values if reset is None else values.masked_fill(reset, 0.0)


def _shifted(values: Tensor, first: Tensor, reverse: bool) -> Tensor:
    """At each step the value (batch, length, ...) of the step that is run before it; `first` where there is none."""
    if reverse:
        return torch.cat((values[:, 1:], first.unsqueeze(1)), dim=1)[:, : values.shape[1]]
    return torch.cat((first.unsqueeze(1), values[:, :-1]), dim=1)[:, : values.shape[1]]


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
