"""Products joined: of one input, and of columns of another product; what is left alone, and what is computed once."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from toy_passes import capture, rewritten

from mvc.passes import pipeline
from mvc.passes.frozen import join_linear
from mvc.passes.frozen.freeze import split_constants
from mvc.passes.frozen.join_linear import MACHINES, JoinLinear, Machine
from mvc.passes.graph.fx_utils import op_counts, value
from mvc.passes.verify import Verifier

B, L, K, R, N = 2, 5, 12, 3, 10


@pytest.fixture(autouse=True)
def joined_wherever_possible(monkeypatch):
    monkeypatch.setattr(join_linear, "MACHINES", {"cpu": Machine(1e9, 15, 15, strided=True)})
    with torch.no_grad():
        yield


class Model(nn.Module):
    """Weights, and a function of them and of x."""

    def __init__(self, function, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(K, R + 4, bias), nn.Linear(R, N, bias)
        self.third, self.function = nn.Linear(K, N, bias), function

    def forward(self, x):
        return self.function(self, x)


def by_split(model, x):
    """As Mamba's mixer computes the time step."""
    dt, b, c = model.first(x).split((R, 2, 2), dim=-1)
    return model.second(dt).sin(), b + c


def by_index(model, x):
    y = model.first(x)
    return y[..., :4].sin(), model.second(y[..., 4 : 4 + R]).sin()


def by_overlap(model, x):
    y = model.first(x)
    return model.second(y[..., :R]).sin(), y[..., 1:].sin(), y[..., :R].sin()


def nothing_else(model, x):
    return model.second(model.first(x)[..., :R]).sin()


def siblings(model, x):
    return model.first(x).sin(), model.third(x).sin()


def three(model, x):
    return model.first(x).sin(), model.third(x).sin(), F.linear(x, model.third.weight).sin()


def returned(model, x):
    """Results keep their strides and memory."""
    return model.first(x), model.third(x)


def written(model, x):
    y = model.third(x)
    return model.first(x).sin(), y.add_(1), y


def run(function, *, bias=True, dtype=torch.float32):
    model = Model(function, bias).to(dtype)
    module, examples = capture(model, torch.randn(B, L, K, dtype=dtype))
    (record,) = pipeline.run([JoinLinear()], module, strict=True, observers=[Verifier(module, examples)])
    return module, record


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize(
    ("function", "columns"),
    [
        *((by_split, N + 4), (by_index, N + 4), (by_overlap, N + R + 4 - 1 + R), (nothing_else, N)),
        *((siblings, R + 4 + N), (three, R + 4 + 2 * N), (returned, R + 4 + N), (written, R + 4 + N)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
def test_products_become_one_of_weights_computed_once(function, columns, bias, dtype):
    module, record = run(function, bias=bias, dtype=dtype)
    assert (record.matches, record.near_misses) == (1, ())
    main = split_constants(module).main
    (product,) = (node for node in main.graph.nodes if node.target is F.linear or node.target is torch._C._nn.linear)
    assert value(product).shape == (B * L, columns)
    assert all(each.op == "placeholder" for each in product.all_input_nodes[1:]), "the weight is computed before"
    assert not {"cat", "matmul", "double"} & op_counts(main.graph).keys()


def test_one_row_is_a_vector():
    module, examples = capture(Model(siblings), torch.randn(K))
    (record,) = pipeline.run([JoinLinear()], module, strict=True, observers=[Verifier(module, examples)])
    assert record.matches == 1


def test_one_bias_of_two_is_enough():
    def function(model, x):
        return F.linear(x, model.first.weight).sin(), model.third(x).sin()

    _, record = run(function)
    assert record.matches == 1


def read_whole(model, x):
    y = model.first(x)
    return y.sin(), model.second(y[..., :R]).sin()


def along_the_length(model, x):
    return F.linear(model.first(x)[:, :R].transpose(1, 2), model.second.weight).sin()


def in_steps(model, x):
    return model.second(model.first(x)[..., ::2][..., :R]).sin()


def of_different_inputs(model, x):
    return model.first(x).sin(), model.third(x + 1).sin()


def bias_of_one(model, x):
    return model.first(x).sin(), F.linear(x, model.third.weight, model.third.bias[:1]).sin()


@pytest.mark.parametrize("function", [read_whole, along_the_length, in_steps, of_different_inputs, bias_of_one])
def test_what_is_no_such_product_is_not_mentioned(function):
    _, record = run(function)
    assert (record.matches, record.near_misses) == (0, ())


def changed_between(model, x):
    x = x + 1
    y = model.first(x).sin()
    x.zero_()
    return y, model.third(x)


def columns_changed(model, x):
    y = model.first(x)
    dt, rest = y[..., :R], y[..., R:]
    rest.zero_()
    return model.second(dt).sin(), rest.sin()


def written_afterwards(model, x):
    y = model.first(x)
    z, rest = model.second(y[..., :R]), y[..., R:]
    y[..., R + 1] = 0
    return z.sin(), rest.sin()


def columns_returned(model, x):
    """They share memory."""
    y = model.first(x)
    return model.second(y[..., :R]).sin(), y[..., R:], y[..., R + 1 :]


def weight_computed_later(model, x):
    y = model.first(x)
    return y.sin(), F.linear(x, model.third.weight.sin()).sin()


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (changed_between, "zero_ writes"),
        (written_afterwards, "memory is written to or returned"),
        (columns_returned, "memory is written to or returned"),
        (weight_computed_later, "computed after the first product"),
    ],
)
def test_near_misses_say_why(function, reason):
    _, record = run(function)
    assert record.matches == 0
    assert [reason in miss.reason for miss in record.near_misses] == [True]


def test_columns_that_are_written_to_keep_their_product():
    """The verifier has compared what the graph computes."""
    _, record = run(columns_changed)
    assert record.matches == 0


def test_weights_that_may_change_stay_apart():
    x, first, third = torch.randn(B, L, K), torch.randn(R, K), torch.randn(N, K)
    module, _ = capture(lambda x, first, third: (F.linear(x, first), F.linear(x, third)), x, first, third)
    assert JoinLinear()(module.graph).matches == 0


def test_autocast_keeps_them_apart():
    model = Model(siblings)
    with torch.autocast("cpu", torch.bfloat16):
        module, _ = capture(model, torch.randn(B, L, K))
        assert JoinLinear()(module.graph).matches == 0


def test_the_batch_may_be_of_any_size():
    model = Model(by_split)
    compiled, done = rewritten(JoinLinear(), model, dynamic=True)
    for batch in (2, 5, 3):
        x = torch.randn(batch, L, K)
        torch.testing.assert_close(compiled(x), model(x))
    ((outcome, _),) = done
    assert outcome.matches == 1


@pytest.mark.parametrize(
    ("device", "rows", "inner", "rank", "matches"),
    [("cuda", 25088, 160, 20, 1), ("cuda", 6272, 320, 40, 1), ("cuda", 50176, 784, 98, 0), ("cpu", 25088, 160, 20, 0)],
    ids=["T, stage 3", "T, stage 4", "ten times the operations", "a CPU"],
)
def test_joined_where_bytes_and_launches_weigh_more_than_operations(device, rows, inner, rank, matches, monkeypatch):
    """Mamba's time step, on the machines of the table; nothing is computed."""
    monkeypatch.setattr(join_linear, "MACHINES", MACHINES)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = Model(lambda model, x: halves(model.first(x), model.second, rank))
        options = {"bias": False, "device": device, "dtype": torch.float16}
        model.first, model.second = nn.Linear(inner, rank + 16, **options), nn.Linear(rank, inner, **options)
        module, _ = capture(model, torch.empty(1, rows, inner, dtype=torch.float16, device=device))
    outcome = JoinLinear()(module.graph)
    assert outcome.matches == matches
    assert ["more operations" in miss.reason for miss in outcome.near_misses] == [True] * (1 - matches)


def halves(y, second, rank):
    return second(y[..., :rank]).sin(), y[..., rank:].sin()
