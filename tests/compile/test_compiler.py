"""compile_model and the check against eager."""

import pytest
import torch

from mvc import compile_model, create_model
from mvc.compile.compiler import check_against_eager, training_step
from mvc.errors import UserError
from mvc.model import functional


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("tiny", drop_path_rate=0.0).eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_report_of_one_graph(model, images):
    with torch.no_grad():
        compiled, report = compile_model(model, images, backend="eager")
        torch.testing.assert_close(compiled(images), model(images))
    assert len(report.graphs) == 1
    assert report.recompiles == 0
    assert report.scans == 2
    assert report.seconds > 0


def test_report_counts_later_recompiles(model, images):
    with torch.no_grad():
        compiled, report = compile_model(model, images, backend="eager")
        compiled(images[:2])
    assert report.recompiles == 1


@pytest.mark.versions
def test_models_in_one_process_do_not_share_dynamo_state():
    """Neither its limit of graphs for one function nor what it learned about sizes that vary."""
    for width in range(2, 2 + 2 * torch._dynamo.config.recompile_limit):
        x = torch.ones(width, width)
        compiled, report = compile_model(torch.nn.Linear(width, 1), x, backend="eager")
        assert len(report.graphs) == 1
        compiled(x[1:])
        assert len(report.graphs) == 2, "a static graph was expected"


@pytest.mark.parametrize(("option", "value"), [("backend", "nvfuser"), ("mode", "fastest")])
def test_unknown_option_is_named(model, images, option, value):
    with pytest.raises(UserError, match=f"{option} is '{value}'; it must be one of"):
        compile_model(model, images, **{option: value})


def test_a_module_that_breaks_the_graph_is_refused(images):
    class Breaks(torch.nn.Module):
        def forward(self, x):
            torch._dynamo.graph_break()
            return x + 1

    with pytest.raises(torch._dynamo.exc.Unsupported):
        compile_model(Breaks(), images, backend="eager")


def test_missing_compiler_is_one_sentence(model, images, monkeypatch):
    monkeypatch.setattr("mvc.compile.torch_private.cpp_compiler", lambda: None)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler.*install"):
        compile_model(model, images)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_check_passes_for_eager_itself(images, dtype, training):
    model = create_model("tiny", drop_path_rate=0.0, dtype=dtype).train(training)
    check = check_against_eager(model, model, images.to(dtype))
    assert check.passed
    assert check.error == pytest.approx(check.eager_error, rel=1e-6)
    assert check.strain <= 0.25, "the tolerance is at least four times eager's error"


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_check_catches_a_small_error(model, images, training):
    model.train(training)
    assert not check_against_eager(model, lambda x: model(x) * (1 + 1e-5), images).passed


def test_check_sees_every_sample(model, images):
    def last_is_lost(x):
        scores = model(x).clone()
        scores[-1] = 0
        return scores

    assert not check_against_eager(model, last_is_lost, images).passed


@pytest.mark.parametrize(
    "name", ["levels.2.blocks.0.mixer.A_log", "levels.3.blocks.0.mixer.dt_proj.bias", "head.weight"]
)
def test_check_sees_every_gradient(model, images, name):
    """Also those that are small beside the others: the gradient of one parameter is lost."""
    model.train()
    lost = dict(model.named_parameters())[name]

    def without_gradient(x):
        params = {**model.tensors(), name: lost.detach()}
        return functional.forward(params, x, model.config, training=True) + 0 * lost.sum()

    check = check_against_eager(model, without_gradient, images)
    assert not check.passed
    assert check.tensor == name


def test_check_leaves_the_model_as_it_was(model, images):
    model.train()
    training_step(model, images)
    gradients = [p.grad.clone() for p in model.parameters()]
    buffers = [b.clone() for b in model.buffers()]
    check_against_eager(model, model, images)
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(model.parameters(), gradients, strict=True))
    assert all(torch.equal(b, buffer) for b, buffer in zip(model.buffers(), buffers, strict=True))
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.slow
def test_compiled_training_serves_other_batches(model, images):
    """With one more graph at most: Inductor's reductions ask whether the batch is above 4."""
    model.train()
    compiled, report = compile_model(model, images, dynamic=True)
    for batch in (images[:2], torch.cat([images] * 6)):
        check = check_against_eager(model, compiled, batch)
        assert check.passed, check
    assert report.recompiles <= 1
    training_step(compiled, images)
    assert all(p.grad is not None for p in model.parameters())
