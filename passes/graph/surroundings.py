"""What surrounds the nodes that a pass replaces: the context they run in, and who sees their memory and their strides.

A program sees of a tensor more than its values: what it returns has strides and an offset, shares memory or not, is
kept alive whole; views and `as_strided` depend on strides; a block that switches gradients or autocast changes what
is inside it and nothing else. Every pass that puts nodes in the place of others asks here.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from mvc.passes import torch_private
from mvc.passes.base import Declined
from mvc.passes.graph.contexts import Contexts
from mvc.passes.graph.fx_utils import Unfit, call_target, insert, value
from mvc.passes.graph.memory import (
    Holders,
    is_dense,
    memory_order,
    overlaps,
    reads_layout,
    same_strides,
    shares,
    storages,
    written_by,
)
from mvc.passes.graph.torch_ops import Kind, is_kind
from mvc.passes.torch_private import surely_at_most, surely_equal

MOST_FOLLOWED = 2048  # nodes after a change of strides; to copy is cheaper than to follow more


class Surroundings:
    """Who sees the memory of a graph's nodes; replaces nodes so that nobody sees a difference.

    Memory is seen that the graph is given, returns, writes to, or hands to a call that reads more than values:
    `as_strided`, compile regions and other higher-order operators, custom ops, Python's functions.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph

    @functools.cached_property
    def contexts(self) -> Contexts:
        return Contexts(self.graph)

    @functools.cached_property
    def _memory(self) -> Holders:
        return Holders.of(self.graph)

    @contextlib.contextmanager
    def at(self, node: fx.Node) -> Iterator[Callable[[], None]]:
        """What is inserted in this block stands before the node, in its context, and is erased where the block fails.

        The block is given what erases it. It fails with Declined where a call does not take what it would be given.
        """
        _ = self._memory  # of the graph as the program has it
        before = node.prev

        def undo() -> None:
            while node.prev is not before:
                self.graph.erase_node(node.prev)

        with self.graph.inserting_before(node), self.contexts.inside(node):
            try:
                yield undo
            except Unfit as error:
                undo()
                raise Declined(str(error)) from error
            except Exception:
                undo()
                raise

    def writer(self, node: fx.Node) -> fx.Node | None:
        """A call that writes to the node's memory."""
        return next((self._memory.writers[each] for each in storages(node) if each in self._memory.writers), None)

    def is_seen(self, node: fx.Node) -> bool:
        return self.writer(node) is not None or not self._memory.seen.isdisjoint(storages(node))

    def kept(self, node: fx.Node, *, after: fx.Node | None = None, leaving: Collection[fx.Node] = ()) -> fx.Node:
        """The node as a backward can keep it: a copy where the graph writes to its memory.

        Args:
            after: writes ahead of this node do not count.
            leaving: nor do those of nodes that are erased afterwards.
        """
        writer = self.writer(node)
        if writer is None or writer in leaving or (after is not None and writer < after):
            return node
        return insert(self.graph, "clone", node)

    def strides_matter(self, node: fx.Node, other: Tensor) -> bool:
        """Whether it would be seen that the node has the other tensor's strides."""
        try:
            self._follow({node: other})
        except Declined:
            return True
        return False

    def replace(self, pairs: Mapping[fx.Node, fx.Node], *, leaving: Collection[fx.Node] = ()) -> None:
        """Put new nodes, which compute the same, in the place of old ones.

        Copied is what would share memory that the program sees apart, the first that shares it excepted, what would
        keep more memory alive, and what the backward of a recurrence reads, since others may write to it. Where strides
        that are seen differ, the new node is copied into the old one's; into dense ones in the same order where those
        have gaps, as a view of more has that the graph no longer computes.

        Args:
            leaving: nodes that are erased afterwards, whatever they see.

        Raises:
            Declined: even so the program would see a difference. Nothing is replaced then.
        """
        for each, writer in [*self._memory.writers.items()] if leaving else ():
            if writer in leaving:
                del self._memory.writers[each]
        for old, new in pairs.items():
            if not _fits(value(old), value(new)):
                raise Declined(f"{old.name} is {value(old)} and would be {value(new)}", old)
        settled = {old: self._with_own_memory(old, self._with_gradients(old, new)) for old, new in pairs.items()}
        try:
            values = self._follow({old: value(new) for old, new in settled.items()}, leaving)
        except Declined:
            settled = {old: self._with_strides(old, new) for old, new in settled.items()}
            try:
                values = self._follow({old: value(new) for old, new in settled.items()}, leaving, returned=True)
            except Declined:
                self._erase_copies(pairs, settled)
                raise
        values |= {old: value(new) for old, new in settled.items()}
        self._follow_memory(values, leaving)
        for node, changed in values.items():
            if node in settled:
                node.replace_all_uses_with(settled[node])
            else:
                node.meta["example_value"] = changed
            self._memory.kept_alive.append(changed)

    def _erase_copies(self, pairs: Mapping[fx.Node, fx.Node], settled: Mapping[fx.Node, fx.Node]) -> None:
        """Erase what was to stand between the new nodes and the users of the old ones."""
        for old, node in settled.items():
            while node is not pairs[old]:
                (source,) = node.all_input_nodes
                self.graph.erase_node(node)
                node = source

    def _with_own_memory(self, old: fx.Node, new: fx.Node) -> fx.Node:
        before, after, memory = storages(old), storages(new), self._memory
        shared = any(memory.stands_for.get(each, before) != before for each in after) or _is_saved(new)
        larger = not surely_at_most(*(value(each).untyped_storage().nbytes() for each in (new, old)))
        apart = shared or larger or overlaps(value(new))
        if (shared and self.writer(new)) or (apart and self.is_seen(old)):
            new = self._copied(old, new)
            after = storages(new)
        if not before.isdisjoint(memory.seen):
            memory.seen |= after
        if (writer := self.writer(old)) is not None:
            memory.writers.update(dict.fromkeys(after, writer))
        for each in after:
            memory.stands_for.setdefault(each, before)
        memory.kept_alive.append(value(new))
        return new

    def _with_strides(self, old: fx.Node, new: fx.Node) -> fx.Node:
        fits = same_strides(value(old), value(new)) or is_dense(value(new), memory_order(value(old)))
        return new if fits else self._copied(old, new)

    def _copied(self, old: fx.Node, new: fx.Node) -> fx.Node:
        """The new node with memory of its own and the old one's strides, but for gaps."""
        order = memory_order(value(old))
        site = old if new < old else new.next
        insert_ = functools.partial(insert, self.graph)
        with self.graph.inserting_before(site), self.contexts.inside(site):
            copy = new if order == sorted(order) else insert_(torch.permute, new, order)
            if dense := is_dense(value(new), order):
                # Inductor drops a copy with the strides of its input, whose whole memory is kept alive then.
                copy = insert_(torch.movedim, insert_(torch.unsqueeze, copy, 0), 0, -1)
            copy = insert_("clone", copy, memory_format=torch.contiguous_format)
            copy = insert_(torch.squeeze, copy, -1) if dense else copy
            if order == sorted(order):
                return copy
            return insert_(torch.permute, copy, [order.index(axis) for axis in range(len(order))])

    def _with_gradients(self, old: fx.Node, new: fx.Node) -> fx.Node:
        """Detached, where gradients of the new node alone could be asked for."""
        if value(old).requires_grad or not value(new).requires_grad:
            return new
        site = old if new < old else new.next
        if not self.contexts.of(site).gradients:
            return new
        with self.graph.inserting_before(site), self.contexts.inside(site):
            return insert(self.graph, "detach", new)

    def _follow(
        self, changed: Mapping[fx.Node, Tensor], leaving: Collection[fx.Node] = (), *, returned: bool = False
    ) -> dict[fx.Node, Any]:
        """The new example values of what is computed from nodes that have other strides now, those included.

        Args:
            returned: that strides of what the graph returns have no gaps any more is accepted.

        Raises:
            Declined: the strides are seen, or to follow them is more than it is worth.
        """
        values = {node: new for node, new in changed.items() if not same_strides(value(node), new)}
        for user in _downstream(values):
            if (returned and user.op == "output") or user in changed or user in leaving:
                continue
            if reads_layout(user) or len(values) > MOST_FOLLOWED + len(changed):
                raise Declined(f"{user.name} depends on its strides", user)
            written = written_by(user)
            if written and values.keys().isdisjoint(written):
                continue  # it reads values alone
            result = self._recomputed(user, values)
            if not _alike(value(user), result):
                values[user] = result
        return values

    def _follow_memory(self, values: dict[fx.Node, Any], leaving: Collection[fx.Node]) -> None:
        """Add the new example values of what is in the memory of nodes that are in other memory now."""
        for user in _downstream(values):
            inputs = [value(each) for each in user.all_input_nodes if each in values]
            if user in values or user in leaving or torch_private.is_of_transform(user):
                continue  # where a transform is left, memory is that of a whole batch
            if shares(value(user), inputs):
                values[user] = self.contexts.computed(user, values)

    def _recomputed(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """What the call returns for inputs of other strides."""
        recorder = torch_private.EffectRecorder()
        try:
            with recorder:
                result = self.contexts.computed(node, values)
            after = _shares_inputs(node, values, result)
        except Exception as error:
            raise Declined(f"{node.name} fails with other strides", node) from error
        if recorder.random:
            raise Declined(f"{node.name} draws random numbers in the order of memory", node)
        before = shares(value(node), map(value, node.all_input_nodes))
        if before != after and self.is_seen(node):
            raise Declined(f"{node.name} is a view, and would be a copy, or the other way round", node)
        return result


def _downstream(values: Mapping[fx.Node, Any]) -> Iterator[fx.Node]:
    """The users of the nodes in the graph's order, each once, and those of users that become nodes themselves."""
    pending = [user for node in values for user in node.users]
    heapq.heapify(pending)
    while pending:
        user = heapq.heappop(pending)
        if (pending and pending[0] is user) or user in values:
            continue
        yield user
        if user in values:
            for each in user.users:
                heapq.heappush(pending, each)


def _shares_inputs(node: fx.Node, values: Mapping[fx.Node, Any], result: Any) -> bool:
    """Whether the call's result, computed from those values, is in the memory of one of them.

    What is reshaped is asked of tensors on the meta device: fake ones take axes for one that are none, as those of
    (4, 2, 1, 4) with the strides (2, 1, 1, 8) (torch 2.11 and 2.14), where torch fails or copies.
    """
    given = {each: values.get(each, value(each)) for each in node.all_input_nodes}
    tensors = {each: tensor for each, tensor in given.items() if isinstance(tensor, Tensor)}
    known = all(isinstance(each, int) for tensor in tensors.values() for each in (*tensor.shape, *tensor.stride()))
    if not is_kind(node, Kind.RESHAPE) or not known:
        return shares(result, given.values())
    metas = {
        each: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta") for each, t in tensors.items()
    }
    args, kwargs = map_arg((node.args, node.kwargs), lambda each: metas.get(each, given[each]))
    return shares(call_target(node, args, kwargs), metas.values())


def _is_saved(node: fx.Node) -> bool:
    """Whether the node is in the memory of states that their recurrence keeps for its backward."""
    memory, source = storages(node), node
    while source is not None:
        node, source = source, next((each for each in source.all_input_nodes if storages(each) == memory), None)
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(packet) == "mvc.linear_recurrence" and value(node).requires_grad


def _fits(first: Tensor, second: Tensor) -> bool:
    """Whether both are the same kind of tensor; sizes that are symbols may be equal under two names."""
    unlike = (
        isinstance(one, int) and isinstance(other, int) and one != other
        for one, other in zip(first.shape, second.shape, strict=False)
    )
    same_kind = (first.dtype, first.device, first.dim()) == (second.dtype, second.device, second.dim())
    return same_kind and not any(unlike)


def _alike(first: Any, second: Any) -> bool:
    pairs = zip(tree_leaves(first), tree_leaves(second), strict=True)
    return all(same_strides(one, two) if isinstance(one, Tensor) else surely_equal(one, two) for one, two in pairs)
