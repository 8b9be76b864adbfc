"""The private torch API that `mvc.export` uses, in this one place; `tests/export/test_export_torch_private.py` calls
all of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx


class Unserved(Exception):
    """A program holds for a part of the range that was asked for; the message says for which."""


def mark_free(x: Tensor, axis: int, low: int, high: int) -> None:
    """Have Dynamo trace x with this size unknown, and raise where the trace holds for a part of the range alone."""
    torch._dynamo.mark_dynamic(x, axis, min=low, max=high)


def range_violation(error: BaseException | None) -> str | None:
    """Why a trace holds for a part of its range alone, in one line; None for other errors."""
    from torch._dynamo.exc import UserError as TorchUserError
    from torch.fx.experimental.symbolic_shapes import ConstraintViolationError

    while error is not None:
        if isinstance(error, ConstraintViolationError) or (
            isinstance(error, TorchUserError) and "onstraint" in str(error)
        ):
            lines = [line.strip(" -") for line in str(error).splitlines()]
            said = (line for line in lines if line.startswith("Not all values") or "generated guard" in line)
            return next(said, lines[0])
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def no_new_guards(program: torch.export.ExportedProgram) -> Iterator[None]:
    """Raise Unserved where the block narrows the sizes that the program was exported for.

    Whoever runs an exported program does not look at guards that come after its export.
    """
    environment = _shape_environment(program.graph)
    if environment is None:
        yield
        return
    before = _assumptions(environment)
    yield
    added = [each for each in _assumptions(environment) if each not in before]
    if added:
        raise Unserved(f"it holds only where {' and '.join(added)}")


def _shape_environment(graph: fx.Graph) -> Any:
    for node in graph.nodes:
        if isinstance(node.meta.get("val"), torch.Tensor) and hasattr(node.meta["val"], "fake_mode"):
            return node.meta["val"].fake_mode.shape_env
    return None


def _assumptions(environment: Any) -> list[str]:
    guards = [str(guard.expr) for guard in environment.guards]
    return [*guards, *(f"{symbol} is {other}" for symbol, other in environment.replacements.items())]
