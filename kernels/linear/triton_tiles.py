"""The tiles that the Triton kernel of a linear layer may compute on, and which of them are worth timing for a shape.

A tile is chosen by a measurement at compile time (`mvc.passes.measured_choice`); the table and `candidates` say what is
worth measuring. Importing this module imports no triton.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Tile(NamedTuple):
    """BM rows and BN columns of the result, BK of the sum's terms at a time, by so many warps.

    Attributes:
        stages: how many pieces of BK terms are in shared memory or on their way there.
    """

    rows: int
    columns: int
    terms: int
    warps: int
    stages: int

    @property
    def normed(self) -> int:
        """Elements of a row whose statistics are found at a time: those that fit into registers."""
        return max(self.terms, STATISTICS * 32 * self.warps // self.rows)


STATISTICS = 64  # elements that a thread reads at once for statistics

# An index of this table is the op's argument `tile`; it stands in files of choices, so rows are added at the end.
TILES = (
    Tile(128, 256, 64, 8, 3),
    Tile(128, 128, 64, 8, 3),
    Tile(128, 128, 64, 4, 3),
    Tile(128, 64, 64, 4, 4),
    Tile(64, 128, 64, 4, 4),
    Tile(64, 64, 64, 4, 4),
    Tile(32, 64, 128, 4, 3),
    Tile(32, 32, 128, 4, 3),
    Tile(16, 64, 128, 4, 3),
    Tile(16, 32, 128, 2, 4),
)
ENOUGH = 132  # programs that keep a large GPU busy
TRIES = 3  # tiles that are timed for a shape


def candidates(rows: int, columns: int, inner: int, dtype: torch.dtype) -> tuple[int, ...]:
    """The tiles worth timing for a product of these sizes, as indices of `TILES`, best first."""
    order = sorted(range(len(TILES)), key=lambda index: _cost(TILES[index], rows, columns, inner, dtype))
    return tuple(order[:TRIES])


def _cost(tile: Tile, rows: int, columns: int, inner: int, dtype: torch.dtype) -> float:
    """Relative time of the tile: waves of programs, each of as many steps as its pieces take."""
    programs = -(-rows // tile.rows) * -(-columns // tile.columns)
    waves = -(-programs // ENOUGH)
    steps = -(-inner // tile.terms)
    read = (tile.rows + tile.columns) * tile.terms * dtype.itemsize
    return waves * (steps * (read + FIXED) + tile.rows * tile.columns * dtype.itemsize + FIXED)


FIXED = 8192  # bytes that could be read in the time that a step takes whatever its size
