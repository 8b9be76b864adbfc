"""Which sizes of an exported program are free: how they are asked for, and what is refused."""

import pytest
import torch

from mvc.errors import UserError
from mvc.export.sizes import Sizes

IMAGES = torch.zeros(4, 3, 96, 64)


@pytest.mark.parametrize(
    ("dynamic", "described"),
    [
        (None, "4 3 96 64"),
        ("batch", "1:64 3 96 64"),
        ({"batch": (2, 8)}, "2:8 3 96 64"),
        ({"batch": (4, 4), "height": (64, 512), "width": (32, 512)}, "4 3 64:512 32:512"),
    ],
)
def test_what_is_free_is_described_with_its_range(dynamic, described):
    assert Sizes.parse(dynamic).described([IMAGES]) == described


def test_each_input_has_the_axes_of_its_rank():
    sizes = Sizes.parse({"batch": (1, 8), "length": (1, 100), "height": (64, 512)})
    assert sizes.described([IMAGES, torch.zeros(4, 50, 16), torch.zeros(3)]) == "1:8 3 64:512 64; 1:8 1:100 16; 1:8"


@pytest.mark.parametrize(
    ("dynamic", "said"),
    [
        ("batches", "dynamic is 'batches'"),
        ({"depth": (1, 2)}, "an axis of dynamic is 'depth'"),
        ({"batch": 8}, r"dynamic\['batch'\] is 8"),
        ({"batch": (0, 8)}, r"dynamic\['batch'\] is \(0, 8\)"),
        ({"batch": (8, 1)}, "whose first size is not the larger"),
        ({"batch": (1, 8, 9)}, r"dynamic\['batch'\]"),
    ],
)
def test_a_value_that_is_no_range_is_refused(dynamic, said):
    with pytest.raises(UserError, match=said):
        Sizes.parse(dynamic)


@pytest.mark.parametrize(
    ("dynamic", "said"),
    [
        ({"batch": (8, 64)}, "the batch of example is 4, outside of the range 8:64"),
        ({"height": (32, 64)}, "the height of example is 96"),
        ({"length": (1, 10)}, "no input of example has such an axis"),
    ],
)
def test_an_example_out_of_its_range_is_refused(dynamic, said):
    with pytest.raises(UserError, match=said):
        Sizes.parse(dynamic).check([IMAGES])


def test_a_free_batch_of_one_is_traced_as_two():
    (x,) = Sizes.parse("batch").traceable([torch.arange(3.0).reshape(1, 3)])
    assert torch.equal(x, torch.tensor([[0.0, 1.0, 2.0]] * 2))
