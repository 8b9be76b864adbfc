"""The linear recurrence on NVIDIA GPUs: how its Triton kernel is launched, and `mvc::linear_recurrence_triton`.

Importing this module imports triton and registers the op. Where few
lanes would leave a GPU idle, the length is cut in chunks that run side by side, as the scan's is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton

from mvc.kernels.checks import refuse_tangents
from mvc.kernels.recurrence.checks import check, check_kinds, result_dtype
from mvc.kernels.recurrence.ops import register_rules
from mvc.kernels.recurrence.triton_kernel import recurrence_kernel
from mvc.kernels.scan.triton_chunks import COMBINE, combine_kernel
from mvc.kernels.torch_private import is_plain

LANE_AXES = 4  # axes besides the recurrence's that the kernel walks over by strides; more are merged
READ_AT_ONCE = 16  # bytes, by a thread
ROWS = 8  # of a tile across the length where lanes are few
ENOUGH = 264  # programs: two for each multiprocessor of the largest GPUs
MOST_CHUNKS = 32  # `combine_kernel` reads them one after the other
FEWEST_TURNS = 4  # of a chunk's loop: with fewer, one launch is faster than three


class Tile(NamedTuple):
    """R, G, CH and W, the warps of a program, and how many tiles it reads at once."""

    wide: int
    steps: int
    lanes: int
    rows: int
    warps: int = 1
    ahead: int = 1

    @property
    def span(self) -> int:
        """Lanes of a program."""
        return self.wide * self.lanes

    @property
    def length(self) -> int:
        """Steps of the tiles that are read at once."""
        return self.steps * self.rows * self.ahead


def _power_of_2(least: int, most: int) -> int:
    """The first from `least` on, but at most `most`, itself one. It only compares: tracing may not know `least`."""
    power = 1
    while power < most and power < least:
        power *= 2
    return power


def _tile(lanes: int, length: int, wide: int, along: bool) -> Tile:
    """A row of the table; wide: elements that a thread reads at once."""
    if along:
        # A warp reads 512 neighbouring bytes; lanes that are shorter share it. The fewer warps there are, the more
        # each has to ask for at once.
        rows = _power_of_2(triton.cdiv(length, wide), 32)
        tiles = triton.cdiv(length, wide * rows)
        few = Tile(1, wide, 32 // rows, rows, ahead=_power_of_2(tiles, 8))
        # A multiprocessor runs 32 programs: with four warps in each, more wait at the same time.
        many = few._replace(lanes=4 * few.lanes, warps=4, ahead=_power_of_2(tiles, 4))
    else:
        # Without rows nothing is computed but the recurrence itself; a warp asks for 16 KiB at once.
        many = Tile(wide, 64 // wide, 32, 1)
        # Up to eight times as many warps, each with an eighth of the lanes, 64 neighbouring bytes of a step, and with
        # fewer steps, since products of `a` take registers too.
        steps = 32 // wide
        rows = _power_of_2(triton.cdiv(length, steps), ROWS)
        few = Tile(wide, steps, 32 // rows, rows)
    return many if triton.cdiv(lanes, many.span) >= ENOUGH else few


def _lanes(tensor: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
    """`tensor` as (lanes in LANE_AXES axes, length)."""
    tensor = tensor.expand(shape).movedim(dim, -1)
    merged = tensor.dim() - 1 - LANE_AXES
    if merged > 0:
        return tensor.flatten(0, merged)
    return tensor[(None,) * -merged]


def _order(tensor: Tensor) -> int:
    """1 where steps of a tensor of `_lanes` are neighbours in memory, -1 where lanes are, else 0."""
    *_, lane, step = tensor.stride()
    return bool(step == 1) - bool(lane == 1)


def _is_wide(tensor: Tensor, wide: int, along: bool) -> bool:
    """Whether `wide` neighbouring steps of a lane, or else lanes of a step, are one aligned piece of memory."""
    axis = -1 if along else -2
    sizes, strides = [*tensor.shape], [*tensor.stride()]
    if strides.pop(axis) != 1 or sizes.pop(axis) % wide:
        return False
    return all(size == 1 or stride % wide == 0 for size, stride in zip(sizes, strides, strict=True))


@triton_op("mvc::linear_recurrence_triton", mutates_args={})
def linear_recurrence(a: Tensor, b: Tensor, initial: Tensor | None, dim: int, reverse: bool) -> Tensor:
    refuse_tangents("linear_recurrence_triton", a, b, initial)
    # The sizes of tensors without values may be unknown: comparing them would make guards of them.
    (check if is_plain(a) else check_kinds)(a, b, initial, dim, "triton")
    dtype = result_dtype(a, b, initial)
    shape = torch.broadcast_shapes(a.shape, b.shape)
    h = a.new_empty(shape, dtype=dtype)
    if h.numel() == 0:
        return h
    inner = h.stride(dim)
    a, b, h_lanes = (_lanes(t, shape, dim) for t in (a, b, h))
    *sizes, length = a.shape
    lanes = h.numel() // length
    start = None if initial is None else initial.expand((*shape[:dim], *shape[dim + 1 :])).contiguous()
    orders = [_order(t) for t in (a, b, h_lanes)]
    along = sum(orders) > 0 or (sum(orders) == 0 and orders[2] > 0)
    wide = READ_AT_ONCE // dtype.itemsize
    if not _is_wide(h_lanes, wide, along) and _is_wide(h_lanes, wide // 2, along):
        wide //= 2
    a_wide, b_wide, h_wide = (_is_wide(t, wide, along) for t in (a, b, h_lanes))
    tile = _tile(lanes, length, wide, along)
    programs, turns = triton.cdiv(lanes, tile.span), triton.cdiv(length, tile.length)
    chunks = 1
    if programs < ENOUGH:
        chunks = max(1, min(triton.cdiv(2 * ENOUGH, programs), MOST_CHUNKS, turns // FEWEST_TURNS))
    chunk = triton.cdiv(turns, chunks) * tile.length
    chunks = triton.cdiv(length, chunk)

    def launch(start: Tensor | None, h: Tensor | None, own: Tensor | None, decay: Tensor | None) -> None:
        wrap_triton(recurrence_kernel)[(programs, chunks)](
            a, b, start, h, own, decay, length, lanes, chunk, *sizes[1:], *a.stride(), *b.stride(), inner,
            R=tile.wide, G=tile.steps, CH=tile.lanes, W=tile.rows, AHEAD=tile.ahead,
            A_WIDE=a_wide, B_WIDE=b_wide, H_WIDE=h_wide, ALONG=along, REVERSE=reverse, num_warps=tile.warps,
        )  # fmt: skip

    if chunks > 1:
        own, decay = (a.new_empty((chunks, lanes), dtype=torch.float32) for _ in range(2))
        launch(None, None, own, decay)
        wrap_triton(combine_kernel)[(triton.cdiv(lanes, COMBINE["BLOCK"]),)](
            own, decay, start, lanes, chunks, REVERSE=False, MAY_RESET=False, **COMBINE
        )
        start = own
    launch(start, h, None, None)
    return h


register_rules("linear_recurrence_triton")
