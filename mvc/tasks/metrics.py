"""How good detections are: COCO's average precision."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mvc.errors import UserError
from mvc.tasks.packages import optional

# The first six of pycocotools' figures of a kind.
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def coco_average_precision(
    annotations: Mapping[str, Any] | str | os.PathLike[str], found: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """The average precision of boxes ("bbox") and of masks ("segm") by pycocotools, from 0 to 1, or -1 where there are
    no objects of the kind: AP (at IoU 0.5 to 0.95), AP50, AP75, and AP of small, medium and large objects.

    Args:
        annotations: a file in COCO's format of annotations, or what it holds.
        found: in COCO's format of results, as of `mvc.tasks.coco.results`.

    Raises:
        UserError: pycocotools is missing, the file cannot be read, or results are of images that it does not name.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        truth = _index(annotations)
        unknown = {each["image_id"] for each in found} - truth.imgs.keys()
        if unknown:
            raise UserError(
                f"the annotations do not name {len(unknown)} of the results' images, such as {min(map(str, unknown))}; "
                "give the annotations of the same images"
            )
        # With a box beside it, pycocotools takes a mask's area from the box.
        without = {"bbox": "segmentation", "segm": "bbox"}
        alone = {kind: [_without(each, other) for each in found] for kind, other in without.items()}
        return {kind: _figures(truth, of_kind, kind) for kind, of_kind in alone.items()}


def _without(entry: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != key}


def _index(annotations: Mapping[str, Any] | str | os.PathLike[str]) -> Any:
    coco = optional("pycocotools.coco")
    if not isinstance(annotations, Mapping):
        path = os.fspath(annotations)
        try:
            return coco.COCO(path)
        except (OSError, ValueError, KeyError, AssertionError) as error:
            raise UserError(f"cannot read annotations {path} ({error}); give a file in COCO's format") from error
    index = coco.COCO()
    index.dataset = dict(annotations)
    index.createIndex()
    return index


def _figures(truth: Any, found: Sequence[Mapping[str, Any]], kind: str) -> dict[str, float]:
    # loadRes does not take an empty list.
    detected = truth.loadRes(list(found)) if found else _index({**truth.dataset, "annotations": []})
    evaluation = optional("pycocotools.cocoeval").COCOeval(truth, detected, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(FIGURES, evaluation.stats[: len(FIGURES)].tolist(), strict=True))
