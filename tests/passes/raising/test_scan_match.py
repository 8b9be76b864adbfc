"""What is found to be a selective scan, and what is not, by the spelling of its products and by what surrounds it."""

from __future__ import annotations

import pytest
import torch
from scan_cases import make_inputs
from scan_forms import (
    Compiled,
    assert_computes_the_same,
    case_of,
    decay_of,
    plain_states,
    read_out,
    states_and_read_out,
    states_of,
    with_state,
)
from torch.nn import functional as F


def log_A(u, delta, A, B, C):
    A_log = (-A).log()
    return read_out(states_of(torch.exp(-(delta[..., None] * A_log.exp())), (delta * u)[..., None] * B, 1), C[:, :, 0])


def matrix_products(u, delta, A, B, C):
    """Outer products as matrix products, the states on the right."""
    drive = (delta * u).unsqueeze(-1) @ B
    states = states_of(decay_of(delta, A), drive, 1).transpose(2, 3)
    return torch.matmul(C, states)[:, :, 0]


def product_and_sum(u, delta, A, B, C):
    return (states_of(decay_of(delta, A), u[..., None] * (B * delta[..., None]), 1) * C).sum(-1)


def product_by_einsum_and_sum(u, delta, A, B, C):
    drive = torch.einsum("bld,bldn->bldn", u, delta[..., None] * B)
    states = states_of(decay_of(delta, A), drive, 1)
    return torch.sum(torch.einsum("bldn,bln->bldn", states, C.squeeze(2)), dim=3, keepdim=True).squeeze(3)


def time_first(u, delta, A, B, C):
    u, delta, B, C = (t.movedim(1, 0) for t in (u, delta, B, C))
    states = states_of(decay_of(delta, A), u[..., None] * B * delta[..., None], 0)
    return read_out(states, C.squeeze(2)).movedim(0, 1)


def states_before_channels(u, delta, A, B, C):
    """(batch, length, N, dim), as a scan that vectorises over channels has it."""
    decay = (delta[:, :, None] * A.mT).exp()
    drive = (delta * u)[:, :, None] * B.mT.squeeze(2).unsqueeze(-1).view(*B.shape[:2], -1, 1)
    return (states_of(decay, drive, 1) * C.transpose(2, 3)).sum(2)


def scaled(u, delta, A, B, C):
    """Numbers and further factors belong to u, B and C."""
    mask = torch.ones_like(u[:, :, :1])
    drive = 2 * (delta * (u * mask)).unsqueeze(-1) * (B * B.sigmoid())
    return (0.5 * states_of(decay_of(delta, 3 * A), drive, 1) * C).sum(-1)


def heads(u, delta, A, B, C):
    """Mamba-2's axes: a decay for each head, channels of a head, groups of heads."""
    batch, length, dim = u.shape
    x, dt = u.view(batch, length, 3, dim // 3), delta[:, :, :3]
    decay = torch.exp(dt * A[:3, 0])
    drive = torch.einsum("blh,bln,blhp->blhpn", dt, B[:, :, 0], x)
    states = states_of(decay[..., None, None], drive, 1)
    return torch.einsum("bln,blhpn->blhp", C[:, :, 0], states)


def two_batch_axes(u, delta, A, B, C):
    u, delta, B, C = (t.unflatten(0, (2, 1)).expand(2, 3, *t.shape[1:]) for t in (u, delta, B, C))
    states = states_of(decay_of(delta, A), (delta * u)[..., None] * B, 2)
    return read_out(states, C.squeeze(3))


def no_batch_axis(u, delta, A, B, C):
    u, delta, B, C = (t[0] for t in (u, delta, B, C))
    return read_out(states_of(decay_of(delta, A), (delta * u)[..., None] * B, 0), C.squeeze(1))


def repeat_interleaved_groups(u, delta, A, B, C):
    B, C = (torch.cat([t, t + 1], 2).repeat_interleave(u.shape[2] // 2, dim=2) for t in (B, C))
    return (states_of(decay_of(delta, A), delta[..., None] * B * u[..., None], 1) * C).sum(-1)


def unlike_groups(u, delta, A, B, C):
    B = torch.cat([B, B + 1], 2).repeat_interleave(u.shape[2] // 2, dim=2)
    C = torch.cat([C, C + 1, C - 1], 2).repeat_interleave(u.shape[2] // 3, dim=2)
    return (states_of(decay_of(delta, A), delta[..., None] * B * u[..., None], 1) * C).sum(-1)


def constant_in_batch(u, delta, A, B, C):
    return (states_of(decay_of(delta, A), delta[..., None] * B[0] * u[..., None], 1) * C[:, :1]).sum(-1)


SPELLINGS = (
    log_A,
    matrix_products,
    product_and_sum,
    product_by_einsum_and_sum,
    time_first,
    states_before_channels,
    scaled,
    heads,
    two_batch_axes,
    no_batch_axis,
    repeat_interleaved_groups,
    unlike_groups,
    constant_in_batch,
)


@pytest.mark.parametrize("form", SPELLINGS, ids=lambda form: form.__name__)
def test_spellings(form):
    compiled = assert_computes_the_same(with_state(form), case_of(dim=12))
    compiled.assert_raised()
    compiled.assert_no_states_remain()


def gate_by_sigmoid(u, delta, A, B, C, D, z):
    _, y = states_and_read_out(u, delta, A, B, C)
    return (D * u + y) * (z * torch.sigmoid(z))


def skip_by_addcmul(u, delta, A, B, C, D, z):
    _, y = states_and_read_out(u, delta, A, B, C)
    return F.silu(z) * torch.addcmul(y, u, D)


def in_place(u, delta, A, B, C, D, z):
    _, y = states_and_read_out(u, delta, A, B, C)
    y += u * D
    y *= F.silu(z)
    return y


def gate_in_another_layout(u, delta, A, B, C, D, z):
    _, y = states_and_read_out(u, delta, A, B, C)
    return y.mT[:, None] * torch.nn.functional.silu(z.mT.unsqueeze(1)) + 0 * D.sum()


EPILOGUES = (gate_by_sigmoid, skip_by_addcmul, in_place, gate_in_another_layout)


@pytest.mark.parametrize("form", EPILOGUES, ids=lambda form: form.__name__)
def test_epilogues(form):
    def scan(u, delta, A, B, C, D, z, delta_softplus, reverse):
        return form(u, delta, A, B, C, D, z), u.sum()

    compiled = assert_computes_the_same(scan, case_of("D", "z"))
    compiled.assert_raised()
    assert not {"silu", "sigmoid", "addcmul", "iadd", "imul"} & set(compiled.counts)


def skip_of_another_input(u, delta, A, B, C, D, z):
    """D multiplies something else than u: it stays outside, and so does the gate after it."""
    _, y = states_and_read_out(u, delta, A, B, C)
    return (y + D * z) * F.silu(z)


def read_twice(u, delta, A, B, C, D, z):
    _, y = states_and_read_out(u, delta, A, B, C)
    return (y + D * u) * F.silu(z) + y


def another_threshold(u, delta, A, B, C, D, z):
    _, y = states_and_read_out(u, F.softplus(delta, threshold=3), A, B, C)
    return y + D * z


def state_read_before_the_gate(u, delta, A, B, C, D, z):
    states, y = states_and_read_out(u, delta, A, B, C)
    kept = states[:, -1].sum(-1)
    return y * F.silu(z * kept[:, None]) + D


def scaled_state(u, delta, A, B, C, D, z):
    states, y = states_and_read_out(u, delta, A, B, C)
    return y * (2 * states[:, -1].sum(-1))[:, None] + D + z


def returned_layout(u, delta, A, B, C, D, z):
    """What follows views y as memory: it gets the layout that it had."""
    y = torch.einsum("bldn,bln->bdl", plain_states(u, delta, A, B), C[:, :, 0]).contiguous()
    return (y * 2).view(u.shape[0], -1) + D.sum() + z.sum()


PARTLY = (
    skip_of_another_input,
    read_twice,
    another_threshold,
    state_read_before_the_gate,
    scaled_state,
    returned_layout,
)


@pytest.mark.parametrize("form", PARTLY, ids=lambda form: form.__name__)
def test_raised_without_what_does_not_belong(form):
    def scan(u, delta, A, B, C, D, z, delta_softplus, reverse):
        return form(u, delta, A, B, C, D, z), u.sum()

    compiled = assert_computes_the_same(scan, case_of("D", "z"))
    compiled.assert_raised()
    (scan,) = compiled.graph.find_nodes(op="call_function", target=torch.ops.mvc.selective_scan.default)
    assert scan.args[5:8] == (None, None, None)
    assert scan.args[10] is False


def no_exponential(u, delta, A, B, C):
    return read_out(states_of(torch.sigmoid(delta[..., None] * A), (delta * u)[..., None] * B, 1), C[:, :, 0])


def gate_without_delta(u, delta, A, B, C):
    return read_out(states_of(decay_of(delta, A), u[..., None] * B, 1), C[:, :, 0])


def another_delta(u, delta, A, B, C):
    return read_out(states_of(decay_of(delta, A), ((delta + 1) * u)[..., None] * B, 1), C[:, :, 0])


def no_u(u, delta, A, B, C):
    return read_out(states_of(decay_of(delta, A), delta[..., None] * B, 1), C[:, :, 0])


def detached_delta(u, delta, A, B, C):
    return read_out(states_of(decay_of(delta.detach(), A), (delta * u)[..., None] * B, 1), C[:, :, 0])


def general_exponent(u, delta, A, B, C):
    return read_out(
        states_of(torch.exp(delta[..., None] * A - u[..., None]), (delta * u)[..., None] * B, 1), C[:, :, 0]
    )


def exponent_of_all_axes(u, delta, A, B, C):
    return read_out(states_of(torch.exp(delta[..., None] * A * B), (delta * u)[..., None] * B, 1), C[:, :, 0])


def states_returned(u, delta, A, B, C):
    return states_and_read_out(u, delta, A, B, C)


def no_read_out(u, delta, A, B, C):
    return plain_states(u, delta, A, B)[:, -1]


def read_by_tanh(u, delta, A, B, C):
    states, y = states_and_read_out(u, delta, A, B, C)
    return y + states.tanh().sum(-1)


def two_read_outs(u, delta, A, B, C):
    states, y = states_and_read_out(u, delta, A, B, C)
    return y + read_out(states, B[:, :, 0])


def sum_over_channels(u, delta, A, B, C):
    return torch.einsum("bldn,bln->bl", plain_states(u, delta, A, B), C[:, :, 0])


def state_in_the_middle(u, delta, A, B, C):
    states, y = states_and_read_out(u, delta, A, B, C)
    return y, states[:, 1]


def decay_changed_in_place(u, delta, A, B, C):
    decay = decay_of(delta, A)
    decay.mul_(0.5)
    return read_out(states_of(decay, (delta * u)[..., None] * B, 1), C[:, :, 0])


def input_changed_in_place(u, delta, A, B, C):
    u = u.clone()
    drive = (delta * u)[..., None] * B
    u.add_(1)
    return read_out(states_of(decay_of(delta, A), drive, 1), C[:, :, 0]) + u


def state_changed_in_place(u, delta, A, B, C):
    states = plain_states(u, delta, A, B)
    states[:, -1].mul_(2)
    return read_out(states, C[:, :, 0])


def decay_without_gradient(u, delta, A, B, C):
    with torch.no_grad():
        decay = decay_of(delta, A)
    return read_out(states_of(decay, (delta * u)[..., None] * B, 1), C[:, :, 0])


def multiple_of_the_last_state(u, delta, A, B, C):
    states, y = states_and_read_out(u, delta, A, B, C)
    return y, (2 * states)[:, -1]


def weights_of_the_states_size(u, delta, A, B, C):
    return (states_of(decay_of(delta, A), (delta * u)[..., None] * (B * A), 1) * C).sum(-1)


def too_many_states(u, delta, A, B, C):
    A, B, C = (t.repeat_interleave(100, dim=-1) for t in (A, B, C))
    return read_out(states_of(decay_of(delta, A), (delta * u)[..., None] * B, 1), C[:, :, 0])


NEAR_MISSES = {
    no_exponential: "the decay is no exponential",
    gate_without_delta: "no factor that is the decay's Δ",
    another_delta: "no factor that is the decay's Δ",
    detached_delta: "no factor that is the decay's Δ",
    no_u: "no factor u",
    general_exponent: "no product of a Δ along time and an A",
    exponent_of_all_axes: "no product of a Δ along time and an A",
    states_returned: "the states are returned",
    no_read_out: "no sum over a state axis",
    read_by_tanh: "the states are used by tanh",
    two_read_outs: "2 sums read the states",
    sum_over_channels: "the states are used by",
    state_in_the_middle: "the state of step 1 is read",
    decay_changed_in_place: "writes to",
    input_changed_in_place: "writes to",
    state_changed_in_place: "writes to",
    decay_without_gradient: "gradients are switched",
    multiple_of_the_last_state: "the states are used by",
    weights_of_the_states_size: "would have the states' size",
    too_many_states: "400 states",
}


@pytest.mark.parametrize(("form", "reason"), NEAR_MISSES.items(), ids=[form.__name__ for form in NEAR_MISSES])
def test_near_misses(form, reason):
    inputs = make_inputs(case_of())
    tensors = [inputs[name].requires_grad_() for name in ("u", "delta", "A", "B", "C")]
    compiled = Compiled(form)
    torch.testing.assert_close(compiled(*tensors), form(*tensors))
    assert compiled.outcome.matches == 0
    assert compiled.counts["mvc.selective_scan"] == 0
    assert compiled.counts["mvc.linear_recurrence"] == 1
    (miss,) = compiled.outcome.near_misses
    assert reason in miss.reason
    assert "scan_forms.py" in miss.source
