"""The learning curves and the throughput of a training as a picture, drawn from its log by matplotlib."""

from __future__ import annotations

from pathlib import Path

from mvc.measure.plot import EAGER, GRID, INK, OTHERS, save
from mvc.train.log import COMPUTED, TIMED, lines

WEIGHTS, AVERAGE = OTHERS, "#d0661f"
WINDOW = 50  # updates whose mean is drawn over the single losses


def draw(folder: Path, path: Path, *, title: str) -> None:
    """Draw loss, accuracy, learning rate and images a second over the epochs.

    Args:
        folder: of the log.

    Raises:
        UserError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    computed, timed = list(lines(folder / COMPUTED)), list(lines(folder / TIMED))
    updates = [line for line in computed if line["kind"] == "update"]
    epochs = [line for line in computed if line["kind"] == "epoch"]
    figure = Figure(figsize=(10, 7), layout="constrained")
    (loss, accuracy), (rate, speed) = figure.subplots(2, 2, sharex=True)
    at = [line["epoch"] for line in updates]
    loss.plot(at, [line["loss"] for line in updates], color=GRID, linewidth=1)
    loss.plot(at, _means([line["loss"] for line in updates]), color=INK, label=f"training, mean of {WINDOW} updates")
    ends = [line["epoch"] for line in epochs]
    for of, color, label in (("weights", WEIGHTS, "weights"), ("average", AVERAGE, "moving average")):
        loss.plot(ends, [line[of]["loss"] for line in epochs], color=color, label=f"validation, {label}")
        accuracy.plot(ends, [100 * line[of]["top_1"] for line in epochs], color=color, label=f"top-1, {label}")
        tops = [100 * line[of]["top_5"] for line in epochs]
        accuracy.plot(ends, tops, color=color, linestyle="--", label=f"top-5, {label}")
    rate.plot(at, [line["rate"] for line in updates], color=INK)
    times = [line["epoch"] for line in timed]
    speed.plot(times, [line["images"] / line["seconds"] for line in timed], color=EAGER, linewidth=1)
    for axes, label in ((loss, "loss"), (accuracy, "%"), (rate, "learning rate"), (speed, "images/s")):
        axes.set_ylabel(label)
        axes.grid(color=GRID)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (rate, speed):
        axes.set_xlabel("epoch")
    for axes in (loss, accuracy):
        axes.legend(fontsize=8, frameon=False)
    speed.set_ylim(bottom=0)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    save(figure, path)


def _means(values: list[float]) -> list[float]:
    """Of each value and those before it, as many as `WINDOW` says."""
    means, total = [], 0.0
    for place, value in enumerate(values):
        total += value - (values[place - WINDOW] if place >= WINDOW else 0.0)
        means.append(total / min(place + 1, WINDOW))
    return means
