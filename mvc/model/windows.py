"""Windows of tokens: cut from a map, and put back."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import has_static_value, statically_known_true
from torch.nn import functional as F

from mvc.arguments import require_whole
from mvc.model.config import MambaVisionConfig


def window_partition(x: Tensor, window: int) -> tuple[Tensor, tuple[int, int]]:
    """(batch, height, width, channels) -> (batch·rows·columns, window², channels) and the grid (rows, columns).

    What the window does not divide is filled with zeros at the bottom and the right.
    """
    (batch, *_, channels), (height, width) = x.shape, numbers(x.shape[1:3])
    rows, columns = -(-height // window), -(-width // window)
    x = pad(x, rows * window - height, columns * window - width)
    strips, windows = batch * rows, batch * rows * columns
    if not of_any_count(rows, columns):
        x = x.reshape(batch, rows, window, columns, window, channels).transpose(2, 3)
        return x.reshape(windows, window * window, channels), (rows, columns)
    x = swapped(x, (strips, window, columns * window * channels))
    x = swapped(x, (windows, window * channels, window))
    return regrouped(x, (windows, window * window, channels)), (rows, columns)


def window_reverse(tokens: Tensor, window: int, grid: tuple[int, int], height: int, width: int) -> Tensor:
    """The inverse of `window_partition`: (batch, height, width, channels), the filled part cut off."""
    rows, columns = grid
    windows, channels = tokens.shape[0], tokens.shape[-1]
    batch = windows // (rows * columns)
    if not of_any_count(rows, columns):
        x = tokens.reshape(batch, rows, columns, window, window, channels).transpose(2, 3)
    else:
        line = columns * window * channels
        x = swapped(tokens, (windows, window, window * channels))
        x = swapped(x, (batch * rows, line, window))
        x = regrouped(x, (batch, rows * window, line))
    x = x.reshape(batch, rows * window, columns * window, channels)
    return pad(x, height - rows * window, width - columns * window)


def token_counts(config: MambaVisionConfig, height: int, width: int) -> list[tuple[int, int]]:
    """For stages 3 and 4, the tokens of a map and the tokens with the padding of its windows, which are computed on."""
    require_whole("height", height, 1)
    require_whole("width", width, 1)
    counts = []
    for stage, window in enumerate(config.window_sizes, start=2):
        rows, columns = (math.ceil(size / 2 ** (stage + 2)) for size in (height, width))
        counts.append((rows * columns, math.ceil(rows / window) * math.ceil(columns / window) * window**2))
    return counts


def of_any_count(rows: int, columns: int) -> bool:
    """Whether a program is exported for images of one window and of several; Inductor's arithmetic of sizes takes
    minutes for the form that asks for neither."""
    exporting = torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()  # torch 2.11 says both
    return exporting and not (has_static_value(rows) and has_static_value(columns))


def swapped(x: Tensor, sizes: tuple[int, int, int]) -> Tensor:
    """The memory of x as a tensor of these sizes, its last two axes exchanged, by a copy."""
    return regrouped(x, sizes).transpose(1, 2).clone(memory_format=torch.contiguous_format)


def regrouped(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Contiguous x with other sizes, by steps for which torch need not know whether a count of windows is 1.

    Where it is asked for all at once, or where such a count is an axis of its own, the answer for the example becomes
    a guard, and no program serves images of one window and of several.
    """
    return x.reshape(-1).reshape(sizes[0], math.prod(sizes[1:])).reshape(sizes)


def pad(x: Tensor, bottom: int, right: int) -> Tensor:
    """Zeros below and to the right of x (batch, height, width, channels); negative numbers cut off.

    A size that is unknown while tracing is always padded, if by nothing, so that one graph serves every size; and
    always by a copy, since whether a cut leaves memory contiguous would again depend on the size.
    """
    if statically_known_true(bottom == 0) and statically_known_true(right == 0):
        return x
    return F.pad(x, (0, 0, 0, right, 0, bottom))


def numbers(sizes: torch.Size) -> tuple[int, ...]:
    """The sizes, which are tensors under torch.jit.trace, as numbers that its program then holds for."""
    return tuple(map(int, sizes)) if torch.jit.is_tracing() else sizes
