"""Readable files of the graph before and after each pass that fired."""

from __future__ import annotations

import os
from pathlib import Path

from torch import fx

from mvc.passes.pipeline import PassRecord


class GraphDump:
    """An observer of `pipeline.run` that writes `FOLDER/graph_0/00_raise_loop.before.py` and `.after.py`.

    Each graph gets the first free number: folders of earlier runs are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = _first_free(folder)
        self.count = 0

    def __call__(self, record: PassRecord, before: fx.GraphModule, after: fx.GraphModule) -> None:
        stem = ".".join(filter(None, (f"{self.count:02d}_{record.name}", record.region)))
        self.count += 1
        for moment, module in (("before", before), ("after", after)):
            _write(self.folder / f"{stem}.{moment}.py", module.print_readable(print_output=False))


def _first_free(folder: Path) -> Path:
    number = 0
    while True:
        path = folder / f"graph_{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
