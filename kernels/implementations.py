"""The implementations of the ops: what each runs on, what it refuses, how it is loaded, and which is the fastest.

`TABLE` is all that the public functions, the ops, the passes and the backend know of them. To add one, write its ops,
give them their rules where they are loaded (`register_rules` of `scan.rules` and of `recurrence.ops`), and add a row.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import torch

Name = Literal["reference", "chunked", "cpp", "triton"]  # the keys of `TABLE`


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to compute `mvc::selective_scan` and `mvc::linear_recurrence`.

    Attributes:
        suffix: of the names of its ops, `mvc::selective_scan{suffix}` and `mvc::linear_recurrence{suffix}`.
        devices: the types of the devices that it runs on; any, where there are none. Tensors on "meta", which have no
            values, need none.
        refused: dtypes of results that it does not compute.
        available: registers its ops when it is first called, and returns whether they are there.
    """

    suffix: str
    devices: tuple[str, ...] = ()
    refused: tuple[torch.dtype, ...] = ()
    available: Callable[[], bool] = lambda: True

    def runs_on(self, device: torch.device) -> bool:
        return not self.devices or device.type in self.devices


def _cpp_available() -> bool:
    from mvc.kernels import cpu_scan

    return cpu_scan.available()


@functools.cache
def triton_available() -> bool:
    """Whether the Triton ops could be registered; registers them."""
    try:
        import mvc.kernels.attention.triton_ops
        import mvc.kernels.convolution.triton_ops
        import mvc.kernels.linear.triton_ops
        import mvc.kernels.recurrence.triton_ops
        import mvc.kernels.scan.triton_ops  # noqa: F401
    except ImportError:
        return False
    return True


# By the name that `impl` accepts, the fastest last. The reference has no ops: it is the oracle, in plain torch.
TABLE: dict[str, Implementation] = {
    "reference": Implementation("_reference"),
    "chunked": Implementation("_chunked"),
    "cpp": Implementation("_cpu", ("cpu",), (torch.float64,), _cpp_available),
    "triton": Implementation(
        "_triton", ("cuda",), (torch.float64, torch.complex64, torch.complex128), triton_available
    ),
}


def refusal(name: str, device: torch.device, dtype: torch.dtype, argument: str = "the result") -> str | None:
    """Why the implementation `name` refuses a dtype, as one sentence, or None where it does not.

    Args:
        device, dtype: of what the sentence calls `argument`.
    """
    if dtype not in TABLE[name].refused:
        return None
    others = [each for each in reversed(TABLE) if TABLE[each].runs_on(device) and dtype not in TABLE[each].refused]
    return f"{argument} is {dtype}, which impl={name!r} does not accept; use {' or '.join(map(repr, others))}"


def fastest(device: torch.device, dtype: torch.dtype) -> str:
    """The name of the fastest implementation on a device for results of a dtype; loads it."""
    names = (name for name in reversed(TABLE) if TABLE[name].runs_on(device))
    return next(name for name in names if obstacle(name, device, dtype) is None)


@torch.compiler.assume_constant_result  # one constant in a graph, without guards on the table
def obstacle(name: str, device: torch.device, dtype: torch.dtype, argument: str = "the result") -> str | None:
    """Why the implementation `name` cannot run, as one sentence, or None where it can; loads it.

    Args:
        device, dtype: of what the sentence calls `argument`.
    """
    implementation = TABLE[name]
    if (reason := refusal(name, device, dtype, argument)) is not None:
        return reason
    if device.type != "meta" and not implementation.runs_on(device):
        devices = " or ".join(implementation.devices)
        return f"impl={name!r} runs on {devices}, {argument} is on {device}; leave impl out for the best for a device"
    if not implementation.available():
        return f"impl={name!r} is not available here; leave it out, or use 'chunked'"
    return None


def check(name: str | None, device: torch.device, dtype: torch.dtype, argument: str) -> None:
    """Raise ValueError for an unknown implementation or one that cannot run, TypeError for a dtype that it refuses.

    Args:
        name: None, where the fastest is to run, passes.
        device, dtype, argument: as `obstacle` accepts them.
    """
    if name is None:
        return
    if not isinstance(name, str) or name not in TABLE:
        raise ValueError(f"impl is {name!r}; it must be None or one of {', '.join(map(repr, TABLE))}")
    if (reason := obstacle(name, device, dtype, argument)) is not None:
        raise (TypeError if dtype in TABLE[name].refused else ValueError)(reason)


def op_name(portable: str, implementation: str | None) -> str:
    """The name of the op by which an implementation computes a portable op; the portable one's own for None."""
    return portable if implementation is None else portable + TABLE[implementation].suffix
