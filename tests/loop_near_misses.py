"""Unrolled loops that are almost linear recurrences, each with its reason, and some of which tests ask for more."""

from __future__ import annotations

import torch
from loop_forms import B, D, L, N, collected


def viewed_as_it_is(a, b, c, h):
    for t in range(L):
        h = (a[:, :, t] * h + b[:, :, t]).view(h.size(0), D, -1)
    return h


def source_changed_between(a, b, c, h):
    states, b = [], b.clone()
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        b[:, :, t + 1 :].add_(1)
        states.append(h)
    return torch.stack(states, 2)


def given_state_changed(a, b, c, h):
    for t in range(L):
        h.mul_(a[:, :, t]).add_(b[:, :, t])
    return (h * c[:, :, 0]).sum(-1)


def old_view_of_the_state(a, b, c, h):
    states, h = [], h.clone()
    for t in range(L):
        before = h[0]
        h.mul_(a[:, :, t]).add_(b[:, :, t])
        states.append(before * 2)
    return torch.stack(states, 2)


def turned_state(a, b, c, h):
    states = []
    for t in range(L):
        h = (a[:, :, t].mT.contiguous() * h.mT).mT.movedim(0, 1).movedim(1, 0).flip(0) + b[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


def transposed_state(a, b, c, h):
    a, b, h, states = a[:, :, :, :3], b[:, :, :, :3], h[..., :3], []
    for t in range(L):
        h = a[:, :, t] * h.mT + b[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


def coupled(a, b, c, h):
    g, states = torch.ones_like(h), []
    for t in range(L):
        h, g = a[:, :, t] * h - c[:, :, t] * g, c[:, :, t] * h + a[:, :, t] * g + b[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


def coupled_but_for_the_last(a, b, c, h):
    g = torch.ones_like(h)
    for t in range(L):
        before, h = h, a[:, :, t] * h - c[:, :, t] * g
        g = c[:, :, t] * before + a[:, :, t] * g + b[:, :, t] if t < L - 1 else g
    return h


def two_steps_before(a, b, c, h):
    before, states = torch.zeros_like(h), []
    for t in range(L):
        h, before = a[:, :, t] * h - c[:, :, t] * before + b[:, :, t], h
        states.append(h)
    return torch.stack(states, 2)


def bounded_state_read_by_another(a, b, c, h):
    """Before it is updated."""
    g = torch.zeros_like(h)
    for t in range(L):
        g, h = 0.5 * g + c[:, :, t] * h, torch.tanh(a[:, :, t] * h + b[:, :, t])
    return g + h


def bounded_read_back(a, b, c, h):
    states = torch.zeros(B, D, 9, N, dtype=b.dtype)
    for t in range(1, 9):
        states[:, :, t] = torch.tanh(a[:, :, 0] * states[:, :, t - 1])
    return states


def read_back_without_gradients(a, b, c, h):
    """What is read from the buffer has none."""
    states = torch.zeros_like(b)
    for t in range(L):
        with torch.no_grad():
            states[:, :, t] = h
        h = a[:, :, t] * states[:, :, t] + b[:, :, t]
    return h


def uneven_distances(a, b, c, h):
    for t in (0, 1, 3, 4, 2, 1, 0, 3):
        h = a[:, :, t] * h + b[:, :, t]
    return h


def written_without_gradients(a, b, c, h):
    h = h * 1
    for t in range(L):
        with torch.no_grad():
            h.mul_(a[:, :, t]).add_(b[:, :, t])
    return h


def windows(a, b, c, h):
    states = torch.zeros(B, D, 10, N, dtype=b.dtype)
    for t in range(2, 10):
        states[:, :, t] = states[:, :, t - 2 : t].sum(2) + b[:, :, t // 2]
    return states


def whole_numbers(a, b, c, h):
    a, b, states = a.long(), b.long(), []
    h = h.long()
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


def resets(a, b, c, h):
    for t in range(L):
        h = a[:, :, t] * torch.where(c[:, :, t] > 0.5, 0.0, h) + b[:, :, t]
    return h


NEAR_MISSES = {
    "tanh": (collected(lambda h, a, b, c: torch.tanh(a * h + b)), "calls tanh on the state"),
    "square": (collected(lambda h, a, b, c: a * h * h + b), "multiplies the state by itself"),
    "gate-of-the-state": (collected(lambda h, a, b, c: torch.sigmoid(h) * a + b), "calls sigmoid on the state"),
    "mixed-channels": (collected(lambda h, a, b, c: torch.einsum("bdn,bdm->bdm", h, a) + b), "einsum"),
    "given-state-changed": (given_state_changed, "writes to l_h_, which others see"),
    "old-view-of-the-state": (old_view_of_the_state, "is read after"),
    "whole-numbers": (whole_numbers, "got torch.int64"),
    "turned-state": (turned_state, "moves elements of the state (flip)"),
    "transposed-state": (transposed_state, "moves elements of the state"),
    "coupled": (coupled, "two states of a step depend on each other"),
    "coupled-but-for-the-last": (coupled_but_for_the_last, "two states of a step depend on each other"),
    "two-steps-before": (two_steps_before, "reads the state of 2 steps before"),
    "bounded-state-read-by-another": (bounded_state_read_by_another, "calls tanh on the state"),
    "bounded-read-back": (bounded_read_back, "calls tanh on the state"),
    "written-without-gradients": (written_without_gradients, "where they are switched off"),
    "uneven-distances": (uneven_distances, "at uneven distances"),
    "windows": (windows, "reads back more of states"),
    "resets": (resets, "where discards the state at some steps"),
    "matrix": (collected(lambda h, a, b, c: h @ a.mT @ c + b), "multiplies the state by a matrix (matmul)"),
    "softmax": (collected(lambda h, a, b, c: h.softmax(-1) * a + b), "calls softmax on the state"),
    "mean": (collected(lambda h, a, b, c: a * h.mean(-1, keepdim=True) + b), "takes mean over elements of the state"),
    "source-changed": (source_changed_between, "writes in place between its steps"),
}

# Each has its own reason.
WITH_TWO_STATES = {"coupled", "coupled-but-for-the-last", "bounded-state-read-by-another"}
