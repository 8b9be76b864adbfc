"""What a machine lacks for a run, as sentences of a command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mvc.compile import torch_private
from mvc.errors import UserError


@contextlib.contextmanager
def machine_limits(*, remedy: str = "use a smaller --batch or --size") -> Iterator[None]:
    """Turn errors about what the machine lacks into one sentence with its remedy.

    Args:
        remedy: of a lack of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if torch_private.is_out_of_memory(error) or "Storage size calculation overflowed" in text:
            raise UserError(f"out of memory; {remedy}") from error
        if "not implemented for" in text:
            raise UserError(f"this device cannot run the chosen --dtype ({text}); use --dtype float32") from error
        raise
