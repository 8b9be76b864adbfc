"""The table of the tiles on which the Triton kernels run, and how the length is cut: by a problem's sizes alone."""

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


# Rows by N, padded to a power of two. Models use N 8 and 16: those rows are the best of what was tried, with the
# microseconds that `mvc.offline.scan_cost` predicts for an H200 (`bench/results/scan_rows.md`) beside those of the next
# best. The others follow them: as many states in registers and lanes as leave a tile's numbers in registers, and shapes
# that Triton lays out as drawn. `bench/scan_budgets.json` has what each comes to in machine code.
#
# MANY: sequences enough that each program is one warp, which exchanges nothing between rows and waits for nobody.
MANY = {
    1: Tile(32, 16, 1, 1, 1),
    2: Tile(32, 16, 1, 1, 1),
    4: Tile(32, 8, 1, 1, 1),
    8: Tile(8, 8, 4, 1, 1),  # 26 at (128, 160, 196); 16 channels of two lanes 30, 32 of one 35: fewer warps
    16: Tile(8, 16, 4, 1, 1),  # 220 at (8, 1536, 2048); 8 steps 238: as many waits for half the work
    32: Tile(4, 8, 8, 1, 1),
    64: Tile(2, 8, 16, 1, 1),
    128: Tile(1, 4, 32, 1, 1),
    256: Tile(1, 4, 32, 1, 1),
}
# Half as many: the states of a channel over twice as many lanes. At (1, 5120, 4096) N 16 246, where MANY takes 313.
SPLIT = MANY | {16: Tile(4, 16, 8, 1, 1)}
# FEW: the rows of a tile run side by side, so that a sequence has four to eight times as many threads.
FEW = {
    1: Tile(4, 8, 1, 8, 1),
    2: Tile(4, 8, 1, 8, 1),
    4: Tile(4, 8, 1, 8, 1),
    8: Tile(4, 8, 4, 8, 4),  # 5.3 at (1, 160, 196); MANY 12
    16: Tile(2, 16, 8, 4, 2),  # 47 at (1, 1536, 2048); MANY 107
    32: Tile(4, 8, 8, 4, 4),
    64: Tile(4, 8, 16, 2, 4),
    128: MANY[128],
    256: MANY[256],
}
# The backward holds a tile's states in registers. Up to N 16 a tile covers 64 steps, and a program adds up B's and C's
# gradients over so many channels that what is kept and the partial sums take a bounded share of the inputs' memory
# (`tests/bench/test_scan_goals.py`).
BACKWARD = {
    1: Tile(16, 8, 1, 8, 4),
    2: Tile(16, 8, 2, 8, 8),
    4: Tile(8, 8, 2, 8, 4),
    8: Tile(4, 8, 4, 8, 4, 4),  # 198 at (128, 160, 196); 8 channels and warps 227: programs hide each other's waits
    16: Tile(8, 8, 4, 8, 8, 4),  # 1366 at (8, 1536, 2048); 4 channels and warps 1547: B and C are read twice as often
    32: Tile(4, 8, 16, 4, 8, 8),
    64: Tile(2, 8, 32, 4, 8, 16),
    128: Tile(4, 4, 32, 1, 4, 8),
    256: Tile(4, 4, 64, 1, 8, 8),
}
ENOUGH = 1056  # warps: two for each scheduler of the largest GPUs
LANES = 1024  # channels of all sequences; where there are fewer, no tile makes ENOUGH of them, but chunks do
LONG = 2048  # steps from which chunks are worth two more launches
PROGRAMS = 264  # of the backward: two for each of their multiprocessors


class Cut(NamedTuple):
    """Sizes of a call, the tiles of its two directions and of what is made of chunks ahead of them, and the steps of a
    chunk in each direction.

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
    summary: Tile
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
    backward = BACKWARD[padded]

    def programs(tile: Tile) -> int:
        return max(1, batch * groups * cdiv(width, tile.span))

    forward, pieces = MANY[padded], 1
    if programs(forward) < ENOUGH:
        forward = SPLIT[padded]
    if programs(forward) < ENOUGH:
        if batch * dim < LANES and length >= LONG:
            forward, pieces = MANY[padded], max(1, 3 * ENOUGH // 2 // programs(MANY[padded]))
        else:
            forward = FEW[padded]
    backward_pieces = 1 if programs(backward) >= PROGRAMS else cdiv(2 * PROGRAMS, programs(backward))
    chunks = (max(1, cdiv(length, backward.length * each)) * backward.length for each in (pieces, backward_pieces))
    return Cut(batch, length, dim, states, groups, forward, backward, MANY[padded], *chunks)
