"""What is replaced for a while is afterwards as it was."""

from types import SimpleNamespace

import pytest

from mvc.patches import replaced


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
