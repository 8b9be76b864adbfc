"""The table of the tiles that the Triton kernel of a convolution may compute on, and which of them a shape is timed on.

A tile is chosen by a measurement at compile time (`mvc.passes.measured_choice`); the table and `candidates` say what is
worth measuring. Importing this module imports no triton.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Shape(NamedTuple):
    """What a tile is but for where its pixels lie: so many of them, and at most so many outputs.

    Attributes:
        terms: of the sum, numbers of (tap, input channel), at a time.
        stages: how many pieces of so many terms are in shared memory or on their way there.
    """

    pixels: int
    outputs: int
    terms: int
    warps: int
    stages: int


class Tile(NamedTuple):
    """A shape, and its pixels as lines x columns of so many images."""

    shape: Shape
    images: int
    lines: int
    columns: int

    def blocks(self, batch: int, height: int, width: int) -> int:
        """How many tiles cover the pixels of the result."""
        return _ceil(batch, self.images) * _ceil(height, self.lines) * _ceil(width, self.columns)


SHAPES = (
    Shape(128, 80, 64, 4, 4),
    Shape(256, 80, 64, 8, 3),
    Shape(128, 192, 64, 8, 3),
    Shape(64, 96, 64, 4, 4),
    Shape(32, 48, 64, 4, 4),
    Shape(128, 80, 32, 4, 3),
)
# Maps are 2^n times 7 pixels wide as a rule, so that one of these leaves no pixel of a tile unused.
PATCHES = ((8, 16), (8, 8), (4, 8), (4, 4), (2, 2), (1, 1))

# An index of this table is the op's argument `tile`; it stands in files of choices.
TILES = tuple(
    Tile(shape, shape.pixels // (lines * columns), lines, columns)
    for shape in SHAPES
    for lines, columns in PATCHES
    if lines * columns <= shape.pixels
)
LEAST_OUTPUTS = 16  # of a matrix product of tensor cores
ITEMSIZE = 2  # bytes of what passes put on these kernels
TRIES = 3  # tiles that are timed for a shape

# What a large GPU does in a cycle, for an order of the tiles: it need not be exact.
MULTIPROCESSORS = 132
PRODUCTS = 2048  # of a multiprocessor
CACHED = 21  # bytes that a multiprocessor gets from the L2 cache
WAIT = 500  # cycles of a step that nothing hides, shared by the stages


def parts(outputs: int, most: int) -> tuple[int, int]:
    """The wide and the narrow part of a program's outputs: two powers of 2, or one and 0, that leave the fewest unused.

    Args:
        most: outputs of a program.
    """
    powers = [2**n for n in range(LEAST_OUTPUTS.bit_length() - 1, most.bit_length())]
    pairs = [(wide, narrow) for wide in powers for narrow in (0, *powers) if narrow < wide and wide + narrow <= most]
    return min(pairs, key=lambda pair: (_ceil(outputs, sum(pair)) * sum(pair), _ceil(outputs, sum(pair)), pair[1]))


def candidates(batch: int, height: int, width: int, outputs: int, inner: int) -> tuple[int, ...]:
    """The tiles worth timing for a result (batch, outputs, height, width), as indices of `TILES`, best first.

    Args:
        inner: taps times input channels.
    """
    best: dict[Shape, tuple[float, int]] = {}
    for index, tile in enumerate(TILES):
        cost = _cost(tile, tile.blocks(batch, height, width), outputs, inner)
        best[tile.shape] = min(best.get(tile.shape, (math.inf, index)), (cost, index))
    return tuple(index for _, index in sorted(best.values())[:TRIES])


def _cost(tile: Tile, blocks: int, outputs: int, inner: int) -> float:
    """Cycles: those of the products or of what they read, whichever are more, and those of waiting."""
    shape, columns = tile.shape, sum(parts(outputs, tile.shape.outputs))
    waves = _ceil(blocks * _ceil(outputs, columns), MULTIPROCESSORS)
    steps = _ceil(inner, shape.terms)
    products = shape.pixels * columns * shape.terms / PRODUCTS
    read = (shape.pixels + columns) * shape.terms * ITEMSIZE / CACHED
    return waves * steps * max(products, read) + steps * WAIT / shape.stages


def _ceil(size: int, block: int) -> int:
    return -(-size // block)
