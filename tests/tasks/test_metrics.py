"""COCO's results and average precision, on a set small enough to compute by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mvc.errors import UserError
from mvc.tasks import coco
from mvc.tasks.detection import Detections
from mvc.tasks.metrics import coco_average_precision

mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
pytest.importorskip("torchvision", reason="torchvision is not installed")

SIZE = (100, 120)
CAT, DOG = 17, 18
# image, category, box x1, y1, x2, y2
OBJECTS = [(1, CAT, (10, 10, 60, 60)), (1, CAT, (60, 20, 110, 90)), (2, DOG, (0, 0, 100, 100))]


def pixels(box: tuple[int, ...]) -> torch.Tensor:
    found = torch.zeros(SIZE, dtype=torch.bool)
    found[box[1] : box[3], box[0] : box[2]] = True
    return found


def annotations() -> dict[str, object]:
    objects = [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": 0,
            "segmentation": coco.run_lengths(pixels((x0, y0, x1, y1))),
        }
        for number, (image, category, (x0, y0, x1, y1)) in enumerate(OBJECTS, 1)
    ]
    images = [{"id": each, "height": SIZE[0], "width": SIZE[1]} for each in (1, 2)]
    kinds = [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}]
    return {"images": images, "categories": kinds, "annotations": objects}


def found(*objects: tuple[int, int, tuple[int, ...], float], masks: dict[int, torch.Tensor] | None = None):
    """Results of objects with scores, the masks filling the boxes but for those given by the object's place."""
    results = []
    for place, (image, category, box, score) in enumerate(objects):
        of_mask = (masks or {}).get(place, pixels(box))
        label = torch.tensor([category - CAT])
        one = Detections(torch.tensor([box]).float(), torch.tensor([score]), label, of_mask[None])
        results += coco.results(image, one, (CAT, DOG))
    return results


ALL = [(*each, 0.9 - 0.1 * place) for place, each in enumerate(OBJECTS)]


def test_all_found():
    figures = coco_average_precision(annotations(), found(*ALL))
    for kind in ("bbox", "segm"):
        assert figures[kind] == pytest.approx({"AP": 1, "AP50": 1, "AP75": 1, "APs": -1, "APm": 1, "APl": 1})


def test_one_of_two_cats_found():
    """At recalls 0 to 0.50, 51 of 101, the precision is 1, and 0 above; dogs are found: the mean of the two."""
    figures = coco_average_precision(annotations(), found(ALL[0], ALL[2]))
    assert figures["bbox"]["AP"] == pytest.approx((51 / 101 + 1) / 2)


def test_a_box_that_is_a_little_off():
    """IoU 0.72: right at the thresholds 0.5, 0.55, 0.6, 0.65 and 0.7 of ten."""
    figures = coco_average_precision(annotations(), found(*ALL[:2], (2, DOG, (0, 0, 72, 100), 0.9)))
    assert figures["bbox"]["AP"] == pytest.approx((1 + 0.5) / 2)
    assert figures["segm"]["AP"] == pytest.approx((1 + 0.5) / 2)
    assert (figures["bbox"]["AP50"], figures["bbox"]["AP75"]) == pytest.approx((1, 0.5))


def test_boxes_and_masks_are_compared_apart():
    wrong = {2: pixels((0, 0, 30, 100))}
    figures = coco_average_precision(annotations(), found(*ALL, masks=wrong))
    assert figures["bbox"]["AP"] == pytest.approx(1)
    assert figures["segm"]["AP"] == pytest.approx(0.5)


def test_a_masks_area_is_its_own():
    """A stray mask of 30 x 30 in a large box is small, so that masks of medium objects do not suffer from it."""
    stray = (1, CAT, (0, 0, 60, 99), 0.99)
    figures = coco_average_precision(annotations(), found(stray, *ALL, masks={0: pixels((70, 0, 100, 20))}))
    assert figures["segm"]["APm"] == pytest.approx(1)
    assert figures["bbox"]["APm"] < 1


def test_nothing_found():
    figures = coco_average_precision(annotations(), [])
    assert figures["bbox"]["AP"] == figures["segm"]["AP"] == 0


def test_annotations_in_a_file(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(annotations()))
    assert coco_average_precision(tmp_path / "a.json", found(*ALL))["segm"]["AP"] == pytest.approx(1)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"annotations": [{"id": 1}]}'])
def test_unusable_annotations(tmp_path, text):
    path = tmp_path / "a.json"
    if text:
        path.write_text(text)
    with pytest.raises(UserError, match=r"cannot read annotations .*a\.json"):
        coco_average_precision(path, found(*ALL))


def test_results_of_other_images():
    with pytest.raises(UserError, match="do not name 1 of the results' images, such as 7;"):
        coco_average_precision(annotations(), found(*ALL, (7, CAT, (0, 0, 5, 5), 0.5)))


def test_results_in_cocos_format():
    draw = torch.Generator().manual_seed(0)
    masks = torch.rand(1, *SIZE, generator=draw) > 0.5
    one = Detections(torch.tensor([[1.25, 2.5, 11.75, 22.5]]), torch.tensor([0.123456]), torch.tensor([79]), masks)
    (result,) = coco.results("a.jpg", one, [each.id for each in coco.categories()])
    assert json.loads(json.dumps(result)) == result
    decoded = mask.decode(result.pop("segmentation"))
    assert torch.equal(torch.from_numpy(decoded).bool(), masks[0])
    assert result == {"image_id": "a.jpg", "category_id": 90, "bbox": [1.25, 2.5, 10.5, 20.0], "score": 0.12346}


def test_categories():
    """COCO's 80 with identifiers from 1 to 90, of which ten are not used."""
    found = coco.categories()
    assert len(found) == len({each.name for each in found}) == 80
    assert [each.id for each in found] == sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
    assert (found[0], found[15], found[79]) == ((1, "person"), (17, "cat"), (90, "toothbrush"))


def test_image_identifiers():
    """Each is one photograph's: those of one name in several folders, or of one number, are called by their paths."""
    ids = {"000000000139.jpg": 139, "cat 2.jpg": "cat 2.jpg", "a/x.png": "a/x.png", "b/x.png": "b/x.png"}
    ids |= {"7.jpg": "7.jpg", "007.png": "007.png"}
    assert coco.image_ids([Path(name) for name in ids]) == {Path(name): expected for name, expected in ids.items()}
