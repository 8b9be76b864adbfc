"""In which context each node of a graph runs: gradients, inference mode, autocast, and what else calls switch."""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from mvc.passes import torch_private
from mvc.passes.graph.fx_utils import call_target, value

AUTOCAST_DEVICES = ("cpu", "cuda", "xpu", "mps")


@dataclasses.dataclass(frozen=True)
class Context:
    """What is switched on where a node runs. Blocks that change nothing leave it equal."""

    gradients: bool
    inference: bool
    autocast: frozenset[tuple[str, torch.dtype]]  # the devices for which it is on
    others: tuple[fx.Node, ...] = ()  # calls before that switch something else
    transforms: tuple[str, ...] = dataclasses.field(default=(), compare=False)  # of torch.func, the innermost last

    @classmethod
    def current(cls) -> Context:
        """What is switched on now."""
        autocast = frozenset(_autocast_around().items())
        return cls(torch.is_grad_enabled(), torch.is_inference_mode_enabled(), autocast)

    def difference(self, other: Context) -> str:
        """A sentence on what is switched between the two."""
        if self.gradients != other.gradients or self.inference != other.inference:
            return "gradients are switched on or off inside it"
        if self.autocast != other.autocast:
            return "autocast is switched on or off inside it"
        switch = max(self.others, other.others, key=len)[-1]
        return f"{getattr(switch.target, '__name__', switch.target)} is called inside it"


class Contexts:
    """The context of each node of a graph, nodes that are inserted later included."""

    def __init__(self, graph: fx.Graph) -> None:
        kinds = ((node, torch_private.switch(node), torch_private.transform(node)) for node in graph.nodes)
        switches = [each for each in kinds if each[1] or each[2]]
        self._switches = [node for node, *_ in switches]
        self._first = Context.current()
        self._after: list[Context] = []
        gradients, blocks, others, transforms = self._first.gradients, [], (), ()
        for node, kind, transform in switches:
            if transform is not None:
                transforms = transforms[:-1] if transform == "leave" else (*transforms, transform)
            if kind == "gradients":
                gradients = node.args[0]
            elif kind == "leave":
                blocks = [block for block in blocks if block is not node.args[0]]
            elif kind == "other":
                others = (*others, node)
            elif kind is not None:
                blocks = [*blocks, node]
            self._after.append(_context(gradients, blocks, others, transforms))

    def of(self, node: fx.Node) -> Context:
        after = bisect.bisect_left(self._switches, node)  # nodes are ordered as they stand in the graph
        return self._after[after - 1] if after else self._first

    @property
    def transformed(self) -> bool:
        """Whether any node is inside a transform of torch.func."""
        return any(context.transforms for context in self._after)

    def obstacle(self, nodes: Iterable[fx.Node], *, but_for_autocast: bool = False) -> str | None:
        """Why the nodes cannot be computed at one place; None where they all run in one context.

        Args:
            but_for_autocast: leave that out, where the dtypes of the results say what it did.
        """
        if not self._switches:
            return None
        contexts = dict.fromkeys(map(self.of, nodes))
        if but_for_autocast:
            contexts = dict.fromkeys(dataclasses.replace(each, autocast=frozenset()) for each in contexts)
        first, *others = contexts or [self._first]
        if others:
            return first.difference(others[0])
        if first.inference != self._first.inference:
            return "inference mode is switched on around it, where torch compiles no ops but its own"
        if "jvp" in first.transforms:
            return "torch.func.jvp is around it, for which ops have no rule"
        return None

    @contextlib.contextmanager
    def inside(self, node: fx.Node) -> Iterator[None]:
        """Example values are computed in this block as in the node's context."""
        context = self.of(node)
        with contextlib.nullcontext() if context == self._first else entered(context):
            yield

    def computed(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """What the node's call returns for these values of its arguments, for their example values where they have
        none there."""
        args, kwargs = map_arg((node.args, node.kwargs), lambda each: values.get(each, value(each)))
        with torch_private.fake_mode(map(value, node.all_input_nodes)), self.inside(node):
            return call_target(node, args, kwargs)


@contextlib.contextmanager
def entered(context: Context) -> Iterator[None]:
    """Gradients and autocast are switched in this block as the context has them."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(context.gradients and not context.inference))
        on = dict(context.autocast)
        for device in on.keys() | _autocast_around().keys():
            stack.enter_context(torch.autocast(device, on.get(device), enabled=device in on))
        yield


def _context(
    gradients: bool, blocks: Sequence[fx.Node], others: tuple[fx.Node, ...], transforms: tuple[str, ...]
) -> Context:
    inference, autocast = torch.is_inference_mode_enabled(), _autocast_around()
    for block in blocks:
        if torch_private.switch(block) == "inference":
            (inference,) = block.args
            continue
        device, dtype, enabled, _ = block.args
        autocast.pop(device, None)
        if enabled:
            autocast[device] = torch.get_autocast_dtype(device) if dtype is None else dtype
    return Context(gradients, inference, frozenset(autocast.items()), others, transforms)


def _autocast_around() -> dict[str, torch.dtype]:
    """The devices for which autocast is on around the graph."""
    devices = [device for device in AUTOCAST_DEVICES if torch.amp.is_autocast_available(device)]
    return {device: torch.get_autocast_dtype(device) for device in devices if torch.is_autocast_enabled(device)}
