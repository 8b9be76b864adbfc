"""What a call's time goes to: names, work and shares, on a graph whose work is known."""

import json

import pytest
import torch
from torch.nn import functional as F

from mvc import operators
from mvc.errors import UserError
from mvc.operators import Operator, Operators

CPU = torch.device("cpu")


@pytest.fixture
def profiled(monkeypatch):
    """Profiles a call with a copy's rate that is not measured."""
    monkeypatch.setattr(operators, "_copy_rate", lambda device: 1e9)
    return lambda run, **options: operators.profile(run, device=CPU, flop_rate=1e12, **options)


@torch.no_grad()
def test_calls_bytes_and_flops_of_known_work(profiled):
    a, b = torch.randn(128, 256), torch.randn(256, 512)
    x, weight = torch.randn(4, 16, 32, 32), torch.randn(16, 16, 3, 3)
    out = torch.empty(128, 512)

    def run():
        torch.mm(a, b, out=out)
        torch.mm(a, b, out=out)
        F.conv2d(x, weight, padding=1)

    rows = {row.name: row for row in profiled(run).rows}
    product = rows["aten::mm"]
    assert product.calls == 2
    assert product.flops == 2 * 2 * 128 * 256 * 512
    assert product.bytes == 2 * 4 * (128 * 256 + 256 * 512 + 128 * 512)
    convolutions = [row for row in rows.values() if row.flops and row.name != "aten::mm"]
    assert [row.flops for row in convolutions] == [2 * 4 * 16 * 32 * 32 * 16 * 9], "credited to what works, once"
    assert "conv2d" not in convolutions[0].name
    assert convolutions[0].bytes >= 4 * (x.numel() + weight.numel() + x.numel())


def test_what_an_output_shares_with_an_input_counts_once():
    tensor = [7, 3, 0, 100, 4, "cpu"]
    node = {
        "name": "aten::add_",
        "inputs": {"values": [tensor, [8, 4, 0, 50, 2, "cpu"], 1, [[9, 5, 0, 10, 1, "cpu"]]]},
        "outputs": {"values": [tensor]},
    }
    assert operators._bytes([node, {"name": "no tensors", "inputs": {"values": [1, "a"]}}]) == {"aten::add_": 510}


def test_the_table_has_shares_of_both_ceilings():
    rows = [Operator("aten::mm", 2, 0.003, 10**6, 10**9), Operator("cpp_fused_add_0", 1, 0.001, None, None)]
    table = str(Operators(rows, flop_rate=1e12, byte_rate=1e9))
    lines = table.splitlines()
    assert lines[2].split() == ["aten::mm", "2", "3.000", "75.0%", "1.0", "1.00", "33%", "33%"]
    assert lines[3].split() == ["cpp_fused_add_0", "1", "1.000", "25.0%"]
    assert "one call: 4.0 ms; 1,000 GFLOP/s of a matrix product, 1.0 GB/s of a copy" in table


def test_the_json_is_what_the_table_is_made_from():
    facts = Operators([Operator("aten::mm", 1, 0.1, 5, 6)], 1.0, 2.0)
    assert Operators.from_dict(json.loads(json.dumps(facts.as_dict()))) == facts


def test_a_trace_is_chromes(profiled, tmp_path):
    x = torch.randn(64, 64)
    profiled(lambda: x @ x, trace=str(tmp_path / "trace.json"))
    names = {event.get("name") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert "aten::mm" in names
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]


def test_a_trace_that_cannot_be_written_is_said(profiled, tmp_path):
    with pytest.raises(UserError, match="cannot write --trace"):
        profiled(lambda: torch.ones(2) + 1, trace=str(tmp_path / "no" / "trace.json"))


def test_copy_rate_is_measured():
    assert 1e8 < operators._copy_rate(CPU) < 1e13
