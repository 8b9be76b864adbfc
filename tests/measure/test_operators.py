"""What a call's time goes to: names, work and shares, on a graph whose work is known."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

from mvc.compile.explanation import kernel_bytes
from mvc.errors import UserError
from mvc.measure import flops, operators
from mvc.measure.operators import Operator, Operators

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
        expected = flops.count(run)
        assert sum(row.flops or 0 for row in profiled(run).rows) == expected


@pytest.mark.parametrize("needed", ["input", "weight", "both"])
def test_only_gradients_that_are_asked_for_count(profiled, needed):
    x = torch.randn(2, 8, 9, 9, requires_grad=needed != "weight")
    weight = torch.randn(16, 8, 3, 3, requires_grad=needed != "input")

    def run():
        F.conv2d(x, weight).sum().backward()

    forward = 2 * (2 * 16 * 7 * 7) * (8 * 3 * 3)
    (backward,) = (row.flops for row in profiled(run).rows if row.name == "aten::convolution_backward")
    assert backward == flops.count(run) - forward == (2 if needed == "both" else 1) * forward


Q, K, V = (2, 4, 16, 8), (2, 4, 24, 8), (2, 4, 24, 12)  # (batch, heads, length, dim)
Y = (2, 4, 16, 12)


@pytest.mark.parametrize("training", [False, True], ids=["forward", "and backward"])
def test_flops_of_attention(profiled, training):
    tensors = [torch.randn(shape, requires_grad=training) for shape in (Q, K, K)]

    def run():
        y = F.scaled_dot_product_attention(*tensors)
        if training:
            y.sum().backward()

    expected = [sdpa_flop_count(Q, K, K), *([sdpa_backward_flop_count(Q, Q, K, K)] if training else [])]
    assert sorted(row.flops for row in profiled(run).rows if row.flops) == expected


def swapped(shape):
    """(batch, length, heads, dim), as some kernels on a GPU take it."""
    batch, heads, length, dim = shape
    return batch, length, heads, dim


ORDERS = {"flash": swapped, "efficient": swapped, "cudnn": tuple}


@pytest.mark.parametrize("kernel", ORDERS)
def test_flops_of_attention_on_a_gpu_are_its_kernels(kernel):
    """The operators that call these have none, or they would count twice."""
    order = ORDERS[kernel]
    q, k, v, y = ((key, order(shape), 2) for key, shape in enumerate((Q, K, V, Y), 1))
    gradient = (5, order(Y), 2)
    public = f"aten::_scaled_dot_product_{kernel}_attention"
    nodes = [
        call(f"aten::_{kernel}_attention_forward", [q, k, v], [y]),
        call(f"aten::_{kernel}_attention_backward", [gradient, q, k, v, y], [q, k, v]),
        call(public, [q, k, v], [y]),
        call(f"{public}_backward", [gradient, q, k, v, y], [q, k, v]),
    ]
    assert operators._work(nodes)[1] == {
        f"aten::_{kernel}_attention_forward": sdpa_flop_count(Q, K, V),
        f"aten::_{kernel}_attention_backward": sdpa_backward_flop_count(Y, Q, K, V),
    }


def test_bytes_of_generated_kernels_are_inductors_count(profiled):
    """Two loops that become one C++ kernel between the calls of libraries."""
    x, weight = torch.randn(64, 256), torch.randn(256, 128)
    run = torch.compile(
        lambda x, w: ((x + 1) @ (w * 2)).relu(),
        options={"fx_graph_cache": False, "cpp.enable_kernel_profile": True},
    )
    with torch.no_grad(), kernel_bytes() as kernels:
        run(x, weight)
        rows = profiled(lambda: run(x, weight), kernels=kernels).rows
    generated = {row.name: (row.calls, row.bytes) for row in rows if row.name.startswith("cpp_fused")}
    assert sorted(generated.values()) == [(1, 2 * 4 * 64 * 128), (1, 2 * 4 * (x.numel() + weight.numel()))]
    assert generated.keys() == kernels.keys()


def test_kernels_of_a_backward_have_their_bytes(profiled):
    """Its code is written when it first runs."""
    x = torch.randn(64, 256, requires_grad=True)
    run = torch.compile(lambda x: x.sin().exp(), options={"fx_graph_cache": False, "cpp.enable_kernel_profile": True})
    with kernel_bytes() as kernels:
        run(x).sum().backward()
        rows = profiled(lambda: run(x).sum().backward(), kernels=kernels).rows
    generated = {row.name: row.bytes for row in rows if row.name.startswith("cpp_fused")}
    assert len(generated) == 2, "one of the forward and one of the backward"
    assert all(moved >= 2 * x.nbytes for moved in generated.values())


def test_a_kernel_that_no_operator_launched_has_a_row_of_its_own():
    def event(key, device_type, seconds):
        return SimpleNamespace(
            key=key, device_type=device_type, self_device_time_total=seconds * 1e6, device_time_total=seconds * 1e6
        )

    events = [
        event("aten::mm", DeviceType.CPU, 2),
        event("sm90_gemm", DeviceType.CUDA, 2),
        event("triton_launched", DeviceType.CPU, 3),
        event("triton_launched", DeviceType.CUDA, 3),
        event("triton_in_a_graph", DeviceType.CUDA, 4),
        event("cudaGraphLaunch", DeviceType.CPU, 0),
    ]
    kernels = {"triton_launched": 8, "triton_in_a_graph": None}
    found = operators._working(events, torch.device("cuda"), kernels)
    assert [each.key for each in found] == ["aten::mm", "triton_launched", "triton_in_a_graph"]


def test_the_table_has_shares_of_both_ceilings():
    rows = [Operator("aten::mm", 2, 0.003, 10**6, 10**9), Operator("cpp_fused_add_0", 1, 0.001, None, None)]
    table = str(Operators(rows, flop_rate=1e12, byte_rate=1e9))
    lines = table.splitlines()
    assert lines[2].split() == ["aten::mm", "2", "3.000", "75.0%", "1.0", "1.00", "33%", "33%"]
    assert lines[3].split() == ["cpp_fused_add_0", "1", "1.000", "25.0%"]
    assert "one call: 4.0 ms; 1,000 GFLOP/s of a matrix product, 1.0 GB/s of a copy" in table


def test_the_json_has_the_rows_and_the_ceilings():
    found = Operators([Operator("aten::mm", 1, 0.1, 5, None)], 1.0, 2.0)
    row = {"name": "aten::mm", "calls": 1, "seconds": 0.1, "bytes": 5, "flops": None}
    assert found.as_dict() == {"flop_rate": 1.0, "byte_rate": 2.0, "rows": [row]}


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
