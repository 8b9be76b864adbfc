"""Recurrences as a program's own loops, for tests of where they are raised."""

from __future__ import annotations

import torch


def decayed(a, b):
    """h_t = σ(a_t) h_{t-1} + b_t along the second axis, all states."""
    h, states = torch.zeros_like(b[:, 0]), []
    for t in range(b.shape[1]):
        h = torch.sigmoid(a[:, t]) * h + b[:, t]
        states.append(h)
    return torch.stack(states, 1)


def scanned(u, delta, A, B, C):
    """A selective scan: exp(Δ_t A) h_{t-1} + Δ_t u_t B_t, read out by C."""
    h, ys = u.new_zeros(u.shape[0], u.shape[2], A.shape[1]), []
    for t in range(u.shape[1]):
        h = torch.exp(delta[:, t, :, None] * A) * h + (delta[:, t] * u[:, t])[:, :, None] * B[:, t, None]
        ys.append((h * C[:, t, None]).sum(-1))
    return torch.stack(ys, 1)


def pair(*shape: int, seed: int = 0, **options) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, **options) for _ in range(2)]
