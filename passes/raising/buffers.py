"""Loops that read their state back from the tensor that they fill, as out[t] = a[t] * out[t - 1] + b[t]."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor, fx

from mvc.passes.base import NearMiss
from mvc.passes.graph.fx_utils import insert, shape, value
from mvc.passes.graph.memory import reads_layout, same_kind, storages, writes_by_memory
from mvc.passes.graph.torch_ops import Kind, filled_with, is_kind
from mvc.passes.graph.views import Part, index_parts, selection
from mvc.passes.raising.collectors import only_place
from mvc.passes.raising.in_place import Renamed

LEAST_NOTED = 8  # steps


class Place(NamedTuple):
    """One whole entry of a tensor along an axis, counted from the first."""

    axis: int
    index: int


def forward_writes(graph: fx.Graph) -> list[Renamed]:
    """Let what reads an entry of a new tensor, to which a call wrote once, read what was written; where none did, what
    the tensor is filled with."""
    writes, renamed = writes_by_memory(graph.nodes), []
    for tensor in graph.nodes:
        if is_kind(tensor, Kind.CONSTRUCTION) and len(storages(tensor)) == 1:
            (memory,) = storages(tensor)
            if len(filled := _entries(tensor, writes.get(memory, []), writes)) > 1:
                renamed += _forwarded(tensor, filled)
    return renamed


def read_back(graph: fx.Graph) -> Iterator[NearMiss]:
    """Loops of which each step reads more of a tensor than one entry that a step before has written."""
    for tensor in graph.nodes:
        writes = [user for user in tensor.users if user.target is operator.setitem and user.args[0] is tensor]
        if len(writes) < LEAST_NOTED:
            continue
        reads = sorted(user for user in tensor.users if user.users and min(writes) < user < max(writes))
        if 2 * len(reads) >= len(writes):
            reason = f"each step reads back more of {tensor.name} than the one entry that the step before has written"
            yield NearMiss.at(reads[0], f"no linear recurrence: {reason}")


def _entries(tensor: fx.Node, written: list[fx.Node], writes: dict[int, list[fx.Node]]) -> dict[Place, fx.Node]:
    """The calls that write to the tensor, where all of them write whole entries along one axis, each once, and nobody
    writes to what they write."""
    found: dict[Place, fx.Node] = {}
    for write in written:
        if write.target is not operator.setitem or write.args[0] is not tensor:
            return {}
        place, entry = _place(index_parts(write.args[1], len(shape(tensor))), tensor), write.args[2]
        if place is None or place in found or not isinstance(entry, fx.Node) or shape(entry) is None:
            return {}
        if any(each in writes for each in storages(entry)) or value(entry).dtype != value(tensor).dtype:
            return {}
        found[place] = write
    return found if len({place.axis for place in found}) == 1 else {}


def _place(parts: Sequence[Part] | None, tensor: fx.Node) -> Place | None:
    """Where an index that takes one whole entry takes it; None for any other."""
    part = only_place(parts)
    size = None if part is None else shape(tensor)[part.axis]
    return Place(part.axis, part.item % size) if isinstance(size, int) else None


def _forwarded(tensor: fx.Node, entries: dict[Place, fx.Node]) -> list[Renamed]:
    renamed, last = [], max(entries.values())
    for read in sorted(tensor.users):
        entry = _entry_of(tensor, read, entries) if read < last else None
        if entry is None:
            continue
        if _is_as(value(entry), value(read)):
            for user in [*read.users]:
                if entry not in user.all_input_nodes and user < last and not reads_layout(user):
                    user.replace_input_with(read, entry)
                    renamed.append(Renamed(user, read, entry))
        if not entry.users:
            entry.graph.erase_node(entry)
    return renamed


def _entry_of(tensor: fx.Node, read: fx.Node, entries: dict[Place, fx.Node]) -> fx.Node | None:
    """What the read entry is: what was written, or a new node of what the tensor is filled with."""
    chosen, fill = selection(read), filled_with(tensor)
    place = _place(chosen.parts, tensor) if chosen is not None and chosen.input is tensor else None
    if place in entries:
        return entries[place].args[2] if entries[place] < read else None
    if place is None or not isinstance(fill, (int, float)) or not all(isinstance(size, int) for size in shape(read)):
        return None
    with tensor.graph.inserting_after(tensor):
        return insert(tensor.graph, "new_full", tensor, tuple(shape(read)), fill)


def _is_as(entry: Tensor, read: Tensor) -> bool:
    """Whether what was written is what is read, gradients included, which a write may have left behind."""
    return same_kind(entry, read) and entry.requires_grad == read.requires_grad
