"""What an evaluation found, as a table for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from mvc.compile.compiler import CompileReport
from mvc.evaluate.counts import Counts
from mvc.evaluate.evaluation import Work
from mvc.evaluate.state import State
from mvc.images.folder import ImageFolder
from mvc.measure.environment import Environment
from mvc.model.config import MambaVisionConfig
from mvc.progress import duration
from mvc.table import tabulate

SHOWN = 10  # classes, and unreadable images, in the table
FILES = 3  # that are no images, in the table
CONFUSED = 3  # classes that a class is most often taken for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """What was found, and of what.

    Attributes:
        environment: the machine and its software.
        config: the variant, and how its images are prepared.
        weights: where they come from.
        ema: whether they are the moving average.
        how: what computed the scores, and on which kind of device.
        compilation: of this run; None in eager mode, or where nothing was left to score.
        work: the images and how they were read.
        names: of all classes, for people.
        state: the counts of all images.
    """

    environment: Environment
    config: MambaVisionConfig
    weights: str
    ema: bool
    how: str
    compilation: CompileReport | None
    work: Work
    names: tuple[str, ...]
    state: State

    @property
    def folder(self) -> ImageFolder:
        return self.work.images.folder

    @property
    def dtype(self) -> str:
        return str(self.work.dtype).removeprefix("torch.")

    @property
    def images_per_second(self) -> float:
        """With reading and preparing; over all runs that led to the state, without compilation."""
        return self.state.done / self.state.seconds

    @property
    def title(self) -> str:
        """One line, for a picture."""
        counts = self.state.counts
        return f"MambaVision-{self.config.name}, {self.dtype}: top-1 {_accuracy(counts.top_1, counts.correct, counts)}"

    def __str__(self) -> str:
        counts, folder = self.state.counts, self.folder
        share = "" if len(folder.names) == len(self.names) else f" of the model's {len(self.names):,}"
        weights = f"{self.weights}, the moving average" if self.ema else self.weights
        config = self.config
        rows = [
            ("device", self.environment),
            ("model", f"MambaVision-{config.name}, {self.dtype}, {weights}"),
            ("computed by", self.how),
            ("images", f"{folder.root}: {len(folder):,} in {len(folder.names):,} classes{share}"),
            ("prepared", f"{config.image_size} x {config.image_size}, crop {config.crop}, {config.crop_mode}"),
            ("top-1", _accuracy(counts.top_1, counts.correct, counts)),
            ("top-5", _accuracy(counts.top_5, counts.within_five, counts)),
            ("speed", f"{self.images_per_second:.1f} images/s with reading, {duration(self.state.seconds)} in all"),
        ]
        if unscored := int(counts.not_finite.sum()):
            rows.append(("not finite", f"{unscored:,} images have scores that are not finite and count as wrong"))
        if folder.others:
            some = ", ".join(folder.others[:FILES])
            which = "which lie beside the class folders or whose names do not end as an image's"
            rows.append(("other files", f"{len(folder.others):,}, {which}: {some}"))
        if self.state.unreadable:
            number = len(self.state.unreadable)
            rows.append(("unreadable", f"{number:,} images, which are left out of all figures:"))
            rows += [("", each.reason) for each in self.state.unreadable[:SHOWN]]
            rows += [("", f"and {number - SHOWN:,} more, all of them in the file of --json")] * (number > SHOWN)
        return f"{tabulate(rows)}\n\n{self._worst_classes()}"

    def _worst_classes(self) -> str:
        found = sorted((each for each in self._per_class() if each["images"]), key=lambda each: each["top_1"])
        rows = [
            (each["name"], each["images"], f"{100 * each['top_1']:.1f} %", f"{100 * each['top_5']:.1f} %", _taken(each))
            for each in found[:SHOWN]
        ]
        title = "all classes" if len(found) <= SHOWN else f"the {SHOWN} worst of {len(found):,} classes"
        return tabulate(rows, (title, "images", "top-1", "top-5", "most often taken for"))

    def _per_class(self) -> list[dict[str, Any]]:
        """The table of classes that have a folder, by their index."""
        counts = self.state.counts
        columns = zip(
            counts.per_class.tolist(),
            counts.correct.tolist(),
            counts.within_five.tolist(),
            counts.not_finite.tolist(),
            strict=True,
        )
        figures = dict(enumerate(columns))
        return [
            {
                "index": index,
                "folder": folder,
                "name": self.names[index],
                "images": images,
                "correct": correct,
                "within_five": within_five,
                "not_finite": not_finite,
                "top_1": correct / images if images else None,
                "top_5": within_five / images if images else None,
                "confused_with": self._confused_with(counts, index),
            }
            for index, folder in sorted(zip(self.work.images.classes, self.folder.names, strict=True))
            for images, correct, within_five, not_finite in [figures[index]]
        ]

    def _confused_with(self, counts: Counts, index: int) -> list[dict[str, Any]]:
        """The classes that its images are most often taken for, with the number of these images."""
        others = counts.confusion[index].clone()
        others[index] = 0
        most = torch.sort(others, descending=True, stable=True)
        pairs = zip(most.indices[:CONFUSED].tolist(), most.values[:CONFUSED].tolist(), strict=True)
        return [{"index": other, "name": self.names[other], "images": images} for other, images in pairs if images]

    def as_dict(self) -> dict[str, Any]:
        """The contents of the file of `--json`."""
        counts, config = self.state.counts, self.config
        fields = ("image_size", "crop", "crop_mode", "mean", "std")
        return {
            "environment": dataclasses.asdict(self.environment),
            "model": {
                "variant": config.name,
                "num_classes": config.num_classes,
                "weights": self.weights,
                "ema": self.ema,
                "dtype": self.dtype,
                "computed_by": self.how,
                "graphs": len(self.compilation.graphs) if self.compilation else None,
                "compile_seconds": self.compilation.seconds if self.compilation else None,
            },
            "preprocessing": {name: getattr(config, name) for name in fields},
            "data": {
                "folder": str(self.folder.root),
                "images": len(self.folder),
                "classes": len(self.folder.names),
                "unreadable": [each._asdict() for each in self.state.unreadable],
                "other_files": list(self.folder.others),
            },
            "result": {
                "images": counts.images,
                "correct": int(counts.correct.sum()),
                "within_five": int(counts.within_five.sum()),
                "not_finite": int(counts.not_finite.sum()),
                "top_1": counts.top_1,
                "top_5": counts.top_5,
                "seconds": self.state.seconds,
                "images_per_second": self.images_per_second,
                "processes": self.work.processes.count,
                "batch": self.work.shape[0],
                "workers": self.work.workers,
            },
            "classes": self._per_class(),
        }


def _accuracy(share: float, hits: torch.Tensor, counts: Counts) -> str:
    return f"{100 * share:.2f} % ({int(hits.sum()):,} of {counts.images:,} images)"


def _taken(figures: dict[str, Any]) -> str:
    return ", ".join(f"{each['name']} ({each['images']})" for each in figures["confused_with"])
