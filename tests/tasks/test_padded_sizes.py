"""Sizes of batches, buckets, and how many graphs compiled code needs for pictures of many sizes."""

import random

import pytest
import torch
from small_models import EACH_KIND_ONCE
from torch import Tensor, fx

from mvc.errors import UserError
from mvc.model.config import get_config
from mvc.tasks.backbone import Backbone
from mvc.tasks.photographs import DETECTION_BOUNDS, SEGMENTATION_BOUNDS, bounded_size, padded
from mvc.tasks.sizes import DETECTION_BUCKETS, SEGMENTATION_BUCKETS, padded_size

SIDES = range(120, 1600)


@pytest.mark.parametrize(
    ("bounds", "buckets"), [(DETECTION_BOUNDS, DETECTION_BUCKETS), (SEGMENTATION_BOUNDS, SEGMENTATION_BUCKETS)]
)
def test_a_bucket_holds_every_photograph(bounds, buckets):
    """Of all aspect ratios; the smallest that does is taken."""
    assert len(buckets) == 3
    for side in SIDES:
        for photograph in ((side, 640), (640, side), (side, 37), (37, side)):
            size = bounded_size(photograph, bounds)
            chosen = padded_size([size], buckets=buckets)
            fitting = [b for b in buckets if b[0] >= size[0] and b[1] >= size[1]]
            assert chosen in fitting
            assert chosen[0] * chosen[1] == min(height * width for height, width in fitting)


def test_the_usual_photographs_of_coco_are_hardly_padded():
    sizes = {(480, 640): (800, 1088), (427, 640): (800, 1344), (640, 480): (1344, 800), (500, 500): (800, 1088)}
    for photograph, bucket in sizes.items():
        assert padded_size([bounded_size(photograph, DETECTION_BOUNDS)], buckets=DETECTION_BUCKETS) == bucket


def test_without_buckets_sizes_are_a_multiple():
    assert padded_size([(800, 1333), (750, 1000)]) == (800, 1344)
    assert padded_size([(512, 683)], multiple=1) == (512, 683)
    assert padded_size([(2048, 14)], multiple=1) == (2048, 32)  # the least that the model takes
    pictures = [torch.ones(3, 30, 50), torch.ones(3, 40, 20)]
    batch, sizes = padded(pictures, buckets=[(64, 64), (48, 64)])
    assert (tuple(batch.shape), sizes) == ((2, 3, 48, 64), [(30, 50), (40, 20)])
    assert batch[0, :, :30, :50].min() == 1
    assert batch.sum() == 3 * (30 * 50 + 40 * 20)


def test_what_no_bucket_holds_is_refused():
    with pytest.raises(UserError, match="none of the buckets 64 x 64, 32 x 96 holds pictures of 40 x 90"):
        padded_size([(40, 10), (10, 90)], buckets=[(64, 64), (32, 96)])
    with pytest.raises(UserError, match=r"sizes is \[\]"):
        padded_size([])


# A quarter of detection's sizes and windows: the same patterns of windows, in seconds.
BOUNDS, WINDOWS = tuple(side // 4 for side in DETECTION_BOUNDS), (28, 14)
BUCKETS = [(height // 4, width // 4) for height, width in DETECTION_BUCKETS]


def random_sizes() -> list[tuple[int, int]]:
    draw = random.Random(0)
    photographs = [(draw.randint(150, 640), draw.randint(150, 640)) for _ in range(20)]
    return [bounded_size(size, BOUNDS) for size in photographs]


def graphs_for(sizes: list[tuple[int, int]], *, padded_windows: bool, dynamic: bool, largest: int = 0) -> int:
    """How many graphs a compiled backbone has after pictures of these sizes. Each is one graph from images to maps, and
    computes what the backbone does, which is looked at for every third size."""
    torch._dynamo.reset()
    config = get_config("tiny", window_sizes=WINDOWS, padded_windows=padded_windows, **EACH_KIND_ONCE)
    model, graphs = Backbone(config).eval(), []

    def keep(graph_module: fx.GraphModule, inputs: list[Tensor]):
        graphs.append(graph_module)
        return graph_module.forward

    compiled = torch.compile(model, backend=keep, fullgraph=True, dynamic=dynamic)
    with torch.no_grad():
        for number, size in enumerate(sizes):
            x = torch.randn(1, 3, *size)
            found = compiled(x)
            if number % 3 == 0:
                torch.testing.assert_close(found, model(x))
    torch._dynamo.reset()
    return len(graphs)


@pytest.mark.parametrize("windows", ["padded", "valid"])
def test_twenty_sizes_in_buckets_need_three_graphs(windows):
    sizes = random_sizes()
    assert len({padded_size([size], multiple=8) for size in sizes}) == 18
    chosen = [padded_size([size], buckets=BUCKETS) for size in sizes]
    assert graphs_for(chosen, padded_windows=windows == "padded", dynamic=False) == 3


@pytest.mark.parametrize("windows", ["padded", "valid"])
def test_twenty_sizes_need_one_graph_for_the_pattern_of_windows(windows):
    """And one more at such small sizes alone, where torch chooses convolutions by their work."""
    sizes = [padded_size([size], multiple=8) for size in random_sizes()]
    assert graphs_for(sizes, padded_windows=windows == "padded", dynamic=True) == 2
