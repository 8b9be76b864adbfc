"""Other selective scans in plain torch, to compare with. Each accepts (batch, dim, length) tensors, its own layout."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Scan = Callable[..., Tensor]


def mamba_ssm_reference(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    """The recurrence that mamba-ssm publishes as its reference: both products for all steps first, then a loop."""
    delta = F.softplus(delta + bias[:, None])
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    drive = torch.einsum("bdl,bnl,bdl->bdln", delta, B, u)
    state = u.new_zeros(u.shape[0], *A.shape)
    outputs = []
    for t in range(u.shape[2]):
        state = decay[:, :, t] * state + drive[:, :, t]
        outputs.append(torch.einsum("bdn,bn->bd", state, C[:, :, t]))
    return torch.stack(outputs, dim=2) + u * D[:, None]


def transformers_associative_scan() -> Scan | None:
    """transformers' Mamba scan as it is compiled: torch's prototype associative_scan."""
    try:
        from transformers.models.mamba.modeling_mamba import mamba_selective_scan
    except ImportError:
        print("transformers with a mamba_selective_scan is not installed: measuring without it", file=sys.stderr)
        return None

    def run(u, delta, A, B, C, D, bias):
        options = {"D": D, "delta_bias": bias, "delta_softplus": True}
        return mamba_selective_scan(u, delta, A, B, C, **options, use_associative_scan=True)

    return torch.compile(run, fullgraph=True)


def mambapy_pscan() -> Scan | None:
    """mamba.py's parallel scan (Blelloch's) over all states, with the code that transformers puts around it."""
    try:
        from mambapy.pscan import pscan
    except ImportError:
        print("mambapy is not installed: measuring without its pscan", file=sys.stderr)
        return None

    def run(u, delta, A, B, C, D, bias):
        delta = F.softplus(delta + bias[:, None]).transpose(1, 2)
        decay = torch.exp(delta.unsqueeze(-1) * A)  # (batch, length, dim, N)
        drive = (delta * u.transpose(1, 2)).unsqueeze(-1) * B.transpose(1, 2).unsqueeze(2)
        states = pscan(decay, drive)
        return (states @ C.transpose(1, 2).unsqueeze(-1)).squeeze(3).transpose(1, 2) + u * D[:, None]

    return run


def installed() -> dict[str, Scan]:
    """By name, every peer that can run here."""
    peers = {
        "mamba-ssm reference": mamba_ssm_reference,
        "transformers associative_scan": transformers_associative_scan(),
        "mamba.py pscan": mambapy_pscan(),
    }
    return {name: scan for name, scan in peers.items() if scan is not None}
