"""Scans as people write them around a linear recurrence, each raised to one op, and what is left alone."""

from __future__ import annotations

import pytest
import torch
from mvc.kernels import recurrence  # noqa: F401  registers mvc::linear_recurrence
from mvc.passes.fx_utils import op_counts
from mvc.passes.pipeline import remove_dead_code
from mvc.passes.raise_scan import RaiseScan
from scan_cases import Case, assert_scan_within_budget, make_inputs, run
from torch import Tensor
from torch.nn import functional as F

LENGTH = 5
VIEWS = {"permute", "unsqueeze", "squeeze", "expand", "flatten", "unflatten", "getitem", "transpose", "mT"}
CASTS = {"to", "float"}


def states_of(a: Tensor, b: Tensor, dim: int, initial: Tensor | None = None, reverse: bool = False) -> Tensor:
    return torch.ops.mvc.linear_recurrence.default(a, b, initial, dim, reverse)


class Compiled:
    """The function compiled through the pass alone, with what the pass did."""

    def __init__(self, function, **options) -> None:
        self.outcome = self.graph = None
        self.call = torch.compile(function, backend=self._backend, fullgraph=True, **options)

    def _backend(self, module, inputs):
        self.outcome = RaiseScan()(module.graph)
        remove_dead_code(module.graph)
        module.graph.lint()
        module.recompile()
        self.graph = module.graph
        return module.forward

    def __call__(self, *args, **kwargs):
        torch.compiler.reset()
        return self.call(*args, **kwargs)

    @property
    def counts(self):
        return op_counts(self.graph)

    def assert_raised(self, scans: int = 1) -> None:
        assert not self.outcome.near_misses
        assert self.outcome.matches == scans
        assert self.counts["mvc.selective_scan"] == scans
        assert self.counts["mvc.linear_recurrence"] == 0

    def assert_no_states_remain(self) -> None:
        """Nothing is as large as the states of all steps."""
        (scan,) = self.graph.find_nodes(op="call_function", target=torch.ops.mvc.selective_scan.default)
        u, _, A = (node.meta["example_value"] for node in scan.args[:3])
        tensors = [node.meta.get("example_value") for node in self.graph.nodes if node.op != "placeholder"]
        assert all(t.numel() < u.numel() * A.shape[1] for t in tensors if isinstance(t, Tensor))

    def assert_scan_and_views_alone(self) -> None:
        self.assert_raised()
        assert set(self.counts) <= {"mvc.selective_scan", *VIEWS, *CASTS}


def wide(tensor: Tensor) -> Tensor:
    """float32, as these programs have it; float64 for the oracle's inputs."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def per_channel(weights: Tensor, dim: int) -> Tensor:
    """(batch, groups, N, length) -> (batch, dim, N, length), as einops' repeat "b g n l -> b (g h) n l" does it."""
    batch, groups, states, length = weights.shape
    repeated = weights.unsqueeze(2).expand(-1, -1, dim // groups, -1, -1)
    return repeated.reshape(batch, dim, states, length)


def mamba_ssm(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, initial_state=None, delta_softplus=False, reverse=False
):
    """mamba-ssm's `selective_scan_ref`, in (batch, dim, length)."""
    u, delta, z = (None if t is None else t.transpose(1, 2) for t in (u, delta, z))
    variable_B, variable_C = B.dim() > 2, C.dim() > 2
    B, C = (t.permute(0, 2, 3, 1) if t.dim() > 2 else t for t in (B, C))
    dtype = u.dtype
    u, delta, B, C = wide(u), wide(delta), wide(B), wide(C)
    if delta_bias is not None:
        delta = delta + wide(delta_bias[..., None])
    if delta_softplus:
        delta = F.softplus(delta)
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    if not variable_B:
        drive = torch.einsum("bdl,dn,bdl->bdln", delta, B, u)
    elif B.shape[1] == 1:
        drive = torch.einsum("bdl,bnl,bdl->bdln", delta, B[:, 0], u)
    else:
        drive = torch.einsum("bdl,bdnl,bdl->bdln", delta, per_channel(B, u.shape[1]), u)
    states = states_of(decay, drive, 2, initial_state, reverse)
    if not variable_C:
        y = torch.einsum("bdln,dn->bdl", states, C)
    elif C.shape[1] == 1:
        y = torch.einsum("bdln,bnl->bdl", states, C[:, 0])
    else:
        y = torch.einsum("bdln,bdnl->bdl", states, per_channel(C, u.shape[1]))
    y = y if D is None else y + u * D.unsqueeze(1)
    y = y if z is None else y * F.silu(z)
    return y.to(dtype), states[:, :, 0 if reverse else -1]


def transformers(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, initial_state=None, delta_softplus=False, reverse=False
):
    """`mamba_selective_scan` of transformers 5 (Mamba, FalconMamba, Jamba): the path of `associative_scan`."""
    hidden_states, dt, gate = (None if t is None else t.transpose(1, 2) for t in (u, delta, z))
    B, C = B.squeeze(2), C.squeeze(2)
    if delta_bias is not None:
        dt = dt + delta_bias.to(dt.dtype)[..., None]
    if delta_softplus:
        dt = F.softplus(dt)
    discrete_A = torch.exp(A[None, :, None, :] * dt[:, :, :, None])
    discrete_B = dt[:, :, :, None] * wide(B[:, None, :, :])
    deltaB_u = discrete_B * wide(hidden_states[:, :, :, None])
    all_states = states_of(discrete_A, deltaB_u, 2, initial_state, reverse)
    scan_output = torch.matmul(all_states.transpose(1, 2).to(u.dtype), C.unsqueeze(-1))
    scan_output = scan_output.squeeze(-1).transpose(1, 2)
    if D is not None:
        scan_output = scan_output + hidden_states * wide(D)[None, :, None]
    if gate is not None:
        scan_output = scan_output * F.silu(gate)
    return scan_output.transpose(1, 2).to(u.dtype), all_states[:, :, 0 if reverse else -1]


def mamba_py(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, initial_state=None, delta_softplus=False, reverse=False
):
    """mamba.py's `selective_scan`, in (batch, length, dim); its gate is applied by the block."""
    x, B, C = u, B.squeeze(2), C.squeeze(2)
    if delta_bias is not None:
        delta = delta + delta_bias
    if delta_softplus:
        delta = F.softplus(delta)
    deltaA = torch.exp(delta.unsqueeze(-1) * A)
    deltaB = delta.unsqueeze(-1) * B.unsqueeze(2)
    BX = deltaB * (x.unsqueeze(-1))
    hs = states_of(deltaA, BX, 1, initial_state, reverse)
    y = (hs.to(C.dtype) @ C.unsqueeze(-1)).squeeze(3)
    if D is not None:
        y = y + D * x
    if z is not None:
        y = y * F.silu(z)
    return y.to(u.dtype), hs[:, 0 if reverse else -1]


FORMS = (mamba_ssm, transformers, mamba_py)
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
OPTIONS = ("D", "z", "delta_bias", "softplus", "initial_state")


def case_of(*options: str, **sizes: int) -> Case:
    return Case(**{"length": LENGTH, "states": 4, "options": options, **sizes})


def assert_computes_the_same(form, case: Case, dtype: torch.dtype = torch.float32) -> Compiled:
    inputs = make_inputs(case, dtype)
    inputs.pop("reset", None)
    compiled = Compiled(form)
    assert_scan_within_budget(inputs, compiled, oracle_scan=form)
    run(compiled, inputs)  # for what the pass does in `dtype`, after the baseline's
    return compiled


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_whole_scan(form, dtype):
    assert_computes_the_same(form, case_of(*OPTIONS), dtype).assert_scan_and_views_alone()


@pytest.mark.parametrize("options", [(), *((option,) for option in OPTIONS), ("reverse",), ("D", "z")], ids="+".join)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_parts_of_it(form, options):
    compiled = assert_computes_the_same(form, case_of(*options))
    compiled.assert_raised()
    compiled.assert_no_states_remain()
    assert not {"exp", "einsum", "matmul", "silu", "softplus"} & set(compiled.counts)


@pytest.mark.parametrize("options", [("constant_B",), ("constant_C",), ("constant_B", "constant_C")], ids="+".join)
def test_constant_weights(options):
    compiled = assert_computes_the_same(mamba_ssm, case_of(*OPTIONS, *options))
    compiled.assert_raised()
    assert set(compiled.counts) <= {"mvc.selective_scan", "contiguous", *VIEWS}


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_grouped_weights_stay_grouped(groups):
    compiled = assert_computes_the_same(mamba_ssm, case_of(*OPTIONS, groups=groups))
    compiled.assert_raised()
    assert not {"reshape", "einsum"} & set(compiled.counts)
    (scan,) = compiled.graph.find_nodes(op="call_function", target=torch.ops.mvc.selective_scan.default)
    assert [node.meta["example_value"].shape[2] for node in scan.args[3:5]] == [groups, groups]


def read_out(states: Tensor, C: Tensor) -> Tensor:
    return (states @ C.unsqueeze(-1)).squeeze(-1)


def decay_of(delta: Tensor, A: Tensor) -> Tensor:
    return torch.exp(delta.unsqueeze(-1) * A)


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


def with_state(form):
    """The form with what `run` of scan_cases passes and expects."""

    def scan(u, delta, A, B, C, delta_softplus, reverse):
        return form(u, delta, A, B, C), u.sum()

    return scan


@pytest.mark.parametrize("form", SPELLINGS, ids=lambda form: form.__name__)
def test_spellings(form):
    compiled = assert_computes_the_same(with_state(form), case_of(dim=12))
    compiled.assert_raised()
    compiled.assert_no_states_remain()


def plain_states(u, delta, A, B):
    return states_of(decay_of(delta, A), (delta * u)[..., None] * B, 1)


def states_and_read_out(u, delta, A, B, C):
    states = plain_states(u, delta, A, B)
    return states, read_out(states, C.squeeze(2))


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
    assert "test_raise_scan.py" in miss.source


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_unknown_batch_and_length(form):
    compiled = Compiled(form)
    for batch in (3, 5):
        inputs = make_inputs(case_of(*OPTIONS, batch=batch, length=batch + 1))
        inputs.pop("reset", None)
        for name in ("u", "delta", "B", "C", "z"):
            torch._dynamo.mark_dynamic(inputs[name], [0, 1])
        torch._dynamo.mark_dynamic(inputs["initial_state"], 0)
        for actual, expected in zip(compiled.call(**inputs), form(**inputs), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    compiled.assert_raised()


def test_layers_are_raised_one_by_one():
    def two_layers(u, delta, A, B, C):
        for _ in range(2):
            _, u = states_and_read_out(u, delta, A, B, C)
        return u

    inputs = make_inputs(case_of())
    tensors = [inputs[name] for name in ("u", "delta", "A", "B", "C")]
    compiled = Compiled(two_layers)
    torch.testing.assert_close(compiled(*tensors), two_layers(*tensors), rtol=1e-4, atol=1e-5)
    compiled.assert_raised(scans=2)


@pytest.mark.parametrize("sizes", [{"batch": 1}, {"length": 1}, {"states": 1}], ids=str)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_axes_of_size_one(form, sizes):
    assert_computes_the_same(form, case_of(*OPTIONS, **sizes)).assert_raised()


def float32_result(u, delta, A, B, C):
    """Half-precision inputs, and a y that nothing rounds."""
    u, delta, B, C = wide(u), wide(delta), wide(B), wide(C)
    return read_out(plain_states(u, delta, A, B), C.squeeze(2))


def test_result_is_not_rounded_to_the_inputs_dtype():
    assert_computes_the_same(with_state(float32_result), case_of(), torch.bfloat16).assert_raised()


@pytest.mark.parametrize("where", ["inside", "around"])
def test_autocast_rounds_nothing_in_the_scan(where):
    def form(u, delta, A, B, C):
        with torch.autocast("cpu", torch.bfloat16, enabled=where == "inside" or torch.is_autocast_enabled("cpu")):
            return mamba_py(u, delta, A, B, C)

    inputs = make_inputs(case_of())
    tensors = [inputs[name] for name in ("u", "delta", "A", "B", "C")]
    compiled = Compiled(form)
    with torch.autocast("cpu", torch.bfloat16, enabled=where == "around"):
        y, last_state = compiled(*tensors)
        rounded, _ = form(*tensors)
    compiled.assert_raised()
    exact, exact_state = mamba_py(*tensors)
    assert y.dtype == rounded.dtype
    torch.testing.assert_close(last_state, exact_state, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(y, exact, rtol=2**-8, atol=1e-6)  # the matrix product rounds y to bfloat16


def test_state_kept_in_a_cache_before_the_gate():
    """The cache is the initial state, and takes the last one."""

    def form(u, delta, A, B, C, z, cache):
        states = states_of(decay_of(delta, A), (delta * u)[..., None] * B, 1, cache)
        y, last_state = read_out(states, C.squeeze(2)), states[:, -1]
        with torch.no_grad():
            cache.copy_(last_state)
        return y * F.silu(z + cache.sum())

    inputs = make_inputs(case_of("z", "initial_state"))
    *tensors, cache = [inputs[name] for name in ("u", "delta", "A", "B", "C", "z", "initial_state")]
    kept = cache.clone()
    compiled = Compiled(form)
    torch.testing.assert_close(compiled(*tensors, cache), form(*tensors, kept))
    torch.testing.assert_close(cache, kept)
    compiled.assert_raised()
    assert compiled.counts["silu"] == 1
