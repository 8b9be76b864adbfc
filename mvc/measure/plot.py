"""Draws the ladder with matplotlib, which is imported only here and only when a picture is asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from mvc import files
from mvc.errors import UserError
from mvc.measure.ladder import Row

FORMATS = (".png", ".svg")


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


def ladder(rows: Mapping[str, Row], path: Path, *, batch: int, label: str, title: str) -> None:
    """Draw the images a second of every rung, with the 10 to 90 % range.

    Args:
        rows: by the rung's name.
        batch: images in a batch.
        label: of the axis, after "images/s".
    """
    from matplotlib.figure import Figure

    rates = [row.images_per_second for row in rows.values()]
    reach = [
        [max(0.0, rate - batch / row.p90_seconds) for rate, row in zip(rates, rows.values(), strict=True)],
        [max(0.0, batch / row.p10_seconds - rate) for rate, row in zip(rates, rows.values(), strict=True)],
    ]
    figure = Figure(figsize=(8, 1.6 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(rows), rates, xerr=reach, capsize=3)
    axes.bar_label(bars, [f"{rate:.1f}" for rate in rates], padding=6)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(f"images/s {label}")
    axes.set_title(title)
    try:
        with files.replacing(path) as partial:
            figure.savefig(partial, dpi=150, format=path.suffix[1:])
    except OSError as error:
        raise UserError(f"cannot write --plot {path}: {error.strerror}") from error
