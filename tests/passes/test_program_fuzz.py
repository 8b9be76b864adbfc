"""Programs that differ are found, named by their seed and reduced; a fixed set of them does not differ."""

from __future__ import annotations

import pytest
import torch
from program_fuzz import check, kind, main, reduced, reports
from random_programs import Program, generate
from test_verify import Exchange

from mvc.passes import pipeline

PROGRAMS = 100
CHUNKS = 10


@pytest.mark.parametrize("chunk", [pytest.param(0, marks=pytest.mark.versions), *range(1, CHUNKS)])
def test_programs_are_the_same_after_the_passes(chunk):
    size = PROGRAMS // CHUNKS
    compared = [each for each in reports(1000 * chunk, programs=size) if not isinstance(each, Exception)]
    assert {each.program.seed: each.failures for each in compared if each.failures} == {}
    assert len(compared) == size


def test_a_seed_gives_its_program_again():
    assert generate(3) == generate(3)
    assert generate(3).source != generate(4).source


def test_a_feature_is_left_out_alone():
    whole = generate(5)
    left_out = whole.features[-1]
    smaller = generate(5, frozenset({left_out}))
    assert set(smaller.features) == {*whole.features} - {left_out}


def program(body: str) -> Program:
    """What `program` of that text computes from a tensor."""
    source = f"import torch\n\ndef inputs(seed):\n    return [torch.linspace(0.1, 1, 6).double().view(2, 3)]\n\n{body}"
    return Program(0, f"{source}\n\ndef caller(run, *inputs):\n    return run(*inputs)\n", (), "float64")


@pytest.fixture
def breaking(monkeypatch):
    """Passes that change what torch.sin gives."""

    def become(new):
        monkeypatch.setattr(pipeline, "build", lambda *_, **__: [Exchange(torch.sin, new)])

    return become


SINE = program("def program(x):\n    return torch.sin(x)")


@pytest.mark.parametrize(
    ("new", "found"),
    [
        (torch.cos, "error"),
        (lambda x: x.sin().mT.contiguous().mT, "strides"),
        (lambda x: x.sin_(), "error"),
        (lambda x: x.mT.view(-1), "raises"),
    ],
    ids=["values", "strides", "input", "exception"],
)
def test_what_a_pass_breaks_is_found(breaking, new, found):
    assert not check(SINE).failures
    breaking(new)
    assert kind(check(SINE)) == found


def test_what_a_pass_breaks_behind_a_graph_break_is_found(breaking):
    """There the strides are an argument's, and no output's."""
    behind = program("def program(x):\n    y = torch.sin(x)\n    torch._dynamo.graph_break()\n    return y.view(-1)")
    assert not check(behind).failures
    breaking(lambda x: x.sin().mT.contiguous().mT)
    assert kind(check(behind)) == "raises"


def test_a_failure_is_reduced(breaking, monkeypatch):
    monkeypatch.setattr("program_fuzz.generate", lambda seed, without: SINE)
    breaking(torch.cos)
    report = check(Program(0, SINE.source, ("one", "another"), "float64"))
    assert reduced(report).program.features == ()


def test_command_prints_seeds_and_fails_when_one_differs(breaking, monkeypatch, capsys):
    monkeypatch.setattr("program_fuzz.generate", lambda seed: Program(seed, SINE.source, ("one",), "float64"))
    assert main(["--programs", "2", "--seed", "7"]) == 0
    breaking(torch.cos)
    assert main(["--programs", "2", "--seed", "7"]) == 1
    printed = capsys.readouterr().out
    assert "2 programs from seed 7" in printed
    assert "exchange: rewrote 100%" in printed
    assert "2 differ from eager: [7, 8]" in printed
