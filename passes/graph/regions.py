"""The bodies of higher-order operators: graphs of their own, which a graph's calls hand to torch.

What a pass may do to a graph it may do to the bodies of the operators in `ENTERED`, as long as what they return keeps
its kind, its strides and its memory: `torch.cond` wants both branches alike, and no operator that loops may return what
it was given. The bodies of other operators are only looked at, so that a near miss can name what hides a recurrence.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from mvc.passes.graph import fx_utils
from mvc.passes.graph.contexts import Context, Contexts, entered
from mvc.passes.graph.fx_utils import value
from mvc.passes.graph.memory import memory, same_strides, storages, written_by
from mvc.passes.torch_private import surely_equal

# Where each operator takes its bodies.
ENTERED: dict[str, tuple[int, ...]] = {
    "invoke_subgraph": (0,),  # torch.compiler.nested_compile_region
    "tag_activation_checkpoint": (0,),  # torch.utils.checkpoint
    "wrap": (0,),
    "wrap_with_set_grad_enabled": (1,),
    "wrap_with_autocast": (4,),
    "autograd_function_apply": (0, 1),  # forward and backward
    "cond": (1, 2),
    "while_loop": (0, 1),
    "map_impl": (0,),
    "scan": (0,),
}


class Place(NamedTuple):
    """Where a body is called from."""

    context: Context
    hidden_by: str | None = None  # what keeps passes out


@dataclasses.dataclass
class Region:
    """A graph that passes look at: the outermost one, or a body.

    Attributes:
        name: "" for the outermost one, else the attributes under which modules hold it, as in "cond_true_0".
        module: the graph's.
        places: where it is called from, each once.
        callers: the modules that call it, and their attributes.
        call: the first call of it.
        transformed: whether it has transforms of torch.func in it.
    """

    name: str
    module: fx.GraphModule
    places: list[Place] = dataclasses.field(default_factory=list)
    callers: list[tuple[fx.GraphModule, str]] = dataclasses.field(default_factory=list)
    call: fx.Node | None = None
    transformed: bool = False

    @property
    def is_called(self) -> bool:
        """Whether it still is: a pass may have replaced the call."""
        attributes = (node for caller, _ in self.callers for node in caller.graph.find_nodes(op="get_attr"))
        names = {name for _, name in self.callers}
        return not self.callers or any(node.target in names and node.users for node in attributes)

    @property
    def obstacle(self) -> str | None:
        """Why passes leave it alone; None where they need not."""
        hidden = next((place.hidden_by for place in self.places if place.hidden_by), None)
        if hidden is None and len({place.context for place in self.places}) > 1:
            return f"it is called in two contexts: {self.places[0].context.difference(self.places[1].context)}"
        return hidden

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Passes look at it in this block, with gradients and autocast switched as where it is called."""
        with entered(self.places[0].context):
            yield


def regions(module: fx.GraphModule) -> list[Region]:
    """The module's own graph and all bodies that it calls, callers first."""
    found: dict[fx.GraphModule, Region] = {}
    _visit(found, "", module, Place(Context.current()))
    return list(found.values())


def op_counts(module: fx.GraphModule) -> Counter[str]:
    """How often the module's graph and the bodies in it call each function, method or op; a body counts once."""
    return sum((fx_utils.op_counts(each.module.graph) for each in regions(module)), Counter())


def _visit(found: dict[fx.GraphModule, Region], name: str, module: fx.GraphModule, place: Place) -> Region:
    region = found.setdefault(module, Region(name, module))
    if place in region.places:
        return region
    region.places.append(place)
    with entered(place.context):
        contexts = Contexts(module.graph)
    region.transformed = contexts.transformed
    for node in module.graph.nodes:
        for attribute in _bodies(node):
            inside = Place(
                _context_in(node, contexts.of(node)), place.hidden_by or _hidden_by(node, attribute, contexts)
            )
            body = _visit(found, f"{name}.{attribute.target}".lstrip("."), getattr(module, attribute.target), inside)
            body.callers.append((module, attribute.target))
            body.call = body.call or node
    return region


def _bodies(node: fx.Node) -> list[fx.Node]:
    """What the node hands to a higher-order operator as graphs."""
    if not isinstance(node.target, torch._ops.HigherOrderOperator):
        return []
    owner = node.graph.owning_module
    attributes = (each for each in node.all_input_nodes if each.op == "get_attr")
    return [each for each in attributes if isinstance(getattr(owner, each.target, None), fx.GraphModule)]


def _hidden_by(node: fx.Node, attribute: fx.Node, contexts: Contexts) -> str | None:
    """What keeps passes out of a body."""
    operator = node.target.name()
    if not any(node.args[index] is attribute for index in ENTERED.get(operator, ())):
        return f"{operator} hides it, whose bodies are left as they are"
    if transforms := contexts.of(node).transforms:
        return f"{operator} hides it inside torch.func.{transforms[-1]}"
    if contexts.of(node).inference and not torch.is_inference_mode_enabled():
        return f"{operator} hides it inside inference mode, where torch compiles no ops but its own"
    if operator == "autograd_function_apply" and contexts.of(node).autocast:
        return f"{operator} hides it inside autocast, which its backward may not see"
    return None


def _context_in(node: fx.Node, around: Context) -> Context:
    """The context in a body of the operator; what else was switched before does not matter inside."""
    context = dataclasses.replace(around, others=())
    if node.target.name() == "wrap_with_set_grad_enabled":
        return dataclasses.replace(context, gradients=node.args[0])
    if node.target.name() == "wrap_with_autocast":
        device, dtype, enabled = node.args[:3]
        others = {each for each in context.autocast if each[0] != device}
        on = {(device, dtype or torch.get_autocast_dtype(device))} if enabled else set()
        return dataclasses.replace(context, autocast=frozenset(others | on))
    return context


# What a body shows of itself


def difference(before: fx.Graph, after: fx.Graph) -> str | None:
    """What an operator could see that has changed between two graphs of one body; None where nothing has.

    That is the kind, the strides and the memory of its results, and which inputs it writes to.
    """
    one, other = _results(before), _results(after)
    if len(one) != len(other) or not all(map(_alike, one, other)):
        return "results of another kind or with other strides"
    if _shared(before, one) != _shared(after, other):
        return "results that share other memory"
    return None if _written(before) == _written(after) else "other inputs that are written to"


def _results(graph: fx.Graph) -> list[Any]:
    return [value(each) if isinstance(each, fx.Node) else each for each in tree_leaves(graph.output_node().args)]


def _alike(one: Any, other: Any) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return one is other or surely_equal(one, other)
    kinds = ((each.dtype, each.device, each.requires_grad, each.dim()) for each in (one, other))
    sizes = zip(one.shape, other.shape, strict=False)
    return len(set(kinds)) == 1 and all(surely_equal(*pair) for pair in sizes) and same_strides(one, other)


def _shared(graph: fx.Graph, results: list[Any]) -> list[int]:
    """For each result the first input or result in whose memory it lies."""
    holders = [*map(storages, graph.find_nodes(op="placeholder")), *map(memory, results)]
    return [
        next((index for index, holder in enumerate(holders) if not holder.isdisjoint(own)), -1)
        for own in map(memory, results)
    ]


def _written(graph: fx.Graph) -> list[bool]:
    written = set().union(*(storages(each) for node in graph.nodes for each in written_by(node)))
    return [not written.isdisjoint(storages(each)) for each in graph.find_nodes(op="placeholder")]
