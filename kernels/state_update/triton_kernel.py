"""One step of the selective scan on NVIDIA GPUs, for decoding: its Triton kernel, and the plan of its one launch.

The state is nearly all that a step moves: each element is read once and written once, 16 bytes by a thread at a time.
A program is one warp, and a tile of BATCHES sequences x BLOCK channels of a head x all N states. It asks for nearly all
that it reads before it waits for any of it: with 4 to 8 KiB of states a warp, and nine warps or more on a
multiprocessor, enough is in flight to keep memory busy. Several sequences share what is read of A, D and dt_bias. For a
single one the tile is as small as B and C allow, which every program reads: 1,536 channels of 16 states are 192
programs, more than a GPU has multiprocessors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from mvc.kernels.scan.triton_launch import Meta, Plan, Repeated, metas_of, run
from mvc.kernels.scan.triton_tile import LOG2E, sigmoid, step_size

# Of each tensor, as the kernel takes them: sequences (b), heads (h) or groups (g), channels (d), states (n).
AXES = {
    "state": "bhdn",
    "x": "bhd",
    "dt": "bhd",
    "A": "hdn",
    "B": "bgn",
    "C": "bgn",
    "D": "hd",
    "z": "bhd",
    "dt_bias": "hd",
}
WARP = 32 * 16  # bytes that a warp moves at a time
LEAST_CHANNELS = 8  # of a program: B and C are then at most an eighth of the states that they are read for
MOST_STATES = 2048  # of a program, 64 registers of a thread
MOST_SEQUENCES = 4  # of a program


@triton.jit
def load(pointer, exists):
    """As float32; zero where it does not exist."""
    return tl.load(pointer, mask=exists, other=0.0).to(tl.float32)


@triton.jit
def load_channels(pointer, first, o_channel, exists, STRIDE: tl.constexpr):
    """(sequences, BLOCK) from offsets on; (sequences, 1) where all channels share a number; zero for no tensor."""
    if pointer is None:
        return tl.zeros((1, 1), tl.float32)
    elif STRIDE == 0:
        return tl.load(pointer + first).to(tl.float32)
    else:
        return load(pointer + first + o_channel * STRIDE, exists)


@triton.jit
def step_kernel(
    p_state, p_x, p_dt, p_A, p_B, p_C, p_D, p_z, p_dt_bias, p_y, batch, heads_of_group, state_b, state_h, x_b, x_h,
    dt_b, dt_h, A_h, B_b, B_g, C_b, C_g, D_h, z_b, z_h, dt_bias_h, state_d: tl.constexpr, state_n: tl.constexpr,
    x_d: tl.constexpr, dt_d: tl.constexpr, A_d: tl.constexpr, A_n: tl.constexpr, B_n: tl.constexpr, C_n: tl.constexpr,
    D_d: tl.constexpr, z_d: tl.constexpr, dt_bias_d: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr,
    N: tl.constexpr, BLOCK: tl.constexpr, BLOCK_N: tl.constexpr, BATCHES: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """h ← exp(Δ A) h + Δ x B and y = C·h + D x, then y SiLU(z), where Δ = dt + dt_bias or softplus of that.

    Strides over channels and states are known to the compiler, so that it sees what is one piece of memory, and that an
    exponential, or Δ, is the same for all of a head, as in Mamba-2.
    """
    BLOCKS: tl.constexpr = (DIM + BLOCK - 1) // BLOCK
    i_head = (tl.program_id(0) // BLOCKS % HEADS).to(tl.int64)
    i_group = i_head // heads_of_group
    o_b = tl.program_id(0) // (BLOCKS * HEADS) * BATCHES + tl.arange(0, BATCHES)
    o_d = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    is_b, is_d, is_n = (o_b < batch)[:, None], (o_d < DIM)[None, :], (tl.arange(0, BLOCK_N) < N)[None, :]
    o_b = tl.minimum(o_b, batch - 1).to(tl.int64)[:, None]  # in place of what is beyond, the last one is read again
    o_d = o_d.to(tl.int64)[None, :]
    o_n = tl.arange(0, BLOCK_N).to(tl.int64)[None, :]
    one = tl.zeros((1, 1), tl.int64)

    exists = is_d[:, :, None] & is_n[:, None, :]
    p_state += i_head * state_h + o_b[:, :, None] * state_b + o_d[:, :, None] * state_d + o_n[:, None, :] * state_n
    # Ahead of the states: triton would compute half-precision ones twice, in their layout and in A's.
    if A_d == 0 and A_n == 0:
        b_A = tl.load(p_A + i_head * A_h).to(tl.float32)
    else:
        b_A = load(p_A + i_head * A_h + o_d[:, :, None] * A_d + o_n[:, None, :] * A_n, exists)
    b_state = load(p_state, exists)
    b_B = load(p_B + o_b * B_b + i_group * B_g + o_n * B_n, is_n)
    b_C = load(p_C + o_b * C_b + i_group * C_g + o_n * C_n, is_n)
    b_x = load_channels(p_x, o_b * x_b + i_head * x_h, o_d, is_d, x_d)
    b_D = load_channels(p_D, one + i_head * D_h, o_d, is_d, D_d)
    b_z = load_channels(p_z, o_b * z_b + i_head * z_h, o_d, is_d, z_d)
    tl.debug_barrier()  # so that all of the above is asked for before the warp waits for dt
    b_dt = load_channels(p_dt, o_b * dt_b + i_head * dt_h, o_d, is_d, dt_d)
    b_bias = load_channels(p_dt_bias, one + i_head * dt_bias_h, o_d, is_d, dt_bias_d)

    b_step, _b_slope = step_size(b_dt + b_bias, SOFTPLUS)
    b_h = tl.exp2(b_step[:, :, None] * (b_A * LOG2E)) * b_state + (b_step * b_x)[:, :, None] * b_B[:, None, :]
    b_read = b_h * b_C[:, None, :]
    if N != BLOCK_N:
        b_read = tl.where(is_n[:, None, :], b_read, 0.0)  # Δ x may be infinite
    b_y = tl.sum(b_read, 2) + b_D * b_x
    if p_z is not None:
        b_y *= b_z * sigmoid(b_z)
    tl.store(p_state, b_h.to(p_state.dtype.element_ty), mask=exists & is_b[:, :, None])
    tl.store(p_y + (o_b * HEADS + i_head) * DIM + o_d, b_y.to(p_y.dtype.element_ty), mask=is_b & is_d)


def plan_step(given: Mapping[str, Meta | None], *, softplus: bool) -> Plan:
    """For "y", of x's shape and dtype; "state" is written to. The tensors are those of the op, by name."""
    x, state, B = given["x"], given["state"], given["B"]
    batch, dim, states = x.shape[0], int(state.shape[-2]), int(state.shape[-1])
    groups = int(B.shape[1]) if B.rank == 3 else 1
    if x.rank == 3:
        heads = int(x.shape[1])
    else:  # the channels of a group are what the kernel takes for a head
        heads, dim = groups, dim // groups
    block_n = triton.next_power_of_2(states)
    at_once = WARP // state.dtype.itemsize  # elements
    if batch == 1:
        block, batches = max(LEAST_CHANNELS, at_once // block_n), 1
    else:
        block = max(LEAST_CHANNELS, 2 * at_once // block_n)
        batches = min(MOST_SEQUENCES, MOST_STATES // (block * block_n))

    outer, inner = [], {}
    for name, axes in AXES.items():
        for axis, stride in zip(axes, _strides(given[name], axes, dim), strict=True):
            if axis in "dn":
                inner[f"{name}_{axis}"] = int(stride)
            else:
                outer.append(stride)
    plan = Plan(given)
    plan.add("y", x.shape, x.dtype)
    plan.launch(
        step_kernel,
        (triton.cdiv(dim, block) * heads * triton.cdiv(batch, batches),),
        [plan.pointer(name) for name in (*AXES, "y")],
        (batch, heads // groups, *outer),
        **inner, HEADS=heads, DIM=dim, N=states, BLOCK=block, BLOCK_N=block_n, BATCHES=batches, SOFTPLUS=softplus,
        num_warps=1,
    )  # fmt: skip
    return plan


def _strides(meta: Meta | None, axes: str, dim: int) -> tuple[int, ...]:
    """Over all axes, zeros for a tensor that is absent; without an axis of heads, each has `dim` of the channels."""
    if meta is None:
        return (0,) * len(axes)
    if meta.rank == len(axes):
        return meta.strides
    at = axes.find("h")
    if at < 0:  # one group for all
        return meta.strides[0], 0, meta.strides[1]
    return *meta.strides[:at], dim * meta.strides[at], *meta.strides[at:]


def launch(given: Mapping[str, Tensor | None], *, softplus: bool) -> Tensor:
    """y, after the state has advanced; tracing sees the kernel. The tensors have been checked, and are not empty."""
    return run(plan_step(metas_of(given), softplus=softplus), given, like=given["x"])["y"]


class PreparedStep:
    """The same for eager calls on tensors of one signature, as `mvc.kernels.eager` has it."""

    def __init__(self, tensors: Sequence[Tensor | None], softplus: bool) -> None:
        metas = metas_of(dict(zip(AXES, tensors, strict=True)))
        self._launch = Repeated(plan_step(metas, softplus=softplus), tensors[0].device)

    def __call__(self, tensors: Sequence[Tensor | None]) -> Tensor:
        y = self._launch(tensors, like=tensors[1])[-1]
        torch.autograd.graph.increment_version(tensors[0])
        return y
