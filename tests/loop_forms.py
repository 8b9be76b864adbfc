"""Unrolled loops as people write them, each of which becomes one recurrence of `sequences`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

B, D, L, N = 2, 3, 5, 4


def sequences(time: int = 2, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """a, b and c (batch, dim, length, N), with time where it is asked for; and a state."""
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.rand(B, D, L, N, generator=generator, dtype=dtype) for name in "abc"}
    tensors = {name: t.movedim(2, time).contiguous() for name, t in tensors.items()}
    return {**tensors, "h": torch.rand(B, D, N, generator=generator, dtype=dtype)}


def collected(step: Callable) -> Callable:
    """A loop over axis 2 that stacks the states that `step(h, a, b, c)` gives."""

    def loop(a, b, c, h):
        states = []
        for t in range(L):
            h = step(h, a[:, :, t], b[:, :, t], c[:, :, t])
            states.append(h)
        return torch.stack(states, 2)

    return loop


FORMS: dict[str, Callable] = {
    "where": collected(lambda h, a, b, c: torch.where(c > 0.5, a * h + b, h)),
    "where-of-numbers": collected(lambda h, a, b, c: torch.where(c > 0.5, h, 0.3 * h) + b),
    "turned-truth": collected(lambda h, a, b, c: a * h * ~(c > 0.5) + b),
    "einsum-with-ellipsis": collected(lambda h, a, b, c: torch.einsum("...n,...n->...n", a, h) + b),
    "product-first": collected(lambda h, a, b, c: a * h + b),
    "state-first": collected(lambda h, a, b, c: h * a + b),
    "sum-turned": collected(lambda h, a, b, c: b + a * h),
    "functions": collected(lambda h, a, b, c: torch.add(torch.mul(h, a), b)),
    "methods": collected(lambda h, a, b, c: h.mul(a).add(b)),
    "addcmul": collected(lambda h, a, b, c: torch.addcmul(b, a, h)),
    "einsum": collected(lambda h, a, b, c: torch.einsum("bdn,bdn->bdn", a, h) + b),
    "lerp": collected(lambda h, a, b, c: torch.lerp(b, h, a)),
    "difference": collected(lambda h, a, b, c: a * h - b),
    "exponential-in-the-step": collected(lambda h, a, b, c: torch.exp(-a) * h + c * b),
    "casts": collected(lambda h, a, b, c: (a.float() * h.float() + b.float()).to(h.dtype)),
    "constant-factor": collected(lambda h, a, b, c: 0.5 * h + b),
    "product-written-in-place": collected(lambda h, a, b, c: (a * h).add_(b)),
}


def form(function: Callable) -> Callable:
    FORMS[function.__name__.replace("_", "-")] = function
    return function


@form
def no_state_at_first(a, b, c, h):
    h, states = torch.zeros_like(h), []
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        states.append(h)
    return torch.stack(states, dim=2)


@form
def number_at_first(a, b, c, h):
    h, states = 0, []
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


@form
def first_step_apart(a, b, c, h):
    h = b[:, :, 0]
    states = [h]
    for t in range(1, L):
        h = a[:, :, t] * h + b[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


@form
def concatenated(a, b, c, h):
    outputs = []
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        outputs.append((h * c[:, :, t]).sum(-1).unsqueeze(-1))
    return torch.cat(outputs, dim=-1)


@form
def written_one_by_one(a, b, c, h):
    outputs = a.new_empty(B, D, L)
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        outputs[:, :, t] = (h * c[:, :, t]).sum(-1)
    return outputs


@form
def viewed_over_an_axis_of_one(a, b, c, h):
    outputs = []
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        outputs.append(h.mean(-1, keepdim=True))
    return torch.stack(outputs, -1).view(-1)


@form
def slices_of_width_one(a, b, c, h):
    h, outputs = h.unsqueeze(2), []
    for t in range(L):
        h = a[:, :, t : t + 1] * h + b[:, :, t : t + 1]
        outputs.append(h)
    return torch.cat(outputs, 2)


@form
def unbound_pieces(a, b, c, h):
    outputs = []
    for a_t, b_t, c_t in zip(a.unbind(2), b.unbind(2), c.unbind(2), strict=True):
        h = a_t * h + b_t
        outputs.append(torch.matmul(h, c_t.transpose(1, 2)))
    return torch.stack(outputs)


@form
def selected_with_last_state(a, b, c, h):
    outputs = []
    for t in range(L):
        h = a.select(2, t) * h + b.select(2, t)
        outputs.append((h * c[:, :, t]).sum(-1) + a[:, :, t].sum(-1))
    return torch.stack(outputs, -1), h


@form
def states_in_between(a, b, c, h):
    outputs, kept = [], []
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        outputs.append(h.sum(-1))
        kept.append(h)
    return torch.stack(outputs, 2), kept[1] * 2


@form
def outputs_and_states(a, b, c, h):
    outputs, states = [], []
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        outputs.append(h.sum(-1))
        states.append(h)
    return torch.stack(outputs, 2), torch.stack(states, 2)


@form
def state_ahead_of_the_step(a, b, c, h):
    outputs = []
    for t in range(L):
        outputs.append((h * c[:, :, t]).sum(-1))
        h = a[:, :, t] * h + b[:, :, t]
    return torch.stack(outputs, 2)


@form
def backwards_with_reversed_list(a, b, c, h):
    outputs = []
    for t in reversed(range(L)):
        h = a[:, :, t] * h + b[:, :, t]
        outputs.append(h * c[:, :, t])
    return torch.stack(outputs[::-1], 2)


@form
def backwards_as_they_come(a, b, c, h):
    outputs = []
    for t in range(L - 1, -1, -1):
        h = a[:, :, t] * h + b[:, :, t]
        outputs.append(h * c[:, :, t])
    return torch.stack(outputs, 2)


@form
def flipped_before_and_after(a, b, c, h):
    a, b, outputs = a.flip(2), b.flip(2), []
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        outputs.append(h)
    return torch.stack(outputs, 2).flip(2)


@form
def mixed_directions(a, b, c, h):
    outputs = []
    for t in range(L):
        h = a[:, :, L - 1 - t] * h + b[:, :, t]
        outputs.append(h)
    return torch.stack(outputs, 2)


@form
def part_of_the_length(a, b, c, h):
    outputs = []
    for t in range(1, L - 1):
        h = a[:, :, t] * h + b[:, :, t - 1]
        outputs.append(h)
    return torch.stack(outputs, 2)


@form
def last_state(a, b, c, h):
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
    return h


@form
def every_second_step(a, b, c, h):
    states = []
    for t in range(0, L, 2):
        h = a[:, :, t] * h + b[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


@form
def sources_written_afterwards(a, b, c, h):
    """The product of a and b needs b for its gradient, which the steps do not."""
    b, h, states = b * 1, h * 1, []
    for t in range(L):
        h = a[:, :, t] * (h + b[:, :, t])
        states.append(h)
    b.select(2, 0).mul_(2)
    return torch.stack(states, 2)


@form
def read_back_from_the_output(a, b, c, h):
    states = torch.zeros_like(b)
    states[:, :, 0] = h
    for t in range(1, L):
        states[:, :, t] = a[:, :, t] * states[:, :, t - 1] + b[:, :, t]
    return states


@form
def read_back_from_zero(a, b, c, h):
    states = b.new_zeros(B, D, L + 1, N)
    for t in range(L):
        states[:, :, t + 1] = a[:, :, t] * states[:, :, t] + b[:, :, t]
    return states[:, :, L]


@form
def returns_of_rewards(a, b, c, h):
    """As of reinforcement learning; the last entry is given."""
    returns = b.new_zeros(L + 1, B, D, N)
    returns[-1] = h
    for t in reversed(range(L)):
        returns[t] = returns[t + 1] * a[:, :, t] + b[:, :, t]
    return returns[:-1]


@form
def copied_into_the_state(a, b, c, h):
    states, h = [], h.clone()
    for t in range(L):
        h.copy_(a[:, :, t] * h + b[:, :, t])
        states.append((h * c[:, :, t]).sum(-1))
    return torch.stack(states, 2)


@form
def state_with_an_axis_more(a, b, c, h):
    states = []
    for t in range(L):
        h = (a[:, :, t].unsqueeze(1) * h.unsqueeze(1) + b[:, :, t : t + 1].movedim(2, 1)).squeeze(1)
        states.append(h)
    return torch.stack(states, 2)


@form
def last_step_apart(a, b, c, h):
    states = [None] * L
    for t in reversed(range(L)):
        following = h if t == L - 1 else b[:, :, t + 1]
        h = a[:, :, t] * h + following
        states[t] = h
    return torch.stack(states, 2)


@form
def two_read_outs(a, b, c, h):
    ys, zs = [], []
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        ys.append((h * c[:, :, t]).sum(-1))
        zs.append(torch.relu(h))
    return torch.stack(ys, 2), torch.stack(zs, 2)


@form
def two_steps_in_one_line(a, b, c, h):
    states = []
    for t in range(L):
        h = c[:, :, t] + b[:, :, t] + a[:, :, t] * h
        states.append(h)
    return states[1], states[-1]


@form
def twice_in_one_step(a, b, c, h):
    states = []
    for t in range(L):
        h = (2 if t == 3 else 1) * (a[:, :, t] * h) + b[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


@form
def wrong_index(a, b, c, h):
    states = []
    for t in range(L):
        h = a[:, :, 1 if t == 3 else t] * h + b[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


@form
def state_changed_between(a, b, c, h):
    states, h = [], h.clone()
    for t in range(L):
        h.mul_(a[:, :, t]).add_(b[:, :, t])
        states.append(h.sum(-1))
    return torch.stack(states, 2)


def state_read_by_another(a, b, c, h):
    """Before it is updated."""
    g = torch.zeros_like(h)
    for t in range(L):
        g = 0.5 * g + h
        h = a[:, :, t] * h + b[:, :, t]
    return g, h


# Which eager torch cannot compute.
WITHOUT_GRADIENTS = {
    "read-back-from-the-output",
    "read-back-from-zero",
    "returns-of-rewards",
    "copied-into-the-state",
}
