"""What a pass is: a rewrite of Dynamo's graph in place, with its count of matches and its near misses."""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
import inspect
import os
from pathlib import Path
from typing import ClassVar, NamedTuple

from torch import fx

from mvc.passes.graph.fx_utils import source_line


class Declined(Exception):
    """Why a pass leaves code alone.

    Attributes:
        node: what shows it, where that is not the node that the pass looked at.
    """

    def __init__(self, reason: str, node: fx.Node | None = None) -> None:
        super().__init__(reason)
        self.node = node


class NearMiss(NamedTuple):
    """Code that looks like what a pass rewrites, and why it was left alone."""

    node: str
    reason: str
    source: str  # "file.py:12: code" of the user's program, or "" where it is not known

    @classmethod
    def at(cls, node: fx.Node, reason: str) -> NearMiss:
        return cls(node.name, reason, source_line(node))


@dataclasses.dataclass
class Outcome:
    """What one run of a pass did."""

    matches: int = 0
    near_misses: list[NearMiss] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Pass(abc.ABC):
    """A rewrite of a graph of torch calls as Dynamo writes it: functions, operators and methods, before autograd.

    A subclass is a frozen dataclass whose fields are its options. It must keep what the graph computes, keep
    `meta["example_value"]` on the nodes that it inserts (`fx_utils.insert` does), and mutate no input. Where it puts
    nodes in the place of others, `Surroundings` keeps what the program sees of them: strides, memory and contexts.
    """

    name: ClassVar[str]
    needs_frozen: ClassVar[bool] = False  # whether it pays only where parameters stay as they are
    inference_only: ClassVar[bool] = False  # whether what it inserts has no backward

    @abc.abstractmethod
    def __call__(self, graph: fx.Graph) -> Outcome:
        """Rewrite the graph in place; dead nodes may be left behind, the pipeline removes them."""

    def uuid(self) -> str:
        """A digest of the sources and options: equal digests make equal rewrites.

        For a class whose source is not in a file it differs each time, so that no cached code is ever taken.
        """
        try:
            own = Path(inspect.getsourcefile(type(self))).read_bytes()
        except (TypeError, OSError):
            own = os.urandom(16)
        return hashlib.sha256(shared_sources() + own + repr(self).encode()).hexdigest()


@functools.cache
def shared_sources() -> bytes:
    """Digest of every source in `mvc.passes`, since passes share code, and in `mvc.kernels`, whose ops they write."""
    digest = hashlib.sha256()
    passes = Path(__file__).parent
    for folder in (passes, passes.with_name("kernels")):
        for source in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".cpp", ".h")):
            digest.update(source.read_bytes())
    return digest.digest()
