"""A training step as one CUDA graph: on a GPU; elsewhere what is refused, and what a stand-in for the graph does."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mvc import capture_step
from mvc.compile import captured
from mvc.errors import UserError
from mvc.measure import capture

pytestmark = pytest.mark.versions


@pytest.fixture
def graphs(monkeypatch):
    """Stands for CUDA: calls run on the CPU, and a graph runs the function that was captured. Returns what happened."""
    happened = []

    def obstacle(run, arguments, device):
        happened.append("trial")
        run(*arguments)

    def captured_call(run, arguments, device, *, pool):
        happened.append("capture")
        run(*arguments)

        def replay():
            happened.append("replay")
            run(*arguments)

        return replay

    monkeypatch.setattr(captured, "_device", lambda examples: torch.device("cpu"))
    monkeypatch.setattr(capture, "obstacle", obstacle)
    monkeypatch.setattr(capture, "capture", captured_call)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    return happened


def make_step(model, optimizer):
    def step(x, target):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def test_later_inputs_reach_the_captured_step(graphs):
    torch.manual_seed(0)
    model, x, target = nn.Linear(4, 3), torch.randn(5, 4), torch.randn(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    step = capture_step(make_step(model, optimizer), x, target, optimizer=optimizer)
    assert graphs == ["trial", "trial", "capture"]
    x2, target2 = torch.randn(5, 4), torch.randn(5, 3)
    torch.testing.assert_close(step(x2, target2), F.mse_loss(model(x2), target2))
    assert graphs[3:] == ["replay"]


def test_the_examples_stay_as_they_are(graphs):
    x = torch.zeros(3)
    step = capture_step(lambda x: x.add_(1), x)
    step(torch.ones(3))
    assert torch.equal(x, torch.zeros(3))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "takes 1 tensors, got 0"),
        ((torch.ones(2),), r"must be torch.float32 of shape \(3,\) on cpu, got torch.float32 of shape \(2,\)"),
        ((torch.ones(3, dtype=torch.float64),), "got torch.float64"),
        ((3.0,), "got float"),
    ],
    ids=["count", "shape", "dtype", "type"],
)
def test_other_inputs_are_refused(graphs, inputs, message):
    step = capture_step(lambda x: x + 1, torch.ones(3))
    with pytest.raises(UserError, match=message):
        step(*inputs)


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        (capture.REPLAYS, "without the mode 'reduce-overhead'"),
        (capture.WAITS, r"leave out \.item\(\)"),
        ("odd", "as it is"),
    ],
    ids=["replays", "waits", "other"],
)
def test_a_step_that_cannot_be_captured_is_refused_with_the_remedy(graphs, monkeypatch, reason, remedy):
    monkeypatch.setattr(capture, "obstacle", lambda *_: reason)
    with pytest.raises(UserError, match=f"step {reason}.*{remedy}"):
        capture_step(lambda x: x, torch.ones(3))


def test_there_is_no_step_on_a_cpu():
    with pytest.raises(UserError, match="and are cpu: a CUDA graph runs on a GPU alone; call the step itself"):
        capture_step(lambda x: x, torch.ones(3))
    with pytest.raises(UserError, match="and are missing"):
        capture_step(lambda: None)
    with pytest.raises(UserError, match="example 0 is 3"):
        capture_step(lambda x: x, 3)
    with pytest.raises(UserError, match="step is 3"):
        capture_step(3, torch.ones(3))


def test_an_optimizer_that_counts_on_the_host_is_refused(graphs):
    parameters = [nn.Parameter(torch.ones(3))]
    with pytest.raises(UserError, match=r"optimizer is a AdamW that counts its steps on the host.*capturable=True"):
        capture_step(lambda x: x, torch.ones(3), optimizer=torch.optim.AdamW(parameters))
    capture_step(lambda x: x, torch.ones(3), optimizer=torch.optim.AdamW(parameters, capturable=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_step_trains_as_the_step_itself():
    def trained(captures):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Linear(32, 4)).cuda()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, capturable=True)
        compiled = torch.compile(model, backend="mvc", fullgraph=True)
        step = make_step(compiled, optimizer)
        batches = [(torch.randn(8, 16, device="cuda"), torch.randn(8, 4, device="cuda")) for _ in range(4)]
        if captures:
            step = capture_step(step, *batches[0], optimizer=optimizer)
        else:
            for _ in range(captured.TRIALS + 1):
                step(*batches[0])
        losses = [step(*batch).clone() for batch in batches]
        return torch.stack(losses), [each.detach().clone() for each in (*model.parameters(), *model.buffers())]

    torch.testing.assert_close(trained(True), trained(False))
