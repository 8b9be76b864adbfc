"""Loops that update their state in place, as h.mul_(a[t]).add_(b[t]): the same tensor is another state in each step."""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from torch import fx

from mvc.passes.base import Declined
from mvc.passes.graph.contexts import Contexts
from mvc.passes.graph.fx_utils import value
from mvc.passes.graph.memory import storages, writes_by_memory, written_by
from mvc.passes.graph.torch_ops import Kind, call, is_kind
from mvc.passes.raising.chains import LEAST_STEPS, line_of


class Renamed(NamedTuple):
    """A node that reads what a call returns in the place of the tensor that the call wrote to."""

    user: fx.Node
    tensor: fx.Node
    write: fx.Node


def name_states(graph: fx.Graph) -> list[Renamed]:
    """Let what reads a tensor after a call that wrote to it read what the call returns, which is that tensor."""
    writes = [node for node in graph.nodes if _returns_what_it_writes(node)]
    renamed = []
    often = {line for line, count in Counter(map(line_of, writes)).items() if count >= LEAST_STEPS}
    for write in writes:
        if line_of(write) in often:
            (tensor,) = written_by(write)
            for user in [*tensor.users]:
                if write < user:
                    user.replace_input_with(tensor, write)
                    renamed.append(Renamed(user, tensor, write))
    return renamed


def undo(graph: fx.Graph, renamed: list[Renamed]) -> None:
    """Give what is left of them their tensors again."""
    left = set(graph.nodes) if renamed else ()
    for user, tensor, write in reversed(renamed):
        if user in left and write in left:
            user.replace_input_with(write, tensor)
    for write in {each.write for each in renamed} & set(left):
        if is_kind(write, Kind.CONSTRUCTION) and not write.users:
            graph.erase_node(write)


def check(loop: Iterable[fx.Node], contexts: Contexts) -> None:
    """Raise Declined where others see what the loop writes to: because the graph is given it, or because it is read
    afterwards by an older name, a view say. So too where it writes behind autograd's back."""
    writes = writes_by_memory(sorted(loop))
    for write in itertools.chain(*writes.values()):
        if value(write) is not None and value(write).requires_grad and not contexts.of(write).gradients:
            raise Declined(f"{write.name} writes to a tensor with gradients where they are switched off", write)
    for node in write.graph.nodes if writes else ():
        for memory in storages(node) & writes.keys():
            if node.op in ("placeholder", "get_attr"):
                raise Declined(f"{writes[memory][0].name} writes to {node.name}, which others see", writes[memory][0])
            following = bisect.bisect_right(writes[memory], node)
            if following < len(writes[memory]) and node.users and writes[memory][following] < max(node.users):
                overwritten = writes[memory][following]
                raise Declined(f"{node.name} is read after {overwritten.name} has written to its memory", overwritten)


def _returns_what_it_writes(node: fx.Node) -> bool:
    known = call(node)
    return known is not None and known.name.endswith("_") and len(written_by(node)) == 1
