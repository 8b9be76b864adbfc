"""The gate on a real GPU: its clocks agree, a version is equal to itself, and 5 % more work is found."""

import json

import pytest
import torch
from places import ROOT

from mvc.regress.__main__ import main
from mvc.regress.cases import Case
from mvc.regress.worker import Side, Worker

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SCAN = {"kind": "scan", "device": "cuda", "batch": 8, "dim": 512, "length": 1024}
TINY = {"variant": "tiny", "size": 64, "frozen": True, "device": "cuda"}


@pytest.mark.parametrize(
    ("case", "clocks"),
    [
        (Case("scan", **SCAN), ["graph", "kernels"]),
        (Case("scan, training", training=True, **SCAN), ["graph", "kernels"]),
        (Case("tiny", batch=64, **TINY), ["graph", "kernels"]),
        (
            Case("tiny, graphs of its own", mode="reduce-overhead", **TINY),
            ["kernels"],
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Case) else "",
)
def test_clocks_agree(case, clocks, tmp_path):
    with Worker(case, Side("this", ROOT, tmp_path)).wait_until_ready() as worker:
        assert worker.facts.clocks == clocks, worker.facts.no_graph
        seconds = {clock: worker.time(calls=50, clock=clock) for clock in (*clocks, "wall")}
    assert 0 < seconds["kernels"] < seconds["wall"], seconds
    if "graph" in clocks:  # which has what lies between kernels too
        assert 0.9 * seconds["kernels"] < seconds["graph"] < seconds["wall"], seconds


def test_a_version_is_equal_to_itself_and_5_percent_more_work_is_found(capsys):
    command = ["selftest", "--device", "cuda", "--only", "scan-language", "--comparisons", "1", "--slowdown", "0.05"]
    status = main([*command, "--json", "-", "--quiet"])
    printed = capsys.readouterr().out
    assert status == 0, printed
    equal, slower = json.loads(printed)["trials"]
    assert equal["clock"] == slower["clock"] == "graph"
    assert all(1.03 < ratio["median"] < 1.07 for ratio in slower["ratios"])
