"""Linear attention and its relatives, whose state is a matrix: RWKV, RetNet, GLA, HGRN2, xLSTM, delta rules."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.zoo.entry import HEADS, Size, decays, published, sequences

FLA = "fla-org/flash-linear-attention"
RWKV_4, RWKV_6 = "Peng et al., arXiv:2305.13048", "Peng et al., arXiv:2404.05892"
XLSTM = "Beck et al., arXiv:2405.04517; NX-AI/xlstm, mlstm/backends.py"


def heads(*others: Callable[[Size], Tensor]) -> Callable[[Size], tuple[Tensor, ...]]:
    """q, k, v of (batch, heads, length, width of a head), and others."""

    def inputs(size: Size) -> tuple[Tensor, ...]:
        shape = size.batch, HEADS, size.length, size.width // HEADS
        return *torch.randn(3, *shape).unbind(), *(make(size) for make in others)

    return inputs


def scalar_gate(size: Size) -> Tensor:
    """The logarithm of a decay for each head and step."""
    return decays(size.batch, HEADS, size.length).log()


def key_gate(size: Size) -> Tensor:
    """The logarithm of a decay for each key and step."""
    return decays(size.batch, HEADS, size.length, size.width // HEADS).log()


def bonus(size: Size) -> Tensor:
    return torch.randn(HEADS, size.width // HEADS)


def channel(size: Size) -> Tensor:
    return torch.rand(size.width)


def empty_state(k: Tensor, v: Tensor) -> Tensor:
    return k.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1])


def rwkv_inputs(size: Size) -> tuple[Tensor, ...]:
    return *sequences(2)(size), channel(size), channel(size)


@published("RWKV-4, WKV", f"{RWKV_4}; BlinkDL/ChatRWKV, RWKV_in_150_lines.py", rwkv_inputs, recurrences=2)
def rwkv_4(k, v, time_decay, time_first):
    num, den, outputs = torch.zeros_like(k[:, 0]), torch.zeros_like(k[:, 0]), []
    w = torch.exp(-torch.exp(time_decay))
    for t in range(k.shape[1]):
        now = torch.exp(time_first + k[:, t])
        outputs.append((num + now * v[:, t]) / (den + now))
        num = w * num + torch.exp(k[:, t]) * v[:, t]
        den = w * den + torch.exp(k[:, t])
    return torch.stack(outputs, 1)


@published(
    "RWKV-4, WKV with a running maximum",
    f"{RWKV_4}; BlinkDL/RWKV-LM, RWKV-v4/src/model_run.py",
    rwkv_inputs,
    recurrences=0,
    cause="maximum",
)
def rwkv_4_stable(k, v, time_decay, time_first):
    """The maximum of the exponents is itself a state."""
    aa, bb, pp = torch.zeros_like(k[:, 0]), torch.zeros_like(k[:, 0]), torch.full_like(k[:, 0], -1e30)
    w, outputs = -torch.exp(time_decay), []
    for t in range(k.shape[1]):
        kk, vv = k[:, t], v[:, t]
        p = torch.maximum(pp, time_first + kk)
        e1, e2 = torch.exp(pp - p), torch.exp(time_first + kk - p)
        outputs.append((e1 * aa + e2 * vv) / (e1 * bb + e2))
        p = torch.maximum(pp + w, kk)
        e1, e2 = torch.exp(pp + w - p), torch.exp(kk - p)
        aa, bb, pp = e1 * aa + e2 * vv, e1 * bb + e2, p
    return torch.stack(outputs, 1)


@published("RWKV-5", f"{RWKV_6}; BlinkDL/ChatRWKV, RWKV_v5_demo.py", heads(bonus, bonus))
def rwkv_5(r, k, v, time_decay, time_first):
    state, out = empty_state(k, v), []
    w, u = torch.exp(-torch.exp(time_decay))[:, :, None], time_first[:, :, None]
    for t in range(k.shape[2]):
        kv = k[:, :, t, :, None] @ v[:, :, t, None, :]
        out.append((r[:, :, t, None, :] @ (u * kv + state)).squeeze(2))
        state = kv + w * state
    return torch.stack(out, 2)


@published("RWKV-6", f"{RWKV_6}; {FLA}, ops/rwkv6/recurrent_naive.py", heads(key_gate, bonus))
def rwkv_6(q, k, v, w, u):
    state, o = empty_state(k, v), torch.zeros_like(v)
    for i in range(q.shape[2]):
        kv_i = k[:, :, i, :, None] * v[:, :, i, None, :]
        o_i = (state + u[None, ..., None] * kv_i) * q[:, :, i, :, None]
        o[:, :, i] = o_i.sum(-2)
        state = state * w[:, :, i].exp()[..., None] + kv_i
    return o


@published("RetNet, recurrent", "Sun et al., arXiv:2307.08621; microsoft/torchscale, multiscale_retention.py", heads())
def retention(q, k, v):
    decay = (1 - 2.0 ** (-5 - torch.arange(HEADS, device=q.device, dtype=q.dtype))).view(1, HEADS, 1, 1)
    state, outputs = empty_state(k, v), []
    for t in range(q.shape[2]):
        kv = k[:, :, t].unsqueeze(-1) * v[:, :, t].unsqueeze(-2)
        state = decay * state + kv
        outputs.append(torch.sum(q[:, :, t].unsqueeze(-1) * state, dim=2))
    return torch.stack(outputs, dim=2)


@published("GLA", f"Yang et al., arXiv:2312.06635; {FLA}, ops/gla/naive.py", heads(key_gate))
def gla(q, k, v, gk):
    o, h = torch.zeros_like(v), empty_state(k, v)
    for i in range(q.shape[2]):
        kv_i = k[:, :, i][..., None] * v[:, :, i][..., None, :]
        h = h * gk[:, :, i].exp()[..., None] + kv_i
        o[:, :, i] = ((q[:, :, i] * q.shape[-1] ** -0.5)[..., None] * h).sum(-2)
    return o


@published("Simple GLA", f"Yang et al., arXiv:2312.06635; {FLA}, ops/simple_gla/naive.py", heads(scalar_gate))
def simple_gla(q, k, v, g):
    o, S = torch.zeros_like(v), empty_state(k, v)
    for i in range(q.shape[2]):
        kv = k[:, :, i].unsqueeze(-1) * v[:, :, i].unsqueeze(-2)
        S = S.clone() * g[:, :, i].exp().unsqueeze(-1).unsqueeze(-1) + kv
        o[:, :, i] = ((q[:, :, i] * q.shape[-1] ** -0.5).unsqueeze(-1) * S).sum(-2)
    return o


@published("Lightning attention, recurrent", "Qin et al., arXiv:2401.04658; OpenNLPLab/lightning-attention", heads())
def lightning(q, k, v):
    slope = torch.exp(-torch.arange(1.0, HEADS + 1, device=q.device, dtype=q.dtype) / 4).view(HEADS, 1, 1)
    kv, output = empty_state(k, v), []
    for i in range(q.shape[2]):
        kv = torch.exp(-slope) * kv + torch.einsum("...nd,...ne->...de", k[:, :, i : i + 1], v[:, :, i : i + 1])
        output.append(torch.einsum("...ne,...ed->...nd", q[:, :, i : i + 1], kv))
    return torch.cat(output, dim=-2)


KATHAROPOULOS = "Katharopoulos et al., arXiv:2006.16236; idiap/fast-transformers"


@published("Linear attention, recurrent", f"{KATHAROPOULOS}, recurrent/attention", heads(), recurrences=2)
def linear_attention(q, k, v):
    Si, Zi, outputs = empty_state(k, v), torch.zeros_like(k[:, :, 0]), []
    for t in range(q.shape[2]):
        Q, K = F.elu(q[:, :, t]) + 1, F.elu(k[:, :, t]) + 1
        Zi = Zi + K
        Si = Si + torch.einsum("nhd,nhm->nhdm", K, v[:, :, t])
        Z = 1.0 / (torch.einsum("nhd,nhd->nh", Q, Zi) + 1e-6)
        outputs.append(torch.einsum("nhd,nhdm,nh->nhm", Q, Si, Z))
    return torch.stack(outputs, 2)


@published("Linear attention, cumsum", KATHAROPOULOS, heads(), recurrences=0)
def linear_attention_sums(q, k, v):
    """No loop: torch.cumsum computes the sums in one call."""
    Q, K = F.elu(q) + 1, F.elu(k) + 1
    kv = torch.einsum("bhld,bhlm->bhldm", K, v).cumsum(2)
    Z = 1.0 / (torch.einsum("bhld,bhld->bhl", Q, K.cumsum(2)) + 1e-6)
    return torch.einsum("bhld,bhldm,bhl->bhlm", Q, kv, Z)


@published("HGRN2", f"Qin et al., arXiv:2404.07904; {FLA}, layers/hgrn2.py", heads(key_gate))
def hgrn_2(q, _, v, g):
    """The key is what the gate does not keep."""
    state, o = empty_state(q, v), []
    for t in range(q.shape[2]):
        f = torch.exp(g[:, :, t])
        state = torch.einsum("bhk,bhkv->bhkv", f, state) + torch.einsum("bhk,bhv->bhkv", 1 - f, v[:, :, t])
        o.append(torch.einsum("bhk,bhkv->bhv", F.silu(q[:, :, t]), state))
    return torch.stack(o, dim=2)


@published("mLSTM, sigmoid gates", f"{XLSTM}, without the maximum", heads(scalar_gate, scalar_gate), recurrences=2)
def mlstm(q, k, v, log_f, log_i):
    c, n, outputs = empty_state(k, v), torch.zeros_like(k[:, :, :1]).mT, []
    for t in range(q.shape[2]):
        f, i = torch.exp(log_f[:, :, t])[..., None, None], torch.exp(log_i[:, :, t])[..., None, None]
        key = k[:, :, t, :, None] * k.shape[-1] ** -0.5
        c = f * c + i * (key @ v[:, :, t, None, :])
        n = f * n + i * key
        query = q[:, :, t, None, :]
        outputs.append((query @ c / torch.clamp((query @ n).abs(), min=1.0)).squeeze(2))
    return torch.stack(outputs, 2)


@published("mLSTM, stabilised", XLSTM, heads(scalar_gate, scalar_gate), recurrences=0, cause="maximum")
def mlstm_stabilised(q, k, v, log_f, i_gate):
    """The maximum of the gates' exponents is itself a state."""
    c, n, outputs = empty_state(k, v), torch.zeros_like(k[:, :, :1]).mT, []
    m = torch.zeros_like(log_f[:, :, 0])
    for t in range(q.shape[2]):
        m_new = torch.maximum(log_f[:, :, t] + m, i_gate[:, :, t])
        f = torch.exp(log_f[:, :, t] + m - m_new)[..., None, None]
        i = torch.exp(i_gate[:, :, t] - m_new)[..., None, None]
        key = k[:, :, t, :, None] * k.shape[-1] ** -0.5
        c = f * c + i * (key @ v[:, :, t, None, :])
        n = f * n + i * key
        m, query = m_new, q[:, :, t, None, :]
        outputs.append((query @ c / torch.maximum((query @ n).abs(), torch.exp(-m)[..., None, None])).squeeze(2))
    return torch.stack(outputs, 2)


@published(
    "DeltaNet",
    f"Yang et al., arXiv:2406.06484; {FLA}, ops/delta_rule/naive.py",
    heads(scalar_gate),
    recurrences=0,
    cause="sum|product|matri",
)
def delta_rule(q, k, v, g):
    """What a step adds is a product with the state: a matrix, not a factor for each element."""
    o, S, k, beta = torch.zeros_like(v), empty_state(k, v), F.normalize(k, dim=-1), torch.exp(g)
    for i in range(q.shape[2]):
        k_i = k[:, :, i]
        v_i = (v[:, :, i] - (S.clone() * k_i[..., None]).sum(-2)) * beta[:, :, i, None]
        S = S.clone() + k_i.unsqueeze(-1) * v_i.unsqueeze(-2)
        o[:, :, i] = torch.einsum("bhd,bhdm->bhm", q[:, :, i], S)
    return o


@published(
    "Gated DeltaNet",
    f"Yang et al., arXiv:2412.06464; {FLA}, ops/gated_delta_rule/naive.py",
    heads(scalar_gate, scalar_gate),
    recurrences=0,
    cause="sum|product|matri",
)
def gated_delta_rule(q, k, v, g, log_beta):
    o, h, k, beta = torch.zeros_like(v), empty_state(k, v), F.normalize(k, dim=-1), torch.exp(log_beta)
    for i in range(q.shape[2]):
        h = h.clone() * g[:, :, i].exp()[..., None, None]
        k_i = k[:, :, i]
        v_i = (v[:, :, i] - (h.clone() * k_i[..., None]).sum(-2)) * beta[:, :, i, None]
        h = h.clone() + k_i.unsqueeze(-1) * v_i.unsqueeze(-2)
        o[:, :, i] = torch.einsum("bhd,bhdm->bhm", q[:, :, i], h)
    return o
