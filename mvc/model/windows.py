"""Windows of tokens: cut from a map, and put back."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import has_static_value, statically_known_true
from torch.nn import functional as F

from mvc.arguments import require_whole
from mvc.model.config import MambaVisionConfig


class Span(NamedTuple):
    """A part of an axis of the map, from `start` up to `end`, in windows of `window` tokens."""

    start: int
    end: int
    window: int


def spans(size: int, window: int) -> list[Span]:
    """An axis of the map as whole windows and what is left of it, which is one smaller window."""
    if size <= window:
        return [Span(0, size, size)]
    whole = size // window * window
    return [Span(0, whole, window)] + ([Span(whole, size, size - whole)] if whole < size else [])


def window_partition(x: Tensor, window: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """(batch, height, width, channels) -> (batch·rows·columns, h·w, channels) and the grid (rows, columns), for
    windows of (h, w) tokens.

    What the window does not divide is filled with zeros at the bottom and the right.
    """
    (batch, *_, channels), (height, width), (h, w) = x.shape, numbers(x.shape[1:3]), window
    rows, columns = -(-height // h), -(-width // w)
    x = pad(x, rows * h - height, columns * w - width)
    strips, windows = batch * rows, batch * rows * columns
    if not of_any_count(rows, columns):
        x = x.reshape(batch, rows, h, columns, w, channels).transpose(2, 3)
        return x.reshape(windows, h * w, channels), (rows, columns)
    x = swapped(x, (strips, h, columns * w * channels))
    x = swapped(x, (windows, w * channels, h))
    return regrouped(x, (windows, h * w, channels)), (rows, columns)


def window_reverse(tokens: Tensor, window: tuple[int, int], grid: tuple[int, int], height: int, width: int) -> Tensor:
    """The inverse of `window_partition`: (batch, height, width, channels), the filled part cut off."""
    (rows, columns), (h, w) = grid, window
    windows, channels = tokens.shape[0], tokens.shape[-1]
    batch = windows // (rows * columns)
    if not of_any_count(rows, columns):
        x = tokens.reshape(batch, rows, columns, h, w, channels).transpose(2, 3)
    else:
        line = columns * w * channels
        x = swapped(tokens, (windows, h, w * channels))
        x = swapped(x, (batch * rows, line, h))
        x = regrouped(x, (batch, rows * h, line))
    x = x.reshape(batch, rows * h, columns * w, channels)
    return pad(x, height - rows * h, width - columns * w)


def token_counts(config: MambaVisionConfig, height: int, width: int) -> list[tuple[int, int]]:
    """For stages 3 and 4, the tokens of a map and those that are computed on, padding of windows included."""
    require_whole("height", height, 1)
    require_whole("width", width, 1)
    counts = []
    for stage, window in enumerate(config.window_sizes, start=2):
        rows, columns = (math.ceil(size / 2 ** (stage + 2)) for size in (height, width))
        padded = math.ceil(rows / window) * math.ceil(columns / window) * window**2
        counts.append((rows * columns, padded if config.padded_windows else rows * columns))
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
