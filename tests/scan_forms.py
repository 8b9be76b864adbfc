"""Scans as people write them around a linear recurrence, and a compiler that runs the pass alone on them."""

from __future__ import annotations

import torch
from scan_cases import Case, assert_scan_within_budget, make_inputs, run
from torch import Tensor
from torch.nn import functional as F

from mvc.kernels.recurrence import api as recurrence  # noqa: F401  registers mvc::linear_recurrence
from mvc.passes.graph.fx_utils import op_counts
from mvc.passes.pipeline import remove_dead_code
from mvc.passes.raising.raise_scan import RaiseScan

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


def read_out(states: Tensor, C: Tensor) -> Tensor:
    return (states @ C.unsqueeze(-1)).squeeze(-1)


def decay_of(delta: Tensor, A: Tensor) -> Tensor:
    return torch.exp(delta.unsqueeze(-1) * A)


def plain_states(u, delta, A, B):
    return states_of(decay_of(delta, A), (delta * u)[..., None] * B, 1)


def states_and_read_out(u, delta, A, B, C):
    states = plain_states(u, delta, A, B)
    return states, read_out(states, C.squeeze(2))


def with_state(form):
    """The form with what `run` of scan_cases passes and expects."""

    def scan(u, delta, A, B, C, delta_softplus, reverse):
        return form(u, delta, A, B, C), u.sum()

    return scan
