"""How good is what was found: COCO's average precision of objects, and the mean intersection over union of classes."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mvc.arguments import require_whole
from mvc.errors import UserError
from mvc.tasks.packages import optional
from mvc.tasks.segmentation import IGNORED

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


def class_counts(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The pixels of each class that were predicted and are labelled so, those predicted, and those labelled: int64
    (3, num_classes). Counts of several pictures, or of several processes, are added.

    Args:
        predicted, labels: integers of one shape; pixels whose label is 255 do not count.

    Raises:
        UserError: other shapes, or a class that there is not.
    """
    require_whole("num_classes", num_classes, 1)
    if predicted.shape != labels.shape:
        raise UserError(
            f"predicted has shape {tuple(predicted.shape)}, and labels {tuple(labels.shape)}; give one shape"
        )
    for name, classes in (("predicted", predicted), ("labels", labels)):
        if classes.is_floating_point() or classes.is_complex():
            raise UserError(f"{name} is {classes.dtype}; give the classes as integers, such as logits.argmax(1)")
    known = labels != IGNORED
    predicted, labels = predicted[known].long(), labels[known].long()
    for name, classes in (("predicted", predicted), ("labels", labels)):
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
            seen = f"{int(classes.min())} to {int(classes.max())}"
            raise UserError(
                f"{name} has classes {seen}; they must be from 0 to {num_classes - 1}, or {IGNORED} in labels"
            )
    of = (predicted[predicted == labels], predicted, labels)
    return torch.stack([each.bincount(minlength=num_classes) for each in of])


def mean_iou(counts: Tensor) -> tuple[float, Tensor]:
    """The mean intersection over union of `class_counts`, and that of each class, float64 (num_classes,) from 0 to 1.

    A class that was neither predicted nor labelled is NaN, and is left out of the mean, as published.
    """
    both, predicted, labelled = counts.double()
    of_class = both / (predicted + labelled - both)
    return of_class.nanmean().item(), of_class
