"""Loops that update their state in place, as h.mul_(a[t]).add_(b[t]): the same tensor is another state in each step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from torch import fx

from mvc.passes.base import Declined
from mvc.passes.graph.memory import storages, written_by
from mvc.passes.graph.torch_ops import call
from mvc.passes.raising.chains import LEAST_STEPS, line_of


def name_states(graph: fx.Graph) -> None:
    """Let what reads a tensor after a call that wrote to it read what the call returns, which is that tensor."""
    writes = [node for node in graph.nodes if _returns_what_it_writes(node)]
    often = {line for line, count in Counter(map(line_of, writes)).items() if count >= LEAST_STEPS}
    for write in writes:
        if line_of(write) in often:
            (tensor,) = written_by(write)
            for user in [*tensor.users]:
                if write < user:
                    user.replace_input_with(tensor, write)


def check(loop: Iterable[fx.Node]) -> None:
    """Raise Declined where what the loop writes to is given to the graph, or is read afterwards by an older name, a view
    say."""
    for write in loop:
        for tensor in written_by(write):
            memory = storages(tensor)
            for other in write.graph.nodes:
                if not other < write:
                    break
                if not storages(other) & memory:
                    continue
                if other.op in ("placeholder", "get_attr"):
                    raise Declined(f"{write.name} writes to {other.name}, which others see", write)
                if any(write < user for user in other.users):
                    raise Declined(f"{other.name} is read after {write.name} has written to its memory", write)


def _returns_what_it_writes(node: fx.Node) -> bool:
    known = call(node)
    return known is not None and known.name.endswith("_") and len(written_by(node)) == 1
