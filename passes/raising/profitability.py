"""Whether an unrolled loop of few steps is worth raising, by what passes through memory.

Inductor computes such a loop in one pass over the elements of a state, its states in registers. Raised, the recurrence
is an op that fuses with nothing: what is computed for it, and what is computed of its states, passes through memory,
and the op's call has its price. In exchange it reads everything once. Inductor's code reads its operands again where

- it is a selective scan: each step's sum computes the exponentials of all steps before it anew;
- gradients of a sequence are asked for whose slices were taken one by one: their gradients are added up as tensors of
  all steps, zero but for one, and each element of these computes every step.

The rule counts the bytes of both. Its constants were measured on CPUs (`python bench/passes.py short`); on a GPU the
same code is fused, so that the same bytes count, but nothing was measured there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import fx

from mvc.passes.base import Declined
from mvc.passes.graph.fx_utils import value
from mvc.passes.graph.torch_ops import MOVEMENTS, is_call, is_kind
from mvc.passes.raising.affine import needed
from mvc.passes.raising.loop_steps import RolledLoop
from mvc.passes.raising.scan_match import match
from mvc.passes.raising.slices import Slices
from mvc.passes.torch_private import example_size, fake_mode, surely_equal

ALWAYS_ABOVE = 64  # steps: Inductor puts no more nodes into one kernel, and needs a minute and more to compile them
CALL = 4e5  # bytes that pass through memory in the time that a call of the op takes besides its work
AGAIN = 1 / 3  # what reading operands again costs, as a share of reading them at first
CACHE = 4e6  # bytes that the backward reads again at no cost
CROWDED = 320  # steps with which Inductor's one pass, at a place in memory for each, takes twice its time
GAIN = 0.85  # a loop is raised for at most this share of the bytes: the estimate is off by as much


class Traffic(NamedTuple):
    """Bytes through memory: of the raised loop, and of Inductor's own code for it."""

    raised: float
    fused: float


class Costly(Declined):
    """Inductor's own code is as fast."""


def check(loop: RolledLoop, output: fx.Node, picked: Mapping[fx.Node, fx.Node]) -> None:
    """Raise Costly where the raised loop is not expected to be faster than Inductor's own code.

    Args:
        loop: the loop.
        output: a node, not yet in its place, that computes for all steps what the loop gives.
        picked: for single steps' results that others use, the nodes that will take their places.
    """
    if loop.length > ALWAYS_ABOVE or value(loop.initials[0].like).is_complex():  # for which Inductor has no code
        return
    raised, fused = estimate(loop, output, picked)
    if raised <= GAIN * fused:
        return
    elements = _numel(value(loop.initials[0].like).shape)
    raise Costly(
        f"left alone: {loop.length} steps over {elements:,} elements, which Inductor computes in one pass of "
        f"{fused / 1e6:.2g} MB; raised they cost {raised / 1e6:.2g} MB"
    )


def estimate(loop: RolledLoop, output: fx.Node, picked: Mapping[fx.Node, fx.Node]) -> Traffic:
    """What the forward moves, and the backward where gradients are asked for."""
    copied = [*picked.values()]  # out of the states
    if loop.collector is None and loop.is_read_by_step:
        copied = []  # what reads a state in each step is collected, and will be computed of all states
    n, sequences = loop.length, [_Sequence.of(each) for each in loop.sequences]
    given = {*(node for each in loop.sequences for node in each.nodes), *loop.additional}
    given.update(each.first for each in loop.initials if isinstance(each.first, fx.Node))
    nodes = {node for each in (output, *copied) for node in needed(each, given)}
    recurrences = [node for node in nodes if node.target is torch.ops.mvc.linear_recurrence.default]
    if not recurrences:
        return Traffic(0, 0)

    read, written = sum(each.bytes for each in sequences), _bytes(output) + sum(map(_bytes, copied))
    states, factors = (sum(map(_bytes, each)) for each in (recurrences, (node.args[0] for node in recurrences)))
    apart = sum(_bytes(term) for node in recurrences for term in node.args[:2] if _is_computed(term, given))
    behind = states if _is_computed(output, {*recurrences}) else 0
    absorbed = all(map(_is_selective_scan, recurrences))
    # Tensors between two kernels are written and read. Of the backward's, those are the factors moved by a step, what
    # reaches the states, and with gradients of the factors the states moved by a step, which the forward keeps.
    calls, again = CALL * len(recurrences), AGAIN * (n - 1)

    copies = sum(map(_bytes, copied))
    fused = read + written + (again / 2 * read if absorbed else 0)
    raised = read + written + calls + (0 if absorbed else 2 * apart + 2 * behind + 2 * copies)
    if value(loop.outputs[0]).requires_grad:
        learned = any(value(node.args[0]).requires_grad for node in recurrences)
        kept = written + (read if learned or apart else 0)
        gradients = sum(each.bytes for each in sequences if each.learned)
        one_by_one = max((each.bytes for each in sequences if each.learned and each.one_by_one), default=0)
        far = sum(each.span for each in sequences) > CACHE
        fused += kept + gradients + (again * min(1, one_by_one / states) * kept if far else 0)
        raised += 2 * calls
        if absorbed:
            raised += written
        else:
            raised += kept + gradients + 2 * factors + (3 if learned else 2) * states + 2 * behind + 2 * copies
    return Traffic(raised, fused * (1 + n / CROWDED))


class _Sequence(NamedTuple):
    """What the steps take one slice each of.

    Attributes:
        bytes: of all slices.
        span: of the memory from a slice to the last one, where they lie inside of other axes.
        learned: whether gradients of it are asked for.
        one_by_one: whether each slice is taken by a call of its own.
    """

    bytes: int
    span: int
    learned: bool
    one_by_one: bool

    @classmethod
    def of(cls, slices: Slices) -> _Sequence:
        fake = value(slices.tensor)
        with fake_mode([fake]):
            whole = fake[slices.template]
        size = _numel(whole.shape) * whole.itemsize
        span = _numel((whole.shape[slices.dim], whole.stride(slices.dim))) * whole.itemsize
        cut = any(is_call(user, "unbind", "split", "chunk") for user in slices.tensor.users)
        return cls(size, min(size, span), fake.requires_grad, not cut)


def _is_computed(node: fx.Node, given: set[fx.Node]) -> bool:
    """Whether the node is more than a view of what is given."""
    return any(not is_kind(each, *MOVEMENTS) or is_call(each, "flip") for each in needed(node, given))


def _is_selective_scan(node: fx.Node) -> bool:
    """Whether `raise_scan` will absorb what is around the recurrence."""
    try:
        match(node)
    except Declined:
        return False
    return True


def _bytes(node: fx.Node) -> int:
    """What its elements take, each of those that are broadcast once."""
    fake = value(node)
    sizes = [size for size, stride in zip(fake.shape, fake.stride(), strict=True) if not surely_equal(stride, 0)]
    return _numel(sizes) * fake.itemsize


def _numel(sizes: Sequence[int | torch.SymInt]) -> int:
    """Of the example: it decides once for all sizes, and what is not known of it counts nothing."""
    return math.prod(example_size(size) or 1 for size in sizes)
