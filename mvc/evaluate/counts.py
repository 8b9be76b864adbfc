"""What is counted of a model's scores; counts of parts of the images add up to those of all."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

TOP = 5


@dataclasses.dataclass
class Counts:
    """Images by their class; all tensors are int64 and on one device.

    Attributes:
        confusion: (classes, classes), by the true class and the one with the highest score. Of equal scores, that of
            the lower index counts as higher.
        within_five: (classes,), those whose class is among the five highest scores.
        not_finite: (classes,), those with a score that is not finite. They are in neither of the others.
    """

    confusion: Tensor
    within_five: Tensor
    not_finite: Tensor

    @classmethod
    def none(cls, classes: int, device: torch.device | str = "cpu") -> Counts:
        """The counts of no image."""
        shapes = ((classes, classes), (classes,), (classes,))
        return cls(*(torch.zeros(shape, dtype=torch.int64, device=device) for shape in shapes))

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def count(self, scores: Tensor, labels: Tensor, present: Tensor) -> None:
        """Count a batch without waiting for the device.

        Args:
            scores: (rows, classes), any float dtype.
            labels: (rows,) int64.
            present: (rows,) bool; other rows are not counted.
        """
        finite = scores.isfinite().all(1)
        best = scores.float().sort(dim=1, descending=True, stable=True).indices[:, :TOP]
        counted = present & finite
        within = counted & (best == labels[:, None]).any(1)
        self.confusion.view(-1).index_add_(0, labels * len(self.confusion) + best[:, 0], counted.long())
        self.within_five.index_add_(0, labels, within.long())
        self.not_finite.index_add_(0, labels, (present & ~finite).long())

    def add(self, other: Counts) -> None:
        """Add the counts of other images."""
        for name, tensor in self.tensors().items():
            tensor += getattr(other, name).to(tensor.device)

    @property
    def per_class(self) -> Tensor:
        """(classes,): how many images of each class were scored."""
        return self.confusion.sum(1) + self.not_finite

    @property
    def correct(self) -> Tensor:
        """(classes,): those whose class has the highest score."""
        return self.confusion.diagonal()

    @property
    def images(self) -> int:
        return int(self.per_class.sum())

    @property
    def top_1(self) -> float:
        """The share of images whose class has the highest score; not finite without images."""
        return self._share(self.correct)

    @property
    def top_5(self) -> float:
        """The share of images whose class is among the five highest scores."""
        return self._share(self.within_five)

    def _share(self, hits: Tensor) -> float:
        return float(hits.sum()) / self.images if self.images else float("nan")
