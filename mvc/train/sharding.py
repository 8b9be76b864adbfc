"""What the processes of a training share: sharded weights, whole states of them, and the statistics of BatchNorm."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as states
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from mvc.model.module import MambaVision
from mvc.processes import Processes

WHOLE = states.StateDictOptions(full_state_dict=True, cpu_offload=True)
_serial = itertools.count()


def shard(model: MambaVision, processes: Processes, *, backend: str) -> None:
    """Spread a model's weights over the processes, block by block (FSDP2), and compile each block for itself.

    What the processes exchange lies between the compiled parts. A block that is computed again in the backward is so
    within its compiled part: around it, the checkpoint would meet other tensors the second time.
    """
    model.to(memory_format=torch.contiguous_format)  # FSDP2 asks for it
    mesh = init_device_mesh(processes.device.type, (processes.count,))
    for level in model.levels:
        for block in level.blocks:
            if backend != "eager":
                block.forward = _compiled(block.forward, backend, recompute=level.grad_checkpointing)
            fully_shard(block, mesh=mesh)
        level.grad_checkpointing = level.grad_checkpointing and backend == "eager"
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def _compiled(forward: Callable[[Tensor], Tensor], backend: str, *, recompute: bool) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        again = recompute and torch.is_grad_enabled()
        return checkpoint(forward, x, use_reentrant=False) if again else forward(x)

    # Dynamo counts graphs by code object, and each block has its own rate of stochastic depth.
    run.__code__ = run.__code__.replace(co_name=f"block_{next(_serial)}")
    return torch.compile(run, backend=backend, fullgraph=True, dynamic=False)


def whole(tree: Any) -> Any:
    """A tensor, or dicts and lists of some, with every sharded one gathered; all processes call it."""
    return _changed(tree, lambda tensor: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor)


def _changed(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {name: _changed(entry, change) for name, entry in tree.items()}
    return [_changed(entry, change) for entry in tree] if isinstance(tree, list) else tree


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """A model's tensors, whole and on the CPU. All processes call it; the first one alone gets them."""
    return states.get_model_state_dict(model, options=WHOLE)


def load_model_state(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The inverse of `model_state`; every process has the tensors."""
    states.set_model_state_dict(model, tensors, options=states.StateDictOptions(full_state_dict=True))


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state, whole and on the CPU; all processes call it and get it.

    timm's LAMB counts its steps in the parameter groups, which `torch.distributed.checkpoint` does not take for state.
    """
    return _changed(whole(optimizer.state_dict()), lambda tensor: tensor.cpu())


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The inverse of `optimizer_state`."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    own = {
        place: {name: _like(parameters[place], entry) for name, entry in entries.items()}
        for place, entries in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": own})


def _like(parameter: nn.Parameter, entry: Any) -> Any:
    """A tensor of a parameter's shape, sharded as it is."""
    if isinstance(parameter, DTensor) and isinstance(entry, Tensor) and entry.shape == parameter.shape:
        return distribute_tensor(entry.to(parameter.device), parameter.device_mesh, parameter.placements)
    return entry


def average_buffers(model: nn.Module, processes: Processes) -> None:
    """Give all processes the mean of their statistics of BatchNorm, which then count the images of all of them."""
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if processes.count == 1 or not buffers:
        return
    together = torch.cat([buffer.flatten() for buffer in buffers])
    processes.add(together)
    parts = (together / processes.count).split([buffer.numel() for buffer in buffers])
    for buffer, part in zip(buffers, parts, strict=True):
        buffer.copy_(part.view_as(buffer))
