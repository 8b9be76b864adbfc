"""Recurrent networks whose gates do not read the state, and some whose gates or activations do."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.zoo.entry import Size, published, sequence, sequences

MIN_RNNS = "Feng et al., arXiv:2410.01201; lucidrains/minGRU-pytorch"


def positive(x: Tensor) -> Tensor:
    return torch.where(x >= 0, x + 0.5, x.sigmoid())


def log_positive(x: Tensor) -> Tensor:
    return torch.where(x >= 0, (F.relu(x) + 0.5).log(), -F.softplus(-x))


def heinsen_scan(log_coefficients: Tensor, log_values: Tensor) -> Tensor:
    a_star = log_coefficients.cumsum(dim=1)
    return (a_star + (log_values - a_star).logcumsumexp(dim=1)).exp()


@published("minGRU, loop", MIN_RNNS, sequences(2))
def min_gru(gate, hidden):
    h, outputs = torch.zeros_like(hidden[:, 0]), []
    for t in range(hidden.shape[1]):
        z = gate[:, t].sigmoid()
        h = torch.lerp(h, positive(hidden[:, t]), z)
        outputs.append(h)
    return torch.stack(outputs, dim=1)


@published("minGRU, log space", MIN_RNNS, sequences(2))
def min_gru_log(gate, hidden):
    log_coefficients, log_z = -F.softplus(gate), -F.softplus(-gate)
    return heinsen_scan(log_coefficients, log_z + log_positive(hidden))


@published("minLSTM, loop", MIN_RNNS, sequences(3))
def min_lstm(forget, enter, hidden):
    h, outputs = torch.zeros_like(hidden[:, 0]), []
    for t in range(hidden.shape[1]):
        f, i = torch.sigmoid(forget[:, t]), torch.sigmoid(enter[:, t])
        h = f / (f + i) * h + i / (f + i) * positive(hidden[:, t])
        outputs.append(h)
    return torch.stack(outputs, dim=1)


@published("minLSTM, log space", MIN_RNNS, sequences(3))
def min_lstm_log(forget, enter, hidden):
    difference = F.softplus(-forget) - F.softplus(-enter)
    return heinsen_scan(-F.softplus(difference), -F.softplus(-difference) + log_positive(hidden))


class BoundedRoot(torch.autograd.Function):
    """The square root, whose derivative is 1000 at most."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sqrt(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad / torch.sqrt(torch.clamp(4.0 * x, min=1e-6))


def documents(size: Size) -> tuple[Tensor, ...]:
    """A sequence of two documents in each row, and the positions in them."""
    first = size.length // 3
    positions = torch.cat([torch.arange(first), torch.arange(size.length - first)])
    return *sequence(size), positions.expand(size.batch, -1).clone()


@published("RG-LRU", "De et al., arXiv:2402.19427; google-deepmind/recurrentgemma, torch/layers.py", documents)
class RealGated(nn.Module):
    """With a reset where a document begins."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.a_param = nn.Parameter(torch.randn(size.width))
        self.input_gate, self.a_gate = nn.Linear(size.width, size.width), nn.Linear(size.width, size.width)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        reset = positions[..., None] == 0
        log_a = -8.0 * torch.sigmoid(self.a_gate(x)) * F.softplus(self.a_param)
        a, a_square = torch.exp(log_a), torch.exp(2 * log_a)
        multiplier = reset + ~reset * BoundedRoot.apply(1 - a_square)
        x = x * torch.sigmoid(self.input_gate(x)) * multiplier.type(x.dtype)
        a = a * ~reset
        y, h_t = torch.zeros_like(x), torch.zeros(x[:, 0].shape, dtype=torch.float32, device=x.device)
        for t in range(x.shape[1]):
            h_t = a[:, t].float() * h_t + x[:, t].float()
            y[:, t] = h_t.type(x.dtype)
        return y


@published("HGRN", "Qin et al., arXiv:2311.04823; fla-org/flash-linear-attention, ops/hgrn/naive.py", sequences(2))
def hgrn(x, g):
    dtype = x.dtype
    x, g = (1 - g.sigmoid()).float() * x.float(), F.logsigmoid(g).float()
    h, o = torch.zeros(x.shape[0], x.shape[2], dtype=torch.float, device=x.device), torch.zeros_like(x)
    for i in range(x.shape[1]):
        h = g[:, i].exp() * h + x[:, i]
        o[:, i] = h
    return o.to(dtype)


def time_first(count: int):
    """`count` sequences of (length, batch, width)."""
    return lambda size: tuple(each.transpose(0, 1).contiguous() for each in sequences(count)(size))


@published(
    "QRNN, fo-pooling", "Bradbury et al., arXiv:1611.01576; salesforce/pytorch-qrnn, forget_mult.py", time_first(3)
)
def qrnn(z, f, o):
    """Without a first state, the first step has no forget gate."""
    z, f, o = torch.tanh(z), torch.sigmoid(f), torch.sigmoid(o)
    result, previous = [], None
    for forget, h in zip(f.split(1, dim=0), (f * z).split(1, dim=0), strict=True):
        if previous is not None:
            h = h + (1 - forget) * previous
        h = h.view(h.size()[1:])
        result.append(h)
        previous = h
    return o * torch.stack(result)


def sru_inputs(size: Size) -> tuple[Tensor, ...]:
    return *time_first(4)(size), torch.randn(2, size.width), torch.randn(2, size.width)


SRU = "Lei et al., arXiv:1709.02755; asappresearch/sru, sru/ops.py"


@published("SRU, gates of the input alone", f"{SRU} (version 1)", time_first(4))
def sru(u, forget, reset, x):
    c, outputs = torch.zeros_like(x[0]), []
    for t in range(x.shape[0]):
        f, r = forget[t].sigmoid(), reset[t].sigmoid()
        c = u[t] + (c - u[t]) * f
        outputs.append(r * c.tanh() + (1 - r) * x[t])
    return torch.stack(outputs), c


@published("SRU, gates of the state", SRU, sru_inputs, recurrences=0, cause="sigmoid")
def sru_2(u, forget, reset, x, weight_c, bias):
    """A gate that reads the state is no factor."""
    c, outputs = torch.zeros_like(x[0]), []
    for t in range(x.shape[0]):
        f = (forget[t] + c * weight_c[0] + bias[0]).sigmoid()
        r = (reset[t] + c * weight_c[1] + bias[1]).sigmoid()
        c = u[t] + (c - u[t]) * f
        outputs.append(r * c + (1 - r) * x[t])
    return torch.stack(outputs), c


def ind_rnn_inputs(size: Size) -> tuple[Tensor, ...]:
    return *time_first(1)(size), torch.rand(size.width)


IND_RNN = "Li et al., arXiv:1803.04831; StefOe/indrnn-pytorch"


@published("IndRNN", IND_RNN, ind_rnn_inputs, recurrences=0, cause="relu")
def ind_rnn(x, weight_hh):
    h, outputs = torch.zeros_like(x[0]), []
    for t in range(x.shape[0]):
        h = F.relu(x[t] + weight_hh * h)
        outputs.append(h)
    return torch.stack(outputs)


@published("GRU", "Cho et al., arXiv:1406.1078; torch.nn.GRUCell", sequence, recurrences=0, cause="gru_cell|matri")
class GRU(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.cell = nn.GRUCell(size.width, size.width)

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            outputs.append(h)
        return torch.stack(outputs, 1)


@published(
    "Recurrent network, tanh",
    "Elman, Cognitive Science 14, 1990",
    sequence,
    recurrences=0,
    cause="tanh|matri|calls linear",
)
class Elman(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.i2h, self.h2h = nn.Linear(size.width, size.width), nn.Linear(size.width, size.width)

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = torch.tanh(self.i2h(x[:, t]) + self.h2h(h))
            outputs.append(h)
        return torch.stack(outputs, 1)
