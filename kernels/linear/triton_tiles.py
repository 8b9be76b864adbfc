"""The tiles that the Triton kernel of a linear layer may compute on, and which of them are worth timing for a shape.

A tile is chosen by a measurement at compile time (`mvc.passes.measured_choice`), or, where nothing can be measured, by
the rough model of `candidates`. Importing this module imports no triton.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Tile(NamedTuple):
    """`rows` x `columns` of the result, `terms` of the sum at a time, by so many warps.

    Attributes:
        stages: how many pieces of `terms` are in shared memory or on their way there.
    """

    rows: int
    columns: int
    terms: int
    warps: int
    stages: int

    @property
    def split(self) -> bool:
        """Whether results are finished in two halves, where the sums take much of a thread's registers."""
        return self.rows * self.columns >= 64 * 32 * self.warps

    def shared(self, itemsize: int) -> int:
        """Bytes of shared memory of a program, for elements of so many bytes."""
        return (self.rows + self.columns) * self.terms * itemsize * self.stages


# An index of this table is the argument `tile` of the op, and stands in files of choices: rows are added at its end. On
# Hopper four warps multiply 64 rows by one instruction; fewer rows take the instructions of earlier cards.
TILES = (
    Tile(128, 256, 64, 8, 3),
    Tile(128, 128, 64, 8, 3),
    Tile(256, 128, 64, 8, 3),
    Tile(128, 64, 64, 4, 4),
    Tile(64, 128, 64, 4, 4),
    Tile(64, 64, 64, 4, 4),
    Tile(32, 64, 128, 4, 3),
    Tile(32, 32, 128, 4, 3),
    Tile(16, 64, 128, 4, 3),
    Tile(16, 32, 128, 2, 4),
    Tile(256, 64, 64, 8, 3),
)
TRIES = 3  # tiles that are timed for a shape
# Rows of another number of elements are read in small pieces, whose addresses take the registers of larger tiles.
ALIGNED, MOST_UNALIGNED = 8, 32 * 64

# A multiprocessor of an H200: per cycle, multiply-adds of 16-bit numbers, bytes from the L2 cache, and results that are
# activated and stored; its shared memory and threads. In cycles, the start of a program, and how long a step waits for
# memory if it is the only one.
MULTIPROCESSORS, PRODUCTS, READ, FINISHED, SHARED, THREADS = 132, 2048, 32, 6, 227 << 10, 2048
START, WAIT = 1500, 800


def candidates(rows: int, columns: int, inner: int, dtype: torch.dtype) -> tuple[int, ...]:
    """The tiles worth timing for a product of these sizes, as indices of `TILES`, best first."""
    aligned = columns % ALIGNED == inner % ALIGNED == 0
    fitting = [
        index
        for index, tile in enumerate(TILES)
        if tile.shared(dtype.itemsize) <= SHARED and (aligned or tile.rows * tile.columns <= MOST_UNALIGNED)
    ]
    order = sorted(fitting, key=lambda index: _cycles(TILES[index], rows, columns, inner, dtype.itemsize))
    return tuple(order[:TRIES])


def _cycles(tile: Tile, rows: int, columns: int, inner: int, itemsize: int) -> float:
    """The longer of two times: what a multiprocessor's units need for its programs, and what these wait."""
    programs = -(-rows // tile.rows) * -(-columns // tile.columns)
    own = -(-programs // MULTIPROCESSORS)
    steps = -(-inner // tile.terms)
    piece = (tile.rows + tile.columns) * tile.terms * itemsize
    together = min(SHARED // tile.shared(itemsize), THREADS // (32 * tile.warps))
    step = max(tile.rows * tile.columns * tile.terms / PRODUCTS, piece / READ)
    finish = tile.rows * tile.columns / FINISHED
    busy = own * (steps * step + finish)
    alone = START + steps * max(step, WAIT / (tile.stages - 1)) + finish
    return max(busy, -(-own // together) * alone) + busy / 10
