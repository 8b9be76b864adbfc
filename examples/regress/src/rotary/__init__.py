"""Rotary position embeddings, and normalisation by the root of the mean square."""

import torch
from torch import Tensor


def angles(length: int, dim: int, *, device: str = "cpu") -> Tensor:
    """(length, dim / 2): how far each pair of channels is turned at each position."""
    frequencies = 10_000 ** -(torch.arange(0, dim, 2, device=device) / dim)
    return torch.arange(length, device=device)[:, None] * frequencies


def rotate(x: Tensor, turned: Tensor) -> Tensor:
    """Turn each pair of channels of x, (batch, heads, length, dim), by the angles of its position."""
    sine, cosine = turned.sin(), turned.cos()
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1).flatten(-2)


def norm(x: Tensor, weight: Tensor) -> Tensor:
    """x over the root of the mean of its squares, times a weight for each channel."""
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight
