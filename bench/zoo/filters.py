"""Averages, filters and returns, and the ways in which loops of anyone begin, end, mask and write."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._higher_order_ops.associative_scan import associative_scan
from torch._higher_order_ops.scan import scan

from bench.zoo.entry import Size, decays, published, sequence, sequences

TEXTBOOK = "textbook"
TORCH = "torch, torch/_higher_order_ops"


def factors(size: Size) -> tuple[Tensor, Tensor]:
    """Decays and drives, (batch, length, width)."""
    return decays(*size[:3]), torch.randn(size[:3])


@published("Exponential moving average", TEXTBOOK, sequence)
def moving_average(x):
    """From the first value on."""
    average, averages = x[:, 0], [x[:, 0]]
    for t in range(1, x.shape[1]):
        average = 0.1 * x[:, t] + 0.9 * average
        averages.append(average)
    return torch.stack(averages, 1)


@published("MEGA, damped moving average", "Ma et al., arXiv:2209.10655; facebookresearch/mega", sequence)
class Mega(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.alpha, self.delta, self.beta, self.eta = (
            nn.Parameter(torch.randn(size.width, size.states)) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        p, q = torch.sigmoid(self.alpha), 1 - torch.sigmoid(self.alpha) * torch.sigmoid(self.delta)
        h, out = x.new_zeros(x.shape[0], *p.shape), []
        for t in range(x.shape[1]):
            h = q * h + p * self.beta * x[:, t].unsqueeze(-1)
            out.append(torch.einsum("bdn,dn->bd", h, self.eta))
        return torch.stack(out, 1)


def rollout(size: Size) -> tuple[Tensor, ...]:
    """Rewards and values, (length, batch), where episodes end, and what follows the last step."""
    steps = size.length, size.batch
    ends = torch.rand(steps) < 0.2
    return *torch.randn(2, *steps).unbind(), ends, torch.randn(size.batch), torch.rand(size.batch) < 0.2


@published("GAE", "Schulman et al., arXiv:1506.02438; vwxyzjn/cleanrl, ppo.py", rollout)
def gae(rewards, values, dones, next_value, next_done):
    advantages, lastgaelam = torch.zeros_like(rewards), 0
    for t in reversed(range(rewards.shape[0])):
        if t == rewards.shape[0] - 1:
            nextnonterminal, nextvalues = 1.0 - next_done.float(), next_value
        else:
            nextnonterminal, nextvalues = 1.0 - dones[t + 1].float(), values[t + 1]
        delta = rewards[t] + 0.99 * nextvalues * nextnonterminal - values[t]
        advantages[t] = lastgaelam = delta + 0.99 * 0.95 * nextnonterminal * lastgaelam
    return advantages


def returns_inputs(size: Size) -> tuple[Tensor, Tensor]:
    return torch.randn(size.length, size.batch), torch.rand(size.length, size.batch) < 0.2


@published("Discounted returns", "Sutton and Barto, 2018; ikostrikov/pytorch-a2c-ppo-acktr-gail", returns_inputs)
def discounted_returns(rewards, dones):
    R, returns = torch.zeros_like(rewards[0]), []
    for t in reversed(range(rewards.shape[0])):
        R = rewards[t] + 0.99 * R * ~dones[t]
        returns.insert(0, R)
    return torch.stack(returns)


@published("Leaky integrator", "Neftci et al., arXiv:1901.09948, without spikes; jeshraghian/snntorch", sequence)
def leaky_integrator(current):
    membrane, trace = torch.zeros_like(current[:, 0]), []
    for step in range(current.shape[1]):
        membrane = 0.9 * membrane + current[:, step]
        trace.append(membrane)
    return torch.stack(trace, 1)


@published(
    "Leaky integrate-and-fire", "jeshraghian/snntorch, _neurons/leaky.py", sequence, recurrences=0, cause="gt|compar"
)
def integrate_and_fire(current):
    """The reset depends on whether the state is above a threshold."""
    membrane, trace = torch.zeros_like(current[:, 0]), []
    for step in range(current.shape[1]):
        reset = (membrane > 1.0).to(membrane.dtype)
        membrane = 0.9 * membrane + current[:, step] - reset
        trace.append(membrane)
    return torch.stack(trace, 1)


def waveform(size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """(channels, time), and the coefficients of a filter of one pole."""
    return torch.randn(size.width, size.length), torch.tensor([0.3, 0.2]), torch.tensor([1.0, -0.8])


@published("Filter of one pole", TEXTBOOK, waveform)
def one_pole(x, b, a):
    y, previous, ys = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0]), []
    for n in range(x.shape[1]):
        y = (b[0] * x[:, n] + b[1] * previous - a[1] * y) / a[0]
        previous = x[:, n]
        ys.append(y)
    return torch.stack(ys, dim=-1)


@published("Filter of two poles", TEXTBOOK, waveform, recurrences=0, cause="2 steps before")
def two_poles(x, b, a):
    """What a step reads of two steps before is no elementwise recurrence."""
    y = before = torch.zeros_like(x[:, 0])
    ys = []
    for n in range(x.shape[1]):
        y, before = b[0] * x[:, n] - 0.5 * a[1] * y - 0.1 * before, y
        ys.append(y)
    return torch.stack(ys, dim=-1)


@published(
    "lfilter, order 1",
    "pytorch/audio, functional/filtering.py (generic loop)",
    waveform,
    recurrences=None,
    cause=".",
    learns=False,
)
def lfilter(x, b, a):
    """The state is what was last written to the output, read in a window of it."""
    windows = x.unsqueeze(-1).clone()
    padded = torch.zeros(x.shape[0], x.shape[1] + 1, dtype=x.dtype, device=x.device)
    flipped = a.flip(0).unsqueeze(1)
    for i, o0 in enumerate(windows.permute(1, 0, 2)):
        o0 -= padded[:, i : i + 2] @ flipped
        padded[:, i + 1 : i + 2] = o0
    return padded[:, 1:]


@published("Kalman filter, constant gain", TEXTBOOK, sequence)
def constant_gain(z):
    x, estimates = torch.zeros_like(z[:, 0]), []
    for t in range(z.shape[1]):
        predicted = 0.95 * x
        x = predicted + 0.4 * (z[:, t] - predicted)
        estimates.append(x)
    return torch.stack(estimates, dim=1)


def padded_inputs(size: Size) -> tuple[Tensor, ...]:
    lengths = torch.arange(size.batch) + size.length // 2
    return *factors(size), torch.arange(size.length) < lengths[:, None]


@published("Padded batch, where", TEXTBOOK, padded_inputs)
def padded_where(a, b, mask):
    h, outputs = torch.zeros_like(b[:, 0]), []
    for t in range(b.shape[1]):
        h = torch.where(mask[:, t, None], a[:, t] * h + b[:, t], h)
        outputs.append(h)
    return torch.stack(outputs, 1)


@published("Padded batch, mask as a factor", TEXTBOOK, padded_inputs)
def padded_factor(a, b, mask):
    h, outputs = torch.zeros_like(b[:, 0]), []
    for t in range(b.shape[1]):
        m = mask[:, t].unsqueeze(1).to(b.dtype)
        h = m * (a[:, t] * h + b[:, t]) + (1 - m) * h
        outputs.append(h)
    return torch.stack(outputs, 1)


@published("Last state alone", TEXTBOOK, factors)
def last_state(a, b):
    h = torch.zeros_like(b[:, 0])
    for t in range(b.shape[1]):
        h = a[:, t] * h + b[:, t]
    return h


@published("Mean of all states", TEXTBOOK, factors)
def pooled(a, b):
    h, total = torch.zeros_like(b[:, 0]), 0
    for t in range(b.shape[1]):
        h = a[:, t] * h + b[:, t]
        total = total + h
    return total / b.shape[1]


@published("State written in place", TEXTBOOK, factors, learns=False)
def in_place(a, b):
    h, out = torch.zeros_like(b[:, 0]), torch.empty_like(b)
    for t in range(b.shape[1]):
        h.mul_(a[:, t]).add_(b[:, t])
        out[:, t] = h
    return out


@published("First step apart", TEXTBOOK, factors)
def first_step_apart(a, b):
    h = b[:, 0]
    outputs = [h]
    for t in range(1, b.shape[1]):
        h = torch.addcmul(b[:, t], a[:, t], h)
        outputs.append(h)
    return torch.stack(outputs, 1)


@published("Both directions from shared producers", TEXTBOOK, sequences(2), recurrences=2)
def both_directions(gate, x):
    a, length = torch.sigmoid(gate), x.shape[1]
    forwards, backwards = [], [torch.zeros_like(x[:, 0])] * length
    h = g = torch.zeros_like(x[:, 0])
    for t in range(length):
        h = a[:, t] * h + x[:, t]
        forwards.append(h)
    for t in reversed(range(length)):
        g = a[:, t] * g + x[:, t]
        backwards[t] = g
    return torch.cat([torch.stack(forwards, 1), torch.stack(backwards, 1)], -1)


@published("Several read-outs of one state", TEXTBOOK, factors)
def several_read_outs(a, b):
    h, means, norms, states = torch.zeros_like(b[:, 0]), [], [], []
    for t in range(b.shape[1]):
        h = a[:, t] * h + b[:, t]
        means.append(h.mean(-1))
        norms.append(h.square().sum(-1))
        states.append(torch.tanh(h))
    return torch.stack(means, 1), torch.stack(norms, 1), torch.stack(states, 1)


@published("torch's associative_scan", f"{TORCH}/associative_scan.py", factors)
def torch_associative_scan(a, b):
    def combine(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    return associative_scan(combine, (a, b), dim=1, combine_mode="generic")[1]


@published("torch's scan", f"{TORCH}/scan.py", factors)
def torch_scan(a, b):
    def step(h, inputs):
        h = inputs[0] * h + inputs[1]
        return h, h.clone()

    return scan(step, torch.zeros_like(b[:, 0]), (a, b), dim=1)
