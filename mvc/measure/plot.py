"""Draws the ladder with matplotlib, which is imported only when a picture is asked for."""

from __future__ import annotations

import importlib.util
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mvc import files
from mvc.errors import UserError
from mvc.measure.ladder import Row, Rung

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
EAGER, OTHERS, INK, GRID = "#6b7686", "#1f5fd0", "#1a2230", "#e3e7ec"
NAME_WIDTH = 30  # characters in a line of a rung's name
ROOM = 0.3  # the share of the longest bar from which on the factor fits into a bar


def check(path: Path) -> None:
    """Refuse at once a picture that could not be drawn after long measuring.

    Raises:
        UserError: another format, a folder that does not exist or cannot be written to, or no matplotlib.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"--plot {path} is neither {' nor '.join(FORMATS)}")
    files.require_folder(path, "--plot")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("--plot needs matplotlib; pip install 'mvc-mambavision[plot]'")


def ladder(rungs: Sequence[Rung], rows: Mapping[str, Row], path: Path, *, batch: int, label: str, title: str) -> None:
    """Draw the images a second of every rung, the fastest first, with the 10 to 90 % range and the factor over eager.

    Args:
        rungs: what is drawn; several that run the same are one bar with all their names.
        rows: by the rung's name.
        batch: images in a batch.
        label: of the axis, after "images/s".

    Raises:
        UserError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    bars = sorted(merged(rungs, rows), key=lambda bar: -bar[1].images_per_second)
    rates = [row.images_per_second for _, row in bars]
    reach = [
        [max(0.0, rate - batch / row.p90_seconds) for rate, (_, row) in zip(rates, bars, strict=True)],
        [max(0.0, batch / row.p10_seconds - rate) for rate, (_, row) in zip(rates, bars, strict=True)],
    ]
    names = ["\n".join(textwrap.wrap(name.replace(",", ", "), NAME_WIDTH)) for name, _ in bars]
    lines = sum(name.count("\n") for name in names)
    figure = Figure(figsize=(9, 1.6 + 0.55 * len(bars) + 0.15 * lines), layout="constrained")
    axes = figure.subplots()
    drawn = axes.barh(
        range(len(bars)),
        rates,
        height=0.7,
        xerr=reach,
        color=[EAGER if "eager" in name.split(" = ") else OTHERS for name, _ in bars],
        error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 3},
    )
    inside = [rate >= ROOM * rates[0] for rate in rates]
    factors = [f"{1 / row.over_eager:.{1 if row.over_eager < 10 else 2}f} times eager" for _, row in bars]
    axes.bar_label(
        drawn,
        [
            f"{rate:.4g}" + (f"   {factor}" if not fits else "")
            for rate, factor, fits in zip(rates, factors, inside, strict=True)
        ],
        padding=6,
    )
    for y, (factor, fits) in enumerate(zip(factors, inside, strict=True)):
        if fits:
            axes.text(0.012 * rates[0], y, factor, va="center", color="white")
    axes.set_yticks(range(len(bars)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(rate + above for rate, above in zip(rates, reach[1], strict=True)))
    axes.set_xlabel(f"images/s {label}")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.grid(color=GRID)
    axes.set_axisbelow(True)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a picture in the format that its name ends in; it is whole or absent.

    Raises:
        UserError: the picture cannot be written.
    """
    try:
        with files.replacing(path) as partial:
            figure.savefig(partial, dpi=150, format=path.suffix[1:])
    except OSError as error:
        raise UserError(f"cannot write --plot {path}: {error.strerror}") from error


def merged(rungs: Sequence[Rung], rows: Mapping[str, Row]) -> list[tuple[str, Row]]:
    """One bar for all rungs that run the same, with the figures of the first of them."""
    same: dict[int, list[str]] = {}
    for rung in rungs:
        same.setdefault(id(rung.run), []).append(rung.name)
    return [(" = ".join(names), rows[names[0]]) for names in same.values()]
