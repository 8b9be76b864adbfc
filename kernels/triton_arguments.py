"""What the ops that launch the Triton kernels of products, convolutions and attention share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from mvc.kernels.triton_epilogue import ACTIVATIONS


def common_factor(most: int, *sizes: int | torch.SymInt) -> int:
    """The largest number that divides `most` and all of the sizes; 1 where tracing does not know a size.

    Where the sizes are the distances between rows of a tensor, a kernel may read so many elements at once.
    """
    if not all(isinstance(size, int) for size in sizes):
        return 1
    return math.gcd(most, *sizes)


def check_options(activation: str, tile: int, tiles: Sequence[object]) -> None:
    """Raise ValueError for an activation, or an index of the table of tiles, that is not there."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; it must be one of {', '.join(map(repr, ACTIVATIONS))}")
    if not 0 <= tile < len(tiles):
        raise ValueError(f"tile is {tile}; it must be an index of the {len(tiles)} rows of triton_tiles.TILES")
