"""What a trace takes for granted of free sizes, and whether that holds for all of them.

torch refuses to trace a model where it cannot prove a condition on one size for the size's whole range. Conditions on
several sizes become guards, at which nobody looks who runs a file, and those that come after a trace are dropped. Here
each is computed for every size.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping

import sympy
import torch
from torch import Tensor, fx

from mvc.export import torch_private
from mvc.export.sizes import Range

# Symbols of free sizes, with the names and the ranges of their axes.
Axes = Mapping[sympy.Symbol, tuple[str, Range]]

AT_ONCE = 2**20  # so many sizes are computed together
MOST = 2**28  # a condition on more of them counts as one that does not hold


class Unserved(Exception):
    """A program holds for a part of the range that was asked for; the message says for which."""


@contextlib.contextmanager
def kept(graph: fx.Graph, axes: Axes | None = None) -> Iterator[None]:
    """Raise Unserved where the block narrows the graph's sizes, or decides something that does not hold for all.

    Args:
        graph: Dynamo's or torch.export's; other graphs over its sizes may be made in the block.
        axes: as of `check`.
    """
    environment = torch_private.shape_environment(graph)
    if environment is None:
        yield
        return
    before = torch_private.limits(environment)
    with torch_private.dropped_guards(environment) as dropped:
        yield
    if narrowed := [each for each in torch_private.limits(environment) if each not in before]:
        raise Unserved(f"it holds only where {' and '.join(narrowed)}")
    check(graph, axes, dropped)


def check(graph: fx.Graph, axes: Axes | None = None, dropped: Iterable[sympy.Basic] = ()) -> None:
    """Raise Unserved where a graph was traced under a condition that does not hold for the whole range.

    Args:
        axes: of the graph's inputs. Without them each symbol is an axis of its own, unless torch knows it to be equal
            to another one.
        dropped: conditions that the graph's trace does not know of.
    """
    environment = torch_private.shape_environment(graph)
    if environment is None:
        return
    axes = axes or {}
    named = {symbol: sympy.Symbol(name, integer=True, positive=True) for symbol, (name, _) in axes.items()}
    ranges = {named[symbol]: limits for symbol, (_, limits) in axes.items()}
    guards = (*torch_private.guards(environment), *dropped)
    for guard in dict.fromkeys(torch_private.simplest(environment, each.xreplace(named)) for each in guards):
        if guard == sympy.true:
            continue
        free = sorted(guard.free_symbols, key=str)
        limits = {symbol: ranges.get(symbol) or torch_private.range_of(environment, symbol) for symbol in free}
        if (sizes := _where_broken(guard, limits)) is not None:
            seen = " and ".join(f"{symbol} {size}" for symbol, size in sizes.items())
            raise Unserved(f"it holds only where {guard}" + (f", which is not so for {seen}" if seen else ""))


def _where_broken(guard: sympy.Basic, limits: Mapping[sympy.Symbol, Range]) -> dict[sympy.Symbol, int] | None:
    """Sizes at which the guard does not hold, none if they are not known; None where it holds for all."""
    total = math.prod(high - low + 1 for low, high in limits.values())
    if not limits or total > MOST:
        return {}
    for start in range(0, total, AT_ONCE):
        sizes = _some(limits, start, min(start + AT_ONCE, total))
        holds = torch_private.computed(guard, sizes)
        if holds is None:
            return {}
        if not holds.all():
            place = int((~holds).nonzero()[0])
            return {symbol: int(each[place]) for symbol, each in sizes.items()}
    return None


def _some(limits: Mapping[sympy.Symbol, Range], start: int, end: int) -> dict[sympy.Symbol, Tensor]:
    """The sizes from one to another in the order of all combinations, the first symbol's fastest."""
    place, sizes = torch.arange(start, end), {}
    for symbol, (low, high) in limits.items():
        sizes[symbol] = low + place % (high - low + 1)
        place = place // (high - low + 1)
    return sizes
