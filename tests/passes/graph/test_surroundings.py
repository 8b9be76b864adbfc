"""What a program sees of what passes replace stays eager's: strides, memory, and the contexts in which it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from toy_passes import CheckExamples, capture

from mvc.passes import pipeline
from mvc.passes.fusing.fuse_batch_norm import FuseBatchNorm
from mvc.passes.graph.contexts import Contexts
from mvc.passes.graph.fx_utils import op_counts
from mvc.passes.raising.raise_higher_order import RaiseHigherOrder
from mvc.passes.raising.raise_loop import RaiseLoop
from mvc.passes.raising.raise_scan import RaiseScan
from mvc.passes.verify import Verifier

B, T, D = 3, 5, 2


def inputs(*, requires_grad: bool = False) -> list[Tensor]:
    """a and b, (batch, time, dim)."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(B, T, D, generator=generator, dtype=torch.float64).requires_grad_(requires_grad) for _ in "ab"]


def run(function: Callable, *given: Tensor, passes: tuple = (RaiseLoop(always=True),)):
    """The record of the first pass, and the calls left in the graph, which does all that the function does."""
    module, examples = capture(function, *given)
    records = pipeline.run(passes, module, strict=True, observers=[Verifier(module, examples)])
    CheckExamples(module).run(*examples)
    return records[0], op_counts(module.graph)


def loop(a: Tensor, b: Tensor, *, dim: int = 1, context: Callable = contextlib.nullcontext):
    """The stacked states, and the list of them."""
    h, states = torch.zeros_like(a[:, 0]), []
    for t in range(T):
        with context():
            gate = torch.sigmoid(a[:, t])
        h = gate * h + b[:, t]
        states.append(h)
    return torch.stack(states, dim), states


# Layout


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_states_lie_in_memory_as_they_are_collected(dim):
    record, calls = run(lambda a, b: loop(a, b, dim=dim)[0], *inputs())
    assert record.matches == 1
    assert calls["mvc.linear_recurrence"] == 1
    assert calls["clone"] == 0


def test_steps_that_are_read_one_by_one_lie_as_they_were():
    def function(a, b):
        y, states = loop(a, b)
        return y.sum(-1), [state.as_strided((2, 2), (1, 2), 1) for state in states]

    record, _ = run(function, *inputs())
    assert record.matches == 1


@torch.compiler.nested_compile_region
def region(y):
    return y.view(-1) * 2


@torch.library.custom_op("surroundings::order", mutates_args=())
def order(y: Tensor) -> Tensor:
    return torch.tensor(y.stride())


@order.register_fake
def _(y):
    return y.new_empty(y.dim(), dtype=torch.int64)


OBSERVERS = {
    "returned": lambda y: y,
    "view": lambda y: y.view(-1),
    "view behind an elementwise call": lambda y: (y * 2).sin().view(-1),
    "as_strided": lambda y: (y * 1.0).as_strided((4, 2), (2, 1), 3),
    "region": region,
    "custom op": order,
    "random numbers": lambda y: y * torch.rand_like(y),
    "dropout": lambda y: F.dropout(y, 0.5),
    "written through a view": lambda y: (y.view(-1).add_(1), y * 2)[1],
    "reshaped and written": lambda y: (y.reshape(-1).mul_(3), y + 1)[1],
    "contiguous and written": lambda y: (y.contiguous().mul_(3), y + 1)[1],
    "copied into a buffer": lambda y: torch.zeros(B, T, dtype=y.dtype).copy_(y),
}


@pytest.mark.parametrize("observer", OBSERVERS.values(), ids=list(OBSERVERS))
def test_strides_that_are_seen_are_eagers(observer):
    """The sums over a matrix product come time first; eager's stack has them in its own order."""

    def function(a, b):
        h, outputs = torch.zeros_like(a[:, 0]), []
        for t in range(T):
            h = a[:, t] * h + b[:, t]
            outputs.append(torch.einsum("bd,bd->b", h, b[:, t]))
        return observer(torch.stack(outputs, 1))

    record, calls = run(function, *inputs())
    assert record.matches == 1
    assert calls["clone"] == (observer is not OBSERVERS["copied into a buffer"])


def test_strides_that_nobody_sees_are_free():
    def function(a, b, weight):
        h, outputs = torch.zeros_like(a[:, 0]), []
        for t in range(T):
            h = a[:, t] * h + b[:, t]
            outputs.append(torch.einsum("bd,bd->b", h, b[:, t]))
        return F.linear(torch.stack(outputs, 1).sin(), weight)

    record, calls = run(function, *inputs(), torch.ones(4, T, dtype=torch.float64))
    assert (record.matches, calls["clone"]) == (1, 0)


# Memory


ESCAPES = {
    "last state": lambda y, states: (y, states[-1]),
    "last state, without the outputs": lambda y, states: (y.sum(), states[-1]),
    "states in between": lambda y, states: (y, states[1], states[3]),
    "every state": lambda y, states: (y.sum(-1), *states),
    "view of a state": lambda y, states: (y, states[2], states[2][:, 0]),
    "view of a state that is not returned": lambda y, states: (y, states[2].t()[0]),
    "state written": lambda y, states: (states[-1].mul_(0), y)[1],
    "state written through a view": lambda y, states: (states[-1][0].zero_(), y, states[-1])[1:],
    "outputs written": lambda y, states: (y.mul_(2), states[-1] + 1),
    "both written": lambda y, states: (y.mul_(2), states[-1].add_(1)),
    "twice the same": lambda y, states: (states[-1], states[-1]),
    "halves": lambda y, states: (y[:, :2], y[:, 2:]),
}


@pytest.mark.parametrize("gradients", [False, True], ids=["inference", "gradients"])
@pytest.mark.parametrize("escape", ESCAPES.values(), ids=list(ESCAPES))
def test_memory_is_shared_as_in_eager(escape, gradients):
    """`Verifier` compares who shares memory with whom, and how much each keeps alive."""
    record, _ = run(lambda a, b: escape(*loop(a, b)), *inputs(requires_grad=gradients))
    assert record.matches == 1


def test_outputs_may_be_written_to_while_their_recurrence_waits_for_gradients():
    a, b = inputs(requires_grad=True)
    module, _ = capture(lambda a, b: loop(a, b)[0], a, b)
    pipeline.run([RaiseLoop(always=True)], module, strict=True)
    (y,) = module(a, b)
    expected = torch.autograd.grad(loop(a, b)[0].mul_(2).sum(), [a, b])
    torch.testing.assert_close(torch.autograd.grad(y.mul_(2).sum(), [a, b]), expected)


def test_input_written_ahead_of_the_loop_is_read_as_written():
    def function(a, b):
        b = b * 1
        b.mul_(2)
        h = torch.zeros_like(b[:, 0])
        h.add_(1)
        states = []
        for t in range(T):
            h = a[:, t] * h + b[:, t]
            states.append(h)
        return torch.stack(states, 1)

    assert run(function, *inputs())[0].matches == 1


def test_initial_state_written_meanwhile_is_left_alone():
    def function(a, b, start):
        h, states = start, []
        for t in range(T):
            h = a[:, t] * h + b[:, t]
            start.copy_(h)
            states.append(h)
        return torch.stack(states, 1)

    record, _ = run(function, *inputs(), torch.zeros(B, D, dtype=torch.float64))
    assert record.matches == 0
    assert "writes in place" in record.near_misses[0].reason


@pytest.mark.parametrize("write", [lambda h: h.zero_(), lambda h: h[0].add_(1)], ids=["state", "view of it"])
def test_state_written_before_it_is_collected_is_collected_as_written(write):
    def function(a, b):
        h, states = torch.zeros_like(a[:, 0]), []
        for t in range(T):
            h = a[:, t] * h + b[:, t]
            states.append(h)
        write(h)
        return torch.stack(states, 1)

    assert run(function, *inputs())[0].matches == 1


def test_smaller_outputs_that_are_written_into_a_buffer_are_left_alone():
    def function(a, b):
        h, y = torch.zeros_like(a[:, 0]), a.new_empty(B, T)
        for t in range(T):
            h = a[:, t] * h + b[:, t]
            y[:, t] = h.sum()
        return y

    record, calls = run(function, *inputs())
    assert (record.matches, calls["setitem"]) == (1, T)


def test_concatenations_in_the_steps_of_a_raised_loop_go_with_it():
    def function(a, b):
        h, y = torch.zeros_like(a[:, 0]), a.new_empty(B, T, 2 * D)
        for t in range(T):
            h = a[:, t] * h + b[:, t]
            y[:, t] = torch.cat([h, b[:, t]], -1)
        return y, h

    record, calls = run(function, *inputs())
    assert (record.matches, calls["cat"]) == (1, 1)


def test_expanded_outputs_that_are_written_to_are_elements_of_their_own():
    def function(a, b):
        h, y = torch.zeros_like(a[:, 0]), a.new_empty(2, B, T, D)
        for t in range(T):
            h = a[:, t] * h + b[:, t]
            y[:, :, t] = h.expand(2, B, D)
        y.mul_(2)
        return y.flip(0)

    assert run(function, *inputs())[0].matches == 1


def test_moves_of_a_reversed_list_go_with_it():
    def function(a, b):
        h, states = torch.zeros_like(a[:, 0]), []
        for t in range(T):
            h = a[:, t] * h + b[:, t]
            states.insert(0, h)
        return torch.stack(states, 2).transpose(0, -1)

    assert run(function, *inputs())[0].matches == 1


def selective(u, delta, A, B, C):
    """A selective scan's outputs and its last state."""
    decay = torch.exp(delta.unsqueeze(-1) * A)
    drive = (delta * u).unsqueeze(-1) * B.unsqueeze(2)
    h, outputs = torch.zeros_like(drive[:, 0]), []
    for t in range(T):
        h = decay[:, t] * h + drive[:, t]
        outputs.append((h * C[:, t].unsqueeze(1)).sum(-1))
    return torch.stack(outputs, 1), h


def test_copy_of_a_state_that_nothing_else_holds_goes():
    shapes = ((B, T, D), (B, T, D), (D, 4), (B, T, 4), (B, T, 4))
    given = [torch.rand(shape, dtype=torch.float64) for shape in shapes]
    _, calls = run(selective, *given, passes=(RaiseLoop(always=True), RaiseScan()))
    assert (calls["mvc.selective_scan"], calls["clone"]) == (1, 0)


def test_last_state_that_needs_no_gradient_has_none():
    shapes = ((B, T, D), (B, T, D), (D, 4), (B, T, 4))
    given = [torch.rand(shape, dtype=torch.float64) for shape in shapes]
    weights = torch.rand(B, T, 4, dtype=torch.float64, requires_grad=True)
    _, calls = run(selective, *given, weights, passes=(RaiseLoop(always=True), RaiseScan()))
    assert (calls["mvc.selective_scan"], calls["detach"]) == (1, 1)


@pytest.mark.slow
def test_inductor_keeps_the_copy_of_a_state():
    """It would drop a copy with the strides of its input, and the state would keep all states alive."""

    def function(a, b):
        h, states, kept = torch.zeros_like(a[0]), [], []
        for t in range(T):
            h = a[t] * h + b[t]
            states.append(h.unsqueeze(1))
            kept.append(h)
        return torch.cat(states, 1), h, torch.stack(kept)

    a, b = (torch.rand(T, B, D) for _ in "ab")
    torch.compiler.reset()
    with torch.no_grad():
        _, last, _ = torch.compile(function, backend="mvc", options={"passes": [RaiseLoop(always=True)]})(a, b)
    assert last.untyped_storage().nbytes() == last.numel() * 4


# Contexts


@torch.no_grad()
def magnitude(x):
    return x.abs()


def by_helper(a, b):
    h, states = torch.zeros_like(a[:, 0]), []
    for t in range(T):
        h = magnitude(a[:, t]) * h + b[:, t]
        states.append(h)
    return torch.stack(states, 1)


def stacked_without_gradients(a, b):
    h, states = torch.zeros_like(a[:, 0]), []
    for t in range(T):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    with torch.no_grad():
        y = torch.stack(states, 1)
    return y * a


def without_some_steps(a, b):
    h, states = torch.zeros_like(a[:, 0]), []
    for t in range(T):
        with torch.set_grad_enabled(t != 2):
            h = a[:, t] * h + b[:, t]
        states.append(h)
    return torch.stack(states, 1)


def whole_loop(enter: Callable) -> Callable:
    def function(a, b):
        a, b = a * 2, b + 1
        with enter():
            y = loop(a, b)[0]
        return y * a

    return function


REGIONS = {
    "no_grad": (torch.no_grad, "gradients"),
    "autocast": (lambda: torch.autocast("cpu", torch.bfloat16), "autocast"),
    "saved tensors": (lambda: torch.autograd.graph.disable_saved_tensors_hooks("none here"), "_saved_tensors_hooks"),
    "attention": (lambda: torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), "_sdpa_kernel"),
}


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        *((lambda a, b, enter=enter: loop(a, b, context=enter)[0], reason) for enter, reason in REGIONS.values()),
        (by_helper, "gradients"),
        (without_some_steps, "gradients"),
    ],
    ids=[*REGIONS, "decorated", "one step"],
)
def test_regions_within_a_step_are_left_alone(function, reason):
    record, _ = run(function, *inputs(requires_grad=True))
    assert record.matches == 0
    assert reason in record.near_misses[0].reason


def test_outputs_are_collected_in_another_context_than_the_loop():
    assert run(stacked_without_gradients, *inputs(requires_grad=True))[0].matches == 1


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda a, b: loop(a, b, context=torch.inference_mode)[0], "gradients"),
        (whole_loop(torch.inference_mode), "inference mode"),
    ],
    ids=["within a step", "around the loop"],
)
def test_inference_mode_in_the_program_is_left_alone(function, reason):
    """Without gradients: where one is wanted torch refuses what was computed in it."""
    record, _ = run(function, *inputs())
    assert record.matches == 0
    assert reason in record.near_misses[0].reason


def test_float32_island_is_left_alone():
    def function(a, b):
        with torch.autocast("cpu", torch.bfloat16):
            h, states = torch.zeros_like(a[:, 0]), []
            for t in range(T):
                with torch.autocast("cpu", enabled=False):
                    drive = b[:, t] @ torch.ones(D, D)
                h = a[:, t] * h + drive
                states.append(h)
            return torch.stack(states, 1)

    record, _ = run(function, *(each.float() for each in inputs()))
    assert record.matches == 0
    assert "autocast" in record.near_misses[0].reason


def test_random_numbers_in_a_step_are_left_alone():
    record, _ = run(lambda a, b: loop(a, F.dropout(b[:, 0]).unsqueeze(1) + b)[0], *inputs())
    assert record.matches == 1, "outside of it they are nobody's matter"

    def function(a, b):
        h, states = torch.zeros_like(a[:, 0]), []
        for t in range(T):
            h = a[:, t] * h + F.dropout(b[:, t])
            states.append(h)
        return torch.stack(states, 1)

    assert run(function, *inputs())[0].matches == 0


def each_step(a, b):
    h, states = torch.zeros_like(a[:, 0]), []
    for t in range(T):
        with torch.no_grad():
            h = a[:, t] * h + b[:, t]
            states.append(h)
    with torch.no_grad():
        y = torch.stack(states, 1)
    return y * a


@pytest.mark.parametrize(
    "function",
    [
        *(whole_loop(enter) for enter, _ in REGIONS.values()),
        each_step,
        lambda a, b: loop(a, b, context=torch.enable_grad)[0],
        lambda a, b: loop(a, b, context=lambda: torch.autocast("cpu", enabled=False))[0],
    ],
    ids=[*REGIONS, "each step whole", "enable_grad that changes nothing", "autocast off that is off"],
)
def test_regions_around_a_loop_stay_around_it(function):
    record, _ = run(function, *inputs(requires_grad=True))
    assert record.matches == 1, record.near_misses


def test_region_in_the_body_of_a_scan_is_left_alone():
    from torch._higher_order_ops.scan import scan

    def step(h, x):
        with torch.no_grad():
            gate = torch.sigmoid(x)
        h = gate * h + x
        return h.clone(), h.clone()

    a, _ = inputs(requires_grad=True)
    record, _ = run(lambda a: scan(step, torch.zeros_like(a[:, 0]), a, dim=1)[1], a, passes=(RaiseHigherOrder(),))
    assert record.matches == 0
    assert "gradients" in record.near_misses[0].reason


def test_batch_norm_behind_a_convolution_without_gradients_is_left_alone():
    def function(x, weight, mean, var):
        with torch.no_grad():
            y = F.conv2d(x, weight)
        return F.batch_norm(y, mean, var)

    given = (torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3, requires_grad=True), torch.zeros(3), torch.ones(3))
    record, _ = run(function, *given, passes=(FuseBatchNorm(),))
    assert record.matches == 0
    assert "gradients" in record.near_misses[0].reason


def test_contexts_are_equal_where_nothing_is_switched():
    def function(x):
        a = x.sin()
        with torch.no_grad():
            b = a.cos()
        with torch.autocast("cpu", torch.bfloat16):
            c = b.exp()
            with torch.autocast("cpu", enabled=False):
                d = c.tan()
        return d.abs()

    graph = capture(function, torch.ones(3))[0].graph
    contexts = Contexts(graph)
    of = {node.target: contexts.of(node) for node in graph.nodes if node.op == "call_method"}
    assert of["sin"] == of["tan"] == of["abs"]
    assert (of["cos"].gradients, of["sin"].gradients) == (False, True)
    assert dict(of["exp"].autocast) == {"cpu": torch.bfloat16}
