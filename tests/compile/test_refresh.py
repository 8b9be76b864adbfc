"""`mvc.refresh`: writes that torch does not count take effect in every frozen graph of a callable, and in no other."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import mvc
from mvc.errors import UserError
from mvc.passes.frozen.freeze import Frozen

FROZEN = {"frozen": True}


class Decay(nn.Module):
    def __init__(self):
        super().__init__()
        self.log = nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return x * torch.exp(-torch.exp(self.log))


class Broken(nn.Module):
    """Two graphs, in the second of which the constants are."""

    def __init__(self):
        super().__init__()
        self.decay = Decay()

    def forward(self, x):
        y = x + 1
        torch._dynamo.graph_break()
        return self.decay(y)


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    """Graphs run as they are: what they are compiled to does not matter here."""
    torch._dynamo.reset()
    monkeypatch.setattr(
        "mvc.compile.torch_private.inductor", lambda graph_module, inputs, options, **_: graph_module.forward
    )
    with torch.no_grad():
        yield


def module(model):
    return torch.compile(model, backend="mvc", options=FROZEN)


def function(model):
    return torch.compile(lambda x: model(x), backend="mvc", options=FROZEN)


def in_place(model):
    model.compile(backend="mvc", options=FROZEN)
    return model


def whole_model(model):
    return mvc.compile_model(model, torch.ones(2, 4), options=FROZEN)[0]


def whole_model_of_any_batch(model):
    return mvc.compile_model(model, torch.ones(2, 4), options=FROZEN, dynamic=True)[0]


WAYS = [module, function, in_place, whole_model, whole_model_of_any_batch]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_write_through_data_takes_effect(way):
    model, x = Decay(), torch.ones(2, 4)
    compiled, expected = way(model), lambda: x * torch.exp(-torch.exp(model.log))
    mvc.refresh(compiled)  # ahead of the first call as well
    torch.testing.assert_close(compiled(x), expected())
    for _ in range(2):
        model.log.data.add_(1)
        mvc.refresh(compiled)
        torch.testing.assert_close(compiled(x), expected())


@pytest.mark.parametrize("way", [module, function], ids=lambda way: way.__name__)
def test_every_graph_is_reached(way):
    """Behind a graph break, and of each recompilation."""
    model = Broken()
    compiled = way(model)
    inputs = [torch.ones(2, 4), torch.ones(2, 1, 4)]
    for _ in range(2):
        for x in inputs:
            torch.testing.assert_close(compiled(x), model(x))
        model.decay.log.data.add_(1)
        mvc.refresh(compiled)


@pytest.fixture
def computed(monkeypatch) -> list[Frozen]:
    """Every time that constants are computed."""
    updates, update = [], Frozen._update

    def record(self, parameters):
        updates.append(self)
        return update(self, parameters)

    monkeypatch.setattr(Frozen, "_update", record)
    return updates


@pytest.mark.parametrize(
    ("way", "options"), [(module, FROZEN), (function, {**FROZEN, "impl": "chunked"})], ids=["module", "function"]
)
def test_others_are_left_alone(computed, way, options):
    """Of a module all others, of a function those that were compiled with other options."""
    x = torch.ones(2, 4)
    compiled = way(Decay())
    other = torch.compile(Decay(), backend="mvc", options=options)
    compiled(x)
    other(x)
    assert len(computed) == 2
    mvc.refresh(compiled)
    other(x)
    assert len(computed) == 2
    compiled(x)
    assert len(computed) == 3


def test_where_nothing_is_computed_ahead_there_is_nothing_to_do(computed):
    compiled = torch.compile(nn.Linear(4, 4), backend="mvc", options=FROZEN | {"passes": "none"})
    compiled(torch.ones(2, 4))
    mvc.refresh(compiled)
    assert not computed


@pytest.mark.parametrize("way", [module, function], ids=lambda way: way.__name__)
def test_parameters_made_under_inference_mode_need_no_refresh(way):
    with torch.inference_mode():
        model = Decay()
    x = torch.ones(2, 4)
    compiled = way(model)
    compiled(x)
    model.log.data.add_(1)
    torch.testing.assert_close(compiled(x), model(x))
    mvc.refresh(compiled)  # and it does no harm


NOT_FROZEN = {
    "compiled module": (lambda: torch.compile(Decay(), backend="mvc"), "is not frozen"),
    "compiled model": (lambda: mvc.compile_model(Decay(), torch.ones(2, 4))[0], "is not frozen"),
    "another backend": (lambda: torch.compile(Decay(), backend="eager"), "not compiled with the backend 'mvc'"),
    "module": (Decay, "not compiled with the backend 'mvc'"),
    "function": (lambda: torch.exp, "not compiled with the backend 'mvc'"),
}


@pytest.mark.parametrize(("make", "reason"), NOT_FROZEN.values(), ids=NOT_FROZEN)
def test_what_is_not_frozen_is_an_error(make, reason):
    with pytest.raises(UserError, match=re.escape(reason)):
        mvc.refresh(make())
