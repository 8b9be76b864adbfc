"""Data movement that undoes itself: numerics, counts, what is left alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from toy_passes import CheckExamples, capture

from mvc.passes import pipeline
from mvc.passes.fusing.fuse_movement import FuseMovement
from mvc.passes.graph.fx_utils import op_counts
from mvc.passes.verify import Verifier

MOVES = ("permute", "transpose", "contiguous", "movedim", "swapaxes", "clone")


def partition(x, window):
    """Swin's: (batch, height, width, channels) -> (windows, window, window, channels)."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, window, window, channels)


def reverse(windows, window, height, width):
    channels = windows.shape[-1]
    x = windows.view(-1, height // window, width // window, window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, height, width, channels)


def run(function, *inputs):
    """The rewritten graph's record and the count of its calls, its results and gradients checked against eager."""
    module, examples = capture(function, *inputs)
    (record,) = pipeline.run([FuseMovement()], module, strict=True, observers=[Verifier(module, examples)])
    if not any(isinstance(each, torch.SymInt) for each in examples):
        CheckExamples(module).run(*examples)
    results = torch.compile(function, backend=backend, fullgraph=True)(*inputs)
    expected = function(*inputs)
    torch.testing.assert_close(results, expected)
    results, expected = (each if isinstance(each, tuple) else (each,) for each in (results, expected))
    for result, wanted in zip(results, expected, strict=True):
        assert result.stride() == wanted.stride()
    return record, op_counts(module.graph)


def backend(module, _):
    pipeline.run([FuseMovement()], module, strict=True)
    module.recompile()
    return module.forward


def windows_between_blocks(x):
    x = reverse((x + 1).view(-1, 2, 2, 3), 2, 4, 6)
    return partition(x, 2).view(-1, 4, 3) * 2


def batched_windows(x):
    return partition(reverse(x.sin(), 2, 4, 6), 2).cos()


def transposes_around(x):
    return F.layer_norm((x * 2).transpose(1, 2).contiguous().swapaxes(-1, -2), (4,))


def scan_layouts(x):
    """The published mixer's: (batch · length, states) to (batch, states, length), and back by who scans."""
    states = (x + 1).reshape(-1, 3).unflatten(0, (2, -1)).permute(0, 2, 1).contiguous()
    return F.layer_norm(states.movedim(-1, 1), (3,))


def split_joined(x):
    """Axes are split, joined with others, and moved in two steps each way."""
    y = (x * 2).unflatten(0, (2, 6)).movedim((0, 2), (2, 0)).flatten(1)
    return y.unflatten(1, (6, 2)).permute(2, 1, 0).reshape(12, 12) + 1


def unit_axes(x):
    y = (x + 1).unsqueeze(2).transpose(0, 3).contiguous().squeeze(2)
    return F.layer_norm(y.unsqueeze(0).transpose(1, 3).squeeze(0), (4,))


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (windows_between_blocks, (12, 4, 3)),
        (batched_windows, (12, 2, 2, 3)),
        (transposes_around, (2, 3, 4)),
        (scan_layouts, (2, 5, 3)),
        (split_joined, (12, 12)),
        (unit_axes, (2, 3, 4)),
    ],
    ids=["windows", "windows-batched", "transposes", "scan-layouts", "split-and-joined", "unit-axes"],
)
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_movement_that_undoes_itself_goes(function, shape, training):
    x = torch.randn(shape, requires_grad=training)
    record, counts = run(function, x)
    assert record.matches == 1
    assert not record.near_misses
    assert not set(MOVES) & counts.keys()
    if training:
        grads = [torch.autograd.grad(f(x).sum(), x) for f in (function, torch.compile(function, backend=backend))]
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize("function", [windows_between_blocks, batched_windows], ids=["views", "windows"])
def test_batch_may_be_symbolic(function):
    x = torch.randn((24, 4, 3) if function is windows_between_blocks else (24, 2, 2, 3))
    torch._dynamo.mark_dynamic(x, 0)
    record, counts = run(function, x)
    assert record.matches == 1
    assert not set(MOVES) & counts.keys()
    compiled = torch.compile(function, backend=backend, fullgraph=True)
    for windows in (12, 36):
        other = torch.randn(windows, *x.shape[1:])
        torch.testing.assert_close(compiled(other), function(other))


def test_symbolic_batch_ahead_of_the_windows():
    def function(x):
        windows = partition(x, 2).view(-1, 4, 3) * 2
        maps = reverse(windows.view(-1, 2, 2, 3), 2, 4, 6)
        return partition(maps, 2).view(-1, 4, 3) + 1

    x = torch.randn(5, 4, 6, 3)
    torch._dynamo.mark_dynamic(x, 0)
    record, counts = run(function, x)
    assert record.matches == 1
    assert counts["permute"] == 1


def test_what_is_read_on_the_way_stays():
    def function(x):
        maps = reverse(x.sin(), 2, 4, 6)
        return partition(maps, 2).cos(), maps.mean((1, 2))

    record, counts = run(function, torch.randn(12, 2, 2, 3))
    assert record.matches == 1
    assert counts["permute"] == 1


def test_strides_that_are_seen_stay():
    """The origin is transposed and the result was contiguous: one copy is left of two."""

    def function(x):
        y = (x.t() * 1).unflatten(0, (2, 2)).permute(2, 0, 1).contiguous()
        return y.permute(1, 2, 0).contiguous().view(4, 6)

    x = torch.randn(6, 4)
    record, counts = run(function, x)
    assert record.matches == 1
    assert (counts["clone"], counts["contiguous"]) == (1, 0)
    assert counts["permute"] == 0


def other_window(x):
    return partition(reverse(x.sin(), 2, 4, 4), 4).cos()


def rolled(x):
    return partition(torch.roll(reverse(x.sin(), 2, 4, 6), (1, 1), (1, 2)), 2).cos()


def returned(x):
    return x, partition(reverse(x, 2, 4, 6), 2)


def written_later(x):
    y = x.sin()
    windows = partition(reverse(y, 2, 4, 6), 2)
    y.mul_(2)
    return windows.cos() + y


def result_written(x):
    y = x.sin()
    windows = partition(reverse(y, 2, 4, 6), 2)
    windows += 1
    return windows * y


def shared_with_another(x):
    copy = x.sin().permute(0, 2, 1, 3).contiguous()
    return copy[0], copy.permute(0, 2, 1, 3)


def without_gradients(x):
    y = x.sin()
    with torch.no_grad():
        windows = partition(reverse(y, 2, 4, 6), 2)
    return windows * y


def strided_result(x):
    """The copy is returned in a memory order of its own."""
    return (x[..., :2] * 1, x.chunk(2, -1)[0].transpose(1, 2).contiguous().transpose(1, 2).sin())


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (other_window, "does not undo"),
        (rolled, "roll moves"),
        (returned, "returned"),
        (written_later, "mul_ writes to its memory"),
        (result_written, "writes to its memory"),
        (without_gradients, "gradients"),
        (shared_with_another, "share its memory"),
        (strided_result, "depends on its strides"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_near_misses_are_left_alone(function, reason):
    windows = (8, 2, 2, 4) if function is other_window else (12, 2, 2, 4)
    record, _ = run(function, torch.randn(windows, requires_grad=function is without_gradients))
    assert record.matches == 0
    assert [reason in miss.reason for miss in record.near_misses] == [True]


def attention_layouts(x):
    q, k, v = x.unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], x.shape[1], -1)


def empty(x):
    return x[:0].transpose(1, 2).contiguous().transpose(1, 2).sin()


@pytest.mark.parametrize("function", [attention_layouts, empty])
def test_other_movement_is_neither_match_nor_near_miss(function):
    record, _ = run(function, torch.randn(2, 3, 12))
    assert (record.matches, record.near_misses) == (0, ())


def test_concatenation_takes_permuted_parts():
    """The published mixer's end: the scan's result comes transposed, and is transposed again with the other half."""

    def function(u, z, weight):
        return F.linear(torch.cat((u.sin().transpose(1, 2), z * 2), dim=1).permute(0, 2, 1), weight)

    record, counts = run(function, torch.randn(2, 3, 4), torch.randn(2, 4, 3), torch.randn(5, 8))
    assert record.matches == 2
    assert counts["transpose"] == 0
    assert counts["permute"] == 1, "that of the other half"


def test_concatenation_read_otherwise_stays():
    def function(u, z):
        both = torch.cat((u.transpose(1, 2), z), dim=1)
        return F.layer_norm(both.permute(0, 2, 1), (8,)), F.layer_norm(both, (3,))

    record, counts = run(function, torch.randn(2, 3, 4), torch.randn(2, 4, 3))
    assert record.matches == 0
    assert counts["cat"] == 1


def test_concatenation_permuted_without_gradients_stays():
    def function(u, z):
        both = torch.cat((u.transpose(1, 2), z), dim=1)
        with torch.no_grad():
            moved = both.permute(0, 2, 1)
        return F.layer_norm(moved, (8,)) * z.sum()

    record, _ = run(function, torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 4, 3, requires_grad=True))
    assert record.matches == 0


def padded_windows(x):
    height, width = x.shape[1:3]
    windows = partition(F.pad(x, (0, 0, 0, 6 - width, 0, 4 - height)), 2)
    return F.layer_norm(reverse(windows, 2, 4, 6)[:, :height, :width, :], (2,))


def padded_ahead(x):
    return F.layer_norm(F.pad(x.sin(), (0, 0, 1, 2))[..., 1:6, :], (2,))


def narrowed(x):
    return F.layer_norm(F.pad(x.sin(), (0, 0, 0, 2), value=3.0).narrow(2, 0, 5), (2,))


@pytest.mark.parametrize("function", [padded_windows, padded_ahead, narrowed])
@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic-batch"])
def test_padding_that_is_cut_off_goes(function, symbolic):
    x = torch.randn(3, 3, 5, 2)
    if symbolic:
        torch._dynamo.mark_dynamic(x, 0)
    record, counts = run(function, x)
    assert record.matches == 1 + (function is padded_windows)
    assert counts["pad"] == counts["getitem"] == counts["narrow"] == 0


def cut_elsewhere(x):
    return F.layer_norm(F.pad(x, (0, 0, 0, 2))[..., 1:6, :], (2,))


def reflected(x):
    return F.layer_norm(F.pad(x[0], (0, 1), mode="reflect")[..., :2], (2,))


def picked(x):
    return F.layer_norm(F.pad(x, (0, 0, 0, 0, 0, 0, 0, 1))[0], (2,))


@pytest.mark.parametrize("function", [cut_elsewhere, reflected, picked])
def test_other_cuts_stay(function):
    record, counts = run(function, torch.randn(3, 3, 5, 2))
    assert record.matches == 0
    assert counts["pad"] == 1


def test_padding_that_another_sees_stays_for_it():
    def function(x):
        y = F.pad(x.sin(), (0, 0, 0, 2))
        return F.layer_norm(y[..., :5, :], (2,)), y.cos()

    record, counts = run(function, torch.randn(3, 3, 5, 2))
    assert record.matches == 1
    assert counts["pad"] == 1
