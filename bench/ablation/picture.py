"""A picture of the accuracies with their error bars, the paper's figures beside them on a scale of their own."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from bench.ablation import noise
from bench.ablation.designs import DESIGNS, PUBLISHED, STUDIES, of_study
from bench.ablation.report import PAPER, values
from mvc import files
from mvc.errors import UserError
from mvc.measure.plot import EAGER, GRID, INK, OTHERS


def draw(facts: dict[str, Any], path: Path) -> None:
    """Draw each study in a row: left each training as a dot and the mean with its interval, right the paper's figures.

    A bar is half the smallest difference that the seeds can show, to both sides: where the bars of a design and of
    the published model do not overlap, the difference is larger than the noise.

    Args:
        path: .png or .svg, checked by `mvc.measure.plot.check`.

    Raises:
        UserError: no training was finished, or the picture cannot be written.
    """
    from matplotlib.figure import Figure

    if not facts.get("trainings"):
        raise UserError("--plot draws trainings, and there are none; run the part trainings first")
    settings = facts["settings"]
    heights = [len(of_study(study)) for study in STUDIES]
    figure = Figure(figsize=(9, 1.9 + 0.42 * sum(heights)), layout="constrained")
    grid = figure.subplots(
        len(STUDIES), 2, sharex="col", gridspec_kw={"height_ratios": heights, "width_ratios": [2, 1]}
    )
    for (ours, paper), study in zip(grid, STUDIES, strict=True):
        _trainings(ours, values(facts, study, "accuracy"), of_study(study))
        _paper(paper, of_study(study))
        ours.set_title(study, loc="left", fontsize=11)
    grid[-1][0].set_xlabel(f"test accuracy, % ({settings['images']:,} images: {settings['data']})")
    grid[-1][1].set_xlabel(f"{PAPER}, %")
    try:
        with files.replacing(path) as partial:
            figure.savefig(partial, dpi=130, format=path.suffix[1:])
    except OSError as error:
        raise UserError(f"cannot write --plot {path}: {error.strerror}") from error


def _trainings(axes: Any, accuracy: dict[str, dict[int, float]], names: list[str]) -> None:
    analysis = noise.analyse(accuracy, PUBLISHED)
    for y, name in enumerate(names):
        found = [*accuracy.get(name, {}).values()]
        if not found:
            continue
        axes.plot(found, [y] * len(found), "o", color=EAGER, markersize=3.5, alpha=0.7)
        axes.errorbar(
            statistics.fmean(found),
            y,
            xerr=analysis and analysis.smallest / 2,
            fmt="D",
            color=OTHERS if name == PUBLISHED else INK,
            markersize=5,
            capsize=3,
        )
    _rows(axes, names)


def _paper(axes: Any, names: list[str]) -> None:
    axes.plot([DESIGNS[name].paper for name in names], range(len(names)), "D", color=INK, markersize=5)
    axes.set_xlim(80, 82.8)
    _rows(axes, names)
    axes.set_yticklabels([])


def _rows(axes: Any, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
