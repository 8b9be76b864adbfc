"""Which loops of few steps are raised, and which are left to Inductor: the rule's edges, on tensors without memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from toy_passes import capture

from mvc.passes import pipeline
from mvc.passes.graph.fx_utils import op_counts
from mvc.passes.raising import profitability
from mvc.passes.raising.profitability import ALWAYS_ABOVE
from mvc.passes.raising.raise_loop import RaiseLoop

SMALL, LARGE = (1, 4, 64), (16, 256, 196)


def one_by_one(h: Tensor, a: Tensor, b: Tensor) -> Tensor:
    states = []
    for t in range(a.shape[0]):
        h = a[t] * h + b[t]
        states.append(h)
    return torch.stack(states)


def unbound(h: Tensor, a: Tensor, b: Tensor) -> Tensor:
    states = []
    for a_t, b_t in zip(a.unbind(), b.unbind(), strict=True):
        h = a_t * h + b_t
        states.append(h)
    return torch.stack(states)


def behind_the_batch(h: Tensor, a: Tensor, b: Tensor) -> Tensor:
    states = []
    for t in range(a.shape[1]):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    return torch.stack(states, 1)


def gated(h: Tensor, a: Tensor, b: Tensor) -> Tensor:
    states = []
    for t in range(a.shape[0]):
        keep = a[t].sigmoid()
        h = keep * h + (1 - keep) * b[t].tanh()
        states.append(h)
    return torch.stack(states)


def read_out(h: Tensor, a: Tensor, b: Tensor) -> Tensor:
    outputs = []
    for t in range(a.shape[0]):
        h = a[t] * h + b[t]
        outputs.append(h.sum(-1))
    return torch.stack(outputs)


def mamba(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    drive = torch.einsum("bdl,bnl,bdl->bdln", delta, B, u)
    h, outputs = u.new_zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[2]):
        h = decay[:, :, t] * h + drive[:, :, t]
        outputs.append(torch.einsum("bdn,bn->bd", h, C[:, :, t]))
    return torch.stack(outputs, dim=2)


def sequences(shape: tuple[int, ...], dim: int = 0) -> Callable[[int], list[tuple[int, ...]]]:
    return lambda n: [shape, *[(*shape[:dim], n, *shape[dim:])] * 2]


def gains(n: int) -> list[tuple[int, ...]]:
    return [LARGE, (n,), (n,)]


def mamba_shapes(channels: int, batch: int = 16, states: int = 16) -> Callable[[int], list[tuple[int, ...]]]:
    sequence, weights = (batch, channels), (batch, states)
    return lambda n: [(*sequence, n), (*sequence, n), (channels, states), (*weights, n), (*weights, n)]


# The loop, its shapes, whether gradients are asked for, steps at which it is left alone, and at which it is raised.
EDGES = {
    "one-pass": (one_by_one, sequences(LARGE), False, (2, 16), (64,)),
    "few-elements": (one_by_one, sequences(SMALL), True, (2, 64), (65,)),
    "gradients-of-slices": (one_by_one, sequences(LARGE), True, (2, 6), (16, 64)),
    "gradients-of-unbound": (unbound, sequences(LARGE), True, (8, 64), (65,)),
    "gradients-in-the-cache": (behind_the_batch, sequences(LARGE, 1), True, (8,), (16,)),
    "scalar-factors": (one_by_one, gains, True, (3, 64), (65,)),
    "computed-terms": (gated, sequences(LARGE), False, (2, 64), (65,)),
    "sums-in-the-step": (read_out, sequences(LARGE), False, (2, 64), (65,)),
    "selective-scan": (mamba, mamba_shapes(256), False, (2,), (4, 64)),
    "gradients-of-a-selective-scan": (mamba, mamba_shapes(256), True, (), (2, 4)),
    "last-stage-of-MambaVision-T": (mamba, mamba_shapes(320, batch=1, states=8), False, (2,), (49,)),
    "small-selective-scan": (mamba, mamba_shapes(1), True, (2, 6), (65,)),
}


def raised(loop: Callable, shapes: list[tuple[int, ...]], *, gradients: bool = False, **options):
    """What the pass did to the loop, and the graph behind it."""
    with torch.set_grad_enabled(gradients):
        module, _ = capture(loop, *(torch.empty(shape, device="meta").requires_grad_(gradients) for shape in shapes))
        before = str(module.graph)
        (record,) = pipeline.run([RaiseLoop(**options)], module, strict=True)
    assert (str(module.graph) == before) == (record.matches == 0)
    return record, op_counts(module.graph)


@pytest.mark.parametrize("name", EDGES)
def test_edge(name):
    loop, shapes, gradients, left, worthwhile = EDGES[name]
    for steps in left:
        record, _ = raised(loop, shapes(steps), gradients=gradients)
        assert record.matches == 0, steps
        (miss,) = record.near_misses
        assert f"{steps} steps over" in miss.reason
        assert "Inductor computes in one pass" in miss.reason
        assert "test_profitability.py" in miss.source
    for steps in worthwhile:
        record, calls = raised(loop, shapes(steps), gradients=gradients)
        assert (record.matches, calls["mvc.linear_recurrence"]) == (1, 1), (steps, record.near_misses)


def test_always_raises_the_smallest_loop():
    record, calls = raised(one_by_one, sequences(SMALL)(2), always=True)
    assert (record.matches, calls["mvc.linear_recurrence"]) == (1, 1)


@pytest.mark.parametrize("gradients", [False, True], ids=["forward", "gradients"])
def test_single_steps_that_others_use_are_weighed(gradients):
    def loop(h, a, b):
        outputs, states = [], []
        for t in range(a.shape[0]):
            h = a[t] * h + b[t]
            outputs.append(h.sum(-1))
            states.append(h)
        return torch.stack(outputs), states[1], states[3], states[-1]

    record, _ = raised(loop, sequences(LARGE)(8), gradients=gradients)
    (miss,) = record.near_misses
    assert "Inductor computes in one pass" in miss.reason
    assert raised(loop, sequences(LARGE)(ALWAYS_ABOVE + 1), gradients=gradients)[0].matches == 1


def test_what_is_no_recurrence_keeps_its_own_reason():
    def loop(h, a, b):
        states = []
        for t in range(a.shape[0]):
            h = torch.tanh(a[t] * h + b[t])
            states.append(h)
        return torch.stack(states)

    record, _ = raised(loop, sequences(SMALL)(4))
    assert "calls tanh on the state" in record.near_misses[0].reason


def test_long_loops_are_not_estimated(monkeypatch):
    """Their compile time decides, whatever they move."""
    monkeypatch.setattr(profitability, "estimate", lambda *args: pytest.fail("estimated"))
    record, _ = raised(one_by_one, sequences(SMALL)(ALWAYS_ABOVE + 1))
    assert record.matches == 1


def test_no_guard_is_added_for_an_unknown_size():
    """The estimate takes the example's sizes; one graph still serves all."""
    graphs = []

    def backend(module, inputs):
        (record,) = pipeline.run([RaiseLoop()], module, strict=True)
        graphs.append(record)
        return module.forward

    torch.compiler.reset()
    run = torch.compile(one_by_one, backend=backend, dynamic=True, fullgraph=True)
    for batch in (3, 5):
        run(*(torch.rand(shape) for shape in sequences((batch, 4, 64))(4)))
    assert [(record.matches, len(record.near_misses)) for record in graphs] == [(0, 1)]
