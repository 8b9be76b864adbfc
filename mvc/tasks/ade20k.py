"""ADE20K's classes."""

from __future__ import annotations

import functools
import importlib.resources


@functools.cache
def class_names() -> tuple[str, ...]:
    """The 150 classes in the order of the published segmenters' labels, from `mvc/tasks/data/ade20k_classes.txt`."""
    text = importlib.resources.files("mvc.tasks.data").joinpath("ade20k_classes.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))
