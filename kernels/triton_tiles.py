"""The table of the tiles on which the Triton kernels run, and how the length is cut, by the sizes of a problem alone."""

from __future__ import annotations

from typing import NamedTuple

from triton import cdiv, next_power_of_2


class Tile(NamedTuple):
    """The shape of a tile, as `triton_tile.py` draws it, and who works on it.

    Attributes:
        channels, steps, lanes, rows: CH, G, S and W.
        warps: of a program.
        blocks: of channels that a program of the backward runs one after another.
    """

    channels: int
    steps: int
    lanes: int
    rows: int
    warps: int
    blocks: int = 1

    @property
    def length(self) -> int:
        return self.steps * self.rows

    @property
    def span(self) -> int:
        """Channels of a program."""
        return self.channels * self.blocks


# By N, padded to a power of two.
MANY = {
    1: Tile(32, 16, 1, 1, 1),
    2: Tile(32, 16, 1, 1, 1),
    4: Tile(32, 8, 1, 1, 1),
    8: Tile(16, 8, 2, 1, 1),
    16: Tile(8, 8, 4, 1, 1),
    32: Tile(4, 8, 8, 1, 1),
    64: Tile(2, 8, 16, 1, 1),
    128: Tile(1, 8, 32, 1, 1),
    256: Tile(1, 4, 32, 1, 1),
}
FEW = {
    1: Tile(4, 16, 1, 8, 1),
    2: Tile(4, 16, 1, 8, 1),
    4: Tile(4, 8, 1, 8, 1),
    8: Tile(4, 8, 4, 8, 4),
    16: Tile(4, 8, 4, 8, 4),
    32: Tile(4, 8, 8, 4, 4),
    64: Tile(4, 8, 16, 2, 4),
    128: MANY[128],
    256: MANY[256],
}
BACKWARD = {
    1: Tile(32, 16, 1, 8, 8),
    2: Tile(16, 16, 1, 8, 4),
    4: Tile(16, 8, 1, 8, 4),
    8: Tile(8, 8, 4, 8, 8, 2),
    16: Tile(8, 8, 4, 8, 8, 4),
    32: Tile(8, 8, 8, 4, 8, 4),
    64: Tile(8, 8, 16, 2, 8, 4),
    128: Tile(8, 8, 32, 1, 8, 4),
    256: Tile(4, 8, 64, 1, 8, 8),
}
ENOUGH = 528  # warps: one for each scheduler of the largest GPUs
PROGRAMS = 264  # of the backward: two for each of their multiprocessors


class Cut(NamedTuple):
    """Sizes of a call, the tiles of its two directions, and steps of a chunk in each.

    Attributes:
        width: channels of a group.
        states: N.
    """

    batch: int
    length: int
    dim: int
    states: int
    groups: int
    forward: Tile
    backward: Tile
    forward_chunk: int
    backward_chunk: int

    @property
    def width(self) -> int:
        return self.dim // self.groups

    @property
    def padded(self) -> int:
        return next_power_of_2(self.states)

    @property
    def state_shape(self) -> tuple[int, int, int]:
        return self.batch, self.dim, self.states

    @property
    def kept_states(self) -> int:
        """How many states of each channel the forward keeps for the backward: one before each tile but the first."""
        return cdiv(self.length, self.backward.length) - 1


def cut(batch: int, length: int, dim: int, states: int, groups: int) -> Cut:
    padded, width = next_power_of_2(states), dim // groups
    forward, backward = MANY[padded], BACKWARD[padded]
    if _programs(forward, batch, groups, width) * forward.warps < ENOUGH:
        forward = FEW[padded]
    programs = _programs(backward, batch, groups, width)
    chunks = 1 if programs >= PROGRAMS else cdiv(2 * PROGRAMS, programs)
    tiles = cdiv(length, backward.length)
    chunk = max(1, cdiv(tiles, chunks)) * backward.length
    whole = max(1, tiles) * backward.length
    return Cut(batch, length, dim, states, groups, forward, backward, whole, chunk)


def _programs(tile: Tile, batch: int, groups: int, width: int) -> int:
    return max(1, batch * groups * cdiv(width, tile.span))
