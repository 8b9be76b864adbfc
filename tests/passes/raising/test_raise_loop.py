"""Unrolled loops, as people write them, become one recurrence; what is almost one is left alone with its reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from toy_passes import capture

from mvc.passes import pipeline
from mvc.passes.graph.fx_utils import op_counts
from mvc.passes.raising.raise_loop import RaiseLoop
from mvc.passes.raising.raise_scan import RaiseScan
from mvc.passes.torch_private import example_size

B, D, L, N = 2, 3, 5, 4


def sequences(time: int = 2, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """a, b and c (batch, dim, length, N), with time where it is asked for; and a state."""
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.rand(B, D, L, N, generator=generator, dtype=dtype) for name in "abc"}
    tensors = {name: t.movedim(2, time).contiguous() for name, t in tensors.items()}
    return {**tensors, "h": torch.rand(B, D, N, generator=generator, dtype=dtype)}


def collected(step: Callable, **options) -> Callable:
    """A loop over axis 2 that stacks the states that `step(h, a, b, c)` gives."""

    def loop(a, b, c, h):
        states = []
        for t in range(L):
            h = step(h, a[:, :, t], b[:, :, t], c[:, :, t])
            states.append(h)
        return torch.stack(states, 2)

    return loop


FORMS: dict[str, Callable] = {
    "where": collected(lambda h, a, b, c: torch.where(c > 0.5, a * h + b, h)),
    "where-of-numbers": collected(lambda h, a, b, c: torch.where(c > 0.5, h, 0.3 * h) + b),
    "turned-truth": collected(lambda h, a, b, c: a * h * ~(c > 0.5) + b),
    "einsum-with-ellipsis": collected(lambda h, a, b, c: torch.einsum("...n,...n->...n", a, h) + b),
    "product-first": collected(lambda h, a, b, c: a * h + b),
    "state-first": collected(lambda h, a, b, c: h * a + b),
    "sum-turned": collected(lambda h, a, b, c: b + a * h),
    "functions": collected(lambda h, a, b, c: torch.add(torch.mul(h, a), b)),
    "methods": collected(lambda h, a, b, c: h.mul(a).add(b)),
    "addcmul": collected(lambda h, a, b, c: torch.addcmul(b, a, h)),
    "einsum": collected(lambda h, a, b, c: torch.einsum("bdn,bdn->bdn", a, h) + b),
    "lerp": collected(lambda h, a, b, c: torch.lerp(b, h, a)),
    "difference": collected(lambda h, a, b, c: a * h - b),
    "exponential-in-the-step": collected(lambda h, a, b, c: torch.exp(-a) * h + c * b),
    "casts": collected(lambda h, a, b, c: (a.float() * h.float() + b.float()).to(h.dtype)),
    "constant-factor": collected(lambda h, a, b, c: 0.5 * h + b),
    "product-written-in-place": collected(lambda h, a, b, c: (a * h).add_(b)),
}


def form(function: Callable) -> Callable:
    FORMS[function.__name__.replace("_", "-")] = function
    return function


@form
def no_state_at_first(a, b, c, h):
    h, states = torch.zeros_like(h), []
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        states.append(h)
    return torch.stack(states, dim=2)


@form
def number_at_first(a, b, c, h):
    h, states = 0, []
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


@form
def first_step_apart(a, b, c, h):
    h = b[:, :, 0]
    states = [h]
    for t in range(1, L):
        h = a[:, :, t] * h + b[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


@form
def concatenated(a, b, c, h):
    outputs = []
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        outputs.append((h * c[:, :, t]).sum(-1).unsqueeze(-1))
    return torch.cat(outputs, dim=-1)


@form
def written_one_by_one(a, b, c, h):
    outputs = a.new_empty(B, D, L)
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        outputs[:, :, t] = (h * c[:, :, t]).sum(-1)
    return outputs


@form
def slices_of_width_one(a, b, c, h):
    h, outputs = h.unsqueeze(2), []
    for t in range(L):
        h = a[:, :, t : t + 1] * h + b[:, :, t : t + 1]
        outputs.append(h)
    return torch.cat(outputs, 2)


@form
def unbound_pieces(a, b, c, h):
    outputs = []
    for a_t, b_t, c_t in zip(a.unbind(2), b.unbind(2), c.unbind(2), strict=True):
        h = a_t * h + b_t
        outputs.append(torch.matmul(h, c_t.transpose(1, 2)))
    return torch.stack(outputs)


@form
def selected_with_last_state(a, b, c, h):
    outputs = []
    for t in range(L):
        h = a.select(2, t) * h + b.select(2, t)
        outputs.append((h * c[:, :, t]).sum(-1) + a[:, :, t].sum(-1))
    return torch.stack(outputs, -1), h


@form
def states_in_between(a, b, c, h):
    outputs, kept = [], []
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        outputs.append(h.sum(-1))
        kept.append(h)
    return torch.stack(outputs, 2), kept[1] * 2


@form
def outputs_and_states(a, b, c, h):
    outputs, states = [], []
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        outputs.append(h.sum(-1))
        states.append(h)
    return torch.stack(outputs, 2), torch.stack(states, 2)


@form
def state_ahead_of_the_step(a, b, c, h):
    outputs = []
    for t in range(L):
        outputs.append((h * c[:, :, t]).sum(-1))
        h = a[:, :, t] * h + b[:, :, t]
    return torch.stack(outputs, 2)


@form
def backwards_with_reversed_list(a, b, c, h):
    outputs = []
    for t in reversed(range(L)):
        h = a[:, :, t] * h + b[:, :, t]
        outputs.append(h * c[:, :, t])
    return torch.stack(outputs[::-1], 2)


@form
def backwards_as_they_come(a, b, c, h):
    outputs = []
    for t in range(L - 1, -1, -1):
        h = a[:, :, t] * h + b[:, :, t]
        outputs.append(h * c[:, :, t])
    return torch.stack(outputs, 2)


@form
def flipped_before_and_after(a, b, c, h):
    a, b, outputs = a.flip(2), b.flip(2), []
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        outputs.append(h)
    return torch.stack(outputs, 2).flip(2)


@form
def mixed_directions(a, b, c, h):
    outputs = []
    for t in range(L):
        h = a[:, :, L - 1 - t] * h + b[:, :, t]
        outputs.append(h)
    return torch.stack(outputs, 2)


@form
def part_of_the_length(a, b, c, h):
    outputs = []
    for t in range(1, L - 1):
        h = a[:, :, t] * h + b[:, :, t - 1]
        outputs.append(h)
    return torch.stack(outputs, 2)


@form
def last_state(a, b, c, h):
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
    return h


@form
def every_second_step(a, b, c, h):
    states = []
    for t in range(0, L, 2):
        h = a[:, :, t] * h + b[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


@form
def read_back_from_the_output(a, b, c, h):
    states = torch.zeros_like(b)
    states[:, :, 0] = h
    for t in range(1, L):
        states[:, :, t] = a[:, :, t] * states[:, :, t - 1] + b[:, :, t]
    return states


@form
def read_back_from_zero(a, b, c, h):
    states = b.new_zeros(B, D, L + 1, N)
    for t in range(L):
        states[:, :, t + 1] = a[:, :, t] * states[:, :, t] + b[:, :, t]
    return states[:, :, L]


@form
def returns_of_rewards(a, b, c, h):
    """As of reinforcement learning; the last entry is given."""
    returns = b.new_zeros(L + 1, B, D, N)
    returns[-1] = h
    for t in reversed(range(L)):
        returns[t] = returns[t + 1] * a[:, :, t] + b[:, :, t]
    return returns[:-1]


@form
def copied_into_the_state(a, b, c, h):
    states, h = [], h.clone()
    for t in range(L):
        h.copy_(a[:, :, t] * h + b[:, :, t])
        states.append((h * c[:, :, t]).sum(-1))
    return torch.stack(states, 2)


@form
def state_with_an_axis_more(a, b, c, h):
    states = []
    for t in range(L):
        h = (a[:, :, t].unsqueeze(1) * h.unsqueeze(1) + b[:, :, t : t + 1].movedim(2, 1)).squeeze(1)
        states.append(h)
    return torch.stack(states, 2)


def viewed_as_it_is(a, b, c, h):
    for t in range(L):
        h = (a[:, :, t] * h + b[:, :, t]).view(h.size(0), D, -1)
    return h


def state_read_by_another(a, b, c, h):
    """Before it is updated."""
    g = torch.zeros_like(h)
    for t in range(L):
        g = 0.5 * g + h
        h = a[:, :, t] * h + b[:, :, t]
    return g, h


@form
def last_step_apart(a, b, c, h):
    states = [None] * L
    for t in reversed(range(L)):
        following = h if t == L - 1 else b[:, :, t + 1]
        h = a[:, :, t] * h + following
        states[t] = h
    return torch.stack(states, 2)


@form
def two_read_outs(a, b, c, h):
    ys, zs = [], []
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        ys.append((h * c[:, :, t]).sum(-1))
        zs.append(torch.relu(h))
    return torch.stack(ys, 2), torch.stack(zs, 2)


@form
def two_steps_in_one_line(a, b, c, h):
    states = []
    for t in range(L):
        h = c[:, :, t] + b[:, :, t] + a[:, :, t] * h
        states.append(h)
    return states[1], states[-1]


# Which eager torch cannot compute.
WITHOUT_GRADIENTS = {
    "read-back-from-the-output",
    "read-back-from-zero",
    "returns-of-rewards",
    "copied-into-the-state",
}


def check_same(
    function: Callable, tensors: dict[str, Tensor], rtol: float = 1e-9, *, gradients: bool = True, recurrences: int = 1
) -> None:
    """Results and gradients of the rewritten graph are those of the function, and no step remains."""
    leaves = [t.requires_grad_(gradients) for t in tensors.values()]
    module, inputs = capture(function, *leaves)
    (record,) = pipeline.run([RaiseLoop(always=True)], module, strict=True)
    assert record.near_misses == ()
    assert record.matches
    calls = op_counts(module.graph)
    assert calls["mvc.linear_recurrence"] == recurrences
    assert calls["mul"] + calls["addcmul"] <= 4, f"steps remain: {calls}"
    expected, actual = function(*leaves), module(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol)
    if not gradients:
        return
    grads = [
        torch.autograd.grad(sum(each.sin().sum() for each in ys), leaves, allow_unused=True)
        for ys in (actual, expected)
    ]
    for name, ours, theirs in zip(tensors, *grads, strict=True):
        ours, theirs = (torch.zeros(()) if g is None else g for g in (ours, theirs))
        torch.testing.assert_close(ours, theirs.expand_as(ours), rtol=rtol, atol=rtol, msg=name)


@pytest.mark.parametrize("name", FORMS)
def test_form_becomes_one_recurrence(name):
    rtol = 1e-5 if name == "casts" else 1e-9
    check_same(FORMS[name], sequences(), rtol=rtol, gradients=name not in WITHOUT_GRADIENTS)


def test_state_that_another_reads_before_its_update():
    check_same(state_read_by_another, sequences(), recurrences=2)


def test_leading_axis_of_time():
    def loop(a, b, c, h):
        outputs = []
        for t in range(a.size(0)):
            h = a[t] * h + b[t]
            outputs.append((h * c[t]).sum(-1))
        return torch.stack(outputs)

    check_same(loop, sequences(time=0))


@pytest.mark.parametrize(
    ("function", "raised"),
    [(state_with_an_axis_more, True), (viewed_as_it_is, False)],
    ids=["an axis more", "view"],
)
def test_batch_may_be_a_symbol(function, raised):
    tensors = sequences()
    for tensor in tensors.values():
        torch._dynamo.mark_dynamic(tensor, 0)
    module, inputs = capture(function, *tensors.values())
    (record,) = pipeline.run([RaiseLoop(always=True)], module, strict=True)
    assert record.matches == raised
    assert raised or "whose sizes are not known" in record.near_misses[0].reason
    torch.testing.assert_close(module(*map(example_size, inputs))[0], function(*tensors.values()))


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_states_of_any_rank(rank):
    def loop(a, b, h):
        outputs = []
        for t in range(L):
            h = a[..., t] * h + b[..., t]
            outputs.append(h)
        return torch.stack(outputs, -1)

    sizes = (2, 1, 3, 2)[: rank - 1]
    check_same(
        loop,
        {"a": torch.rand(*sizes, L).double(), "b": torch.rand(*sizes, L).double(), "h": torch.rand(sizes).double()},
    )


def test_half_precision_keeps_its_state_in_float32():
    """The loop as transformers has it: bfloat16 inputs, a float32 state, outputs rounded."""

    def loop(a, b, c):
        h, outputs = torch.zeros(B, D, N), []
        for t in range(L):
            h = a[:, :, t].float() * h + b[:, :, t].float()
            outputs.append((h.to(c.dtype) * c[:, :, t]).sum(-1))
        return torch.stack(outputs, -1)

    tensors = {name: t.bfloat16() for name, t in sequences().items() if name != "h"}
    check_same(loop, tensors, rtol=2**-7)


def test_loop_of_a_selective_scan_ends_as_the_scan():
    def published(u, delta, A, B_, C, z):
        delta = F.softplus(delta)
        decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
        drive = torch.einsum("bdl,bnl,bdl->bdln", delta, B_, u)
        h, outputs = u.new_zeros(B, 4, N), []
        for t in range(L):
            h = decay[:, :, t] * h + drive[:, :, t]
            outputs.append(torch.einsum("bdn,bn->bd", h, C[:, :, t]))
        return torch.stack(outputs, dim=2) * F.silu(z), h

    u, delta, z = torch.rand(3, B, 4, L).double()
    B_, C = torch.rand(2, B, N, L).double()
    inputs = (u, delta, -torch.rand(4, N).double(), B_, C, z)
    module, example = capture(published, *inputs)
    loop, scan = pipeline.run([RaiseLoop(always=True), RaiseScan()], module, strict=True)
    assert (loop.matches, scan.matches) == (1, 1), (loop.near_misses, scan.near_misses)
    assert op_counts(module.graph)["exp"] == 0
    for actual, expected in zip(module(*example), published(*inputs), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("length", [2, 3])
@pytest.mark.parametrize("forwards", [True, False], ids=["forwards", "backwards"])
def test_few_steps_from_a_number(length, forwards):
    def loop(a, b):
        h, states = 0, []
        for t in range(length):
            h = h * a[:, :, t] + b[:, :, t]
            states.insert(len(states) if forwards else 0, h)
        return torch.stack(states, 2)

    check_same(loop, {name: tensor for name, tensor in sequences().items() if name in "ab"})


def test_two_loops_in_a_row():
    first, second = FORMS["backwards-with-reversed-list"], FORMS["product-first"]
    tensors = sequences()
    module, inputs = capture(lambda a, b, c, h: second(a, first(a, b, c, h), c, h), *tensors.values())
    (record,) = pipeline.run([RaiseLoop(always=True)], module, strict=True)
    assert record.matches == 2
    a, b, c, h = tensors.values()
    torch.testing.assert_close(module(*inputs)[0], second(a, first(a, b, c, h), c, h))


@form
def twice_in_one_step(a, b, c, h):
    states = []
    for t in range(L):
        h = (2 if t == 3 else 1) * (a[:, :, t] * h) + b[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


@form
def wrong_index(a, b, c, h):
    states = []
    for t in range(L):
        h = a[:, :, 1 if t == 3 else t] * h + b[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


def source_changed_between(a, b, c, h):
    states, b = [], b.clone()
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        b[:, :, t + 1 :].add_(1)
        states.append(h)
    return torch.stack(states, 2)


@form
def state_changed_between(a, b, c, h):
    states, h = [], h.clone()
    for t in range(L):
        h.mul_(a[:, :, t]).add_(b[:, :, t])
        states.append(h.sum(-1))
    return torch.stack(states, 2)


def given_state_changed(a, b, c, h):
    for t in range(L):
        h.mul_(a[:, :, t]).add_(b[:, :, t])
    return (h * c[:, :, 0]).sum(-1)


def old_view_of_the_state(a, b, c, h):
    states, h = [], h.clone()
    for t in range(L):
        before = h[0]
        h.mul_(a[:, :, t]).add_(b[:, :, t])
        states.append(before * 2)
    return torch.stack(states, 2)


def turned_state(a, b, c, h):
    states = []
    for t in range(L):
        h = (a[:, :, t].mT.contiguous() * h.mT).mT.movedim(0, 1).movedim(1, 0).flip(0) + b[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


def transposed_state(a, b, c, h):
    a, b, h, states = a[:, :, :, :3], b[:, :, :, :3], h[..., :3], []
    for t in range(L):
        h = a[:, :, t] * h.mT + b[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


def coupled(a, b, c, h):
    g, states = torch.ones_like(h), []
    for t in range(L):
        h, g = a[:, :, t] * h - c[:, :, t] * g, c[:, :, t] * h + a[:, :, t] * g + b[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


def bounded_read_back(a, b, c, h):
    states = torch.zeros(B, D, 9, N, dtype=b.dtype)
    for t in range(1, 9):
        states[:, :, t] = torch.tanh(a[:, :, 0] * states[:, :, t - 1])
    return states


def read_back_without_gradients(a, b, c, h):
    """What is read from the buffer has none."""
    states = torch.zeros_like(b)
    for t in range(L):
        with torch.no_grad():
            states[:, :, t] = h
        h = a[:, :, t] * states[:, :, t] + b[:, :, t]
    return h


def uneven_distances(a, b, c, h):
    for t in (0, 1, 3, 4, 2, 1, 0, 3):
        h = a[:, :, t] * h + b[:, :, t]
    return h


def written_without_gradients(a, b, c, h):
    h = h * 1
    for t in range(L):
        with torch.no_grad():
            h.mul_(a[:, :, t]).add_(b[:, :, t])
    return h


def windows(a, b, c, h):
    states = torch.zeros(B, D, 10, N, dtype=b.dtype)
    for t in range(2, 10):
        states[:, :, t] = states[:, :, t - 2 : t].sum(2) + b[:, :, t // 2]
    return states


def whole_numbers(a, b, c, h):
    a, b, states = a.long(), b.long(), []
    h = h.long()
    for t in range(L):
        h = a[:, :, t] * h + b[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


def resets(a, b, c, h):
    for t in range(L):
        h = a[:, :, t] * torch.where(c[:, :, t] > 0.5, 0.0, h) + b[:, :, t]
    return h


NEAR_MISSES = {
    "tanh": (collected(lambda h, a, b, c: torch.tanh(a * h + b)), "calls tanh on the state"),
    "square": (collected(lambda h, a, b, c: a * h * h + b), "multiplies the state by itself"),
    "gate-of-the-state": (collected(lambda h, a, b, c: torch.sigmoid(h) * a + b), "calls sigmoid on the state"),
    "mixed-channels": (collected(lambda h, a, b, c: torch.einsum("bdn,bdm->bdm", h, a) + b), "einsum"),
    "given-state-changed": (given_state_changed, "writes to l_h_, which others see"),
    "old-view-of-the-state": (old_view_of_the_state, "is read after"),
    "whole-numbers": (whole_numbers, "got torch.int64"),
    "turned-state": (turned_state, "moves elements of the state (flip)"),
    "transposed-state": (transposed_state, "moves elements of the state"),
    "coupled": (coupled, "another state"),
    "bounded-read-back": (bounded_read_back, "calls tanh on the state"),
    "written-without-gradients": (written_without_gradients, "where they are switched off"),
    "uneven-distances": (uneven_distances, "at uneven distances"),
    "windows": (windows, "reads back more of states"),
    "resets": (resets, "where discards the state at some steps"),
    "matrix": (collected(lambda h, a, b, c: h @ a.mT @ c + b), "multiplies the state by a matrix (matmul)"),
    "softmax": (collected(lambda h, a, b, c: h.softmax(-1) * a + b), "calls softmax on the state"),
    "mean": (collected(lambda h, a, b, c: a * h.mean(-1, keepdim=True) + b), "takes mean over elements of the state"),
    "source-changed": (source_changed_between, "writes in place between its steps"),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_miss_is_left_alone_with_its_reason(name):
    function, reason = NEAR_MISSES[name]
    tensors = sequences()
    tensors["h"].requires_grad_(function is written_without_gradients)
    module, inputs = capture(function, *tensors.values())
    before = str(module.graph)
    (record,) = pipeline.run([RaiseLoop(always=True)], module, strict=True)
    assert record.matches == 0
    assert len(record.near_misses) == 1 or function is coupled, "two states may have two reasons"
    miss = record.near_misses[0]
    assert reason in miss.reason
    assert "test_raise_loop.py" in miss.source
    assert str(module.graph) == before
    clones = [t.clone() for t in tensors.values()]
    torch.testing.assert_close(module(*inputs)[0], function(*clones))


def test_what_is_read_back_without_gradients_is_not_forwarded():
    """Each step starts anew, as far as gradients are concerned."""
    leaves = [t.requires_grad_() for t in sequences().values()]
    module, inputs = capture(read_back_without_gradients, *leaves)
    (record,) = pipeline.run([RaiseLoop(always=True)], module, strict=True)
    assert record.matches == 0
    for run in (lambda: module(*inputs)[0], lambda: read_back_without_gradients(*leaves)):
        gradients = torch.autograd.grad(run().sum(), leaves, allow_unused=True)
        assert gradients[0].count_nonzero() <= gradients[0].numel() / L
        assert gradients[3] is None


def test_collections_that_are_no_loops_are_not_mentioned():
    def function(a, b, c, h):
        return (
            torch.stack([a, b, c]),
            torch.cat([a[:, :, t : t + 1] * 2 for t in range(L)], 2),
            torch.stack([h.sin(), h]),
        )

    module, _ = capture(function, *sequences().values())
    (record,) = pipeline.run([RaiseLoop(always=True)], module, strict=True)
    assert (record.matches, record.near_misses) == (0, ())
