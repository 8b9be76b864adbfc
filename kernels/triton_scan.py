"""The selective scan on NVIDIA GPUs: how its Triton kernels are launched, and `mvc::selective_scan_triton`.

Importing this module imports triton and registers the op, whose schema torch infers from the annotations (torch 2.11
takes no other). Launches depend on shapes alone, so that results are the same in every run: many sequences run each in
one piece; where few channels of few sequences would leave a GPU idle, the length is cut into chunks that run side by
side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from mvc.kernels.rules import register_rules
from mvc.kernels.triton_backward import backward_kernel
from mvc.kernels.triton_forward import combine_kernel, forward_kernel, summary_kernel
from torch import Tensor
from torch.library import triton_op, wrap_triton

BLOCK = 32  # channels of a program: one for each thread of its one warp
FORWARD_WIDE, BACKWARD_WIDE = 4, 2  # steps read at once; the backward keeps the states of so many in registers
FORWARD_STATES, BACKWARD_STATES = 16, 8  # run by one launch, so that they fit in registers
PROGRAMS = 1024  # as many keep the largest GPUs busy
SHORTEST_CHUNK = 128  # steps; a multiple of both widths


class Launch(NamedTuple):
    """Sizes of a call and how it is cut."""

    batch: int
    length: int
    dim: int
    states: int
    groups: int
    chunk: int  # steps
    chunks: int

    @property
    def width(self) -> int:
        return self.dim // self.groups

    @property
    def blocks_per_group(self) -> int:
        return triton.cdiv(self.width, BLOCK)

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.groups * self.blocks_per_group, self.batch, self.chunks

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.length, self.dim, self.states, self.width, self.chunk

    def state_blocks(self, most: int) -> list[tuple[int, int]]:
        """(first, how many) of each block of at most so many states; a launch handles one."""
        return [(first, min(most, self.states - first)) for first in range(0, self.states, most)]


def plan(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Launch:
    batch, length, dim = u.shape
    groups = next((t.shape[2] for t in (B, C) if t.dim() == 4), 1)
    programs = batch * groups * triton.cdiv(dim // groups, BLOCK)
    chunks = max(1, min(PROGRAMS // programs, length // SHORTEST_CHUNK))
    chunk = triton.cdiv(triton.cdiv(length, chunks), SHORTEST_CHUNK) * SHORTEST_CHUNK
    return Launch(batch, length, dim, A.shape[1], groups, chunk, triton.cdiv(length, chunk))


class Inputs(NamedTuple):
    """The op's arguments as the kernels take them."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    initial_state: Tensor | None
    reset: Tensor | None
    softplus: bool
    reverse: bool

    @property
    def forward_states(self) -> int:
        """How many states a forward launch runs: with constant B or C, and with resets, fewer fit in registers."""
        crowded = self.reset is not None or self.B.dim() == 2 or self.C.dim() == 2
        return FORWARD_STATES // 2 if crowded else FORWARD_STATES


def _prepare(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, softplus, reverse) -> Inputs:
    if u.dtype == torch.float64:
        raise TypeError("the Triton scan takes no float64; use impl='chunked'")
    A, D, delta_bias, initial_state = (None if t is None else t.contiguous() for t in (A, D, delta_bias, initial_state))
    reset = None if reset is None else reset.view(torch.uint8)
    return Inputs(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, softplus, reverse)


def _strides(t: Tensor | None, rank: int) -> tuple[int, ...]:
    return (0,) * rank if t is None else t.stride()


def _weight_strides(t: Tensor) -> tuple[int, int, int, int]:
    """Over batch, length, groups (channels of a constant) and states."""
    return (0, 0, *t.stride()) if t.dim() == 2 else t.stride()


def _along_length(t: Tensor | None, wide: int) -> bool:
    """Whether `wide` neighbouring steps of a channel are one aligned piece of memory."""
    if t is None or t.stride(1) != 1 or t.stride(2) == 1:
        return False
    return t.stride(0) % wide == 0 and t.stride(2) % wide == 0 and t.storage_offset() % wide == 0


def _from_state(t: Tensor | None, first: int) -> Tensor | None:
    """`t`, whose last axis counts states, from state `first` on."""
    return t if t is None or first == 0 else t[..., first:]


def _chunk_states(
    inputs: Inputs, launch: Launch, x: Tensor, weights: Tensor, initial: Tensor | None, adjoint: bool
) -> Tensor:
    """What each chunk starts from, (chunks, batch, dim, states); `adjoint`: the gradients that end it."""
    shape = (launch.chunks, launch.batch, launch.dim, launch.states)
    own, decay = (x.new_empty(shape, dtype=torch.float32) for _ in range(2))
    z = inputs.z if adjoint else None
    against = inputs.reverse != adjoint
    for first, count in launch.state_blocks(inputs.forward_states):
        wrap_triton(summary_kernel)[launch.grid](
            x, inputs.delta, _from_state(inputs.A, first), _from_state(weights, first), z, inputs.delta_bias,
            inputs.reset, _from_state(own, first), _from_state(decay, first), *launch.sizes,
            *x.stride(), *inputs.delta.stride(), *_strides(z, 3), *_weight_strides(weights), *_strides(inputs.reset, 2),
            N=count, BLOCK=BLOCK, CONSTANT=weights.dim() == 2, SOFTPLUS=inputs.softplus, REVERSE=against,
            ADJOINT=adjoint, num_warps=1,
        )  # fmt: skip
    states = own[0].numel()
    wrap_triton(combine_kernel)[(triton.cdiv(states, 128),)](
        own, decay, initial, states, launch.chunks, BLOCK=128, REVERSE=against, num_warps=4
    )
    return own


def _forward(
    inputs: Inputs,
    launch: Launch,
    start: Tensor | None,
    *,
    y: Tensor | None = None,
    end: Tensor | None = None,
    checkpoint: Tensor | None = None,
) -> None:
    """Launch the forward for y and the end state, or for the checkpoints of the backward."""
    blocks = launch.state_blocks(inputs.forward_states)
    wide = FORWARD_WIDE if checkpoint is None else BACKWARD_WIDE
    several = checkpoint is None and len(blocks) > 1
    partial = inputs.u.new_empty(inputs.u.shape, dtype=torch.float32) if several else None
    for first, count in blocks:
        wrap_triton(forward_kernel)[launch.grid](
            inputs.u, inputs.delta, _from_state(inputs.A, first), _from_state(inputs.B, first),
            _from_state(inputs.C, first), inputs.D, inputs.z, inputs.delta_bias, _from_state(start, first),
            inputs.reset, partial, y, _from_state(end, first), _from_state(checkpoint, first), *launch.sizes,
            *inputs.u.stride(), *inputs.delta.stride(), *_strides(inputs.z, 3),
            *_weight_strides(inputs.B), *_weight_strides(inputs.C), *_strides(inputs.reset, 2), *_strides(y, 3)[:2],
            N=count, BLOCK=BLOCK, CONSTANT_B=inputs.B.dim() == 2, CONSTANT_C=inputs.C.dim() == 2,
            SOFTPLUS=inputs.softplus, REVERSE=inputs.reverse,
            U_ALONG=_along_length(inputs.u, wide), DELTA_ALONG=_along_length(inputs.delta, wide),
            Z_ALONG=_along_length(inputs.z, wide), FIRST=first == 0, LAST=first + count == launch.states, WIDE=wide,
            num_warps=1,
        )  # fmt: skip


@triton_op("mvc::selective_scan_triton", mutates_args={})
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    inputs = _prepare(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus, reverse)
    y = u.new_empty(u.shape)
    state_shape = (u.shape[0], *A.shape)
    if y.numel() == 0:
        last_state = u.new_zeros(state_shape, dtype=torch.float32)
        return y, last_state if initial_state is None else initial_state.clone(memory_format=torch.contiguous_format)
    last_state = u.new_empty(state_shape, dtype=torch.float32)
    _scan(inputs, y, last_state)
    return y, last_state


def _scan(inputs: Inputs, y: Tensor, last_state: Tensor | None) -> None:
    launch = plan(inputs.u, inputs.A, inputs.B, inputs.C)
    start = inputs.initial_state
    if launch.chunks > 1:
        start = _chunk_states(inputs, launch, inputs.u, inputs.B, start, adjoint=False)
    _forward(inputs, launch, start, y=y, end=last_state)


@triton_op("mvc::selective_scan_triton_cat", mutates_args={})
def selective_scan_cat(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> Tensor:
    """x (batch, length, channels) with the scan's y in place of its first dim channels, u; for inference.

    Compiled, the copy of x goes where nothing uses x later, and y is written over u.
    """
    u = x[..., : A.shape[0]]
    inputs = _prepare(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus, reverse)
    result = x.clone(memory_format=torch.contiguous_format)
    if u.numel() > 0:
        _scan(inputs, result, None)
    return result


@triton_op("mvc::selective_scan_triton_backward", mutates_args={})
def selective_scan_backward(
    grad_y: Tensor,
    grad_last_state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    if u.numel() == 0:
        gradients = [None if t is None else torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in tensors]
        gradients[-1] = None if initial_state is None else grad_last_state.clone(memory_format=torch.contiguous_format)
    else:
        inputs = _prepare(*tensors, reset, delta_softplus, reverse)
        gradients = _backward(inputs, plan(u, A, B, C), grad_y, grad_last_state.contiguous())
    return tuple(grad_y.new_empty(0) if t is None else g for t, g in zip(tensors, gradients, strict=True))


def _backward(inputs: Inputs, launch: Launch, grad_y: Tensor, grad_last_state: Tensor) -> tuple[Tensor | None, ...]:
    u, z = inputs.u, inputs.z
    start, from_later = inputs.initial_state, grad_last_state
    if launch.chunks > 1:
        start = _chunk_states(inputs, launch, u, inputs.B, start, adjoint=False)
        from_later = _chunk_states(inputs, launch, grad_y, inputs.C, grad_last_state, adjoint=True)
    slots = launch.length // BACKWARD_WIDE + launch.length % BACKWARD_WIDE
    state_shape = (launch.batch, launch.dim, launch.states)

    def floats(*shape: int) -> Tensor:
        return u.new_empty(shape, dtype=torch.float32)

    checkpoint = floats(slots, *state_shape)
    _forward(inputs, launch, start, checkpoint=checkpoint)
    sums = (launch.chunks, *state_shape)
    per_step = (launch.blocks_per_group, launch.batch, launch.length, launch.groups, launch.states)
    grad_u, grad_delta = u.new_empty(u.shape), inputs.delta.new_empty(u.shape)
    grad_z = None if z is None else z.new_empty(u.shape)
    grad_A, grad_start = floats(*sums), floats(*state_shape)
    grad_B, grad_C = (floats(*(sums if t.dim() == 2 else per_step)) for t in (inputs.B, inputs.C))
    grad_D, grad_bias = floats(*sums[:-1]), floats(*sums[:-1])
    blocks = launch.state_blocks(BACKWARD_STATES)
    partial = floats(3, *u.shape) if len(blocks) > 1 else None
    wide = BACKWARD_WIDE
    for first, count in blocks:
        wrap_triton(backward_kernel)[launch.grid](
            grad_y, u, inputs.delta, _from_state(inputs.A, first), _from_state(inputs.B, first),
            _from_state(inputs.C, first), inputs.D, z, inputs.delta_bias, inputs.reset, _from_state(checkpoint, first),
            _from_state(from_later, first), partial, grad_u, grad_delta, grad_z, _from_state(grad_A, first),
            _from_state(grad_B, first), _from_state(grad_C, first), grad_D, grad_bias, _from_state(grad_start, first),
            *launch.sizes, *grad_y.stride(), *u.stride(), *inputs.delta.stride(), *_strides(z, 3),
            *_weight_strides(inputs.B), *_weight_strides(inputs.C), *_strides(inputs.reset, 2),
            N=count, BLOCK=BLOCK, CONSTANT_B=inputs.B.dim() == 2, CONSTANT_C=inputs.C.dim() == 2,
            SOFTPLUS=inputs.softplus, REVERSE=inputs.reverse, GRAD_Y_ALONG=_along_length(grad_y, wide),
            U_ALONG=_along_length(u, wide), DELTA_ALONG=_along_length(inputs.delta, wide),
            Z_ALONG=_along_length(z, wide), FIRST=first == 0, LAST=first + count == launch.states, WIDE=wide,
            num_warps=1,
        )  # fmt: skip

    def summed(partial_sums: Tensor, axes: tuple[int, ...], like: Tensor | None) -> Tensor | None:
        return None if like is None else partial_sums.sum(axes).to(like.dtype)

    of_weights = [summed(g, (0, 1) if t.dim() == 2 else (0,), t) for g, t in ((grad_B, inputs.B), (grad_C, inputs.C))]
    of_channels = [summed(g, (0, 1), t) for g, t in ((grad_D, inputs.D), (grad_bias, inputs.delta_bias))]
    grad_initial = None if inputs.initial_state is None else grad_start
    return grad_u, grad_delta, grad_A.sum((0, 1)), *of_weights, of_channels[0], grad_z, of_channels[1], grad_initial


register_rules("selective_scan_triton")
