"""The published arithmetic that figures are compared with: on each of its scans, and on mamba-ssm's op in torch."""

from __future__ import annotations

import copy
import sys
import types

import pytest
import torch

from bench import published, published_scan
from mvc import create_model


def extension():
    """mamba-ssm's, in torch's own operations."""

    def fwd(u, delta, A, B, C, D, z, bias, softplus):
        assert (z, softplus) == (None, True)
        y = published_scan.reference(u, delta, A, B[:, 0], C[:, 0], D, bias)
        return y, u.new_zeros((u.shape[0], u.shape[1], 1, 2 * A.shape[1]), dtype=torch.float32)

    def bwd(u, delta, A, B, C, D, z, bias, grad, states, y, grad_z, softplus, again):
        from mvc.kernels.scan import chunked

        turned = [u.mT, delta.mT, A, B[:, 0].mT.unsqueeze(2), C[:, 0].mT.unsqueeze(2), D, None, bias, None, None]
        last = A.new_zeros(u.shape[0], *A.shape)
        du, ddelta, dA, dB, dC, dD, _, dbias, _ = chunked.selective_scan_backward(grad.mT, last, *turned, True, False)
        dB, dC = (each[:, :, 0].mT.unsqueeze(1).contiguous() for each in (dB, dC))
        return du.mT.contiguous(), ddelta.mT.contiguous(), dA, dB, dC, dD, dbias

    return types.SimpleNamespace(fwd=fwd, bwd=bwd)


@pytest.fixture
def published_models(monkeypatch):
    """The published arithmetic on the recurrence and on mamba-ssm's op, with the same tensors."""
    monkeypatch.setitem(sys.modules, published_scan.EXTENSION, extension())
    torch.manual_seed(0)
    made = [published.create_model("tiny", scan=name, drop_path_rate=0.0) for name in ("reference", "mamba-ssm")]
    made[1].load_state_dict(made[0].state_dict())
    return made


@pytest.mark.parametrize("scan", published_scan.SCANS)
def test_a_published_model_can_be_copied(scan, monkeypatch):
    """As the check against eager does."""
    if scan == "naive":
        pytest.importorskip("triton", reason="triton is not installed")
    monkeypatch.setitem(sys.modules, published_scan.EXTENSION, extension())
    model = copy.deepcopy(published.create_model("tiny", scan=scan))
    assert model.scan is published_scan.find(scan)


def test_the_published_arithmetic_gives_our_scores(published_models):
    ours, x = create_model("tiny"), torch.randn(2, 3, 64, 64)
    ours.load_state_dict(published_models[0].state_dict())
    with torch.no_grad():
        expected, *scores = (model.eval()(x) for model in (ours, *published_models))
    for each in scores:
        torch.testing.assert_close(each, expected)


def test_mamba_ssms_op_is_captured_and_differentiated(published_models):
    x, gradients = torch.randn(2, 3, 64, 64), []
    for model in published_models:
        run = torch.compile(model, backend="aot_eager", fullgraph=True) if gradients else model
        run(x).square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0])
