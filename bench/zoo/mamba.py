"""Mamba and Mamba-2 as others write them: loops, steps and chunks, in one and in two dimensions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.zoo.entry import HEADS, Entry, Size, decays, published, sequence

MAMBA = "Gu and Dao, arXiv:2312.00752"
MAMBA_2 = "Dao and Gu, arXiv:2405.21060"


class Block(nn.Module):
    """Mamba's block around a scan of (batch, length, channels)."""

    def __init__(self, size: Size, scan: Callable[..., Tensor]) -> None:
        super().__init__()
        inner, self.states, self.rank = 2 * size.width, size.states, max(1, size.width // 16)
        self.scan = scan
        self.in_proj = nn.Linear(size.width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, 4, padding=3, groups=inner)
        self.x_proj = nn.Linear(inner, self.rank + 2 * self.states, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, self.states + 1).repeat(inner, 1).log())
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, size.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.in_proj(x).chunk(2, dim=-1)
        x = F.silu(self.conv1d(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        delta, B, C = self.x_proj(x).split([self.rank, self.states, self.states], dim=-1)
        delta = F.softplus(self.dt_proj(delta))
        y = self.scan(x, delta, -torch.exp(self.A_log), B, C, self.D)
        return self.out_proj(y * F.silu(gate))


def in_block(name: str, source: str, **expected) -> Callable[[Callable[..., Tensor]], Entry]:
    """Make an entry of the scan below in Mamba's block."""
    return lambda scan: Entry(name, source, lambda size: Block(size, scan), sequence, **expected)


@in_block("mamba-minimal", f"{MAMBA}; johnma2006/mamba-minimal, model.py")
def minimal(u, delta, A, B, C, D):
    delta_A = torch.exp(torch.einsum("bld,dn->bldn", delta, A))
    delta_B_u = torch.einsum("bld,bln,bld->bldn", delta, B, u)
    x = torch.zeros((u.shape[0], *A.shape), device=u.device)
    ys = []
    for i in range(u.shape[1]):
        x = delta_A[:, i] * x + delta_B_u[:, i]
        ys.append(torch.einsum("bdn,bn->bd", x, C[:, i, :]))
    return torch.stack(ys, dim=1) + u * D


def reference(u, delta, A, B, C, D):
    """(batch, channels, length); B and C are shared by all channels, or by those of a group."""
    u, delta, B, C = u.float(), delta.float(), B.float(), C.float()
    delta_A = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    grouped = B.dim() == 4
    if grouped:
        B, C = (each.repeat_interleave(u.shape[1] // each.shape[1], dim=1) for each in (B, C))
    delta_B_u = torch.einsum("bdl,bdnl,bdl->bdln" if grouped else "bdl,bnl,bdl->bdln", delta, B, u)
    x = A.new_zeros((u.shape[0], *A.shape))
    ys = []
    for i in range(u.shape[2]):
        x = delta_A[:, :, i] * x + delta_B_u[:, :, i]
        ys.append(torch.einsum("bdn,bdn->bd" if grouped else "bdn,bn->bd", x, C[..., i]))
    return torch.stack(ys, dim=2) + u * D[:, None]


@in_block("mamba-ssm, selective_scan_ref", f"{MAMBA}; state-spaces/mamba, selective_scan_interface.py")
def einsum_reference(u, delta, A, B, C, D):
    u, delta, B, C = (each.transpose(1, 2) for each in (u, delta, B, C))
    return reference(u, delta, A, B, C, D).transpose(1, 2)


@in_block("mamba-ssm, loop over Mamba.step", f"{MAMBA}; state-spaces/mamba, mamba_simple.py")
def steps(u, delta, A, B, C, D):
    state, ys = u.new_zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[1]):
        dA = torch.exp(torch.einsum("bd,dn->bdn", delta[:, t], A))
        dB = torch.einsum("bd,bn->bdn", delta[:, t], B[:, t])
        state = state * dA + u[:, t].unsqueeze(-1) * dB
        ys.append(torch.einsum("bdn,bn->bd", state, C[:, t]) + D * u[:, t])
    return torch.stack(ys, 1)


@in_block("mamba-ssm, loop over Mamba.step, cached", f"{MAMBA}; state-spaces/mamba, mamba_simple.py", learns=False)
def cached_steps(u, delta, A, B, C, D):
    state, ys = u.new_zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[1]):
        dA = torch.exp(torch.einsum("bd,dn->bdn", delta[:, t], A))
        dB = torch.einsum("bd,bn->bdn", delta[:, t], B[:, t])
        state.copy_(state * dA + u[:, t].unsqueeze(-1) * dB)
        ys.append(torch.einsum("bdn,bn->bd", state, C[:, t]) + D * u[:, t])
    return torch.stack(ys, 1)


@in_block("mamba-tiny, cumsum", f"{MAMBA}; PeaBrane/mamba-tiny, scans.py", recurrences=None)
def cumulative(u, delta, A, B, C, D):
    """Divides by the product of all later decays, to which it adds 1e-12: not quite the recurrence."""
    delta_A = torch.einsum("bld,dn->bldn", delta, A)
    delta_B_u = torch.einsum("bld,bld,bln->bldn", delta, u, B)
    later = F.pad(delta_A[:, 1:], (0, 0, 0, 0, 0, 1)).flip(1).cumsum(1).exp().flip(1)
    x = (delta_B_u * later).cumsum(1) / (later + 1e-12)
    return torch.einsum("bldn,bln->bld", x, C) + u * D


@in_block("Heinsen's scan of Mamba: cumsum, logcumsumexp", "Heinsen, arXiv:2311.06281", recurrences=None)
def heinsen(u, delta, A, B, C, D):
    """The logarithm of a negative drive is complex."""
    a_star = torch.einsum("bld,dn->bldn", delta, A).cumsum(1)
    delta_B_u = torch.einsum("bld,bld,bln->bldn", delta, u, B)
    log_b = torch.complex(delta_B_u, torch.zeros_like(delta_B_u)).log()
    log_x = a_star + torch.logcumsumexp(log_b - a_star, 1)
    return torch.einsum("bldn,bln->bld", log_x.exp().real, C) + u * D


def mamba_2_inputs(size: Size) -> tuple[Tensor, ...]:
    """X, logarithms of decays, B and C."""
    batch, length, width, states = size
    weights = torch.randn(2, batch, length, HEADS, states)
    return torch.randn(batch, length, HEADS, width // HEADS), decays(batch, length, HEADS).log(), *weights.unbind()


@published("Mamba-2, loop", f"{MAMBA_2}; state-spaces/mamba, mamba2.py (step)", mamba_2_inputs)
def mamba_2(X, A, B, C):
    state, ys = X.new_zeros(*X.shape[:1], *X.shape[2:], B.shape[-1]), []
    for t in range(X.shape[1]):
        dBx = torch.einsum("bhn,bhp->bhpn", B[:, t], X[:, t])
        state = state * torch.exp(A[:, t])[..., None, None] + dBx
        ys.append(torch.einsum("bhpn,bhn->bhp", state, C[:, t]))
    return torch.stack(ys, dim=1)


def segment_sums(x: Tensor) -> Tensor:
    """Of x from each place to each later one; minus infinity to earlier ones."""
    length = x.shape[-1]
    ones = torch.ones(length, length, device=x.device, dtype=torch.bool)
    x = x[..., None].expand(*x.shape, length).masked_fill(~torch.tril(ones, diagonal=-1), 0)
    return torch.cumsum(x, dim=-2).masked_fill(~torch.tril(ones), -torch.inf)


SSD = f"{MAMBA_2}; state-spaces/mamba, ssd_minimal.py"


@published("Mamba-2, ssd_minimal", SSD, mamba_2_inputs, recurrences=None, cause="common factor")
def ssd_minimal(X, A, B, C):
    X, A, B, C = (each.unflatten(1, (4, -1)) for each in (X, A, B, C))
    A = A.permute(0, 3, 1, 2)
    A_cumsum = torch.cumsum(A, dim=-1)
    Y_diag = torch.einsum("bclhn,bcshn,bhcls,bcshp->bclhp", C, B, torch.exp(segment_sums(A)), X)
    states = torch.einsum("bclhn,bhcl,bclhp->bchpn", B, torch.exp(A_cumsum[..., -1:] - A_cumsum), X)
    states = torch.cat([torch.zeros_like(states[:, :1]), states], dim=1)
    decay_chunk = torch.exp(segment_sums(F.pad(A_cumsum[..., -1], (1, 0))))
    states = torch.einsum("bhzc,bchpn->bzhpn", decay_chunk, states)[:, :-1]
    Y_off = torch.einsum("bclhn,bchpn,bhcl->bclhp", C, states, torch.exp(A_cumsum))
    return (Y_diag + Y_off).flatten(1, 2)


@published("Vim, both directions", "Zhu et al., arXiv:2401.09417; hustvl/Vim, mamba_simple.py", sequence, recurrences=2)
class Vim(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.forwards = Block(size, einsum_reference.build(size).scan)
        self.backwards = Block(size, einsum_reference.build(size).scan)

    def forward(self, x: Tensor) -> Tensor:
        return self.forwards(x) + self.backwards(x.flip([1])).flip([1])


def image(size: Size) -> tuple[Tensor]:
    """(batch, width, height, 4), of as many pixels as the length."""
    return (torch.randn(size.batch, size.width, size.length // 4, 4),)


class CrossScan(nn.Module):
    """Rows and columns, each in both directions: four scans as one over four groups of channels."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.states, self.rank = size.states, max(1, size.width // 16)
        self.x_proj = nn.Parameter(torch.randn(4, self.rank + 2 * self.states, size.width) / size.width**0.5)
        self.dt_proj = nn.Parameter(torch.randn(4, size.width, self.rank))
        self.dt_bias = nn.Parameter(torch.rand(4 * size.width))
        self.A_logs = nn.Parameter(torch.arange(1.0, self.states + 1).repeat(4 * size.width, 1).log())
        self.Ds = nn.Parameter(torch.ones(4 * size.width))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        both = torch.stack([x.flatten(2), x.transpose(2, 3).flatten(2)], dim=1)
        xs = torch.cat([both, both.flip([-1])], dim=1)
        weights = torch.einsum("bkdl,kcd->bkcl", xs, self.x_proj)
        dts, Bs, Cs = weights.split([self.rank, self.states, self.states], dim=2)
        dts = torch.einsum("bkrl,kdr->bkdl", dts, self.dt_proj).flatten(1, 2)
        delta = F.softplus(dts + self.dt_bias[:, None])
        ys = reference(xs.flatten(1, 2), delta, -torch.exp(self.A_logs), Bs, Cs, self.Ds).view(batch, 4, channels, -1)
        rows, columns = (ys[:, :2] + ys[:, 2:].flip([-1])).unbind(1)
        columns = columns.view(batch, channels, width, height).transpose(2, 3).flatten(2)
        return (rows + columns).view(x.shape)


vmamba = published("VMamba, cross scan", "Liu et al., arXiv:2401.10166; MzeroMiko/VMamba, vmamba.py", image)(CrossScan)


@published(
    "MambaIR, residual state space block", "Guo et al., arXiv:2402.15648; csguoh/MambaIR, mambair_arch.py", image
)
class MambaIR(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.norm, self.out_norm = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.in_proj = nn.Linear(size.width, 2 * size.width)
        self.conv2d = nn.Conv2d(size.width, size.width, 3, padding=1, groups=size.width)
        self.scan, self.skip_scale = CrossScan(size), nn.Parameter(torch.ones(size.width))
        self.out_proj = nn.Linear(size.width, size.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        inner, gate = self.in_proj(self.norm(x)).chunk(2, dim=-1)
        y = self.scan(F.silu(self.conv2d(inner.permute(0, 3, 1, 2).contiguous())))
        y = self.out_norm(y.permute(0, 2, 3, 1)) * F.silu(gate)
        return x * self.skip_scale + self.out_proj(y)
