"""The ladder as a picture, by matplotlib, which is imported only here and only when a picture is asked for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from mvc import files
from mvc.errors import UserError

FORMATS = (".png", ".svg")


def check(path: Path) -> None:
    """Refuse at once what could not be drawn after long measuring.

    Raises:
        UserError: another format, a folder that is not there or cannot be written to, or no matplotlib.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"--plot {path} is neither {' nor '.join(FORMATS)}")
    files.require_folder(path, "--plot")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("--plot needs matplotlib; pip install 'mvc-mambavision[plot]'")


def ladder(facts: dict[str, Any], path: Path) -> None:
    """Draw images a second of every rung of a run's facts (`mvc.compile.report.FIELDS`), with the 10 to 90 % range."""
    from matplotlib.figure import Figure

    timing, model = facts["timing"], facts["model"]
    rows = facts["ladder"] or [{"name": name, **timing[name]} for name in ("eager", "compiled")]
    rates = [row["images_per_second"] for row in rows]
    ranges = [[model["batch"] / row[f"{share}_seconds"] for row in rows] for share in ("p90", "p10")]
    reach = [
        [max(0.0, rate - low) for rate, low in zip(rates, ranges[0], strict=True)],
        [max(0.0, high - rate) for rate, high in zip(rates, ranges[1], strict=True)],
    ]
    figure = Figure(figsize=(8, 1.6 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([row["name"] for row in rows], rates, xerr=reach, capsize=3)
    axes.bar_label(bars, [f"{rate:.1f}" for rate in rates], padding=6)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(f"images/s (clock: {timing['clock']}), median and 10 to 90 % of {timing['rounds']} rounds")
    work, environment = "training step" if model["training"] else "inference", facts["environment"]
    axes.set_title(
        f"MambaVision-{model['variant']}, {work}, batch {model['batch']}, {model['dtype']}\n"
        f"{environment['device']}, torch {environment['torch']}"
    )
    try:
        with files.replacing(path) as partial:
            figure.savefig(partial, dpi=150, format=path.suffix[1:])
    except OSError as error:
        raise UserError(f"cannot write --plot {path}: {error.strerror}") from error
