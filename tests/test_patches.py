"""What is replaced for a while is afterwards as it was."""

import os
from types import SimpleNamespace

import pytest

from mvc.patches import CACHES, empty_caches, replaced


class Base:
    inherited = 1

    @staticmethod
    def static():
        return "base"


class Derived(Base):
    pass


@pytest.mark.parametrize("name", ["inherited", "static", "new"])
@pytest.mark.parametrize("owner", [Base, Derived, SimpleNamespace(inherited=1)], ids=["own", "inherited", "object"])
def test_an_attribute_has_another_value_within_the_block_alone(owner, name):
    before = dict(vars(owner))
    with pytest.raises(KeyError, match="within"), replaced(owner, name, 2):
        raise KeyError("within" if getattr(owner, name) == 2 else "not replaced")
    assert dict(vars(owner)) == before


def test_a_static_method_is_one_again():
    with replaced(Base, "static", lambda: "another"):
        assert Base.static() == "another"
    assert Base().static() == "base"


def test_caches_are_an_empty_folder_that_goes(monkeypatch):
    monkeypatch.setenv(CACHES[0], "mine")
    monkeypatch.delenv(CACHES[1], raising=False)
    with empty_caches():
        folder = os.environ[CACHES[1]]
        assert [os.environ[name] for name in CACHES] == [folder] * len(CACHES)
        assert os.listdir(folder) == []
    assert not os.path.exists(folder)
    assert os.environ[CACHES[0]] == "mine"
    assert CACHES[1] not in os.environ
