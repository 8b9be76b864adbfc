"""What a call's time goes to: names, work and shares, on a graph whose work is known."""

import json
import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import sdpa_flop_count

from mvc import ceilings, operators
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


def call(name, inputs, outputs):
    """As an execution trace has it: tensors are (id, shape, bytes of an element)."""

    def side(tensors):
        values = [[key, key, 0, size and math.prod(shape), size, "cpu"] for key, shape, size in tensors]
        return {"values": [*values, 1, "none"], "shapes": [*(shape for _, shape, _ in tensors), [], []]}

    return {"name": name, "inputs": side(inputs), "outputs": side(outputs)}


def test_what_an_output_shares_with_an_input_counts_once():
    x, y = (7, [10, 10], 4), (8, [50], 2)
    bytes_of, _ = operators._work([call("aten::add_", [x, y], [x]), {"name": "without tensors"}])
    assert bytes_of == {"aten::add_": 500}


def test_tensors_in_a_list_count():
    inputs = {"values": [[[9, 5, 0, 10, 1, "cpu"], [6, 6, 0, 20, 1, "cpu"]]], "shapes": [[[10], [20]]]}
    assert operators._work([{"name": "aten::cat", "inputs": inputs}])[0] == {"aten::cat": 30}


def test_a_packed_weight_counts_by_its_shape():
    x, packed, y = (1, [8, 4, 64], 4), (2, [32, 64], 0), (3, [8, 4, 32], 4)
    bytes_of, flops_of = operators._work([call("mkldnn::_linear_pointwise", [x, packed], [y])])
    assert bytes_of.total() == 4 * (8 * 4 * 64 + 32 * 64 + 8 * 4 * 32)
    assert flops_of.total() == 2 * 8 * 4 * 64 * 32


@pytest.mark.parametrize("training", [False, True], ids=["forward", "backward"])
def test_flops_are_those_of_torchs_counter(profiled, training):
    conv = torch.nn.Conv2d(8, 16, 3)
    x = torch.randn(2, 8, 9, 9, requires_grad=True)
    a, b = torch.randn(2, 5, 5)

    def run():
        y = conv(x)
        if training:
            y.sum().backward()
        else:
            torch.baddbmm(torch.zeros(4, 3, 7), torch.randn(4, 3, 5), torch.randn(4, 5, 7))
            torch.addmm(a, a, b)

    with torch.set_grad_enabled(training):
        expected = ceilings.count_flops(run)
        assert sum(row.flops or 0 for row in profiled(run).rows) == expected


@torch.no_grad()
def test_flops_of_attention(profiled):
    q, k, v = torch.randn(2, 4, 16, 8), torch.randn(2, 4, 24, 8), torch.randn(2, 4, 24, 8)
    rows = profiled(lambda: F.scaled_dot_product_attention(q, k, v)).rows
    assert [row.flops for row in rows if row.flops] == [sdpa_flop_count(q.shape, k.shape, v.shape)]


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_kernels_time_is_their_operators():
    x = torch.randn(2048, 2048, device="cuda")
    found = operators.profile(lambda: (x @ x).relu(), device=x.device, flop_rate=1e12)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    (x @ x).relu()
    end.record()
    end.synchronize()
    assert "aten::mm" in {row.name for row in found.rows}
    assert sum(row.seconds for row in found.rows) == pytest.approx(start.elapsed_time(end) / 1e3, rel=0.5)
