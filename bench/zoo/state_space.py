"""State spaces with a diagonal matrix, real and complex: S4D, S5, LRU."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch._higher_order_ops.associative_scan import associative_scan

from bench.zoo.entry import Size, published, sequence

S4D = "Gu et al., arXiv:2206.11893; state-spaces/s4, s4d.py"
LRU = "Orvieto et al., arXiv:2303.06349"


def binary_operator(left, right):
    return right[0] * left[0], right[0] * left[1] + right[1]


class Diagonal(nn.Module):
    """One state space of `states` states for each channel."""

    def __init__(self, size: Size, A: Tensor) -> None:
        super().__init__()
        self.A, self.log_dt = nn.Parameter(A.expand(size.width, -1).clone()), nn.Parameter(-torch.rand(size.width))
        self.C, self.D = nn.Parameter(torch.randn(size.width, size.states, dtype=A.dtype)), nn.Parameter(torch.ones(1))

    def discrete(self) -> tuple[Tensor, Tensor]:
        """The matrix, and what the input is multiplied by, for steps of `dt`."""
        dA = torch.exp(self.A * self.log_dt.exp()[:, None])
        return dA, (dA - 1) / self.A


@published("S4D, real", S4D, sequence)
class Real(Diagonal):
    def __init__(self, size: Size) -> None:
        super().__init__(size, -torch.arange(1.0, size.states + 1))

    def forward(self, u: Tensor) -> Tensor:
        dA, dB = self.discrete()
        x, ys = u.new_zeros(u.shape[0], *dA.shape), []
        for t in range(u.shape[1]):
            x = dA * x + dB * u[:, t, :, None]
            ys.append((self.C * x).sum(-1))
        return torch.stack(ys, 1) + self.D * u


def linear_initial(size: Size) -> Tensor:
    """S4D-Lin."""
    return torch.complex(torch.full((size.states,), -0.5), math.pi * torch.arange(float(size.states)))


@published("S4D, complex", S4D, sequence)
class Complex(Diagonal):
    def __init__(self, size: Size) -> None:
        super().__init__(size, linear_initial(size))

    def forward(self, u: Tensor) -> Tensor:
        dA, dB = self.discrete()
        x, ys = torch.zeros(u.shape[0], *dA.shape, dtype=dA.dtype, device=u.device), []
        for t in range(u.shape[1]):
            x = dA * x + dB * u[:, t, :, None]
            ys.append(2 * torch.einsum("hn,bhn->bh", self.C, x).real)
        return torch.stack(ys, 1) + self.D * u


@published("S4D, complex as two real states", S4D, sequence, recurrences=0, cause="depend on each other")
class TwoReal(Diagonal):
    """Each state is a sum over both states of the step before: no elementwise recurrence of either."""

    def __init__(self, size: Size) -> None:
        super().__init__(size, linear_initial(size))

    def forward(self, u: Tensor) -> Tensor:
        dA, dB = self.discrete()
        real = imaginary = u.new_zeros(u.shape[0], *dA.shape)
        ys = []
        for t in range(u.shape[1]):
            drive = u[:, t, :, None]
            real, imaginary = (
                dA.real * real - dA.imag * imaginary + dB.real * drive,
                dA.real * imaginary + dA.imag * real + dB.imag * drive,
            )
            ys.append(2 * (self.C.real * real - self.C.imag * imaginary).sum(-1))
        return torch.stack(ys, 1) + self.D * u


@published("S5, associative_scan", "Smith et al., arXiv:2208.04933; i404788/s5-pytorch, s5_model.py", sequence)
class S5(nn.Module):
    """One complex state space for all channels."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.Lambda, self.log_step = nn.Parameter(linear_initial(size)), nn.Parameter(-torch.rand(size.states))
        self.B = nn.Parameter(torch.randn(size.states, size.width, dtype=torch.complex64))
        self.C = nn.Parameter(torch.randn(size.width, size.states, dtype=torch.complex64))
        self.D = nn.Parameter(torch.randn(size.width))

    def forward(self, u: Tensor) -> Tensor:
        Lambda_bar = torch.exp(self.Lambda * self.log_step.exp())
        B_bar = ((Lambda_bar - 1) / self.Lambda)[:, None] * self.B
        Bu = u.to(B_bar.dtype) @ B_bar.T
        elements = Lambda_bar.expand_as(Bu), Bu
        _, x = associative_scan(binary_operator, elements, dim=1, combine_mode="generic")
        return 2 * (x @ self.C.T).real + self.D * u


class LinearRecurrentUnit(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        radius, phase = 0.5 + torch.rand(size.states) / 2.1, 6.28 * torch.rand(size.states)
        self.nu_log, self.theta_log = nn.Parameter((-radius.log()).log()), nn.Parameter(phase.log())
        self.gamma_log = nn.Parameter((1 - radius**2).sqrt().log())
        self.B = nn.Parameter(torch.randn(size.states, size.width, dtype=torch.complex64))
        self.C = nn.Parameter(torch.randn(size.width, size.states, dtype=torch.complex64))
        self.D = nn.Parameter(torch.randn(size.width))

    def forward(self, u: Tensor) -> Tensor:
        Lambda = torch.exp(torch.complex(-self.nu_log.exp(), self.theta_log.exp()))
        Bu = u.to(self.B.dtype) @ (self.B * self.gamma_log.exp()[:, None]).T
        return (self.states(Lambda, Bu) @ self.C.T).real + self.D * u


@published("LRU, loop", f"{LRU}; bojone/rnn", sequence)
class Loop(LinearRecurrentUnit):
    def states(self, Lambda: Tensor, Bu: Tensor) -> Tensor:
        x, xs = torch.zeros_like(Bu[:, 0]), []
        for t in range(Bu.shape[1]):
            x = Lambda * x + Bu[:, t]
            xs.append(x)
        return torch.stack(xs, 1)


@published("LRU, associative_scan", f"{LRU}; NicolasZucchet/minimal-LRU, in torch", sequence)
class Tree(LinearRecurrentUnit):
    def states(self, Lambda: Tensor, Bu: Tensor) -> Tensor:
        return associative_scan(binary_operator, (Lambda.expand_as(Bu), Bu), dim=1, combine_mode="generic")[1]
