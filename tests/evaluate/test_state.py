"""States of evaluations: read back as they were, and refused where something else is evaluated."""

import pytest
import torch

from mvc.errors import UserError
from mvc.evaluate.counts import Counts
from mvc.evaluate.state import State, load, save
from mvc.images.loading import Unreadable

SETTING = {"weights": "a1", "images": "b2", "dtype": "float16"}


@pytest.fixture
def saved(tmp_path):
    counts = Counts(torch.tensor([[3, 1], [0, 2]]), torch.tensor([4, 2]), torch.tensor([0, 1]))
    state, path = State(8, counts, [Unreadable("a/1.png", "damaged")], 2.5), tmp_path / "t.state"
    save(state, SETTING, path)
    return state, path


def test_a_state_is_read_as_it_was(saved):
    state, path = saved
    found = load(SETTING, path)
    assert (found.done, found.unreadable, found.seconds) == (8, state.unreadable, 2.5)
    for name, tensor in state.counts.tensors().items():
        assert torch.equal(found.counts.tensors()[name], tensor), name
    assert [each.name for each in path.parent.iterdir()] == ["t.state"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "a2"}, "is of another evaluation: other weights; name another file"),
        ({"images": "b3", "dtype": "float32"}, "other images; dtype is float16 there and float32 here"),
        ({"crop": "1"}, "is of another version of mvc"),
    ],
)
def test_a_state_of_something_else_is_refused(saved, change, message):
    with pytest.raises(UserError) as caught:
        load(SETTING | change, saved[1])
    assert message in str(caught.value)


@pytest.mark.parametrize("contents", [b"", b"text", None], ids=["empty", "text", "cut short"])
def test_what_is_no_state_is_refused(saved, contents):
    path = saved[1]
    path.write_bytes(path.read_bytes()[:-200] if contents is None else contents)
    with pytest.raises(UserError, match="is no state of an evaluation; remove it"):
        load(SETTING, path)


def test_weights_are_no_state(tmp_path):
    torch.save({"head.weight": torch.zeros(2, 2)}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="is no state of an evaluation"):
        load(SETTING, tmp_path / "weights.pth")


def test_a_state_that_cannot_be_read_is_not_said_to_be_none(saved, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(UserError, match=r"cannot read --state .*: Permission denied; make it readable"):
        load(SETTING, saved[1])


def test_a_state_that_cannot_be_written_is_said(saved, tmp_path):
    with pytest.raises(UserError, match="cannot write --state"):
        save(saved[0], SETTING, tmp_path / "no" / "t.state")
