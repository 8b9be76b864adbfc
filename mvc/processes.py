"""The processes of a command under torchrun: which one this is, and what they tell each other."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor

from mvc.errors import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Processes:
    """This process among those of the command.

    Attributes:
        rank: its number, from 0 on.
        count: how many there are.
        device: where this one computes.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that reads and writes files, and prints."""
        return self.rank == 0

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor, which is on `device`, by the sum over the processes."""
        if self.count > 1:
            torch.distributed.all_reduce(tensor)

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by their number."""
        if self.count == 1:
            return [value]
        values: list[T | None] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values

    def from_first(self, find: Callable[[], T]) -> T:
        """What `find` returns in the first process, in all of them; so is a UserError that it raises there. The others
        wait for it."""
        if self.count == 1:
            return find()
        found: list[object] = [None]
        if self.first:
            try:
                found = [find()]
            except UserError as error:
                found = [error]
        torch.distributed.broadcast_object_list(found)
        if isinstance(found[0], UserError):
            raise found[0]
        return found[0]


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun has started; without torchrun there is one.

    They speak by NCCL on GPUs, of which each has its own, and by gloo elsewhere.

    Raises:
        UserError: a machine has more processes than GPUs.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(0, 1, device)
        return
    if device.type == "cuda":
        local, cards = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= cards:
            found = f"process {local} of this machine finds {cards} GPUs"
            raise UserError(f"{found}; start torchrun with --nproc-per-node {cards}")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(torch.distributed.get_rank(), count, device)
    finally:
        torch.distributed.destroy_process_group()
