"""A picture of which classes are taken for which, drawn with matplotlib, which is imported when one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mvc.evaluate.counts import Counts
from mvc.measure.plot import INK, OTHERS, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMED = 25  # classes whose names and figures are legible
MOST_CELLS = 100  # along a side, so that one stays visible
WORST = 20  # confusions that are listed
LETTERS = 22  # of a name


def confusion(counts: Counts, names: Sequence[str], path: Path, *, title: str) -> None:
    """Draw the shares of each class's images by the class that they are taken for, and the most frequent confusions.

    Up to `MOST_NAMED` classes have their names and figures. Of more than `MOST_CELLS`, several neighbours are one cell.

    Args:
        names: of all classes.

    Raises:
        UserError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 8.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    _draw_matrix(left, counts, names)
    _draw_worst(right, counts.confusion, names)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    save(figure, path)


def _draw_matrix(axes: Axes, counts: Counts, names: Sequence[str]) -> None:
    """The shares among the classes that have images, on a scale on which a few per cent are seen."""
    from matplotlib.colors import PowerNorm

    shown = counts.per_class.nonzero().flatten()
    among = counts.confusion[shown][:, shown]
    together = -(-len(shown) // MOST_CELLS)
    cells = binned(among, counts.per_class[shown], together)
    drawn = axes.imshow(
        100 * cells.numpy(), cmap="Blues", norm=PowerNorm(0.4, vmin=0, vmax=100), interpolation="nearest"
    )
    axes.figure.colorbar(drawn, ax=axes, label="% of the true class's images", ticks=(0, 1, 5, 20, 50, 100), shrink=0.8)
    elsewhere = int(counts.confusion.sum() - among.sum())
    axes.set_xlabel(f"taken for; {elsewhere:,} images for classes that have none here" if elsewhere else "taken for")
    axes.set_ylabel("true class")
    if len(shown) <= MOST_NAMED:
        _name(axes, cells, [_short(names[index]) for index in shown.tolist()])
        return
    _number(axes, shown, together)
    if together > 1:
        axes.set_title(f"each cell is {together} neighbouring classes", fontsize=10)


def _name(axes: Axes, cells: Tensor, labels: list[str]) -> None:
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    for row, column in (cells > 0).nonzero().tolist():
        share = float(cells[row, column])
        text = "<1" if share < 0.01 else f"{100 * share:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if share > 0.3 else INK)


def _number(axes: Axes, shown: Tensor, together: int) -> None:
    """Some class indices along the axes."""
    cells = range(0, -(-len(shown) // together), 10)
    labels = [str(int(shown[cell * together])) for cell in cells]
    axes.set_xticks(cells, labels)
    axes.set_yticks(cells, labels)


def _draw_worst(axes: Axes, confusion: Tensor, names: Sequence[str]) -> None:
    """The pairs of classes that are confused most often."""
    pairs = most_confused(confusion)
    if not pairs:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no class is taken for another", ha="center", transform=axes.transAxes)
        return
    axes.barh(range(len(pairs)), [images for _, _, images in pairs], height=0.7, color=OTHERS)
    labels = [f"{_short(names[true])} → {_short(names[taken])}" for true, taken, _ in pairs]
    axes.set_yticks(range(len(pairs)), labels)
    axes.invert_yaxis()
    axes.bar_label(axes.containers[0], padding=4)
    axes.set_xlabel("images")
    axes.set_title("true class → taken for, the most frequent ones", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def binned(confusion: Tensor, images: Tensor, together: int) -> Tensor:
    """Shares (cells, cells) of the images of so many neighbouring classes by the neighbours that they are taken for.

    Args:
        confusion: (classes, classes) int64.
        images: (classes,) int64, all that the shares are of.
    """
    size = -(-len(confusion) // together)
    group = torch.arange(len(confusion)) // together
    cells, totals = torch.zeros(size, size, dtype=torch.int64), torch.zeros(size, dtype=torch.int64)
    cells.index_put_((group[:, None].expand_as(confusion), group.expand_as(confusion)), confusion, accumulate=True)
    return cells / totals.index_add_(0, group, images)[:, None]


def most_confused(confusion: Tensor) -> list[tuple[int, int, int]]:
    """The true class, the class that it is taken for, and how often, of the most frequent confusions."""
    errors = confusion.clone().fill_diagonal_(0).flatten()
    most = torch.sort(errors, descending=True, stable=True)
    pairs = zip(most.indices[:WORST].tolist(), most.values[:WORST].tolist(), strict=True)
    return [(*divmod(place, len(confusion)), images) for place, images in pairs if images]


def _short(name: str) -> str:
    short = name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
    return short.replace("$", r"\$")  # matplotlib takes what stands between two of them for a formula
